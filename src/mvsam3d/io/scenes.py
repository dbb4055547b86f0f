"""Scenes of named meshes, points and lines <-> GLB: those of Depth Anything 3, and our own.

Depth Anything 3 writes `scene.glb` in a frame of its own (+Y up, centred at the points' median). The scene's extras hold
`hf_alignment`, here called scene_from_world: T(-median) diag(1, -1, -1, 1) camera_0 from world.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import OPENGL_FROM_CAMERA
from mvsam3d.io import gltf
from mvsam3d.io.glb import add_surface
from mvsam3d.io.gltf import Builder, Entry, check_mesh, frame_extras
from mvsam3d.io.runs import write_whole
from mvsam3d.types import Mesh

log = logging.getLogger(__name__)

ALIGNMENT = "hf_alignment"
MOST_NODES = 10_000
LONGEST_NAME = 200
NOT_A_SIMILARITY = 1e-3  # largest deviation of R Rᵀ / scale² from the identity


@dataclass(frozen=True)
class Points:
    """Coloured points."""

    positions: Float[np.ndarray, "vertex 3"]
    colours: Float[np.ndarray, "vertex 3"] | None = None  # sRGB, [0, 1]


@dataclass(frozen=True)
class Lines:
    """Straight lines between pairs of vertices."""

    positions: Float[np.ndarray, "vertex 3"]
    ends: Int[np.ndarray, "line 2"]
    colours: Float[np.ndarray, "vertex 3"] | None = None  # sRGB, [0, 1]


@dataclass(frozen=True)
class Node:
    """One named thing; its positions are in the frame of the scene, also those of a Mesh."""

    name: str
    shape: Mesh | Points | Lines


@dataclass(frozen=True)
class Scene:
    """What a file shows."""

    nodes: tuple[Node, ...]
    frame: str = "unknown"
    """Name of the frame."""
    matrices: dict[str, Float[np.ndarray, "4 4"]] = field(default_factory=dict)
    """Ways to and from other frames, target_from_source on column vectors, by name."""

    @property
    def scene_from_world(self) -> Float[np.ndarray, "4 4"] | None:
        """The way from the world of Depth Anything 3's cameras, None if the file does not tell."""
        return self.matrices.get(ALIGNMENT)


def write_scene(path: Path, scene: Scene) -> None:
    """Write a scene, whole or not at all; equal scenes give equal bytes. Nodes without a vertex are left out.

    Raises: BadFile: nothing to show, NaN, or faces that point outside the vertices.
    """
    builder, filled = Builder(), [node for node in scene.nodes if len(_positions(node.shape))]
    if not filled:
        raise BadFile(f"{path} not written: there is nothing to show")
    for node in filled:
        _add(builder, node, f"{path} ({node.name})")
    write_whole(path, builder.content(frame_extras(scene.frame, scene.matrices)))


def _positions(shape: Mesh | Points | Lines) -> Float[np.ndarray, "vertex 3"]:
    return shape.vertices if isinstance(shape, Mesh) else shape.positions


def _add(builder: Builder, node: Node, where: str) -> None:
    shape = node.shape
    if isinstance(shape, Mesh):
        check_mesh(shape, where)
        add_surface(builder, node.name, shape, np.eye(3))
        return
    broken = int((~np.isfinite(shape.positions).all(axis=1)).sum())
    if broken:
        raise BadFile(f"{where} not written: {broken} of {len(shape.positions)} positions are NaN or infinite")
    attributes: Entry = {"POSITION": builder.positions(shape.positions)}
    if shape.colours is not None:
        attributes["COLOR_0"] = builder.colours(shape.colours)
    primitive: Entry = {"attributes": attributes, "mode": gltf.POINTS}
    if isinstance(shape, Lines):
        primitive |= {"mode": gltf.LINES, "indices": builder.indices(shape.ends)}
    builder.node(node.name, primitive)


