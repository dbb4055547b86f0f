"""The same cameras in every kind of file come back the same; broken and hostile files give one clear error each."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d.errors import BadFile
from mvsam3d.geometry.cameras import project
from mvsam3d.geometry.rotations import matrix_from_quaternion, quaternion_from_matrix
from mvsam3d.io.cameras import load_cameras, read_cameras, write_cameras
from mvsam3d.types import Camera
from tests.parity import FOLDER, fixture, require

NAMES = ("0", "photo 1", "2")
HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # Depth Anything 3 counts from the first pixel's centre


def cameras() -> list[Camera]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(3):
        full = np.eye(4)
        full[:3, :3] = matrix_from_quaternion(torch.from_numpy(rng.normal(size=4))).numpy()
        full[:3, 3] = rng.normal(size=3)
        found.append(Camera(np.array([[300.0 + i, 0, 81.5], [0, 310.0, 60.25], [0, 0, 1]]), full, 160, 120))
    return found


def write_depth_anything(folder: Path) -> Path:
    np.savez(
        folder / "da3_output.npz",
        extrinsics=np.stack([c.camera_from_world[:3] for c in cameras()]).astype(np.float32),
        intrinsics=np.stack([c.intrinsics - HALF_PIXEL for c in cameras()]).astype(np.float32),
        depth=np.ones((3, 120, 160), np.float32),
        image_files=np.array([f"scene/images/{name}.png" for name in NAMES]),
    )
    return folder / "da3_output.npz"


def write_ours(folder: Path) -> Path:
    views = [
        {
            "image": f"images/{n}.jpg",
            "K": c.intrinsics.tolist(),
            "w2c": c.camera_from_world.tolist(),
            "width": 160,
            "height": 120,
        }
        for n, c in zip(NAMES, cameras())
    ]
    (folder / "cameras.json").write_text(json.dumps({"views": views}))
    return folder


def write_transforms(folder: Path) -> Path:
    frames = []
    for name, camera in zip(NAMES, cameras()):
        k = camera.intrinsics
        world = np.linalg.inv(np.diag([1.0, -1, -1, 1]) @ camera.camera_from_world)
        lens = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
        frames.append({"file_path": f"./images/{name}.png", "transform_matrix": world.tolist(), **lens})
    (folder / "transforms.json").write_text(json.dumps({"w": 160, "h": 120, "frames": frames}))
    return folder / "transforms.json"


def numbers(camera: Camera) -> tuple[list[float], list[float], list[float]]:
    rotation = torch.from_numpy(camera.camera_from_world[:3, :3])
    k = camera.intrinsics
    lens = [float(value) for value in (k[0, 0], k[1, 1], k[0, 2], k[1, 2])]
    return quaternion_from_matrix(rotation).tolist(), camera.camera_from_world[:3, 3].tolist(), lens


def write_colmap_text(folder: Path) -> Path:
    lenses, images = ["# cameras"], ["# images", "# two lines each"]
    for i, (name, camera) in enumerate(zip(NAMES, cameras()), 1):
        quaternion, translation, lens = numbers(camera)
        lenses.append(f"{i} PINHOLE 160 120 {' '.join(map(repr, lens))}")
        images += [
            f"{i} {' '.join(map(repr, quaternion + translation))} {i} {name}.jpg",
            "" if i == 3 else "1.5 2.5 -1",
        ]
    (folder / "cameras.txt").write_text("\n".join(lenses) + "\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    return folder


def write_colmap_binary(folder: Path) -> Path:
    lenses, images = struct.pack("<Q", 3), struct.pack("<Q", 3)
    for i, (name, camera) in enumerate(zip(NAMES, cameras()), 1):
        quaternion, translation, lens = numbers(camera)
        lenses += struct.pack("<iiQQ4d", i, 1, 160, 120, *lens)
        images += struct.pack("<i7di", i, *quaternion, *translation, i) + f"{name}.jpg".encode() + b"\0"
        images += struct.pack("<Q", 2) + struct.pack("<ddq", 1, 2, -1) * 2
    (folder / "cameras.bin").write_bytes(lenses)
    (folder / "images.bin").write_bytes(images)
    return folder


WRITERS = (write_depth_anything, write_ours, write_transforms, write_colmap_text, write_colmap_binary)


@pytest.mark.parametrize("write", WRITERS)
def test_every_kind_holds_the_same_cameras(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    order = (2, 0, 1)
    loaded = load_cameras(write(tmp_path), [NAMES[i] for i in order])
    point = np.array([0.3, -0.2, 0.1])
    for camera, i in zip(loaded, order):
        wanted = cameras()[i]
        assert (camera.width, camera.height) == (160, 120)
        np.testing.assert_allclose(camera.camera_from_world, wanted.camera_from_world, atol=1e-6)
        np.testing.assert_allclose(project(camera, point)[0], project(wanted, point)[0], rtol=1e-4)


def test_nerf_without_size_or_focal_length(
    tmp_path: Path,
) -> None:  # closed form: 90 degrees see as wide as they are far
    frame = {"file_path": "r_0", "transform_matrix": np.eye(4).tolist()}
    content = {"camera_angle_x": np.pi / 2, "w": 100, "h": 80, "frames": [frame]}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    (camera,) = load_cameras(tmp_path, ["r_0"])
    pixel, depth = project(camera, np.array([1.0, 1.0, -2.0]))  # right, up and before a camera that looks along -Z
    np.testing.assert_allclose(pixel, [75, 15])
    assert depth == 2


def test_recorded_depth_anything() -> None:
    f = fixture("multiview", "da3_tiny")
    found = read_cameras(require(FOLDER / "multiview" / "da3_output_tiny.npz"))
    assert list(found) == ["0", "1", "2"]
    for i, camera in enumerate(found.values()):
        np.testing.assert_allclose(camera.camera_from_world[:3], f.inputs["extrinsics"][i].numpy())
        np.testing.assert_allclose(camera.intrinsics, f.inputs["intrinsics"][i].numpy() + HALF_PIXEL)


def test_photos_without_a_camera_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no camera for the photos 7, 8; it has cameras for 0, photo 1, 2"):
        load_cameras(write_ours(tmp_path), ["0", "7", "8"])


def damaged(folder: Path, **changes: object) -> Path:
    """Our JSON with entries of its first view changed."""
    path = write_ours(folder) / "cameras.json"
    content = json.loads(path.read_text())
    content["views"][0].update(changes)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"K": [[1, 2], [3, 4]]}, "shape"),
        ({"K": "hello"}, "matrix"),
        ({"K": [[-300, 0, 80], [0, 300, 60], [0, 0, 1]]}, "positive"),
        ({"w2c": (2 * np.eye(4)).tolist()}, "rotation"),
        ({"w2c": np.diag([1, 1, -1, 1]).tolist()}, "rotation"),
        ({"w2c": [[float("nan")] * 4] * 4}, "finite"),
        ({"width": "wide"}, "number"),
        ({"image": "2.jpg"}, "two photos"),
    ],
)
def test_cameras_that_are_none(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadFile, match=words):
        read_cameras(damaged(tmp_path, **changes))


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", extrinsics=np.array([{"a": 1}], dtype=object), intrinsics=1, depth=1, image_files=1)
    with pytest.raises(BadFile, match="plain npz"):
        read_cameras(tmp_path / "evil.npz")
    (tmp_path / "raw.npz").write_bytes(pickle.dumps({"extrinsics": 1}))
    with pytest.raises(BadFile, match="plain npz"):
        read_cameras(tmp_path / "raw.npz")


def test_truncated_and_boastful_models(tmp_path: Path) -> None:
    write_colmap_binary(tmp_path)
    whole = (tmp_path / "images.bin").read_bytes()
    for length in (4, 40, len(whole) - 100):
        (tmp_path / "images.bin").write_bytes(whole[:length])
        with pytest.raises(BadFile, match="cut off"):
            read_cameras(tmp_path)
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 1 << 60))
    with pytest.raises(BadFile, match="announces"):
        read_cameras(tmp_path)


def test_lenses_that_are_no_pinholes(tmp_path: Path) -> None:
    write_colmap_text(tmp_path)
    text = (tmp_path / "cameras.txt").read_text()
    (tmp_path / "cameras.txt").write_text(text.replace("PINHOLE", "OPENCV_FISHEYE"))
    with pytest.raises(BadFile, match="undistort"):
        read_cameras(tmp_path)
    (tmp_path / "cameras.txt").write_text(text.replace("3 PINHOLE", "4 PINHOLE"))
    with pytest.raises(BadFile, match=r"camera 3 is not in cameras\.txt"):
        read_cameras(tmp_path)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no cameras")
    for path, words in (
        (tmp_path / "notes.txt", "not from '.txt'"),
        (tmp_path, "holds none of"),
        (tmp_path / "x", "not there"),
    ):
        with pytest.raises(BadFile, match=words):
            read_cameras(path)
    for content in ("{", "[]", "[" * 100_000):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(BadFile):
            read_cameras(tmp_path / "a.json")


def test_written_cameras_come_back_as_they_were(tmp_path: Path) -> None:
    write_cameras(tmp_path / "found.json", dict(zip(NAMES, cameras())))
    back = load_cameras(tmp_path / "found.json", NAMES)
    for camera, expected in zip(back, cameras(), strict=True):
        assert np.array_equal(camera.intrinsics, expected.intrinsics)
        assert np.array_equal(camera.camera_from_world, expected.camera_from_world)
        assert (camera.width, camera.height) == (160, 120)


def test_writing_replaces_nothing_and_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(BadFile, match="not overwritten"):
        write_cameras(tmp_path / "there.json", {"0": cameras()[0]})
    assert (tmp_path / "there.json").read_text() == "mine"
    with pytest.raises(BadFile, match="no folder"):
        write_cameras(tmp_path / "nowhere" / "a.json", {"0": cameras()[0]})
