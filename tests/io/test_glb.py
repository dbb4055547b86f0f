import json
import math
import os
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import GLB_FROM_OBJECT
from mvsam3d.io import gltf
from mvsam3d.io.glb import glb_bytes, linear_from_srgb, read_glb, srgb_from_linear, vertex_normals, write_glb
from mvsam3d.types import Mesh
from tests.parity import fixture, names

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.25]], np.float32)
FACE = np.array([[0, 1, 2]])


def textured(vertices=TRIANGLE, faces=FACE, seed=0):
    random = np.random.default_rng(seed)
    texture = random.integers(0, 256, (8, 4, 3)).astype(np.uint8)
    return Mesh(vertices, faces, uv=random.random((len(vertices), 2), np.float32), texture=texture)


def coloured(vertices=TRIANGLE, faces=FACE, seed=0):
    return Mesh(vertices, faces, vertex_colours=np.random.default_rng(seed).random((len(vertices), 3), np.float32))


def document(content: bytes):
    return json.loads(content[20 : 20 + struct.unpack_from("<I", content, 12)[0]])


def test_colour_maths():  # the standard's own points
    np.testing.assert_allclose(linear_from_srgb(np.array([0, 0.5, 1, 0.04045])), [0, 0.21404114, 1, 0.04045 / 12.92])
    np.testing.assert_allclose(srgb_from_linear(np.array([0, 0.21404114, 1])), [0, 0.5, 1], atol=1e-8)
    every = np.arange(256) / 255
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(every)), every, atol=1e-6)  # the constants' 5 digits


def test_textured_round_trip(tmp_path):
    mesh = textured()
    write_glb(tmp_path / "a.glb", mesh)
    back = read_glb(tmp_path / "a.glb")
    np.testing.assert_array_equal(back.vertices, mesh.vertices)
    np.testing.assert_array_equal(back.faces, mesh.faces)
    np.testing.assert_allclose(back.uv, mesh.uv, atol=1e-7)  # 1 - (1 - v) in float32
    np.testing.assert_array_equal(back.texture, mesh.texture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.glb"]


def test_axes_and_material(tmp_path):  # read by another reader
    mesh = textured()
    write_glb(tmp_path / "a.glb", mesh)
    loaded = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    x, y, z = mesh.vertices.T
    np.testing.assert_array_equal(loaded.vertices, np.stack([x, z, -y], axis=1))
    np.testing.assert_allclose(loaded.visual.uv, mesh.uv, atol=1e-7)
    material = loaded.visual.material
    assert (material.metallicFactor, material.roughnessFactor) == (0, 1)
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture), mesh.texture)
    normal = np.cross(mesh.vertices[1] - mesh.vertices[0], mesh.vertices[2] - mesh.vertices[0])
    nx, ny, nz = normal / np.linalg.norm(normal)
    np.testing.assert_allclose(loaded.vertex_normals, [[nx, nz, -ny]] * 3, atol=1e-6)


def test_extras_name_the_frame_and_the_way_back(tmp_path):
    mesh = textured()
    write_glb(tmp_path / "a.glb", mesh, matrices={"camera_from_object": np.diag([2.0, 2, 2, 1])})
    scene = trimesh.load(tmp_path / "a.glb", process=False)
    assert scene.metadata["frame"] == "glb"
    matrix = np.array(scene.metadata["object_from_glb"])
    (stored,) = scene.geometry.values()
    np.testing.assert_array_equal(stored.vertices @ matrix[:3, :3].T, mesh.vertices)
    np.testing.assert_array_equal(scene.metadata["camera_from_object"], np.diag([2.0, 2, 2, 1]))


