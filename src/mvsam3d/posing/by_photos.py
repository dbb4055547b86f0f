"""What photos do to a finished mesh and cloud, once it is known how they were taken: outlines that meet the masks, and their colours.

Only photos that the mesh explains take part: a mesh that lies otherwise in a photo than the object does would be torn by its outline and
painted with the wrong colours.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mvsam3d.meshing.outline_fit import OutlineFit, fitted_to_outlines
from mvsam3d.meshing.photo_texture import PhotoTextureConfig, coverage_mesh, photo_textured
from mvsam3d.meshing.splat_colours import photo_coloured
from mvsam3d.meshing.warp import warped_cloud
from mvsam3d.rendering.silhouettes import silhouette_iou
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo

log = logging.getLogger(__name__)

SurfaceFrom = Literal["model", "auto"]
TextureFrom = Literal["photos", "model", "auto"]


@dataclass(frozen=True)
class ByPhotos:
    """What photos may change."""

    surface: SurfaceFrom = "auto"
    """The mesh: of the shape that cameras and the lifting network tell, where they do (auto), or the model's own."""
    fit_outlines: bool = True
    """Bend mesh and cloud so that their outlines meet the masks."""
    explained: float = 0.6
    """Least silhouette IoU of a view that takes part in that."""
    texture: TextureFrom = "auto"
    """Colours of the photos where they see the surface, of the model alone, or of the photos whose outline is met well (auto)."""
    well_met: float = 0.85
    """Least silhouette IoU of such a photo, after the outlines were fitted."""
    outlines: OutlineFit = field(default_factory=OutlineFit)
    colours: PhotoTextureConfig = field(default_factory=PhotoTextureConfig)


@dataclass(frozen=True)
class Painted:
    """Mesh and cloud in the photos' colours."""

    mesh: Mesh
    gaussians: GaussianCloud
    views: tuple[int, ...]  # the photos that gave colours; none: all colours are the model's
    seen_fraction: float  # of the surface, seen by one of them or more
    coverage: Mesh | None = (
        None  # the mesh painted by how many of them see each place (`meshing.photo_texture.coverage_colours`)
    )
    seen_by: tuple[float, ...] = ()  # of the surface, seen by each of them


def explained_views(
    mesh: Mesh, photos: Sequence[Photo], cameras: Sequence[Camera], views: Sequence[int], least: float, without: str
) -> tuple[int, ...]:
    """Which of the views have a silhouette IoU of `least` or more; the others are named in a warning.

    Args:
        mesh: in the object frame.
        photos: all there are.
        cameras: theirs, with the object frame as world.
        views: those that are asked about.
        least: IoU.
        without: what the others do not do, for the warning.
    """
    met = {i: silhouette_iou(photos[i], mesh, cameras[i]) for i in views}
    for i, iou in met.items():
        if iou < least:
            name = photos[i].name
            log.warning(
                "view %s: the mesh meets its mask by %.2f only (%.2f is asked for), so it %s", name, iou, least, without
            )
    return tuple(i for i, iou in met.items() if iou >= least)


def fitted(
    mesh: Mesh,
    gaussians: GaussianCloud,
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    config: ByPhotos,
    *,
    views: Sequence[int],
) -> tuple[Mesh, GaussianCloud]:
    """Mesh and cloud bent alike by the outlines of those of the `views` that the mesh explains; as they are if there is none."""
    if not config.fit_outlines:
        return mesh, gaussians
    views = explained_views(mesh, photos, cameras, views, config.explained, "does not bend the mesh")
    if not views:
        return mesh, gaussians
    found = fitted_to_outlines(mesh, [photos[i].mask for i in views], [cameras[i] for i in views], config.outlines)
    return found.mesh, warped_cloud(gaussians, found.warp)


def painted(
    mesh: Mesh,
    gaussians: GaussianCloud,
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    config: ByPhotos,
    *,
    views: Sequence[int],
) -> Painted:
    """Colours of the photos; the model's where none sees the surface, and if none of them may give colours.

    Args:
        mesh: with uv and the model's texture.
        gaussians: of the same surface.
        photos: all there are.
        cameras: theirs, with the object frame as world.
        config: which of them count.
        views: those that may count.
    """
    if config.texture == "model":
        return Painted(mesh, gaussians, (), 0.0)
    used = tuple(views)
    if config.texture == "auto":
        used = explained_views(mesh, photos, cameras, views, config.well_met, "gives no colours")
    if not used:
        return Painted(mesh, gaussians, (), 0.0)
    shown, placed = [photos[i] for i in used], [cameras[i] for i in used]
    textured = photo_textured(mesh, shown, placed, config.colours)
    cloud = photo_coloured(gaussians, mesh, shown, placed, gains=textured.gains)
    return Painted(textured.mesh, cloud, used, textured.seen_fraction, coverage_mesh(textured), textured.seen_by())
