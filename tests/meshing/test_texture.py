import math

import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.errors import InvalidOption
from mvsam3d.io.glb import linear_from_srgb, srgb_from_linear
from mvsam3d.meshing.texture import (
    SH_DC,
    TextureConfig,
    baked,
    colour_from_gaussians,
    find_texels,
    textured,
)
from mvsam3d.meshing.unwrap import ByProjection, ByXatlas
from mvsam3d.rendering.meshes import sample_texture
from mvsam3d.types import GaussianCloud, Mesh

SIX = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [240, 240, 20], [20, 128, 240], [250, 250, 250]])
BOX = trimesh.creation.box()
CONFIG = TextureConfig(resolution=256)


def cube(pieces: int = 1, colours=True):
    """Vertices doubled at the edges: six sides of one colour each."""
    made = BOX
    for _ in range(pieces - 1):
        made = made.subdivide()
    vertices, faces = made.vertices[made.faces].reshape(-1, 3), np.arange(3 * len(made.faces)).reshape(-1, 3)
    if not colours:
        return Mesh(made.vertices, made.faces)
    # merged within each side, or every triangle would be a chart of its own
    keys = np.concatenate([vertices, np.repeat(side(made.face_normals), 3)[:, None]], axis=1)
    kept, places = np.unique(keys, axis=0, return_inverse=True)
    return Mesh(kept[:, :3], places.reshape(-1)[faces], vertex_colours=SIX[kept[:, 3].astype(int)] / 255)


def side(normals):
    """0 to 5: +x +y +z -x -y -z."""
    axis = np.abs(normals).argmax(axis=1)
    return axis + 3 * (np.take_along_axis(normals, axis[:, None], 1)[:, 0] < 0)


def colours_by_side(points, normals):
    return linear_from_srgb(SIX[side(normals)] / 255)


def seen_error(mesh, margin=0.0, expected=None):
    """Largest error, in 1/255, of the texture sampled at random points of the faces."""
    random = np.random.default_rng(0)
    shares = random.dirichlet([1, 1, 1], size=(len(mesh.faces), 50)) * (1 - margin) + margin / 3
    uv = np.einsum("fsc,fcd->fsd", shares, mesh.uv[mesh.faces])
    points = np.einsum("fsc,fcd->fsd", shares, mesh.vertices[mesh.faces])
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    wanted = SIX[side(normals)][:, None] if expected is None else expected(points) * 255
    found = sample_texture(mesh.texture, uv.reshape(-1, 2)).reshape(*uv.shape[:2], 3) * 255
    return np.abs(found - wanted).max()


@pytest.mark.parametrize("how", [ByProjection(), ByXatlas()])
def test_cube_from_vertex_colours(how):
    assert seen_error(textured(cube(3), config=TextureConfig(256, unwrapping=how))) <= 2


@pytest.mark.parametrize("how", [ByProjection(), ByXatlas()])
def test_cube_from_a_source(how):  # the gutter reaches far enough that sampling at the very border sees the side only
    assert seen_error(textured(cube(2), colours_by_side, TextureConfig(256, unwrapping=how))) <= 2


def cloud_of(points, colours, scale):
    count = len(points)
    return GaussianCloud(
        means=torch.tensor(points, dtype=torch.float32),
        scales=torch.full((count, 3), scale),
        rotations=torch.tensor([[2.0, 0, 0, 0]]).repeat(count, 1),
        opacities=torch.full((count,), 0.9),
        sh_dc=torch.tensor((colours / 255 - 0.5) / SH_DC, dtype=torch.float32),
    )


def test_cube_from_gaussians():
    points, faces = trimesh.sample.sample_surface(BOX, 20_000, seed=0)
    cloud = cloud_of(points, SIX[side(BOX.face_normals[faces])], 0.005)
    mesh = textured(cube(2), colour_from_gaussians(cloud), CONFIG)
    assert seen_error(mesh, margin=0.6) <= 2  # away from the edges: there two sides' Gaussians rightly mix


