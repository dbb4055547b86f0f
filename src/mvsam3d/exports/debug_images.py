"""What went in: each photo, and the photo with its mask, to see at a glance whether the masks are right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mvsam3d.io.runs import RunFolder
from mvsam3d.types import Photo

FOLDER = "debug_masked_images"
RED = np.array([255, 0, 0])


def write_debug_images(folder: RunFolder, photos: Sequence[Photo]) -> None:
    """`debug_masked_images/II_NAME_image.png` and `II_NAME_masked.png`, the mask half red."""
    for i, photo in enumerate(photos):
        tinted = photo.rgb.copy()
        tinted[photo.mask] = (photo.rgb[photo.mask].astype(np.int64) + RED + 1) // 2
        for kind, pixels in (("image", photo.rgb), ("masked", tinted)):
            path = folder.path(f"{FOLDER}/{i:02d}_{photo.name}_{kind}.png")
            Image.fromarray(pixels).save(path, compress_level=4)
