"""Photos -> texture: every texel takes its colour from the photos that see it, and from the model where none does.

Photos are brought to one exposure and white balance, then joined band by band: what varies slowly over the surface is
blended softly over all photos, so that no seam shows; details come from the photo that sees a point best, so that
photos that do not quite meet neither blur nor double. Sums are taken in linear light; the texture is sRGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from mvsam3d.errors import InvalidOption
from mvsam3d.io.glb import linear_from_srgb, vertex_normals
from mvsam3d.meshing.exposure import Shift, evening_gains, model_shift
from mvsam3d.meshing.seeing import Sight, SightConfig, check_sizes, light_at, looked, sight
from mvsam3d.meshing.surface_smoothing import Nodes, gathered, nodes_of, smoothed, spread
from mvsam3d.meshing.texture import Texels, find_texels, mixed_over, texture_of
from mvsam3d.rendering.meshes import face_normals, sample_texture
from mvsam3d.types import Camera, Mesh, Photo

EXPOSURE_POINTS = 20_000  # texels at which exposures, and photos and model, are compared
COUNTS = 0.05  # sureness from which a photo is said to see a texel
FINER = 1.3  # pixels a texel from which the next larger texture pays
RESOLUTIONS = (1024, 2048)
FILLED = 0.6  # share of a texture that charts fill, before there is one
MOST_SURFACE = 0.75  # share of the surface that is to be as fine as the photos
WELL_SEEN = 0.4  # cosine
LEAST_INNER = np.float32(1e-3)
FADE_CELLS = 4  # grid cells in the way over which colours fade


@dataclass(frozen=True)
class PhotoTextureConfig:
    """How photos become a texture."""

    resolution: int = 0
    """Texels along a side; 0: 1024, or 2048 where the photos show more than that holds."""
    sight: SightConfig = field(default_factory=SightConfig)
    """When a photo sees a point."""
    bands: tuple[float, ...] = (0.02, 0.12)
    """Where bands of detail part, finest first, as shares of the object's longest side; ascending."""
    sharpness: tuple[float, ...] = (6.0, 2.0, 1.0)
    """Power of the weights in each band, finest first; one more than `bands`. 1 blends softly, 8 all but picks the best photo."""
    even: bool = True
    """Bring the photos to one exposure and white balance first."""
    fade: float = 0.1
    """Share of the object's longest side over which what the photos say near the border of the seen part is forgotten."""


@dataclass(frozen=True)
class PhotoTexture:
    """A mesh with the photos' colours, and what of it they saw."""

    mesh: Mesh  # uv and texture
    views_seen: UInt8[np.ndarray, "h w"]  # photos that see each texel; 0 beside the charts
    face_views: Bool[np.ndarray, "view face"]  # which photo sees the middle of which face
    seen_fraction: float  # of the surface's area, seen by one photo or more
    gains: Float[np.ndarray, "view 3"]  # factors of the photos, linear light
    shift: Shift  # what was done to the model's colours
    pixels_per_texel: float  # side of a texel in the photo that shows it finest, over most of the surface

    def seen_by(self) -> tuple[float, ...]:
        """The part of the surface that each photo sees, by the middles of the faces."""
        area = np.linalg.norm(face_normals(self.mesh.vertices, self.mesh.faces), axis=1)
        return tuple(float(area[seen].sum() / max(float(area.sum()), 1e-30)) for seen in self.face_views)


