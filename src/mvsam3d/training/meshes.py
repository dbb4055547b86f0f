"""The shared meshes as training data: load, augment, render, voxelise, sample. Numpy and numba (and pillow) only.

The stored meshes are +Z up, centred, longest side 1; many are open, doubled or cut through themselves, so nothing here
trusts closedness, and winding only where nothing else can tell (plates thinner than a cell of `FINE` cells a side).
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from PIL import Image

from mvsam3d.errors import BadFile
from mvsam3d.rendering.meshes import corner_normals, face_normals, interpolate, rasterise, sample_texture
from mvsam3d.training import mesh_kernels as kernels
from mvsam3d.training.objects.program import SKIN
from mvsam3d.training.objects.render import Light

LONGEST_SIDE = 0.99  # as the generated objects: off the border of the cube
FINE = 64  # cells a side of the grid that tells outside from inside
INWARD = 1 - 1e-5  # shrinks the mesh about the origin: a face on a cell's border counts for the cell nearer the centre
REALISTIC_SETS = frozenset({"babylon", "gazebo", "gso", "misc", "pcf", "pmndrs", "robomaker", "urdf", "ycb"})


@dataclass(frozen=True)
class MeshRecord:
    """One line of the index: what the loader and the sampler need."""

    id: str
    set: str
    file: str  # relative to the folder of the index
    category: str
    split: str
    nearest: bool  # palette texture: blocks of colour, not to be blended

    @property
    def realistic(self) -> bool:
        """Scanned or photo-textured."""
        return self.set in REALISTIC_SETS


@dataclass(frozen=True)
class TrainingMesh:
    """A textured mesh in the object frame; what follows from it is worked out once, when asked for."""

    vertices: Float32[np.ndarray, "vertex 3"]
    faces: Int32[np.ndarray, "face 3"]
    uv: Float32[np.ndarray, "vertex 2"]  # v upward: image row = (1 - v) * height
    texture: UInt8[np.ndarray, "h w 3"]  # sRGB
    nearest: bool = False
    gloss: tuple[float, float] = (0.6, 0.05)  # roughness (width of highlights) and specular (their strength)

    @cached_property
    def shading_normals(self) -> Float32[np.ndarray, "face 3 3"]:
        """Unit normals at the corners of the faces, smooth except at creases; sign as wound."""
        return corner_normals(self.vertices, self.faces)

    @property
    def hull(self) -> Float32[np.ndarray, "point 3"]:
        """Points whose outline is the object's."""
        return self.vertices

    @cached_property
    def buckets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Faces by cell: see `_buckets`."""
        return _buckets(self.vertices, self.faces)

    @cached_property
    def fine(self) -> FineGrid:
        """Inside and outside at FINE cells a side."""
        return _fine_grid(self.vertices, self.faces, FINE)

    @cached_property
    def outward(self) -> tuple[Float32[np.ndarray, "face 3"], Bool[np.ndarray, " face"]]:
        """Unit face normals turned outward, and which faces can be seen from outside."""
        return _outward(self.vertices, self.faces, self.fine)


@dataclass(frozen=True)
class FineGrid:
    """Cells the surface touches, and cells inside of it (both False: outside)."""

    surface: Bool[np.ndarray, "x y z"]
    inside: Bool[np.ndarray, "x y z"]


# --- files ------------------------------------------------------------------------------------------------------------


def _read(root: Path, name: str) -> bytes:
    """A file of the folder, or of a zip of the folder (a set of meshes in one file travels more easily)."""
    try:
        if root.suffix == ".zip":
            with zipfile.ZipFile(root) as archive:
                return archive.read(name)
        return (root / name).read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BadFile(f"{root} holds no readable {name} ({error}): give the folder (or a zip) of index.json") from error


@lru_cache(maxsize=8)
def load_mesh_index(root: Path, split: str = "train") -> tuple[MeshRecord, ...]:
    """Records of one split ("train" or "val"), in the order of the index.

    Args:
        root: folder that holds index.json and the GLB files, or a zip of it.
    Raises: BadFile: no index there, or not such an index.
    """
    try:
        rows = json.loads(_read(root, "index.json"))
        records = [
            MeshRecord(row["id"], row["set"], row["file"], row["category"], row["split"], row["texture"] != "image")
            for row in rows
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{root}/index.json is not an index of meshes: {error!r}") from error
    return tuple(record for record in records if record.split == split)


def load_training_mesh(root: Path, record: MeshRecord, rng: np.random.Generator | None = None) -> TrainingMesh:
    """A mesh, longest side LONGEST_SIDE, centred; changed at random if `rng` is given. Raises: BadFile."""
    mesh = read_glb(_read(root, record.file), f"{root}/{record.file}", nearest=record.nearest)
    mesh = replace(mesh, vertices=_normalised(mesh.vertices))
    return mesh if rng is None else augmented(mesh, rng)


def read_glb(content: bytes, source: str, *, nearest: bool) -> TrainingMesh:
    """The mesh of a GLB stored like those of the index: one textured primitive, no transforms. Raises: BadFile."""
    try:
        json_bytes = int.from_bytes(content[12:16], "little")
        header = json.loads(content[20 : 20 + json_bytes])
        binary = memoryview(content)[28 + json_bytes :]
        (primitive,) = header["meshes"][0]["primitives"]
        vertices = _accessor(header, binary, primitive["attributes"]["POSITION"], 3).astype(np.float32)
        uv = _accessor(header, binary, primitive["attributes"]["TEXCOORD_0"], 2).astype(np.float32)
        uv[:, 1] = 1 - uv[:, 1]  # glTF counts v downward
        faces = _accessor(header, binary, primitive["indices"], 1).reshape(-1, 3).astype(np.int32)
        image = header["bufferViews"][header["images"][0]["bufferView"]]
        start = image.get("byteOffset", 0)
        with Image.open(io.BytesIO(binary[start : start + image["byteLength"]])) as picture:
            texture = np.asarray(picture.convert("RGB"))
        if len(uv) != len(vertices) or not np.isfinite(vertices).all() or not np.isfinite(uv).all():
            raise ValueError(f"{len(vertices)} positions and {len(uv)} texture coordinates, or some not finite")
        if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices):
            raise ValueError(f"{len(faces)} faces of {len(vertices)} vertices")
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise BadFile(f"{source} is not a GLB of one textured primitive: {error!r}") from error
    return TrainingMesh(vertices, faces, uv, texture, nearest)


def _accessor(header: dict, binary: memoryview, index: int, channels: int) -> np.ndarray:  # type: ignore[type-arg]
    accessor = header["accessors"][index]
    view = header["bufferViews"][accessor["bufferView"]]
    dtype = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}[accessor["componentType"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    flat = np.frombuffer(binary, dtype, accessor["count"] * channels, start)
    return flat.reshape(-1, channels).copy()


def _normalised(vertices: Float32[np.ndarray, "vertex 3"]) -> Float32[np.ndarray, "vertex 3"]:
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    size = max(float((high - low).max()), 1e-9)
    return np.asarray((vertices - (low + high) / 2) * (LONGEST_SIDE / size), np.float32)


def augmented(mesh: TrainingMesh, rng: np.random.Generator) -> TrainingMesh:
    """Another object of the kind: stretched by 0.8 to 1.25 along each axis, sometimes mirrored, recoloured,
    more or less shiny.

    Heading and +Z up stay; the size is normalised again.
    """
    stretch = np.exp(rng.uniform(np.log(0.8), np.log(1.25), 3)).astype(np.float32)
    vertices, faces = mesh.vertices * stretch, mesh.faces
    if rng.random() < 0.2:
        vertices, faces = vertices * np.array([-1, 1, 1], np.float32), np.ascontiguousarray(faces[:, ::-1])
    gloss = float(rng.uniform(0.15, 0.8)), float(rng.uniform(0, 0.6) * rng.random())
    texture = _recoloured(mesh.texture, rng)
    return replace(mesh, vertices=_normalised(vertices), faces=faces, texture=texture, gloss=gloss)


def _recoloured(texture: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Hue turned (half the time by any angle, else slightly), saturation, brightness and contrast changed."""
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else rng.normal(0, 0.15)
    saturation, gain, contrast = rng.uniform(0.7, 1.3), np.exp(rng.normal(0, 0.2)), rng.uniform(0.85, 1.15)
    # Turning about the grey axis (Rodrigues), with the part across that axis scaled, keeps the channels' mean.
    c, s, third = np.cos(angle) * saturation, np.sin(angle) * saturation / np.sqrt(3), 1 / 3
    turn = c * np.eye(3) + s * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) + (1 - c) * third
    matrix = (gain * contrast * turn).astype(np.float32)
    changed = texture.astype(np.float32) @ matrix.T + np.float32(127.5 * (1 - contrast))
    return np.asarray(np.clip(changed, 0, 255), np.uint8)


