"""Losses of the SLAT autoencoders: those of the public systems, and direct 3D supervision, which needs no renderer.

Public ones: TRELLIS (Xiang et al. 2024), whose decoders SAM 3D Objects uses. Images are [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.meshing.isosurface import ALPHA, COLOUR, SDF, WEIGHTS, CornerAverage, Surface, corner_values
from mvsam3d.types import CubeField, GaussianCloud

Image = Float[Tensor, "batch channel h w"]
Scalar = Float[Tensor, ""]
Perceptual = Callable[
    [Tensor, Tensor], Tensor
]  # images in [-1, 1] -> mean distance (LPIPS; its weights are not shipped)

SH_C0 = 0.28209479177387814
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


# --- images, latents


def kl_divergence(mean: Float[Tensor, "*rows channel"], logvar: Float[Tensor, "*rows channel"]) -> Scalar:
    """KL divergence from a standard normal distribution, mean over voxels and channels."""
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1).mean()


def ssim(first: Image, second: Image) -> Scalar:
    """Structural similarity, 1 for equal images: Gaussian window of 11, zero padding."""
    products = (first, second, first * first, second * second, first * second)
    a, b, aa, bb, ab = _blurred(torch.cat(products)).chunk(5)
    variance, covariance = aa - a * a + bb - b * b, ab - a * b
    c1, c2 = 0.01**2, 0.03**2
    similarity: Tensor = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance + c2))
    return similarity.mean()


def _blurred(images: Image) -> Image:
    distance = torch.arange(SSIM_WINDOW, device=images.device, dtype=images.dtype) - SSIM_WINDOW // 2
    line = torch.exp(-(distance**2) / (2 * SSIM_SIGMA**2))
    line = (line / line.sum()).expand(images.shape[1], 1, 1, -1)
    across = F.conv2d(images, line, padding=(0, SSIM_WINDOW // 2), groups=images.shape[1])
    return F.conv2d(across, line.transpose(2, 3), padding=(SSIM_WINDOW // 2, 0), groups=images.shape[1])


def image_loss(
    image: Image,
    target: Image,
    *,
    ssim_weight: float = 0.2,
    perceptual: Perceptual | None = None,
    perceptual_weight: float = 0.2,
) -> Scalar:
    """L1 + 0.2 (1 - SSIM) + 0.2 LPIPS, the last only if a perceptual distance is given."""
    loss = F.l1_loss(image, target) + ssim_weight * (1 - ssim(image, target))
    if perceptual is not None:
        loss = loss + perceptual_weight * perceptual(2 * image - 1, 2 * target - 1)
    return loss


# --- Gaussian autoencoder, by rendering


@dataclass(frozen=True)
class GaussianVaeWeights:
    """Weights of the terms beside the image loss; the defaults are the released configuration's."""

    kl: float = 1e-6
    volume: float = 1e4
    opacity: float = 1e-3


def gaussian_volume(scales: Float[Tensor, "gaussian 3"]) -> Scalar:
    """Mean product of the three standard deviations."""
    return scales.prod(dim=-1).mean()


def gaussian_transparency(opacities: Float[Tensor, "*gaussian"]) -> Scalar:
    """Mean squared distance of the opacities from 1."""
    return (opacities - 1).square().mean()


def gaussian_vae_loss(
    image: Image,
    target: Image,
    gaussians: GaussianCloud,
    mean: Float[Tensor, "voxel channel"],
    logvar: Float[Tensor, "voxel channel"],
    *,
    weights: GaussianVaeWeights,
    perceptual: Perceptual | None = None,
) -> Scalar:
    """Loss of the encoder and the Gaussian decoder from renders; background composed into both images."""
    return (
        image_loss(image, target, perceptual=perceptual)
        + weights.kl * kl_divergence(mean, logvar)
        + weights.volume * gaussian_volume(gaussians.scales)
        + weights.opacity * gaussian_transparency(gaussians.opacities)
    )


# --- mesh decoder, by rendering


