"""Training data: objects and meshes -> shards of views and 3D targets, made on all cores; shards -> batches.

A shard is one safetensors file of a few hundred objects, written whole. Its rows are read through a memory map, so a
training set larger than memory streams from disk. Making a shard needs numpy and numba only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from safetensors import safe_open
from safetensors.numpy import save_file

from mvsam3d.errors import BadFile
from mvsam3d.training import meshes, objects
from mvsam3d.training.cubes import LooseCubes
from mvsam3d.training.photos import photograph

MESH_CLASS = -1  # of rows made from meshes, which have no class
LEAST_VISIBLE = 0.01  # share of the crop that the object must cover
RING_HEIGHTS = (0.0, 50.0)  # degrees of elevation that rings are drawn from
RING_WIDTH = 5.0  # degrees by which a ring's views lie higher or lower at the most
HELD_OUT_SEED = 1_000_000_000  # generated objects from this seed on are never trained on


@dataclass(frozen=True)
class DataConfig:
    """What a shard holds."""

    views: int = 4
    size: int = 112
    """Side of the square crops, in pixels."""
    resolution: int = 32
    """Side of the solid grid, in cells."""
    samples: int = 2048
    """Points on each object's surface."""
    objects: int = 256
    """Objects in a shard."""
    classes: tuple[str, ...] = ()
    """Classes of the generated objects, all equally likely; none named: all there are."""
    mesh_share: float = 0.25
    """Share of shards made from meshes instead of generated objects, when a folder of meshes is given."""
    flaws: float = 1.0
    """Strength of the flaws of photos and masks, see `training.photos.photograph`."""
    same_light: float = 0.0
    """Share of the objects all of whose views are taken under one light, so that colours say where views meet on a surface."""
    rings: float = 0.0
    """Share of the objects that are photographed from about one height, as people walk around a thing: nothing is seen from below."""
    cubes: LooseCubes | None = None
    """Cubes around each object whose solid grids are kept beside that of its own."""
    fine_resolution: int = 0
    """Side of finer solid grids of the same cubes, its own and the loose ones, kept beside them; 0: none."""


Kind = Literal["generated", "mesh", "held_out", "held_out_mesh"]


@dataclass(frozen=True)
class ShardPlan:
    """One shard to make: a pure function of this value, so any process makes the same shard."""

    kind: Kind
    index: int
    config: DataConfig
    meshes: Path | None = None

    @property
    def name(self) -> str:
        """File name."""
        return f"{self.kind}-{self.index:05d}.safetensors"

    def seed(self, row: int) -> int:
        """Seed of a generated object."""
        return (HELD_OUT_SEED if self.kind == "held_out" else 0) + self.index * self.config.objects + row


def make_shard(plan: ShardPlan, folder: Path) -> Path:
    """Make the objects of a plan and write them; a shard that is there already is kept."""
    path = folder / plan.name
    if path.exists():
        return path
    rows = [_row(plan, i) for i in range(plan.config.objects)]
    tensors = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    save_whole(tensors, path)
    return path


def save_whole(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a file of tensors that is there in full or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    # safetensors writes an array's memory as it lies, whatever its order
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary)
    temporary.replace(path)


def _row(plan: ShardPlan, i: int) -> dict[str, np.ndarray]:
    seed = plan.index * plan.config.objects + i
    match plan.kind:
        case "generated" | "held_out":
            return _generated_row(plan.seed(i), plan.config)
        case "mesh" | "held_out_mesh":
            assert plan.meshes is not None, "a mesh shard needs the folder of the meshes"
            return _mesh_row(seed, plan.config, plan.meshes, "train" if plan.kind == "mesh" else "val")


def generated_object(seed: int, config: DataConfig) -> objects.GeneratedObject:
    """The generated object of a seed, of one of the config's classes."""
    if not config.classes:
        return objects.generate_object(seed)
    rng = np.random.default_rng([seed, 0])
    return objects.generate_object(seed, name=config.classes[int(rng.integers(len(config.classes)))])


