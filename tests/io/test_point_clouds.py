import importlib.util
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.io import point_clouds
from mvsam3d.io.glb import write_glb
from mvsam3d.io.ply import write_ply
from mvsam3d.io.point_clouds import (
    ByChance,
    ByVoxel,
    Downsampling,
    EveryNth,
    chosen_thinning,
    downsample,
    every,
    random_share,
    read_points,
    voxel_downsampled,
    write_points,
)
from mvsam3d.io.scenes import Lines, Node, Points, Scene, write_scene
from mvsam3d.types import Mesh
from tests.io.test_ply import random_cloud

ROOT = Path(__file__).parents[2]


def cloud(count: int = 200) -> Points:
    rng = np.random.default_rng(0)
    return Points(rng.uniform(-1, 1, (count, 3)), rng.integers(0, 256, (count, 3)) / 255)


def test_mean_of_each_cell() -> None:  # closed form: cells begin at the origin, so -0.1 and 0.1 lie apart
    places = np.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [-0.1, 0.1, 0.1], [0.9, 0.9, 0.9]])
    colours = np.array([[0.0, 0, 0], [1.0, 0, 0.5], [0.2, 0.2, 0.2], [1, 1, 1]])
    thin = voxel_downsampled(Points(places, colours), 0.5)
    np.testing.assert_allclose(thin.positions, [[-0.1, 0.1, 0.1], [0.2, 0.1, 0.1], [0.9, 0.9, 0.9]])
    np.testing.assert_allclose(thin.colours, [[0.2, 0.2, 0.2], [0.5, 0, 0.25], [1, 1, 1]])


def test_cells_equal_a_plain_loop() -> None:
    many, side = cloud(), 0.37
    cells: dict[tuple[int, ...], list[int]] = {}
    for i, point in enumerate(many.positions):
        cells.setdefault(tuple(math.floor(x / side) for x in point), []).append(i)
    rows = [cells[key] for key in sorted(cells)]
    thin = voxel_downsampled(many, side)
    np.testing.assert_allclose(thin.positions, [many.positions[row].mean(axis=0) for row in rows])
    assert many.colours is not None
    np.testing.assert_allclose(thin.colours, [many.colours[row].mean(axis=0) for row in rows])


def test_one_large_cell_is_the_mean_and_tiny_cells_change_nothing_but_the_order() -> None:
    many = Points(np.abs(cloud().positions))
    np.testing.assert_allclose(voxel_downsampled(many, 10.0).positions, many.positions.mean(axis=0)[None])
    fine = voxel_downsampled(many, 2e-6).positions
    np.testing.assert_allclose(fine, many.positions[np.argsort(many.positions[:, 0])])
    with pytest.raises(InvalidOption, match="enlarge"):
        voxel_downsampled(many, 1e-12)


def test_every_third() -> None:
    many = Points(np.arange(21.0).reshape(7, 3))
    np.testing.assert_array_equal(every(many, 3).positions[:, 0], [0, 9, 18])
    assert every(many, 1).positions.shape == (7, 3)


def test_share_by_chance() -> None:
    many = Points(np.arange(300.0).reshape(100, 3))
    half, again, other = (random_share(many, 0.5, seed).positions for seed in (1, 1, 2))
    assert len(half) == 50
    assert np.array_equal(half, again)
    assert not np.array_equal(half, other)
    assert (np.diff(half[:, 0]) > 0).all()  # in order, none twice
    assert len(random_share(many, 1e-6, 0).positions) == 1
    np.testing.assert_array_equal(random_share(many, 1.0, 0).positions, many.positions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "none was given"),
        ({"voxel": 0.1, "random": 0.5}, "--voxel and --random"),
        ({"voxel": 0.0}, "more than 0"),
        ({"voxel": math.nan}, "more than 0"),
        ({"uniform": 0}, "1 or more"),
        ({"random": 0.0}, "at most 1"),
        ({"random": 1.5}, "at most 1"),
        ({"random": 0.5, "seed": -1}, "seed"),
    ],
)
def test_one_way_within_its_range(options, message) -> None:
    with pytest.raises(InvalidOption, match=message):
        chosen_thinning(**options)


