"""`da3_output.npz` of Depth Anything 3 <-> depth maps, points and cameras of a set of photos.

    depth [N, h, w] f32             along the optical axis; metres with the nested model
    extrinsics [N, 3, 4] f32        world to camera, OpenCV axes ([N, 4, 4] is read too)
    intrinsics [N, 3, 3] f32        pixels of the maps, counted from the centre of the first pixel
    pointmaps [N, h, w, 3] f64      in the camera, OpenCV axes
    pointmaps_sam3d [N, 3, h, w]    the same, channels first (read if it is there)
    image_files [N] unicode         the photos, found again by their stems
    process_res int                 longest side of a photo as the network sees it
Source: MV-SAM3D, scripts/run_da3.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from mvsam3d.errors import BadFile
from mvsam3d.io.cameras import depth_anything_cameras
from mvsam3d.io.npz import check_keys, npz_arrays, npz_headers
from mvsam3d.io.runs import write_whole
from mvsam3d.types import Camera

log = logging.getLogger(__name__)

MOST_PIXELS = 1 << 26  # of all maps together: 264 of 504 x 504, whose points take 0.8 GB
LARGEST_PROCESS_RES = 1 << 14
PATCH = 14  # the sides of a map are multiples of it, so that the longest may exceed `process_res`


@dataclass(frozen=True)
class DepthViews:
    """Depth maps and cameras of a set of photos, of one size and in one unit; NaN where there is no depth."""

    names: tuple[str, ...]  # stems of the photos
    cameras: tuple[Camera, ...]  # of the maps, in a world of their own
    depth: Float32[np.ndarray, "view h w"]
    pointmaps_camera: Float32[np.ndarray, "view h w 3"]
    process_res: int  # longest side of a photo as the network saw it
    path: Path | None = None  # where they were read from

    def select(self, names: Sequence[str]) -> DepthViews:
        """The views of the photos `names`, in that order. Raises: BadFile: naming the photos without depth."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise BadFile(
                f"{self.path or 'the depth maps'} has no depth for the photo{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
                f"{', '.join(self.names[:8])}{', ...' if len(self.names) > 8 else ''}. Names must match but for the extension; "
                "run mvsam3d depth on these photos, or choose photos with --views"
            )
        rows = [self.names.index(name) for name in names]
        cameras = tuple(self.cameras[row] for row in rows)
        return replace(
            self,
            names=tuple(names),
            cameras=cameras,
            depth=self.depth[rows],
            pointmaps_camera=self.pointmaps_camera[rows],
        )


@dataclass(frozen=True)
class DepthPrediction:
    """What a depth network says of a set of photos, in the conventions of Depth Anything 3 (see the top of this file)."""

    depth: Float32[np.ndarray, "view h w"]
    confidence: Float32[np.ndarray, "view h w"]
    camera_from_world: Float32[np.ndarray, "view 3 4"]
    intrinsics: Float32[np.ndarray, "view 3 3"]
    images: UInt8[np.ndarray, "view h w 3"]  # the photos as the network saw them


def load_depth(path: Path, names: Sequence[str]) -> DepthViews:
    """The depth of the photos `names` (stems), in that order. Raises: BadFile: broken, or without one of them."""
    return read_depth(path).select(names)


