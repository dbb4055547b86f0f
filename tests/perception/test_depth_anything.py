"""Photos -> depth folder, with a network that knows the answer: a slanted wall seen by two cameras."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image

from mvsam3d.errors import BadPhoto, BadScene, InvalidOption
from mvsam3d.io.depth import DepthPrediction, read_depth
from mvsam3d.perception.depth_anything import DepthOptions, depth_anything, found_weights, photo_files, run_depth
from mvsam3d.perception.depth_flags import main, options_from_flags
from mvsam3d.perception.depth_pictures import depth_picture

ROOT = Path(__file__).parents[2]
NORMAL, DISTANCE = np.array([0.2, -0.1, 1.0]), 3.0  # the wall: NORMAL . p = DISTANCE in the world
SIDE = 56


def wall(photos: Sequence[np.ndarray], process_res: int) -> DepthPrediction:
    """What a perfect network says: photo i is taken from (0.3 i, 0, 0)."""
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    k = np.array([[60.0, 0, SIDE / 2], [0, 60, SIDE / 2], [0, 0, 1]])
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(k).T
    centres = np.array([[0.3 * i, 0, 0] for i in range(len(photos))])
    depth = np.stack([(DISTANCE - NORMAL @ centre) / (rays @ NORMAL) for centre in centres])
    w2c = np.tile(np.eye(4)[:3], (len(photos), 1, 1))
    w2c[:, :, 3] = -centres
    images = [np.asarray(Image.fromarray(photo).resize((SIDE, SIDE))) for photo in photos]
    shape = (len(photos), SIDE, SIDE)
    return DepthPrediction(
        depth.astype(np.float32),
        np.full(shape, 1.2345, np.float32),
        w2c.astype(np.float32),
        np.tile(k, (len(photos), 1, 1)).astype(np.float32),
        np.stack(images),
    )


def scene(folder: Path, names: Sequence[str] = ("0.png", "2.png", "10.jpg")) -> Path:
    """Photos of one colour each, with masks in the two places where people keep them."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks" / "chair").mkdir(parents=True)
    for i, name in enumerate(names):
        Image.new("RGB", (64, 48), (40 * i, 200, 30)).save(folder / "images" / name)
        Image.new("L", (64, 48), 255).save(folder / "masks" / "chair" / name)
    Image.new("L", (64, 48), 255).save(folder / "images" / "0_mask.png")
    Image.new("RGB", (64, 48)).save(folder / "cover.png")  # beside images/, not of the set
    return folder


def test_everything_is_written_and_lies_on_the_wall(tmp_path: Path) -> None:
    out = tmp_path / "da3"
    run_depth(DepthOptions(scene(tmp_path / "scene"), out, process_res=56), network=wall)
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert files == [
        ".mvsam3d-run",
        "da3_output.npz",
        "depth_vis/0000.jpg",
        "depth_vis/0001.jpg",
        "depth_vis/0002.jpg",
        "exports/mini_npz/results.npz",
        "inference.log",
        "scene.glb",
        "scene.jpg",
    ]
    views = read_depth(out / "da3_output.npz")
    assert views.names == ("0", "2", "10")
    for camera, points in zip(views.cameras, views.pointmaps_camera):
        world = points - camera.camera_from_world[:3, 3]
        np.testing.assert_allclose(world @ NORMAL, DISTANCE, rtol=1e-5)
    drawn = trimesh.load(out / "scene.glb")
    world_from_scene = np.linalg.inv(np.array(drawn.metadata["hf_alignment"]))
    cloud = drawn.geometry["geometry_0"]
    assert len(cloud.vertices) == 3 * SIDE * SIDE
    points = cloud.vertices @ world_from_scene[:3, :3].T + world_from_scene[:3, 3]
    np.testing.assert_allclose(points @ NORMAL, DISTANCE, rtol=1e-5)
    np.testing.assert_allclose(cloud.colors[[0, -1], 0], [0, 80], atol=3)  # JPEG
    np.testing.assert_allclose(np.median(cloud.vertices, axis=0), 0, atol=1e-5)
    with np.load(out / "exports/mini_npz/results.npz") as mini:
        assert set(mini) == {"depth", "conf", "extrinsics", "intrinsics"}
        np.testing.assert_array_equal(mini["conf"], np.float32(1.23))
    with Image.open(out / "depth_vis/0001.jpg") as pair:
        assert pair.size == (2 * SIDE, SIDE)
        left = np.asarray(pair)[:, : SIDE - 8].reshape(-1, 3)
        np.testing.assert_allclose(left, np.broadcast_to([40, 200, 30], left.shape), atol=6)