def test_mixing_is_linear():
    """Half way between two equal Gaussians: the mean of the light, not of the stored colours."""
    cloud = cloud_of(np.array([[-0.1, 0, 0], [0.1, 0, 0]]), np.array([[0, 0, 0], [255, 255, 255]]), 0.1)
    light = colour_from_gaussians(cloud)(np.zeros((1, 3)), np.array([[0.0, 0, 1]]))
    np.testing.assert_allclose(light, 0.5, atol=1e-6)
    texture = baked(Mesh(*flat_square(), uv=flat_uv()), lambda p, n: p * 0 + 0.5, resolution=4).texture
    assert (texture == 188).all()  # round(255 * 1.055 * 0.5^(1 / 2.4) - 0.055 * 255)


def test_bells_follow_scale_and_rotation():
    """One weight by hand: exp(-d^2 / 2 s^2) with s the scale along the way, turned by the quaternion."""
    half = math.sqrt(0.5)
    cloud = GaussianCloud(
        means=torch.tensor([[0.0, 0, 0], [0.0, 0.3, 0]]),
        scales=torch.tensor([[0.4, 0.1, 0.1], [0.3, 0.3, 0.3]]),
        rotations=torch.tensor([[half, 0, 0, half], [1.0, 0, 0, 0]]),  # the first one's long axis turned to y
        opacities=torch.tensor([0.5, 0.8]),
        sh_dc=torch.tensor([[0.5 / SH_DC] * 3, [-0.5 / SH_DC] * 3]),
    )
    point = np.array([[0.05, 0.2, 0.0]])
    first = 0.5 * math.exp(-(0.05**2 / 0.01 + 0.2**2 / 0.16) / 2)
    second = 0.8 * math.exp(-(0.05**2 + 0.1**2) / 0.09 / 2)
    light = colour_from_gaussians(cloud)(point, point)
    np.testing.assert_allclose(light, first / (first + second), rtol=3e-3)  # the weight of far Gaussians is 1e-3


def test_far_points_take_the_nearest_colour():
    cloud = cloud_of(np.array([[0.0, 0, 0], [1, 0, 0]]), SIX[:2], 0.001)
    points = np.array([[0.1, 0, 0], [0.8, 0, 0], [9, 9, 9]])
    stored = srgb_from_linear(colour_from_gaussians(cloud)(points, points)) * 255
    np.testing.assert_allclose(stored, SIX[[0, 1, 1]], atol=6)
    with pytest.raises(InvalidOption, match="none of 2"):
        colour_from_gaussians(cloud, least_opacity=0.95)


def flat_square():
    return np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]])


def flat_uv():
    return flat_square()[0][:, :2]


def test_texels_lie_where_uv_says():
    """A square that fills the texture: the texel in row r and column c shows (c + 0.5, n - r - 0.5) / n."""
    mesh = Mesh(*flat_square(), uv=flat_uv())
    n = 8
    texels = find_texels(mesh, n)
    assert len(texels.rows) == n * n
    points = np.einsum("pc,pcd->pd", texels.barycentrics, mesh.vertices[mesh.faces[texels.faces]])
    np.testing.assert_allclose(points[:, 0], (texels.columns + 0.5) / n, atol=1e-6)
    np.testing.assert_allclose(points[:, 1], 1 - (texels.rows + 0.5) / n, atol=1e-6)


def test_vertex_colours_run_linear_in_light():
    colours = np.array([[0.0] * 3, [1.0] * 3, [1.0] * 3, [0.0] * 3])
    texture = baked(Mesh(*flat_square(), vertex_colours=colours, uv=flat_uv()), resolution=64).texture
    expected = srgb_from_linear((np.arange(64) + 0.5) / 64) * 255
    np.testing.assert_allclose(texture[10, :, 0], expected, atol=0.51)


def test_gutter_repeats_the_nearest_texel():
    half = Mesh(flat_square()[0], flat_square()[1], uv=flat_uv() * 0.5)  # the lower left quarter
    texture = baked(half, lambda p, n: np.where(p[:, :1] > 0.5, 1.0, 0.0) + 0 * p, resolution=16).texture
    assert (texture[8:, :4] == 0).all()
    assert (texture[8:, 4:] == 255).all()


def test_nothing_to_bake():
    with pytest.raises(InvalidOption, match="no vertex colours"):
        textured(cube(colours=False))
