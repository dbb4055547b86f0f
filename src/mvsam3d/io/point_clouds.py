"""Coloured points: read from GLB and PLY of many kinds, thinned out, written as PLY or GLB. Coordinates stay as they are in the file.

Made for `tools/downsample_pointcloud.py`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from jaxtyping import Float, Int, Int64

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.io.ply import HEADER_LIMIT, PROPERTY_LIMIT, TYPES
from mvsam3d.io.runs import write_whole
from mvsam3d.io.scenes import Lines, Node, Points, Scene, read_scene, write_scene
from mvsam3d.types import Mesh

FILE_LIMIT = 1 << 32  # bytes of a PLY
COUNT_LIMIT = 50_000_000  # points
TEXT_LIMIT = 1 << 28  # bytes of a PLY in plain text, which takes ten times its size to read
SH_DC = 0.28209479177387814  # colour = 0.5 + SH_DC * f_dc
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
CELL_LIMIT = 1 << 20  # cells along an axis: three of them fit into the 63 bits of a key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ByVoxel:
    """The mean of the points in each cell of a grid, places and colours."""

    side: float
    """Of a cell, in the file's unit."""


@dataclass(frozen=True)
class EveryNth:
    """The first of every `step` points."""

    step: int


@dataclass(frozen=True)
class ByChance:
    """A share of the points, drawn without repetition."""

    share: float
    seed: int = 42


Thinning = ByVoxel | EveryNth | ByChance


def chosen_thinning(
    *, voxel: float | None = None, uniform: int | None = None, random: float | None = None, seed: int = 42
) -> Thinning:
    """The one way asked for. Raises: InvalidOption: none, several, or a value out of range."""
    given = [
        f"--{name}" for name, value in (("voxel", voxel), ("uniform", uniform), ("random", random)) if value is not None
    ]
    if len(given) != 1:
        what = " and ".join(given) or "none"
        raise InvalidOption(f"one of --voxel SIDE, --uniform N and --random SHARE is needed, and {what} was given")
    if voxel is not None:
        if not (voxel > 0 and np.isfinite(voxel)):
            raise InvalidOption(f"--voxel {voxel}: the side of a cell is more than 0, in the file's unit")
        return ByVoxel(voxel)
    if uniform is not None:
        if uniform < 1:
            raise InvalidOption(f"--uniform {uniform}: give 1 or more, to keep every first, second, ... point")
        return EveryNth(uniform)
    assert random is not None
    if not 0 < random <= 1:
        raise InvalidOption(f"--random {random}: the share to keep is more than 0 and at most 1")
    if seed < 0:
        raise InvalidOption(f"--seed {seed}: give 0 or more")
    return ByChance(random, seed)


@dataclass(frozen=True)
class Downsampling:
    """What to do: one thinning of one file."""

    source: Path
    target: Path
    how: Thinning


@dataclass(frozen=True)
class Downsampled:
    """What was done."""

    before: int
    after: int
    coloured: bool


def downsample(options: Downsampling) -> Downsampled:
    """Read, thin out, write. Raises: BadFile, InvalidOption."""
    if options.target.suffix.lower() not in (".ply", ".glb"):
        raise InvalidOption(f"{options.target}: points are written as .ply or .glb, by the name's ending")
    cloud = read_points(options.source)
    thin = thinned(cloud, options.how)
    write_points(options.target, thin)
    return Downsampled(len(cloud.positions), len(thin.positions), thin.colours is not None)


def thinned(cloud: Points, how: Thinning) -> Points:
    """Fewer points. Raises: InvalidOption: cells too small to be counted."""
    match how:
        case ByVoxel(side):
            return voxel_downsampled(cloud, side)
        case EveryNth(step):
            return every(cloud, step)
        case ByChance(share, seed):
            return random_share(cloud, share, seed)
        case _:
            assert_never(how)


def voxel_downsampled(cloud: Points, side: float) -> Points:
    """One point for each cell of side `side` that holds any, a corner of a cell in the origin; ordered by x, then y, then z.

    Raises: InvalidOption: more cells along an axis than CELL_LIMIT.
    """
    cells = np.floor(cloud.positions / side)
    cells -= cells.min(axis=0)
    if cells.max() >= CELL_LIMIT:
        raise InvalidOption(
            f"a cell of {side} makes {cells.max():.3g} along one axis, at most {CELL_LIMIT:,} go: enlarge it"
        )
    x, y, z = cells.astype(np.int64).T
    _, owner, counts = np.unique((x * CELL_LIMIT + y) * CELL_LIMIT + z, return_inverse=True, return_counts=True)
    colours = None if cloud.colours is None else _means(cloud.colours, owner, counts)
    return Points(_means(cloud.positions, owner, counts), colours)


