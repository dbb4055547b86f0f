"""`scene.glb`: the depth maps of a set as one cloud of coloured points, with a wire pyramid for each camera.

The scene is upright as seen from the first photo and centred: scene_from_world = T(-median) diag(1, -1, -1, 1) camera_0_from_world, kept in
the file as scenes[0].extras.hf_alignment (rows of rows). Source: Depth Anything 3, its GLB export.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import OPENGL_FROM_CAMERA
from mvsam3d.io.depth import DepthPrediction, unprojected
from mvsam3d.io.runs import write_whole

MOST_POINTS = 1_000_000
LEAST_CONFIDENCE = 1.05  # but no fewer than the best 10 %, and no more than the best 60 % of the pixels are shown
SHOWN_PERCENTILES = (40.0, 90.0)
CAMERA_SHARE = 0.03  # height of a camera's pyramid, of the diagonal of the box around the points
BOX_PERCENTILES = (5.0, 95.0)


def write_depth_scene(
    path: Path, prediction: DepthPrediction, *, most_points: int = MOST_POINTS, seed: int = 0
) -> Float[np.ndarray, "4 4"]:
    """Write the scene, whole or not at all. Returns scene_from_world.

    Args:
        most_points: of more, so many are drawn at random.
        seed: of that draw.
    Raises: BadFile: no pixel has a depth.
    """
    import trimesh

    points_world, colours = confident_points(prediction)
    if len(points_world) == 0:
        raise BadFile(f"{path} not written: no pixel of the depth maps has a finite positive depth")
    scene_from_world = alignment(prediction.camera_from_world[0], points_world)
    points = _moved(scene_from_world, points_world)
    if len(points) > most_points:
        rows = np.sort(np.random.default_rng(seed).choice(len(points), most_points, replace=False))
        points, colours = points[rows], colours[rows]
    scene = trimesh.Scene(metadata={"hf_alignment": scene_from_world.tolist()})
    cloud = trimesh.points.PointCloud(points, colours)  # type: ignore[no-untyped-call]
    scene.add_geometry(cloud, geom_name="geometry_0")
    low, high = np.percentile(points, BOX_PERCENTILES, axis=0)
    length = CAMERA_SHARE * float(np.linalg.norm(high - low)) or 1.0
    for view, edges_world in enumerate(camera_edges(prediction, length)):
        wire = trimesh.load_path(_moved(scene_from_world, edges_world))
        wire.colors = np.tile(np.append(camera_colour(view, len(prediction.depth)), 255), (len(wire.entities), 1))
        scene.add_geometry(wire, geom_name=f"geometry_{view + 1}")
    write_whole(path, scene.export(file_type="glb"))  # type: ignore[no-untyped-call]
    return scene_from_world


def confident_points(
    prediction: DepthPrediction,
) -> tuple[Float[np.ndarray, "point 3"], UInt8[np.ndarray, "point 3"]]:
    """World points and colours of the pixels that are shown, view by view in the order of the rows."""
    shown = confident(prediction.confidence) & np.isfinite(prediction.depth) & (prediction.depth > 0)
    points_camera = unprojected(prediction.depth, prediction.intrinsics)
    points = []
    for camera_from_world, own, kept in zip(prediction.camera_from_world, points_camera, shown, strict=True):
        rotation, translation = camera_from_world[:, :3].astype(np.float64), camera_from_world[:, 3].astype(np.float64)
        points.append((own[kept] - translation) @ rotation)  # rotation⁻¹ = rotationᵀ
    return np.concatenate(points), prediction.images[shown]


def confident(confidence: Float[np.ndarray, "view h w"]) -> Bool[np.ndarray, "view h w"]:
    """The pixels that are shown: confidence of at least LEAST_CONFIDENCE, held between two percentiles of all pixels."""
    least, most = np.percentile(confidence, SHOWN_PERCENTILES)
    shown: Bool[np.ndarray, "view h w"] = confidence >= min(max(LEAST_CONFIDENCE, least), most)
    return shown


def alignment(
    camera_from_world: Float[np.ndarray, "3 4"], points_world: Float[np.ndarray, "point 3"]
) -> Float[np.ndarray, "4 4"]:
    """scene_from_world, from the first camera and all points that are shown."""
    full = np.eye(4)
    full[:3] = camera_from_world
    upright: Float[np.ndarray, "4 4"] = OPENGL_FROM_CAMERA @ full
    upright[:3, 3] -= np.median(_moved(upright, points_world), axis=0)
    return upright


def camera_edges(prediction: DepthPrediction, length: float) -> Float[np.ndarray, "view 8 2 3"]:
    """Both ends, in the world, of the edges of each camera's pyramid: from the centre to the corner pixels at a depth, and around."""
    views, height, width = prediction.depth.shape
    far = np.full((views, height, width), length)
    corners = unprojected(far, prediction.intrinsics)[:, [0, 0, -1, -1], [0, -1, -1, 0]]
    tips = np.concatenate([np.zeros((views, 1, 3)), corners], 1)
    rotations = prediction.camera_from_world[:, :, :3].astype(np.float64)
    tips_world = (tips - prediction.camera_from_world[:, None, :, 3]) @ rotations
    ends = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)]
    edges: Float[np.ndarray, "view 8 2 3"] = tips_world[:, ends]
    return edges


def camera_colour(view: int, views: int) -> UInt8[np.ndarray, " 3"]:
    """Hues spread around the circle."""
    return (255 * np.array(colorsys.hsv_to_rgb((view + 0.5) / views, 0.85, 0.95))).astype(np.uint8)


def _moved(
    target_from_source: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "*rows 3"]
) -> Float[np.ndarray, "*rows 3"]:
    moved: Float[np.ndarray, "*rows 3"] = points @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    return moved
