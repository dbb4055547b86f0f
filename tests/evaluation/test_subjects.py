"""Files of true objects: what is read, what is said to be wrong with them, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvsam3d.errors import BadFile, BadScene
from mvsam3d.evaluation.mesh_files import read_mesh_file
from mvsam3d.evaluation.subjects import (
    Capture,
    SubjectFile,
    read_real_subject,
    read_subject,
    read_subjects,
    sized,
    subject_files,
)
from mvsam3d.geometry.cameras import centred_intrinsics, project
from mvsam3d.io.glb import write_glb
from mvsam3d.io.gltf import packed
from mvsam3d.rendering.meshes import sample_texture
from mvsam3d.types import Camera, Mesh, Photo
from tests.evaluation.shapes import box

RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8).repeat(8, 0).repeat(8, 1)  # left red, right green
TRIANGLE = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))


def read(path: Path, up="y"):
    return read_subject(SubjectFile(path.stem, path, up))


def written(path: Path, mesh: Mesh) -> Path:
    write_glb(path, mesh)
    return path


def test_a_file_with_y_up_stands_with_z_up(tmp_path: Path) -> None:
    tall = box((0, 0, 0), (1, 1, 3))  # write_glb turns +Z to +Y, so the file is 3 high along its y
    path = written(tmp_path / "tall.glb", tall)
    np.testing.assert_allclose(np.ptp(read(path).mesh.vertices, axis=0), [1, 1, 3])
    np.testing.assert_allclose(np.ptp(read(path, "z").mesh.vertices, axis=0), [1, 3, 1])


def test_a_closed_box_knows_its_inside_and_has_nothing_wrong(tmp_path: Path) -> None:
    coloured = replace(box(), vertex_colours=np.full((8, 3), 0.5))
    subject = read(written(tmp_path / "box.glb", coloured))
    assert subject.notes == ()
    assert subject.solid is not None
    np.testing.assert_array_equal(
        subject.solid(np.array([[0.1, 0.2, 0.3], [0.6, 0, 0], [0, 0, -0.7]])), [True, False, False]
    )


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    lid_off = read(written(tmp_path / "open.glb", replace(box(), faces=box().faces[:-2])))
    assert lid_off.notes == ("no colours: shown grey", "not closed: 4 open edges")
    assert lid_off.solid is None
    inward = read(written(tmp_path / "inward.glb", replace(box(), faces=box().faces[:, ::-1])))
    assert "inside out: its faces were turned" in inward.notes
    a, b, c = np.moveaxis(inward.mesh.vertices[inward.mesh.faces], 1, 0)
    assert (np.einsum("fi,fi->f", np.cross(b - a, c - a), a + b + c) > 0).all()  # outward of a box around the origin
    flat = read(written(tmp_path / "flat.glb", TRIANGLE))
    assert any(note.startswith("flat") for note in flat.notes)


def test_a_million_faces_are_kept_and_named(tmp_path: Path) -> None:
    many = replace(box(), faces=np.tile(box().faces, (84_000, 1)))
    path = written(tmp_path / "many.glb", many)
    subject = read(path)
    assert len(subject.mesh.faces) == 12 * 84_000
    assert "1,008,000 faces: slow to judge" in subject.notes


def test_vertices_that_no_face_uses_do_not_count_for_the_box(tmp_path: Path) -> None:
    stray = replace(box(), vertices=np.concatenate([box().vertices, [[9.0, 9, 9]]]))
    assert np.ptp(read(written(tmp_path / "stray.glb", stray)).mesh.vertices) == 1


def test_broken_files_are_named_and_the_others_read(tmp_path: Path) -> None:
    written(tmp_path / "good.glb", box())
    (tmp_path / "cut.glb").write_bytes((tmp_path / "good.glb").read_bytes()[:200])
    (tmp_path / "point.ply").write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
                                        "property float z\nend_header\n0 0 0\n")  # fmt: skip
    (tmp_path / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "dot.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    (tmp_path / "notes.txt").write_text("no mesh")
    found = read_subjects(tmp_path)
    assert [subject.name for subject in found.subjects] == ["good"]
    assert {broken.name for broken in found.broken} == {"cut", "point", "nan", "dot"}
    assert all(broken.name in broken.reason for broken in found.broken)


def test_files_of_one_stem_keep_names_apart(tmp_path: Path) -> None:
    written(tmp_path / "a.glb", box())
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert [file.name for file in subject_files(tmp_path)] == ["a.glb", "a.obj"]


def index(folder: Path, **changed) -> None:
    row = {"set": "s", "id": "a", "file": "a.glb", "split": "val"} | changed
    (folder / "index.json").write_text(json.dumps([row, row | {"id": "b", "split": "train"}]))


def test_a_split_of_an_index(tmp_path: Path) -> None:
    index(tmp_path)
    assert [file.name for file in subject_files(tmp_path, split="val")] == ["s-a"]
    assert [file.name for file in subject_files(tmp_path)] == ["s-a", "s-b"]
    with pytest.raises(BadFile, match="no split 'test': it has train, val"):
        subject_files(tmp_path, split="test")


@pytest.mark.parametrize("file", ["../a.glb", "/etc/passwd", "x/../../a.glb"])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, file: str) -> None:
    index(tmp_path, file=file)
    with pytest.raises(BadFile, match="outside the folder"):
        subject_files(tmp_path)


# looks


OBJ = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl skin\nf 1/1 2/2 3/3\n"
MTL = "newmtl skin\nKd 1 1 1\nmap_Kd {}\n"


def colour_at(mesh: Mesh, uv: tuple[float, float], face: int = 0) -> list[int]:
    """Of a point of a face by the shares of its first and second corners."""
    assert mesh.uv is not None
    assert mesh.texture is not None
    a, b, c = mesh.uv[mesh.faces[face]]
    spot = uv[0] * a + uv[1] * b + (1 - sum(uv)) * c
    return np.round(255 * sample_texture(mesh.texture, spot[None], nearest=True)[0]).astype(int).tolist()


def test_the_texture_of_an_obj_is_found_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(OBJ)
    (tmp_path / "a.mtl").write_text(MTL.format("skin.png"))
    Image.fromarray(RED_GREEN).save(tmp_path / "skin.png")
    mesh, notes = read_mesh_file(tmp_path / "a.obj")
    assert notes == ()
    assert colour_at(mesh, (0.7, 0.1)) == [255, 0, 0]  # u = 0.1
    assert colour_at(mesh, (0.1, 0.8)) == [0, 255, 0]  # u = 0.8


@pytest.mark.parametrize("name", ["gone.png", "../secret.png", "/etc/hostname"])
def test_a_missing_texture_is_named_and_no_other_folder_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    Image.fromarray(RED_GREEN).save(tmp_path / "secret.png")
    (folder / "a.obj").write_text(OBJ)
    (folder / "a.mtl").write_text(MTL.format(name))
    mesh, notes = read_mesh_file(folder / "a.obj")
    assert mesh.texture is None
    assert [note for note in notes if note.startswith("texture missing") and name in note]


def test_missing_materials_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(OBJ)
    mesh, notes = read_mesh_file(tmp_path / "a.obj")
    assert (mesh.texture, mesh.vertex_colours) == (None, None)
    assert notes == ("texture missing: a.mtl is not beside the mesh",)


def test_colours_at_the_vertices_of_a_ply(tmp_path: Path) -> None:
    rows = "0 0 0 255 0 0\n1 0 0 255 0 0\n0 1 0 0 0 255\n"
    header = "".join(f"property float {axis}\n" for axis in "xyz") + "".join(
        f"property uchar {c}\n" for c in ("red", "green", "blue")
    )
    faces = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 3\n{header}{faces}{rows}3 0 1 2\n")
    mesh, notes = read_mesh_file(tmp_path / "a.ply", "z")
    assert notes == ()
    np.testing.assert_allclose(mesh.vertex_colours, [[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def several(path: Path, *materials: dict, uv=((0, 0), (1, 0), (0, 1)), external: str | None = None) -> Path:
    """A GLB of one triangle for each material; material 'texture' is RED_GREEN."""
    from mvsam3d.io.gltf import Builder, png_bytes

    builder = Builder()
    picture = builder._view(png_bytes(RED_GREEN), None)
    entry = {"uri": external} if external else {"bufferView": picture, "mimeType": "image/png"}
    builder._append("textures", {"source": builder._append("images", entry)})
    for i, material in enumerate(materials):
        attributes = {
            "POSITION": builder.positions(TRIANGLE.vertices + np.array([0, 0, i])),
            "TEXCOORD_0": builder.array(np.array(uv, np.float32), "VEC2"),
        }
        number = builder._append("materials", {"pbrMetallicRoughness": material})
        builder.node(str(i), {"attributes": attributes, "indices": builder.indices(TRIANGLE.faces), "material": number})
    path.write_bytes(builder.content())
    return path


TEXTURED = {"baseColorTexture": {"index": 0}}


def test_textures_and_flat_colours_are_joined(tmp_path: Path) -> None:
    blue = {"baseColorFactor": [0, 0, 1, 1]}
    mesh, notes = read_mesh_file(
        several(tmp_path / "a.glb", TEXTURED, blue, {**TEXTURED, "baseColorFactor": [1, 0, 0, 1]})
    )
    assert notes == ()
    assert colour_at(mesh, (0.7, 0.1)) == [255, 0, 0]  # red left, green right
    assert colour_at(mesh, (0.1, 0.8)) == [0, 255, 0]
    assert colour_at(mesh, (0.3, 0.3), face=1) == [0, 0, 255]
    assert colour_at(mesh, (0.1, 0.8), face=2) == [0, 0, 0]  # green through a red tint


def test_flat_colours_alone_are_colours_of_vertices(tmp_path: Path) -> None:
    mesh, _ = read_mesh_file(
        several(tmp_path / "a.glb", {"baseColorFactor": [0, 0, 1, 1]}, {"baseColorFactor": [1, 0, 0, 1]})
    )
    assert mesh.texture is None
    np.testing.assert_allclose(mesh.vertex_colours, [[0, 0, 1]] * 3 + [[1, 0, 0]] * 3)


def test_a_texture_repeats_beyond_its_border(tmp_path: Path) -> None:
    mesh, notes = read_mesh_file(several(tmp_path / "a.glb", TEXTURED, uv=((3, 0), (4, 0), (3, 1))))
    assert notes == ()
    assert colour_at(mesh, (0.1, 0.8)) == [0, 255, 0]
    assert colour_at(mesh, (0.7, 0.1)) == [255, 0, 0]
    _, notes = read_mesh_file(several(tmp_path / "b.glb", TEXTURED, uv=((0, 0), (4, 0), (0, 1))))
    assert notes == ("1 faces repeat their texture within themselves: its border is shown there instead",)


def test_a_texture_outside_a_glb_is_missing(tmp_path: Path) -> None:
    mesh, notes = read_mesh_file(several(tmp_path / "a.glb", TEXTURED, external="skin.png"))
    assert mesh.texture is None
    assert len(notes) == 1
    assert notes[0].startswith("texture missing")


def test_not_a_mesh_file(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"read from \.glb, \.obj, \.ply"):
        read_mesh_file(tmp_path / "a.stl")
    (tmp_path / "a.glb").write_bytes(packed({"asset": {"version": "2.0"}}, b""))
    with pytest.raises(BadFile, match="no triangles"):
        read_mesh_file(tmp_path / "a.glb")


# real scenes


def scene(folder: Path, suggested: dict) -> Path:
    views = []
    for sub in ("images", "masks/thing"):
        (folder / sub).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((20, 30, 3), 10 * i, np.uint8)).save(folder / f"images/{i}.png")
        mask = np.zeros((20, 30), np.uint8)
        mask[5:15, 5:15] = 255
        Image.fromarray(mask).save(folder / f"masks/thing/{i}.png")
        pose = np.eye(4)
        pose[2, 3] = i + 1
        size = {"width": 30, "height": 20, "K": centred_intrinsics(30, 20).tolist(), "w2c": pose.tolist()}
        views.append({"image": f"images/{2 - i}.png", **size})  # cameras.json counts in an order of its own
    (folder / "cameras.json").write_text(json.dumps({"views": views, "suggested_inputs": suggested}))
    return folder


def test_a_real_scene(tmp_path: Path) -> None:
    folder = scene(tmp_path, {"2": [0, 1]})
    subject, capture, inputs = read_real_subject(folder)
    assert subject is None
    assert inputs == {2: (2, 1)}  # positions among the photos 0, 1, 2
    assert [camera.camera_from_world[2, 3] for camera in capture.cameras] == [3, 2, 1]
    assert capture.background == "scene"
    written(folder / "mesh.glb", box((0, 0, 0), (1, 1, 3)))
    subject, _, _ = read_real_subject(folder)
    assert subject is not None
    np.testing.assert_allclose(np.ptp(subject.mesh.vertices, axis=0), [1, 3, 1])  # as it stands in the file


def test_a_real_scene_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadScene, match=r"no cameras\.json"):
        read_real_subject(tmp_path)
    with pytest.raises(BadFile, match="suggested_inputs does not name views"):
        read_real_subject(scene(tmp_path, {"1": [7]}))


def test_smaller_photos_show_the_same() -> None:
    rgb = np.zeros((40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[20:30, 12:24] = rgb[20:30, 12:24] = True
    camera = Camera(centred_intrinsics(60, 40), np.eye(4), 60, 40)
    small = sized(Capture((Photo("a", 200 * rgb, mask),), (camera,)), 30)
    assert small.photos[0].rgb.shape == (20, 30, 3)
    expected = np.zeros((20, 30), bool)
    expected[10:15, 6:12] = True
    np.testing.assert_array_equal(small.photos[0].mask, expected)
    np.testing.assert_array_equal(small.photos[0].rgb[12, 8], [200] * 3)
    point = np.array([[0.1, 0.2, 2.0]])
    np.testing.assert_allclose(project(small.cameras[0], point)[0] * 2, project(camera, point)[0])