# --- inside and outside -----------------------------------------------------------------------------------------------


def _in_cells(vertices: Float[np.ndarray, "vertex 3"], resolution: int) -> np.ndarray:
    return (vertices.astype(np.float64) * INWARD + 0.5) * resolution


def _fine_grid(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> FineGrid:
    """A cell off the surface is inside if no path of free cells leads out of it, or if along two axes at least the
    column through it crosses the surface an odd number of times on both sides.

    The first holds for closed parts however they overlap; the second fills vessels whose one side is missing, as in
    models that lack their underside. A vessel of walls without thickness counts as full, one with thick walls does not.
    """
    cells = _in_cells(vertices, resolution)
    counts = np.zeros((resolution,) * 3, np.int32)
    kernels.touch(cells, faces, resolution, counts, np.empty(0, np.int32))
    surface = counts > 0
    framed, reached = np.pad(surface, 1), np.zeros((resolution + 2,) * 3, bool)
    kernels.flood(framed, reached)
    enclosed = ~(reached | framed)[1:-1, 1:-1, 1:-1]
    votes = np.zeros((resolution,) * 3, np.int8)
    for axis in range(3):
        crossings = np.zeros((resolution, resolution, resolution + 1), np.int16)
        kernels.crossings(cells, faces, axis, crossings)
        kernels.vote(crossings, np.moveaxis(votes, ((axis + 1) % 3, (axis + 2) % 3, axis), (0, 1, 2)))
    return FineGrid(surface, (enclosed | (votes >= 2)) & ~surface)


def solid_grid(
    mesh: TrainingMesh, resolution: int, object_from_cube: Float[np.ndarray, "4 4"] | None = None
) -> Bool[np.ndarray, "x y z"]:
    """Solid cells, axes x, y, z; cell i covers [i, i + 1) / resolution - 0.5.

    A cell is solid if the signed distance at its centre is below SKIN cells (the generator's rule). A cell that the
    surface touches is solid too where none of its six neighbours is by that rule: so sheets without thickness, and
    rods thinner than a cell, stay. Inside is told by `_fine_grid` and, in the cells it leaves open, `signed_distance`.

    Args:
        mesh: in the object frame.
        resolution: cells along an edge.
        object_from_cube: similarity from the frame of the cells, where they fill [-0.5, 0.5]^3; the object's own if left out.
    """
    placed = np.eye(4) if object_from_cube is None else object_from_cube
    back = np.linalg.inv(placed)
    counts = np.zeros((resolution,) * 3, np.int32)
    vertices = mesh.vertices.astype(np.float64) @ back[:3, :3].T + back[:3, 3]
    kernels.touch(_in_cells(vertices, resolution), mesh.faces, resolution, counts, np.empty(0, np.int32))
    touched = counts > 0
    centres = (np.indices(touched.shape).transpose(1, 2, 3, 0) + 0.5) / resolution - 0.5
    centres = centres @ placed[:3, :3].T + placed[:3, 3]
    cell = float(np.cbrt(np.linalg.det(placed[:3, :3]))) / resolution
    solid = _look(mesh.fine.inside, centres)
    unclear = touched | _look(mesh.fine.surface, centres)
    solid[unclear] = signed_distance(mesh, centres[unclear], limit=cell) < SKIN * cell
    beside = np.pad(solid, 1)
    near = solid.copy()
    for axis in range(3):
        for shift in (1, -1):
            near |= np.roll(beside, shift, axis)[1:-1, 1:-1, 1:-1]
    return np.asarray(solid | (touched & ~near))


PROBE = 1.8 / FINE  # a point further than sqrt(3) cells from a plane is never in a cell that the plane touches


def _look(grid: Bool[np.ndarray, "x y z"], points: Float[np.ndarray, "*point 3"]) -> Bool[np.ndarray, "*point"]:
    """The grid at points; False beyond it."""
    cells = np.floor((points * INWARD + 0.5) * len(grid)).astype(np.int64)
    within = ((cells >= 0) & (cells < len(grid))).all(axis=-1)
    x, y, z = np.moveaxis(np.clip(cells, 0, len(grid) - 1), -1, 0)
    return np.asarray(grid[x, y, z] & within)


def _outward(
    vertices: np.ndarray, faces: np.ndarray, fine: FineGrid
) -> tuple[Float32[np.ndarray, "face 3"], Bool[np.ndarray, " face"]]:
    """Face normals that point where the grid says outside: four probes on either side of each face vote, ties keep the
    winding. A face is seen if a probe before it is not inside.
    """
    normals = face_normals(vertices, faces)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    corners = vertices[faces]
    spots = np.concatenate(
        [corners.mean(axis=1, keepdims=True), (corners + corners.mean(axis=1, keepdims=True)) / 2], 1
    )
    score, inside = np.zeros(len(faces), np.int64), {}
    for side in (1, -1):
        probes = spots + side * PROBE * normals[:, None]
        inside[side] = _look(fine.inside, probes)
        score += side * (~inside[side] & ~_look(fine.surface, probes)).sum(axis=1) - side * inside[side].sum(axis=1)
    flip = score < 0
    seen = np.asarray(~np.where(flip[:, None], inside[-1], inside[1]).all(axis=1))
    return np.where(flip[:, None], -normals, normals).astype(np.float32), seen


# --- surface ----------------------------------------------------------------------------------------------------------


def surface_samples(
    mesh: TrainingMesh, n: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"]]:
    """Points spread evenly over the surface seen from outside, outward unit normals, sRGB colours in [0, 1]."""
    normals, seen = mesh.outward
    areas = np.linalg.norm(face_normals(mesh.vertices, mesh.faces), axis=1).astype(np.float64)
    weights = np.where(seen, areas, 0.0) if (seen & (areas > 0)).any() else areas
    faces = rng.choice(len(areas), size=2 * n, p=weights / weights.sum())
    # Uniform on a triangle: 1 - sqrt(a), sqrt(a) (1 - b), sqrt(a) b.
    root, b = np.sqrt(rng.random(2 * n)), rng.random(2 * n)
    shares = np.stack([1 - root, root * (1 - b), root * b], axis=1).astype(np.float32)
    points = (shares[..., None] * mesh.vertices[mesh.faces[faces]]).sum(axis=1)
    buried = _look(mesh.fine.inside, points + PROBE * normals[faces])
    chosen = np.argsort(buried, kind="stable")[:n]  # buried ones only where there are not enough others
    points, faces, shares = points[chosen], faces[chosen], shares[chosen]
    uv = (shares[..., None] * mesh.uv[mesh.faces[faces]]).sum(axis=1)
    return points, normals[faces], sample_texture(mesh.texture, uv, nearest=mesh.nearest)


BUCKETS = 32  # cells a side of the grid that finds near faces


def _buckets(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices in cells; start and end of each cell's faces in the list; the list of faces, cell by cell."""
    cells = (vertices.astype(np.float64) + 0.5) * BUCKETS
    counts = np.zeros((BUCKETS,) * 3, np.int64)
    kernels.touch(cells, faces, BUCKETS, counts, np.empty(0, np.int32))
    ends = np.cumsum(counts).reshape(counts.shape)
    cursor = ends - counts
    starts = np.stack([cursor, ends], axis=-1)
    entries = np.empty(int(ends[-1, -1, -1]), np.int32)
    kernels.touch(cells, faces, BUCKETS, cursor, entries)
    return cells, starts, entries


def signed_distance(
    mesh: TrainingMesh, points: Float[np.ndarray, "point 3"], *, limit: float = 0.1
) -> Float32[np.ndarray, " point"]:
    """Distance to the surface, negative inside, cut off at +-limit (object units).

    The distance is that to the nearest triangle (rounding only). The sign is the grid's (`FineGrid`) in cells that the
    surface does not touch, within them that of the nearest face's outward normal: right for closed surfaces up to faces
    thinner than a cell that are wound inward; a sheet without thickness counts as solid behind, up to the cell's end.
    """
    cells, starts, entries = mesh.buckets
    normals, _ = mesh.outward
    at = (points.astype(np.float64) + 0.5) * BUCKETS
    distances, facing = kernels.nearest(
        at, cells, mesh.faces, normals.astype(np.float64), starts, entries, limit * BUCKETS
    )
    inside = _look(mesh.fine.inside, points) | (_look(mesh.fine.surface, points) & (facing < 0))
    return (np.where(inside, -distances, distances) / BUCKETS).astype(np.float32)


# --- photos -----------------------------------------------------------------------------------------------------------


SHADOW_SIZE = 160  # of a light's depth map, in texels
SAMPLES = 2  # a side of a pixel


def _light_view(toward: np.ndarray) -> np.ndarray:
    """Rotation into a camera that looks from the light at the origin."""
    z = -toward / np.linalg.norm(toward)
    x = np.cross(z, [1.0, 0, 0] if abs(z[0]) < 0.7 else [0, 1.0, 0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def render(
    mesh: TrainingMesh,
    intrinsics: Float[np.ndarray, "3 3"],
    camera_from_object: Float[np.ndarray, "4 4"],
    size: int,
    light: Light,
) -> tuple[UInt8[np.ndarray, "size size 3"], Bool[np.ndarray, "size size"], Float32[np.ndarray, "size size"]]:
    """Photograph a mesh on black, lit like the generated objects (but for the shade in corners).

    Args:
        mesh: what to photograph.
        intrinsics: of the square image, pixels, pixel centres at half-integers.
        camera_from_object: rigid, OpenCV.
        size: width and height.
        light: in the object frame.
    Returns: sRGB, mask, depth = camera z in object units (inf outside the mask). A pixel is in the mask if at least
        half of its SAMPLES^2 samples are; its colour is their mean light.
    """
    turn, shift = camera_from_object[:3, :3].astype(np.float64), camera_from_object[:3, 3].astype(np.float64)
    dense = np.diag([SAMPLES, SAMPLES, 1.0]) @ intrinsics
    camera = mesh.vertices @ turn.T + shift
    face_ids, shares, depth = rasterise(camera, mesh.faces, dense, SAMPLES * size, SAMPLES * size)
    covered = face_ids >= 0
    uv = interpolate(face_ids[covered], shares[covered], mesh.faces, mesh.uv)
    colours = np.zeros((*face_ids.shape, 3), np.float32)
    colours[covered] = sample_texture(mesh.texture, uv, nearest=mesh.nearest)
    eye = -turn.T @ shift
    return kernels.shade(
        kernels.Seen(face_ids, shares, depth, colours),
        kernels.Shape(mesh.vertices, mesh.faces, mesh.shading_normals),
        (float(eye[0]), float(eye[1]), float(eye[2])),
        _lamps(mesh, light),
        mesh.gloss,
        size,
    )


def _lamps(mesh: TrainingMesh, light: Light) -> kernels.Lamps:
    """The lights with a depth map for each that casts a shadow."""
    lights = np.ascontiguousarray(light.lights, np.float64).reshape(-1, 7)
    views = np.zeros((len(lights), 3, 3))
    shadows = np.full((len(lights), SHADOW_SIZE, SHADOW_SIZE), np.inf, np.float32)
    focal, middle = kernels.LIGHT_FOCAL * SHADOW_SIZE, SHADOW_SIZE / 2
    k = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    for i in range(len(lights)):
        if lights[i, 6] > 0:
            views[i] = _light_view(lights[i, :3])
            camera = mesh.vertices @ views[i].T + [0, 0, kernels.LIGHT_DISTANCE]
            shadows[i] = rasterise(camera, mesh.faces, k, SHADOW_SIZE, SHADOW_SIZE)[2]
    return kernels.Lamps(lights, np.ascontiguousarray(light.sky, np.float64), views, shadows)
