import json
import math
import struct

import numpy as np
import pytest
import trimesh

from mvsam3d.errors import BadFile
from mvsam3d.io import gltf, scenes
from mvsam3d.io.gltf import packed
from mvsam3d.io.scenes import Lines, Node, Points, Scene, alignment, read_scene, transformed_mesh, write_scene
from mvsam3d.types import Mesh
from tests.io.test_glb import FACE, TRIANGLE, coloured, document, repacked, textured, validated
from tests.parity import FOLDER, fixture, require

TINY = FOLDER / "multiview" / "da3_scene_tiny.glb"


def everything():
    random = np.random.default_rng(0)
    return Scene(
        (
            Node("cloud", Points(random.random((5, 3)), random.random((5, 3)))),
            Node("grey", Points(random.random((2, 3)))),
            Node("path", Lines(random.random((4, 3)), np.array([[0, 1], [3, 2]]), random.random((4, 3)))),
            Node("skin", textured(seed=1)),
            Node("other skin", textured(seed=2)),
            Node("paint", coloured()),
        ),
        "here",
        {"there_from_here": np.diag([2.0, 2.0, 2.0, 1.0])},
    )


def test_scene_of_depth_anything():
    case = fixture("multiview", "da3_tiny")
    scene = read_scene(require(TINY))
    cloud, *paths = scene.nodes
    np.testing.assert_array_equal(cloud.shape.positions.astype(np.float32), case.outputs["scene_points"].numpy())
    np.testing.assert_allclose(scene.scene_from_world, case.outputs["hf_alignment"].numpy(), atol=1e-6)  # float32 there
    assert [type(node.shape) for node in paths] == [Lines] * 3
    assert [node.shape.ends.shape for node in paths] == [(8, 2)] * 3  # a pyramid has 8 edges


def test_written_again_another_reader_sees_the_same(tmp_path):
    write_scene(tmp_path / "a.glb", read_scene(require(TINY)))
    before, after = trimesh.load(TINY), trimesh.load(tmp_path / "a.glb")
    assert list(before.geometry) == list(after.geometry)
    for name, geometry in before.geometry.items():
        np.testing.assert_array_equal(after.geometry[name].vertices, geometry.vertices)
    colours = [np.asarray(scene.geometry["geometry_0"].colors) / 255 for scene in (before, after)]
    np.testing.assert_allclose(colours[1] / colours[1].max(), colours[0], atol=0.003)  # 8 bits there, 16 here
    assert after.metadata["hf_alignment"] == before.metadata["hf_alignment"]


def test_round_trip(tmp_path):
    scene = everything()
    write_scene(tmp_path / "a.glb", scene)
    back = read_scene(tmp_path / "a.glb")
    assert [node.name for node in back.nodes] == [node.name for node in scene.nodes]
    assert back.frame == "here"
    np.testing.assert_array_equal(back.matrices["there_from_here"], scene.matrices["there_from_here"])
    for ours, theirs in zip(scene.nodes, back.nodes, strict=True):
        assert type(ours.shape) is type(theirs.shape)
        for name, value in vars(ours.shape).items():
            stored = getattr(theirs.shape, name)
            assert (stored is None) == (value is None), name
            if value is not None:
                np.testing.assert_allclose(stored, value, atol=1e-4)  # colours have 16 bits
    write_scene(tmp_path / "b.glb", scene)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_khronos_validator(tmp_path):
    write_scene(tmp_path / "a.glb", everything())
    (issues,) = validated([tmp_path / "a.glb"])
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


def test_a_scene_without_alignment_stands_in_the_first_camera(tmp_path, caplog):
    camera = np.eye(4)
    camera[:3, 3] = (1, 2, 3)
    scene = Scene((Node("a", Points(np.zeros((1, 3)))),))
    np.testing.assert_array_equal(alignment(scene, camera) @ (0, 0, 0, 1), (1, -2, -3, 1))
    assert "hf_alignment" in caplog.text
    own = Scene(scene.nodes, "scene", {"hf_alignment": np.diag([3.0, 3, 3, 1])})
    np.testing.assert_array_equal(alignment(own, camera), np.diag([3.0, 3, 3, 1]))


