"""A generated object in small photos with known cameras and depth: what tests of whole commands work on."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.io.depth import DepthPrediction, write_depth_npz
from mvsam3d.io.depth_scene import write_depth_scene
from mvsam3d.training import objects
from mvsam3d.training.data import HELD_OUT_SEED

SIDE = 112  # pixels of photos and depth maps: 8 patches of Depth Anything 3
DISTANCE = 2.1
WALL = 4.0  # depth of everything but the object
WORLD_FROM_OBJECT = np.linalg.inv(objects.look_at(10, 50, 3.0))  # the world of the cameras is no camera of the set


@cache
def views(count: int = 8) -> tuple[DepthPrediction, np.ndarray]:
    """What a perfect depth network says of photos from all around, and the masks."""
    thing = objects.generate_object(HELD_OUT_SEED + 500_003, name="sofa")
    light = objects.sample_light(np.random.default_rng(0))
    lens = centred_intrinsics(SIDE, SIDE)
    poses = [objects.look_at(35 + 360 * view / count, 20 + 10 * (view % 2), DISTANCE) for view in range(count)]
    rgb, masks, depth = zip(*(objects.render(thing, lens, pose, SIDE, light) for pose in poses))
    depth = np.where(np.stack(masks), np.stack(depth), WALL).astype(np.float32)
    cameras = np.stack([pose @ np.linalg.inv(WORLD_FROM_OBJECT) for pose in poses])[:, :3].astype(np.float32)
    lens[:2, 2] -= 0.5  # Depth Anything 3 counts pixels from the centre of the first
    lenses = np.tile(lens, (count, 1, 1)).astype(np.float32)
    known = DepthPrediction(depth, np.full(depth.shape, 2, np.float32), cameras, lenses, np.stack(rgb))
    return known, np.stack(masks)


def write_photos(scene: Path, *names: str, count: int = 8) -> Path:
    """Photos 0.jpg, 1.jpg, ... and their masks in masks/NAME/ for each of the names: the guide's layout."""
    known, masks = views()
    scene.mkdir(parents=True)
    for name in names:
        (scene / "masks" / name).mkdir(parents=True)
    for view in range(count):
        Image.fromarray(known.images[view]).save(scene / f"{view}.jpg", quality=95)
        for name in names:
            Image.fromarray(masks[view]).save(scene / "masks" / name / f"{view}.png")
    return scene


def write_depth(folder: Path, count: int = 8, *, wall: float = WALL) -> Path:
    """da3_output.npz and scene.glb of the photos, in the order of a set that does not begin with view 0. `wall`: may be NaN."""
    known, masks = views()
    known = replace(known, depth=np.where(masks, known.depth, np.float32(wall)))
    rows = np.roll(np.arange(count), 1)
    known = DepthPrediction(**{name: value[rows] for name, value in vars(known).items()})
    folder.mkdir(parents=True)
    write_depth_npz(
        folder / "da3_output.npz",
        depth=known.depth,
        camera_from_world=known.camera_from_world,
        intrinsics=known.intrinsics,
        image_files=[f"photos/{row}.jpg" for row in rows],
        process_res=SIDE,
    )
    write_depth_scene(folder / "scene.glb", known)
    return folder / "da3_output.npz"
