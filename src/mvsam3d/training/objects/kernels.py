"""Compiled code of the generator: signed distance, textures, rays, cells. All of it in this one file, since numba's
cache notices changes of a function's own file only.

An object is a flat tape of parts. Parts follow each other in groups; inside a group each part is combined with what the
group has so far, and each finished group with what the object has so far. Distances are conservative: they never exceed
the true distance to the surface, so a ray may advance by them, and a ball of that radius is all empty or all solid.
Kernels work in build units; `Tape.frame` takes the object frame there.
"""

# Elements of the untyped arrays that numba takes are Any to mypy:
# mypy: disable-error-code="no-any-return"

import inspect
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])
Array = np.ndarray
Vector = tuple[float, float, float]

BOX, ELLIPSOID, ROUND_CONE, FRUSTUM, TORUS, PRISM, LATHE, TUBE = range(8)
UNION, SUBTRACT, INTERSECT = range(3)
STRAIGHT, BEND, TWIST, TAPER = range(4)
SOLID, STRIPES, CHECKER, RINGS, PATCHES, CLOUDS, WOOD, MARBLE, SPECKLES, GRADIENT, DOTS, BRICKS, PLAID = range(13)
DECAL_BOX, DECAL_DISK, DECAL_STAR, DECAL_BARS = range(4)

KIND, OP, MATERIAL, GROUP = range(4)  # columns of Tape.parts
PARAMS, ORIGIN, ROTATION, BLEND, SPHERE = 0, 24, 27, 36, 37  # columns of Tape.numbers: 24, 3, 9, 1 and 4 wide
G_OP, G_WARP = range(2)  # columns of Tape.groups
G_SPHERE, G_BLEND, G_AMOUNT, G_SAFETY, G_ORIGIN, G_ROTATION = 0, 4, 5, 6, 7, 10  # columns of Tape.group_numbers
PART_COLUMNS, GROUP_COLUMNS, MATERIAL_COLUMNS, DECAL_COLUMNS = 41, 19, 24, 19
FAR = 1e9


class Tape(NamedTuple):
    """One object, as arrays for the kernels."""

    parts: Array  # i32 [part, 4]: kind, operation, material (-1: keep what is there), group
    numbers: Array  # f64 [part, 41]: parameters, origin, rotation into the part, blend radius, bounding sphere
    groups: Array  # i32 [group, 2]: operation, warp
    group_numbers: Array  # f64 [group, 19]: bounding sphere, blend radius, warp amount, safety, origin, rotation
    materials: Array  # f64 [material, 24]: kind, two colours, texture frame, amount, local, grain, roughness, specular
    decals: Array  # f64 [decal, 19]: material, shape, colour, origin, rotation, half width, half height
    frame: Array  # f64 [4]: centre, scale; build = object * scale + centre


def compiled(function: Function) -> Function:
    """Compile with numba, once per machine. Run-time type checks around the function (tests) are taken off first."""
    return cast(Function, numba.njit(cache=True, nogil=True, fastmath=True)(inspect.unwrap(function)))


@compiled
def _box(v: Array, j: int, x: float, y: float, z: float) -> float:
    a, b, c = abs(x) - v[j, 0] + v[j, 3], abs(y) - v[j, 1] + v[j, 3], abs(z) - v[j, 2] + v[j, 3]
    out = np.sqrt(max(a, 0.0) ** 2 + max(b, 0.0) ** 2 + max(c, 0.0) ** 2)
    return out + min(max(a, max(b, c)), 0.0) - v[j, 3]


@compiled
def _ellipsoid(v: Array, j: int, x: float, y: float, z: float) -> float:
    """Outside (k - 1) / |grad k| of the norm k = |p / r|, a lower bound since k is convex; inside (k - 1) * least r."""
    a, b, c = x / v[j, 0], y / v[j, 1], z / v[j, 2]
    k = np.sqrt(a * a + b * b + c * c)
    if k < 1.0:
        return (k - 1.0) * min(v[j, 0], min(v[j, 1], v[j, 2]))
    return k * (k - 1.0) / np.sqrt((a / v[j, 0]) ** 2 + (b / v[j, 1]) ** 2 + (c / v[j, 2]) ** 2)


@compiled
def _round_cone(v: Array, j: int, x: float, y: float, z: float) -> float:
    """Hull of balls of radius v[j, 1] at the origin and v[j, 2] at height v[j, 0]."""
    slope = (v[j, 1] - v[j, 2]) / v[j, 0]
    a = np.sqrt(1.0 - slope * slope)
    q = np.sqrt(x * x + y * y)
    k = a * z - slope * q
    if k < 0.0:
        return np.sqrt(q * q + z * z) - v[j, 1]
    if k > a * v[j, 0]:
        return np.sqrt(q * q + (z - v[j, 0]) ** 2) - v[j, 2]
    return q * a + z * slope - v[j, 1]