def _means(
    values: Float[np.ndarray, "point 3"], owner: Int64[np.ndarray, " point"], counts: Int[np.ndarray, " cell"]
) -> Float[np.ndarray, "cell 3"]:
    sums = [np.bincount(owner, values[:, axis], len(counts)) for axis in range(3)]
    means: Float[np.ndarray, "cell 3"] = np.stack(sums, axis=1) / counts[:, None]
    return means


def every(cloud: Points, step: int) -> Points:
    """The first point, and every `step`-th after it."""
    return Points(cloud.positions[::step], None if cloud.colours is None else cloud.colours[::step])


def random_share(cloud: Points, share: float, seed: int) -> Points:
    """round(share * points) of them, at least one, in their order; the same for the same seed."""
    kept = max(1, round(share * len(cloud.positions)))
    rows = np.sort(np.random.default_rng(seed).choice(len(cloud.positions), kept, replace=False))
    return Points(cloud.positions[rows], None if cloud.colours is None else cloud.colours[rows])


def read_points(path: Path) -> Points:
    """All points of a file; of a mesh its vertices, coloured by its texture or their own colours.

    Lines (drawn cameras) are left out. Parts without colours leave the whole without them.

    Raises: BadFile: neither GLB nor PLY, broken, too large, without points, or with places that are not finite.
    """
    suffix = path.suffix.lower()
    if suffix not in (".glb", ".ply"):
        raise BadFile(f"{path}: points are read from .glb and .ply files")
    cloud = _scene_points(path) if suffix == ".glb" else read_ply_points(path)
    if len(cloud.positions) == 0:
        raise BadFile(f"{path} holds no points")
    broken = int((~np.isfinite(cloud.positions).all(axis=1)).sum())
    if broken:
        raise BadFile(f"{path}: {broken} of {len(cloud.positions)} points are NaN or infinite: write it again")
    return cloud


def _scene_points(path: Path) -> Points:
    shapes = [node.shape for node in read_scene(path).nodes]
    parts = [_vertices(shape) if isinstance(shape, Mesh) else shape for shape in shapes if not isinstance(shape, Lines)]
    if not parts:
        raise BadFile(f"{path} holds lines only, no points and no meshes")
    colours = [part.colours for part in parts if part.colours is not None]
    if 0 < len(colours) < len(parts):
        log.warning("%s: %d of %d parts have no colours, so none are kept", path, len(parts) - len(colours), len(parts))
    positions = np.concatenate([part.positions for part in parts])
    return Points(positions, np.concatenate(colours) if len(colours) == len(parts) else None)


def _vertices(mesh: Mesh) -> Points:
    if mesh.texture is None or mesh.uv is None:
        return Points(mesh.vertices, mesh.vertex_colours)
    height, width, _ = mesh.texture.shape
    columns, rows = mesh.uv[:, 0] * width, (1 - mesh.uv[:, 1]) * height
    x, y = (np.clip(np.nan_to_num(p), 0, n - 1).astype(np.int64) for p, n in ((columns, width), (rows, height)))
    return Points(mesh.vertices, mesh.texture[y, x] / 255.0)


def write_points(path: Path, cloud: Points) -> None:
    """Write .ply (binary; places float32, colours a byte a channel) or .glb, whole or not at all.

    Raises: BadFile: the place cannot be written. InvalidOption: another ending.
    """
    match path.suffix.lower():
        case ".glb":
            write_scene(path, Scene((Node("points", cloud),)))
        case ".ply":
            write_whole(path, ply_bytes(cloud))
        case _:
            raise InvalidOption(f"{path}: points are written as .ply or .glb, by the name's ending")


def ply_bytes(cloud: Points) -> bytes:
    """A PLY of points."""
    fields = [(name, "<f4") for name in "xyz"]
    fields += [(name, "u1") for name in ("red", "green", "blue")] if cloud.colours is not None else []
    table = np.empty(len(cloud.positions), np.dtype(fields))
    for axis, name in enumerate("xyz"):
        table[name] = cloud.positions[:, axis]
    if cloud.colours is not None:
        for channel, name in enumerate(("red", "green", "blue")):
            table[name] = np.round(255 * np.clip(cloud.colours[:, channel], 0, 1))
    properties = "".join(f"property {'float' if kind == '<f4' else 'uchar'} {name}\n" for name, kind in fields)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(table)}\n{properties}end_header\n"
    return header.encode("ascii") + table.tobytes()


