"""What is judged: photos of an object -> an Answer, by our own reconstruction, by yardsticks, or by anyone else's program.

A system is named on the command line as [LABEL=]KIND[:REST]; see `parse_system`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, assert_never, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import TypeAdapter, ValidationError

from mvsam3d.errors import InvalidOption, MvSam3dError, ObjectsFailed
from mvsam3d.evaluation.foreign import answer_in, check_template, found_for, run_program
from mvsam3d.evaluation.mesh_files import Up
from mvsam3d.evaluation.metrics import filled
from mvsam3d.evaluation.protocols import Judgement, higher_is_better
from mvsam3d.evaluation.subjects import Answer, Capture, Subject
from mvsam3d.evaluation.voxel_baseline import baseline_answer, weights_identity
from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.geometry.hull import Cube, carved, cube_around, distances_inside, in_cube_frame, outline_distance
from mvsam3d.geometry.rotations import matrix_from_quaternion, quaternion_from_matrix
from mvsam3d.io.runs import Json
from mvsam3d.io.scenes import transformed_mesh
from mvsam3d.jobs import Loaded, ViewWeights, planned
from mvsam3d.meshing.cleanup import cleaned
from mvsam3d.meshing.isosurface import dense_cells, dual_contour
from mvsam3d.meshing.photo_texture import photo_textured
from mvsam3d.meshing.texture import textured
from mvsam3d.models.checkpoints import checkpoint_folder, open_checkpoint
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import reconstruct, sparse_structure
from mvsam3d.results import cameras_of
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo, Voxels

Fusion = Literal["joint", "velocity"]
WeightingName = Literal["mean", "entropy", "visibility", "mixed"]
Frame = Literal["own", "truth"]
GREY = 0.7  # of a hull where no photo sees it
DEFAULT_LIMIT = 1800.0  # seconds


@dataclass(frozen=True)
class Ours:
    """Our reconstruction."""

    model: str = "small"
    cameras: bool = True
    """Give it the true cameras, of two photos or more: one camera tells nothing of the shape, and it is refused with one."""
    fusion: Fusion | None = None
    """None: the model's own."""
    weighting: WeightingName | None = None
    """None: the model's own."""
    shape_only: bool = False
    """Stage 1 alone: the solid in cells, no mesh, no cameras. For protocols that measure solids."""
    device: str = "cpu"


@dataclass(frozen=True)
class BestSingleView:
    """Ours on each photo alone, and of these the answer that the truth says is best: an oracle, which no real system can be."""

    model: str = "small"
    shape_only: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class PlainMean:
    """Ours with each photo predicted by itself and all counted alike: fusing without weights."""

    model: str = "small"
    cameras: bool = True
    shape_only: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class VisualHull:
    """What lies inside the outlines of all photos by the true cameras, painted by the photos."""

    resolution: int = 64
    """Cells along an edge of the cube around it."""
    shape_only: bool = False
    """Not painted."""


@dataclass(frozen=True)
class External:
    """Any program: see `foreign.run_program`."""

    template: str
    frame: Frame = "own"
    """truth: its meshes lie in the world of the cameras; own: in a frame of its own."""
    up: Up = "y"
    limit: float = DEFAULT_LIMIT


@dataclass(frozen=True)
class Folder:
    """Results made elsewhere: see `foreign.found_for`."""

    path: Path
    frame: Frame = "own"
    up: Up = "y"


@dataclass(frozen=True)
class Baseline:
    """A network of the Pix2Vox++/F class: a solid of 32^3 cells in the frame of its training objects. For protocol P7."""

    weights: Path
    """File that `mvsam3d train baseline` wrote."""
    device: str = "cpu"


System = Ours | BestSingleView | PlainMean | VisualHull | External | Folder | Baseline
KINDS: dict[str, type[System]] = {
    "ours": Ours,
    "best-single-view": BestSingleView,
    "plain-mean": PlainMean,
    "hull": VisualHull,
    "external": External,
    "folder": Folder,
    "baseline": Baseline,
}
TITLES = {  # what a system is called if it is not given a label
    "best-single-view": "best single view (oracle)",
    "plain-mean": "plain mean",
    "hull": "visual hull",
    "baseline": "voxel baseline",
}