def test_ways() -> None:
    assert chosen_thinning(voxel=0.02) == ByVoxel(0.02)
    assert chosen_thinning(uniform=2) == EveryNth(2)
    assert chosen_thinning(random=0.5, seed=3) == ByChance(0.5, 3)


@pytest.mark.parametrize("suffix", ["ply", "glb"])
def test_written_points_come_back(suffix, tmp_path) -> None:
    path = tmp_path / f"a.{suffix}"
    write_points(path, cloud())
    back = read_points(path)
    np.testing.assert_allclose(back.positions, cloud().positions, atol=1e-7)  # float32
    np.testing.assert_allclose(
        back.colours, cloud().colours, atol=2e-3 if suffix == "glb" else 1e-7
    )  # linear light, 16 bits
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_bytes_of_two_points(tmp_path) -> None:
    write_points(tmp_path / "a.ply", Points(np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[0.0, 0.5, 1], [1, 1, 1]])))
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    header += "".join(f"property float {n}\n" for n in "xyz") + "".join(
        f"property uchar {n}\n" for n in ("red", "green", "blue")
    )
    body = struct.pack("<3f3B3f3B", 1, 2, 3, 0, 128, 255, 4, 5, 6, 255, 255, 255)
    assert (tmp_path / "a.ply").read_bytes() == (header + "end_header\n").encode() + body


def test_others_read_what_is_written(tmp_path) -> None:
    write_points(tmp_path / "a.ply", cloud())
    there = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_allclose(there.vertices, cloud().positions, atol=1e-7)
    np.testing.assert_array_equal(there.colors[:, :3], np.round(cloud().colours * 255))


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_meshes_of_others(encoding, tmp_path) -> None:
    box = trimesh.creation.box()
    box.visual.vertex_colors = (np.arange(32).reshape(8, 4) * 7).astype(np.uint8)
    box.export(tmp_path / "a.ply", encoding=encoding, vertex_normal=True)
    back = read_points(tmp_path / "a.ply")
    np.testing.assert_allclose(back.positions, box.vertices, atol=1e-6)
    np.testing.assert_allclose(back.colours, box.visual.vertex_colors[:, :3] / 255.0, atol=1e-6)


def test_big_endian(tmp_path) -> None:
    header = b"ply\nformat binary_big_endian 1.0\nelement vertex 1\nproperty double z\nproperty float x\nproperty float y\nend_header\n"
    (tmp_path / "a.ply").write_bytes(header + struct.pack(">dff", 3, 1, 2))
    np.testing.assert_array_equal(read_points(tmp_path / "a.ply").positions, [[1, 2, 3]])


def test_gaussians_are_read_as_points(tmp_path) -> None:
    gaussians = random_cloud(20)
    write_ply(tmp_path / "a.ply", gaussians)
    back = read_points(tmp_path / "a.ply")
    np.testing.assert_array_equal(back.positions, gaussians.means.numpy())
    np.testing.assert_allclose(back.colours, np.clip(0.5 + 0.28209479 * gaussians.sh_dc.numpy(), 0, 1), atol=1e-6)


def test_textured_mesh_gives_its_vertices_with_the_texture_s_colours(tmp_path) -> None:
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 0], texture[0, 1], texture[1, 0] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    )  # upper left, upper right, lower left
    uv = np.array([[0.25, 0.75], [0.75, 0.75], [0.25, 0.25]])
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    write_glb(tmp_path / "a.glb", Mesh(vertices, np.array([[0, 1, 2]]), uv=uv, texture=texture))
    back = read_points(tmp_path / "a.glb")
    np.testing.assert_allclose(back.positions, [[0, 0, 0], [1, 0, 0], [0, 1, 0]], atol=1e-7)  # as in the file: +Y up
    np.testing.assert_allclose(back.colours, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], atol=0.01)