def read_ply_points(path: Path) -> Points:
    """The vertices of a PLY: points, a mesh or Gaussians (centres; colour of degree 0). Text or binary.

    Raises: BadFile: broken, too large, or without x, y, z.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            ending, count, fields, start = _header(file.read(HEADER_LIMIT), path)
            if size > (FILE_LIMIT if ending else TEXT_LIMIT) or count > COUNT_LIMIT:
                raise BadFile(f"{path} has {count:,} points in {size:,} bytes, which is too large to be read")
            file.seek(start)
            if not ending:
                return _columns(_text_table(file.read(), count, fields, path), path)
            layout = np.dtype([(name, kind.replace("<", ending)) for name, kind in fields])
            table = np.fromfile(file, layout, count)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from error
    if len(table) < count:
        raise BadFile(f"{path} is cut short: it has {len(table):,} of {count:,} points")
    return _columns({name: table[name] for name, _ in fields}, path)


def _header(head: bytes, path: Path) -> tuple[str, int, list[tuple[str, str]], int]:
    """Byte order ("" for text), number of vertices, their fields, and where the first begins. Raises: BadFile."""
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0 or b"\n" not in head[end:]:
        raise BadFile(f"{path} is not a PLY file, or its header is longer than {HEADER_LIMIT:,} bytes")
    lines = [line.split() for line in head[:end].decode("ascii", errors="replace").splitlines()[1:]]
    lines = [line for line in lines if line and line[0] not in ("comment", "obj_info")]
    if not lines or len(lines[0]) != 3 or lines[0][0] != "format" or lines[0][1] not in FORMATS:
        raise BadFile(f"{path}: its PLY format is none of {', '.join(FORMATS)}")
    if len(lines) < 2 or not re.fullmatch("element vertex [0-9]{1,12}", " ".join(lines[1])):
        raise BadFile(f"{path}: its first element must be `vertex` with a count")
    others = [i for i, line in enumerate(lines) if line[0] == "element"][1:]
    properties = lines[2 : others[0] if others else None]
    strange = [line for line in properties if len(line) != 3 or line[0] != "property" or line[1] not in TYPES]
    names = [line[-1] for line in properties]
    if strange or len(names) > PROPERTY_LIMIT or len(set(names)) < len(names):
        what = f"`{' '.join(strange[0])[:80]}`" if strange else "repeated names, or too many of them"
        raise BadFile(f"{path}: cannot read the properties of its vertices: {what}")
    if not {"x", "y", "z"} <= set(names):
        raise BadFile(f"{path}: its vertices have no x, y, z")
    fields = [(line[2], TYPES[line[1]]) for line in properties]
    return FORMATS[lines[0][1]], int(lines[1][2]), fields, head.index(b"\n", end) + 1


def _text_table(text: bytes, count: int, fields: list[tuple[str, str]], path: Path) -> Mapping[str, np.ndarray]:
    lines = text.split(b"\n", count)[:count]
    try:
        values = np.array([line.split() for line in lines], dtype=bytes).astype(np.float64)
    except ValueError as error:
        raise BadFile(f"{path}: the text of its points is no table of numbers ({error})") from error
    if values.shape != (count, len(fields)):
        raise BadFile(
            f"{path}: it announces {count:,} points of {len(fields)} numbers and has a table of {values.shape}"
        )
    return {name: values[:, i].astype(kind) for i, (name, kind) in enumerate(fields)}


def _columns(table: Mapping[str, np.ndarray], path: Path) -> Points:
    def stacked(*names: str) -> Float[np.ndarray, "point 3"]:
        return np.stack([table[name].astype(np.float64) for name in names], axis=1)

    positions = stacked("x", "y", "z")
    if {"red", "green", "blue"} <= set(table):
        whole = table["red"].dtype.kind in "iu"
        return Points(positions, np.clip(stacked("red", "green", "blue") / (255 if whole else 1), 0, 1))
    if {"f_dc_0", "f_dc_1", "f_dc_2"} <= set(table):
        log.info("%s holds Gaussians: their centres and colours are read as points", path)
        return Points(positions, np.clip(0.5 + SH_DC * stacked("f_dc_0", "f_dc_1", "f_dc_2"), 0, 1))
    return Points(positions)
