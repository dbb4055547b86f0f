"""Draw docs/pictures/frames.png: the same chair, seen by the same eye, with the axes of each frame.

python examples/draw_frames.py docs/pictures/frames.png   (needs the extra "train" for matplotlib)
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from mvsam3d.geometry.frames import glb_from_object, p3d_from_camera

AXES = np.eye(3)
COLOURS = ("tab:red", "tab:green", "tab:blue")
CAMERA_FROM_OBJECT = np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]])  # a camera in front, looking back along +X
EDGES = np.array([
    [[-0.2, -0.2, -0.5], [-0.2, -0.2, 0.5]], [[-0.2, 0.2, -0.5], [-0.2, 0.2, 0.5]], [[-0.2, -0.2, 0.5], [-0.2, 0.2, 0.5]],
    [[0.2, -0.2, -0.5], [0.2, -0.2, 0]], [[0.2, 0.2, -0.5], [0.2, 0.2, 0]], [[-0.2, -0.2, 0], [0.2, -0.2, 0]],
    [[-0.2, 0.2, 0], [0.2, 0.2, 0]], [[0.2, -0.2, 0], [0.2, 0.2, 0]], [[-0.2, -0.2, 0], [-0.2, 0.2, 0]],
])  # fmt: skip


def axes_in_object(name: str) -> np.ndarray:
    """The frame's three axes as directions of the object frame, a row each."""
    if name == "object":
        return AXES
    if name == "glb":
        return glb_from_object(AXES).T
    camera = CAMERA_FROM_OBJECT
    return camera if name == "camera" else p3d_from_camera(camera.T).T


def main() -> None:
    """Draw."""
    figure = plt.figure(figsize=(12, 3.4))
    titles = {
        "object": "object\n+Z up: latents, PLY, poses",
        "glb": "glb\n+Y up: result.glb",
        "camera": "camera (OpenCV)\nx right, y down, z forward",
        "p3d": "p3d camera (PyTorch3D)\nx left, y up, z forward",
    }
    for i, (name, title) in enumerate(titles.items(), 1):
        axes = figure.add_subplot(1, 4, i, projection="3d")
        for start, end in EDGES:
            axes.plot(*np.stack([start, end], 1), color="0.4", linewidth=2)
        origin = np.zeros(3) if name in ("object", "glb") else np.array([1.1, 0, 0])
        for axis, (direction, colour) in enumerate(zip(axes_in_object(name), COLOURS)):
            axes.quiver(*origin, *direction * 0.6, color=colour, linewidth=2)
            axes.text(*(origin + direction * 0.75), "xyz"[axis], color=colour, fontsize=12)
        axes.set(xlim=(-0.5, 1.2), ylim=(-0.8, 0.8), zlim=(-0.8, 0.8))
        axes.set_title(title, fontsize=10)
        axes.view_init(22, -55)
        axes.set_axis_off()
        axes.set_box_aspect((1.7, 1.6, 1.6), zoom=1.2)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.0, top=0.84, wspace=0.02)
    figure.savefig(sys.argv[1], dpi=90)


if __name__ == "__main__":
    main()
