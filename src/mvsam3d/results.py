"""A reconstruction -> the files of a result folder."""

from __future__ import annotations

import logging
import platform
import resource
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.pose import camera_from_object
from mvsam3d.geometry.frames import GLB_FROM_OBJECT, P3D_FROM_CAMERA
from mvsam3d.io.glb import write_glb
from mvsam3d.io.photos import SkippedView
from mvsam3d.io.ply import write_ply
from mvsam3d.io.runs import Json, RunFolder, write_params
from mvsam3d.posing.placement import photo_cameras
from mvsam3d.rendering.preview import preview
from mvsam3d.rendering.silhouettes import silhouette_iou
from mvsam3d.types import Camera, Photo, Reconstruction

log = logging.getLogger(__name__)

MATRICES = {
    "glb_from_object": GLB_FROM_OBJECT,
    "camera_from_p3d_camera": P3D_FROM_CAMERA,
}  # the latter is its own inverse
Format = Literal["gaussian", "mesh"]
FORMATS: tuple[Format, ...] = ("gaussian", "mesh")
PACKAGES = ("mvsam3d", "torch", "numpy", "numba", "trimesh")
WELL_MET = 0.85  # silhouette IoU, in the middle, of views among which
ODD = 0.05  # less is odd for one of them


@dataclass(frozen=True)
class RunFacts:
    """What a report says beside the result."""

    seed: int
    model: Mapping[str, Json]
    options: Mapping[str, Json]
    skipped: Sequence[SkippedView] = ()
    longest_side: float | None = None  # of the object's bounding box, metres, if somebody measured it
    metric_cameras: bool = False  # the given cameras' lengths are metres


def write_results(
    folder: RunFolder,
    photos: Sequence[Photo],
    result: Reconstruction,
    facts: RunFacts,
    formats: Collection[Format] = FORMATS,
) -> dict[str, Json]:
    """Write params.npz, preview.png, report.json, and result.glb and result.ply by the formats; returns the report."""
    pose, view = result.poses[result.reference], result.views[result.reference]
    placed = {"camera_from_object": camera_from_object(pose).double().numpy()}
    size = metres_per_unit(result, facts)
    if "mesh" in formats:
        write_glb(folder.path("result.glb"), result.mesh, matrices=placed, metres_per_unit=size)
    if "gaussian" in formats:
        write_ply(folder.path("result.ply"), result.gaussians)
    known = len(photos) > 1 or view.pointmap is not None
    pointmap = (view.pointmap_scale, view.pointmap_shift) if known else None
    write_params(folder.path("params.npz"), pose, result.voxels, pointmap=pointmap, matrices={**MATRICES, **placed})
    cameras = cameras_of(photos, result)
    sheet = preview(photos, result.mesh, result.gaussians, cameras, coverage=result.coverage)
    Image.fromarray(sheet).save(folder.path("preview.png"), optimize=False)
    met = [silhouette_iou(photo, result.mesh, camera) for photo, camera in zip(photos, cameras, strict=True)]
    for i in odd_views(met):
        log.warning(
            "view %s: the result meets its mask by %.2f, those of the views by %.2f in the middle: is the photo mirrored, or of "
            "something else, or its camera or mask off? preview.png shows it",
            photos[i].name,
            met[i],
            np.median(met),
        )
    report = _report(photos, result, cameras, met, facts)
    folder.write_json("report.json", report)
    return report


def odd_views(met: Sequence[float]) -> tuple[int, ...]:
    """Views whose masks a result meets much less than those of most, where it meets those well.

    Args:
        met: silhouette IoU of each view.
    """
    middle = float(np.median(met))
    return tuple(i for i, iou in enumerate(met) if middle >= WELL_MET and iou < middle - ODD)


