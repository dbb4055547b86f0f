import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.exports.voxels import camera_nodes, cell_centres, cubes, latent_of_voxels, picture
from mvsam3d.types import FusionRecord, Voxels


def record(coords, resolution, stage="slat"):
    coords = torch.tensor(coords, dtype=torch.int32)
    return FusionRecord(stage, coords, resolution, torch.ones(1, len(coords)), None, None)


def test_cubes_enclose_the_cells():  # closed form: the volume of n cells; a block of 2 x 1 x 1 has 10 bare sides
    coords = np.array([[1, 2, 3], [2, 2, 3], [0, 0, 0]])
    shape = cubes(coords, 4)
    mesh = trimesh.Trimesh(shape.vertices, shape.faces)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(3 / 64)
    assert len(shape.faces) == 2 * (10 + 6)
    for face, cell in enumerate(shape.cells):  # each side lies around its own cell
        apart = shape.vertices[shape.faces[face]] - cell_centres(coords, 4)[cell]
        np.testing.assert_allclose(np.abs(apart), 0.125, atol=1e-12)


def test_a_picture_shows_the_nearer_cell():
    """Looking along +Z of the object at two cells one behind the other, and at one beside them."""
    coords, colours = np.array([[1, 1, 0], [1, 1, 3], [2, 1, 3]]), np.eye(3)
    pose = np.eye(4)
    pose[2, 3] = 10.0
    lens = np.array([[160.0, 0, 8], [0, 160, 8], [0, 0, 1]])  # a cell is 4 pixels at the middle
    pixels = picture(cubes(coords, 4), colours, lens, pose, 16)
    assert pixels[6, 6].argmax() == 0
    assert pixels[6, 6].min() == 0
    assert pixels[6, 9].argmax() == 2
    assert (pixels[0, 0] == 255).all()


@pytest.mark.parametrize(("side", "resolution"), [(4, 8), (4, 4), (8, 4), (3, 8)])
def test_each_voxel_finds_its_latent(side, resolution):  # by way of the object frame, where both have their place
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    coords = np.random.default_rng(0).integers(0, resolution, (30, 3))
    latents = latent_of_voxels(record(cells.tolist(), side), Voxels(torch.from_numpy(coords).int(), resolution))
    apart = np.abs(cell_centres(cells, side)[latents] - cell_centres(coords, resolution))
    assert apart.max() <= 0.5 / side


def test_a_voxel_without_a_latent_is_our_slip():
    with pytest.raises(AssertionError, match="1 voxels"):
        latent_of_voxels(record([[0, 0, 0]], 2), Voxels(torch.tensor([[0, 1, 1], [3, 0, 0]]).int(), 4))


def test_camera_pyramids_stand_at_the_centre_and_open_the_way_they_look():
    centres, looks = np.array([[0.0, -2, 1], [3, 0, 0]]), np.array([[0.0, 2, -1], [-1, 0, 0]])
    pyramid, line, second, _ = camera_nodes(centres, looks, ["a", "b"], np.eye(3)[:2])
    assert [pyramid.name, line.name, second.name] == ["camera_00_a", "look_00_a", "camera_01_b"]
    np.testing.assert_allclose(pyramid.shape.vertices[0], [0, 1, 2])  # glb: (x, z, -y)
    base = pyramid.shape.vertices[1:].mean(axis=0) - pyramid.shape.vertices[0]
    np.testing.assert_allclose(base / np.linalg.norm(base), np.array([0, -1, -2]) / np.sqrt(5), atol=1e-12)
    mesh = trimesh.Trimesh(pyramid.shape.vertices, pyramid.shape.faces)
    assert mesh.is_watertight
    assert mesh.volume > 0