def test_without_pictures(tmp_path: Path) -> None:
    out = tmp_path / "da3"
    run_depth(DepthOptions(scene(tmp_path / "scene"), out, no_vis=True), network=wall)
    files = {file.name for file in out.rglob("*") if file.is_file()}
    assert files == {".mvsam3d-run", "da3_output.npz", "results.npz", "inference.log"}


def test_photos_are_shown_upright(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    Image.new("RGB", (64, 48)).save(folder / "0.jpg", exif=exif)
    seen: list[tuple[tuple[int, ...], int]] = []

    def look(photos: Sequence[np.ndarray], process_res: int) -> DepthPrediction:
        seen.extend((photo.shape, process_res) for photo in photos)
        return wall(photos, process_res)

    run_depth(DepthOptions(folder, tmp_path / "out", process_res=280), network=look)
    assert seen == [((64, 48, 3), 280)]


def test_failures_leave_nothing(tmp_path: Path) -> None:
    def blind(photos: Sequence[np.ndarray], process_res: int) -> DepthPrediction:
        found = wall(photos, process_res)
        found.depth[1] = np.nan
        return found

    options = DepthOptions(scene(tmp_path / "scene"), tmp_path / "out" / "da3")
    with pytest.raises(BadPhoto, match=r"no depth in 2\.png"):
        run_depth(options, network=blind)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidOption, match="process_res = 3"):
        run_depth(DepthOptions(options.photos, options.out, process_res=3), network=wall)


def test_which_files_are_photos(tmp_path: Path) -> None:
    found = photo_files(scene(tmp_path / "a", ("10.png", "9.jpg", "chair.webp", "img2.PNG", "img10.jpeg")))
    assert [file.name for file in found] == ["9.jpg", "10.png", "chair.webp", "img2.PNG", "img10.jpeg"]
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("1.png", "1_mask.png", "0.png", "notes.txt", ".hidden.png"):
        Image.new("L", (8, 8)).save(flat / name, format="PNG")
    assert [file.name for file in photo_files(flat)] == ["0.png", "1.png"]
    Image.new("L", (8, 8)).save(flat / "1.jpg")
    with pytest.raises(BadScene, match=r"1\.jpg and .*1\.png have one name"):
        photo_files(flat)
    (flat / "1.jpg").rename(flat / "2.bmp")
    with pytest.raises(BadPhoto, match=r"\.bmp photos are not read"):
        photo_files(flat)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadScene, match="no photos"):
        photo_files(tmp_path / "empty")
    with pytest.raises(BadScene, match="not a folder"):
        photo_files(tmp_path / "none")


def weights(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_where_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the public script; a download only by name."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(
        InvalidOption, match=r"Depth-Anything-3/checkpoints/DA3NESTED-GIANT-LARGE, .*snapshots .*--model_path"
    ):
        found_weights(None)
    cached = weights(tmp_path / "hf/hub/models--depth-anything--DA3NESTED-GIANT-LARGE/snapshots/1234")
    assert found_weights(None) == str(cached)
    second = weights(tmp_path / "Depth-Anything-3/checkpoints/DA3-GIANT-LARGE")
    assert found_weights(None) == str(second)
    first = weights(tmp_path / "Depth-Anything-3/checkpoints/DA3NESTED-GIANT-LARGE")
    assert found_weights(None) == str(first)
    assert found_weights(str(second)) == str(second)
    assert found_weights("depth-anything/DA3-LARGE") == "depth-anything/DA3-LARGE"
    for wrong in ("nowhere", str(tmp_path), "../hf"):
        with pytest.raises(InvalidOption, match="model_path"):
            found_weights(wrong)