def metres_per_unit(result: Reconstruction, facts: RunFacts) -> float | None:
    """Length of a unit of the object frame, by the object's measured side or by metric cameras; None: neither is known.

    Raises: InvalidOption: the cameras tell no place of the object, so that their lengths are not those of its frame.
    """
    if facts.longest_side is not None:
        return facts.longest_side / float(np.ptp(result.mesh.vertices, axis=0).max())
    if not facts.metric_cameras:
        return None
    if result.in_world is None:
        raise InvalidOption(
            "--metric-cameras, but the cameras do not tell where the object is: see the warnings, or measure the object's longest side "
            "and give --scale-length"
        )
    return float(np.cbrt(np.linalg.det(result.in_world.world_from_object[:3, :3])))


def cameras_of(photos: Sequence[Photo], result: Reconstruction) -> list[Camera]:
    """Each photo's camera by the object's pose in it, the object frame as the world."""
    return photo_cameras(photos, result.poses, result.views, result.cameras, among=result.in_world is not None)


def _report(
    photos: Sequence[Photo], result: Reconstruction, cameras: Sequence[Camera], met: Sequence[float], facts: RunFacts
) -> dict[str, Json]:
    views: list[Json] = [
        {
            "name": photo.name,
            "silhouette_iou": round(iou, 4),
            "camera_from_object": _matrix(camera.camera_from_world),
            "intrinsics": _matrix(camera.intrinsics),
            "crop_box": list(view.crop_box),
        }
        for photo, view, camera, iou in zip(photos, result.views, cameras, met, strict=True)
    ]
    return {
        "seed": facts.seed,
        "model": dict(facts.model),
        "options": dict(facts.options),
        "views": views,
        "reference_view": photos[result.reference].name,
        "skipped_views": [{"name": view.name, "reason": view.reason} for view in facts.skipped],
        "frames": {name: _matrix(matrix) for name, matrix in MATRICES.items()},
        "world": _world(result, metric=facts.metric_cameras),
        "views_without_camera": list(result.without_camera),
        "shape_by_found_poses": result.by_found_poses,
        "size": _size(result, facts),
        "colours": {
            "from_photos": [photos[i].name for i in result.painted_by],
            "seen_fraction": round(result.seen_fraction, 4),
            "seen_by": {
                photos[i].name: round(seen, 4) for i, seen in zip(result.painted_by, result.seen_by, strict=True)
            },
        },
        "mesh": {"vertices": len(result.mesh.vertices), "faces": len(result.mesh.faces)},
        "gaussians": len(result.gaussians.means),
        "voxels": {"count": len(result.voxels.coords), "resolution": result.voxels.resolution},
        "seconds": {name: round(seconds, 3) for name, seconds in result.seconds.items()},
        "peak_memory_mib": round(peak_memory_mib()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _size(result: Reconstruction, facts: RunFacts) -> dict[str, Json]:
    """Whether lengths are known, and then result.glb is in metres; result.ply and params.npz are in units of the object frame."""
    metres = metres_per_unit(result, facts)
    if metres is None:
        return {"metric": False}
    sides = metres * np.ptp(result.mesh.vertices, axis=0)
    source = "--scale-length" if facts.longest_side is not None else "--metric-cameras"
    return {
        "metric": True,
        "from": source,
        "metres_per_object_unit": metres,
        "bounding_box_m": [round(float(side), 5) for side in sides],
    }


def _world(result: Reconstruction, *, metric: bool) -> dict[str, Json] | None:
    """Where the object is among cameras that were given; null if none were, or they tell no shape."""
    if result.in_world is None:
        return None
    mirror = result.in_world.mirror_plane
    return {
        "world_from_object": _matrix(result.in_world.world_from_object),
        "shape_from": result.in_world.source,
        "model_agreement": round(result.in_world.agreement, 4),
        "model_share": result.in_world.model_share,
        # normal and offset, in the cameras' world
        "mirror_plane": None if mirror is None else [float(value) for value in mirror],
        "metric": metric,  # if not, lengths are in the cameras' units, whatever those are
    }


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _matrix(values: Float[np.ndarray, "rows columns"]) -> list[Json]:
    return [[float(value) for value in row] for row in values]
