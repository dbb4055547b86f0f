import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from mvsam3d.errors import BadFile
from mvsam3d.training import meshes
from mvsam3d.training.meshes import LONGEST_SIDE, SKIN, TrainingMesh, signed_distance, solid_grid, surface_samples
from mvsam3d.training.objects.render import Light, crop_intrinsics, look_at

EVEN_LIGHT = Light(np.zeros((0, 7)), np.ones(6))  # as bright from all sides: colours stay what they are


def textured(shape: trimesh.Trimesh, colour: tuple[int, int, int] = (200, 100, 50)) -> TrainingMesh:
    vertices, faces = np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32)
    return TrainingMesh(
        vertices, faces, np.full((len(vertices), 2), 0.5, np.float32), np.full((4, 4, 3), colour, np.uint8)
    )


def box(size: tuple[float, float, float], centre: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    return trimesh.creation.box(size, trimesh.transformations.translation_matrix(centre))


def centres(resolution: int) -> np.ndarray:
    return (np.indices((resolution,) * 3).transpose(1, 2, 3, 0) + 0.5) / resolution - 0.5


@pytest.mark.parametrize("resolution", [16, 32, 48, 64])
def test_solid_cube(resolution: int) -> None:  # closed form: centres nearer than SKIN cells to the cube
    solid = solid_grid(textured(box((0.5, 0.5, 0.5))), resolution)
    out = np.maximum(np.abs(centres(resolution)) - 0.25, 0)
    np.testing.assert_array_equal(solid, np.linalg.norm(out, axis=-1) < SKIN / resolution)


def test_solid_box_in_another_cube() -> None:  # closed form: the rule in that cube's cells, a part of the box beyond it
    cube = np.eye(4)
    cube[:3, :3], cube[:3, 3] = 1.2 * Rotation.from_rotvec([0.2, -0.3, 0.7]).as_matrix(), [0.1, -0.2, 0.05]
    solid = solid_grid(textured(box((0.5, 0.9, 0.6))), 32, cube)
    beyond = np.abs(centres(32) @ cube[:3, :3].T + cube[:3, 3]) - [0.25, 0.45, 0.3]
    distance = np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(axis=-1), 0)
    sure = np.abs(distance - SKIN * 1.2 / 32) > 1e-6
    by_rule = distance < SKIN * 1.2 / 32
    assert solid[sure & by_rule].all()
    assert (solid & ~by_rule)[sure].sum() <= 8  # cells that only a corner of the box touches


def test_solid_ball() -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.4)
    margin = 0.4 - np.linalg.norm(centres(32), axis=-1) + SKIN / 32
    solid = solid_grid(textured(ball), 32)
    sure = np.abs(margin) > 3e-4  # the facets' sagitta: r (1 - cos(edge / r / 2)), edge 0.4 / 32
    np.testing.assert_array_equal(solid[sure], margin[sure] > 0)


def test_open_box_is_filled() -> None:
    whole = textured(box((0.6, 0.6, 0.6)))
    normals = np.cross(*(whole.vertices[whole.faces[:, i]] - whole.vertices[whole.faces[:, 0]] for i in (1, 2)))
    opened = replace(whole, faces=whole.faces[normals[:, 2] > -1e-6])
    assert len(opened.faces) == 10
    np.testing.assert_array_equal(solid_grid(opened, 32), solid_grid(whole, 32))


def test_thick_vessel_stays_hollow() -> None:
    cup = trimesh.util.concatenate(
        [box((0.8, 0.8, 0.1), (0, 0, -0.35))]
        + [box((0.1, 0.8, 0.7), (s * 0.35, 0, 0.05)) for s in (-1, 1)]
        + [box((0.8, 0.1, 0.7), (0, s * 0.35, 0.05)) for s in (-1, 1)]
    )  # walls overlap: inside them the surface is crossed an even number of times
    solid = solid_grid(textured(cup), 32)
    assert not solid[8:24, 8:24, 8:].any()
    assert solid[:, :, 8][4:28, 4].all()
    assert solid[5:27, 5:27, 4].all()  # z = -0.36, amid the bottom


def test_sheets_and_wires_stay() -> None:
    for height in (0.0, 0.004, 0.0156):  # on a border, near it, amid a cell
        sheet = box((0.8, 0.8, 1e-4), (0, 0, height))
        assert solid_grid(textured(sheet), 32).any(axis=2)[4:28, 4:28].all()
    wire = box((0.002, 0.002, 0.9), (0.001, 0.3, 0))
    assert solid_grid(textured(wire), 32).any(axis=(0, 1))[2:30].all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_samples_of_a_ball(mirrored: bool) -> None:
    ball = textured(trimesh.creation.icosphere(subdivisions=4, radius=0.4))
    if mirrored:  # wound inward: normals must come out outward all the same
        ball = replace(ball, faces=np.ascontiguousarray(ball.faces[:, ::-1]))
    points, normals, colours = surface_samples(ball, 4000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.4, atol=2e-3)  # sagitta of the facets
    assert (np.einsum("ij,ij->i", points / 0.4, normals) > 0.99).all()
    np.testing.assert_allclose(colours, np.broadcast_to(np.array([200, 100, 50]) / 255, (4000, 3)), atol=1e-6)
    assert np.abs(points.mean(axis=0)).max() < 4 * 0.4 / np.sqrt(3 * 4000)  # 4 sigma of an even spread


