"""Compiled code of the training meshes: cells that faces touch, inside and outside, nearest faces, light.

In one file, since numba's cache notices changes of a function's own file only. Grids are indexed x, y, z and lengths
are in cells, except for the light's part, which is in the object frame.
"""

from typing import NamedTuple

# mypy: disable-error-code="no-any-return"
import numpy as np

from mvsam3d.geometry.compiled import compiled

Array = np.ndarray
Vector = tuple[float, float, float]

LIGHT_DISTANCE = 50.0  # of a light's camera: far enough for nearly parallel rays
LIGHT_FOCAL = LIGHT_DISTANCE / 1.8  # its focal length in sides of its map: the diagonal of the unit cube just fits
SHADOW_BIAS = 0.015  # a texel of the map is 1.8 / 160 = 0.011 wide

LEVELS = 1020  # 255 * 4: textures' own values are exact
_SRGB = np.arange(LEVELS + 1) / LEVELS
LINEAR = np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4)  # a table: powers are slow


class Shape(NamedTuple):
    """What is lit, in the object frame."""

    vertices: Array  # f32 [vertex, 3]
    faces: Array  # i32 [face, 3]
    normals: Array  # f32 [face, 3, 3], unit, at the corners


class Seen(NamedTuple):
    """What the samples of an image hold."""

    face_ids: Array  # i32 [row, column]
    shares: Array  # f32 [row, column, 3]
    depth: Array  # f32 [row, column]
    colours: Array  # f32 [row, column, 3], sRGB


class Lamps(NamedTuple):
    """Lights, and what each of them sees."""

    lights: Array  # f64 [light, 7]: direction, linear colour, strength of the shadow
    sky: Array  # f64 [6]
    views: Array  # f64 [light, 3, 3]: rotation into the light's camera
    shadows: Array  # f32 [light, row, column]: its depth map


@compiled
def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def _along(a: Vector, direction: Vector, t: float) -> Vector:
    return a[0] + t * direction[0], a[1] + t * direction[1], a[2] + t * direction[2]


@compiled
def _unit(a: Vector) -> Vector:
    length = np.sqrt(_dot(a, a)) + 1e-12
    return a[0] / length, a[1] / length, a[2] / length


@compiled
def _row(array: Array, i: int) -> Vector:
    return array[i, 0], array[i, 1], array[i, 2]


@compiled
def _overlaps(edges: Array, x: int, y: int) -> bool:
    return (
        edges[0, 0] * x + edges[0, 1] * y + edges[0, 2] >= 0.0
        and edges[1, 0] * x + edges[1, 1] * y + edges[1, 2] >= 0.0
        and edges[2, 0] * x + edges[2, 1] * y + edges[2, 2] >= 0.0
    )


@compiled
def touch(vertices: Array, faces: Array, resolution: int, counts: Array, entries: Array) -> None:
    """Count at each cell the faces that touch it (`vertices` in cells); with `entries`, whose starts `counts` then
    holds, list those faces. Exact triangle-box overlap: bounding box, plane, and the edges in the three projections
    (Schwarz and Seidel 2010), closed boxes.
    """
    edge = np.empty((3, 3, 3))  # projection, edge, (a, b, c): a x + b y + c >= 0 where the square [x, x + 1]^2 overlaps
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for face in range(len(faces)):
        p = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        for axis in range(3):
            low[axis] = max(0, int(np.floor(min(p[0][axis], p[1][axis], p[2][axis]))))
            high[axis] = min(resolution - 1, int(np.floor(max(p[0][axis], p[1][axis], p[2][axis]))))
        e, f = p[1] - p[0], p[2] - p[0]
        n = np.array([e[1] * f[2] - e[2] * f[1], e[2] * f[0] - e[0] * f[2], e[0] * f[1] - e[1] * f[0]])
        reach = np.abs(n).sum() / 2
        level = (n * p[0]).sum() - n.sum() / 2  # n . (centre of cell i) = n . i + n.sum() / 2
        for axis in range(3):
            x, y = (axis + 1) % 3, (axis + 2) % 3
            sign = 1.0 if n[axis] >= 0 else -1.0
            for i in range(3):
                q, r = p[i], p[(i + 1) % 3]
                a, b = -sign * (r[y] - q[y]), sign * (r[x] - q[x])
                edge[axis, i, 0], edge[axis, i, 1] = a, b
                edge[axis, i, 2] = -(a * q[x] + b * q[y]) + max(a, 0.0) + max(b, 0.0)
        for i in range(low[0], high[0] + 1):
            for j in range(low[1], high[1] + 1):
                if not _overlaps(edge[2], i, j):
                    continue
                for k in range(low[2], high[2] + 1):
                    height = n[0] * i + n[1] * j + n[2] * k - level
                    if abs(height) <= reach and _overlaps(edge[0], j, k) and _overlaps(edge[1], k, i):
                        if len(entries):
                            entries[counts[i, j, k]] = face
                        counts[i, j, k] += 1