def read_depth(path: Path) -> DepthViews:
    """All views of an npz. Sizes are checked before anything large is read.

    Raises: BadFile: broken, pickled, too large, keys missing, arrays of other shapes, or a view without any depth.
    """
    if not path.is_file():
        raise BadFile(f"{path} is not there: give the da3_output.npz that mvsam3d depth wrote")
    cameras = depth_anything_cameras(path)  # checks extrinsics, intrinsics, image_files and the rank of depth
    headers = npz_headers(path)
    check_keys(path, headers, ("process_res",))
    views, height, width = headers["depth"].shape
    if not 0 < views * height * width <= MOST_PIXELS:
        raise BadFile(f"{path}: {views} maps of {width} x {height} pixels, at most {MOST_PIXELS:,} in all are read")
    points_given = "pointmaps_sam3d" in headers
    wanted = {"depth": (views, height, width), "process_res": ()}
    if points_given:
        wanted["pointmaps_sam3d"] = (views, 3, height, width)
    for key, shape in wanted.items():
        kind = "iu" if key == "process_res" else "f"
        if headers[key].shape != shape or headers[key].dtype.kind not in kind:
            raise BadFile(
                f"{path}: {key} of shape {headers[key].shape} and type {headers[key].dtype} instead of {shape} and "
                f"{'an integer' if key == 'process_res' else 'floats'}"
            )
    arrays = npz_arrays(path, tuple(wanted))
    depth = _known(arrays["depth"].astype(np.float32))
    if points_given:
        points = arrays["pointmaps_sam3d"].transpose(0, 2, 3, 1).astype(np.float32, order="C")
        points[~(np.isfinite(points).all(-1) & (points[..., 2] > 0))] = np.nan
    else:
        intrinsics = np.stack([camera.intrinsics for camera in cameras.values()])
        points = unprojected(depth, intrinsics, centre=0.5).astype(np.float32)
    names = tuple(cameras)
    for what, values in (("depth", depth), ("pointmaps_sam3d", points[..., 2])):
        empty = [name for name, view in zip(names, values, strict=True) if not np.isfinite(view).any()]
        if empty:
            raise BadFile(
                f"{path}: {what} of {', '.join(empty)} holds no finite positive depth: run mvsam3d depth again, or "
                "leave the photo out with --views"
            )
    process_res = int(arrays["process_res"])
    if not max(height, width) - PATCH < process_res <= LARGEST_PROCESS_RES:
        raise BadFile(f"{path}: process_res = {process_res} does not fit maps of {width} x {height} pixels")
    return DepthViews(names, tuple(cameras.values()), depth, points, process_res, path)


def unprojected(
    depth: Float[np.ndarray, "view h w"], intrinsics: Float[np.ndarray, "view 3 3"], *, centre: float = 0.0
) -> Float[np.ndarray, "view h w 3"]:
    """Points in the camera, x = (u - cx) depth / fx and so on, in double precision.

    `centre`: where the centre of the first pixel is counted: 0 in Depth Anything 3, 0.5 in this package.
    """
    _, height, width = depth.shape
    u, v = np.arange(width) + centre, np.arange(height) + centre
    k, z = intrinsics[:, None, None].astype(np.float64), depth.astype(np.float64)
    x = (u - k[..., 0, 2]) * z / k[..., 0, 0]
    y = (v[:, None] - k[..., 1, 2]) * z / k[..., 1, 1]
    return np.stack([x, y, z], -1)


def write_depth_npz(
    path: Path,
    *,
    depth: Float[np.ndarray, "view h w"],
    camera_from_world: Float[np.ndarray, "view _ 4"],
    intrinsics: Float[np.ndarray, "view 3 3"],
    image_files: Sequence[str],
    process_res: int,
) -> None:
    """Write `da3_output.npz` with the public keys, shapes and types, whole or not at all.

    Args:
        camera_from_world: OpenCV axes; 3 or 4 rows.
        intrinsics: pixels of the maps, counted from the centre of the first one: cx is 0.5 less than in a `Camera`.
        image_files: the photos; readers find views by their stems.
        process_res: longest side of a photo as the network saw it.
    """
    points = unprojected(depth, intrinsics)
    content = _npz_bytes(
        depth=depth.astype(np.float32),
        pointmaps=points,
        pointmaps_sam3d=points.transpose(0, 3, 1, 2),
        extrinsics=camera_from_world[:, :3].astype(np.float32),
        intrinsics=intrinsics.astype(np.float32),
        image_files=np.array([str(file) for file in image_files], np.str_),
        process_res=np.array(process_res),
    )
    write_whole(path, content)


def write_mini_npz(path: Path, prediction: DepthPrediction) -> None:
    """Write `results.npz` as Depth Anything 3 itself does: the only file with its confidence, to two decimals."""
    content = _npz_bytes(
        compressed=True,
        depth=np.round(prediction.depth, 8),
        conf=np.round(prediction.confidence, 2),
        extrinsics=prediction.camera_from_world,
        intrinsics=prediction.intrinsics,
    )
    write_whole(path, content)


def _known(depth: Float32[np.ndarray, "view h w"]) -> Float32[np.ndarray, "view h w"]:
    """NaN where depth is not finite and positive."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def _npz_bytes(*, compressed: bool = False, **arrays: np.ndarray) -> bytes:
    file = BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(file, allow_pickle=False, **arrays)
    return file.getvalue()