@compiled
def _frustum(v: Array, j: int, x: float, y: float, z: float) -> float:
    """Half height v[j, 0], radius v[j, 1] below and v[j, 2] above, grown by v[j, 3]."""
    h, r1, r2 = v[j, 0], v[j, 1], v[j, 2]
    q = np.sqrt(x * x + y * y)
    ax, ay = q - min(q, r1 if z < 0.0 else r2), abs(z) - h
    kx, ky = r2 - r1, 2.0 * h
    t = min(max(((r2 - q) * kx + (h - z) * ky) / (kx * kx + ky * ky), 0.0), 1.0)
    bx, by = q - r2 + kx * t, z - h + ky * t
    d = np.sqrt(min(ax * ax + ay * ay, bx * bx + by * by))
    return (-d if bx < 0.0 and ay < 0.0 else d) - v[j, 3]


@compiled
def _torus(v: Array, j: int, x: float, y: float, z: float) -> float:
    """Ring of radius v[j, 0] and tube v[j, 1] around z; an arc centred on +y with half angle (sin, cos) = v[j, 2:4]."""
    x = abs(x)
    k = x * v[j, 2] + y * v[j, 3] if v[j, 3] * x > v[j, 2] * y else np.sqrt(x * x + y * y)
    return np.sqrt(max(x * x + y * y + z * z + v[j, 0] * v[j, 0] - 2.0 * v[j, 0] * k, 0.0)) - v[j, 1]


@compiled
def _polygon(v: Array, j: int, x: float, y: float, closed: bool) -> float:
    """Signed distance to the polygon of v[j, 0] points v[j, 3:]; unless closed, its last edge only ends the inside."""
    n = int(v[j, 0])
    best, inside = FAR, False
    last = n - 1
    for i in range(n):
        ax, ay, bx, by = v[j, 3 + 2 * i], v[j, 4 + 2 * i], v[j, 3 + 2 * last], v[j, 4 + 2 * last]
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        if (ay > y) != (by > y) and wx < ex * wy / ey:
            inside = not inside
        if closed or i > 0:
            t = min(max((wx * ex + wy * ey) / (ex * ex + ey * ey + 1e-12), 0.0), 1.0)
            best = min(best, (wx - ex * t) ** 2 + (wy - ey * t) ** 2)
        last = i
    return -np.sqrt(best) if inside else np.sqrt(best)


@compiled
def _prism(v: Array, j: int, x: float, y: float, z: float) -> float:
    """Polygon in xy, half height v[j, 1], grown by v[j, 2]."""
    a, b = _polygon(v, j, x, y, True), abs(z) - v[j, 1]
    return min(max(a, b), 0.0) + np.sqrt(max(a, 0.0) ** 2 + max(b, 0.0) ** 2) - v[j, 2]


@compiled
def _lathe(v: Array, j: int, x: float, y: float, z: float) -> float:
    """Outline of (radius, height) points around z: a shell of thickness v[j, 1], or solid if 0; grown by v[j, 2]."""
    d = _polygon(v, j, np.sqrt(x * x + y * y), z, False)
    return (abs(d) - 0.5 * v[j, 1] if v[j, 1] > 0.0 else d) - v[j, 2]


