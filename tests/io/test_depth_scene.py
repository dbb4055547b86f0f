"""The scene of depth maps against the recorded one, and read back."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.errors import BadFile
from mvsam3d.io.depth import DepthPrediction
from mvsam3d.io.depth_scene import confident, write_depth_scene
from tests.parity import FOLDER, Fixture, fixture, require


def recorded() -> tuple[Fixture, DepthPrediction]:
    f = fixture("multiview", "da3_tiny")
    maps = {name: f.inputs[name].numpy() for name in ("depth", "conf", "extrinsics", "intrinsics")}
    images = np.random.default_rng(0).integers(0, 256, (*maps["depth"].shape, 3), np.uint8)
    return f, DepthPrediction(maps["depth"], maps["conf"], maps["extrinsics"], maps["intrinsics"], images)


def test_recorded_scene(tmp_path: Path) -> None:
    """Alignment, points and their order, cameras and their colours of the file that Depth Anything 3 wrote."""
    f, prediction = recorded()
    f.check("hf_alignment", torch.from_numpy(write_depth_scene(tmp_path / "scene.glb", prediction)))
    file = require(FOLDER / "multiview" / "da3_scene_tiny.glb")
    assert described(tmp_path / "scene.glb") == described(file)
    ours, theirs = trimesh.load(tmp_path / "scene.glb"), trimesh.load(file)
    assert list(ours.geometry) == list(theirs.geometry)
    assert [type(shape) for shape in ours.geometry.values()] == [type(shape) for shape in theirs.geometry.values()]
    np.testing.assert_allclose(ours.metadata["hf_alignment"], theirs.metadata["hf_alignment"], atol=1e-5)
    assert isinstance(ours.metadata["hf_alignment"][0], list)
    f.check("scene_points", torch.from_numpy(np.asarray(ours.geometry["geometry_0"].vertices)))
    for name in ("geometry_1", "geometry_2", "geometry_3"):
        np.testing.assert_allclose(edges(ours.geometry[name]), edges(theirs.geometry[name]), atol=2e-5)


def edges(path: trimesh.path.Path3D) -> np.ndarray:
    """The 8 line segments, sorted: their order and direction mean nothing."""
    pairs = np.asarray(path.vertices).reshape(8, 2, 3)
    pairs = np.stack([sorted(pair.tolist(), key=lambda end: [round(x, 3) for x in end]) for pair in pairs])
    return np.array(sorted(pairs.tolist(), key=lambda pair: [round(x, 3) for end in pair for x in end]))


def described(path: Path) -> list[tuple[object, ...]]:
    """How each mesh of a GLB is stored: kind of primitive, and type, count and last colour of its attributes."""
    content = path.read_bytes()
    document = json.loads(content[20 : 20 + struct.unpack("<I", content[12:16])[0]])
    assert document["scenes"][0]["extras"].keys() == {"hf_alignment"}
    found: list[tuple[object, ...]] = []
    for node in document["nodes"]:
        (primitive,) = document["meshes"][node["mesh"]]["primitives"]
        place, colour = (document["accessors"][primitive["attributes"][key]] for key in ("POSITION", "COLOR_0"))
        kind = (colour["componentType"], colour["type"], colour["normalized"])
        found.append((node["name"], primitive["mode"], place["count"], kind))
        if primitive["mode"] == 1:
            found[-1] += (colour["min"], colour["max"])
    return found


def test_colours_follow_their_points(tmp_path: Path) -> None:
    _, prediction = recorded()
    write_depth_scene(tmp_path / "scene.glb", prediction)
    cloud = trimesh.load(tmp_path / "scene.glb").geometry["geometry_0"]
    np.testing.assert_array_equal(cloud.colors[:, :3], prediction.images[confident(prediction.confidence)])


def test_fewer_points_are_some_of_all(tmp_path: Path) -> None:
    _, prediction = recorded()
    write_depth_scene(tmp_path / "all.glb", prediction)
    every = trimesh.load(tmp_path / "all.glb")
    for name in ("a", "b"):
        write_depth_scene(tmp_path / f"{name}.glb", prediction, most_points=500)
    some = trimesh.load(tmp_path / "a.glb")
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    points = {tuple(point) for point in every.geometry["geometry_0"].vertices.tolist()}
    kept = some.geometry["geometry_0"].vertices.tolist()
    assert len(kept) == 500
    assert len({tuple(point) for point in kept} & points) == 500
    assert some.metadata["hf_alignment"] == every.metadata["hf_alignment"]  # of all points


def test_threshold_is_held_between_percentiles() -> None:  # closed form on 0, 1, ..., 99 hundredths
    steps = np.arange(100, dtype=np.float32).reshape(1, 10, 10) / 100
    assert confident(steps).sum() == 10  # 1.05 is above all: the best 10 %
    assert confident(steps + 1).sum() == 60  # 1.05 is below the 40th percentile
    assert confident(steps + 0.5).sum() == 45  # 1.05 itself


def test_no_depth(tmp_path: Path) -> None:
    _, prediction = recorded()
    empty = DepthPrediction(
        np.full_like(prediction.depth, np.nan),
        prediction.confidence,
        prediction.camera_from_world,
        prediction.intrinsics,
        prediction.images,
    )
    with pytest.raises(BadFile, match="no pixel"):
        write_depth_scene(tmp_path / "scene.glb", empty)
    assert not list(tmp_path.iterdir())
