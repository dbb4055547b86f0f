"""Mesh <-> binary glTF 2.0 (GLB).

A Mesh stands in the object frame (+Z up), a GLB has +Y up: (x, z, -y). Colours of a Mesh are sRGB; glTF wants sRGB in
textures but linear light in vertex colours (COLOR_0). The scene's extras name the frame and the way to others
(docs/frames.md): `frame` = glb, `object_from_glb`, and what the caller adds.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import GLB_FROM_OBJECT, OBJECT_FROM_GLB, object_from_glb
from mvsam3d.io import gltf
from mvsam3d.io.gltf import Builder, Entry, check_mesh, frame_extras, linear_from_srgb, srgb_from_linear
from mvsam3d.io.runs import write_whole
from mvsam3d.types import Mesh

__all__ = ["glb_bytes", "linear_from_srgb", "read_glb", "srgb_from_linear", "vertex_normals", "write_glb"]

CREASE = np.cos(np.radians(40.0))  # a vertex split by a texture seam keeps its own normal at sharper edges
SHARED_LIMIT = 32  # vertices at one place; more are no seam but a broken mesh

Matrices = Mapping[str, Float[np.ndarray, "4 4"]]  # by name, target_from_source


def write_glb(
    path: Path,
    mesh: Mesh,
    *,
    raw_colours: bool = False,
    matrices: Matrices | None = None,
    metres_per_unit: float | None = None,
) -> None:
    """Write the mesh, whole or not at all; the bytes depend on the arguments alone.

    With uv and texture: a PBR material, not metallic, fully rough, the texture its base colour. Else with vertex
    colours: the same material and COLOR_0 in linear light, 16 bits a channel. Else grey.

    Args:
        mesh: in the object frame.
        raw_colours: instead of all that, what the public system writes: uint8 vertex colours as they are, no normals,
            no material. Viewers show them too bright.
        matrices: further ones for the scene's extras, as camera_from_object.
        metres_per_unit: length of a unit of the object frame: the file is in metres then, as `object_from_glb` says. None: it is not known,
            and the file is in units of the object frame.
    Raises: BadFile: an empty mesh, NaN, or faces that point outside the vertices.
    """
    content = glb_bytes(
        mesh, raw_colours=raw_colours, matrices=matrices, metres_per_unit=metres_per_unit, name=str(path)
    )
    write_whole(path, content)


def glb_bytes(
    mesh: Mesh,
    *,
    raw_colours: bool = False,
    matrices: Matrices | None = None,
    metres_per_unit: float | None = None,
    name: str = "GLB",
) -> bytes:
    """The file that `write_glb` writes; `name` is for errors."""
    check_mesh(mesh, name)
    builder = Builder()
    metres = 1.0 if metres_per_unit is None else metres_per_unit
    sized = mesh if metres_per_unit is None else replace(mesh, vertices=mesh.vertices * metres)
    add_surface(builder, "geometry_0", sized, GLB_FROM_OBJECT[:3, :3], raw_colours=raw_colours)
    back = OBJECT_FROM_GLB @ np.diag([1 / metres] * 3 + [1.0])
    return builder.content(frame_extras("glb", {"object_from_glb": back, **(matrices or {})}))


def add_surface(
    builder: Builder,
    name: str,
    mesh: Mesh,
    scene_from_mesh: Float[np.ndarray, "3 3"],
    *,
    raw_colours: bool = False,
) -> None:
    """Add a mesh as a node; `scene_from_mesh` is a rotation."""
    attributes: Entry = {"POSITION": builder.positions(mesh.vertices @ scene_from_mesh.T)}
    primitive: Entry = {"attributes": attributes}
    if raw_colours:
        if mesh.vertex_colours is not None:
            attributes["COLOR_0"] = builder.array(_rgba8(mesh.vertex_colours), "VEC4", normalised=True)
    else:
        normals = vertex_normals(mesh) @ scene_from_mesh.T
        attributes["NORMAL"] = builder.array(normals.astype(np.float32), "VEC3")
        texture = None
        if mesh.uv is not None and mesh.texture is not None:
            uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)  # glTF counts v downward
            attributes["TEXCOORD_0"] = builder.array(uv.astype(np.float32), "VEC2")
            texture = mesh.texture
        elif mesh.vertex_colours is not None:
            attributes["COLOR_0"] = builder.colours(mesh.vertex_colours)
        primitive["material"] = builder.material(texture)
    primitive["indices"] = builder.indices(mesh.faces)
    builder.node(name, primitive)


def _rgba8(colours: Float[np.ndarray, "vertex 3"]) -> UInt8[np.ndarray, "vertex 4"]:
    rgb = np.round(np.clip(colours, 0, 1) * 255).astype(np.uint8)
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)


def vertex_normals(mesh: Mesh) -> Float32[np.ndarray, "vertex 3"]:
    """Unit normals, area-weighted; vertices at the same place share one unless the surface has an edge there."""
    faces, count = mesh.faces, len(mesh.vertices)
    corners = mesh.vertices[faces].astype(np.float64)
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    own = _summed(faces.reshape(-1), np.repeat(areas, 3, axis=0), count)
    normals = _unit(_shared(mesh.vertices, own))
    normals[(normals == 0).all(axis=1)] = (0.0, 0.0, 1.0)  # vertices without a face of any area
    return normals.astype(np.float32)


def _shared(vertices: Float[np.ndarray, "vertex 3"], own: Float[np.ndarray, "vertex 3"]) -> np.ndarray:
    """Each vertex's normal plus those of the others at its place that lie within the crease angle of it."""
    _, place, sizes = np.unique(vertices, axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    order = np.argsort(place, kind="stable")
    starts = (np.cumsum(sizes) - sizes)[place[order]]
    rank, size = np.arange(len(order)) - starts, sizes[place[order]]
    units, total = _unit(own), own.copy()
    for step in range(1, min(int(sizes.max()), SHARED_LIMIT)):
        some = size > step
        here, there = order[some], order[starts[some] + (rank[some] + step) % size[some]]
        near = (units[here] * units[there]).sum(axis=1) >= CREASE
        total[here[near]] += own[there[near]]
    return total


def _summed(index: np.ndarray, values: Float[np.ndarray, "row 3"], count: int) -> Float[np.ndarray, "sum 3"]:
    return np.stack([np.bincount(index, values[:, axis], minlength=count) for axis in range(3)], axis=1)


def _unit(vectors: Float[np.ndarray, "row 3"]) -> Float[np.ndarray, "row 3"]:
    units: Float[np.ndarray, "row 3"] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    return units


def read_glb(path: Path, *, z_up: bool = False) -> Mesh:
    """The triangles of all meshes in a GLB, placed by their nodes, in the object frame.

    Vertex colours are turned back to sRGB. A texture is kept if all triangles share it.

    Args:
        z_up: the file has +Z up against the standard, as the shared training meshes have: axes stay as they are.
    Raises: BadFile: broken, too large, without triangles, with several textures, or compressed.
    """
    with gltf.opened(path) as container:
        return _mesh(container, z_up=z_up)


def _mesh(container: gltf.Container, *, z_up: bool) -> Mesh:
    """All placed triangles as one mesh."""
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]] = []
    textures: set[int | None] = set()
    count = face_count = 0
    for primitive, _, glb_from_node in container.placed():
        if primitive.get("mode", gltf.TRIANGLES) != gltf.TRIANGLES:
            continue
        positions = container.positions(primitive, glb_from_node)
        faces = container.indices(primitive, len(positions), 3)
        if np.linalg.det(glb_from_node[:3, :3]) < 0:
            faces = faces[:, ::-1]
        textures.add(container.texture_of(primitive))
        pieces.append((positions, faces + count, *container.looks(primitive, len(positions))))
        count += len(positions)
        face_count += len(faces)
        if max(count, face_count) > gltf.COUNT_LIMIT:
            raise ValueError(f"more than {gltf.COUNT_LIMIT:,} vertices or faces")
    if not pieces:
        raise BadFile(f"{container.name} holds no triangles")
    if len(textures) > 1:
        raise BadFile(f"{container.name} has {len(textures)} materials with textures of their own: join them into one")
    image = next(iter(textures))
    vertices = np.concatenate([piece[0] for piece in pieces])
    return Mesh(
        vertices=vertices if z_up else object_from_glb(vertices),
        faces=np.concatenate([piece[1] for piece in pieces]),
        vertex_colours=_joined([piece[2] for piece in pieces]),
        uv=_joined([piece[3] for piece in pieces]),
        texture=None if image is None else container.image(image),
    )


def _joined(pieces: list[np.ndarray | None]) -> np.ndarray | None:
    """All pieces one after the other, or None if one lacks the value."""
    present = [piece for piece in pieces if piece is not None]
    return np.concatenate(present) if len(present) == len(pieces) else None