@dataclass(frozen=True)
class Named:
    """A system and what it is called in the tables."""

    label: str
    system: System

    def described(self) -> dict[str, Json]:
        """All that changes its answers, the checkpoint by its hash."""
        kind = next(name for name, of in KINDS.items() if isinstance(self.system, of))
        options: dict[str, Json] = {name: _plain(value) for name, value in asdict(self.system).items()}
        if isinstance(self.system, Ours | BestSingleView | PlainMean):
            options["weights"] = _identity(self.system.model)
        if isinstance(self.system, Baseline):
            options["sha256"] = weights_identity(self.system.weights)
        return {"kind": kind, **options}


def _plain(value: object) -> Json:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


@lru_cache(maxsize=8)
def _identity(model: str) -> str:
    return open_checkpoint(checkpoint_folder(model)).identity[:16]


# The command line's way to name them


def parse_system(text: str, *, device: str = "cpu", limit: float = DEFAULT_LIMIT) -> Named:
    """[LABEL=]KIND[:REST], a kind of KINDS.

    REST is OPTION=VALUE,... of ours, best-single-view, plain-mean, hull and baseline; the command line of external; the path of folder.
    external@truth and folder@truth make meshes in the world of the cameras as it is; external@z and folder@z in a frame of their own
    with +Z up instead of glTF's +Y.

    Raises: InvalidOption: unknown kind or option, or a program that is not there.
    """
    label, text = _label(text)
    kind, _, rest = text.partition(":")
    kind, *marks = (part.strip() for part in kind.split("@"))
    if kind not in KINDS:
        raise InvalidOption(f"--systems {text}: {kind!r} is none of {', '.join(KINDS)}")
    if kind in ("external", "folder"):
        system = _foreign(kind, marks, rest, limit)
        return Named(label or f"{kind} {_short(rest)}", system)
    if marks:
        raise InvalidOption(f"--systems {text}: @{marks[0]} is for external and folder")
    told = ", ".join(part.strip() for part in rest.split(",") if part.strip())
    return Named(label or TITLES.get(kind, kind) + (f" ({told})" if told else ""), _chosen(kind, rest, device))


def parse_systems(texts: Sequence[str], *, device: str = "cpu", limit: float = DEFAULT_LIMIT) -> tuple[Named, ...]:
    """All of them. Raises: InvalidOption: see `parse_system`; two with one label, or none."""
    systems = tuple(parse_system(text, device=device, limit=limit) for text in texts)
    labels = [named.label for named in systems]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice or not systems:
        raise InvalidOption(
            f"--systems: two are called {twice[0]!r}; give one another LABEL= before it"
            if twice
            else "--systems: name one"
        )
    return systems


def _label(text: str) -> tuple[str | None, str]:
    before, equals, after = text.partition("=")
    if not equals or ":" in before:
        return None, text.strip()
    label = before.strip()
    if not label or not label.isprintable() or len(label) > 60:
        raise InvalidOption(f"--systems {text}: the label before = must have 1 to 60 printable characters")
    return label, after.strip()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:37] + "..."


def _foreign(kind: str, marks: Sequence[str], rest: str, limit: float) -> External | Folder:
    unknown = [mark for mark in marks if mark not in ("truth", "own", *get_args(Up))]
    if unknown or not rest.strip():
        what = (
            f"@{unknown[0]} is none of @truth, @own, @y, @z"
            if unknown
            else f"{kind}: what? A command line, or a folder"
        )
        raise InvalidOption(f"--systems {kind}: {what}")
    frame: Frame = "truth" if "truth" in marks else "own"
    up: Up = "z" if "z" in marks or (frame == "truth" and "y" not in marks) else "y"
    if kind == "external":
        check_template(rest)
        return External(rest.strip(), frame, up, limit)
    path = Path(rest.strip())
    if not path.is_dir():
        raise InvalidOption(f"--systems folder:{path}: there is no such folder of results")
    return Folder(path, frame, up)