def test_a_file_in_metres_says_how_to_come_back(tmp_path):
    mesh = textured()
    write_glb(tmp_path / "a.glb", mesh, metres_per_unit=0.25)
    scene = trimesh.load(tmp_path / "a.glb", process=False)
    (stored,) = scene.geometry.values()
    np.testing.assert_allclose(np.sort(stored.extents), np.sort(0.25 * np.ptp(mesh.vertices, axis=0)), rtol=1e-6)
    matrix = np.array(scene.metadata["object_from_glb"])
    np.testing.assert_allclose(stored.vertices @ matrix[:3, :3].T, mesh.vertices, rtol=1e-6)


def test_vertex_colours_are_linear(tmp_path):
    mesh = coloured()
    write_glb(tmp_path / "a.glb", mesh)
    content = (tmp_path / "a.glb").read_bytes()
    body = document(content)
    accessor = body["accessors"][body["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = 28 + struct.unpack_from("<I", content, 12)[0] + body["bufferViews"][accessor["bufferView"]]["byteOffset"]
    stored = np.frombuffer(content, "<u2", 12, start).reshape(3, 4) / 65535
    np.testing.assert_allclose(stored[:, :3], linear_from_srgb(mesh.vertex_colours), atol=1e-5)  # 16 bits
    assert (stored[:, 3] == 1).all()
    np.testing.assert_allclose(read_glb(tmp_path / "a.glb").vertex_colours, mesh.vertex_colours, atol=1e-4)


@pytest.mark.parametrize("name", names("stage2", "glb_vertex_color"))
def test_public_export(name, tmp_path):
    case = fixture("stage2", name)
    colours = case.inputs["vertex_attrs"][:, :3].numpy()
    mesh = Mesh(case.inputs["vertices"].numpy(), case.inputs["faces"].numpy(), vertex_colours=colours)
    write_glb(tmp_path / "a.glb", mesh, raw_colours=True)
    loaded = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    tolerance = case.meta["tolerance"]
    np.testing.assert_allclose(loaded.vertices, case.outputs["vertices"].numpy(), **tolerance)
    np.testing.assert_array_equal(loaded.faces, case.outputs["faces"].numpy())
    np.testing.assert_array_equal(loaded.visual.vertex_colors, case.outputs["vertex_colors"].numpy())
    content = document((tmp_path / "a.glb").read_bytes())
    assert "materials" not in content
    assert set(content["meshes"][0]["primitives"][0]["attributes"]) == {"POSITION", "COLOR_0"}
    assert [node["name"] for node in content["nodes"]] == ["geometry_0"]
    assert [content["accessors"][i]["componentType"] for i in range(3)] == [5126, 5121, 5125]


def test_equal_meshes_give_equal_bytes():
    assert glb_bytes(textured()) == glb_bytes(textured())
    assert glb_bytes(textured()) != glb_bytes(textured(seed=1))


def test_normals_of_a_cube_split_at_its_edges():  # flat sides, although the corners stand at the same places
    box = trimesh.creation.box()
    mesh = Mesh(box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(12, 3))
    np.testing.assert_allclose(vertex_normals(mesh), np.repeat(box.face_normals, 3, axis=0), atol=1e-6)


def test_normals_run_on_across_a_seam():  # a split sphere has the normals of the whole
    ball = trimesh.creation.icosphere(3)
    split = Mesh(ball.vertices[ball.faces].reshape(-1, 3), np.arange(len(ball.faces) * 3).reshape(-1, 3))
    whole = vertex_normals(Mesh(ball.vertices, ball.faces))
    np.testing.assert_allclose(vertex_normals(split), whole[ball.faces].reshape(-1, 3), atol=1e-6)
    assert (whole * ball.vertices).sum(axis=1).min() > 0.999


BROKEN = {
    "empty": (Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64)), "empty"),
    "no faces": (Mesh(TRIANGLE, np.empty((0, 3), np.int64)), "empty"),
    "NaN position": (Mesh(TRIANGLE * math.nan, FACE), "positions of 3 of 3"),
    "NaN colour": (Mesh(TRIANGLE, FACE, vertex_colours=TRIANGLE * math.nan), "colours of 3"),
    "infinite uv": (Mesh(TRIANGLE, FACE, uv=TRIANGLE[:, :2] + math.inf), "texture coordinates of 3"),
    "index too large": (Mesh(TRIANGLE, FACE + 1), "vertices 1 to 3"),
    "index negative": (Mesh(TRIANGLE, FACE - 1), "vertices -1 to 1"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_meshes(kind, tmp_path):
    mesh, message = BROKEN[kind]
    with pytest.raises(BadFile, match=message):
        write_glb(tmp_path / "a.glb", mesh)
    assert not any(tmp_path.iterdir())


def grid_mesh(side: int) -> Mesh:
    u, v = np.meshgrid(np.linspace(0, 1, side, dtype=np.float32), np.linspace(0, 1, side, dtype=np.float32))
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    a = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    faces = np.concatenate([np.stack([a, a + 1, a + side], 1), np.stack([a + 1, a + side + 1, a + side], 1)])
    return Mesh(np.concatenate([uv, uv[:, :1] ** 2], axis=1), faces, uv=uv, texture=np.full((4, 4, 3), 99, np.uint8))


def test_more_vertices_than_16_bits_count(tmp_path):
    mesh = grid_mesh(260)
    assert len(mesh.vertices) > 65_535
    write_glb(tmp_path / "a.glb", mesh)
    back = read_glb(tmp_path / "a.glb")
    np.testing.assert_array_equal(back.faces, mesh.faces)
    np.testing.assert_array_equal(trimesh.load(tmp_path / "a.glb", force="mesh", process=False).faces, mesh.faces)


def test_placed_by_nodes(tmp_path):
    """Two nodes with the same triangle, one mirrored: moved, turned (90 degrees about x: y to z), its winding kept."""
    content = glb_bytes(coloured())
    body = document(content)
    half = math.sqrt(0.5)
    body["nodes"] = [
        {"mesh": 0, "scale": [1, 1, -1]},
        {"children": [2], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": [half, 0, 0, half]},
    ]
    body["scenes"] = [{"nodes": [0, 1]}]
    path = tmp_path / "a.glb"
    path.write_bytes(repacked(content, body))
    back = read_glb(path, z_up=True)
    x, y, z = (TRIANGLE @ GLB_FROM_OBJECT[:3, :3].T).T
    np.testing.assert_allclose(back.vertices[:3], np.stack([x, y, -z], axis=1), atol=1e-7)
    np.testing.assert_allclose(back.vertices[3:], np.stack([x + 1, 2 - z, 3 + y], axis=1), atol=1e-7)
    np.testing.assert_array_equal(back.faces, [[2, 1, 0], [3, 4, 5]])
    assert back.vertex_colours.shape == (6, 3)


def repacked(content, body):
    text = json.dumps(body).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + struct.unpack_from("<I", content, 12)[0] :]
    return struct.pack("<IIIII", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def changed(**changes):
    def change(body):
        for key, value in changes.items():
            *path, last = key.split("__")
            target = body
            for step in path:
                target = target[int(step) if step.isdecimal() else step]
            target[last] = value

    return change


HOSTILE_DOCUMENTS = {
    "count": changed(accessors__0__count=10**12),
    "negative count": changed(accessors__0__count=-1),
    "count of another type": changed(accessors__0__count="3"),
    "offset": changed(accessors__0__byteOffset=10**9),
    "view outside": changed(bufferViews__0__byteLength=10**9, accessors__0__count=10**7),
    "stride": changed(bufferViews__0__byteStride=1),
    "negative view": changed(bufferViews__0__byteOffset=-12),
    "component": changed(accessors__0__componentType=1),
    "sparse": changed(accessors__0__sparse={}),
    "no meshes": changed(meshes=[]),
    "loop": changed(nodes=[{"children": [0]}]),
    "twice": changed(nodes=[{"children": [1, 1]}, {"mesh": 0}]),
    "negative node": changed(scenes=[{"nodes": [-1]}]),
    "bad matrix": changed(nodes=[{"mesh": 0, "matrix": [1]}]),
    "NaN matrix": changed(nodes=[{"mesh": 0, "scale": [math.nan] * 3}]),
    "nothing placed": changed(nodes=[{}]),
    "draco": changed(extensionsRequired=["KHR_draco_mesh_compression"]),
    "image outside": changed(images=[{"bufferView": 99}]),
    "image is none": changed(images=[{"bufferView": 0}]),
}


@pytest.mark.parametrize("kind", HOSTILE_DOCUMENTS)
def test_hostile_documents(kind, tmp_path):
    content = glb_bytes(textured())
    body = document(content)
    HOSTILE_DOCUMENTS[kind](body)
    (tmp_path / "a.glb").write_bytes(repacked(content, body))
    with pytest.raises(BadFile, match=r"a\.glb"):
        read_glb(tmp_path / "a.glb")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.binary(max_size=8))
def test_damaged_bytes_never_raise_anything_else(tmp_path_factory, position, replacement):
    content = bytearray(glb_bytes(textured()))
    position %= len(content)
    content[position : position + len(replacement)] = replacement
    path = tmp_path_factory.mktemp("damage") / "a.glb"
    for damaged in (bytes(content), bytes(content[:position])):
        path.write_bytes(damaged)
        with suppress(BadFile):
            read_glb(path)


def test_size_limits(tmp_path, monkeypatch):
    write_glb(tmp_path / "a.glb", textured())
    monkeypatch.setattr(gltf, "COUNT_LIMIT", 2)
    with pytest.raises(BadFile, match="more than 2"):
        read_glb(tmp_path / "a.glb")
    monkeypatch.setattr(gltf, "FILE_LIMIT", 100)
    with pytest.raises(BadFile, match="at most 100"):
        read_glb(tmp_path / "a.glb")
    with pytest.raises(BadFile, match="No such file"):
        read_glb(tmp_path / "b.glb")


VALIDATE = """
const validator = require('gltf-validator');
const files = process.argv.slice(1);
Promise.all(files.map(f => validator.validateBytes(new Uint8Array(require('fs').readFileSync(f)))))
  .then(reports => console.log(JSON.stringify(reports.map(r => r.issues))));
"""


def validated(files: list[Path]):
    """Issues the Khronos validator finds. It is an npm package, found by way of NODE_PATH."""
    try:
        found = subprocess.run(
            ["node", "-e", VALIDATE, *map(str, files)], capture_output=True, text=True, env=os.environ
        )
    except FileNotFoundError:
        pytest.skip("no node: install Node.js and `npm install gltf-validator`")
    if "Cannot find module" in found.stderr:
        pytest.skip("no gltf-validator: `npm install gltf-validator` and set NODE_PATH to its node_modules")
    return json.loads(found.stdout)


def test_khronos_validator(tmp_path):
    random = np.random.default_rng(0)
    soup = random.random((50, 3), np.float32)
    faces = random.integers(0, 50, (90, 3))  # some degenerate, some vertices unused
    cases = {
        "textured": glb_bytes(textured(soup, faces)),
        "coloured": glb_bytes(coloured(soup, faces)),
        "raw": glb_bytes(coloured(soup, faces), raw_colours=True),
        "plain": glb_bytes(Mesh(soup, faces)),
        "one": glb_bytes(textured()),
        "flat": glb_bytes(textured(TRIANGLE * 0)),
        "large": glb_bytes(grid_mesh(260)),
    }
    for name, content in cases.items():
        (tmp_path / f"{name}.glb").write_bytes(content)
    for name, issues in zip(cases, validated([tmp_path / f"{name}.glb" for name in cases]), strict=True):
        serious = [message for message in issues["messages"] if message["severity"] <= 1]
        assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), f"{name}: {serious}"