def photo_textured(
    mesh: Mesh, photos: Sequence[Photo], cameras: Sequence[Camera], config: PhotoTextureConfig | None = None
) -> PhotoTexture:
    """Texture a mesh from photos.

    Args:
        mesh: with uv, and with the model's colours as texture (on that uv) or at the vertices.
        photos: any number, from one.
        cameras: of each photo; their world is the mesh's frame, a scale is allowed in them.
    Raises: InvalidOption: no photo, sizes of photo and camera differ, no uv, no colours, bands and sharpness amiss.
    """
    config = config or PhotoTextureConfig()
    _check(mesh, photos, cameras, config)
    size = float(np.ptp(mesh.vertices, axis=0).max())
    resolution = config.resolution or needed_resolution(mesh, cameras)
    texels = find_texels(mesh, resolution)
    points, normals = _surface(mesh, texels)
    model = _model_light(mesh, texels)
    area = _texel_areas(mesh, texels)
    texel = float(np.sqrt(np.median(area))) if len(area) else 0.0
    sights = [sight(mesh, *pair, config.sight, texel=texel) for pair in zip(photos, cameras, strict=True)]
    weights, sure = _looked(sights, points, normals, config.sight)
    gains = _gains(sights, points, weights) if config.even else np.ones((len(photos), 3))
    sights = [replace(s, light=(s.light * g).astype(np.float32)) for s, g in zip(sights, gains, strict=True)]
    light = _joined(sights, points, normals, weights, sure, config, size)
    best = sure.max(axis=0)
    some = np.flatnonzero(best > 0)[:: max(1, int((best > 0).sum()) // EXPOSURE_POINTS)]
    shift = model_shift(model[some], light[some], (best * area)[some])
    light = _completed(light, best, shift(model), points, normals, config.fade * size)
    counts = np.zeros((resolution, resolution), np.uint8)
    counts[texels.rows, texels.columns] = (sure > COUNTS).sum(axis=0)
    seen = best > COUNTS
    return PhotoTexture(
        mesh=replace(mesh, vertex_colours=None, texture=texture_of(light, texels, resolution)),
        views_seen=counts,
        face_views=_faces_seen(sights, mesh, config.sight),
        seen_fraction=float(area[seen].sum() / max(float(area.sum()), 1e-30)),
        gains=gains,
        shift=shift,
        pixels_per_texel=pixels_per_unit(mesh, cameras) * texel,
    )


def needed_resolution(mesh: Mesh, cameras: Sequence[Camera]) -> int:
    """1024, or 2048 where a pixel of the photos would be smaller than a texel of that."""
    corners = mesh.vertices[mesh.faces]
    area = (
        float(np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()) / 2
    )
    filled = FILLED if mesh.uv is None else float(_uv_areas(mesh).sum())
    wanted = pixels_per_unit(mesh, cameras) * np.sqrt(area / max(filled, 1e-6))
    return next((side for side in RESOLUTIONS if wanted <= FINER * side), RESOLUTIONS[-1])


def pixels_per_unit(mesh: Mesh, cameras: Sequence[Camera]) -> float:
    """Pixels of the photos to a length of 1 on the surface: what most of it has at least in the photo that looks at it
    from nearest and straightest, whatever stands between. 0 if no camera looks at it."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    middles, normals = corners.mean(axis=1), face_normals(mesh.vertices, mesh.faces).astype(np.float64)
    areas = np.linalg.norm(normals, axis=1)
    normals = normals / np.maximum(areas, 1e-300)[:, None]
    finest = np.zeros(len(middles))
    for camera in cameras:
        linear, shift = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
        at, turned = middles @ linear.T + shift, normals @ linear.T
        scale = np.cbrt(abs(np.linalg.det(linear)))
        cosine = -(at * turned).sum(axis=1) / np.maximum(np.linalg.norm(at, axis=1) * scale, 1e-12)
        focal = np.sqrt(abs(np.linalg.det(camera.intrinsics[:2, :2])))
        there = (at[:, 2] > 0) & (cosine > WELL_SEEN)
        fine = focal * scale * np.sqrt(np.maximum(cosine, 0)) / np.maximum(at[:, 2], 1e-12)
        finest = np.where(there, np.maximum(finest, fine), finest)
    looked_at = finest > 0
    if not looked_at.any():
        return 0.0
    order = np.argsort(-finest[looked_at])
    running = np.cumsum(areas[looked_at][order])
    return float(finest[looked_at][order][np.searchsorted(running, MOST_SURFACE * running[-1])])


def _check(mesh: Mesh, photos: Sequence[Photo], cameras: Sequence[Camera], config: PhotoTextureConfig) -> None:
    check_sizes(photos, cameras)
    if mesh.uv is None:
        raise InvalidOption("the mesh has no uv to lay a texture on: unwrap it first")
    if mesh.texture is None and mesh.vertex_colours is None:
        raise InvalidOption("the mesh has no colours for what no photo sees: give it vertex colours or a texture")
    if len(config.sharpness) != len(config.bands) + 1:
        raise InvalidOption(
            f"{len(config.bands)} borders between bands part {len(config.bands) + 1} bands, but there are "
            f"{len(config.sharpness)} powers in sharpness"
        )
    if not all(0 < a < b for a, b in zip(config.bands, (*config.bands[1:], np.inf), strict=True)):
        raise InvalidOption(f"bands = {config.bands}: give positive sizes, the finest first")


def _surface(mesh: Mesh, texels: Texels) -> tuple[Float32[np.ndarray, "point 3"], Float32[np.ndarray, "point 3"]]:
    """Points and unit normals of the texels."""
    normals = mixed_over(vertex_normals(mesh), mesh, texels)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return mixed_over(mesh.vertices, mesh, texels), normals


def _model_light(mesh: Mesh, texels: Texels) -> Float32[np.ndarray, "point 3"]:
    assert mesh.uv is not None
    if mesh.texture is not None:
        uv = np.concatenate([mesh.uv, np.zeros((len(mesh.uv), 1))], axis=1)
        return linear_from_srgb(sample_texture(mesh.texture, mixed_over(uv, mesh, texels)[:, :2])).astype(np.float32)
    assert mesh.vertex_colours is not None
    return mixed_over(linear_from_srgb(mesh.vertex_colours), mesh, texels)


def _uv_areas(mesh: Mesh) -> Float[np.ndarray, " face"]:
    assert mesh.uv is not None
    corners = mesh.uv[mesh.faces].astype(np.float64)
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas: Float[np.ndarray, " face"] = np.abs(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]) / 2
    return areas


def _texel_areas(mesh: Mesh, texels: Texels) -> Float32[np.ndarray, " point"]:
    """Surface of each texel: its face's, shared among the face's texels."""
    areas = np.linalg.norm(face_normals(mesh.vertices, mesh.faces), axis=1) / 2
    counts = np.bincount(texels.faces, minlength=len(mesh.faces))
    shares: Float32[np.ndarray, " point"] = (areas / np.maximum(counts, 1))[texels.faces].astype(np.float32)
    return shares


def _looked(
    sights: Sequence[Sight],
    points: Float32[np.ndarray, "point 3"],
    normals: Float32[np.ndarray, "point 3"],
    config: SightConfig,
) -> tuple[Float32[np.ndarray, "view point"], Float32[np.ndarray, "view point"]]:
    both = [looked(seen, points, normals, config) for seen in sights]
    return np.stack([weights for weights, _ in both]), np.stack([sure for _, sure in both])


def _gains(
    sights: Sequence[Sight], points: Float32[np.ndarray, "point 3"], weights: Float32[np.ndarray, "view point"]
) -> Float[np.ndarray, "view 3"]:
    seen = np.flatnonzero((weights > 0).any(axis=0))
    some = seen[:: max(1, len(seen) // EXPOSURE_POINTS)]
    if len(some) == 0:
        return np.ones((len(sights), 3))
    return evening_gains(np.stack([light_at(seen, points[some]) for seen in sights]), weights[:, some])


def _joined(
    sights: Sequence[Sight],
    points: Float32[np.ndarray, "point 3"],
    normals: Float32[np.ndarray, "point 3"],
    weights: Float32[np.ndarray, "view point"],
    sureness: Float32[np.ndarray, "view point"],
    config: PhotoTextureConfig,
    size: float,
) -> Float32[np.ndarray, "point 3"]:
    """Light of the photos at each point, band by band; 0 where none sees it.

    A band is the difference of two smoothings of one photo's light over what it sees, so the bands of one photo sum to
    that light, and none holds a step between photos. In all but the finest, a photo comes in over the width of the band
    from the border of what it sees.
    """
    grids = [nodes_of(points, normals, share * size) for share in config.bands]
    best, most = np.maximum(weights.max(axis=0), 1e-30), sureness.max(axis=0)
    sums = [np.zeros((len(points), 4), np.float32) for _ in config.sharpness]
    for seen, weight, sure in zip(sights, weights, sureness, strict=True):
        some = np.flatnonzero(weight > 0)
        if len(some) == 0:
            continue
        own = light_at(seen, points[some])
        share = weight[some] / best[some]
        levels = [own, *(_smoothed(nodes, own, share, some, points, normals) for nodes in grids)]
        for band, power in enumerate(config.sharpness):
            detail = levels[band] - levels[band + 1] if band < len(grids) else levels[band]
            inner = 1.0 if band == 0 else _inner(grids[band - 1], sure[some], most, some, points, normals)
            trust = share**power * inner
            sums[band][some, :3] += trust[:, None] * detail
            sums[band][some, 3] += trust
    joined = np.zeros((len(points), 3), np.float32)
    for total in sums:
        joined += total[:, :3] / np.maximum(total[:, 3:], 1e-30)
    return np.maximum(joined, 0)


def _smoothed(
    nodes: Nodes,
    own: Float32[np.ndarray, "some 3"],
    share: Float32[np.ndarray, " some"],
    some: np.ndarray,
    points: Float32[np.ndarray, "point 3"],
    normals: Float32[np.ndarray, "point 3"],
) -> Float32[np.ndarray, "some 3"]:
    return smoothed(nodes, gathered(nodes, own, share, some), points[some], normals[some], nodes.of_point[some])


def _inner(
    nodes: Nodes,
    sure: Float32[np.ndarray, " some"],
    most: Float32[np.ndarray, " point"],
    some: np.ndarray,
    points: Float32[np.ndarray, "point 3"],
    normals: Float32[np.ndarray, "point 3"],
) -> Float32[np.ndarray, " some"]:
    """From LEAST_INNER at the border of what a photo sees to 1 a cell further in: of what the photos together see (`most`)
    around the point, it sees half there and all here. Where no photo sees better, the photo still counts."""
    sums = gathered(nodes, sure[:, None], np.ones_like(sure), some)
    sums[:, 1] = np.bincount(nodes.of_point, most, minlength=len(sums))
    around = smoothed(nodes, sums, points[some], normals[some], nodes.of_point[some])[:, 0]
    way = np.clip(2 * around - 1, 0, 1)
    inner: Float32[np.ndarray, " some"] = LEAST_INNER + way * way * (3 - 2 * way)
    return inner


def _completed(
    light: Float32[np.ndarray, "point 3"],
    sure: Float32[np.ndarray, " point"],
    model: Float32[np.ndarray, "point 3"],
    points: Float32[np.ndarray, "point 3"],
    normals: Float32[np.ndarray, "point 3"],
    fade: float,
) -> Float32[np.ndarray, "point 3"]:
    """The photos' light where they are sure; elsewhere the model's, moved by what parts the two at the border."""
    if not (sure > 0).any():
        return model
    if sure.min() >= 1:
        return light
    nodes = nodes_of(points, normals, fade / FADE_CELLS)
    known = np.flatnonzero(sure > 0)
    sums = gathered(nodes, (light - model)[known], sure[known], known).astype(np.float64)
    count = np.bincount(nodes.of_point, minlength=len(sums))
    apart = spread(nodes, sums[:, :3] / np.maximum(sums[:, 3:], 1e-9), sums[:, 3] / np.maximum(count, 1), reach=fade)
    rest = np.flatnonzero(sure < 1)
    even = np.concatenate([apart, np.ones((len(apart), 1))], axis=1).astype(np.float32)
    moved = smoothed(nodes, even, points[rest], normals[rest], nodes.of_point[rest])
    out = light.copy()
    share = sure[rest, None]
    out[rest] = share * light[rest] + (1 - share) * np.maximum(model[rest] + moved, 0)
    return out


def _faces_seen(sights: Sequence[Sight], mesh: Mesh, config: SightConfig) -> Bool[np.ndarray, "view face"]:
    middles = mesh.vertices[mesh.faces].mean(axis=1).astype(np.float32)
    normals = face_normals(mesh.vertices, mesh.faces)
    normals = (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)).astype(np.float32)
    return np.stack([looked(seen, middles, normals, config)[1] > COUNTS for seen in sights])


# --- coverage ---

NO_VIEW = (150, 150, 150)  # sRGB
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # dark violet to yellow: even steps


def coverage_colours(most: int) -> UInt8[np.ndarray, "count 3"]:
    """sRGB of surfaces seen by 0 (grey), 1, ... `most` photos, from dark violet to yellow."""
    at = np.linspace(0, len(RAMP) - 1, most) if most > 1 else np.array([len(RAMP) - 1.0])
    ramp = np.stack([np.interp(at, np.arange(len(RAMP)), np.array(RAMP)[:, i]) for i in range(3)], axis=1)
    return np.concatenate([[NO_VIEW], np.round(ramp)]).astype(np.uint8)


def coverage_mesh(texture: PhotoTexture) -> Mesh:
    """The mesh painted by how many photos see each texel, in `coverage_colours` of the number of photos."""
    mesh = texture.mesh
    colours = coverage_colours(len(texture.gains))
    texels = find_texels(mesh, len(texture.views_seen))
    light = linear_from_srgb(colours[texture.views_seen[texels.rows, texels.columns]] / np.float32(255))
    return replace(mesh, texture=texture_of(light, texels, len(texture.views_seen)))