def test_a_mirrored_mesh_still_looks_outward():
    ball = trimesh.creation.icosphere(1)
    turned = transformed_mesh(Mesh(ball.vertices, ball.faces), np.diag([-2.0, 2, 2, 1]))
    assert trimesh.Trimesh(turned.vertices, turned.faces, process=False).volume == pytest.approx(8 * ball.volume)


def edited(tmp_path, change):
    write_scene(tmp_path / "a.glb", everything())
    content = (tmp_path / "a.glb").read_bytes()
    body = document(content)
    change(body)
    (tmp_path / "a.glb").write_bytes(repacked(content, body))
    return tmp_path / "a.glb"


def extras(value):
    return lambda body: body["scenes"][0].update(extras={"hf_alignment": value})


BROKEN = {
    "another buffer": (lambda body: body["buffers"][0].update(uri="http://host/a.bin"), "outside itself"),
    "another image": (lambda body: body["images"][0].update(uri="/etc/passwd"), "outside itself"),
    "strip": (lambda body: body["meshes"][2]["primitives"][0].update(mode=3), "strips"),
    "lines outside": (lambda body: body["accessors"][6].update(count=10**8), "outside its data"),
    "too few colours": (lambda body: body["accessors"][1].update(count=4), "as many colours"),
    "NaN in the matrix": (extras([[math.nan] * 4] * 4), "hf_alignment"),
    "no matrix": (extras("identity"), "not a sound GLB"),
    "a short matrix": (extras([[1, 0, 0, 0]]), "4 x 4"),
    "a ragged matrix": (extras([[1], [0, 0]]), "not a sound GLB"),
    "a shear": (extras([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "more than turn"),
    "flat": (extras([[0, 0, 0, 0]] * 3 + [[0, 0, 0, 1]]), "more than turn"),
    "extras of another kind": (lambda body: body["scenes"][0].update(extras=[1]), "not a sound GLB"),
    "nothing": (lambda body: body["scenes"][0].update(nodes=[]), "shows nothing"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_scenes(kind, tmp_path):
    change, message = BROKEN[kind]
    with pytest.raises(BadFile, match=message):
        read_scene(edited(tmp_path, change))


@pytest.mark.parametrize(
    ("module", "limit", "value", "message"),
    [
        (gltf, "FILE_LIMIT", 100, "at most 100"),
        (gltf, "COUNT_LIMIT", 8, "more than 8"),
        (gltf, "TEXEL_LIMIT", 40, "more than 40 pixels"),  # two textures of 32
        (scenes, "MOST_NODES", 5, "more than 5"),
    ],
)
def test_limits(module, limit, value, message, tmp_path, monkeypatch):
    write_scene(tmp_path / "a.glb", everything())
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(BadFile, match=message):
        read_scene(tmp_path / "a.glb")


def test_nothing_broken_is_written(tmp_path):
    nan = Scene((Node("a", Points(np.full((2, 3), math.nan))),))
    for scene, message in (
        (nan, "2 of 2"),
        (Scene(()), "nothing to show"),
        (Scene((Node("m", Mesh(TRIANGLE, FACE + 1)),)), "vertices 1 to 3"),
    ):
        with pytest.raises(BadFile, match=message):
            write_scene(tmp_path / "a.glb", scene)
    assert not any(tmp_path.iterdir())


def test_binary_chunk_may_be_missing(tmp_path):
    content = packed({"asset": {"version": "2.0"}, "scenes": [{"nodes": []}]}, b"")
    length = struct.unpack_from("<I", content, 12)[0]
    (tmp_path / "a.glb").write_bytes(struct.pack("<III", gltf.MAGIC, 2, 20 + length) + content[12 : 20 + length])
    assert json.loads(content[20 : 20 + length])["scenes"]
    with pytest.raises(BadFile, match="shows nothing"):
        read_scene(tmp_path / "a.glb")
