"""Depth npz: the recorded file, a round trip, matching by name, and hostile files with one clear error each."""

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mvsam3d.errors import BadFile
from mvsam3d.geometry.cameras import unproject
from mvsam3d.io.depth import load_depth, read_depth, write_depth_npz
from mvsam3d.types import Camera
from tests.parity import FOLDER, fixture, require

VIEWS, H, W = 3, 14, 28
FILES = tuple(f"scene/images/{name}.png" for name in ("0", "photo 1", "10"))


def arrays() -> dict[str, np.ndarray]:
    """A valid file's arrays, all different in every view."""
    rng = np.random.default_rng(0)
    k = np.tile(np.array([[30.0, 0, 14], [0, 32, 7], [0, 0, 1]], np.float32), (VIEWS, 1, 1))
    w2c = np.tile(np.eye(4, dtype=np.float32)[:3], (VIEWS, 1, 1))
    w2c[:, 2, 3] = np.arange(VIEWS)
    return {
        "depth": rng.uniform(1, 3, (VIEWS, H, W)).astype(np.float32),
        "extrinsics": w2c,
        "intrinsics": k,
        "image_files": np.array(FILES),
        "process_res": np.array(28),
    }


def saved(folder: Path, **changes: np.ndarray | None) -> Path:
    """That file with some arrays changed, or left out (None)."""
    content = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez(folder / "da3_output.npz", **content)
    return folder / "da3_output.npz"


def test_recorded_file() -> None:
    f = fixture("multiview", "da3_tiny")
    views = read_depth(require(FOLDER / "multiview" / "da3_output_tiny.npz"))
    assert views.names == ("0", "1", "2")
    assert views.process_res == 504
    f.check("pointmaps", torch.from_numpy(views.pointmaps_camera))
    np.testing.assert_array_equal(views.depth, f.inputs["depth"].numpy())
    for camera, w2c in zip(views.cameras, f.inputs["extrinsics"].numpy()):
        np.testing.assert_allclose(camera.camera_from_world[:3], w2c)
        assert (camera.width, camera.height) == (42, 28)


@pytest.mark.parametrize("with_points", [True, False])
def test_points_lie_on_the_rays_of_their_pixels(tmp_path: Path, with_points: bool) -> None:
    """The recorded points are those that our camera sees at the centres of our pixels, given or unprojected here."""
    content = dict(np.load(require(FOLDER / "multiview" / "da3_output_tiny.npz")))
    if not with_points:
        del content["pointmaps_sam3d"]
    np.savez(tmp_path / "a.npz", **content)
    views = read_depth(tmp_path / "a.npz")
    rows, columns = np.indices(views.depth.shape[1:])
    pixels = np.stack([columns, rows], -1) + 0.5
    for camera, depth, points in zip(views.cameras, views.depth, views.pointmaps_camera):
        at_origin = Camera(camera.intrinsics, np.eye(4), camera.width, camera.height)
        np.testing.assert_allclose(unproject(at_origin, pixels, depth.astype(np.float64)), points, atol=1e-5)


def test_written_file_is_the_recorded_one(tmp_path: Path) -> None:
    """Keys, shapes, types and values of the public system's own file."""
    with np.load(require(FOLDER / "multiview" / "da3_output_tiny.npz")) as recorded:
        write_depth_npz(
            tmp_path / "da3_output.npz",
            depth=recorded["depth"],
            camera_from_world=recorded["extrinsics"],
            intrinsics=recorded["intrinsics"],
            image_files=[str(file) for file in recorded["image_files"]],
            process_res=int(recorded["process_res"]),
        )
        with np.load(tmp_path / "da3_output.npz") as written:
            assert set(written) == set(recorded)
            for key in recorded:
                assert (written[key].dtype, written[key].shape) == (recorded[key].dtype, recorded[key].shape), key
                if key == "image_files":
                    assert written[key].tolist() == recorded[key].tolist()
                else:
                    np.testing.assert_allclose(written[key], recorded[key], rtol=1e-6, atol=1e-6)
    with zipfile.ZipFile(tmp_path / "da3_output.npz") as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def test_both_shapes_of_extrinsics(tmp_path: Path) -> None:
    short = read_depth(saved(tmp_path))
    full = np.tile(np.eye(4, dtype=np.float32), (VIEWS, 1, 1))
    full[:, :3] = arrays()["extrinsics"]
    long = read_depth(saved(tmp_path, extrinsics=full))
    for a, b in zip(short.cameras, long.cameras):
        np.testing.assert_array_equal(a.camera_from_world, b.camera_from_world)


def test_views_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path)
    views = load_depth(path, ["10", "0"])
    assert views.names == ("10", "0")
    np.testing.assert_array_equal(views.depth, arrays()["depth"][[2, 0]])
    assert [camera.camera_from_world[2, 3] for camera in views.cameras] == [2, 0]
    assert views.pointmaps_camera.shape == (2, H, W, 3)
    with pytest.raises(BadFile, match=r"no depth for the photos 7, 1; it has 0, photo 1, 10"):
        load_depth(path, ["0", "7", "1"])


