"""Triangles -> pixels by a z-buffer on the CPU: face ids, barycentrics and depth first, colours from them.

Pixel centres sit at half-integers, cameras are OpenCV's (see `types`). One thread;
512 x 512 pixels with 16k faces take about 10 ms.
"""

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

from mvsam3d.geometry.compiled import compiled
from mvsam3d.types import Mesh

Array = np.ndarray

NEAR = 1e-6  # camera units; nothing at or behind it is drawn
CREASE_DEGREES = 40.0  # faces that meet at a larger angle keep a sharp edge


@compiled
def _fill(
    vertices: Array,
    faces: Array,
    k: Array,
    k_inverse: Array,
    face_ids: Array,
    barycentrics: Array,
    depth: Array,
    near: float,
) -> None:
    """Triangle by triangle. A point of the triangle on the ray d of a pixel is z d with barycentrics z (n_i . d) / det,
    n_i the cross product of the two other corners, so z = det / sum(n_i . d): perspective-correct and sound for
    triangles that reach behind the camera, without clipping.
    """
    height, width = face_ids.shape
    m = np.empty((3, 3))
    for face in range(len(faces)):
        ax, ay, az = vertices[faces[face, 0]]
        bx, by, bz = vertices[faces[face, 1]]
        cx, cy, cz = vertices[faces[face, 2]]
        if max(az, bz, cz) <= near:
            continue
        left, right, top, bottom = 0, width, 0, height
        if min(az, bz, cz) > near:
            ua, ub, uc = (
                (k[0, 0] * ax + k[0, 1] * ay) / az,
                (k[0, 0] * bx + k[0, 1] * by) / bz,
                (k[0, 0] * cx + k[0, 1] * cy) / cz,
            )
            va, vb, vc = k[1, 1] * ay / az, k[1, 1] * by / bz, k[1, 1] * cy / cz
            left = max(left, int(np.floor(min(max(min(ua, ub, uc) + k[0, 2] - 0.5, -1.0), width + 1.0))))
            right = min(right, int(np.ceil(min(max(max(ua, ub, uc) + k[0, 2] - 0.5, -1.0), width + 1.0))) + 1)
            top = max(top, int(np.floor(min(max(min(va, vb, vc) + k[1, 2] - 0.5, -1.0), height + 1.0))))
            bottom = min(bottom, int(np.ceil(min(max(max(va, vb, vc) + k[1, 2] - 0.5, -1.0), height + 1.0))) + 1)
            if left >= right or top >= bottom:
                continue
        n = (
            (by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx),
            (cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax),
            (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx),
        )
        det = ax * n[0][0] + ay * n[0][1] + az * n[0][2]
        if det == 0.0:
            continue
        sign = 1.0 if det > 0.0 else -1.0
        for i in range(3):
            for j in range(3):
                m[i, j] = sign * (n[i][0] * k_inverse[0, j] + n[i][1] * k_inverse[1, j] + n[i][2] * k_inverse[2, j])
        for row in range(top, bottom):
            v = row + 0.5
            e0, e1, e2 = m[0, 1] * v + m[0, 2], m[1, 1] * v + m[1, 2], m[2, 1] * v + m[2, 2]
            for column in range(left, right):
                u = column + 0.5
                w0, w1, w2 = m[0, 0] * u + e0, m[1, 0] * u + e1, m[2, 0] * u + e2
                if w0 >= 0.0 and w1 >= 0.0 and w2 >= 0.0:
                    total = w0 + w1 + w2
                    if total > 0.0:
                        z = abs(det) / total
                        if near < z < depth[row, column]:
                            depth[row, column] = z
                            face_ids[row, column] = face
                            barycentrics[row, column, 0] = w0 / total
                            barycentrics[row, column, 1] = w1 / total
                            barycentrics[row, column, 2] = w2 / total