@dataclass(frozen=True)
class MeshMaps:
    """Renders of a mesh, or the targets of such renders."""

    mask: Float[Tensor, "batch 1 h w"]
    depth: Float[Tensor, "batch 1 h w"]  # along the viewing axis
    normal: Float[Tensor, "batch 3 h w"]  # of the faces, (n + 1) / 2
    colour: Float[Tensor, "batch 3 h w"]
    normal_map: Float[Tensor, "batch 3 h w"] | None = None  # vertex attributes 3:6


@dataclass(frozen=True)
class MeshWeights:
    """Weights of the mesh decoder's terms; the defaults are the released configuration's, not the code's defaults."""

    deviation: float = 0.5
    flexible: float = 0.2
    tsdf: float = 0.01
    depth: float = 10.0
    normal_map: float = 0.1
    colour: float = 0.1


def corner_consistency(field: CubeField, average: CornerAverage) -> Scalar:
    """Mean squared distance of the cells' corner values from the vertices' means: cells that share a corner agree."""
    values = corner_values(field.features, field.resolution)
    return F.mse_loss(values, average.values[average.rows(field.coords)])


def mesh_regularisation(field: CubeField, average: CornerAverage, surface: Surface, weights: MeshWeights) -> Scalar:
    """Consistency of corners, evenness of dual vertices (L_dev), small beta and alpha."""
    beta_alpha = field.features[:, WEIGHTS][:, : ALPHA.stop]
    deviation = surface.deviation.sum() / max(len(surface.deviation), 1)
    return (
        corner_consistency(field, average)
        + weights.deviation * deviation
        + weights.flexible * beta_alpha.float().abs().mean()
    )


def tsdf_loss(sdf: Float[Tensor, " vertex"], behind: Float[Tensor, " vertex"], resolution: int) -> Scalar:
    """Signed distances against a depth map, at the deformed grid vertices of the active cells, up to three cells.

    Args:
        behind: target depth at the vertex's pixel minus the vertex's own, object units: negative behind the surface.
    """
    reach = 3 / resolution
    seen = behind > -reach
    error = (sdf[seen] - behind[seen].clamp(-reach, reach)).square()
    return error.sum() / max(len(error), 1)


def facing_camera(normals: Float[Tensor, "*rows 3"], rays: Float[Tensor, "*rows 3"]) -> Float[Tensor, "*rows 3"]:
    """Normals turned against the rays that see them: targets of meshes whose winding is not reliable."""
    return torch.where((normals * rays).sum(dim=-1, keepdim=True) > 0, -normals, normals)


def mesh_render_loss(
    maps: MeshMaps,
    target: MeshMaps,
    resolution: int,
    *,
    weights: MeshWeights,
    perceptual: Perceptual | None = None,
) -> Scalar:
    """Mask, depth, normals and colour of a rendered mesh that is not empty. `resolution`: cells along an axis."""
    seen = target.mask
    depth = F.smooth_l1_loss(maps.depth * seen, target.depth * seen, beta=1 / (2 * resolution))
    loss = (
        F.l1_loss(maps.mask, target.mask)
        + weights.depth * depth
        + image_loss(maps.normal * seen, target.normal * seen, perceptual=perceptual)
        + weights.colour * image_loss(maps.colour, target.colour * seen, perceptual=perceptual)
    )
    if maps.normal_map is not None and target.normal_map is not None:
        loss = loss + weights.normal_map * image_loss(maps.normal_map, target.normal_map, perceptual=perceptual)
    return loss


# --- mesh decoder, direct: signed distance and colour at the corners of the fine cells


def lattice_of_corners(levels: int) -> Int64[Tensor, "cell 8"]:
    """Rows of a voxel's lattice of (2^levels + 1)^3 points (x, y, z order) at the corners of its 8^levels fine cells.

    Cells in the mesh decoder's row order (children of children, z fastest), corners in a CubeField's (x fastest).
    """
    eight = torch.arange(8)
    child = torch.stack([eight >> 2 & 1, eight >> 1 & 1, eight & 1], dim=1)
    corner = torch.stack([eight & 1, eight >> 1 & 1, eight >> 2 & 1], dim=1)
    cells = torch.zeros(1, 3, dtype=torch.int64)
    for _ in range(levels):
        cells = (2 * cells[:, None] + child).flatten(0, 1)
    points = cells[:, None] + corner
    side = 2**levels + 1
    rows: Tensor = (points[..., 0] * side + points[..., 1]) * side + points[..., 2]
    return rows