@compiled
def _tube_at(v: Array, j: int, x: float, y: float, z: float, t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    s = 1.0 - t
    a, b, c = s * s, 2.0 * s * t, t * t
    dx = a * v[j, 0] + b * v[j, 3] + c * v[j, 6] - x
    dy = a * v[j, 1] + b * v[j, 4] + c * v[j, 7] - y
    dz = a * v[j, 2] + b * v[j, 5] + c * v[j, 8] - z
    return np.sqrt(dx * dx + dy * dy + dz * dz) - (s * v[j, 9] + t * v[j, 10])


@compiled
def _tube(v: Array, j: int, x: float, y: float, z: float) -> float:
    """Around the quadratic Bezier curve of three points v[j, :9], radius v[j, 9] to v[j, 10]: roots of a cubic."""
    ax, ay, az = v[j, 3] - v[j, 0], v[j, 4] - v[j, 1], v[j, 5] - v[j, 2]
    bx, by, bz = v[j, 0] - 2 * v[j, 3] + v[j, 6], v[j, 1] - 2 * v[j, 4] + v[j, 7], v[j, 2] - 2 * v[j, 5] + v[j, 8]
    dx, dy, dz = v[j, 0] - x, v[j, 1] - y, v[j, 2] - z
    k = 1.0 / (bx * bx + by * by + bz * bz)
    kx = k * (ax * bx + ay * by + az * bz)
    ky = k * (2.0 * (ax * ax + ay * ay + az * az) + dx * bx + dy * by + dz * bz) / 3.0
    kz = k * (dx * ax + dy * ay + dz * az)
    p = ky - kx * kx
    q = kx * (2.0 * kx * kx - 3.0 * ky) + kz
    h = q * q + 4.0 * p * p * p
    if h >= 0.0:
        h = np.sqrt(h)
        return _tube_at(v, j, x, y, z, np.cbrt(0.5 * (h - q)) + np.cbrt(0.5 * (-h - q)) - kx)
    w = np.sqrt(-p)
    angle = np.arccos(min(max(q / (p * w * 2.0), -1.0), 1.0)) / 3.0
    m, n = np.cos(angle), np.sin(angle) * 1.7320508075688772
    return min(_tube_at(v, j, x, y, z, 2.0 * m * w - kx), _tube_at(v, j, x, y, z, -(n + m) * w - kx))


@compiled
def _part(kind: int, v: Array, j: int, x: float, y: float, z: float) -> float:
    if kind == BOX:
        return _box(v, j, x, y, z)
    if kind == ELLIPSOID:
        return _ellipsoid(v, j, x, y, z)
    if kind == ROUND_CONE:
        return _round_cone(v, j, x, y, z)
    if kind == FRUSTUM:
        return _frustum(v, j, x, y, z)
    if kind == TORUS:
        return _torus(v, j, x, y, z)
    if kind == PRISM:
        return _prism(v, j, x, y, z)
    if kind == LATHE:
        return _lathe(v, j, x, y, z)
    return _tube(v, j, x, y, z)


@compiled
def rotate(m: Array, j: int, c: int, x: float, y: float, z: float) -> Vector:
    """Product of the matrix in m[j, c : c + 9], row by row, with a vector. (Slices would cost reference counts.)"""
    return (
        m[j, c] * x + m[j, c + 1] * y + m[j, c + 2] * z,
        m[j, c + 3] * x + m[j, c + 4] * y + m[j, c + 5] * z,
        m[j, c + 6] * x + m[j, c + 7] * y + m[j, c + 8] * z,
    )


@compiled
def unwarp(warp: int, amount: float, x: float, y: float, z: float) -> Vector:
    """From the bent, twisted or tapered shape back to the straight one.

    Bend: the x axis becomes an arc of curvature `amount` that rises towards +z. Twist: `amount` radians per unit of z.
    Taper: x and y grow by the factor 1 + amount * z, kept within 0.3 and 3.
    """
    if warp == BEND:
        radius = 1.0 / amount
        h = radius - z
        if amount < 0.0:
            return -radius * np.arctan2(x, -h), y, radius + np.sqrt(x * x + h * h)
        return radius * np.arctan2(x, h), y, radius - np.sqrt(x * x + h * h)
    if warp == TWIST:
        c, s = np.cos(amount * z), np.sin(amount * z)
        return c * x + s * y, c * y - s * x, z
    k = min(max(1.0 + amount * z, 0.3), 3.0)
    return x / k, y / k, z


@compiled
def blended_union(a: float, b: float, k: float) -> float:
    """Least of two distances, rounded off where they differ by less than k."""
    if k <= 0.0:
        return min(a, b)
    h = max(k - abs(a - b), 0.0)
    return min(a, b) - h * h / (4.0 * k)


@compiled
def distance(tape: Tape, ids: Array, count: int, x: float, y: float, z: float) -> tuple[float, int]:
    """Signed distance at a point, and the part that makes the surface there; of the parts ids[:count], in order."""
    parts, n, gn = tape.parts, tape.numbers, tape.group_numbers
    best, best_part = FAR, -1
    i = 0
    while i < count:
        g = parts[ids[i], GROUP]
        gop, warp = tape.groups[g, G_OP], tape.groups[g, G_WARP]
        away = (x - gn[g, 0]) ** 2 + (y - gn[g, 1]) ** 2 + (z - gn[g, 2]) ** 2
        reach = gn[g, 3] + 2.0 * gn[g, G_BLEND] + (best if gop == UNION else (-best if gop == SUBTRACT else FAR))
        if gop != INTERSECT and (reach <= 0.0 or away > reach * reach):
            while i < count and parts[ids[i], GROUP] == g:
                i += 1
            continue
        px, py, pz = x, y, z
        if warp != STRAIGHT:
            outside = np.sqrt(away) - gn[g, 3]
            if outside > 0.1 * gn[g, 3]:  # the warp distorts more and more outside: stand back until near
                while i < count and parts[ids[i], GROUP] == g:
                    last = ids[i]
                    i += 1
                if gop == UNION and outside < best:
                    best, best_part = outside, last
                continue
            px, py, pz = rotate(
                gn, g, G_ROTATION, x - gn[g, G_ORIGIN], y - gn[g, G_ORIGIN + 1], z - gn[g, G_ORIGIN + 2]
            )
            px, py, pz = unwarp(warp, gn[g, G_AMOUNT], px, py, pz)
        limit = best + gn[g, G_BLEND] if gop == UNION and warp == STRAIGHT else FAR
        d, part = FAR, -1
        while i < count and parts[ids[i], GROUP] == g:
            j = ids[i]
            i += 1
            op, k = parts[j, OP], n[j, BLEND]
            if op != INTERSECT:
                reach = n[j, SPHERE + 3] + 2.0 * k + (min(d, limit) if op == UNION else -d)
                if (
                    reach <= 0.0
                    or (px - n[j, SPHERE]) ** 2 + (py - n[j, SPHERE + 1]) ** 2 + (pz - n[j, SPHERE + 2]) ** 2
                    > reach * reach
                ):
                    continue
            qx, qy, qz = rotate(n, j, ROTATION, px - n[j, ORIGIN], py - n[j, ORIGIN + 1], pz - n[j, ORIGIN + 2])
            e = _part(parts[j, KIND], n, j, qx, qy, qz)
            if op == UNION:
                if e < d:
                    part = j
                d = blended_union(d, e, k)
            else:
                if op == SUBTRACT:
                    e = -e
                if e > d and parts[j, MATERIAL] >= 0:
                    part = j
                d = -blended_union(-d, -e, k)
        if warp != STRAIGHT:
            d *= gn[g, G_SAFETY]
        if gop == UNION:
            if d < best:
                best_part = part
            best = blended_union(best, d, gn[g, G_BLEND])
        else:
            if gop == SUBTRACT:
                d = -d
            if d > best and part >= 0 and parts[part, MATERIAL] >= 0:
                best_part = part
            best = -blended_union(-best, -d, gn[g, G_BLEND])
    return best, best_part


@compiled
def gather(tape: Tape, ids: Array, x: float, y: float, z: float, radius: float) -> int:
    """Parts that can matter within `radius` of a point; returns how many."""
    parts, n, gn = tape.parts, tape.numbers, tape.group_numbers
    count = 0
    for j in range(len(parts)):
        g = parts[j, GROUP]
        near = True
        if tape.groups[g, G_OP] != INTERSECT:
            reach = gn[g, 3] + 2.0 * gn[g, G_BLEND] + radius
            near = (x - gn[g, 0]) ** 2 + (y - gn[g, 1]) ** 2 + (z - gn[g, 2]) ** 2 < reach * reach
        if near and tape.groups[g, G_WARP] == STRAIGHT and parts[j, OP] != INTERSECT:
            reach = n[j, SPHERE + 3] + 2.0 * (n[j, BLEND] + gn[g, G_BLEND]) + radius
            near = (x - n[j, SPHERE]) ** 2 + (y - n[j, SPHERE + 1]) ** 2 + (z - n[j, SPHERE + 2]) ** 2 < reach * reach
        if near:
            ids[count] = j
            count += 1
    return count


@compiled
def _in_cone(o: Vector, w: Vector, sine: float, cosine: float, m: Array, j: int, c: int, radius: float) -> bool:
    """Whether the ball with centre m[j, c : c + 3] meets the cone from o around the unit vector w."""
    x, y, z = m[j, c] - o[0], m[j, c + 1] - o[1], m[j, c + 2] - o[2]
    along = x * w[0] + y * w[1] + z * w[2]
    aside = np.sqrt(max(x * x + y * y + z * z - along * along, 0.0))
    return bool(aside * cosine - along * sine < radius and along > -radius)


@compiled
def gather_cone(tape: Tape, ids: Array, o: Vector, w: Vector, sine: float, cosine: float) -> int:
    """Parts that can matter inside a cone; returns how many."""
    parts, n, gn = tape.parts, tape.numbers, tape.group_numbers
    count = 0
    for j in range(len(parts)):
        g = parts[j, GROUP]
        near = True
        if tape.groups[g, G_OP] != INTERSECT:
            near = _in_cone(o, w, sine, cosine, gn, g, G_SPHERE, gn[g, 3] + 2.0 * gn[g, G_BLEND])
        if near and tape.groups[g, G_WARP] == STRAIGHT and parts[j, OP] != INTERSECT:
            near = _in_cone(o, w, sine, cosine, n, j, SPHERE, n[j, SPHERE + 3] + 2.0 * (n[j, BLEND] + gn[g, G_BLEND]))
        if near:
            ids[count] = j
            count += 1
    return count


@compiled
def normal(tape: Tape, ids: Array, count: int, x: float, y: float, z: float, h: float) -> Vector:
    """Unit gradient of the distance, from four corners of a tetrahedron of half side h."""
    a, _ = distance(tape, ids, count, x + h, y - h, z - h)
    b, _ = distance(tape, ids, count, x - h, y - h, z + h)
    c, _ = distance(tape, ids, count, x - h, y + h, z - h)
    d, _ = distance(tape, ids, count, x + h, y + h, z + h)
    nx, ny, nz = a - b - c + d, -a - b + c + d, -a + b - c + d
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-20
    return nx / length, ny / length, nz / length


@compiled
def _hash(i: int, j: int, k: int) -> float:
    h = (i * 374761393 + j * 668265263 + k * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return float((h ^ (h >> 16)) & 0xFFFFFF) / 16777216.0


@compiled
def noise(x: float, y: float, z: float) -> float:
    """Smooth value noise in [0, 1) with cells of size 1."""
    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    u, v, w = x - i, y - j, z - k
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    total = 0.0
    for c in range(8):
        a, b, d = c & 1, (c >> 1) & 1, c >> 2
        weight = (u if a else 1 - u) * (v if b else 1 - v) * (w if d else 1 - w)
        total += weight * _hash(i + a, j + b, k + d)
    return total


@compiled
def _mix(kind: int, x: float, y: float, z: float, amount: float) -> float:
    """Share of the second colour at a point of the texture frame, where one unit is one period."""
    if kind == STRIPES:
        return 1.0 if x - np.floor(x) < amount else 0.0
    if kind == CHECKER:
        return float((int(np.floor(x)) + int(np.floor(y)) + int(np.floor(z))) & 1)
    if kind == RINGS:
        r = np.sqrt(x * x + y * y)
        return 1.0 if r - np.floor(r) < amount else 0.0
    if kind == PATCHES:
        n = 0.7 * noise(x, y, z) + 0.3 * noise(2.3 * x, 2.3 * y, 2.3 * z)
        return min(max((n - amount) * 12.0, 0.0), 1.0)
    if kind == CLOUDS:
        return 0.6 * noise(x, y, z) + 0.4 * noise(2.7 * x, 2.7 * y, 2.7 * z)
    if kind == WOOD:
        r = np.sqrt(x * x + y * y) + 1.5 * noise(0.6 * x, 0.6 * y, 0.12 * z)
        return (r - np.floor(r)) * (0.6 + 0.4 * noise(9 * x, 9 * y, 0.5 * z))
    if kind == MARBLE:
        t = np.sin(3.0 * x + 6.0 * noise(x, y, z) + 3.0 * noise(2.6 * x, 2.6 * y, 2.6 * z))
        return float((0.5 + 0.5 * t) ** 3)
    if kind == SPECKLES:
        return 1.0 if noise(3 * x, 3 * y, 3 * z) > 1.0 - 0.5 * amount else 0.0
    if kind == GRADIENT:
        return min(max(x + 0.5, 0.0), 1.0)
    if kind == DOTS:
        a, b, c = x - np.floor(x) - 0.5, y - np.floor(y) - 0.5, z - np.floor(z) - 0.5
        return 1.0 if a * a + b * b + c * c < 0.25 * amount + 0.06 else 0.0
    if kind == BRICKS:
        row = np.floor(z)
        a, b = x + 0.5 * (row - 2.0 * np.floor(row * 0.5)), y + 0.5 * (row - 2.0 * np.floor(row * 0.5))
        joint = z - row < 0.14 or a - np.floor(a) < 0.07 or b - np.floor(b) < 0.07
        return 1.0 if joint else 0.35 * noise(np.floor(a) * 7.1, np.floor(b) * 7.3, row * 7.7) * amount
    if kind == PLAID:
        return 0.5 * (1.0 if x - np.floor(x) < amount else 0.0) + 0.5 * (1.0 if z - np.floor(z) < amount else 0.0)
    return 0.0


@compiled
def _inside_decal(shape: int, u: float, v: float) -> bool:
    """Whether a point of the unit square [-1, 1]^2 is painted."""
    if abs(u) > 1.0 or abs(v) > 1.0:
        return False
    r = np.sqrt(u * u + v * v)
    if shape == DECAL_DISK:
        return bool(r < 1.0)
    if shape == DECAL_STAR:
        wave = np.cos(5.0 * np.arctan2(u, v))
        return bool(r < 0.62 + 0.36 * wave)
    if shape == DECAL_BARS:
        return v * 3.5 - np.floor(v * 3.5) < 0.5
    return True


@compiled
def colour(tape: Tape, part: int, x: float, y: float, z: float) -> tuple[float, float, float, int]:
    """sRGB colour in [0, 1] of a part at a point, and its material."""
    if part < 0:
        return 0.5, 0.5, 0.5, -1
    n, m, e = tape.numbers, tape.materials, tape.decals
    material = tape.parts[part, MATERIAL]
    px, py, pz = x - tape.frame[0], y - tape.frame[1], z - tape.frame[2]
    if m[material, 20] > 0.5:
        px, py, pz = rotate(n, part, ROTATION, x - n[part, ORIGIN], y - n[part, ORIGIN + 1], z - n[part, ORIGIN + 2])
    px, py, pz = px / tape.frame[3], py / tape.frame[3], pz / tape.frame[3]
    qx, qy, qz = rotate(m, material, 7, px, py, pz)
    qx, qy, qz = qx + m[material, 16], qy + m[material, 17], qz + m[material, 18]
    t = _mix(int(m[material, 0]), qx, qy, qz, m[material, 19])
    shade = 1.0 + m[material, 21] * (
        noise(37.0 * px + 3.0, 37.0 * py, 37.0 * pz) + noise(80.0 * px, 80.0 * py, 80.0 * pz) - 1.0
    )
    r, g, b = (
        (m[material, 1] + t * (m[material, 4] - m[material, 1])) * shade,
        (m[material, 2] + t * (m[material, 5] - m[material, 2])) * shade,
        (m[material, 3] + t * (m[material, 6] - m[material, 3])) * shade,
    )
    for i in range(len(e)):
        if int(e[i, 0]) != material:
            continue
        u, v, w = rotate(e, i, 8, x - e[i, 5], y - e[i, 6], z - e[i, 7])
        if w > 0.0 and _inside_decal(int(e[i, 1]), u / e[i, 17], v / e[i, 18]):
            r, g, b = e[i, 2], e[i, 3], e[i, 4]
    return min(max(r, 0.0), 1.0), min(max(g, 0.0), 1.0), min(max(b, 0.0), 1.0), material


@compiled
def all_parts(tape: Tape) -> Array:
    """Every part, in order."""
    return np.arange(len(tape.parts))


@compiled
def distances(tape: Tape, points: Array) -> Array:
    """Signed distance at points of the object frame, in units of that frame."""
    ids, s = all_parts(tape), tape.frame[3]
    out = np.empty(len(points), np.float32)
    for i in range(len(points)):
        x, y, z = points[i, 0] * s + tape.frame[0], points[i, 1] * s + tape.frame[1], points[i, 2] * s + tape.frame[2]
        out[i] = distance(tape, ids, len(ids), x, y, z)[0] / s
    return out


@compiled
def colours(tape: Tape, points: Array) -> Array:
    """sRGB colour in [0, 1] at points of the object frame."""
    ids, s = all_parts(tape), tape.frame[3]
    out = np.empty((len(points), 3), np.float32)
    for i in range(len(points)):
        x, y, z = points[i, 0] * s + tape.frame[0], points[i, 1] * s + tape.frame[1], points[i, 2] * s + tape.frame[2]
        part = distance(tape, ids, len(ids), x, y, z)[1]
        r, g, b, _ = colour(tape, part, x, y, z)
        out[i, 0], out[i, 1], out[i, 2] = r, g, b
    return out


@compiled
def project(tape: Tape, points: Array, steps: int, h: float) -> tuple[Array, Array, Array]:
    """Move points of the object frame onto the surface; returns them, unit normals and what distance is left.

    Gradients are differences over a step of h object units.
    """
    ids, s = all_parts(tape), tape.frame[3]
    out, normals, left = np.empty((len(points), 3)), np.empty((len(points), 3)), np.empty(len(points))
    for i in range(len(points)):
        x, y, z = points[i, 0] * s + tape.frame[0], points[i, 1] * s + tape.frame[1], points[i, 2] * s + tape.frame[2]
        for _ in range(steps):
            d, _ = distance(tape, ids, len(ids), x, y, z)
            nx, ny, nz = normal(tape, ids, len(ids), x, y, z, h * s)
            x, y, z = x - d * nx, y - d * ny, z - d * nz
        nx, ny, nz = normal(tape, ids, len(ids), x, y, z, h * s)
        left[i] = abs(distance(tape, ids, len(ids), x, y, z)[0]) / s
        out[i, 0], out[i, 1], out[i, 2] = (x - tape.frame[0]) / s, (y - tape.frame[1]) / s, (z - tape.frame[2]) / s
        normals[i, 0], normals[i, 1], normals[i, 2] = nx, ny, nz
    return out, normals, left


@compiled
def solid(tape: Tape, resolution: int, threshold: float) -> Array:
    """Cells whose centre is less than `threshold` (object units) from the object; blocks of 4^3 are decided at once."""
    grid = np.zeros((resolution, resolution, resolution), np.bool_)
    ids, s = np.empty(len(tape.parts), np.int64), tape.frame[3]
    block = 4
    cell = s / resolution
    limit = threshold * s
    half = 0.5 * (block - 1) * cell * 1.7320508075688772
    for bx in range(0, resolution, block):
        for by in range(0, resolution, block):
            for bz in range(0, resolution, block):
                x = (bx + 0.5 * block) * cell - 0.5 * s + tape.frame[0]
                y = (by + 0.5 * block) * cell - 0.5 * s + tape.frame[1]
                z = (bz + 0.5 * block) * cell - 0.5 * s + tape.frame[2]
                count = gather(tape, ids, x, y, z, half + limit)
                if count == 0:
                    continue
                d = distance(tape, ids, count, x, y, z)[0]
                if d > half + limit:
                    continue
                for i in range(bx, min(bx + block, resolution)):
                    for j in range(by, min(by + block, resolution)):
                        for k in range(bz, min(bz + block, resolution)):
                            if d < -half:
                                grid[i, j, k] = True
                                continue
                            px = (i + 0.5) * cell - 0.5 * s + tape.frame[0]
                            py = (j + 0.5) * cell - 0.5 * s + tape.frame[1]
                            pz = (k + 0.5) * cell - 0.5 * s + tape.frame[2]
                            grid[i, j, k] = distance(tape, ids, count, px, py, pz)[0] < limit
    return grid


@compiled
def surface_cells(tape: Tape, cells: Array, half: float, levels: int) -> Array:
    """Centres (build units) of cells that may hold surface, after cutting cells of half side `half` `levels` times."""
    ids = all_parts(tape)
    for _ in range(levels):
        half *= 0.5
        kept, count = np.empty((8 * len(cells), 3)), 0
        for c in range(len(cells)):
            for corner in range(8):
                x = cells[c, 0] + (half if corner & 1 else -half)
                y = cells[c, 1] + (half if corner & 2 else -half)
                z = cells[c, 2] + (half if corner & 4 else -half)
                if abs(distance(tape, ids, len(ids), x, y, z)[0]) <= half * 1.7320508075688772:
                    kept[count, 0], kept[count, 1], kept[count, 2] = x, y, z
                    count += 1
        cells = kept[:count]
    return cells


@compiled
def climb(tape: Tape, points: Array, axis: int, sign: float, step: float) -> float:
    """How far the surface reaches in one direction (build units): walks uphill along it from points on it.

    Steps start at `step` and are halved, so each walk ends within 2 * step of its start.
    """
    ids = all_parts(tape)
    best, h = -FAR, 0.02 * step
    for i in range(len(points)):
        at, here = points[i].copy(), step
        for _ in range(8):
            n = normal(tape, ids, len(ids), at[0], at[1], at[2], h)
            uphill = np.array([-n[axis] * n[0], -n[axis] * n[1], -n[axis] * n[2]])
            uphill[axis] += 1.0
            new = at + sign * here / (np.sqrt(np.sum(uphill * uphill)) + 1e-6) * uphill
            for _ in range(2):
                d = distance(tape, ids, len(ids), new[0], new[1], new[2])[0]
                nx, ny, nz = normal(tape, ids, len(ids), new[0], new[1], new[2], h)
                new[0], new[1], new[2] = new[0] - d * nx, new[1] - d * ny, new[2] - d * nz
            if sign * new[axis] > sign * at[axis]:
                at = new
            here *= 0.5
        best = max(best, sign * at[axis])
    return best


@compiled
def _enter(o: Vector, d: Vector, lower: Array, upper: Array) -> tuple[float, float]:
    """Where a ray enters and leaves a box; enter > leave if it misses."""
    near, far = 0.0, FAR
    for a in range(3):
        step = d[a] if abs(d[a]) > 1e-12 else 1e-12
        t0, t1 = (lower[a] - o[a]) / step, (upper[a] - o[a]) / step
        near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
    return near, far


@compiled
def march(
    tape: Tape, ids: Array, count: int, o: Vector, d: Vector, near: float, far: float, cone: float, least: float
) -> float:
    """Way along the ray to the first surface between near and far, or -1. A hit is closer than max(cone * t, least)."""
    t = near
    for _ in range(128):
        if t > far:
            return -1.0
        gap = distance(tape, ids, count, o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])[0]
        close = max(cone * t, least)
        if gap < close:
            return t + gap
        t += gap
    return t if gap < 4.0 * close else -1.0


@compiled
def _linear(c: float) -> float:
    return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4


@compiled
def _srgb(c: float) -> float:
    c = min(max(c, 0.0), 1.0)
    return 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1.0 / 2.4) - 0.055