def _generated_row(seed: int, config: DataConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    thing = generated_object(seed, config)
    views = _views(partial(objects.render, thing), thing.hull, rng, config)
    samples = objects.surface_samples(thing, config.samples, rng)
    solid = partial(objects.solid_grid, thing)
    number = objects.CLASS_NAMES.index(thing.name)
    return _pack(seed, number, samples, views) | _solids(solid, seed, config)


def _mesh_row(seed: int, config: DataConfig, folder: Path, split: str) -> dict[str, np.ndarray]:
    records = meshes.load_mesh_index(folder, split)
    rng = np.random.default_rng([seed, 2])
    # Every mesh once in a random order, then all again with other augmentations; held-out ones as they are.
    order = np.random.default_rng([seed // len(records), 3]).permutation(len(records))
    number = int(order[seed % len(records)])
    mesh = meshes.load_training_mesh(folder, records[number], rng if split == "train" else None)
    views = _views(partial(meshes.render, mesh), mesh.vertices, rng, config)
    samples = meshes.surface_samples(mesh, config.samples, rng)
    return _pack(number, MESH_CLASS, samples, views) | _solids(partial(meshes.solid_grid, mesh), seed, config)


@dataclass(frozen=True)
class RenderedView:
    """One training photo: the crop, its mask and depth, and the camera of the crop."""

    rgb: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    depth: Float[np.ndarray, "h w"]  # z in the camera, inf outside the object
    intrinsics: Float[np.ndarray, "3 3"]
    camera_from_object: Float[np.ndarray, "4 4"]


Picture = tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"], Float[np.ndarray, "h w"]]  # sRGB, mask, depth


def _views(
    render: Callable[..., Picture], points: Float[np.ndarray, "point 3"], rng: np.random.Generator, config: DataConfig
) -> list[RenderedView]:
    """Photos of a thing from random cameras; `points` outline it."""
    light = None
    if config.same_light > 0 and rng.random() < config.same_light:
        light = objects.sample_light(rng)
    ranges = objects.CameraRange()
    if config.rings > 0 and rng.random() < config.rings:
        height = rng.uniform(*RING_HEIGHTS)
        ranges = replace(ranges, elevation=(height - RING_WIDTH, height + RING_WIDTH), odd_elevations=0.0)
    return [_view(render, points, rng, config, light, ranges) for _ in range(config.views)]


def _view(
    render: Callable[..., Picture],
    points: Float[np.ndarray, "point 3"],
    rng: np.random.Generator,
    config: DataConfig,
    light: objects.Light | None,
    ranges: objects.CameraRange,
) -> RenderedView:
    """One of them, under a light of its own if there is none."""
    size = config.size
    while True:  # of a blade seen edge-on, or an object cut off by the photo, too little may be left: another try
        intrinsics, camera_from_object = objects.sample_camera(points, size, rng, ranges=ranges)
        shown = objects.sample_light(rng) if light is None else light
        rgb, alpha, depth = render(intrinsics, camera_from_object, size, shown)
        if alpha.sum() < LEAST_VISIBLE * size**2:
            continue
        photo, mask = photograph(rgb, alpha, depth, rng, strength=config.flaws)
        if mask.any():
            return RenderedView(photo, mask, depth, intrinsics, camera_from_object)


def _pack(
    seed: int,
    class_index: int,
    surface: tuple[np.ndarray, np.ndarray, np.ndarray],
    views: list[RenderedView],
) -> dict[str, np.ndarray]:
    points, normals, colours = surface
    return {
        "seed": np.array(seed, np.int64),
        "class": np.array(class_index, np.int16),
        "points": points.astype(np.float16),
        "normals": np.round(normals * 127).astype(np.int8),
        "colours": np.round(np.clip(colours, 0, 1) * 255).astype(np.uint8),
        "rgb": np.stack([view.rgb for view in views]),
        "mask": np.stack([np.packbits(view.mask.reshape(-1)) for view in views]),
        "depth": np.stack([view.depth[::2, ::2] for view in views]).astype(np.float16),
        "intrinsics": np.stack([view.intrinsics for view in views]).astype(np.float32),
        "camera_from_object": np.stack([view.camera_from_object for view in views]).astype(np.float32),
    }


def _solids(solid: Callable[..., Bool[np.ndarray, "x y z"]], seed: int, config: DataConfig) -> dict[str, np.ndarray]:
    """What is solid in an object's own cube and in the loose ones, if there are to be any, by the function (resolution, [cube])."""
    resolutions = {"": config.resolution} | ({"fine_": config.fine_resolution} if config.fine_resolution else {})
    tensors = {f"{name}solid": np.packbits(solid(resolution)) for name, resolution in resolutions.items()}
    if config.cubes is None:
        return tensors
    placed = config.cubes.draw(np.random.default_rng([seed, 4]))
    for name, resolution in resolutions.items():
        tensors[f"{name}cube_solids"] = np.stack([np.packbits(solid(resolution, cube)) for cube in placed])
    return tensors | {"cubes": placed.astype(np.float32)}


Derive = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Shards:
    """The finished shards of some kinds in a folder, as one list of rows; `refresh` picks up what arrived since.

    `derived` adds tensors computed from a shard's own (features of a frozen encoder, say). They are computed once and kept beside
    the shard under the derivation's name, which must therefore tell what they come from.
    """

    def __init__(
        self,
        folder: Path,
        kinds: tuple[Kind, ...],
        derived: Mapping[str, Derive] | None = None,
        *,
        only: Sequence[str] | None = None,
    ) -> None:
        """`only`: the files to take, by name; all of these kinds if left out."""
        self.folder, self.kinds, self.derived, self.only = folder, kinds, dict(derived or {}), only
        self.files: list[Path] = []
        self.tensors: list[dict[str, np.ndarray]] = []
        self.starts: list[int] = [0]
        self.refresh()

    def refresh(self, most: int | None = None) -> None:
        """Look for new shards, `most` at a time; those known keep their row numbers."""
        known = set(self.files)
        new = [
            path
            for path in sorted(self.folder.glob("*.safetensors"))
            if path not in known
            and path.name.rsplit("-", 1)[0] in self.kinds
            and (self.only is None or path.name in self.only)
        ]
        for path in new[:most]:
            tensors = mapped(path)
            for name, derive in self.derived.items():
                beside = path.with_suffix(f".{name}")
                if not beside.exists():
                    save_whole(dict(derive(tensors)), beside)
                tensors |= mapped(beside)
            self.files.append(path)
            self.tensors.append(tensors)
            self.starts.append(self.starts[-1] + len(tensors["seed"]))

    def __len__(self) -> int:
        return self.starts[-1]

    def without(self, key: str) -> list[Path]:
        """The shards that lack a tensor, made by another recipe."""
        return [path for path, tensors in zip(self.files, self.tensors, strict=True) if key not in tensors]

    def rows(self, numbers: np.ndarray, key: str) -> np.ndarray:
        """Rows of one tensor, in the order of `numbers`."""
        shard = np.searchsorted(self.starts, numbers, side="right") - 1
        return np.stack([self.tensors[s][key][n - self.starts[s]] for s, n in zip(shard, numbers, strict=True)])

    def solid(self, numbers: np.ndarray, resolution: int) -> Bool[np.ndarray, "row x y z"]:
        """Solid grids, unpacked."""
        bits = np.unpackbits(self.rows(numbers, "solid"), axis=-1)
        return bits.reshape(len(numbers), resolution, resolution, resolution).astype(bool)

    def solid_grid(self, number: int, *, fine: bool = False) -> Bool[np.ndarray, "x y z"]:
        """The solid grid of one row, or the finer one."""
        return _unpacked(self.rows(np.array([number]), "fine_solid" if fine else "solid")[0])

    def cubes(
        self, number: int, *, fine: bool = False
    ) -> list[tuple[Float[np.ndarray, "4 4"], Bool[np.ndarray, "x y z"]]]:
        """The loose cubes of one row, object_from_cube and solid grid of each, or the finer grids."""
        placed = self.rows(np.array([number]), "cubes")[0].astype(np.float64)
        grids = self.rows(np.array([number]), "fine_cube_solids" if fine else "cube_solids")[0]
        return [(object_from_cube, _unpacked(bits)) for object_from_cube, bits in zip(placed, grids, strict=True)]

    def masks(self, numbers: np.ndarray, size: int) -> Bool[np.ndarray, "row view h w"]:
        """Masks, unpacked."""
        bits = np.unpackbits(self.rows(numbers, "mask"), axis=-1)[..., : size * size]
        return bits.reshape(*bits.shape[:-1], size, size).astype(bool)


def _unpacked(packed: UInt8[np.ndarray, " byte"]) -> Bool[np.ndarray, "x y z"]:
    bits = np.unpackbits(packed)
    side = round(len(bits) ** (1 / 3))
    return bits.reshape(side, side, side).astype(bool)


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a shard as read-only views of a memory map."""
    with safe_open(path, "np") as file:
        shapes = {key: (file.get_slice(key).get_shape(), file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118
    content = np.memmap(path, mode="r", dtype=np.uint8)
    header = int(content[:8].view("<u8")[0])
    offsets = json.loads(bytes(content[8 : 8 + header]))
    tensors = {}
    for key, (shape, dtype) in shapes.items():
        if dtype not in DTYPES:
            raise BadFile(f"{path}: tensor {key} has the type {dtype}, which no shard has; delete the file")
        start, stop = (8 + header + o for o in offsets[key]["data_offsets"])
        tensors[key] = content[start:stop].view(DTYPES[dtype]).reshape(shape)
    return tensors


DTYPES = {"U8": "u1", "I8": "i1", "I16": "<i2", "I64": "<i8", "F16": "<f2", "F32": "<f4", "BOOL": "?"}


def plans(config: DataConfig, count: int, meshes: Path | None) -> list[ShardPlan]:
    """The first `count` training shards: generated objects, and meshes spread evenly among them."""
    out, made = [], 0
    for i in range(count):
        if meshes is not None and made < round((i + 1) * config.mesh_share):
            out.append(ShardPlan("mesh", made, config, meshes))
            made += 1
        else:
            out.append(ShardPlan("generated", i - made, config))
    return out


def make_shards(todo: Sequence[ShardPlan], folder: Path, workers: int) -> Iterator[Path]:
    """Make shards in `workers` processes; yields each as it is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    if workers == 0:
        yield from (make_shard(plan, folder) for plan in todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: list[Future[Path]] = [pool.submit(make_shard, plan, folder) for plan in todo]
        yield from (future.result() for future in as_completed(waiting))


@contextmanager
def background_shards(todo: Sequence[ShardPlan], folder: Path, workers: int) -> Iterator[None]:
    """Make shards in `workers` processes while the block runs; what is unfinished at its end is left for another time."""
    if workers == 0:
        yield
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    for plan in todo:
        pool.submit(make_shard, plan, folder)
    try:
        yield
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
