"""The object among what else is known of the place: a view's point map, the scene of Depth Anything 3, other objects.

On the way from the object frame: camera_from_object (the pose) -> OpenCV camera of the reference view, the one whose
pose it is -> world, by that view's camera_from_world -> scene, by the scene's own scene_from_world. Lengths of the pose
must be those of the world, as they are when point maps and cameras come from one source.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import P3D_FROM_CAMERA
from mvsam3d.io.glb import Matrices
from mvsam3d.io.runs import RunFolder
from mvsam3d.io.scenes import (
    ALIGNMENT,
    Node,
    Points,
    Scene,
    read_scene,
    transformed_mesh,
    uniquely_named,
    write_scene,
)
from mvsam3d.types import Mesh, Photo

MOST_POINTS = 100_000  # of a point map
OBJECT, SCENE = "sam3d", "da3"  # prefixes of node names
SAME_FRAME = 1e-5  # largest difference of two scene_from_world, of one run, as stored in JSON


def write_overlay(
    path: Path,
    mesh: Mesh,
    camera_from_object: Float[np.ndarray, "4 4"],
    pointmap_p3d: Float[Tensor, "3 h w"],
    photo: Photo,
) -> None:
    """`result_overlay.glb`: the object in its pose, and the reference view's point map in the photo's colours.

    In the p3d camera frame of the view. Points that are not finite are left out, and of more than MOST_POINTS every
    n-th is shown.

    Args:
        mesh: in the object frame.
        camera_from_object: similarity to the reference view's OpenCV camera.
        pointmap_p3d: of that view, in units of the pose: as the model was given it, of any size.
        photo: that view's.
    Raises: BadFile: the point map holds no point.
    """
    p3d_from_object = P3D_FROM_CAMERA @ camera_from_object
    cloud = _coloured(pointmap_p3d, photo)
    if len(cloud.positions) == 0:
        raise BadFile(f"{path} not written: the point map of view {photo.name} holds no finite point: check its depth")
    nodes = (
        Node(f"{OBJECT}_object", transformed_mesh(mesh, p3d_from_object)),
        Node("input_pointcloud", cloud),
    )
    matrices = {"object_from_p3d_camera": _inverse(p3d_from_object), "camera_from_p3d_camera": P3D_FROM_CAMERA}
    write_scene(path, Scene(nodes, "p3d_camera", matrices))


def _coloured(pointmap_p3d: Float[Tensor, "3 h w"], photo: Photo) -> Points:
    rgb = torch.from_numpy(photo.rgb).permute(2, 0, 1)[None].float() / 255
    size = (pointmap_p3d.shape[1], pointmap_p3d.shape[2])
    if rgb.shape[2:] != size:
        rgb = torch.nn.functional.interpolate(rgb, size, mode="bilinear", antialias=True, align_corners=False)
    points = pointmap_p3d.detach().cpu().double().flatten(1).T
    finite = points.isfinite().all(1)
    points, colours = points[finite], rgb[0].flatten(1).T[finite]
    step = max(1, -(-len(points) // MOST_POINTS))
    return Points(points[::step].numpy(), colours[::step].double().clamp(0, 1).numpy())


def write_merged_scene(
    path: Path,
    scene: Scene,
    mesh: Mesh,
    camera_from_object: Float[np.ndarray, "4 4"],
    camera_from_world: Float[np.ndarray, "4 4"],
    scene_from_world: Float[np.ndarray, "4 4"],
    *,
    name: str = "object",
) -> None:
    """`result_merged_scene.glb`: the scene as it is (nodes da3_*), and the object in its place (sam3d_NAME).

    Args:
        scene: of Depth Anything 3, as `io.scenes.read_scene` gives it.
        mesh: in the object frame.
        camera_from_object: similarity to the reference view's OpenCV camera.
        camera_from_world: of that same view, whatever view or frame the world is.
        scene_from_world: `io.scenes.alignment` of the scene.
        name: of the object.
    """
    scene_from_camera = scene_from_world @ _inverse(camera_from_world)
    scene_from_object = scene_from_camera @ camera_from_object
    placed = Node(f"{OBJECT}_{name}", transformed_mesh(mesh, scene_from_object))
    matrices = {
        ALIGNMENT: scene_from_world,  # the name that programs look for
        "scene_from_world": scene_from_world,
        "object_from_scene": _inverse(scene_from_object),
        "camera_from_scene": _inverse(scene_from_camera),
    }
    write_scene(path, Scene((*uniquely_named(scene.nodes, SCENE), placed), "scene", matrices))


def write_posed(
    path: Path,
    mesh: Mesh,
    target_from_object: Float[np.ndarray, "4 4"],
    *,
    frame: str,
    matrices: Matrices | None = None,
) -> None:
    """`result_pose_optimized.glb`: the mesh itself transformed, in the axes of the target frame.

    Args:
        mesh: in the object frame.
        target_from_object: similarity.
        frame: the target's name, as "p3d_camera".
        matrices: further ones for the scene's extras, beside object_from_FRAME.
    """
    node = Node(f"{OBJECT}_object", transformed_mesh(mesh, target_from_object))
    known = {f"object_from_{frame}": _inverse(target_from_object), **(matrices or {})}
    write_scene(path, Scene((node,), frame, known))


def write_merged_objects(folder: RunFolder, merged: Mapping[str, Path], *, with_scene: bool, suffix: str = "") -> None:
    """`result_multiobj_merged.glb`, all objects side by side, and with the scene `result_multiobj_merged_scene.glb`.

    Args:
        folder: where.
        merged: `result_merged_scene.glb` of each object, by the object's name; all with one and the same scene.
        with_scene: write the second file too.
        suffix: of the names, before .glb: "_optimized".
    Raises: BadFile: a file is broken, holds no object, or was made with another scene than the first.
    """
    scenes = {name: read_scene(path) for name, path in merged.items()}
    first = next(iter(scenes.values()))
    objects: list[Node] = []
    matrices = {} if first.scene_from_world is None else {ALIGNMENT: first.scene_from_world}
    for name, scene in scenes.items():
        if not _same_frame(first, scene):
            raise BadFile(
                f"{merged[name]} stands in another scene than {next(iter(merged.values()))}: merge both with one"
            )
        found = [node for node in scene.nodes if node.name.startswith(f"{OBJECT}_")]
        if not found:
            raise BadFile(f"{merged[name]} holds no node {OBJECT}_*: it is no merged scene")
        objects += uniquely_named([Node(name, node.shape) for node in found], OBJECT)
        if "object_from_scene" in scene.matrices:
            matrices[f"{name}_from_scene"] = scene.matrices["object_from_scene"]
    write_scene(folder.path(f"result_multiobj_merged{suffix}.glb"), Scene(tuple(objects), "scene", matrices))
    if with_scene:
        around = tuple(node for node in first.nodes if node.name.startswith(f"{SCENE}_"))
        path = folder.path(f"result_multiobj_merged_scene{suffix}.glb")
        write_scene(path, Scene((*around, *objects), "scene", matrices))


def _same_frame(a: Scene, b: Scene) -> bool:
    if a.scene_from_world is None or b.scene_from_world is None:
        return a.scene_from_world is b.scene_from_world
    return bool(np.abs(a.scene_from_world - b.scene_from_world).max() <= SAME_FRAME)


def _inverse(target_from_source: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    source_from_target: Float[np.ndarray, "4 4"] = np.linalg.inv(target_from_source)
    source_from_target[3] = (0, 0, 0, 1)  # not 1e-17
    return source_from_target
