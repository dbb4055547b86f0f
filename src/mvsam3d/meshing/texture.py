"""Colours -> texture on a Mesh: every texel asks a colour source what the surface looks like there.

A source gives linear light at points of the surface; sums and means are taken in linear light, the texture is sRGB.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.compiled import compiled
from mvsam3d.io.glb import linear_from_srgb, srgb_from_linear, vertex_normals
from mvsam3d.meshing.unwrap import ByProjection, Unwrapping, unwrapped
from mvsam3d.types import GaussianCloud, Mesh

SH_DC = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))
FEW = 100  # Gaussians of which all are asked
GRID_LIMIT = 192  # cells along an axis in the search for near Gaussians
FAR_WEIGHT = (
    1e-3  # of a Gaussian as near as the spacing, against its own bell of height 1: decides where no bell reaches
)

Points = Float[np.ndarray, "point 3"]
ColourAt = Callable[[Points, Points], Points]  # (points, unit normals) in the object frame -> linear light in [0, 1]


@dataclass(frozen=True)
class TextureConfig:
    """How the texture is laid out."""

    resolution: int = 1024
    """Texels along a side."""
    padding: int = 2
    """Free texels around each chart."""
    unwrapping: Unwrapping = field(default_factory=ByProjection)


@dataclass(frozen=True)
class Texels:
    """The texels that lie on the surface."""

    rows: Int32[np.ndarray, " point"]
    columns: Int32[np.ndarray, " point"]
    faces: Int32[np.ndarray, " point"]
    barycentrics: Float32[np.ndarray, "point 3"]


def textured(mesh: Mesh, source: ColourAt | None = None, config: TextureConfig | None = None) -> Mesh:
    """Unwrap the mesh and bake its texture.

    Args:
        source: colours on the surface; the mesh's vertex colours if left out.
    Raises: InvalidOption: neither source nor vertex colours, or too small a texture.
    """
    config = config or TextureConfig()
    flat = unwrapped(mesh, config.unwrapping, resolution=config.resolution, padding=config.padding)
    return baked(flat, source, resolution=config.resolution)


def baked(mesh: Mesh, source: ColourAt | None = None, *, resolution: int = 1024) -> Mesh:
    """The mesh with a texture for the uv it has; texels beside the charts get the nearest chart's colour.

    Raises: InvalidOption: neither source nor vertex colours.
    """
    assert mesh.uv is not None, "unwrap first"
    if source is None and mesh.vertex_colours is None:
        raise InvalidOption("nothing to bake: the mesh has no vertex colours and no colour source is given")
    texels = find_texels(mesh, resolution)
    if source is None:
        assert mesh.vertex_colours is not None
        light = mixed_over(linear_from_srgb(mesh.vertex_colours), mesh, texels)
    else:
        normals = mixed_over(vertex_normals(mesh), mesh, texels)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        light = source(mixed_over(mesh.vertices, mesh, texels), normals)
    return replace(mesh, vertex_colours=None, texture=texture_of(light, texels, resolution))


def find_texels(mesh: Mesh, resolution: int) -> Texels:
    """Texels whose middle lies in a face."""
    assert mesh.uv is not None
    places = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1).astype(np.float64) * resolution
    faces = np.full((resolution, resolution), -1, np.int32)
    barycentrics = np.zeros((resolution, resolution, 3), np.float32)
    _lay(places, mesh.faces.astype(np.int64), faces, barycentrics)
    rows, columns = np.nonzero(faces >= 0)
    return Texels(rows.astype(np.int32), columns.astype(np.int32), faces[rows, columns], barycentrics[rows, columns])


@compiled
def _lay(places: np.ndarray, faces: np.ndarray, face_ids: np.ndarray, barycentrics: np.ndarray) -> None:
    height, width = face_ids.shape
    for face in range(len(faces)):
        ax, ay = places[faces[face, 0]]
        bx, by = places[faces[face, 1]]
        cx, cy = places[faces[face, 2]]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        u_x, u_y, v_x, v_y = (by - cy) / area, (cx - bx) / area, (cy - ay) / area, (ax - cx) / area
        for row in range(max(int(min(ay, by, cy)), 0), min(int(max(ay, by, cy)) + 1, height)):
            for column in range(max(int(min(ax, bx, cx)), 0), min(int(max(ax, bx, cx)) + 1, width)):
                x, y = column + 0.5 - cx, row + 0.5 - cy
                u, v = u_x * x + u_y * y, v_x * x + v_y * y
                if u >= 0.0 and v >= 0.0 and u + v <= 1.0:
                    face_ids[row, column] = face
                    barycentrics[row, column, 0] = u
                    barycentrics[row, column, 1] = v
                    barycentrics[row, column, 2] = 1.0 - u - v


def mixed_over(values: Float[np.ndarray, "vertex 3"], mesh: Mesh, texels: Texels) -> Float32[np.ndarray, "point 3"]:
    """Values at the vertices -> at the texels."""
    out = np.empty((len(texels.faces), 3), np.float32)
    _mix(values.astype(np.float32), mesh.faces.astype(np.int64), texels.faces, texels.barycentrics, out)
    return out


@compiled
def _mix(
    values: np.ndarray, faces: np.ndarray, face_ids: np.ndarray, barycentrics: np.ndarray, out: np.ndarray
) -> None:
    for i in range(len(face_ids)):
        a, b, c = faces[face_ids[i]]
        for axis in range(3):
            out[i, axis] = (
                barycentrics[i, 0] * values[a, axis]
                + barycentrics[i, 1] * values[b, axis]
                + barycentrics[i, 2] * values[c, axis]
            )


def texture_of(light: Points, texels: Texels, resolution: int) -> UInt8[np.ndarray, "h w 3"]:
    """sRGB image; the gutter between the charts repeats the nearest texel, so that no viewer blends in a background."""
    image = np.full((resolution, resolution, 3), 128, np.uint8)
    if len(light) == 0:
        return image
    stored = srgb_from_linear(np.clip(light, 0, 1).astype(np.float32)) * 255
    image[texels.rows, texels.columns] = np.round(stored).astype(np.uint8)
    free = np.ones((resolution, resolution), bool)
    free[texels.rows, texels.columns] = False
    nearest = distance_transform_edt(free, return_distances=False, return_indices=True)
    filled: UInt8[np.ndarray, "h w 3"] = image[nearest[0], nearest[1]]
    return filled


# --- colours of a Gaussian cloud ---


def colour_from_gaussians(cloud: GaussianCloud, *, least_opacity: float = 0.02) -> ColourAt:
    """Mean colour of the Gaussians around a point, weighted by opacity times the bell of each.

    Where no bell reaches, the nearest Gaussians decide. Gaussians under `least_opacity` do not count.

    Raises: InvalidOption: no Gaussian is opaque enough.
    """
    means, scales, rotations, opacities, sh_dc = (
        value.detach().cpu().double().numpy()
        for value in (cloud.means, cloud.scales, cloud.rotations, cloud.opacities, cloud.sh_dc)
    )
    keep = opacities >= least_opacity
    if not keep.any():
        raise InvalidOption(
            f"none of {len(keep)} Gaussians has an opacity of {least_opacity}: no colours for a texture"
        )
    means, opacities = means[keep], opacities[keep]
    light = linear_from_srgb(np.clip(0.5 + SH_DC * sh_dc[keep], 0, 1))
    inverse = _inverse_covariances(scales[keep], rotations[keep])
    spacing = _spacing(means)
    low = means.min(axis=0)
    cell = _cell_size(means, scales[keep], spacing)
    cells = (np.ptp(means, axis=0) / cell).astype(np.int64) + 1
    place = ((means - low) / cell).astype(np.int64)
    key = (place[:, 0] * cells[1] + place[:, 1]) * cells[2] + place[:, 2]
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.arange(int(cells.prod()) + 1)).astype(np.int32)
    table = np.concatenate([means, opacities[:, None], light, inverse], axis=1)[order].astype(np.float32)

    @cache
    def tree() -> cKDTree:
        return cKDTree(means)

    def colour_at(points: Points, normals: Points) -> Points:
        out = np.empty((len(points), 3), np.float32)
        lonely = np.zeros(len(points), np.bool_)
        _gather(points.astype(np.float32), table, starts, cells, low, cell, spacing, out, lonely)
        if lonely.any():
            out[lonely] = light[tree().query(points[lonely])[1]]
        return out

    return colour_at


def _inverse_covariances(
    scales: Float[np.ndarray, "gaussian 3"], rotations: Float[np.ndarray, "gaussian 4"]
) -> Float[np.ndarray, "gaussian 6"]:
    """xx yy zz xy xz yz of the inverse covariance."""
    w, x, y, z = (rotations / np.maximum(np.linalg.norm(rotations, axis=1, keepdims=True), 1e-12)).T
    axes = np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )
    scaled = axes / np.maximum(scales, 1e-6)[:, None, :]
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    return np.stack([(scaled[:, i] * scaled[:, j]).sum(axis=1) for i, j in pairs], axis=1)


def _cell_size(
    means: Float[np.ndarray, "gaussian 3"], scales: Float[np.ndarray, "gaussian 3"], spacing: float
) -> float:
    """Gaussians within one to two cells of a point are asked: those whose bell reaches, but of dense clouds not more
    than about a hundred, and all of a small cloud."""
    extent = float(np.ptp(means, axis=0).max())
    reach = 2 * float(np.median(scales.max(axis=1)))
    cell = max(2 * spacing, min(reach, 3 * spacing), extent / GRID_LIMIT)
    return cell if len(means) > FEW else max(cell, 2 * extent, 6 * float(scales.max()))


def _spacing(means: Float[np.ndarray, "gaussian 3"]) -> float:
    """About how far apart Gaussians spread evenly over the faces of their bounding box would be."""
    x, y, z = np.maximum(np.ptp(means, axis=0), 1e-4)
    return float(np.sqrt(2 * (x * y + y * z + z * x) / len(means)))


@compiled
def _gather(
    points: np.ndarray,
    table: np.ndarray,
    starts: np.ndarray,
    cells: np.ndarray,
    low: np.ndarray,
    cell: float,
    spacing: float,
    out: np.ndarray,
    lonely: np.ndarray,
) -> None:
    """Weighted colours over the 27 cells around each point; `lonely` where they are empty.

    A row of `table`: mean, opacity, linear light, inverse covariance.
    """
    near = np.float32(spacing * spacing)
    for i in range(len(points)):
        x, y, z = points[i]
        a, b, c = int((x - low[0]) // cell), int((y - low[1]) // cell), int((z - low[2]) // cell)
        total, red, green, blue = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for u in range(max(a - 1, 0), min(a + 2, cells[0])):
            for v in range(max(b - 1, 0), min(b + 2, cells[1])):
                row = (u * cells[1] + v) * cells[2]
                first, last = max(c - 1, 0), min(c + 2, cells[2])
                if first >= last:
                    continue
                for j in range(starts[row + first], starts[row + last]):
                    dx, dy, dz = x - table[j, 0], y - table[j, 1], z - table[j, 2]
                    squared = dx * dx * table[j, 7] + dy * dy * table[j, 8] + dz * dz * table[j, 9]
                    squared += 2 * (dx * dy * table[j, 10] + dx * dz * table[j, 11] + dy * dz * table[j, 12])
                    far = near / (near + 4 * (dx * dx + dy * dy + dz * dz))
                    weight = np.float32(FAR_WEIGHT) * far * far
                    if squared < 40:  # beyond, the bell is under 2e-9
                        weight += np.exp(np.float32(-0.5) * squared)
                    weight *= table[j, 3]
                    total += weight
                    red += weight * table[j, 4]
                    green += weight * table[j, 5]
                    blue += weight * table[j, 6]
        lonely[i] = total <= 0
        if total > 0:
            out[i, 0], out[i, 1], out[i, 2] = red / total, green / total, blue / total
