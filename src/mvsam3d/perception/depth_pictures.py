"""Pictures of depth maps: each photo beside its depth, near red, far blue."""

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mvsam3d.io.depth import DepthPrediction
from mvsam3d.io.runs import RunFolder

SHOWN_PERCENTILES = (2.0, 98.0)  # of a view's inverse depths; what lies beyond takes the ends of the colour scale
JPEG_QUALITY = 92


def write_depth_pictures(folder: RunFolder, prediction: DepthPrediction) -> None:
    """Write depth_vis/0000.jpg, ... and scene.jpg, which is the first of them."""
    for view, (image, depth) in enumerate(zip(prediction.images, prediction.depth, strict=True)):
        pair = Image.fromarray(np.concatenate([image, depth_picture(depth)], axis=1))
        pair.save(folder.path(f"depth_vis/{view:04d}.jpg"), quality=JPEG_QUALITY)
        if view == 0:
            pair.save(folder.path("scene.jpg"), quality=JPEG_QUALITY)


def depth_picture(depth: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of a depth map, even steps in inverse depth; black where it has none."""
    import cv2

    known = np.isfinite(depth) & (depth > 0)
    picture = np.zeros((*depth.shape, 3), np.uint8)
    if not known.any():
        return picture
    near = np.where(known, 1 / np.where(known, depth, 1), 0)
    low, high = np.percentile(near[known], SHOWN_PERCENTILES)
    level = np.clip((near - low) / max(high - low, 1e-12), 0, 1)
    picture[known] = cv2.applyColorMap(np.round(level * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[known][:, ::-1]
    return picture
