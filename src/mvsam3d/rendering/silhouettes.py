"""How well a mesh's outline meets a mask."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mvsam3d.rendering.meshes import render_mesh
from mvsam3d.types import Camera, Mesh, Photo

SILHOUETTE_SIDE = 256  # pixels along the longer side of the photo in which silhouettes are compared


def silhouette_iou(photo: Photo, mesh: Mesh, camera: Camera) -> float:
    """Intersection over union of the photo's mask and the mesh seen by a camera."""
    zoom = min(1.0, SILHOUETTE_SIDE / max(camera.width, camera.height))
    width, height = round(camera.width * zoom), round(camera.height * zoom)
    shrink = np.diag([width / camera.width, height / camera.height, 1.0])
    _, cover, _ = render_mesh(mesh, shrink @ camera.intrinsics, camera.camera_from_world, width, height, samples=1)
    mask = np.asarray(Image.fromarray(photo.mask).resize((width, height), Image.Resampling.NEAREST))
    seen = cover > 0.5
    either = (mask | seen).sum()
    return float((mask & seen).sum() / either) if either else 1.0
