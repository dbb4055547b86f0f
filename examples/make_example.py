"""Make a small scene (photos, masks) of a generated object that no training run has seen.

python examples/make_example.py mug 3 examples/mug
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.training import objects
from mvsam3d.training.data import HELD_OUT_SEED
from mvsam3d.training.photos import photograph

SIZE, VIEWS = 320, 4


def main(name: str, number: int, folder: Path) -> None:
    """Photograph the object from four sides."""
    thing = objects.generate_object(HELD_OUT_SEED + 500_000 + number, name=name)
    rng = np.random.default_rng(number)
    light = objects.sample_light(rng)
    for part in ("images", f"masks/{name}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for view in range(VIEWS):
        pose = objects.look_at(35 + 360 * view / VIEWS + rng.normal(0, 10), rng.uniform(15, 30), 2.1)
        rgb, alpha, depth = objects.render(thing, centred_intrinsics(SIZE, SIZE), pose, SIZE, light)
        photo, _ = photograph(rgb, alpha, depth, rng, strength=0.3)
        Image.fromarray(photo).save(folder / "images" / f"{view}.jpg", quality=90)
        Image.fromarray(alpha).save(folder / f"masks/{name}" / f"{view}.png")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
