"""GLB, OBJ or PLY from anywhere -> one Mesh: all parts in place, their textures side by side in one, flat colours kept.

What cannot be kept is said in notes: a texture that is missing, faces that repeat their texture, vertex colours beside textures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from mvsam3d.errors import BadFile
from mvsam3d.geometry.frames import object_from_glb
from mvsam3d.io import gltf
from mvsam3d.io.gltf import srgb_from_linear
from mvsam3d.io.photos import MAX_PIXELS, rgb_pixels
from mvsam3d.types import Mesh

Up = Literal["y", "z"]
KINDS = (".glb", ".obj", ".ply")
SLACK = 1e-4  # of a texture: coordinates so little beyond it are at its border
BORDER = 1  # pixels around each texture in the joined one, so that none bleeds into the next
BLOCK = 4  # pixels a side of a flat colour in the joined texture


@dataclass(frozen=True)
class _Part:
    """A part with one look: a picture, or colours at the vertices, or one colour; `tint` multiplies the picture."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    uv: Float[np.ndarray, "vertex 2"] | None = None  # v upward
    colours: Float[np.ndarray, "vertex 3"] | None = None  # sRGB
    image: UInt8[np.ndarray, "h w 3"] | None = None
    tint: Float[np.ndarray, " 3"] | None = None  # sRGB


def read_mesh_file(path: Path, up: Up = "y") -> tuple[Mesh, tuple[str, ...]]:
    """The triangles of a file with +Z up, and what could not be kept of their looks.

    Args:
        up: the axis that points up in the file.
    Raises: BadFile: of another kind, broken, too large, or without triangles.
    """
    notes: list[str] = []
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise BadFile(f"{path}: meshes are read from {', '.join(KINDS)}")
    parts = _glb_parts(path, notes) if kind == ".glb" else _trimesh_parts(path, kind, notes)
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise BadFile(f"{path} holds no triangles")
    for part in parts:
        if not np.isfinite(part.vertices).all() or (part.uv is not None and not np.isfinite(part.uv).all()):
            raise BadFile(f"{path} has positions or texture coordinates that are NaN or infinite")
        if part.faces.min() < 0 or part.faces.max() >= len(part.vertices):
            raise BadFile(f"{path} has faces that point outside its vertices")
    mesh = _joined(parts, notes)
    vertices = mesh.vertices if up == "z" else object_from_glb(mesh.vertices)
    return replace(mesh, vertices=vertices), tuple(notes)


# files


def _glb_parts(path: Path, notes: list[str]) -> list[_Part]:
    parts = []
    with gltf.opened(path) as container:
        pictures: dict[int, UInt8[np.ndarray, "h w 3"] | None] = {}
        total = 0
        for primitive, _, glb_from_node in container.placed():
            if primitive.get("mode", gltf.TRIANGLES) != gltf.TRIANGLES:
                continue
            positions = container.positions(primitive, glb_from_node)
            faces = container.indices(primitive, len(positions), 3)
            if np.linalg.det(glb_from_node[:3, :3]) < 0:
                faces = faces[:, ::-1]
            total += len(positions) + len(faces)
            if total > gltf.COUNT_LIMIT:
                raise ValueError(f"more than {gltf.COUNT_LIMIT:,} vertices and faces")
            colours, uv = container.looks(primitive, len(positions))
            index = container.texture_of(primitive)
            if index is not None and index not in pictures:
                pictures[index] = _picture(container, index, notes)
            image = None if index is None else pictures[index]
            parts.append(
                _Part(positions, faces, uv, colours, image if uv is not None else None, _tint(container, primitive))
            )
    return parts


def _picture(container: gltf.Container, index: int, notes: list[str]) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        return container.image(index)
    except (BadFile, KeyError) as error:
        notes.append(f"texture missing: {error}")
        return None


def _tint(container: gltf.Container, primitive: gltf.Entry) -> Float[np.ndarray, " 3"] | None:
    if "material" not in primitive:
        return None
    surface = container.document["materials"][primitive["material"]].get("pbrMetallicRoughness", {})
    factor = np.array(surface.get("baseColorFactor", (1, 1, 1, 1))[:3], np.float64)
    if factor.shape != (3,) or not np.isfinite(factor).all():
        raise ValueError("a base colour that is none")
    tint = srgb_from_linear(np.clip(factor, 0, 1))
    return None if (tint > 0.999).all() else tint


