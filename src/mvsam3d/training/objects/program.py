"""Objects as programs of parts, groups, warps and materials, put together by a `Builder`; what they can be asked."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from mvsam3d.training.objects import kernels
from mvsam3d.training.objects.kernels import Tape
from mvsam3d.training.objects.textures import Decal, Material

Number = float | int
Point = Sequence[Number] | Float[np.ndarray, " n"]
SKIN = 0.35  # cells: one is solid if its centre is inside or so near the surface
Matrix = Float64[np.ndarray, "3 3"]
Op = Literal["union", "subtract", "intersect"]
WarpKind = Literal["bend", "twist", "taper"]

OPS: dict[Op, int] = {"union": kernels.UNION, "subtract": kernels.SUBTRACT, "intersect": kernels.INTERSECT}
WARPS: dict[WarpKind, int] = {"bend": kernels.BEND, "twist": kernels.TWIST, "taper": kernels.TAPER}
LONGEST_SIDE = 0.985  # of the bounding box, so that the object stays off the border of the cube
MOST_POINTS = 10  # of a polygon or an outline
HULL_POINTS = 3000


class EmptyObject(ValueError):
    """The booleans left nothing; the generator draws again."""


@dataclass(frozen=True)
class GeneratedObject:
    """A textured solid in the object frame: inside [-0.5, 0.5]^3, +Z up, front at -Y, bounding box centred."""

    name: str  # its class
    seed: int
    tape: Tape
    box: Float64[np.ndarray, "2 3"]  # bounding box
    hull: Float32[np.ndarray, "point 3"]  # points on the surface, close enough together to frame the object


def rotation(axis: Literal["x", "y", "z"], degrees: Number) -> Matrix:
    """Right-handed rotation about an axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    match axis:
        case "x":
            rows = [[1, 0, 0], [0, c, -s], [0, s, c]]
        case "y":
            rows = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        case "z":
            rows = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    return np.array(rows, dtype=np.float64)


IDENTITY = rotation("z", 0.0)
ALONG_X = rotation("y", 90.0)  # takes a part's z axis to +x
ALONG_Y = rotation("x", -90.0)  # takes a part's z axis to +y


def towards(direction: Point) -> Matrix:
    """A rotation that takes +z to a direction."""
    z = np.asarray(direction, dtype=np.float64)
    z = z / np.linalg.norm(z)
    helper = np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


@dataclass
class _Group:
    op: Op
    blend: Number
    warp: WarpKind | None
    amount: Number
    origin: Float64[np.ndarray, " 3"]
    rotation: Matrix
    spheres: list[tuple[Float64[np.ndarray, " 3"], Number]]


