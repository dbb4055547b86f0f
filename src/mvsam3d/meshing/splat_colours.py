"""Photos -> colours of a Gaussian cloud, so that its picture from each photo's camera fits that photo.

A picture of Gaussians is linear in their colours (sRGB, as they are composited), so the colours follow by least
squares from how much each Gaussian gives to each pixel. Gaussians that no photo shows keep the model's colours,
shifted to match. Shapes and opacities stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_array, vstack
from scipy.spatial import cKDTree

from mvsam3d.io.glb import linear_from_srgb, srgb_from_linear, vertex_normals
from mvsam3d.meshing.exposure import model_shift
from mvsam3d.meshing.seeing import averaged, check_sizes
from mvsam3d.meshing.surface_smoothing import gathered, nodes_of, smoothed, spread
from mvsam3d.rendering.splats import SH_DC, splat_weights
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo

LEAST_COVER = 0.5  # of a pixel, by Gaussians: under it the pixel says nothing of them
SHIFT_PIXELS = 20_000  # at which photos and model are compared
ANCHOR = (
    0.5  # trust from which a Gaussian's colour runs on: what little light comes through to hidden ones says nothing
)
FADE_CELLS = 4  # grid cells in the way over which colours fade


@dataclass(frozen=True)
class SplatColourConfig:
    """How the colours of a cloud are fitted to photos."""

    longest_side: int = 512
    """Pixels; larger photos are averaged down to it."""
    outline_margin: float = 1.5
    """Pixels of the reduced photo: nearer to the mask's outline, a pixel does not count."""
    iterations: int = 20
    """Steps of conjugate gradients."""
    stiffness: float = 0.3
    """Squared pixels: a Gaussian that gives less than this to all photos together stays near the model's colour."""
    fade: float = 0.1
    """Share of the object's longest side over which what the photos say near the border of the seen part is forgotten."""


def photo_coloured(
    cloud: GaussianCloud,
    mesh: Mesh,
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    config: SplatColourConfig | None = None,
    *,
    gains: Float[np.ndarray, "view 3"] | None = None,
) -> GaussianCloud:
    """The cloud with other `sh_dc`.

    Args:
        mesh: the same surface: what parts its two sides where colours spread to Gaussians that no photo shows.
        cameras: of each photo; their world is the frame of the cloud, a scale is allowed in them.
        gains: factors of the photos in linear light (PhotoTexture.gains); the photos as they are if left out.
    Raises: InvalidOption: no photo, or sizes of photo and camera differ.
    """
    config = config or SplatColourConfig()
    check_sizes(photos, cameras)
    factors = np.ones((len(photos), 3)) if gains is None else gains
    pieces = [_equations(cloud, *view, config) for view in zip(photos, cameras, factors, strict=True)]
    weights, wanted = vstack([weights for weights, _ in pieces], format="csr"), np.concatenate([y for _, y in pieces])
    stored = np.clip(0.5 + SH_DC * cloud.sh_dc.detach().cpu().double().numpy(), 0, 1)
    if weights.shape[0] == 0:
        return cloud
    cover = weights.sum(axis=1)
    wanted = wanted * cover[:, None]  # what shines through is left out of both sides
    start = _shifted(stored, weights, wanted, cover)
    change = _least_squares(weights, wanted - weights @ start, config)
    given = weights.T @ cover
    trust = given / (given + config.stiffness)
    normals = _normals(cloud, mesh)
    colours = start + change + (1 - trust[:, None]) * _continued(cloud, normals, change, trust, config)
    sh_dc = (np.clip(colours, 0, 1) - 0.5) / SH_DC
    return replace(cloud, sh_dc=torch.as_tensor(sh_dc, dtype=cloud.sh_dc.dtype, device=cloud.sh_dc.device))