@compiled
def flood(surface: Array, reached: Array) -> None:
    """Mark the cells that a path of free cells, side to side, joins to the border. Both arrays have a free border."""
    side = surface.shape[0]
    flat, done = surface.reshape(-1), reached.reshape(-1)
    steps = np.array([1, -1, side, -side, side * side, -side * side])
    stack = np.empty(flat.size, np.int32)
    stack[0], top = 0, 1
    done[0] = True
    while top:
        top -= 1
        at = stack[top]
        for step in steps:
            to = at + step
            if 0 <= to < flat.size and not done[to] and not flat[to]:  # a step round the border lands on the border
                done[to] = True
                stack[top] = to
                top += 1


@compiled
def crossings(vertices: Array, faces: Array, axis: int, counts: Array) -> None:
    """counts[x, y, k] += 1 for each face that the column of cells (x, y) along `axis` crosses below the centre of cell
    k and not of k - 1. The columns are set off their centres by an odd fraction: edges and corners are missed.
    """
    resolution = counts.shape[0]
    off_x, off_y = 0.5 + 1.2345e-4, 0.5 + 2.3417e-4
    u, v = (axis + 1) % 3, (axis + 2) % 3
    for face in range(len(faces)):
        a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        area = (b[u] - a[u]) * (c[v] - a[v]) - (b[v] - a[v]) * (c[u] - a[u])
        if area == 0.0:
            continue
        for x in range(max(0, int(min(a[u], b[u], c[u]) - 1)), min(resolution, int(max(a[u], b[u], c[u]) + 1))):
            for y in range(max(0, int(min(a[v], b[v], c[v]) - 1)), min(resolution, int(max(a[v], b[v], c[v]) + 1))):
                px, py = x + off_x, y + off_y
                wa = ((b[u] - px) * (c[v] - py) - (b[v] - py) * (c[u] - px)) / area
                wb = ((c[u] - px) * (a[v] - py) - (c[v] - py) * (a[u] - px)) / area
                wc = 1.0 - wa - wb
                if wa >= 0.0 and wb >= 0.0 and wc >= 0.0:
                    k = int(np.ceil(wa * a[axis] + wb * b[axis] + wc * c[axis] - 0.5))
                    counts[x, y, min(max(k, 0), resolution)] += 1


@compiled
def vote(crossings: Array, votes: Array) -> None:
    """votes += 1 where the column crosses the surface an odd number of times before the cell, and after it."""
    resolution = votes.shape[0]
    for x in range(resolution):
        for y in range(resolution):
            total = crossings[x, y].sum()
            if total == 0 or total % 2:
                continue  # before and after cannot both be odd
            before = 0
            for k in range(resolution):
                before += crossings[x, y, k]
                votes[x, y, k] += before % 2


