import numpy as np
from PIL import Image

from mvsam3d.exports.debug_images import write_debug_images
from mvsam3d.io.runs import RunFolder
from mvsam3d.types import Photo


def test_the_mask_is_half_red(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    mask = np.zeros((4, 6), np.bool_)
    mask[1:3, 2:5] = True
    write_debug_images(RunFolder(tmp_path), [Photo("7", rgb, mask), Photo("side", rgb, ~mask)])
    folder = tmp_path / "debug_masked_images"
    names = ["00_7_image.png", "00_7_masked.png", "01_side_image.png", "01_side_masked.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    np.testing.assert_array_equal(np.asarray(Image.open(folder / names[0])), rgb)
    tinted = np.asarray(Image.open(folder / names[1])).astype(float)
    np.testing.assert_array_equal(tinted[~mask], rgb[~mask])
    np.testing.assert_allclose(tinted[mask], 0.5 * rgb[mask] + (127.5, 0, 0), atol=0.5)  # whole numbers