def test_missing_depth_is_nan(tmp_path: Path) -> None:
    depth = arrays()["depth"]
    depth[0, 0, :4] = [np.inf, 0, -1, np.nan]
    views = read_depth(saved(tmp_path, depth=depth))
    assert np.isnan(views.depth[0, 0, :4]).all()
    assert np.isnan(views.pointmaps_camera[0, 0, :4]).all()
    assert np.isfinite(views.pointmaps_camera[0, 0, 4:]).all()
    assert np.isfinite(views.pointmaps_camera[1:]).all()


def nan_view() -> np.ndarray:
    depth = arrays()["depth"]
    depth[1] = np.nan
    return depth


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": None}, "no depth"),
        ({"process_res": None}, "no process_res"),
        ({"image_files": None}, "no image_files"),
        ({"depth": nan_view()}, "depth of photo 1 holds no finite"),
        ({"pointmaps_sam3d": np.full((VIEWS, 3, H, W), np.nan)}, "pointmaps_sam3d of 0, photo 1, 10 holds no"),
        ({"pointmaps_sam3d": np.ones((VIEWS, H, W, 3))}, r"pointmaps_sam3d of shape \(3, 14, 28, 3\)"),
        ({"depth": np.ones((VIEWS, H, W), np.int32)}, "type int32"),
        ({"depth": np.ones((VIEWS, H * W), np.float32)}, "not N maps"),
        ({"depth": np.ones((2, H, W), np.float32)}, "not N maps"),
        ({"extrinsics": np.ones((VIEWS, 3, 3), np.float32)}, "extrinsics of shape"),
        ({"extrinsics": np.ones((2, 3, 4), np.float32)}, "extrinsics of shape"),
        ({"extrinsics": np.ones((VIEWS, 3, 4), np.float32)}, "rotation"),
        ({"intrinsics": np.ones((VIEWS, 4, 4), np.float32)}, "intrinsics of shape"),
        ({"intrinsics": np.full((VIEWS, 3, 3), np.nan, np.float32)}, "not finite"),
        ({"intrinsics": np.array([["a"] * 9] * 3).reshape(3, 3, 3)}, "intrinsics of shape"),
        ({"image_files": np.array(["0.png", "a/0.jpg", "1.png"])}, "two photos 0"),
        ({"image_files": np.array([1, 2, 3])}, "not N maps"),
        ({"image_files": np.array(FILES, object)}, "pickled"),
        ({"depth": np.array([{"a": 1}], object)}, "pickled"),
        ({"process_res": np.array(-1)}, "process_res = -1"),
        ({"process_res": np.array([504])}, "process_res of shape"),
        ({"process_res": np.array(7)}, "process_res = 7"),
    ],
)
def test_files_that_are_none(tmp_path: Path, changes: dict[str, np.ndarray | None], words: str) -> None:
    with pytest.raises(BadFile, match=words):
        read_depth(saved(tmp_path, **changes))


def with_entry(folder: Path, key: str, header: dict[str, object], content: bytes) -> Path:
    """The valid file with one entry replaced by a handmade one."""
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays().items():
            file = io.BytesIO()
            if name == key:
                np.lib.format.write_array_header_1_0(file, header)
                file.write(content)
            else:
                np.save(file, array)
            archive.writestr(f"{name}.npy", file.getvalue())
    return path


def test_boastful_headers_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of 12 TB over no data, and maps that unpack to more than is read from a small file."""
    huge = with_entry(tmp_path, "depth", {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)}, b"1234")
    with pytest.raises(BadFile, match="announces 12,000,000,000,000 bytes"):
        read_depth(huge)
    monkeypatch.setattr("mvsam3d.io.depth.MOST_PIXELS", 3 << 20)
    side = 1025
    bomb = {"descr": "<f4", "fortran_order": False, "shape": (3, side, side)}
    path = with_entry(tmp_path, "depth", bomb, bytes(4 * 3 * side * side))
    assert path.stat().st_size < 1 << 16
    tracemalloc.start()
    with pytest.raises(BadFile, match="at most 3,145,728 in all"):
        read_depth(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20  # bytes; the array alone has 12 MB


def test_arrays_over_the_limit_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvsam3d.io.npz.LARGEST_ARRAY", 4000)
    with pytest.raises(BadFile, match=r"depth\.npy has 4,832 bytes"):
        read_depth(saved(tmp_path))


def test_damaged_archives(tmp_path: Path) -> None:
    whole = saved(tmp_path).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:30], b"", pickle.dumps({"depth": 1}), b"PK\x03\x04" + bytes(99)):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(BadFile, match="plain npz"):
            read_depth(tmp_path / "a.npz")
    flipped = bytearray(whole)
    place = whole.index(arrays()["depth"].tobytes()[:64])
    flipped[place] ^= 255
    (tmp_path / "a.npz").write_bytes(bytes(flipped))
    with pytest.raises(BadFile, match="plain npz"):  # the archive's checksum
        read_depth(tmp_path / "a.npz")
    with pytest.raises(BadFile, match="not there"):
        read_depth(tmp_path / "none.npz")