def _equations(
    cloud: GaussianCloud, photo: Photo, camera: Camera, gain: Float[np.ndarray, " 3"], config: SplatColourConfig
) -> tuple[csr_array, Float32[np.ndarray, "pixel 3"]]:
    """Shares of the Gaussians in the photo's pixels that count, and the sRGB colours those should have."""
    shrink = max(1.0, max(photo.mask.shape) / config.longest_side)
    width, height = (max(1, round(side / shrink)) for side in (camera.width, camera.height))
    light = linear_from_srgb(np.arange(256, dtype=np.float32) / 255).astype(np.float32)[photo.rgb] * gain
    reduced = np.stack([averaged(light[..., i].astype(np.float32), width, height) for i in range(3)], axis=-1)
    inside = _inside(averaged(photo.mask.astype(np.float32), width, height) > 1 - 1e-3, config.outline_margin)
    intrinsics = np.diag([width / camera.width, height / camera.height, 1.0]) @ camera.intrinsics
    weights = splat_weights(cloud, intrinsics, camera.camera_from_world, inside)
    covered = weights.sum(axis=1) >= LEAST_COVER
    stored = srgb_from_linear(np.clip(reduced[inside], 0, 1))
    return weights[covered], stored[covered].astype(np.float32)


def _inside(mask: Bool[np.ndarray, "h w"], margin: float) -> Bool[np.ndarray, "h w"]:
    deep: Bool[np.ndarray, "h w"] = mask if mask.all() else distance_transform_edt(mask) - 0.5 >= margin
    return deep


def _shifted(
    stored: Float[np.ndarray, "gaussian 3"],
    weights: csr_array,
    wanted: Float[np.ndarray, "pixel 3"],
    cover: Float[np.ndarray, " pixel"],
) -> Float[np.ndarray, "gaussian 3"]:
    """The model's colours, moved in linear light so that its picture meets the photos on the whole."""
    some = np.arange(0, len(cover), max(1, len(cover) // SHIFT_PIXELS))
    model = (weights[some] @ stored) / cover[some, None]
    shift = model_shift(
        linear_from_srgb(model), linear_from_srgb(wanted[some] / cover[some, None]), cover[some].astype(np.float64)
    )
    moved: Float[np.ndarray, "gaussian 3"] = srgb_from_linear(np.clip(shift(linear_from_srgb(stored)), 0, 1))
    return moved


def _least_squares(
    weights: csr_array, apart: Float[np.ndarray, "pixel 3"], config: SplatColourConfig
) -> Float[np.ndarray, "gaussian 3"]:
    """x that makes |weights x - apart|^2 + stiffness |x|^2 small, by conjugate gradients from 0, channel by channel."""
    x = np.zeros((weights.shape[1], 3))
    across = weights.T.tocsr()
    rest = across @ apart
    way, squared = rest.copy(), np.square(rest).sum(axis=0)
    for _ in range(config.iterations):
        moved = across @ (weights @ way) + config.stiffness * way
        step = squared / np.maximum((way * moved).sum(axis=0), 1e-30)
        x += step * way
        rest -= step * moved
        new = np.square(rest).sum(axis=0)
        way = rest + new / np.maximum(squared, 1e-30) * way
        squared = new
    return x


def _normals(cloud: GaussianCloud, mesh: Mesh) -> Float32[np.ndarray, "gaussian 3"]:
    """Normal of the mesh where it is nearest to each Gaussian."""
    means = cloud.means.detach().cpu().double().numpy()
    normals: Float32[np.ndarray, "gaussian 3"] = vertex_normals(mesh)[cKDTree(mesh.vertices).query(means)[1]]
    return normals


def _continued(
    cloud: GaussianCloud,
    normals: Float32[np.ndarray, "gaussian 3"],
    change: Float[np.ndarray, "gaussian 3"],
    trust: Float[np.ndarray, " gaussian"],
    config: SplatColourConfig,
) -> Float32[np.ndarray, "gaussian 3"]:
    """The change of the Gaussians that are seen, continued along the surface."""
    means = cloud.means.detach().cpu().float().numpy()
    fade = config.fade * float(np.ptp(means, axis=0).max())
    if fade <= 0:
        return np.zeros(means.shape, np.float32)
    nodes, every = nodes_of(means, normals, fade / FADE_CELLS), np.arange(len(means))
    sums = gathered(nodes, change, np.where(trust >= ANCHOR, trust, 0), every).astype(np.float64)
    known = sums[:, 3] / np.maximum(np.bincount(nodes.of_point, minlength=len(sums)), 1)
    apart = spread(nodes, sums[:, :3] / np.maximum(sums[:, 3:], 1e-9), known, reach=fade)
    even = np.concatenate([apart, np.ones((len(apart), 1))], axis=1).astype(np.float32)
    return smoothed(nodes, even, means, normals, nodes.of_point)