def signed_distance_loss(field: CubeField, target: Float[Tensor, "voxel 8"], *, truncation: float) -> Scalar:
    """L1 of the signed distance at cell corners; beyond the truncation only the side and the least size count.

    Args:
        target: in any unit, negative inside: the decoder learns the unit, extraction needs none. Voxels suit the +1 of
            inactive corners.
        truncation: in the same unit.
    """
    sdf = field.features[:, SDF].float() - 1 / field.resolution
    near = (sdf - target).abs()
    outside, inside = F.relu(truncation - sdf), F.relu(sdf + truncation)
    return torch.where(target >= truncation, outside, torch.where(target <= -truncation, inside, near)).mean()


def corner_colour_loss(field: CubeField, target: Float[Tensor, "voxel 8 3"], near: Bool[Tensor, "voxel 8"]) -> Scalar:
    """L1 of the colours at those corners that are near the surface; the others never show."""
    colour = torch.sigmoid(field.features[:, COLOUR].float().reshape(*near.shape, -1)[..., :3])
    error = (colour - target).abs().mean(dim=-1) * near
    return error.sum() / near.sum().clamp(min=1)


# --- Gaussian decoder, direct: samples of the surface in each voxel


@dataclass(frozen=True)
class SurfaceSamples:
    """Points of the surface in or near each voxel, as many rows for every voxel."""

    points: Float[Tensor, "voxel sample 3"]  # object frame
    normals: Float[Tensor, "voxel sample 3"]  # unit, outward
    colours: Float[Tensor, "voxel sample 3"]  # sRGB, [0, 1]
    valid: Bool[Tensor, "voxel sample"]  # rows that are no samples hold any finite values


@dataclass(frozen=True)
class GaussianSurfaceWeights:
    """What counts how much in `gaussian_surface_loss`, whose terms are all about 1 when a decoder starts."""

    position: float = 1.0
    cover: float = 1.0
    colour: float = 2.0
    extent: float = 0.5
    opacity: float = 0.5
    thinness: float = 0.2
    """Wanted standard deviation along the normal, as a part of that along the surface."""


def samples_from_lattice(
    sdf: Float[Tensor, "voxel point"],
    colours: Float[Tensor, "voxel point 3"],
    origins: Float[Tensor, "voxel 3"],
    *,
    spacing: float,
    reach: float,
) -> SurfaceSamples:
    """Surface samples from signed distances on a cubic lattice in each voxel: points near the surface, moved onto it.

    Args:
        sdf: lattice points in x, y, z order, object units, negative inside.
        colours: of the surface nearest to each lattice point.
        origins: the first lattice point of each voxel, object frame.
        spacing: of the lattice, object units.
        reach: lattice points up to this far from the surface become samples, object units.
    """
    side = round(sdf.shape[1] ** (1 / 3))
    grid = sdf.reshape(-1, side, side, side)
    gradient = torch.stack(torch.gradient(grid, spacing=spacing, dim=(1, 2, 3)), dim=-1).flatten(1, 3)
    steps = torch.arange(side, device=sdf.device)
    lattice = origins[:, None] + torch.cartesian_prod(steps, steps, steps) * spacing
    slope = gradient.norm(dim=-1)
    normals = gradient / slope.clamp(min=1e-6)[..., None]
    valid = (sdf.abs() <= reach) & (slope > 0.5)  # a ridge has no direction: the slope of a distance is 1 elsewhere
    return SurfaceSamples(lattice - sdf[..., None] * normals, normals, colours, valid)