def test_samples_leave_out_what_lies_inside() -> None:
    nested = textured(trimesh.util.concatenate([box((0.9, 0.9, 0.9)), box((0.5, 0.5, 0.5))]))
    points, _, _ = surface_samples(nested, 500, np.random.default_rng(1))
    np.testing.assert_allclose(np.abs(points).max(axis=1), 0.45, atol=1e-6)


def test_signed_distance_of_a_cube() -> None:  # closed form
    cube = textured(box((0.5, 0.6, 0.7)))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 3)).astype(np.float32)
    q = np.abs(points) - np.array([0.25, 0.3, 0.35])
    expected = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)
    np.testing.assert_allclose(signed_distance(cube, points, limit=0.1), np.clip(expected, -0.1, 0.1), atol=1e-6)
    np.testing.assert_allclose(signed_distance(cube, points, limit=2.0), expected, atol=1e-6)


def test_signed_distance_agrees_with_plain_search() -> None:  # twin: all triangles, winding number by solid angles
    shape = trimesh.creation.torus(0.3, 0.1, major_sections=24, minor_sections=12)
    shape.apply_transform(trimesh.transformations.rotation_matrix(0.7, [1, 2, 3]))
    points = np.random.default_rng(1).uniform(-0.45, 0.45, (300, 3)).astype(np.float32)
    _, distance, _ = trimesh.proximity.closest_point_naive(shape, points)
    corners = shape.triangles[None] - points[:, None, None]
    a, b, c = np.moveaxis(corners, 2, 0)
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    winding = np.arctan2((a * np.cross(b, c)).sum(-1), below).sum(axis=1) / (2 * np.pi)
    expected = np.where(winding > 0.5, -distance, distance)
    np.testing.assert_allclose(signed_distance(textured(shape), points, limit=1.0), expected, atol=1e-6)


def test_render_of_a_ball() -> None:
    ball = textured(trimesh.creation.icosphere(subdivisions=5, radius=0.4))
    pose, size = look_at(30.0, 20.0, 4.0, target=(0.0, 0.0, 0.0)), 112
    intrinsics = np.array([[300.0, 0, 56], [0, 300.0, 56], [0, 0, 1]])
    rgb, alpha, depth = meshes.render(ball, intrinsics, pose, size, EVEN_LIGHT)
    radius = 300 * 0.4 / np.sqrt(4.0**2 - 0.4**2)  # of the outline of a ball, in pixels
    assert alpha.sum() == pytest.approx(np.pi * radius**2, rel=0.01)  # a ring of 190 pixels, counted to half a pixel
    assert depth[56, 56] == pytest.approx(3.6, abs=2e-3)
    assert np.isinf(depth[~alpha]).all()
    assert (rgb[alpha] == [200, 100, 50]).all()  # light of one from all sides leaves the colours
    assert (rgb[~alpha] == 0).all()


def test_light_falls_from_its_side_and_casts_a_shadow() -> None:
    shape = trimesh.util.concatenate([box((0.9, 0.9, 0.05), (0, 0, -0.4)), box((0.3, 0.3, 0.05), (0, 0, 0.1))])
    scene, pose = textured(shape, (255, 255, 255)), look_at(0.0, 35.0, 3.0, target=(0.0, 0.0, 0.0))
    intrinsics = crop_intrinsics(scene.vertices, pose, 112)

    def lower_plate(shadow: float) -> np.ndarray:
        light = Light(np.array([[0.0, 0, 1, 0.5, 0.5, 0.5, shadow]]), np.full(6, 0.05))
        rgb, alpha, depth = meshes.render(scene, intrinsics, pose, 112, light)
        v, u = np.nonzero(alpha)
        rays = np.stack([u + 0.5, v + 0.5, np.ones(len(u))], 1) @ np.linalg.inv(intrinsics).T
        points = (rays * depth[v, u, None] - pose[:3, 3]) @ pose[:3, :3]
        under = (points[:, 2] < -0.36) & (np.abs(points[:, :2]).max(axis=1) < 0.12)
        beside = (points[:, 2] > -0.38) & (points[:, 2] < -0.36) & (np.abs(points[:, :2]).max(axis=1) > 0.2)
        bright = rgb[v, u, 0].astype(float)
        assert under.sum() > 20
        return np.array([np.median(bright[under]), np.median(bright[beside])])

    open_, covered = lower_plate(0.0), lower_plate(1.0)
    assert open_[0] == open_[1] == covered[1] > 150
    assert covered[0] < 80