@compiled
def _lit(
    tape: Tape,
    ids: Array,
    p: Vector,
    n: Vector,
    view: Vector,
    base: Vector,
    material: int,
    lights: Array,
    sky: Array,
    far: float,
) -> Vector:
    """Linear colour of a surface point: hemisphere light with occlusion, lights, some with shadows, highlights."""
    s = tape.frame[3]
    open_ = 1.0
    for i in range(1, 3):
        h = 0.05 * s * i
        d = distance(tape, ids, len(ids), p[0] + h * n[0], p[1] + h * n[1], p[2] + h * n[2])[0]
        open_ -= 0.35 / i * max(0.0, 1.0 - d / h)
    up = 0.5 + 0.5 * n[2]
    r = base[0] * open_ * (sky[0] * up + sky[3] * (1.0 - up))
    g = base[1] * open_ * (sky[1] * up + sky[4] * (1.0 - up))
    b = base[2] * open_ * (sky[2] * up + sky[5] * (1.0 - up))
    power = 2.0 / max(tape.materials[material, 22], 0.05) ** 2
    for i in range(len(lights)):
        w = (lights[i, 0], lights[i, 1], lights[i, 2])
        facing = n[0] * w[0] + n[1] * w[1] + n[2] * w[2]
        if facing <= 0.0:
            continue
        if lights[i, 6] > 0.0:
            start = (p[0] + 0.01 * s * n[0], p[1] + 0.01 * s * n[1], p[2] + 0.01 * s * n[2])
            if march(tape, ids, len(ids), start, w, 0.0, far, 0.0, 0.002 * s) >= 0.0:
                facing *= 1.0 - lights[i, 6]
        hx, hy, hz = w[0] + view[0], w[1] + view[1], w[2] + view[2]
        length = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-12
        shine = tape.materials[material, 23] * max(0.0, (n[0] * hx + n[1] * hy + n[2] * hz) / length) ** power * facing
        r += lights[i, 3] * (base[0] * facing + shine)
        g += lights[i, 4] * (base[1] * facing + shine)
        b += lights[i, 5] * (base[2] * facing + shine)
    return r, g, b


