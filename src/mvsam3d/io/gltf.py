"""The container of binary glTF 2.0 (GLB): arrays into bytes, and back within bounds.

What the arrays mean is the matter of `io.glb` (one mesh) and `io.scenes` (named things side by side).
"""

import json
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from mvsam3d.errors import BadFile, BadPhoto
from mvsam3d.io.photos import open_image, rgb_pixels
from mvsam3d.types import Mesh

GENERATOR = "mvsam3d"
MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, UBYTE, USHORT, UINT = 5126, 5121, 5123, 5125  # componentType
DTYPES = {5120: "i1", UBYTE: "u1", 5122: "<i2", USHORT: "<u2", UINT: "<u4", FLOAT: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
VERTEX_BUFFER, INDEX_BUFFER = 34962, 34963
POINTS, LINES, TRIANGLES = 0, 1, 4  # modes of a primitive
SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}  # trilinear, clamped
FILE_LIMIT = 1 << 30  # bytes
COUNT_LIMIT = 50_000_000  # vertices, and faces, of all placed copies of all meshes
TEXEL_LIMIT = 300_000_000  # of all textures of a file

Entry = dict[str, Any]  # one object of the document


def linear_from_srgb(colours: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Linear light of stored colours, both [0, 1] (IEC 61966-2-1)."""
    low = colours / 12.92
    return np.where(colours <= 0.04045, low, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4).astype(colours.dtype)


def srgb_from_linear(light: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Stored colours of linear light, both [0, 1] (IEC 61966-2-1)."""
    high = 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, high).astype(light.dtype)


def frame_extras(frame: str, matrices: Mapping[str, Float[np.ndarray, "4 4"]]) -> Entry:
    """What a scene says of its frame: `frame`, and by name the matrices, rows, on column vectors, to and from others."""
    return {"frame": frame, **{name: rows(matrix) for name, matrix in matrices.items()}}


def rows(matrix: Float[np.ndarray, "rows columns"]) -> list[list[float]]:
    """A matrix as JSON; -0 becomes 0."""
    return [[float(value) + 0.0 for value in row] for row in matrix]


class Builder:
    """A document as it grows: one primitive a mesh, one mesh a node, one scene."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Entry]] = {}
        self._chunks: list[bytes] = []
        self._length = 0

    def node(self, name: str, primitive: Entry) -> None:
        """Place a primitive under a name."""
        mesh = self._append("meshes", {"primitives": [primitive], "name": name})
        self._append("nodes", {"mesh": mesh, "name": name})

    def material(self, texture: UInt8[np.ndarray, "h w 3"] | None) -> int:
        """A surface that is not metallic and fully rough, with a texture as base colour or none; its index."""
        surface: Entry = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        if texture is not None:
            view = self._view(png_bytes(texture), None)
            image = self._append("images", {"bufferView": view, "mimeType": "image/png", "name": "base_colour"})
            self._lists.setdefault("samplers", [SAMPLER])
            surface["baseColorTexture"] = {"index": self._append("textures", {"source": image, "sampler": 0})}
        return self._append("materials", {"name": "surface", "pbrMetallicRoughness": surface, "doubleSided": True})

    def array(
        self,
        values: np.ndarray,
        kind: str,
        *,
        bounds: bool = False,
        normalised: bool = False,
        target: int = VERTEX_BUFFER,
    ) -> int:
        """Append an array; the index of its accessor."""
        component = {"f": FLOAT, "u1": UBYTE, "u2": USHORT, "u4": UINT}
        code = component.get(values.dtype.kind) or component[f"u{values.dtype.itemsize}"]
        view = self._view(values.astype(values.dtype.newbyteorder("<")).tobytes(), target)
        accessor: Entry = {"bufferView": view, "componentType": code, "count": len(values), "type": kind}
        if bounds:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        return self._append("accessors", accessor | ({"normalized": True} if normalised else {}))

    def positions(self, points: Float[np.ndarray, "vertex 3"]) -> int:
        """Append POSITION."""
        return self.array(points.astype(np.float32), "VEC3", bounds=True)

    def indices(self, corners: Int[np.ndarray, "row corner"]) -> int:
        """Append the vertices of faces or lines."""
        return self.array(corners.astype(np.uint32).reshape(-1), "SCALAR", target=INDEX_BUFFER)

    def colours(self, srgb: Float[np.ndarray, "vertex 3"]) -> int:
        """Append COLOR_0: linear light, 16 bits a channel."""
        light = linear_from_srgb(np.clip(srgb, 0, 1).astype(np.float64))
        rgba = np.concatenate([light, np.ones((len(light), 1))], axis=1)
        return self.array(np.round(rgba * 65535).astype(np.uint16), "VEC4", normalised=True)

    def content(self, extras: Entry | None = None) -> bytes:
        """The file. `extras` are those of the scene."""
        nodes = list(range(len(self._lists["nodes"])))
        document: Entry = {
            "asset": {"version": "2.0", "generator": GENERATOR},
            "scene": 0,
            "scenes": [{"nodes": nodes, **({"extras": extras} if extras else {})}],
            **self._lists,
            "buffers": [{"byteLength": self._length}],
        }
        return packed(document, b"".join(self._chunks))

    def _append(self, key: str, entry: Entry) -> int:
        entries = self._lists.setdefault(key, [])
        entries.append(entry)
        return len(entries) - 1

    def _view(self, content: bytes, target: int | None) -> int:
        view: Entry = {"buffer": 0, "byteOffset": self._length, "byteLength": len(content)}
        padded = content + b"\0" * (-len(content) % 4)
        self._chunks.append(padded)
        self._length += len(padded)
        return self._append("bufferViews", view if target is None else view | {"target": target})


def png_bytes(texture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A picture as PNG."""
    file = BytesIO()
    Image.fromarray(texture).save(file, format="PNG", compress_level=4)  # 6 takes half as long again for 1 % less
    return file.getvalue()