def glb(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(texture).save(picture, "PNG")
    parts = [
        vertices.astype("<f4").tobytes(),
        uv.astype("<f4").tobytes(),
        faces.astype("<u4").tobytes(),
        picture.getvalue(),
    ]
    starts = np.cumsum([0] + [len(part) for part in parts])
    views = [{"buffer": 0, "byteOffset": int(s), "byteLength": len(p)} for s, p in zip(starts, parts)]
    kinds = [(5126, len(vertices), "VEC3"), (5126, len(uv), "VEC2"), (5125, faces.size, "SCALAR")]
    header = {
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2}]}],
        "accessors": [
            {"bufferView": i, "componentType": c, "count": n, "type": t} for i, (c, n, t) in enumerate(kinds)
        ],
        "bufferViews": views,
        "images": [{"bufferView": 3, "mimeType": "image/png"}],
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(parts)
    total = 28 + len(text) + len(binary)
    return (
        struct.pack("<4sII", b"glTF", 2, total)
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(binary), b"BIN\0")
        + binary
    )


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two records of one stored shape, front at -Y, upper half red, lower half blue."""
    shape = box((0.2, 0.5, 1.0))
    uv = np.stack([np.full(8, 0.5), 0.5 - np.asarray(shape.vertices)[:, 2]], axis=1)  # as glTF stores it: v downward
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[:2, :, 0], texture[2:, :, 2] = 255, 255
    (tmp_path / "a.glb").write_bytes(glb(shape.vertices, shape.faces, uv, texture))
    rows = [
        {
            "id": name,
            "set": "ycb",
            "file": "a.glb",
            "category": "box",
            "split": split,
            "texture": "palette",
            "faces": 12,
        }
        for name, split in (("one", "train"), ("two", "val"))
    ]
    (tmp_path / "index.json").write_text(json.dumps(rows))
    return tmp_path


def test_loading(library: Path) -> None:
    (record,) = meshes.load_mesh_index(library)
    assert (record.id, record.nearest, record.realistic) == ("one", True, True)
    assert [row.id for row in meshes.load_mesh_index(library, "val")] == ["two"]
    mesh = meshes.load_training_mesh(library, record)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), LONGEST_SIDE * np.array([0.2, 0.5, 1.0]), rtol=1e-6)
    points, _, colours = surface_samples(mesh, 300, np.random.default_rng(0))
    np.testing.assert_array_equal(colours[:, 0] > 0.5, points[:, 2] > 0)


def test_a_zip_of_the_folder_serves_as_well(library: Path, tmp_path: Path) -> None:
    import shutil

    packed = Path(shutil.make_archive(str(tmp_path.parent / "packed"), "zip", library))
    records = meshes.load_mesh_index(packed, "train")
    np.testing.assert_array_equal(
        meshes.load_training_mesh(packed, records[0]).vertices, meshes.load_training_mesh(library, records[0]).vertices
    )


def test_augmentation(library: Path) -> None:
    (record,) = meshes.load_mesh_index(library)
    plain = meshes.load_training_mesh(library, record)
    changed = [meshes.load_training_mesh(library, record, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(changed[0].vertices, changed[1].vertices)  # law: the seed says it all
    assert not np.array_equal(changed[0].vertices, changed[2].vertices)
    for mesh in changed:
        extent = np.ptp(mesh.vertices, axis=0)
        assert extent.max() == pytest.approx(LONGEST_SIDE, rel=1e-6)
        ratio = extent / np.ptp(plain.vertices, axis=0)
        assert ratio.max() / ratio.min() <= 1.25 / 0.8 + 1e-6
        assert np.linalg.det(mesh.vertices[:3] - mesh.vertices[3:6]) != 0
        # Whatever the mirror did, faces are still wound outward.
        volume = np.linalg.det(mesh.vertices[mesh.faces].astype(np.float64)).sum() / 6
        assert volume == pytest.approx(np.prod(extent), rel=1e-5)


def test_broken_files_are_named(library: Path) -> None:
    (record,) = meshes.load_mesh_index(library)
    (library / "a.glb").write_bytes((library / "a.glb").read_bytes()[:300])
    with pytest.raises(BadFile, match=r"a\.glb"):
        meshes.load_training_mesh(library, record)
    with pytest.raises(BadFile, match=r"index\.json"):
        meshes.load_mesh_index(library / "nowhere")
