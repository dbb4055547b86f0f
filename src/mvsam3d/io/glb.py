"""Mesh <-> binary glTF 2.0 (GLB), and the step between stored and linear colours.

A Mesh stands in the object frame (+Z up), a GLB has +Y up: (x, z, -y). Colours of a Mesh are sRGB; glTF wants sRGB in
textures but linear light in vertex colours (COLOR_0).
"""

import json
import struct
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8
from PIL import Image

from mvsam3d.errors import BadFile, BadPhoto
from mvsam3d.io.photos import open_image, rgb_pixels
from mvsam3d.io.runs import Json, write_whole
from mvsam3d.types import Mesh

GLB_FROM_OBJECT = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float64)  # on column vectors
CREASE = np.cos(np.radians(40.0))  # a vertex split by a texture seam keeps its own normal at sharper edges
SHARED_LIMIT = 32  # vertices at one place; more are no seam but a broken mesh
GENERATOR = "mvsam3d"
MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, UBYTE, USHORT, UINT = 5126, 5121, 5123, 5125  # componentType
DTYPES = {5120: "i1", UBYTE: "u1", 5122: "<i2", USHORT: "<u2", UINT: "<u4", FLOAT: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
VERTEX_BUFFER, INDEX_BUFFER = 34962, 34963
SAMPLER: Json = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}  # trilinear, clamped
FILE_LIMIT = 1 << 30  # bytes
COUNT_LIMIT = 50_000_000  # vertices, and faces, of all placed copies of all meshes


def linear_from_srgb(colours: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Linear light of stored colours, both [0, 1] (IEC 61966-2-1)."""
    low = colours / 12.92
    return np.where(colours <= 0.04045, low, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4).astype(colours.dtype)


def srgb_from_linear(light: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Stored colours of linear light, both [0, 1] (IEC 61966-2-1)."""
    high = 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, high).astype(light.dtype)


def write_glb(path: Path, mesh: Mesh, *, raw_colours: bool = False) -> None:
    """Write the mesh, whole or not at all; the bytes depend on the mesh alone.

    With uv and texture: a PBR material, not metallic, fully rough, the texture its base colour. Else with vertex
    colours: the same material and COLOR_0 in linear light, 16 bits a channel. Else grey.

    Args:
        raw_colours: instead of all that, what the public system writes: uint8 vertex colours as they are, no normals,
            no material. Viewers show them too bright.
    Raises: BadFile: an empty mesh, NaN, or faces that point outside the vertices.
    """
    write_whole(path, glb_bytes(mesh, raw_colours=raw_colours, name=str(path)))


def glb_bytes(mesh: Mesh, *, raw_colours: bool = False, name: str = "GLB") -> bytes:
    """The file that `write_glb` writes; `name` is for errors."""
    _check_mesh(mesh, name)
    parts = _Parts()
    positions = (mesh.vertices @ GLB_FROM_OBJECT.T).astype(np.float32)
    attributes: dict[str, Json] = {"POSITION": parts.add(positions, "VEC3", bounds=True)}
    primitive: dict[str, Json] = {"attributes": attributes}
    document: dict[str, Json] = {
        "asset": {"version": "2.0", "generator": GENERATOR},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "geometry_0"}],
        "meshes": [{"primitives": [primitive], "name": "geometry_0"}],
    }
    if raw_colours:
        if mesh.vertex_colours is not None:
            attributes["COLOR_0"] = parts.add(_rgba8(mesh.vertex_colours), "VEC4", normalised=True)
    else:
        normals = vertex_normals(mesh) @ GLB_FROM_OBJECT.T
        attributes["NORMAL"] = parts.add(normals.astype(np.float32), "VEC3")
        primitive["material"] = 0
        document |= _material(mesh, attributes, parts)
    primitive["indices"] = parts.add(mesh.faces.astype(np.uint32).reshape(-1), "SCALAR", target=INDEX_BUFFER)
    document |= {"accessors": parts.accessors, "bufferViews": parts.views, "buffers": [{"byteLength": parts.length}]}
    return _pack(document, parts.binary())