@compiled
def _closest(p: Vector, a: Vector, b: Vector, c: Vector) -> Vector:
    """The point of triangle a b c nearest p (Ericson, Real-Time Collision Detection, 5.1.5)."""
    ab, ac, bc = _along(b, a, -1.0), _along(c, a, -1.0), _along(c, b, -1.0)
    ap, bp, cp = _along(p, a, -1.0), _along(p, b, -1.0), _along(p, c, -1.0)
    d1, d2, d3, d4, d5, d6 = _dot(ab, ap), _dot(ac, ap), _dot(ab, bp), _dot(ac, bp), _dot(ab, cp), _dot(ac, cp)
    if d1 <= 0 and d2 <= 0:
        return a
    if d3 >= 0 and d4 <= d3:
        return b
    if d6 >= 0 and d5 <= d6:
        return c
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    if vc <= 0 and d1 >= 0 and d3 <= 0:
        return _along(a, ab, d1 / (d1 - d3))
    if vb <= 0 and d2 >= 0 and d6 <= 0:
        return _along(a, ac, d2 / (d2 - d6))
    if va <= 0 and d4 >= d3 and d5 >= d6:
        return _along(b, bc, (d4 - d3) / ((d4 - d3) + (d5 - d6)))
    return _along(_along(a, ab, vb / (va + vb + vc)), ac, vc / (va + vb + vc))


@compiled
def nearest(
    points: Array, vertices: Array, faces: Array, normals: Array, starts: Array, entries: Array, limit: float
) -> tuple[Array, Array]:
    """Distance to the nearest face (`limit` if none is nearer) and the cosine between its normal and the way from it.

    All in cells. Rings of cells round the point's own are searched until none can hold a nearer face. Of faces equally
    near (they share the nearest edge or corner) the one that looks at the point most squarely tells the side.
    """
    side = starts.shape[0]
    asked = np.full(len(faces), -1, np.int64)
    distances, facing = np.empty(len(points)), np.empty(len(points))
    for i in range(len(points)):
        p = _row(points, i)
        home = (min(max(int(np.floor(p[0])), 0), side - 1), min(max(int(np.floor(p[1])), 0), side - 1),
                min(max(int(np.floor(p[2])), 0), side - 1))  # fmt: skip
        # Ring r is at least r - 1 cells further than the nearest side of the home cell (0 for points off the grid).
        inner = 1.0
        for axis in range(3):
            inner = min(inner, max(0.0, min(p[axis] - home[axis], home[axis] + 1 - p[axis])))
        best, cosine = limit * limit, 0.0
        for ring in range(side):
            if ring > 0 and (ring - 1 + inner) ** 2 > best:
                break
            for x in range(max(0, home[0] - ring), min(side, home[0] + ring + 1)):
                for y in range(max(0, home[1] - ring), min(side, home[1] + ring + 1)):
                    shell = abs(x - home[0]) == ring or abs(y - home[1]) == ring
                    for z in range(home[2] - ring, home[2] + ring + 1, 1 if shell else max(2 * ring, 1)):
                        if z < 0 or z >= side or starts[x, y, z, 0] == starts[x, y, z, 1]:
                            continue
                        dx, dy, dz = (
                            max(x - p[0], p[0] - x - 1, 0.0),
                            max(y - p[1], p[1] - y - 1, 0.0),
                            max(z - p[2], p[2] - z - 1, 0.0),
                        )
                        if dx * dx + dy * dy + dz * dz > best:
                            continue
                        for face in entries[starts[x, y, z, 0] : starts[x, y, z, 1]]:
                            if asked[face] == i:
                                continue
                            asked[face] = i
                            a, normal = _row(vertices, faces[face, 0]), _row(normals, face)
                            plane = _dot(normal, _along(p, a, -1.0))
                            if plane * plane > best * 1.000001:
                                continue
                            spot = _closest(p, a, _row(vertices, faces[face, 1]), _row(vertices, faces[face, 2]))
                            way = _along(p, spot, -1.0)
                            square = _dot(way, way)
                            if square > best * 1.000001 + 1e-12:
                                continue
                            slope = _dot(normal, way) / max(np.sqrt(square), 1e-12)
                            if square < best * 0.999999 - 1e-12 or abs(slope) > abs(cosine):
                                cosine = slope
                            best = min(best, square)
        distances[i], facing[i] = np.sqrt(best), cosine
    return distances, facing


@compiled
def _linear(c: float) -> float:
    return LINEAR[int(LEVELS * min(max(c, 0.0), 1.0) + 0.5)]


@compiled
def _srgb(c: float) -> float:
    c = min(max(c, 0.0), 1.0)
    return 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1.0 / 2.4) - 0.055