def gaussian_surface_loss(
    gaussians: GaussianCloud, samples: SurfaceSamples, *, spacing: float, weights: GaussianSurfaceWeights
) -> Scalar:
    """Gaussians like small discs that tile the surface: centred on it, everywhere, in its colour, thin, opaque.

    Each voxel's Gaussians are matched with its own samples only, nearest to nearest, which keeps this cheap on a CPU.
    Gaussians of a voxel without samples are to be transparent and are asked nothing else.

    Args:
        gaussians: voxel-major, as many for each voxel of the samples.
        spacing: wanted distance between Gaussians and their standard deviation along the surface, object units: for G
            Gaussians in a voxel of edge 1 / R about 1 / (R sqrt(G)).
    """
    occupied = samples.valid.any(dim=1)
    groups = len(occupied)
    opacities = gaussians.opacities.reshape(groups, -1)
    opacity = (opacities - occupied[:, None].to(opacities.dtype)).square().mean()
    if not bool(occupied.any()):
        return weights.opacity * opacity
    means, colours = gaussians.means.reshape(groups, -1, 3), 0.5 + SH_C0 * gaussians.sh_dc.reshape(groups, -1, 3)
    nearest_sample, nearest_gaussian = _matches(means.detach(), samples)
    point, normal, colour = (
        _chosen(values, nearest_sample) for values in (samples.points, samples.normals, samples.colours)
    )
    covered = _distance(samples.points - _chosen(means, nearest_gaussian))[samples.valid].mean()
    of_surface = _surface_terms(means - point, normal, spacing)[occupied].mean()
    extent = _extent_error(gaussians, normal, spacing, weights.thinness)[occupied].mean()
    return (
        weights.position * of_surface
        + weights.cover * covered / spacing
        + weights.colour * (colours - colour)[occupied].abs().mean()
        + weights.extent * extent
        + weights.opacity * opacity
    )


@torch.no_grad()
def _matches(
    means: Float[Tensor, "voxel gaussian 3"], samples: SurfaceSamples
) -> tuple[Int64[Tensor, "voxel gaussian"], Int64[Tensor, "voxel sample"]]:
    """Nearest valid sample of each Gaussian, nearest Gaussian of each sample, within the voxel."""
    exact = "donot_use_mm_for_euclid_dist"  # a product of matrices would lose the small distances
    distance = torch.cdist(means, samples.points, compute_mode=exact)
    return distance.masked_fill(~samples.valid[:, None], torch.inf).argmin(dim=2), distance.argmin(dim=1)


def _chosen(
    values: Float[Tensor, "voxel row axis"], index: Int64[Tensor, "voxel wanted"]
) -> Float[Tensor, "voxel wanted axis"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def _distance(offset: Float[Tensor, "*rows 3"]) -> Float[Tensor, "*rows"]:
    return (offset.square().sum(dim=-1) + 1e-12).sqrt()  # the root's slope stays finite at zero


def _surface_terms(
    offset: Float[Tensor, "voxel gaussian 3"], normal: Float[Tensor, "voxel gaussian 3"], spacing: float
) -> Float[Tensor, "voxel gaussian"]:
    """Distance from the surface, and from the nearest sample along it as far as it exceeds the spacing; in spacings."""
    height = (offset * normal).sum(dim=-1, keepdim=True)
    along = _distance(offset - height * normal)
    return (height[..., 0].abs() + F.relu(along - spacing)) / spacing


def _extent_error(
    gaussians: GaussianCloud, normal: Float[Tensor, "voxel gaussian 3"], spacing: float, thinness: float
) -> Float[Tensor, "voxel gaussian"]:
    """Covariance in square spacings against a disc: 1 along the surface, thinness^2 along the normal."""
    axes = matrix_from_quaternion(gaussians.rotations) * (gaussians.scales / spacing)[:, None]
    covariance = (axes @ axes.transpose(1, 2)).reshape(*normal.shape, 3)
    disc = torch.eye(3, device=normal.device) - (1 - thinness**2) * normal[..., :, None] * normal[..., None, :]
    return (covariance - disc).abs().mean(dim=(-1, -2))