class _Parts:
    """Arrays put one after the other into the binary chunk, with the accessors and views that describe them."""

    def __init__(self) -> None:
        self.accessors: list[Json] = []
        self.views: list[Json] = []
        self.length = 0
        self._chunks: list[bytes] = []

    def add_view(self, content: bytes, target: int | None) -> int:
        """Append bytes; returns the index of their view."""
        view: dict[str, Json] = {"buffer": 0, "byteOffset": self.length, "byteLength": len(content)}
        self.views.append(view if target is None else view | {"target": target})
        padded = content + b"\0" * (-len(content) % 4)
        self._chunks.append(padded)
        self.length += len(padded)
        return len(self.views) - 1

    def add(
        self,
        array: np.ndarray,
        kind: str,
        *,
        bounds: bool = False,
        normalised: bool = False,
        target: int = VERTEX_BUFFER,
    ) -> int:
        """Append an array; returns the index of its accessor."""
        component = {"f": FLOAT, "u1": UBYTE, "u2": USHORT, "u4": UINT}
        code = component.get(array.dtype.kind) or component[f"u{array.dtype.itemsize}"]
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()
        view = self.add_view(content, target)
        accessor: dict[str, Json] = {"bufferView": view, "componentType": code, "count": len(array), "type": kind}
        if bounds:
            accessor |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        self.accessors.append(accessor | ({"normalized": True} if normalised else {}))
        return len(self.accessors) - 1

    def binary(self) -> bytes:
        """All bytes."""
        return b"".join(self._chunks)


def _material(mesh: Mesh, attributes: dict[str, Json], parts: _Parts) -> dict[str, Json]:
    """Add texture coordinates or colours; returns the parts of the document that describe the material."""
    surface: dict[str, Json] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    materials: Json = [{"name": "surface", "pbrMetallicRoughness": surface, "doubleSided": True}]
    if mesh.uv is not None and mesh.texture is not None:
        uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)  # glTF counts v downward
        attributes["TEXCOORD_0"] = parts.add(uv.astype(np.float32), "VEC2")
        surface["baseColorTexture"] = {"index": 0}
        image = parts.add_view(_png(mesh.texture), None)
        return {
            "materials": materials,
            "textures": [{"source": 0, "sampler": 0}],
            "samplers": [SAMPLER],
            "images": [{"bufferView": image, "mimeType": "image/png", "name": "base_colour"}],
        }
    if mesh.vertex_colours is not None:
        light = linear_from_srgb(np.clip(mesh.vertex_colours, 0, 1).astype(np.float64))
        rgba = np.concatenate([light, np.ones((len(light), 1))], axis=1)
        attributes["COLOR_0"] = parts.add(np.round(rgba * 65535).astype(np.uint16), "VEC4", normalised=True)
    return {"materials": materials}


def _rgba8(colours: Float[np.ndarray, "vertex 3"]) -> UInt8[np.ndarray, "vertex 4"]:
    rgb = np.round(np.clip(colours, 0, 1) * 255).astype(np.uint8)
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)