class Builder:
    """Collects parts. Lengths are free: `finish` scales the object into its cube.

    Every part takes `mat` (a material's number), `op`, `blend` (radius by which the joint is rounded off) and, where no
    ends say it, `rot` (part frame to its surroundings).
    """

    def __init__(self) -> None:
        self._parts: list[tuple[int, int, int, int]] = []
        self._numbers: list[Float64[np.ndarray, " n"]] = []
        self._groups: list[_Group] = []
        self._materials: list[Material] = []
        self._decals: list[Decal] = []
        self._pose: tuple[Matrix, Float64[np.ndarray, " 3"]] = (IDENTITY, np.zeros(3))
        self._open: _Group | None = None

    def material(self, material: Material) -> int:
        """Add a material; returns its number."""
        self._materials.append(material)
        return len(self._materials) - 1

    def decal(self, decal: Decal) -> None:
        """Paint a flat mark on all parts of a material, on the side of the decal's plane that its normal points to."""
        turn, shift = self._pose
        origin = turn @ np.asarray(decal.origin, dtype=np.float64) + shift
        self._decals.append(
            Decal(
                decal.material, decal.shape, decal.rgb, tuple(origin), turn @ decal.rotation, decal.width, decal.height
            )
        )

    @contextmanager
    def placed(self, origin: Point = (0, 0, 0), rot: Matrix = IDENTITY) -> Iterator[None]:
        """Parts inside are given in a frame with this origin and orientation."""
        before = self._pose
        self._pose = (before[0] @ rot, before[0] @ np.asarray(origin, dtype=np.float64) + before[1])
        yield
        self._pose = before

    @contextmanager
    def group(
        self, op: Op = "union", *, blend: Number = 0.0, warp: WarpKind | None = None, amount: Number = 0.0
    ) -> Iterator[None]:
        """Parts inside are combined with each other first. A warp acts in the current frame (see `kernels.unwarp`)."""
        assert self._open is None, "groups do not nest"
        warp = warp if abs(amount) > 1e-6 else None
        before = self._pose
        self._open = _Group(op, blend, warp, amount, before[1], before[0], [])
        if warp:
            self._pose = (IDENTITY, np.zeros(3))
        yield
        self._groups.append(self._open)
        self._open, self._pose = None, before

    def _add(
        self,
        kind: int,
        params: Sequence[Number],
        centre: Point,
        rot: Matrix,
        sphere: tuple[Point, Number],
        mat: int,
        op: Op,
        blend: Number,
    ) -> None:
        alone = self._open is None
        group = self._open or _Group(op, blend, None, 0.0, np.zeros(3), IDENTITY, [])
        turn, shift = self._pose
        origin = turn @ np.asarray(centre, dtype=np.float64) + shift
        frame = turn @ rot
        middle = frame @ np.asarray(sphere[0], dtype=np.float64) + origin
        assert mat >= 0 or op == "subtract", "only a cut may keep the material that is there"
        if op != "subtract" or alone:
            group.spheres.append((middle, sphere[1]))
        row = np.zeros(kernels.PART_COLUMNS)
        rest = [*origin, *frame.T.ravel(), 0.0 if alone else blend, *middle, sphere[1] * (1 + 1e-6)]
        row[: len(params)], row[kernels.ORIGIN :] = params, rest
        self._parts.append((kind, OPS["union" if alone else op], mat, len(self._groups)))
        self._numbers.append(row)
        if alone:
            self._groups.append(group)

    def box(
        self,
        centre: Point,
        size: Point,
        mat: int = -1,
        *,
        round: Number = 0.0,
        rot: Matrix = IDENTITY,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """A box with edges rounded inside its full size."""
        half = [max(0.5 * side, 1e-4) for side in size]
        params = [*half, min(round, 0.999 * min(half))]
        self._add(kernels.BOX, params, centre, rot, ((0, 0, 0), math.hypot(*half)), mat, op, blend)

    def ellipsoid(
        self,
        centre: Point,
        radii: Point,
        mat: int = -1,
        *,
        rot: Matrix = IDENTITY,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """An ellipsoid."""
        self._add(kernels.ELLIPSOID, list(radii), centre, rot, ((0, 0, 0), max(radii)), mat, op, blend)

    def ball(self, centre: Point, radius: Number, mat: int = -1, *, op: Op = "union", blend: Number = 0.0) -> None:
        """A sphere."""
        self.ellipsoid(centre, (radius, radius, radius), mat, op=op, blend=blend)

    def capsule(
        self,
        a: Point,
        b: Point,
        radius: Number,
        mat: int = -1,
        *,
        end: Number | None = None,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """The hull of two balls around a and b, of radius `radius` and `end`."""
        end = radius if end is None else end
        axis = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
        height = max(float(np.linalg.norm(axis)), 1.01 * abs(radius - end) + 1e-4)
        rot = towards(axis if np.linalg.norm(axis) > 1e-9 else (0, 0, 1))
        low, high = -radius, max(height + end, radius)
        sphere = ((0, 0, 0.5 * (min(low, height - end) + high)), 0.5 * (high - min(low, height - end)))
        reach = max(sphere[1], math.hypot(sphere[1], max(radius, end)) if radius != end else 0.0)
        self._add(kernels.ROUND_CONE, [height, radius, end], a, rot, (sphere[0], reach), mat, op, blend)

    def rod(
        self,
        a: Point,
        b: Point,
        radius: Number,
        mat: int = -1,
        *,
        end: Number | None = None,
        round: Number = 0.0,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """A cylinder or frustum from a to b with flat ends, radius `radius` at a and `end` at b."""
        start, stop = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        half = 0.5 * float(np.linalg.norm(stop - start))
        end = radius if end is None else end
        assert half > 0, "a rod needs two different ends"
        round = min(round, 0.99 * half, max(radius, end))
        params = [half - round, max(radius - round, 0.0), max(end - round, 0.0), round]
        sphere = ((0, 0, 0), math.hypot(half, max(radius, end)) + round)
        self._add(kernels.FRUSTUM, params, 0.5 * (start + stop), towards(stop - start), sphere, mat, op, blend)

    def torus(
        self,
        centre: Point,
        radius: Number,
        tube: Number,
        mat: int = -1,
        *,
        arc: Number = 360.0,
        rot: Matrix = IDENTITY,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """A ring around the part's z axis, or an arc of it (degrees) centred on the part's +y."""
        half = math.radians(0.5 * arc)
        params = [radius, tube, math.sin(half), math.cos(half)]
        self._add(kernels.TORUS, params, centre, rot, ((0, 0, 0), radius + tube), mat, op, blend)

    def prism(
        self,
        centre: Point,
        outline: Sequence[Point],
        height: Number,
        mat: int = -1,
        *,
        round: Number = 0.0,
        rot: Matrix = IDENTITY,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """A polygon in the part's xy plane, `height` thick about it; rounding grows the outline by `round`."""
        assert 3 <= len(outline) <= MOST_POINTS, f"{len(outline)} points"
        points = np.asarray(outline, dtype=np.float64)
        half = max(0.5 * height, 1e-4)
        round = min(round, 0.99 * half)
        middle = 0.5 * (points.min(0) + points.max(0))
        reach = math.hypot(float(np.linalg.norm(points - middle, axis=1).max()), half - round) + round
        params = [len(points), half - round, round, *points.ravel()]
        self._add(kernels.PRISM, params, centre, rot, ((*middle, 0.0), reach), mat, op, blend)

    def lathe(
        self,
        centre: Point,
        profile: Sequence[Point],
        mat: int = -1,
        *,
        wall: Number = 0.0,
        round: Number = 0.0,
        rot: Matrix = IDENTITY,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """(radius, height) points turned around the part's z axis: solid, or a shell of thickness `wall`."""
        points = [(float(r), float(z)) for r, z in profile]
        if wall == 0.0:  # close the solid towards the axis
            points = [(0.0, points[0][1]), *points] if points[0][0] > 0 else points
            points = [*points, (0.0, points[-1][1])] if points[-1][0] > 0 else points
        assert 3 <= len(points) <= MOST_POINTS or wall > 0, f"{len(points)} points"
        outline = np.asarray(points)
        middle = 0.5 * (outline[:, 1].min() + outline[:, 1].max())
        reach = float(np.hypot(outline[:, 0], outline[:, 1] - middle).max()) + round + 0.5 * wall
        params = [len(points), wall, round, *outline.ravel()]
        self._add(kernels.LATHE, params, centre, rot, ((0, 0, middle), reach), mat, op, blend)

    def tube(
        self,
        a: Point,
        b: Point,
        c: Point,
        radius: Number,
        mat: int = -1,
        *,
        end: Number | None = None,
        op: Op = "union",
        blend: Number = 0.0,
    ) -> None:
        """A round tube along the quadratic Bezier curve of control points a, b, c."""
        start, bow, stop = (np.asarray(p, dtype=np.float64) for p in (a, b, c))
        length = float(np.linalg.norm(stop - start)) + 1e-6
        if np.linalg.norm(start - 2 * bow + stop) < 0.04 * length:  # the closest point's cubic needs a curve
            bow = bow + 0.02 * length * towards(stop - start + 1e-9)[:, 0]
        end = radius if end is None else end
        points = np.stack([start, bow, stop])
        t = np.linspace(0, 1, 17)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bow + t**2 * stop
        middle = 0.5 * (curve.min(0) + curve.max(0))
        reach = 1.03 * float(np.linalg.norm(curve - middle, axis=1).max()) + max(radius, end)
        params = [*points.ravel(), radius, end]
        self._add(kernels.TUBE, params, (0, 0, 0), IDENTITY, (middle, reach), mat, op, blend)

    def finish(self, name: str, seed: int) -> GeneratedObject:
        """Scale to the cube and freeze. Raises: EmptyObject."""
        groups = np.array([(OPS[g.op], WARPS[g.warp] if g.warp else kernels.STRAIGHT) for g in self._groups])
        tape = Tape(
            parts=np.array(self._parts, dtype=np.int32),
            numbers=np.stack(self._numbers),
            groups=groups.astype(np.int32),
            group_numbers=np.stack([_group_row(group) for group in self._groups]),
            materials=np.stack([material.row() for material in self._materials]),
            decals=np.stack([decal.row() for decal in self._decals])
            if self._decals
            else np.zeros((0, kernels.DECAL_COLUMNS)),
            frame=np.array([0.0, 0.0, 0.0, 1.0]),
        )
        for number, group in enumerate(self._groups):
            if group.warp:
                _warp_row(group, group.warp, tape, number)
        spheres = tape.group_numbers[groups[:, 0] == kernels.UNION, :4]
        lower, upper = (spheres[:, :3] - spheres[:, 3:]).min(0), (spheres[:, :3] + spheres[:, 3:]).max(0)
        tape, cells, half = _fit(
            tape, 0.5 * (lower + upper), 0.5 * float((upper - lower).max()), f"{name} of seed {seed}"
        )
        hull, _, left = kernels.project(tape, cells[:: len(cells) // HULL_POINTS + 1], 2, 1e-3)
        hull = hull[left < 0.02]
        box = _reach(tape, hull, half)
        centre, scale = box.mean(0), float((box[1] - box[0]).max()) / LONGEST_SIDE
        tape = tape._replace(frame=np.array([*(tape.frame[:3] + centre * tape.frame[3]), scale * tape.frame[3]]))
        box = (box - centre) / scale
        hull = np.clip((hull - centre) / scale, box[0], box[1])
        return GeneratedObject(name, seed, tape, box, hull.astype(np.float32))


def _fit(
    tape: Tape, centre: Float64[np.ndarray, " 3"], half: float, what: str
) -> tuple[Tape, Float64[np.ndarray, "cell 3"], float]:
    """A frame that fits roughly, and in it centres and half side of the cells of a 32^3 grid that may hold surface."""
    cells = centre[None]
    for levels in (4, 5):
        cells = kernels.surface_cells(tape, centre[None], half, levels)
        if len(cells) == 0:
            raise EmptyObject(f"{what} has no surface")
        if levels == 4:
            lower, upper = cells.min(0) - half / 16, cells.max(0) + half / 16
            centre, half = 0.5 * (lower + upper), 0.5 * float((upper - lower).max())
    tape = tape._replace(frame=np.array([*centre, 2 * half]))
    return tape, (cells - centre) / (2 * half), 0.5 / 32


def _reach(tape: Tape, hull: Float64[np.ndarray, "point 3"], step: float) -> Float64[np.ndarray, "2 3"]:
    """Bounding box from points on the surface less than 2 * step from its ends."""
    points = hull * tape.frame[3] + tape.frame[:3]
    box = np.empty((2, 3))
    for side, sign in enumerate((-1.0, 1.0)):
        for axis in range(3):
            ends = points[np.argsort(-sign * points[:, axis])[:16]]
            far = sign * kernels.climb(tape, ends, axis, sign, step * float(tape.frame[3]))
            box[side, axis] = (far - tape.frame[axis]) / tape.frame[3]
    return box


def _group_row(group: _Group) -> Float64[np.ndarray, " n"]:
    if not group.spheres:
        raise EmptyObject("a group of cuts only")
    row = np.zeros(kernels.GROUP_COLUMNS)
    centres = np.stack([centre for centre, _ in group.spheres])
    radii = np.array([radius for _, radius in group.spheres])
    centre = 0.5 * ((centres - radii[:, None]).min(0) + (centres + radii[:, None]).max(0))
    row[:3], row[3], row[4] = centre, (np.linalg.norm(centres - centre, axis=1) + radii).max(), group.blend
    row[5], row[6], row[7:10], row[10:] = group.amount, 1.0, group.origin, group.rotation.T.ravel()
    return row


def _warp_row(group: _Group, warp: WarpKind, tape: Tape, number: int) -> None:
    """Sphere and safety of a warped group, from where its parts lie before the warp."""
    row = tape.group_numbers[number]
    own = tape.parts[:, kernels.GROUP] == number
    parts = tape.parts[own]
    parts[:, kernels.GROUP] = 0
    alone = tape._replace(
        parts=parts, numbers=tape.numbers[own], groups=np.zeros((1, 2), np.int32), group_numbers=row[None].copy()
    )
    cells = kernels.surface_cells(alone, row[None, :3], row[3], 5)
    if len(cells) == 0:
        raise EmptyObject("a warped group without a surface")
    lower, upper = cells.min(0) - row[3] / 32, cells.max(0) + row[3] / 32
    points = np.stack(np.meshgrid(*np.linspace(lower, upper, 7).T, indexing="ij"), -1).reshape(-1, 3)
    points, safety = _warped(warp, group.amount, points)
    points = points @ group.rotation.T + group.origin
    centre = 0.5 * (points.min(0) + points.max(0))
    row[:3], row[3], row[6] = centre, 1.05 * np.linalg.norm(points - centre, axis=1).max(), safety


def _warped(
    warp: WarpKind, amount: Number, points: Float64[np.ndarray, "n 3"]
) -> tuple[Float64[np.ndarray, "n 3"], float]:
    """Points after the warp that `kernels.unwarp` takes back, and by how much distances shrink at most."""
    x, y, z = points.T
    match warp:
        case "bend":
            radius = 1.0 / amount
            rho, angle = radius - z, x / radius
            return np.stack([rho * np.sin(angle), y, radius - rho * np.cos(angle)], 1), float(
                np.clip(np.min(rho / radius), 0.15, 1.0)
            )
        case "twist":
            c, s = np.cos(amount * z), np.sin(amount * z)
            shear = abs(amount) * float(np.hypot(x, y).max())  # a shear's largest singular value is 1 / what follows
            return np.stack([c * x - s * y, s * x + c * y, z], 1), 2.0 / (shear + math.sqrt(shear * shear + 4.0))
        case "taper":
            k = np.clip(1.0 + amount * z, 0.3, 3.0)
            shear = abs(amount) * float(np.hypot(x, y).max()) / float(k.min())
            safety = min(float(k.min()), 1.0) * 2.0 / (shear + math.sqrt(shear * shear + 4.0))
            return np.stack([x * k, y * k, z], 1), safety


def signed_distance(obj: GeneratedObject, points: Float32[np.ndarray, "point 3"]) -> Float32[np.ndarray, " point"]:
    """Signed distance in the object frame, negative inside; its size never exceeds the true one, but for blends."""
    return kernels.distances(obj.tape, points)


def surface_colour(obj: GeneratedObject, points: Float[np.ndarray, "point 3"]) -> Float32[np.ndarray, "point 3"]:
    """sRGB colour in [0, 1] of the part nearest to each point."""
    return kernels.colours(obj.tape, points)


def solid_grid(
    obj: GeneratedObject, resolution: int, object_from_cube: Float[np.ndarray, "4 4"] | None = None
) -> Bool[np.ndarray, "r r r"]:
    """Which cells are solid, axes x, y, z.

    Cell i spans [i, i + 1) / resolution - 0.5 with its centre at (i + 0.5) / resolution - 0.5. It is solid if the
    signed distance at its centre is below 0.35 / resolution: inside, or so near that most sheets thinner than a cell
    survive (two such limits make 0.7 cells). With `object_from_cube`, a similarity, the cells are those of another cube.
    """
    if object_from_cube is None:
        return kernels.solid(obj.tape, resolution, SKIN / resolution)
    centres = (np.indices((resolution,) * 3).reshape(3, -1).T + 0.5) / resolution - 0.5
    placed = centres @ object_from_cube[:3, :3].T + object_from_cube[:3, 3]
    cell = np.cbrt(np.linalg.det(object_from_cube[:3, :3])) / resolution
    return np.asarray(kernels.distances(obj.tape, placed) < SKIN * cell).reshape((resolution,) * 3)


def surface_samples(
    obj: GeneratedObject, n: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"]]:
    """About uniform points on the surface, outward unit normals and sRGB colours in [0, 1].

    Points drawn uniformly in a thin layer around the surface, then moved onto it along the gradient.
    """
    tape, levels = obj.tape, 6
    cells = kernels.surface_cells(tape, tape.frame[None, :3], 0.5 * float(tape.frame[3]), levels)
    cells = (cells - tape.frame[:3]) / tape.frame[3]
    side = 0.5**levels
    found: list[Float64[np.ndarray, "m 6"]] = []
    while sum(map(len, found)) < n:
        picks = cells[rng.integers(len(cells), size=2 * n)] + rng.uniform(-0.5 * side, 0.5 * side, (2 * n, 3))
        picks = picks[np.abs(kernels.distances(tape, picks)) < 0.3 * side]
        points, normals, left = kernels.project(tape, picks, 3, 5e-4)
        found.append(np.concatenate([points, normals], 1)[left < 0.05 * side])
    both = np.concatenate(found)[:n].astype(np.float32)
    points32, normals32 = np.ascontiguousarray(both[:, :3]), np.ascontiguousarray(both[:, 3:])
    return points32, normals32, kernels.colours(tape, points32)