def packed(document: Entry, binary: bytes) -> bytes:
    """A GLB of a document and its bytes."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("utf-8")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<III", MAGIC, 2, total)
    return b"".join(
        [head, struct.pack("<II", len(text), JSON_CHUNK), text, struct.pack("<II", len(binary), BINARY_CHUNK), binary]
    )


def check_mesh(mesh: Mesh, name: str) -> None:
    """Raises: BadFile: an empty mesh, NaN, or faces that point outside the vertices."""

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


@contextmanager
def opened(path: Path) -> Iterator["Container"]:
    """A GLB to read from; whatever a broken file raises inside the block becomes a BadFile that names it."""
    try:
        size = path.stat().st_size
        if size > FILE_LIMIT:
            raise BadFile(f"{path} has {size:,} bytes, at most {FILE_LIMIT:,} are read")
        yield Container(path.read_bytes(), str(path))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from error
    except BadPhoto as error:
        raise BadFile(f"{path}: its texture is no good: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise BadFile(f"{path} is not a sound GLB ({type(error).__name__}: {error}): export it again") from error


class Container:
    """One GLB in memory. Wrong types and ranges raise whatever they raise: `opened` makes one error of it."""

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
        self._refuse_files_outside("buffers", self.document.get("buffers", []))
        start = 20 + length
        size, kind = struct.unpack_from("<II", content, start) if start < total else (0, BINARY_CHUNK)
        if kind != BINARY_CHUNK or start + 8 + size > max(total, start + 8):
            raise ValueError("the binary chunk is missing or cut short")
        self._images: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
        self._binary = content[start + 8 : start + 8 + size]

    def scene(self) -> Entry:
        """The scene to show; without one, all nodes that are nobody's."""
        scenes = self.document.get("scenes")
        return dict(scenes[self.document.get("scene", 0)]) if scenes else {}

    def placed(self) -> Iterator[tuple[Entry, Entry, Float[np.ndarray, "4 4"]]]:
        """Each primitive of the scene with its node and that node's glb_from_node."""
        nodes = self.document.get("nodes", [])
        scene = self.scene()
        roots = scene.get("nodes", []) if scene else range(len(nodes))
        queue = deque((int(root), np.eye(4)) for root in roots)
        seen: set[int] = set()
        while queue:
            index, glb_from_parent = queue.popleft()
            if index in seen or index < 0:
                raise ValueError(f"node {index} stands at two places of the tree")
            seen.add(index)
            node = nodes[index]
            glb_from_node = glb_from_parent @ _parent_from_node(node)
            if not np.isfinite(glb_from_node).all():
                raise ValueError("a node's transform is NaN or infinite")
            queue.extend((int(child), glb_from_node) for child in node.get("children", []))
            if "mesh" in node:
                for primitive in self.document["meshes"][node["mesh"]]["primitives"]:
                    yield primitive, node, glb_from_node

    def positions(self, primitive: Entry, glb_from_node: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "vertex 3"]:
        """POSITION, placed by the node. Raises: ValueError: NaN or infinity."""
        points = self.numbers(primitive["attributes"]["POSITION"], 3)
        placed: Float[np.ndarray, "vertex 3"] = points @ glb_from_node[:3, :3].T + glb_from_node[:3, 3]
        if not np.isfinite(placed).all():
            raise ValueError("NaN or infinite positions")
        return placed

    def indices(self, primitive: Entry, vertices: int, corners: int) -> Int[np.ndarray, "row corner"]:
        """The vertices of each face (3 corners) or line (2)."""
        if "indices" in primitive:
            indices = self._array(primitive["indices"])[0][:, 0].astype(np.int64)
        else:
            indices = np.arange(vertices)
        table = indices[: len(indices) // corners * corners].reshape(-1, corners)
        if len(table) and (table.min() < 0 or table.max() >= vertices):
            raise ValueError("faces point outside the vertices")
        return table

    def looks(
        self, primitive: Entry, vertices: int
    ) -> tuple[Float[np.ndarray, "vertex 3"] | None, Float[np.ndarray, "vertex 2"] | None]:
        """sRGB vertex colours, and uv with v upward."""
        attributes = primitive["attributes"]
        colours = self.numbers(attributes["COLOR_0"], 3) if "COLOR_0" in attributes else None
        uv = self.numbers(attributes["TEXCOORD_0"], 2) if "TEXCOORD_0" in attributes else None
        if any(values is not None and len(values) != vertices for values in (colours, uv)):
            raise ValueError("not as many colours or texture coordinates as positions")
        return (
            None if colours is None else srgb_from_linear(np.clip(colours, 0, 1)),
            None if uv is None else np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1),
        )

    def texture_of(self, primitive: Entry) -> int | None:
        """Index of the base colour image."""
        if "material" not in primitive:
            return None
        surface = self.document["materials"][primitive["material"]].get("pbrMetallicRoughness", {})
        if "baseColorTexture" not in surface:
            return None
        return int(self.document["textures"][surface["baseColorTexture"]["index"]]["source"])

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of an image."""
        if index not in self._images:
            self._images[index] = self._decoded(index)
            texels = sum(image.shape[0] * image.shape[1] for image in self._images.values())
            if texels > TEXEL_LIMIT:
                raise ValueError(f"more than {TEXEL_LIMIT:,} pixels of textures")
        return self._images[index]

    def _decoded(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        self._refuse_files_outside("images", [self.document["images"][index]])
        view = self.document["bufferViews"][self.document["images"][index]["bufferView"]]
        start = view.get("byteOffset", 0)
        return rgb_pixels(open_image(self._binary[start : start + view["byteLength"]], "image"))

    def numbers(self, index: int, width: int) -> Float[np.ndarray, "vertex width"]:
        """Numbers of an accessor, normalised integers as [0, 1]."""
        array, accessor = self._array(index)
        if array.shape[1] < width:
            raise ValueError(f"accessor {index} has {array.shape[1]} columns, not {width}")
        scale = np.iinfo(array.dtype).max if accessor.get("normalized") and array.dtype.kind in "iu" else 1
        return array[:, :width].astype(np.float64) / scale

    def _array(self, index: int) -> tuple[np.ndarray, Entry]:
        """Stored values of an accessor, [count, width]."""
        accessor = self.document["accessors"][index]
        view = self.document["bufferViews"][accessor["bufferView"]]
        dtype, width, count = np.dtype(DTYPES[accessor["componentType"]]), WIDTHS[accessor["type"]], accessor["count"]
        start, size = view.get("byteOffset", 0), view["byteLength"]
        offset, stride = accessor.get("byteOffset", 0), view.get("byteStride", dtype.itemsize * width)
        integers = (index, start, size, offset, stride, count)
        if "sparse" in accessor or view.get("buffer") != 0 or not all(type(n) is int and n >= 0 for n in integers):
            raise ValueError(f"accessor {index} cannot be read")
        end = offset + (count - 1) * stride + dtype.itemsize * width
        if (
            not 0 < count <= 3 * COUNT_LIMIT
            or stride < dtype.itemsize * width
            or end > size
            or start + size > len(self._binary)
        ):
            raise ValueError(f"accessor {index} reaches outside its data")
        shape, strides = (count, width), (stride, dtype.itemsize)
        return np.ndarray(shape, dtype, self._binary, start + offset, strides), accessor

    def _refuse_files_outside(self, what: str, entries: list[Entry]) -> None:
        outside = [str(entry["uri"])[:80] for entry in entries if "uri" in entry]
        if outside:
            raise BadFile(f"{self.name} keeps its {what} outside itself ({outside[0]}): export it as one whole GLB")


def _parent_from_node(node: Entry) -> Float[np.ndarray, "4 4"]:
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