@compiled
def _lit(base: Vector, p: Vector, n: Vector, view: Vector, lamps: Lamps, gloss: tuple[float, float]) -> Vector:
    """Linear colour of a surface point, as the generator's objects have it: light from above and below, then lights
    with highlights, and shadows where they cast any.
    """
    lights, sky, specular = lamps.lights, lamps.sky, gloss[1]
    up = 0.5 + 0.5 * n[2]
    r = base[0] * (sky[0] * up + sky[3] * (1.0 - up))
    g = base[1] * (sky[1] * up + sky[4] * (1.0 - up))
    b = base[2] * (sky[2] * up + sky[5] * (1.0 - up))
    power = 2.0 / max(gloss[0], 0.05) ** 2
    for i in range(len(lights)):
        toward = _row(lights, i)
        facing = _dot(n, toward)
        if facing > 0.0:
            if lights[i, 6] > 0.0:
                facing *= 1.0 - lights[i, 6] * _shadow(lamps.shadows[i], lamps.views[i], _along(p, n, 0.01))
            shine = specular * max(0.0, _dot(n, _unit(_along(toward, view, 1.0)))) ** power * facing
            r += lights[i, 3] * (base[0] * facing + shine)
            g += lights[i, 4] * (base[1] * facing + shine)
            b += lights[i, 5] * (base[2] * facing + shine)
    return r, g, b


@compiled
def _shadow(depth: Array, view: Array, p: Vector) -> float:
    """1 where the light's depth map (see `Lamps`) holds something clearly before p."""
    size = len(depth)
    z = view[2, 0] * p[0] + view[2, 1] * p[1] + view[2, 2] * p[2] + LIGHT_DISTANCE
    x = int(LIGHT_FOCAL * size * (view[0, 0] * p[0] + view[0, 1] * p[1] + view[0, 2] * p[2]) / z + 0.5 * size)
    y = int(LIGHT_FOCAL * size * (view[1, 0] * p[0] + view[1, 1] * p[1] + view[1, 2] * p[2]) / z + 0.5 * size)
    if x < 0 or y < 0 or x >= size or y >= size:
        return 0.0
    return 1.0 if depth[y, x] < z - SHADOW_BIAS else 0.0


@compiled
def _light_at(
    seen: Seen, shape: Shape, y: int, x: int, eye: Vector, lamps: Lamps, gloss: tuple[float, float]
) -> Vector:
    """Linear colour of one sample."""
    face = seen.face_ids[y, x]
    p, n = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    for corner in range(3):
        share = seen.shares[y, x, corner]
        p = _along(p, _row(shape.vertices, shape.faces[face, corner]), share)
        n = _along(n, _row(shape.normals[face], corner), share)
    view, n = _unit(_along(eye, p, -1.0)), _unit(n)
    if _dot(n, view) < 0.0:
        n = (-n[0], -n[1], -n[2])
    c = seen.colours[y, x]
    return _lit((_linear(c[0]), _linear(c[1]), _linear(c[2])), p, n, view, lamps, gloss)


@compiled
def shade(
    seen: Seen, shape: Shape, eye: Vector, lamps: Lamps, gloss: tuple[float, float], size: int
) -> tuple[Array, Array, Array]:
    """Light every sample, then gather blocks of samples into pixels: mean of the linear colours of the covered ones.

    Returns: sRGB u8 [size, size, 3], whether at least half of the samples are covered, their least depth (else inf).
    """
    rgb, alpha = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.bool_)
    near = np.full((size, size), np.inf, np.float32)
    side = len(seen.face_ids) // size
    for row in range(size):
        for column in range(size):
            total, covered, least = (0.0, 0.0, 0.0), 0, np.float32(np.inf)
            for y in range(row * side, (row + 1) * side):
                for x in range(column * side, (column + 1) * side):
                    if seen.face_ids[y, x] >= 0:
                        total = _along(total, _light_at(seen, shape, y, x, eye, lamps, gloss), 1.0)
                        covered += 1
                        least = min(least, seen.depth[y, x])
            if 2 * covered >= side * side:
                alpha[row, column], near[row, column] = True, least
                for c in range(3):
                    rgb[row, column, c] = np.uint8(255.0 * _srgb(total[c] / covered) + 0.5)
    return rgb, alpha, near