def test_without_the_package(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidOption, match=r"not installed\. In this Python: git clone .*checkpoints/DA3NESTED-GIANT-LARGE"
    ):
        run_depth(DepthOptions(scene(tmp_path / "scene"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class FakeModel:
    """The package's model, as documented."""

    asked: tuple[object, ...] = ()

    @classmethod
    def from_pretrained(cls, path: str) -> "FakeModel":
        cls.asked = (path,)
        return cls()

    def to(self, device: str) -> "FakeModel":
        if device != "cpu":
            raise AssertionError("Torch not compiled with CUDA enabled")
        return self

    def eval(self) -> "FakeModel":
        return self

    def inference(self, image: list[np.ndarray], process_res: int) -> SimpleNamespace:
        found = wall(image, process_res)
        full = np.tile(np.eye(4, dtype=np.float32), (len(image), 1, 1))
        full[:, :3] = found.camera_from_world
        return SimpleNamespace(
            depth=found.depth,
            conf=found.confidence,
            extrinsics=full,
            intrinsics=found.intrinsics,
            processed_images=found.images,
        )


def test_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, api = ModuleType("depth_anything_3"), ModuleType("depth_anything_3.api")
    package.__spec__ = importlib_spec(tmp_path / "Depth-Anything-3/src/depth_anything_3/__init__.py")
    api.DepthAnything3 = FakeModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "depth_anything_3", package)
    monkeypatch.setitem(sys.modules, "depth_anything_3.api", api)
    monkeypatch.chdir(scene(tmp_path / "scene"))
    folder = weights(tmp_path / "Depth-Anything-3/checkpoints/DA3-GIANT-LARGE")  # of the checkout it is installed from
    run_depth(DepthOptions(tmp_path / "scene", tmp_path / "out", no_vis=True))
    assert FakeModel.asked == (str(folder),)
    assert read_depth(tmp_path / "out" / "da3_output.npz").names == ("0", "2", "10")
    with pytest.raises(InvalidOption, match=r"onto cuda .*CUDA enabled"):
        depth_anything(None, "cuda")
    monkeypatch.setattr(FakeModel, "inference", lambda *_, **__: SimpleNamespace(depth=np.ones((3, 4, 4)), conf=None))
    with pytest.raises(InvalidOption, match="gives no conf, extrinsics"):
        run_depth(DepthOptions(tmp_path / "scene", tmp_path / "other"))


def importlib_spec(origin: Path) -> SimpleNamespace:
    return SimpleNamespace(origin=str(origin))


def test_both_spellings_of_the_flags(tmp_path: Path) -> None:
    old = options_from_flags(["--input_path", "data/chair", "--output_path", "out"])
    new = options_from_flags(["--image_dir", "data/chair", "--output_dir", "out"])
    assert old == new == DepthOptions(Path("data/chair"), Path("out"))
    rest = ["--model_path", "w", "--process_res", "280", "--no_vis", "--device", "cuda:1"]
    assert options_from_flags(["--image_dir", str(tmp_path), *rest]) == DepthOptions(
        tmp_path, Path("da3_outputs") / tmp_path.name, "w", 280, no_vis=True, device="cuda:1"
    )


def test_script_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input_path", str(tmp_path), "--output_path", str(tmp_path / "out")]) == 1
    assert "holds no photos" in capsys.readouterr().err
    done = subprocess.run([sys.executable, ROOT / "scripts" / "run_da3.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--input_path" in done.stdout


def test_colours_of_depth() -> None:
    """Closed form: even steps in 1 / z from blue to red, missing depth black."""
    near = np.linspace(0.1, 1.1, 101, dtype=np.float32)
    depth = (1 / near)[None].copy()
    picture = depth_picture(depth)
    np.testing.assert_array_equal(depth_picture(8 * depth), picture)  # units do not matter
    assert picture[0, -1, 0] > 90 > picture[0, -1, 2]
    assert picture[0, 0, 0] < 90
    assert len(np.unique(picture[0], axis=0)) > 90
    depth[0, 50] = np.nan
    assert depth_picture(depth)[0, 50].tolist() == [0, 0, 0]
    assert not depth_picture(np.full((2, 2), np.nan, np.float32)).any()
