"""Named ways to judge: which photos go in, how the answer is aligned, in what frame and by what sample it is measured.

Figures may be compared inside one protocol only, and none beside figures from other data. The protocols of others are named after their
first use; what their sources leave open is decided here and said in the `note` of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Bool, Float, Float32

from mvsam3d.errors import MvSam3dError
from mvsam3d.evaluation import measures
from mvsam3d.evaluation.alignment import Alignment, Rule, aligned
from mvsam3d.evaluation.measures import Nearest, Samples, surface_samples, vertex_samples
from mvsam3d.evaluation.perceptual import Lpips
from mvsam3d.evaluation.pictures import Shown, pictured, splatted
from mvsam3d.evaluation.rigs import EscherNetGso, RandomSphere, Rig, Ring, captured
from mvsam3d.evaluation.solids import (
    Winding,
    longest_side,
    looked_up,
    marched,
    middle,
    solid_cells,
    solids_together,
    winding_of,
)
from mvsam3d.evaluation.subjects import Answer, Capture, Subject, sized
from mvsam3d.geometry.cameras import resized
from mvsam3d.types import Camera, Mesh

Metric = Literal[
    "chamfer_l1",
    "chamfer_l2",
    "f_score",
    "normal_consistency",
    "emd",
    "iou_32",
    "iou_64",
    "iou_points",
    "silhouette",
    "psnr",
    "ssim",
    "lpips",
    "poses",
]
SHAPE: tuple[Metric, ...] = ("chamfer_l1", "chamfer_l2", "f_score", "normal_consistency", "emd")
SOLID: tuple[Metric, ...] = ("iou_32", "iou_64", "iou_points")
LOOKS: tuple[Metric, ...] = ("silhouette", "psnr", "ssim", "lpips")
EMD_POINTS = 1024
ADD_POINTS = 2000
INSIDE_POINTS = 100_000  # of the point test, uniform over the box of both
HIGHER_IS_BETTER = ("f_score", "iou", "normal_consistency", "psnr", "ssim", "silhouette", "pose_auc", "pose_accuracy")


@dataclass(frozen=True)
class Normalisation:
    """The frame in which lengths are measured: the middle of the box at the origin, its longest side `side`."""

    by: Literal["truth", "each"] = "truth"  # each: the answer by its own box, which hides errors of scale
    side: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """One way to judge."""

    name: str
    inputs: Rig
    tests: Rig
    size: int = (
        256  # pixels a side of the photos; a real photo's longer side is brought down to it where pictures are compared
    )
    rule: Rule = "icp-24"
    normalisation: Normalisation = field(default_factory=Normalisation)
    surface: Literal["surface", "vertices", "cells"] = (
        "surface"  # what distances are between; cells: marching cubes of 32^3 cells
    )
    samples: int = 30_000
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)  # of the F-score, in the normalised frame's units
    two_ways: Literal["mean", "sum"] = "mean"  # of the Chamfer distances
    metrics: tuple[Metric, ...] = (*SHAPE, *SOLID, *LOOKS, "poses")
    note: str = ""


DEFAULT = Protocol(
    "default",
    Ring(),
    RandomSphere(views=8, seed=1),
    note="Lengths in longest sides of the truth. Similarity ICP from 24 rotations, so that frames need not agree.",
)
P1 = Protocol(
    "P1",
    EscherNetGso(views=5, first=0),
    EscherNetGso(views=15, first=10),
    rule="none",
    normalisation=Normalisation("each"),
    surface="vertices",
    metrics=("chamfer_l1", "iou_32", "iou_64", "psnr", "ssim", "lpips"),
    note="EscherNet on GSO-30: vertices, each mesh scaled by its own box, distances not squared, mean of both ways; no alignment but "
    "the bridge between the axes. Cameras: our own draw in the style of its 25 renders.",
)
P3 = Protocol(
    "P3",
    Ring(views=4),
    RandomSphere(views=8, seed=3),
    size=512,
    rule="icp-24",
    normalisation=Normalisation("truth", 2.0),
    samples=100_000,
    thresholds=(0.1,),
    metrics=("chamfer_l1", "f_score", "psnr", "ssim", "lpips"),
    note="ReconViaGen: 100,000 points, [-1, 1]^3, F at 0.1. The alignment and the cameras are ours.",
)
P4 = Protocol(
    "P4",
    Ring(views=4),
    RandomSphere(views=0),
    size=512,
    rule="icp-4",
    normalisation=Normalisation("truth", 2.0),
    samples=10_000,
    thresholds=(0.1,),
    metrics=("chamfer_l1", "f_score"),
    note="ReconPlusGen: scaled ICP from 4 rotations, l1 Chamfer and F at 0.1 for 2 to 24 views. The source names neither the number of "
    "points nor whether both ways are added; 10,000 points and their mean give our held-out meshes against themselves 0.017, where it "
    "reports 0.017 to 0.026 of its own.",
)
P5 = Protocol(
    "P5",
    Ring(views=4),
    RandomSphere(views=8, seed=5),
    size=512,
    rule="icp-24",
    normalisation=Normalisation("truth", 2.0),
    samples=100_000,
    two_ways="sum",
    metrics=("chamfer_l2", "psnr", "ssim", "lpips", "poses"),
    note="Mix3R: Chamfer after similarity alignment (squared, by its size: the source does not say), pictures at held-out views and at the "
    "answer's own cameras, relative poses.",
)
P7 = Protocol(
    "P7",
    RandomSphere(views=20, seed=7, lowest=25.0, highest=30.0),
    RandomSphere(views=0),
    size=137,
    rule="none",
    surface="cells",
    samples=8192,
    thresholds=(0.01,),
    metrics=("iou_32", "f_score"),
    note="ShapeNet-R2N2 style: 32^3 IoU, F at 1 % of 8192 points on marching cubes of both grids. An answer is one solid, so the source's "
    "choice of the best of three thresholds is left to the system.",
)
PROTOCOLS = {protocol.name: protocol for protocol in (DEFAULT, P1, P3, P4, P5, P7)}


@dataclass(frozen=True)
class Judgement:
    """What was measured, what could not be and why, and how the answer was laid over the truth."""

    metrics: dict[str, float]
    missing: dict[str, str]
    alignment: Alignment | None  # None: none could be found, `missing` says why


class NotMeasured(MvSam3dError):
    """An answer or an object lacks what a measure needs."""


def input_rig(protocol: Protocol, views: int) -> Rig:
    """The protocol's input cameras for so many views."""
    return replace(protocol.inputs, views=views)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of a metric is the better one."""
    return metric.startswith(HIGHER_IS_BETTER)


def judged(
    answer: Answer,
    subject: Subject,
    inputs: Capture,
    tests: Capture,
    protocol: Protocol,
    noise: np.random.Generator,
    *,
    lpips: Lpips | None = None,
) -> Judgement:
    """Measure an answer.

    Args:
        answer: what a system made of `inputs`.
        subject: the truth.
        inputs: the photos the answer was made from, in the order of its cameras.
        tests: photos kept back.
        protocol: what to measure, and how.
        noise: for the samples.
        lpips: its networks; None: LPIPS is reported as missing.
    Returns: by name; of each metric of the protocol either values, or the reason why there are none.
    """
    try:
        laid = _laid(answer, subject, inputs, tests, protocol, noise, lpips)
    except MvSam3dError as error:
        return Judgement({}, {metric: str(error) for metric in protocol.metrics}, None)
    return _judgement(laid)


def floor(
    subject: Subject,
    protocol: Protocol,
    noise: np.random.Generator,
    *,
    cache: Path | None = None,
    lpips: Lpips | None = None,
) -> Judgement:
    """The truth against itself, sampled again: no answer can be expected to do better.

    Points are drawn anew, and pictures taken with 3 x 3 instead of 2 x 2 samples a pixel.
    """
    inputs, tests = (captured(subject, rig, protocol.size, cache) for rig in (protocol.inputs, protocol.tests))
    laid = _laid(Answer(mesh=subject.mesh, truth_from_answer=np.eye(4)), subject, inputs, tests, protocol, noise, lpips)
    return _judgement(replace(laid, itself=True))


def _judgement(laid: _Laid) -> Judgement:
    metrics: dict[str, float] = {}
    missing: dict[str, str] = {}
    for metric in laid.protocol.metrics:
        if metric == "poses" and laid.itself:
            continue
        try:
            metrics |= _measured(metric, laid)
        except MvSam3dError as error:
            missing[metric] = str(error)
    return Judgement(metrics, missing, laid.alignment)


def _measured(metric: Metric, laid: _Laid) -> dict[str, float]:
    """The values of one metric by name. Raises: MvSam3dError: it cannot be measured, and why."""
    side = laid.protocol.normalisation.side
    ways = 2 if laid.protocol.two_ways == "sum" else 1
    match metric:
        case "chamfer_l1":
            return {metric: measures.chamfer(laid.nearest, squared=False) * side * ways}
        case "chamfer_l2":
            return {metric: measures.chamfer(laid.nearest, squared=True) * side**2 * ways}
        case "f_score":
            return {f"{metric}@{t:g}": measures.f_score(laid.nearest, t / side) for t in laid.protocol.thresholds}
        case "normal_consistency":
            return {metric: measures.normal_consistency(laid.nearest)}
        case "emd":
            truth, answer = (some[:EMD_POINTS] for some in (laid.truth_samples.points, laid.answer_samples.points))
            most = min(len(truth), len(answer))
            return {metric: measures.earth_movers(truth[:most], answer[:most]) * side}
        case "iou_32" | "iou_64":
            return {metric: measures.iou(*laid.solids(int(metric.removeprefix("iou_"))))}
        case "iou_points":
            return {metric: _points_iou(laid)}
        case "silhouette":
            return _silhouettes(laid)
        case "psnr" | "ssim" | "lpips":
            return _pictures(metric, laid)
        case "poses":
            return _poses(laid)
        case _:
            assert_never(metric)


# the answer laid over the truth


@dataclass(frozen=True)
class _Laid:
    """An answer over the truth; what follows is worked out once, when asked for. The unit frame: see `_unit`."""

    answer: Answer
    subject: Subject
    inputs: Capture  # of the protocol's size
    tests: Capture
    protocol: Protocol
    alignment: Alignment
    truth_samples: Samples  # in the unit frame
    noise: np.random.Generator
    lpips: Lpips | None = None
    itself: bool = False  # the answer is the truth

    @cached_property
    def mesh(self) -> Mesh:
        """The answer's, in the truth's frame. Raises: NotMeasured."""
        return _moved(_mesh_of(self.answer), self.alignment.truth_from_answer)

    @cached_property
    def unit_mesh(self) -> Mesh:
        """The answer's, in the unit frame."""
        box = self.mesh if self.protocol.normalisation.by == "each" else self.subject.mesh
        return _moved(self.mesh, _unit(box))

    @cached_property
    def answer_samples(self) -> Samples:
        """Of the answer, in the unit frame."""
        if self.protocol.surface == "cells":
            return _sampled(marched(self.solids(32)[1]), self.protocol, self.noise)
        return _sampled(self.unit_mesh, self.protocol, self.noise)

    @cached_property
    def nearest(self) -> Nearest:
        """Between the samples."""
        if self.protocol.surface == "cells":
            truth = _sampled(marched(self.solids(32)[0]), self.protocol, self.noise)
            return measures.nearest(truth, self.answer_samples)
        return measures.nearest(self.truth_samples, self.answer_samples)

    def solids(self, resolution: int) -> tuple[Bool[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
        """Solid cells of truth and answer."""
        truth = _moved(self.subject.mesh, _unit(self.subject.mesh))
        if self.answer.mesh is not None:
            return solids_together(truth, self.unit_mesh, resolution)
        if self.answer.occupied is None:
            raise NotMeasured("the answer has neither a mesh nor a solid")
        cells = (np.indices((resolution,) * 3).transpose(1, 2, 3, 0) + 0.5) / resolution - 0.5
        answer_from_unit = np.linalg.inv(_unit(self.subject.mesh) @ self.alignment.truth_from_answer)
        return solid_cells(truth, resolution), looked_up(self.answer.occupied, _carried(answer_from_unit, cells))

    @cached_property
    def test_pictures(self) -> list[Shown]:
        """The answer's mesh as the cameras of the photos kept back see it."""
        return self._shown(self.tests)

    @cached_property
    def input_pictures(self) -> list[Shown]:
        """The answer's mesh as the true cameras of the photos put in see it."""
        return self._shown(self.inputs)

    def _shown(self, capture: Capture) -> list[Shown]:
        return list(pictured(self.mesh, capture.cameras, lit=self.itself, samples=3 if self.itself else 2))


def _laid(
    answer: Answer,
    subject: Subject,
    inputs: Capture,
    tests: Capture,
    protocol: Protocol,
    noise: np.random.Generator,
    lpips: Lpips | None,
) -> _Laid:
    truth = surface_samples(subject.mesh, protocol.samples, noise)
    alignment = aligned(
        truth.points, _points_of(answer, protocol.samples, noise), protocol.rule, answer.truth_from_answer
    )
    unit = _moved(subject.mesh, _unit(subject.mesh))
    samples = _sampled(unit, protocol, noise)
    small = sized(inputs, protocol.size), sized(tests, protocol.size)
    return _Laid(answer, subject, *small, protocol, alignment, samples, noise, lpips)


def _points_of(answer: Answer, count: int, noise: np.random.Generator) -> Float[np.ndarray, "point 3"]:
    """Points of the answer's surface, in its own frame."""
    if answer.mesh is None and answer.occupied is not None and answer.occupied.any():
        return surface_samples(marched(answer.occupied), count, noise).points
    return surface_samples(_mesh_of(answer), count, noise).points


def _mesh_of(answer: Answer) -> Mesh:
    """Raises: NotMeasured: no mesh, or no sound one."""
    mesh = answer.mesh
    if mesh is None:
        raise NotMeasured("the answer has no mesh")
    if not len(mesh.faces):
        raise NotMeasured("the answer's mesh is empty")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise NotMeasured(f"the answer's faces point outside its {len(mesh.vertices)} vertices")
    broken = int((~np.isfinite(mesh.vertices).all(axis=1)).sum())
    if broken:
        raise NotMeasured(f"{broken} of {len(mesh.vertices)} vertices of the answer are NaN or infinite")
    return mesh


def _sampled(mesh: Mesh, protocol: Protocol, noise: np.random.Generator) -> Samples:
    return vertex_samples(mesh) if protocol.surface == "vertices" else surface_samples(mesh, protocol.samples, noise)


def _unit(mesh: Mesh) -> Float[np.ndarray, "4 4"]:
    """unit_from_mesh: the frame in which the middle of its box is the origin, and the box's longest side 1."""
    used = mesh.vertices[np.unique(mesh.faces)]
    matrix = np.eye(4)
    matrix[:3, 3] = -middle(used)
    matrix[:3] /= max(longest_side(used), 1e-300)
    return matrix


def _carried(
    target_from_source: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "*rows 3"]
) -> Float[np.ndarray, "*rows 3"]:
    carried: Float[np.ndarray, "*rows 3"] = points @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    return carried


def _moved(mesh: Mesh, target_from_source: Float[np.ndarray, "4 4"]) -> Mesh:
    return replace(mesh, vertices=_carried(target_from_source, mesh.vertices.astype(np.float64)))


def _points_iou(laid: _Laid) -> float:
    """Of points uniform over the box of both."""
    if laid.subject.solid is None:
        raise NotMeasured("the true surface is not closed, so no point test tells its inside")
    inside = winding_of(laid.mesh)
    if not isinstance(inside, Winding):
        raise NotMeasured(
            f"the answer's surface is not closed ({inside} open edges), so no point test tells its inside"
        )
    corners = np.concatenate([laid.mesh.vertices, laid.subject.mesh.vertices])
    low, high = corners.min(axis=0), corners.max(axis=0)
    points = low + (high - low) * laid.noise.random((INSIDE_POINTS, 3))
    return measures.iou(laid.subject.solid(points), inside(points))


# pictures


def _on_white(capture: Capture, i: int) -> Float32[np.ndarray, "h w 3"]:
    rgb = capture.photos[i].rgb.astype(np.float32) / 255
    if capture.background == "scene":
        rgb = np.where(capture.photos[i].mask[..., None], rgb, np.float32(1))
    return rgb


def _pictures(metric: Literal["psnr", "ssim", "lpips"], laid: _Laid) -> dict[str, float]:
    """Of the mesh and of the Gaussians at the views kept back, of the mesh at the answer's own cameras."""
    if metric == "lpips" and laid.lpips is None:
        raise NotMeasured("no weights of LPIPS were given")
    if not laid.tests.photos:
        raise NotMeasured("no photos were kept back")
    found: dict[str, float] = {}
    mesh = _mesh_of(laid.answer) if laid.answer.mesh is not None else None
    if mesh is not None and (mesh.texture is not None or mesh.vertex_colours is not None or laid.itself):
        found[metric] = _compared(metric, laid, laid.tests, laid.test_pictures)
        if metric == "psnr":
            inside = zip(laid.test_pictures, laid.tests.photos, strict=True)
            values = [
                measures.psnr(_on_white(laid.tests, i), rgb, photo.mask) for i, ((rgb, _), photo) in enumerate(inside)
            ]
            found["psnr_inside"] = float(np.mean(values))
        if laid.answer.cameras is not None:
            shown = list(pictured(mesh, _own_cameras(laid), lit=False))
            found[f"{metric}_inputs_own_cameras"] = _compared(metric, laid, laid.inputs, shown)
    if laid.answer.gaussians is not None:
        cameras = [_of_world(camera, laid.alignment.truth_from_answer) for camera in laid.tests.cameras]
        found[f"{metric}_gaussians"] = _compared(
            metric, laid, laid.tests, list(splatted(laid.answer.gaussians, cameras))
        )
    if not found:
        raise NotMeasured(
            "the answer has no colours" if mesh is not None else "the answer has neither a mesh nor Gaussians"
        )
    return found


def _compared(metric: Literal["psnr", "ssim", "lpips"], laid: _Laid, photos: Capture, shown: list[Shown]) -> float:
    """Mean over the views."""
    pairs = [(_on_white(photos, i), rgb) for i, (rgb, _) in enumerate(shown)]
    match metric:
        case "psnr":
            return float(np.mean([measures.psnr(truth, rgb) for truth, rgb in pairs]))
        case "ssim":
            return float(np.mean([measures.ssim(truth, rgb) for truth, rgb in pairs]))
        case "lpips":
            assert laid.lpips is not None, "asked for before"
            return float(np.mean([laid.lpips.distance(truth, rgb) for truth, rgb in pairs]))
        case _:
            assert_never(metric)


def _own_cameras(laid: _Laid) -> list[Camera]:
    """The answer's cameras, of the size of the photos put in. Raises: NotMeasured: not one for each photo."""
    cameras = laid.answer.cameras
    if cameras is None:
        raise NotMeasured("the answer has no cameras")
    if len(cameras) != len(laid.inputs.cameras):
        raise NotMeasured(f"the answer has {len(cameras)} cameras, {len(laid.inputs.cameras)} photos went in")
    return [resized(own, true.width, true.height) for own, true in zip(cameras, laid.inputs.cameras, strict=True)]


def _of_world(camera: Camera, old_from_new: Float[np.ndarray, "4 4"]) -> Camera:
    """The camera with another frame as its world."""
    return replace(camera, camera_from_world=camera.camera_from_world @ old_from_new)


def _silhouettes(laid: _Laid) -> dict[str, float]:
    """Outlines at the views put in, by the true cameras and by the answer's own, and at the views kept back."""
    found = {}
    if laid.inputs.photos:
        found["silhouette_iou"] = _outlines(laid.inputs, laid.input_pictures)
    if laid.tests.photos:
        found["silhouette_iou_tests"] = _outlines(laid.tests, laid.test_pictures)
    if laid.answer.cameras is not None:
        shown = list(pictured(_mesh_of(laid.answer), _own_cameras(laid), lit=False))
        found["silhouette_iou_own_cameras"] = _outlines(laid.inputs, shown)
    return found


def _outlines(photos: Capture, shown: list[Shown]) -> float:
    return float(
        np.mean(
            [measures.iou(photo.mask, cover >= 0.5) for photo, (_, cover) in zip(photos.photos, shown, strict=True)]
        )
    )


# cameras


def _poses(laid: _Laid) -> dict[str, float]:
    """Errors of the answer's cameras once it lies over the truth, and of their relative poses, which need no alignment."""
    truth = laid.inputs.cameras
    answer_from_truth = np.linalg.inv(laid.alignment.truth_from_answer)
    own = [_of_world(camera, answer_from_truth) for camera in _own_cameras(laid)]
    unit = longest_side(laid.subject.mesh.vertices)
    errors = measures.pose_errors(truth, own)
    some = surface_samples(laid.subject.mesh, ADD_POINTS, laid.noise).points
    found = {
        "rotation_error": float(errors.rotation.mean()),
        "translation_error": float(errors.translation.mean()) / unit,
        "add_s": float(np.mean([measures.add_s(some, t, a) for t, a in zip(truth, own, strict=True)])) / unit,
    }
    if len(truth) > 1:
        relative = measures.relative_pose_errors(truth, own)
        worse = np.maximum(relative.rotation, relative.translation)
        found |= {
            "pose_accuracy_rotation@30": float((relative.rotation < 30).mean()),
            "pose_accuracy_translation@30": float((relative.translation < 30).mean()),
            "pose_auc@30": measures.area_under_accuracy(worse),
        }
    return found