def _chosen(kind: str, rest: str, device: str) -> System:
    """The system with OPTION=VALUE,..."""
    of = KINDS[kind]
    known = [field.name for field in fields(of)]
    given = {"device": device} if "device" in known else {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise InvalidOption(f"--systems {kind}: {part!r} is no OPTION=VALUE of {', '.join(known)}")
        given[name] = value
    try:
        system: System = TypeAdapter(of).validate_python(given)  # reads yes, no and numbers
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise InvalidOption(f"--systems {kind}: give {kind}:{where}=...") from problem
        raise InvalidOption(f"--systems {kind}: {where}={first['input']}: {first['msg']}") from problem
    if isinstance(system, VisualHull) and not 8 <= system.resolution <= 256:
        raise InvalidOption(f"--systems {kind}: resolution={system.resolution}: give 8 to 256")
    if isinstance(system, Baseline) and not system.weights.is_file():
        raise InvalidOption(f"--systems {kind}: there is no file {system.weights}: `mvsam3d train baseline` writes one")
    return system


# Running them


@dataclass(frozen=True)
class Oracle:
    """The truth's word on an answer."""

    judge: Callable[[Answer, Capture], Judgement]
    metric: str
    """By which the best answer is chosen."""
    of: str = ""
    """Whose word: object, protocol and seed. What it said under this name is not asked again; empty: nothing is kept."""


@dataclass(frozen=True)
class Made:
    """An answer, and what its reader should know of how it came about."""

    answer: Answer
    notes: tuple[str, ...] = ()


def run_system(
    system: System, subject: Subject, inputs: Capture, out: Path, *, oracle: Oracle, seed: int, views: int
) -> Made:
    """What the system makes of the photos, in the truth's frame where the system knows it.

    Args:
        subject: its name is all that a system learns of it, and `folder` alone uses that.
        inputs: photos, and the true cameras for those systems that are given them.
        out: an empty folder to work in.
        oracle: for the system that asks the truth.
        seed: of our networks' noise.
        views: number of photos, to find results made elsewhere.
    Raises: MvSam3dError: there is no answer; the message says why.
    """
    made = _made(system, subject, inputs, out, oracle, seed, views)
    return replace(made, answer=in_truth_frame(made.answer))


def _made(system: System, subject: Subject, inputs: Capture, out: Path, oracle: Oracle, seed: int, views: int) -> Made:
    match system:
        case Ours():
            return _ours(system, inputs, seed)
        case PlainMean(model, cameras, shape_only, device):
            return _ours(Ours(model, cameras, "velocity", "mean", shape_only, device), inputs, seed)
        case BestSingleView():
            return _best_single_view(system, inputs, oracle, seed)
        case VisualHull(resolution, shape_only):
            start = time.perf_counter()
            answer = visual_hull(inputs, resolution, painted=not shape_only)
            return Made(replace(answer, seconds=time.perf_counter() - start))
        case External(template, frame, up, limit):
            seconds = run_program(template, inputs, out, limit=limit)
            answer, notes = answer_in(out / "out", frame=frame, up=up)
            return Made(replace(answer, seconds=seconds), notes)
        case Folder(path, frame, up):
            return Made(*answer_in(found_for(path, subject.name, views), frame=frame, up=up))
        case Baseline(weights, device):
            return Made(baseline_answer(weights, inputs.photos, device))
        case _:
            assert_never(system)


def in_truth_frame(answer: Answer) -> Answer:
    """An answer that knows the way to the truth's frame, in that frame; any other as it is.

    So no alignment has to find out what is known, and of turns that fit alike, as a cube's, the known one is kept. The solid stays
    behind, as its grid cannot be turned: the mesh is what is judged.
    """
    matrix, mesh = answer.truth_from_answer, answer.mesh
    if matrix is None or mesh is None:
        return answer
    back = np.linalg.inv(matrix)
    cameras = answer.cameras
    if cameras is not None:
        cameras = tuple(replace(camera, camera_from_world=camera.camera_from_world @ back) for camera in cameras)
    return replace(
        answer,
        mesh=transformed_mesh(mesh, matrix),
        occupied=None,
        gaussians=None if answer.gaussians is None else moved_cloud(answer.gaussians, matrix),
        truth_from_answer=np.eye(4),
        cameras=cameras,
    )


def moved_cloud(cloud: GaussianCloud, target_from_source: Float[np.ndarray, "4 4"]) -> GaussianCloud:
    """A cloud in another frame; the way there is a similarity."""
    matrix = torch.from_numpy(target_from_source).double()
    scale = float(torch.linalg.det(matrix[:3, :3])) ** (1 / 3)
    turned = matrix[:3, :3] / scale @ matrix_from_quaternion(cloud.rotations.double())
    return replace(
        cloud,
        means=(cloud.means.double() @ matrix[:3, :3].T + matrix[:3, 3]).to(cloud.means),
        scales=cloud.scales * scale,
        rotations=quaternion_from_matrix(turned).to(cloud.rotations),
    )


@lru_cache(maxsize=2)
def _loaded(model: str, device: str) -> Loaded:
    """A checkpoint, kept in this process. Raises: CheckpointMismatch, InvalidOption."""
    return Loaded(model, device)


@lru_cache(maxsize=2)
def _memory(model: str, device: str) -> MemoryBudget:
    """Planned once: it takes longer than the shape of one photo."""
    return planned(_loaded(model, device), None)


def _ours(system: Ours, inputs: Capture, seed: int) -> Made:
    loaded = _loaded(system.model, system.device)
    models, _ = loaded.models
    own, weights = models.config.sampling.weighting, ViewWeights()
    if system.weighting is not None:
        stage1: Literal["mean", "entropy"] = "mean" if system.weighting in ("mean", "visibility") else "entropy"
        weights = ViewWeights(stage1=stage1, stage2=system.weighting)
    config = ReconstructionConfig(
        fusion=system.fusion,
        structure_weighting=weights.of_stage1(own),
        slat_weighting=weights.of_stage2(own),
        memory=_memory(system.model, system.device),
    )
    given = system.cameras and len(inputs.photos) > 1
    cameras, noise = inputs.cameras if given else None, torch.Generator().manual_seed(seed)
    start = time.perf_counter()  # loading a model is not the object's time
    if system.shape_only:
        shape = sparse_structure(inputs.photos, models, config, noise, cameras=cameras)
        placed = None if shape.placement is None else shape.placement.in_world()
        made, kept, voxels = Answer(), shape.kept, shape.voxels
    else:
        result = reconstruct(inputs.photos, models, config, noise, cameras=cameras)
        placed, kept, voxels = result.in_world, result.kept, result.voxels
        around = tuple(cameras_of([inputs.photos[i] for i in kept], result))
        known = around if len(kept) == len(inputs.photos) else None
        made = Answer(mesh=result.mesh, gaussians=result.gaussians, cameras=known)
    answer = replace(
        made,
        occupied=_solid(voxels),
        truth_from_answer=None if placed is None else placed.world_from_object,
        seconds=time.perf_counter() - start,
    )
    notes = ["one photo, so it was not given the camera"] if system.cameras and not given else []
    if given and placed is None:
        notes.append("it did not believe the cameras")
    if len(kept) < len(inputs.photos):
        notes.append(f"it left out {len(inputs.photos) - len(kept)} of {len(inputs.photos)} photos")
    return Made(answer, tuple(notes))


def _solid(voxels: Voxels) -> Bool[np.ndarray, "x y z"]:
    """The voxels and what they enclose."""
    cells = torch.zeros((voxels.resolution,) * 3, dtype=torch.bool)
    cells[tuple(voxels.coords.long().T)] = True
    solid: Bool[np.ndarray, "x y z"] = filled(cells[None])[0].numpy()
    return solid


@dataclass(frozen=True)
class _Alone:
    """What one photo gives."""

    made: Made | None
    value: float | None
    """The oracle's; None: it has none, `reason` says why."""
    reason: str = ""


_KEPT: dict[
    tuple[BestSingleView, int, str, bytes], _Alone
] = {}  # of one object, so that 8 photos need not be asked where 4 were


def _best_single_view(system: BestSingleView, inputs: Capture, oracle: Oracle, seed: int) -> Made:
    """The time is that of all photos. The cameras of the other photos are not known from one."""
    found = [_alone(system, _only(inputs, i), oracle, seed) for i in range(len(inputs.photos))]
    seconds = sum(one.made.answer.seconds for one in found if one.made is not None)
    sign = 1 if higher_is_better(oracle.metric) else -1
    values = [-np.inf if one.value is None else sign * one.value for one in found]
    best = int(np.argmax(values))
    made = found[best].made
    if made is None or found[best].value is None:
        reasons = "; ".join(f"view {photo.name}{one.reason}" for photo, one in zip(inputs.photos, found, strict=True))
        raise ObjectsFailed(f"no single view gives an answer that can be judged: {reasons}")
    cameras = made.answer.cameras if len(inputs.photos) == 1 else None
    notes = (*made.notes, f"the best view is {inputs.photos[best].name}")
    return Made(replace(made.answer, seconds=seconds, cameras=cameras), notes)


def _only(inputs: Capture, i: int) -> Capture:
    return replace(inputs, photos=inputs.photos[i : i + 1], cameras=inputs.cameras[i : i + 1])


def _alone(system: BestSingleView, alone: Capture, oracle: Oracle, seed: int) -> _Alone:
    """Its answer and the oracle's word on it, kept if the oracle has a name."""
    (photo,) = alone.photos
    shows = hashlib.sha256(photo.rgb.tobytes() + photo.mask.tobytes()).digest()
    key = (system, seed, oracle.of, shows)
    if oracle.of and key in _KEPT:
        return _KEPT[key]
    found = _asked(system, alone, oracle, seed)
    if oracle.of:
        for other in [other for other in _KEPT if other[2] != oracle.of]:
            del _KEPT[other]
        _KEPT[key] = found
    return found


def _asked(system: BestSingleView, alone: Capture, oracle: Oracle, seed: int) -> _Alone:
    try:
        of_one = Ours(system.model, cameras=False, shape_only=system.shape_only, device=system.device)
        made = _ours(of_one, alone, seed)
    except MvSam3dError as problem:
        return _Alone(None, None, f": {problem}")
    judgement = oracle.judge(in_truth_frame(made.answer), alone)
    if oracle.metric not in judgement.metrics:
        return _Alone(made, None, f" has no {oracle.metric}: {judgement.missing}")
    return _Alone(made, judgement.metrics[oracle.metric])


def visual_hull(inputs: Capture, resolution: int, *, painted: bool = True) -> Answer:
    """The visual hull as an answer in the frame of the cube around it, coloured by the photos.

    Raises: InvalidOption: the outlines have no point in common.
    """
    masks = [photo.mask for photo in inputs.photos]
    cube = cube_around(inputs.cameras, masks)
    solid = carved(inputs.cameras, masks, cube, resolution)
    sdf = torch.from_numpy(_outside(inputs, cube, resolution))
    axis = torch.arange(resolution + 1) / resolution - 0.5
    surface = dual_contour(dense_cells(sdf.flatten(), torch.cartesian_prod(axis, axis, axis), resolution))
    mesh = surface.to_mesh()
    if len(mesh.faces) == 0:
        raise InvalidOption("the visual hull is empty: the outlines have no point in common")
    around = tuple(in_cube_frame(camera, cube) for camera in inputs.cameras)
    return Answer(
        mesh=_painted(mesh, inputs.photos, around) if painted else cleaned(mesh),
        occupied=solid,
        truth_from_answer=cube.world_from_cube(),
        cameras=around,
    )


def _outside(inputs: Capture, cube: Cube, resolution: int) -> Float[np.ndarray, "side side side"]:
    """How far the corners of the cube's cells lie outside the hull (negative inside), in sides of the cube; its walls are outside."""
    axis = (np.arange(resolution + 1) / resolution - 0.5) * cube.side
    corners = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1) + cube.centre
    worst = np.full(corners.shape[:3], -np.inf)
    for camera, photo in zip(inputs.cameras, inputs.photos, strict=True):
        inside, per_unit = distances_inside(camera, outline_distance(photo.mask), corners)
        far = np.where(per_unit > 0, -inside / np.where(per_unit > 0, per_unit, 1.0) / cube.side, 1.0)
        worst = np.maximum(worst, far)
    wall: Bool[np.ndarray, "side side side"] = np.ones(worst.shape, np.bool_)
    wall[1:-1, 1:-1, 1:-1] = False
    found: Float[np.ndarray, "side side side"] = np.where(wall, np.maximum(worst, 0.5 / resolution), worst)
    return found.astype(np.float32)


def _painted(mesh: Mesh, photos: Sequence[Photo], cameras: Sequence[Camera]) -> Mesh:
    grey = cleaned(mesh)
    grey = replace(grey, vertex_colours=np.full((len(grey.vertices), 3), GREY, np.float32))
    return photo_textured(textured(grey, None), photos, cameras).mesh
