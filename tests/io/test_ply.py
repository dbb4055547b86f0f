import logging
import math
import struct

import numpy as np
import pytest
import torch

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import glb_from_object
from mvsam3d.io import ply
from mvsam3d.io.ply import PROPERTIES, ply_rows, read_ply, write_ply
from mvsam3d.types import GaussianCloud
from tests.parity import fixture, names

ONE = GaussianCloud(
    means=torch.tensor([[0.25, -0.5, 0.125]]),
    scales=torch.tensor([[1.0, 1.0, 1.0]]),
    rotations=torch.tensor([[2.0, 0.0, -1.0, 0.5]]),
    opacities=torch.tensor([0.5]),
    sh_dc=torch.tensor([[1.0, 0.0, -1.0]]),
)


def random_cloud(count=50):
    g = torch.Generator().manual_seed(0)
    uniform = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    return GaussianCloud(
        means=uniform(count, 3) - 0.5,
        scales=uniform(count, 3) * 0.1 + 1e-3,
        rotations=uniform(count, 4) - 0.5,
        opacities=uniform(count) * 0.98 + 0.01,
        sh_dc=uniform(count, 3) * 4 - 2,
    )


def test_bytes_of_one_gaussian(tmp_path):  # logit(0.5) = 0, log(1) = 0, rotation as it is
    write_ply(tmp_path / "one.ply", ONE)
    frame = ["comment frame: object", "comment glb_from_object: 1 0 0 0 0 0 1 0 0 -1 0 0 0 0 0 1"]
    lines = ["ply", "format binary_little_endian 1.0", *frame, "element vertex 1"]
    names = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    lines += [f"property float {name}" for name in names.split(" ")]
    values = [0.25, -0.5, 0.125, 0, 0, 0, 1, 0, -1, 0, 0, 0, 0, 2, 0, -1, 0.5]
    expected = "\n".join([*lines, "end_header", ""]).encode() + struct.pack("<17f", *values)
    assert (tmp_path / "one.ply").read_bytes() == expected