def read_scene(path: Path) -> Scene:
    """All meshes, points and lines of a GLB, placed by their nodes, in the file's own axes.

    Raises: BadFile: broken, too large, compressed, with data in other files, or with a matrix that is none.
    """
    with gltf.opened(path) as container:
        nodes: list[Node] = []
        count = 0
        for primitive, entry, glb_from_node in container.placed():
            if len(nodes) == MOST_NODES:
                raise BadFile(f"{path} holds more than {MOST_NODES:,} things, at most that many are read")
            shape = _shape(container, primitive, glb_from_node)
            name = str(entry.get("name") or f"node_{len(nodes)}")[:LONGEST_NAME]
            nodes.append(Node(name, shape))
            count += len(_positions(shape)) + (len(shape.faces) if isinstance(shape, Mesh) else 0)
            if count > gltf.COUNT_LIMIT:
                raise ValueError(f"more than {gltf.COUNT_LIMIT:,} vertices and faces")
        if not nodes:
            raise BadFile(f"{path} shows nothing: it has no meshes, points or lines")
        extras = container.scene().get("extras") or {}
        frame = extras.get("frame")
        matrices = {str(name): value for name, value in extras.items() if name == ALIGNMENT or "_from_" in str(name)}
        return Scene(
            tuple(nodes),
            frame if isinstance(frame, str) else "unknown",
            {name: _matrix(f"{path}: {name}", value) for name, value in matrices.items()},
        )


def _shape(
    container: gltf.Container, primitive: Entry, glb_from_node: Float[np.ndarray, "4 4"]
) -> Mesh | Points | Lines:
    positions = container.positions(primitive, glb_from_node)
    colours, uv = container.looks(primitive, len(positions))
    mode = primitive.get("mode", gltf.TRIANGLES)
    if mode == gltf.POINTS:
        return Points(positions, colours)
    if mode == gltf.LINES:
        return Lines(positions, container.indices(primitive, len(positions), 2), colours)
    if mode != gltf.TRIANGLES:
        raise BadFile(f"{container.name} holds strips, loops or fans (mode {mode}): export triangles, lines and points")
    faces, image = container.indices(primitive, len(positions), 3), container.texture_of(primitive)
    if np.linalg.det(glb_from_node[:3, :3]) < 0:
        faces = faces[:, ::-1]
    texture = None if image is None or uv is None else container.image(image)
    return Mesh(positions, faces, colours, uv, texture)


def _matrix(where: str, value: Any) -> Float[np.ndarray, "4 4"]:
    """A similarity, once its numbers have been found to be those of one."""
    matrix = np.array(value, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise BadFile(
            f"{where} is no 4 x 4 matrix of finite numbers that ends with the row 0 0 0 1: write the file again"
        )
    square = matrix[:3, :3] @ matrix[:3, :3].T
    scale2 = np.trace(square) / 3
    if scale2 <= 0 or np.abs(square / scale2 - np.eye(3)).max() > NOT_A_SIMILARITY:
        raise BadFile(f"{where} does more than turn, scale alike and move: write the file again")
    return matrix


def alignment(scene: Scene, camera_0_from_world: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """The scene's scene_from_world; of a file that does not tell, the frame of the first camera, +Y up, not centred."""
    if scene.scene_from_world is not None:
        return scene.scene_from_world
    log.warning("the scene does not tell its frame (no %s): taken for the first camera's, not centred", ALIGNMENT)
    matrix: Float[np.ndarray, "4 4"] = OPENGL_FROM_CAMERA @ camera_0_from_world
    return matrix


def transformed_mesh(mesh: Mesh, target_from_source: Float[np.ndarray, "4 4"]) -> Mesh:
    """The mesh in another frame; a mirroring turns the faces round, so that they look outward again."""
    vertices = mesh.vertices @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    mirrored = np.linalg.det(target_from_source[:3, :3]) < 0
    return replace(mesh, vertices=vertices, faces=mesh.faces[:, ::-1] if mirrored else mesh.faces)


def uniquely_named(nodes: Sequence[Node], prefix: str) -> list[Node]:
    """The nodes as PREFIX_NAME, numbered where a name comes again."""
    times = Counter[str]()
    renamed = []
    for node in nodes:
        times[node.name] += 1
        number = "" if times[node.name] == 1 else f"_{times[node.name]}"
        renamed.append(replace(node, name=f"{prefix}_{node.name}{number}"))
    return renamed
