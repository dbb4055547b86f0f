"""Stage-2 losses: recorded values, closed forms, and small fits that must end where the loss says."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvsam3d.meshing.isosurface import SDF, average_corners, extract_surface
from mvsam3d.training.slat_losses import (
    SH_C0,
    GaussianSurfaceWeights,
    GaussianVaeWeights,
    MeshMaps,
    MeshWeights,
    SurfaceSamples,
    corner_colour_loss,
    facing_camera,
    gaussian_surface_loss,
    gaussian_transparency,
    gaussian_vae_loss,
    gaussian_volume,
    image_loss,
    kl_divergence,
    lattice_of_corners,
    mesh_regularisation,
    mesh_render_loss,
    samples_from_lattice,
    signed_distance_loss,
    ssim,
    tsdf_loss,
)
from mvsam3d.types import CubeField, GaussianCloud
from tests.parity import fixture, names


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- recorded values


def test_recorded_autoencoder_losses() -> None:
    data = fixture("stage2", "slat_vae_losses")
    image, target = data.inputs["pred"], data.inputs["target"]
    resolution = data.meta["config"]["res"]
    data.check("l1", image_loss(image, target, ssim_weight=0.0)[None])
    data.check("l2", F.mse_loss(image, target)[None])
    data.check("ssim", ssim(image, target)[None])
    data.check("kl", kl_divergence(data.inputs["mean"], data.inputs["logvar"])[None])
    data.check("reg_vol", gaussian_volume(data.inputs["scales"])[None])
    data.check("reg_opacity", gaussian_transparency(data.inputs["opacity"])[None])
    # smooth L1 is the depth term: with nothing else to differ, and masks full, it is all of the render loss
    first, second = (maps(x.reshape(-1, 1, *x.shape[2:])) for x in (image, target))
    data.check("smooth_l1", mesh_render_loss(first, second, resolution, weights=MeshWeights(depth=1.0))[None])


def maps(depth: Tensor) -> MeshMaps:
    black = torch.zeros(len(depth), 3, *depth.shape[2:])
    return MeshMaps(torch.ones_like(depth), depth, black, black)


@pytest.mark.parametrize("name", names("stage2", "sparse_features_to_mesh_train"))
def test_recorded_mesh_regularisation(name: str) -> None:
    data = fixture("stage2", name)
    field = CubeField(data.inputs["coords"][:, 1:], data.inputs["feats"], data.meta["config"]["res"])
    average = average_corners(field.coords, field.features.__getitem__, field.resolution)
    loss = mesh_regularisation(field, average, extract_surface(field, training=True), MeshWeights())
    data.check("reg_loss", loss[None])


# --- closed forms


def test_losses_vanish_where_nothing_differs() -> None:
    image = torch.rand(2, 3, 20, 24, generator=noise())
    assert float(image_loss(image, image)) == pytest.approx(0, abs=1e-6)
    standard = torch.zeros(5, 4)
    assert float(kl_divergence(standard, standard)) == 0
    both = maps(image[:, :1])
    assert float(mesh_render_loss(both, both, 64, weights=MeshWeights())) == pytest.approx(0, abs=1e-6)


def test_ssim_of_constant_images() -> None:  # means only: (2ab + C1) / (a^2 + b^2 + C1), away from the zero padding
    a, b = 0.3, 0.8
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    large = [torch.full((1, 1, 601, 601), v, dtype=torch.float64) for v in (a, b)]
    assert float(ssim(*large)) == pytest.approx(expected, rel=0.02)  # the border is 10 of 600 pixels


def test_perceptual_term_sees_images_in_both_signs() -> None:
    seen = []

    def perceptual(image: Tensor, target: Tensor) -> Tensor:
        seen.append((float(image.min()), float(target.max())))
        return torch.tensor(3.0)

    image, target = torch.zeros(1, 3, 12, 12), torch.ones(1, 3, 12, 12)
    plain = image_loss(image, target)
    assert float(image_loss(image, target, perceptual=perceptual) - plain) == pytest.approx(0.6)
    assert seen == [(-1.0, 1.0)]


def test_gaussian_vae_loss_adds_its_terms() -> None:
    image = torch.zeros(1, 3, 12, 12)
    gaussians = cloud(torch.zeros(4, 3), scales=0.1, opacity=0.5)
    zero = torch.zeros(2, 3)
    loss = gaussian_vae_loss(image, image, gaussians, zero + 1, zero, weights=GaussianVaeWeights())
    assert float(loss) == pytest.approx(1e-6 * 0.5 + 1e4 * 1e-3 + 1e-3 * 0.25, rel=1e-5)


def test_tsdf_counts_up_to_three_cells_behind_the_surface() -> None:
    behind = torch.tensor([0.2, 0.01, -0.02, -0.5])  # resolution 100: reach 0.03
    sdf = torch.tensor([0.03, 0.02, -0.02, 9.0])
    assert float(tsdf_loss(sdf, behind, 100)) == pytest.approx(0.01**2 / 3, rel=1e-4)
    assert float(tsdf_loss(sdf[3:], behind[3:], 100)) == 0


def test_normals_face_the_camera() -> None:
    normals, rays = torch.tensor([[0.0, 0, 1], [0, 0, -1]]), torch.tensor([[0.0, 0.1, 1], [0, 0, 1]])
    assert torch.equal(facing_camera(normals, rays), torch.tensor([[0.0, 0, -1], [0, 0, -1]]))


def test_regularisation_of_an_empty_surface_is_finite() -> None:
    field = CubeField(torch.tensor([[1, 2, 3]], dtype=torch.int32), torch.ones(1, 101), 8)
    average = average_corners(field.coords, field.features.__getitem__, 8)
    loss = mesh_regularisation(field, average, extract_surface(field, training=True), MeshWeights())
    assert float(loss) == pytest.approx(0.2)


# --- direct supervision of the mesh decoder


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_corners_lie_where_the_decoder_puts_them(levels: int) -> None:
    side = 2**levels + 1
    steps = torch.arange(side)
    lattice = torch.cartesian_prod(steps, steps, steps)
    corners = lattice[lattice_of_corners(levels)]
    offsets = torch.tensor([[j & 1, j >> 1 & 1, j >> 2 & 1] for j in range(8)])
    assert torch.equal(corners - corners[:, :1], offsets.expand(8**levels, 8, 3))
    lowest = corners[:, 0]
    assert len(lowest.unique(dim=0)) == 8**levels
    if levels == 2:  # row 8 i + j is child j of child i, z fastest
        assert lowest[[1, 2, 4, 8, 16, 32]].tolist() == [
            [0, 0, 1],
            [0, 1, 0],
            [1, 0, 0],
            [0, 0, 2],
            [0, 2, 0],
            [2, 0, 0],
        ]


def field_with(sdf: Tensor, resolution: int = 10) -> CubeField:
    features = torch.zeros(len(sdf), 101)
    features[:, SDF] = sdf + 1 / resolution
    return CubeField(torch.zeros(len(sdf), 3, dtype=torch.int32), features, resolution)


def test_signed_distance_is_exact_near_and_one_sided_far() -> None:
    target = torch.tensor([[0.2, -0.2, 1.5, 1.5, 1.5, -1.5, -1.5, 0.0]])
    sdf = torch.tensor([[0.3, -0.2, 4.0, 0.25, -3.0, -9.0, 0.5, -0.1]])
    expected = (0.1 + 0 + 0 + 0.75 + 4.0 + 0 + 1.5 + 0.1) / 8
    assert float(signed_distance_loss(field_with(sdf), target, truncation=1.0)) == pytest.approx(expected, rel=1e-5)


def test_only_colours_near_the_surface_count() -> None:
    near = torch.tensor([[True] * 2 + [False] * 6])
    target = torch.zeros(1, 8, 3)
    target[:, 0] = 0.5  # sigmoid(0)
    assert float(corner_colour_loss(field_with(torch.zeros(1, 8)), target, near)) == pytest.approx(0.25)
    assert float(corner_colour_loss(field_with(torch.zeros(1, 8)), target, ~near | near)) == pytest.approx(7 / 16)
    assert float(corner_colour_loss(field_with(torch.zeros(1, 8)), target, near & ~near)) == 0


# --- direct supervision of the Gaussian decoder


def cloud(means: Tensor, *, scales: float | Tensor, opacity: float, colour: float = 0.5) -> GaussianCloud:
    count = len(means)
    rotations = torch.tensor([1.0, 0, 0, 0]).expand(count, 4).clone()
    scales = torch.as_tensor(scales).expand(count, 3).clone()
    return GaussianCloud(
        means, scales, rotations, torch.full((count,), opacity), torch.full((count, 3), (colour - 0.5) / SH_C0)
    )


def plane_samples(voxels: int, side: int = 4) -> SurfaceSamples:
    """A horizontal plane through each voxel, a lattice of samples of spacing 1 / side, colour 0.7."""
    steps = (torch.arange(side) + 0.5) / side
    flat = torch.cartesian_prod(steps, steps)
    points = torch.cat([flat, torch.full((len(flat), 1), 0.5)], dim=1)[None] + 5 * torch.arange(voxels)[:, None, None]
    normals = torch.tensor([0.0, 0, 1]).expand_as(points)
    return SurfaceSamples(points, normals, torch.full_like(points, 0.7), torch.ones(points.shape[:2], dtype=torch.bool))


def test_discs_that_tile_the_surface_cost_nothing() -> None:
    samples = plane_samples(3)
    discs = torch.tensor([0.25, 0.25, 0.05])
    gaussians = cloud(samples.points.flatten(0, 1), scales=discs, opacity=1.0, colour=0.7)
    loss = gaussian_surface_loss(gaussians, samples, spacing=0.25, weights=GaussianSurfaceWeights())
    assert float(loss) == pytest.approx(0, abs=1e-4)  # roots of 1e-12, over a spacing of 0.25


def test_gaussians_without_surface_fade() -> None:
    samples = plane_samples(1)
    nothing = SurfaceSamples(samples.points, samples.normals, samples.colours, torch.zeros_like(samples.valid))
    gaussians = cloud(torch.rand(4, 3, generator=noise()), scales=0.3, opacity=0.6)
    loss = gaussian_surface_loss(gaussians, nothing, spacing=0.25, weights=GaussianSurfaceWeights(opacity=1.0))
    assert float(loss) == pytest.approx(0.36)


def test_rows_that_are_no_samples_are_ignored() -> None:
    samples = plane_samples(2)
    gaussians = cloud(torch.rand(8, 3, generator=noise()), scales=0.3, opacity=0.6)
    weights = GaussianSurfaceWeights()
    junk = torch.rand(2, 5, 3, generator=noise())
    padded = SurfaceSamples(
        torch.cat([samples.points, junk], dim=1),
        torch.cat([samples.normals, junk], dim=1),
        torch.cat([samples.colours, junk], dim=1),
        torch.cat([samples.valid, torch.zeros(2, 5, dtype=torch.bool)], dim=1),
    )
    first, second = (gaussian_surface_loss(gaussians, s, spacing=0.25, weights=weights) for s in (samples, padded))
    torch.testing.assert_close(first, second)


def test_descent_lays_gaussians_on_the_surface() -> None:
    samples = plane_samples(1)
    start = torch.rand(16, 3, generator=noise())
    spread = {
        "means": start,
        "scales": torch.full((16, 3), -1.2),
        "rotations": torch.randn(16, 4, generator=noise()),
        "opacities": torch.zeros(16),
        "sh_dc": torch.zeros(16, 3),
    }
    values = {name: value.clone().requires_grad_() for name, value in spread.items()}
    adam = torch.optim.Adam(values.values(), lr=0.02)
    for _ in range(300):
        gaussians = GaussianCloud(
            values["means"], values["scales"].exp(), values["rotations"], values["opacities"].sigmoid(), values["sh_dc"]
        )
        loss = gaussian_surface_loss(gaussians, samples, spacing=0.25, weights=GaussianSurfaceWeights())
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        assert float((gaussians.means[:, 2] - 0.5).abs().max()) < 0.03
        nearest = torch.cdist(samples.points[0], gaussians.means).amin(dim=1)
        assert float(nearest.mean()) < 0.12  # half a spacing: about a Gaussian to a sample
        assert float((0.5 + SH_C0 * gaussians.sh_dc - 0.7).abs().max()) < 0.05
        assert float(gaussians.opacities.min()) > 0.9
        thin = gaussians.scales.amin(dim=1)
        assert float((thin - 0.05).abs().mean()) < 0.04
        assert float((gaussians.scales.amax(dim=1) - 0.25).abs().mean()) < 0.08


def test_lattice_samples_lie_on_the_sphere() -> None:
    side, voxel, radius = 5, 1 / 16, 0.33
    steps = torch.arange(16)
    coords = torch.cartesian_prod(steps, steps, steps)
    coords = coords[(((coords + 0.5) * voxel - 0.5).norm(dim=1) - radius).abs() < voxel / 2]
    origins, spacing = coords * voxel - 0.5, voxel / (side - 1)
    lattice = torch.arange(side)
    points = origins[:, None] + torch.cartesian_prod(lattice, lattice, lattice) * spacing
    samples = samples_from_lattice(
        points.norm(dim=-1) - radius, points + 0.5, origins, spacing=spacing, reach=1.5 * spacing
    )
    assert bool(samples.valid.any(dim=1).all())
    on_surface = samples.points[samples.valid]
    # one-sided differences at the lattice's ends miss the direction by about spacing / (2 radius), 2 %
    assert float((on_surface.norm(dim=1) - radius).abs().max()) < 0.1 * spacing
    outward = F.normalize(on_surface, dim=1)
    assert float((outward * samples.normals[samples.valid]).sum(dim=1).min()) > math.cos(0.1)
    assert torch.equal(samples.colours, points + 0.5)