def test_round_trip(tmp_path):
    cloud = random_cloud()
    write_ply(tmp_path / "a.ply", cloud)
    back = read_ply(tmp_path / "a.ply")
    for name in ("means", "rotations", "sh_dc"):
        assert torch.equal(getattr(back, name), getattr(cloud, name))
    for name in ("scales", "opacities"):  # through log and logit, rounded to float32: |x| eps of values up to 7
        torch.testing.assert_close(getattr(back, name), getattr(cloud, name), rtol=1e-6, atol=1e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ply"]


def test_opaque_gaussians_stay_finite():
    cloud = GaussianCloud(ONE.means, ONE.scales, ONE.rotations, torch.ones(1), ONE.sh_dc)
    assert ply_rows(cloud)[0, 9] == pytest.approx(math.log(2**24), rel=1e-6)


@pytest.mark.parametrize("name", names("stage2", "slat_gs_decoder"))
def test_public_values(name):
    case = fixture("stage2", name)
    outputs = case.outputs
    rotations = outputs["_rotation"] + torch.tensor([1.0, 0, 0, 0])
    sh_dc = outputs["_features_dc"][:, 0]
    cloud = GaussianCloud(outputs["xyz"], outputs["scaling"], rotations, outputs["opacity"][:, 0], sh_dc)
    assert list(PROPERTIES) == case.meta["ply_properties"]
    case.check("ply", torch.from_numpy(ply_rows(cloud)))


def test_the_frame_in_the_header_is_that_of_the_glb(tmp_path):
    write_ply(tmp_path / "one.ply", ONE)
    header = (tmp_path / "one.ply").read_bytes().split(b"end_header")[0].decode()
    numbers = header.split("comment glb_from_object: ")[1].split("\n")[0].split(" ")
    matrix = np.array(numbers, np.float64).reshape(4, 4)
    points = ONE.means.numpy().astype(np.float64)
    np.testing.assert_array_equal(points @ matrix[:3, :3].T, glb_from_object(points))


def test_public_format(tmp_path):
    case = fixture("stage2", names("stage2", "slat_gs_decoder")[0])
    write_ply(tmp_path / "a.ply", ONE)
    assert (tmp_path / "a.ply").read_bytes().split(b"\n")[1].decode() == case.meta["ply_format"]


def standard_file(path, extra=("f_rest_0", "f_rest_1"), kind="float", order=PROPERTIES, tail="", count=None):
    """As other tools write it: more properties, another order, comments, maybe doubles and further elements."""
    rows = ply_rows(random_cloud(5)).astype(np.float64)
    columns = dict(zip(PROPERTIES, rows.T, strict=True)) | {name: np.full(5, 9.0) for name in extra}
    listed = [*order[:6], *extra, *order[6:]]
    properties = "".join(f"property {kind} {name}\n" for name in listed)
    count = 5 if count is None else count
    head = f"ply\nformat binary_little_endian 1.0\ncomment by hand\nelement vertex {count}\n"
    head += f"{properties}{tail}end_header\n"
    body = np.stack([columns[name] for name in listed], axis=1).astype("<f8" if kind == "double" else "<f4")
    path.write_bytes(head.encode() + body.tobytes())
    return path


@pytest.mark.parametrize("kind", ["float", "double"])
def test_files_of_others(kind, tmp_path, caplog):
    order = PROPERTIES[::-1]
    path = standard_file(tmp_path / "a.ply", kind=kind, order=order, tail="element face 0\nproperty list uchar int v\n")
    with caplog.at_level(logging.DEBUG):
        back = read_ply(path)
    assert "2 properties ignored" in caplog.text
    torch.testing.assert_close(back.scales, random_cloud(5).scales, rtol=1e-6, atol=1e-7)
    assert torch.equal(back.means, random_cloud(5).means)


def test_normals_may_be_missing(tmp_path):
    order = [name for name in PROPERTIES if name[0] != "n"]
    assert len(read_ply(standard_file(tmp_path / "a.ply", order=order)).means) == 5


HOSTILE = {
    "cut short": (lambda b: b[:-1], "cut short"),
    "huge count": (lambda b: b.replace(b"vertex 5", b"vertex 999999999999999"), "cut short"),
    "absurd count": (lambda b: b.replace(b"vertex 5", b"vertex " + b"9" * 6000), "first element"),
    "negative count": (lambda b: b.replace(b"vertex 5", b"vertex -5"), "first element"),
    "none": (lambda b: b.replace(b"vertex 5", b"vertex 0"), "no Gaussians"),
    "no ply": (lambda b: b"x" + b, "not a PLY"),
    "empty": (lambda b: b"", "not a PLY"),
    "endless header": (lambda b: b.replace(b"comment", b"comment" + b" " * ply.HEADER_LIMIT), "header is longer"),
    "ascii": (lambda b: b.replace(b"binary_little_endian", b"ascii"), "format"),
    "list": (lambda b: b.replace(b"property float f_rest_0", b"property list uchar int a"), "property list"),
    "twice": (lambda b: b.replace(b"f_rest_0", b"f_rest_1"), "repeated"),
    "type": (lambda b: b.replace(b"property float x", b"property real x"), "property real x"),
    "mesh": (lambda b: b.replace(b" rot_3", b" q"), "no rot_3"),
    "chunk first": (
        lambda b: b.replace(b"element vertex 5", b"element chunk 1\nproperty float a\nelement vertex 5"),
        "first",
    ),
    "NaN": (lambda b: b[:-4] + struct.pack("<f", math.nan), "1 of 5"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(kind, tmp_path):
    change, message = HOSTILE[kind]
    path = standard_file(tmp_path / "a.ply")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadFile, match=message):
        read_ply(path)


def test_missing_file(tmp_path):
    with pytest.raises(BadFile, match="No such file"):
        read_ply(tmp_path / "a.ply")


def test_nothing_broken_is_written(tmp_path):
    nan = GaussianCloud(ONE.means * math.nan, ONE.scales, ONE.rotations, ONE.opacities, ONE.sh_dc)
    flat = GaussianCloud(ONE.means, ONE.scales * 0, ONE.rotations, ONE.opacities, ONE.sh_dc)
    empty = GaussianCloud(*(value[:0] for value in vars(ONE).values()))
    for cloud, message in ((nan, "1 of 1"), (flat, "1 of 1"), (empty, "no Gaussians")):
        with pytest.raises(BadFile, match=message):
            write_ply(tmp_path / "a.ply", cloud)
    assert not any(tmp_path.iterdir())