@compiled
def trace(
    tape: Tape, box: Array, inverse: Array, origin: Array, rotation: Array, size: int, lights: Array, sky: Array
) -> tuple[Array, Array, Array]:
    """Photograph the object.

    Args:
        tape: the object.
        box: its bounding box in build units [2, 3].
        inverse: inverse of the intrinsics [3, 3].
        origin: camera centre in build units [3].
        rotation: object from camera [3, 3].
        size: width and height in pixels.
        lights: [light, 7]: direction to the light, linear colour, strength of its shadow.
        sky: linear colour from above and from below [6].
    Returns: sRGB [size, size, 3] u8, hit [size, size], depth along the optical axis in object units, inf where missed.
    """
    tile = 8
    s = tape.frame[3]
    everything, ids = all_parts(tape), np.empty(len(tape.parts), np.int64)
    rgb, hit = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.bool_)
    depth = np.full((size, size), np.inf, np.float32)
    o = (origin[0], origin[1], origin[2])
    across = inverse[0, 0]  # a pixel's width at unit depth
    beams, stretch = np.empty((size, size, 3)), np.empty((size, size))
    for v in range(size):
        for u in range(size):
            x = inverse[0, 0] * (u + 0.5) + inverse[0, 1] * (v + 0.5) + inverse[0, 2]
            y = inverse[1, 1] * (v + 0.5) + inverse[1, 2]
            length = np.sqrt(x * x + y * y + 1.0)
            stretch[v, u] = length
            for a in range(3):
                beams[v, u, a] = (rotation[a, 0] * x + rotation[a, 1] * y + rotation[a, 2]) / length
    for v0 in range(0, size, tile):
        for u0 in range(0, size, tile):
            v1, u1 = min(v0 + tile, size) - 1, min(u0 + tile, size) - 1
            middle = beams[v0, u0] + beams[v0, u1] + beams[v1, u0] + beams[v1, u1]
            middle /= np.sqrt(np.sum(middle * middle))
            w = (middle[0], middle[1], middle[2])
            cosine = 1.0
            for v in (v0, v1):
                for u in (u0, u1):
                    cosine = min(cosine, w[0] * beams[v, u, 0] + w[1] * beams[v, u, 1] + w[2] * beams[v, u, 2])
            sine = np.sqrt(max(1.0 - cosine * cosine, 0.0)) + across
            count = gather_cone(tape, ids, o, w, sine, cosine)
            if count == 0:
                continue
            for v in range(v0, v1 + 1):
                for u in range(u0, u1 + 1):
                    d = (beams[v, u, 0], beams[v, u, 1], beams[v, u, 2])
                    near, far = _enter(o, d, box[0], box[1])
                    if near >= far:
                        continue
                    t = march(tape, ids, count, o, d, near, far, 0.3 * across, 1e-4 * s)
                    if t < 0.0:
                        continue
                    p = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
                    n = normal(tape, ids, count, p[0], p[1], p[2], max(0.3 * across * t, 1e-3 * s))
                    part = distance(tape, ids, count, p[0], p[1], p[2])[1]
                    r, g, b, material = colour(tape, part, p[0], p[1], p[2])
                    base = (_linear(r), _linear(g), _linear(b))
                    view = (-d[0], -d[1], -d[2])
                    lit = _lit(tape, everything, p, n, view, base, material, lights, sky, 2.0 * s)
                    for a in range(3):
                        rgb[v, u, a] = np.uint8(255.0 * _srgb(lit[a]) + 0.5)
                    hit[v, u] = True
                    depth[v, u] = t / (s * stretch[v, u])
    return rgb, hit, depth
