"""Which latents the views' cameras see -> GLBs, for `--compute_latent_visibility`.

Drawn is what weighting used: the visibility of stage 2's tokens and the camera centres it was marched from. In the frame
of result.glb, so that the files lie on top of each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mvsam3d.exports.colours import Scale, view_colours
from mvsam3d.exports.voxels import array, axes_node, camera_nodes, cell_nodes
from mvsam3d.geometry.frames import OBJECT_FROM_GLB
from mvsam3d.io.runs import RunFolder
from mvsam3d.io.scenes import Scene, write_scene
from mvsam3d.types import Camera, FusionRecord

SHARES = Scale("RdYlGn", 0.0, 1.0, "share of the views that see it")


def write_latent_visibility(
    folder: RunFolder,
    record: FusionRecord,
    centres_object: Float[np.ndarray, "view 3"],
    looks_object: Float[np.ndarray, "view 3"],
    names: Sequence[str],
) -> None:
    """`latent_visibility.glb`, red to green by the share of the views that see a latent, and a file for each view.

    Cameras are pyramids in the views' colours with a line the way they look; in a view's own file the others are grey.

    Args:
        folder: where.
        record: of stage 2, with visibility.
        centres_object: of the cameras, as weighting had them (`generation.evidence.centres_in_object`).
        looks_object: the way each looks (`looks_in_object`).
        names: of the views.
    """
    assert record.visibility is not None, "nothing is known of what the cameras see"
    seen, coords = array(record.visibility), record.coords.cpu().numpy()
    colours = view_colours(len(names))
    files = [("latent_visibility.glb", seen.mean(axis=0), colours)]
    for view in range(len(names)):
        alone = np.where((np.arange(len(names)) == view)[:, None], colours, 0.7)
        files.append((f"latent_visibility_per_view/self_occlusion_view_{view:02d}.glb", seen[view], alone))
    for name, share, cameras in files:
        nodes = (
            *cell_nodes("voxels", coords, record.resolution, SHARES(share)),
            *camera_nodes(centres_object, looks_object, names, cameras),
            axes_node(),
        )
        write_scene(folder.path(name), Scene(nodes, "glb", {"object_from_glb": OBJECT_FROM_GLB}))


def looks_in_object(cameras_object: Sequence[Camera]) -> Float[np.ndarray, "view 3"]:
    """Unit vectors along the optical axes of cameras whose world is the object frame (`generation.evidence.cameras_in_object`)."""
    axes = np.stack([camera.camera_from_world[2, :3] for camera in cameras_object])
    units: Float[np.ndarray, "view 3"] = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return units