class _Beside:
    """Lets a reader have files of the mesh's own folder, and no others; remembers those that it missed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.missing: list[str] = []

    def __getitem__(self, name: str) -> bytes:
        """The content of a file. Raises: ValueError: it is elsewhere, too large or not there."""
        base = PurePosixPath(name.strip().replace("\\", "/")).name
        path = self._folder / base
        if base in ("", ".", "..") or not path.is_file() or path.stat().st_size > gltf.FILE_LIMIT:
            self.missing.append(name.strip()[:80])
            raise ValueError(f"no file {base!r}")
        return path.read_bytes()

    get = __getitem__


def _trimesh_parts(path: Path, kind: str, notes: list[str]) -> list[_Part]:
    import trimesh

    try:
        if path.stat().st_size > gltf.FILE_LIMIT:
            raise BadFile(f"{path} has {path.stat().st_size:,} bytes, at most {gltf.FILE_LIMIT:,} are read")
        content = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from error
    beside = _Beside(path.parent)
    try:
        scene = trimesh.load_scene(BytesIO(content), file_type=kind[1:], resolver=beside, process=False)  # type: ignore[arg-type]
        parts = [_of_trimesh(piece) for piece in scene.dump() if isinstance(piece, trimesh.Trimesh)]
    except BadFile:
        raise
    except Exception as error:  # a broken file makes the reader raise whatever it raises
        raise BadFile(
            f"{path} is not a sound {kind[1:].upper()} ({type(error).__name__}: {error}): export it again"
        ) from error
    notes += [f"texture missing: {name} is not beside the mesh" for name in dict.fromkeys(beside.missing)]
    return parts


def _of_trimesh(piece: Any) -> _Part:
    from trimesh.visual.material import empty_material

    vertices, faces = np.asarray(piece.vertices, np.float64), np.asarray(piece.faces, np.int64)
    visual = piece.visual
    if visual.kind == "texture":
        material = visual.material.to_simple() if hasattr(visual.material, "to_simple") else visual.material
        uv = None if visual.uv is None else np.asarray(visual.uv, np.float64)[:, :2]
        picture = getattr(material, "image", None)
        if picture is not None and np.array_equal(np.asarray(picture), np.asarray(empty_material().image)):
            return _Part(vertices, faces)  # the reader's grey, in place of a material that is not there
        if picture is not None and uv is not None:
            if picture.width * picture.height > MAX_PIXELS:
                raise BadFile(
                    f"a texture of {picture.width} x {picture.height} pixels, at most {MAX_PIXELS:,} are read"
                )
            return _Part(vertices, faces, uv, image=rgb_pixels(picture))
        return _Part(vertices, faces, tint=np.asarray(material.main_color, np.float64)[:3] / 255)
    if visual.kind == "vertex":
        return _Part(vertices, faces, colours=np.asarray(visual.vertex_colors, np.float64)[:, :3] / 255)
    if visual.kind == "face":
        colours = np.repeat(np.asarray(visual.face_colors, np.float64)[:, :3] / 255, 3, axis=0)
        return _Part(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), colours=colours)
    return _Part(vertices, faces)


# one mesh


def _joined(parts: Sequence[_Part], notes: list[str]) -> Mesh:
    if all(part.image is None for part in parts):
        return _coloured(parts)
    wrapped = [_wrapped(part, notes) if part.image is not None else part for part in parts]
    if len({id(part.image) for part in wrapped}) == 1 and all(part.tint is None for part in wrapped):
        vertices, faces = _stacked(wrapped)
        uv = np.concatenate([part.uv for part in wrapped if part.uv is not None])
        return Mesh(vertices, faces, uv=uv, texture=wrapped[0].image)
    return _textured(wrapped, notes)


def _stacked(parts: Sequence[_Part]) -> tuple[Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]:
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + start for part, start in zip(parts, starts)]
    return np.concatenate([part.vertices for part in parts]), np.concatenate(faces)


def _coloured(parts: Sequence[_Part]) -> Mesh:
    """Colours at the vertices; None where no part has any."""
    vertices, faces = _stacked(parts)
    if all(part.colours is None and part.tint is None for part in parts):
        return Mesh(vertices, faces)
    return Mesh(vertices, faces, vertex_colours=np.concatenate([_flat(part) for part in parts]))


def _flat(part: _Part) -> Float[np.ndarray, "vertex 3"]:
    tint = np.ones(3) if part.tint is None else part.tint
    own = np.ones((len(part.vertices), 3)) if part.colours is None else part.colours
    return own * tint


def _wrapped(part: _Part, notes: list[str]) -> _Part:
    """Texture coordinates brought into the picture: textures repeat beyond it, and each face is moved by whole pictures."""
    assert part.uv is not None, "a part with a picture"
    if part.uv.min() >= -SLACK and part.uv.max() <= 1 + SLACK:
        return part
    corners = part.uv[part.faces]
    moved = corners - np.floor(corners.min(axis=1, keepdims=True) + SLACK)
    beyond = int((moved > 1 + 2 * SLACK).any(axis=(1, 2)).sum())
    if beyond:
        notes.append(f"{beyond} faces repeat their texture within themselves: its border is shown there instead")
    count = 3 * len(part.faces)
    flat = np.clip(moved, 0, 1).reshape(-1, 2)
    return replace(
        part, vertices=part.vertices[part.faces].reshape(-1, 3), faces=np.arange(count).reshape(-1, 3), uv=flat
    )


def _textured(parts: Sequence[_Part], notes: list[str]) -> Mesh:
    """The pictures of all parts one below the other; a flat colour is a small block."""
    lost = sum(part.image is None and part.colours is not None for part in parts)
    if lost:
        notes.append(f"{lost} parts with vertex colours stand beside textures: they are shown in their mean colour")
    tiles: dict[tuple[int, tuple[float, ...]], UInt8[np.ndarray, "h w 3"]] = {}
    keys = []
    for part in parts:
        tint = np.ones(3) if part.tint is None else part.tint
        if part.image is None:
            picture = np.broadcast_to(np.round(255 * _flat(part).mean(axis=0)).astype(np.uint8), (BLOCK, BLOCK, 3))
            key = (-1, tuple(picture[0, 0].tolist()))
        else:
            picture = part.image if (tint == 1).all() else np.round(part.image * tint).astype(np.uint8)
            key = (id(part.image), tuple(tint.tolist()))
        keys.append(key)
        tiles.setdefault(key, picture)
    framed = {
        key: np.pad(tile, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge") for key, tile in tiles.items()
    }
    width, height = max(tile.shape[1] for tile in framed.values()), sum(tile.shape[0] for tile in framed.values())
    if width * height > gltf.TEXEL_LIMIT:
        raise BadFile(
            f"{len(tiles)} textures of {width * height:,} pixels together: at most {gltf.TEXEL_LIMIT:,} are joined"
        )
    texture, tops, top = np.zeros((height, width, 3), np.uint8), {}, 0
    for key, tile in framed.items():
        texture[top : top + tile.shape[0], : tile.shape[1]] = tile
        tops[key] = top + BORDER
        top += tile.shape[0]
    uv = [_placed(part, tiles[key].shape, tops[key], width, height) for part, key in zip(parts, keys, strict=True)]
    vertices, faces = _stacked(parts)
    return Mesh(vertices, faces, uv=np.concatenate(uv), texture=texture)


def _placed(part: _Part, tile: tuple[int, ...], top: int, width: int, height: int) -> Float[np.ndarray, "vertex 2"]:
    """Texture coordinates in the joined picture of those in a part's own, which lies BORDER pixels from its left side."""
    own = np.full((len(part.vertices), 2), 0.5) if part.image is None or part.uv is None else np.clip(part.uv, 0, 1)
    column, row = BORDER + own[:, 0] * tile[1], top + (1 - own[:, 1]) * tile[0]
    return np.stack([column / width, 1 - row / height], axis=1)