def test_parts_are_joined_and_drawn_cameras_left_out(tmp_path, caplog) -> None:
    lines = Lines(np.ones((2, 3)), np.array([[0, 1]]))
    nodes = (Node("a", cloud(5)), Node("camera", lines), Node("b", Points(np.zeros((3, 3)))))
    write_scene(tmp_path / "a.glb", Scene(nodes))
    back = read_points(tmp_path / "a.glb")
    assert len(back.positions) == 8
    assert back.colours is None
    assert "1 of 2 parts have no colours" in caplog.text
    write_scene(tmp_path / "b.glb", Scene(nodes[1:2]))
    with pytest.raises(BadFile, match="lines only"):
        read_points(tmp_path / "b.glb")


HOSTILE = {
    "cut short": (lambda b: b[:-1], "cut short: it has 199 of 200"),
    "huge count": (lambda b: b.replace(b"vertex 200", b"vertex 999999999999"), "too large"),
    "absurd count": (lambda b: b.replace(b"vertex 200", b"vertex " + b"9" * 6000), "first element"),
    "none": (lambda b: b.replace(b"vertex 200", b"vertex 0"), "no points"),
    "no ply": (lambda b: b"x" + b, "not a PLY"),
    "empty": (lambda b: b"", "not a PLY"),
    "format": (lambda b: b.replace(b"binary_little_endian", b"binary_middle"), "format"),
    "text": (lambda b: b.replace(b"binary_little_endian", b"ascii"), "table"),
    "list": (lambda b: b.replace(b"property uchar red", b"property list uchar int a"), "property list"),
    "twice": (lambda b: b.replace(b"uchar red", b"uchar blue"), "repeated"),
    "no place": (lambda b: b.replace(b"float z", b"float w"), "no x, y, z"),
    "NaN": (lambda b: b.replace(b"end_header\n", b"end_header\n" + struct.pack("<f", math.nan))[:-4], "NaN"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(kind, tmp_path) -> None:
    change, message = HOSTILE[kind]
    path = tmp_path / "a.ply"
    write_points(path, cloud())
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadFile, match=message):
        read_points(path)


def test_text_too_large(tmp_path, monkeypatch) -> None:
    trimesh.PointCloud(cloud().positions).export(tmp_path / "a.ply", encoding="ascii")
    monkeypatch.setattr(point_clouds, "TEXT_LIMIT", 100)
    with pytest.raises(BadFile, match="too large"):
        read_points(tmp_path / "a.ply")


def test_other_endings(tmp_path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(BadFile, match=r"from \.glb and \.ply"):
        read_points(tmp_path / "a.obj")
    with pytest.raises(InvalidOption, match=r"\.ply or \.glb"):
        downsample(Downsampling(tmp_path / "a.ply", tmp_path / "b.xyz", EveryNth(2)))
    with pytest.raises(BadFile, match="No such file"):
        downsample(Downsampling(tmp_path / "a.ply", tmp_path / "b.ply", EveryNth(2)))


def tool():
    spec = importlib.util.spec_from_file_location("downsample_pointcloud", ROOT / "tools" / "downsample_pointcloud.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("options", "count"), [(["--voxel", "3"], 8), (["--uniform", "2"], 100), (["--random", "0.5"], 100)]
)
def test_documented_commands(
    options, count, tmp_path, capsys
) -> None:  # points in [-1, 1]³, cells of 3 from the origin: 8
    write_points(tmp_path / "output.glb", cloud())
    target = tmp_path / "output_down.ply"
    assert tool().main([str(tmp_path / "output.glb"), *options, "-o", str(target)]) == 0
    assert f"{count} of 200 points" in capsys.readouterr().out
    assert len(read_points(target).positions) == count


def test_tool_says_what_is_wrong(tmp_path, capsys) -> None:
    write_points(tmp_path / "output.glb", cloud())
    target = tmp_path / "output_down.ply"
    assert tool().main([str(tmp_path / "output.glb"), "-o", str(target)]) == 2
    assert "none was given" in capsys.readouterr().err
    assert not target.exists()