def rasterise(
    vertices_camera: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    width: int,
    height: int,
) -> tuple[Int32[np.ndarray, "h w"], Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """What each pixel centre sees first; both sides of a face are drawn.

    Args:
        intrinsics: pixels, last row 0 0 1.
    Returns: face ids (-1: none), perspective-correct barycentrics, depth = camera z (inf: none).
    """
    face_ids = np.full((height, width), -1, np.int32)
    barycentrics = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    k = np.ascontiguousarray(intrinsics, np.float64)
    corners = np.ascontiguousarray(vertices_camera, np.float64)
    _fill(corners, np.ascontiguousarray(faces, np.int32), k, np.linalg.inv(k), face_ids, barycentrics, depth, NEAR)
    return face_ids, barycentrics, depth


@compiled
def _mix(face_ids: Array, shares: Array, faces: Array, values: Array, out: Array) -> None:
    for i in range(len(face_ids)):
        face = face_ids[i]
        if face >= 0:
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            for k in range(values.shape[1]):
                out[i, k] = shares[i, 0] * values[a, k] + shares[i, 1] * values[b, k] + shares[i, 2] * values[c, k]


def interpolate(
    face_ids: Int32[np.ndarray, "*pixel"],
    barycentrics: Float32[np.ndarray, "*pixel 3"],
    faces: Int[np.ndarray, "face 3"],
    values: Float[np.ndarray, "vertex channel"],
) -> Float32[np.ndarray, "*pixel channel"]:
    """Values of the vertices at each pixel, 0 where no face is."""
    out = np.zeros((face_ids.size, values.shape[1]), np.float32)
    values, faces = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(faces, np.int32)
    _mix(face_ids.reshape(-1), barycentrics.reshape(-1, 3), faces, values, out)
    return out.reshape(*face_ids.shape, values.shape[1])


@compiled
def _sample(texture: Array, uv: Array, nearest: bool, colours: Array) -> None:
    height, width, _ = texture.shape
    shift = 0.0 if nearest else 0.5
    for i in range(len(uv)):
        x = min(max(uv[i, 0] * width - shift, 0.0), width - 1.0)
        y = min(max((1.0 - uv[i, 1]) * height - shift, 0.0), height - 1.0)
        x0, y0 = int(x), int(y)
        if nearest:
            for c in range(3):
                colours[i, c] = texture[y0, x0, c] / 255.0
            continue
        x1, y1, fx, fy = min(x0 + 1, width - 1), min(y0 + 1, height - 1), x - x0, y - y0
        for c in range(3):
            upper = (1 - fx) * texture[y0, x0, c] + fx * texture[y0, x1, c]
            lower = (1 - fx) * texture[y1, x0, c] + fx * texture[y1, x1, c]
            colours[i, c] = ((1 - fy) * upper + fy * lower) / 255.0


def sample_texture(
    texture: UInt8[np.ndarray, "h w 3"], uv: Float[np.ndarray, "point 2"], *, nearest: bool = False
) -> Float32[np.ndarray, "point 3"]:
    """Texture at points, [0, 1], bilinear or nearest, clamped at the border. v upward: image row = (1 - v) * height."""
    colours = np.empty((len(uv), 3), np.float32)
    _sample(np.ascontiguousarray(texture), np.ascontiguousarray(uv, np.float32), nearest, colours)
    return colours


def face_normals(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> Float[np.ndarray, "face 3"]:
    """Right-hand normals of length twice the area."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    return np.cross(b - a, c - a)


@compiled
def _smooth(
    places: Array,
    offsets: Array,
    incident: Array,
    faces: Array,
    normals: Array,
    units: Array,
    cosine: float,
    corners: Array,
) -> None:
    for face in range(len(faces)):
        for corner in range(3):
            place = places[faces[face, corner]]
            x = y = z = 0.0
            for other in incident[offsets[place] : offsets[place + 1]]:
                bend = (
                    units[face, 0] * units[other, 0]
                    + units[face, 1] * units[other, 1]
                    + units[face, 2] * units[other, 2]
                )
                if bend >= cosine:
                    x += normals[other, 0]
                    y += normals[other, 1]
                    z += normals[other, 2]
            length = np.sqrt(x * x + y * y + z * z)
            if length > 0.0:
                corners[face, corner, 0] = x / length
                corners[face, corner, 1] = y / length
                corners[face, corner, 2] = z / length


def corner_normals(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> Float32[np.ndarray, "face 3 3"]:
    """Unit normal at each corner of each face: mean by area of the faces there within CREASE_DEGREES of it.

    Vertices at the same place (to 1e-5 of the longest side) count as one, so texture seams do not show.
    """
    size = max(float(np.ptp(vertices, axis=0).max()), 1e-12)
    grid = np.round((vertices - vertices.min(axis=0)) / size * 1e5).astype(np.int64)
    _, places = np.unique((grid[:, 0] << 42) + (grid[:, 1] << 21) + grid[:, 2], return_inverse=True)
    owners = places[faces].reshape(-1)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owners))])
    incident = np.argsort(owners, kind="stable") // 3
    normals = face_normals(vertices, faces).astype(np.float64)
    units = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    corners = np.repeat(units[:, None], 3, axis=1).astype(np.float32)
    cosine = np.cos(np.radians(CREASE_DEGREES))
    _smooth(places, offsets, incident, np.ascontiguousarray(faces), normals, units, cosine, corners)
    return corners


PLAIN_COLOUR = (0.7, 0.7, 0.7)  # of a mesh without colours
SHADE = 0.4  # how much darker a face is that the camera sees edge on


def render_mesh(
    mesh: Mesh,
    intrinsics: Float[np.ndarray, "3 3"],
    camera_from_object: Float[np.ndarray, "4 4"],
    width: int,
    height: int,
    *,
    shade: bool = True,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    samples: int = 2,
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Picture of a mesh in its own colours (texture, else those of the vertices, else grey).

    Args:
        mesh: in the object frame; both sides of a face are drawn.
        intrinsics: pixels.
        camera_from_object: rigid or similarity, OpenCV camera.
        width: pixels.
        height: pixels.
        shade: darken faces turned away from the camera, so that the shape shows.
        background: sRGB.
        samples: samples a side of a pixel.
    Returns: sRGB in [0, 1], share of each pixel that is covered, depth = least camera z in it (inf where none).
    """
    camera = mesh.vertices @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
    dense = np.diag([samples, samples, 1.0]) @ intrinsics
    face_ids, shares, depth = rasterise(camera, mesh.faces, dense, samples * width, samples * height)
    covered = face_ids >= 0
    colours = surface_colours(mesh, face_ids[covered], shares[covered])
    if shade and covered.any():
        turned = np.einsum("pc,pcd->pd", shares[covered], corner_normals(camera, mesh.faces)[face_ids[covered]])
        point = np.einsum("pc,pcd->pd", shares[covered], camera[mesh.faces[face_ids[covered]]])
        lengths = np.linalg.norm(turned, axis=1) * np.linalg.norm(point, axis=1)
        facing = np.abs((turned * point).sum(axis=1)) / np.maximum(lengths, 1e-12)
        colours = colours * (1 - SHADE * (1 - facing[:, None]))
    picture = np.broadcast_to(np.asarray(background, np.float32), (*face_ids.shape, 3)).copy()
    picture[covered] = colours
    blocks = (height, samples, width, samples)
    rgb = picture.reshape(*blocks, 3).mean(axis=(1, 3))
    return rgb, covered.reshape(blocks).mean(axis=(1, 3), dtype=np.float32), depth.reshape(blocks).min(axis=(1, 3))


def surface_colours(
    mesh: Mesh, face_ids: Int32[np.ndarray, " point"], shares: Float32[np.ndarray, "point 3"]
) -> Float32[np.ndarray, "point 3"]:
    """A mesh's own colours at points of its faces: of the texture, else of the vertices, else grey."""
    if mesh.texture is not None and mesh.uv is not None:
        return sample_texture(mesh.texture, interpolate(face_ids, shares, mesh.faces, mesh.uv))
    if mesh.vertex_colours is not None:
        return interpolate(face_ids, shares, mesh.faces, mesh.vertex_colours)
    return np.broadcast_to(np.asarray(PLAIN_COLOUR, np.float32), (len(face_ids), 3))