def _png(texture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    file = BytesIO()
    Image.fromarray(texture).save(file, format="PNG", compress_level=4)  # 6 takes half as long again for 1 % less
    return file.getvalue()


def _pack(document: Mapping[str, Json], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<III", MAGIC, 2, total)
    return b"".join(
        [head, struct.pack("<II", len(text), JSON_CHUNK), text, struct.pack("<II", len(binary), BINARY_CHUNK), binary]
    )


def _check_mesh(mesh: Mesh, name: str) -> None:
    def refuse(found: str) -> None:
        raise BadFile(f"{name} not written: {found}")

    count = len(mesh.vertices)
    if count == 0 or len(mesh.faces) == 0:
        refuse(f"the mesh is empty ({count} vertices, {len(mesh.faces)} faces): nothing of the object was found")
    for what, values in (
        ("positions", mesh.vertices),
        ("colours", mesh.vertex_colours),
        ("texture coordinates", mesh.uv),
    ):
        broken = 0 if values is None else int((~np.isfinite(values).all(axis=1)).sum())
        if broken:
            refuse(f"{what} of {broken} of {count} vertices are NaN or infinite: the step that made them is at fault")
    if mesh.faces.min() < 0 or mesh.faces.max() >= count:
        refuse(f"faces point to vertices {mesh.faces.min()} to {mesh.faces.max()}, there are {count}")


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
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise BadFile(f"{path} has {path.stat().st_size:,} bytes, at most {FILE_LIMIT:,} are read")
        return _Reader(path.read_bytes(), str(path)).mesh(z_up=z_up)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from error
    except BadPhoto as error:
        raise BadFile(f"{path}: its texture is no good: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise BadFile(f"{path} is not a sound GLB ({type(error).__name__}: {error}): export it again") from error


class _Reader:
    """One GLB in memory. Wrong types and ranges raise whatever they raise: `read_glb` makes one error of it."""

    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        magic, version, total = struct.unpack_from("<III", content)
        length, kind = struct.unpack_from("<II", content, 12)
        if magic != MAGIC or version != 2 or kind != JSON_CHUNK or total > len(content) or 20 + length > total:
            raise ValueError("no glTF 2.0 header, or cut short")
        self.document = json.loads(content[20 : 20 + length])
        required = self.document.get("extensionsRequired", [])
        if required:
            raise BadFile(f"{name} needs the glTF extensions {required}, which are not read: export it uncompressed")
        start = 20 + length
        size, kind = struct.unpack_from("<II", content, start) if start < total else (0, BINARY_CHUNK)
        if kind != BINARY_CHUNK or start + 8 + size > max(total, start + 8):
            raise ValueError("the binary chunk is missing or cut short")
        self.binary = content[start + 8 : start + 8 + size]

    def mesh(self, *, z_up: bool) -> Mesh:
        """All placed triangles as one mesh."""
        pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]] = []
        textures: set[int | None] = set()
        count = face_count = 0
        for primitive, glb_from_node in self._placed():
            positions = self._floats(primitive["attributes"]["POSITION"], 3)
            faces = self._faces(primitive, len(positions))
            if not np.isfinite(glb_from_node).all():
                raise ValueError("a node's transform is NaN or infinite")
            if np.linalg.det(glb_from_node[:3, :3]) < 0:
                faces = faces[:, ::-1]
            textures.add(self._texture_of(primitive))
            pieces.append(
                (positions @ glb_from_node[:3, :3].T + glb_from_node[:3, 3], faces + count, *self._looks(primitive))
            )
            count += len(positions)
            face_count += len(faces)
            if max(count, face_count) > COUNT_LIMIT:
                raise ValueError(f"more than {COUNT_LIMIT:,} vertices or faces")
        if not pieces:
            raise BadFile(f"{self.name} holds no triangles")
        vertices = np.concatenate([piece[0] for piece in pieces])
        if not np.isfinite(vertices).all():
            raise ValueError("NaN or infinite positions")
        return Mesh(
            vertices=vertices if z_up else vertices @ GLB_FROM_OBJECT,
            faces=np.concatenate([piece[1] for piece in pieces]),
            vertex_colours=_joined([piece[2] for piece in pieces]),
            uv=_joined([piece[3] for piece in pieces]),
            texture=self._texture(textures),
        )

    def _placed(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Triangle primitives and the transform of their node."""
        nodes = self.document.get("nodes", [])
        scenes = self.document.get("scenes")
        roots = scenes[self.document.get("scene", 0)].get("nodes", []) if scenes else range(len(nodes))
        stack = [(int(root), np.eye(4)) for root in roots]
        seen: set[int] = set()
        while stack:
            index, glb_from_parent = stack.pop(0)
            if index in seen or index < 0:
                raise ValueError(f"node {index} stands at two places of the tree")
            seen.add(index)
            node = nodes[index]
            glb_from_node = glb_from_parent @ _parent_from_node(node)
            stack += [(int(child), glb_from_node) for child in node.get("children", [])]
            if "mesh" in node:
                for primitive in self.document["meshes"][node["mesh"]]["primitives"]:
                    if primitive.get("mode", 4) == 4:
                        yield primitive, glb_from_node

    def _array(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Stored values of an accessor, [count, width]."""
        accessor = self.document["accessors"][index]
        view = self.document["bufferViews"][accessor["bufferView"]]
        dtype, width, count = np.dtype(DTYPES[accessor["componentType"]]), WIDTHS[accessor["type"]], accessor["count"]
        start, size = view.get("byteOffset", 0), view["byteLength"]
        offset, stride = accessor.get("byteOffset", 0), view.get("byteStride", dtype.itemsize * width)
        numbers = (index, start, size, offset, stride, count)
        if "sparse" in accessor or view.get("buffer") != 0 or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"accessor {index} cannot be read")
        end = offset + (count - 1) * stride + dtype.itemsize * width
        if (
            not 0 < count <= 3 * COUNT_LIMIT
            or stride < dtype.itemsize * width
            or end > size
            or start + size > len(self.binary)
        ):
            raise ValueError(f"accessor {index} reaches outside its data")
        shape, strides = (count, width), (stride, dtype.itemsize)
        return np.ndarray(shape, dtype, self.binary, start + offset, strides), accessor

    def _floats(self, index: int, width: int) -> Float[np.ndarray, "vertex width"]:
        """Numbers of an accessor, normalised integers as [0, 1]."""
        array, accessor = self._array(index)
        if array.shape[1] < width:
            raise ValueError(f"accessor {index} has {array.shape[1]} columns, not {width}")
        scale = np.iinfo(array.dtype).max if accessor.get("normalized") and array.dtype.kind in "iu" else 1
        return array[:, :width].astype(np.float64) / scale

    def _faces(self, primitive: dict[str, Any], vertices: int) -> Int64[np.ndarray, "face 3"]:
        if "indices" in primitive:
            indices = self._array(primitive["indices"])[0][:, 0].astype(np.int64)
        else:
            indices = np.arange(vertices)
        faces = indices[: len(indices) // 3 * 3].reshape(-1, 3)
        if len(faces) and (faces.min() < 0 or faces.max() >= vertices):
            raise ValueError("faces point outside the vertices")
        return faces

    def _looks(self, primitive: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """sRGB vertex colours and uv, v upward."""
        attributes = primitive["attributes"]
        colours = self._floats(attributes["COLOR_0"], 3) if "COLOR_0" in attributes else None
        uv = self._floats(attributes["TEXCOORD_0"], 2) if "TEXCOORD_0" in attributes else None
        return (
            None if colours is None else srgb_from_linear(np.clip(colours, 0, 1)),
            None if uv is None else np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1),
        )

    def _texture_of(self, primitive: dict[str, Any]) -> int | None:
        """Index of the base colour image."""
        if "material" not in primitive:
            return None
        surface = self.document["materials"][primitive["material"]].get("pbrMetallicRoughness", {})
        if "baseColorTexture" not in surface:
            return None
        return int(self.document["textures"][surface["baseColorTexture"]["index"]]["source"])

    def _texture(self, indices: set[int | None]) -> UInt8[np.ndarray, "h w 3"] | None:
        if len(indices) > 1:
            raise BadFile(f"{self.name} has {len(indices)} materials with textures of their own: join them into one")
        index = next(iter(indices))
        if index is None:
            return None
        view = self.document["bufferViews"][self.document["images"][index]["bufferView"]]
        start = view.get("byteOffset", 0)
        return rgb_pixels(open_image(self.binary[start : start + view["byteLength"]], "image"))


def _parent_from_node(node: dict[str, Any]) -> Float[np.ndarray, "4 4"]:
    """A node's transform: its matrix, or translation, rotation (x, y, z, w) and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T  # stored by columns
    x, y, z, w = (float(value) for value in node.get("rotation", (0, 0, 0, 1)))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64)
    return matrix


def _joined(pieces: list[np.ndarray | None]) -> np.ndarray | None:
    """All pieces one after the other, or None if one lacks the value."""
    present = [piece for piece in pieces if piece is not None]
    return np.concatenate(present) if len(present) == len(pieces) else None
