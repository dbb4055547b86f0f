"""Mesh, masks and cameras -> the mesh, bent so that its outlines meet those of the masks.

Each round draws the mesh in every view, pairs the points of its outline with those of the mask's (in both directions, by place
and direction of the normal), and asks of each that it move across the outline as far as its partner is; what lies along
the line of sight stays free. All wishes together, weighted against errors of masks and cameras, and a price on bending
give the smooth field of displacements (see `warp`), on lattices that grow finer from round to round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import binary_dilation
from scipy.sparse import csr_array, eye_array, kron
from scipy.spatial import cKDTree

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.compiled import compiled
from mvsam3d.meshing.warp import (
    Places,
    Warp,
    displacements_at,
    gradients_at,
    places,
    refined,
    resting,
    warped_mesh,
)
from mvsam3d.rendering.meshes import face_normals, rasterise
from mvsam3d.types import Camera, Mesh

log = logging.getLogger(__name__)
Array = np.ndarray

WINDOW_MARGIN = 1.25  # side of the square looked at, in sides of the mask's box
BLUR = 1.5  # pixels: outlines are level lines of blurred masks, so that they lie between pixels and have normals
FARTHEST_CROSSING = 1.5  # pixels between the centre of a rim's pixel and the outline there
TURN = 20.0  # pixels of distance that a normal of the opposite direction / 2 is worth when outlines are paired
EVENINGS = 30  # times that too steep a field is evened out, before all of it is made smaller
TURNS = 10
LEAST_GAP = 0.003  # of the object's size: views whose outlines are all nearer than this are trusted alike
EVERY = 2  # of so many pairs one counts: neighbours on a blurred line say the same


@dataclass(frozen=True)
class OutlineFit:
    """How far, how smoothly and how carefully a mesh is bent to meet masks. Lengths are shares of the object's longest side."""

    side: int = 384
    """Pixels a side of the square around a mask in which outlines are compared, at most."""
    tolerance: float = 0.3
    """Pixels of that square by which outlines may differ without a wish to move: masks and drawings are no better."""
    largest: float = 0.08
    """No point moves farther."""
    steepest: float = 0.6
    """Largest stretch or shear of the field; below 1 it cannot fold."""
    cells: tuple[int, ...] = (6, 12, 24)
    """Cells along the longest side, of one lattice after the other; each has twice as many as the one before."""
    rounds: tuple[int, ...] = (4, 4, 4)
    """Rounds on each lattice."""
    bending: float = 2e-5
    """Price of bending: larger is smoother and meets the outlines less."""
    stretching: float = 3e-4
    """Price of stretching."""
    moving: float = 3e-4
    """Price of moving."""
    elastic: float = 0.01
    """Share of these prices that is asked for the whole field; the rest is for what a round changes."""
    sliding: float = 0.01
    """Price of moving a point of an outline in other directions than across it, against that of not meeting the mask."""
    first_sigma: float = 0.08
    """An outline farther than this from its partner hardly counts in the first round."""
    last_sigma: float = 0.01
    """The same in the last round."""
    iterations: int = 40
    """Of the solver, in each round."""


@dataclass(frozen=True)
class FittedMesh:
    """The bent mesh, the field that bent it, and how well outlines agree, as intersection over union of each view."""

    mesh: Mesh
    warp: Warp
    silhouette_iou_before: Float[np.ndarray, " view"]
    silhouette_iou_after: Float[np.ndarray, " view"]
    largest_displacement: float  # of a vertex, in shares of the object's longest side
    mean_displacement: float


@dataclass(frozen=True)
class Outline:
    """Points where something drawn ends, in the pixels of a window."""

    pixels: Int64[np.ndarray, "point 2"]  # row, column: the last that is covered
    points: Float[np.ndarray, "point 2"]  # x, y
    normals: Float[np.ndarray, "point 2"]  # unit, x, y, outward


def outline(covered: Bool[np.ndarray, "h w"], seen: Bool[np.ndarray, "h w"]) -> Outline:
    """The outline of what is covered, as a level line of it blurred; where the picture ends is no outline."""
    import cv2

    ends = np.pad(~covered, 1)  # what lies beyond the picture ends nothing
    beside = ends[:-2, 1:-1] | ends[2:, 1:-1] | ends[1:-1, :-2] | ends[1:-1, 2:]
    share = cv2.GaussianBlur(covered.astype(np.float32), (0, 0), BLUR)
    down, right = np.gradient(share)
    pixels = np.argwhere(covered & beside & seen)
    rows, columns = pixels.T
    outward = -np.stack([right[rows, columns], down[rows, columns]], axis=1).astype(np.float64)
    steep = np.linalg.norm(outward, axis=1)
    normals = outward / np.maximum(steep, 1e-6)[:, None]
    beyond = np.clip((share[rows, columns] - 0.5) / np.maximum(steep, 1e-6), -FARTHEST_CROSSING, FARTHEST_CROSSING)
    points = pixels[:, ::-1] + 0.5 + beyond[:, None] * normals
    return Outline(pixels, points, normals)


@dataclass(frozen=True)
class Wishes:
    """Points of the mesh that are to move, one number each: `along @ displacement = wanted`, in the mesh's unit."""

    resting: Float[np.ndarray, "row 3"]
    along: Float[np.ndarray, "row 3"]
    wanted: Float[np.ndarray, " row"]  # beyond the displacement they have


class Sight:
    """A square of a view around the object's mask, and the mask's outline in it."""

    def __init__(self, mask: Bool[np.ndarray, "h w"], camera: Camera, side: int, tolerance: float) -> None:
        """`side`: pixels at most, a small mask is not enlarged; `tolerance`: pixels."""
        import cv2

        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        length = int(np.ceil(WINDOW_MARGIN * (box[2:] - box[:2]).max())) + 8
        self.side, self.tolerance = min(side, length), tolerance
        left, top = np.round((box[:2] + box[2:] - length) / 2).astype(int)
        zoom = self.side / length
        self.intrinsics = (
            np.diag([zoom, zoom, 1.0]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ camera.intrinsics
        )
        self.camera_from_object = camera.camera_from_world.astype(np.float64)
        place = (np.arange(self.side) + 0.5) / zoom
        x, y = np.floor(left + place).astype(int), np.floor(top + place).astype(int)
        self.seen = ((y >= 0) & (y < mask.shape[0]))[:, None] & ((x >= 0) & (x < mask.shape[1]))[None]
        padded = np.zeros((length, length), np.float32)
        low, high = np.maximum([top, left], 0), np.minimum([top + length, left + length], mask.shape)
        padded[low[0] - top : high[0] - top, low[1] - left : high[1] - left] = mask[low[0] : high[0], low[1] : high[1]]
        small = cv2.resize(padded, (self.side, self.side), interpolation=cv2.INTER_AREA)
        self.mask: Bool[np.ndarray, "side side"] = (small >= 0.5) & self.seen
        reach = int(np.ceil(2 * BLUR))
        self.judged = ~binary_dilation(~self.seen, iterations=reach) if not self.seen.all() else self.seen
        self.outline = outline(self.mask, self.judged)
        self._tree = cKDTree(_placed(self.outline))

    def drawn(
        self, vertices: Float[np.ndarray, "vertex 3"], mesh: Mesh
    ) -> tuple[Bool[np.ndarray, "h w"], np.ndarray, np.ndarray]:
        """Which pixels the mesh covers with its vertices there, its faces and the shares of their corners."""
        turn, shift = self.camera_from_object[:3, :3], self.camera_from_object[:3, 3]
        faces, shares, _ = rasterise(vertices @ turn.T + shift, mesh.faces, self.intrinsics, self.side, self.side)
        return (faces >= 0) & self.seen, faces, shares

    def agreement(self, covered: Bool[np.ndarray, "h w"]) -> float:
        """Intersection over union with the mask."""
        return float((covered & self.mask).sum() / (covered | self.mask).sum())

    def wishes(self, vertices: Float[np.ndarray, "vertex 3"], mesh: Mesh) -> tuple[Wishes, float]:
        """What this view asks of the mesh, and how far they agree already.

        Args:
            vertices: where the vertices are now; those of `mesh` are at rest.
        """
        covered, faces, shares = self.drawn(vertices, mesh)
        agreement = self.agreement(covered)
        rim = outline(covered, self.judged)
        if len(rim.pixels) == 0 or len(self.outline.pixels) == 0:
            return Wishes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)), agreement
        of_rim = self._tree.query(_placed(rim))[1]
        of_mask = cKDTree(_placed(rim)).query(_placed(self.outline))[1]
        mine = np.concatenate([np.arange(len(rim.pixels)), of_mask])[::EVERY]
        theirs = np.concatenate([of_rim, np.arange(len(self.outline.pixels))])[::EVERY]
        normals = self.outline.normals[theirs]
        alike = (normals * rim.normals[mine]).sum(axis=1) > 0
        mine, theirs, normals = mine[alike], theirs[alike], normals[alike]
        gap = ((self.outline.points[theirs] - rim.points[mine]) * normals).sum(axis=1)
        gap = np.sign(gap) * np.maximum(np.abs(gap) - self.tolerance, 0)
        rows, columns = rim.pixels[mine].T
        corners, share = mesh.faces[faces[rows, columns]], shares[rows, columns].astype(np.float64)
        turn, shift = self.camera_from_object[:3, :3], self.camera_from_object[:3, 3]
        here = np.einsum("pc,pcd->pd", share, vertices[corners]) @ turn.T + shift
        focal, depth = np.diag(self.intrinsics)[:2], here[:, 2]
        slope = normals * focal / depth[:, None]  # of the pixel place along the normal, by x and y of the camera
        across = (
            np.concatenate([slope, -(slope * here[:, :2]).sum(axis=1, keepdims=True) / depth[:, None]], axis=1) @ turn
        )
        length = np.linalg.norm(across, axis=1)
        at_rest = np.einsum("pc,pcd->pd", share, mesh.vertices[corners].astype(np.float64))
        return Wishes(at_rest, across / length[:, None], gap / length), agreement


def _placed(line: Outline) -> Float[np.ndarray, "point 4"]:
    return np.concatenate([line.points, TURN * line.normals], axis=1)


def fitted_to_outlines(
    mesh: Mesh,
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    cameras: Sequence[Camera],
    config: OutlineFit | None = None,
) -> FittedMesh:
    """Bend a mesh so that its outlines meet the masks.

    Args:
        mesh: in the object frame; texture and colours are kept.
        masks: of the object, one a view, whole photos.
        cameras: with the object frame as world, `camera_from_world` rigid or a similarity; as large as the masks.
    Raises: InvalidOption: no views, an empty mask or mesh, sizes that differ, or options out of range.
    """
    config = config or OutlineFit()
    _check(mesh, masks, cameras, config)
    fit = _Fit(
        mesh,
        [Sight(mask, camera, config.side, config.tolerance) for mask, camera in zip(masks, cameras, strict=True)],
        config,
    )
    warp = fit.start()
    before = fit.agreements(warp)
    total, done = sum(config.rounds), 0
    for level, rounds in enumerate(config.rounds):
        if level:
            warp = refined(warp)
        solver = _Solver(warp, fit.size, config)
        for _ in range(rounds):
            sigma = config.first_sigma * (config.last_sigma / config.first_sigma) ** (done / max(total - 1, 1))
            warp = fit.next(warp, solver, sigma)
            done += 1
    bent = without_turned_faces(mesh, warped_mesh(mesh, warp))
    moved = np.linalg.norm(bent.vertices.astype(np.float64) - mesh.vertices, axis=1) / fit.size
    return FittedMesh(bent, warp, before, fit.agreements(warp), float(moved.max()), float(moved.mean()))


def without_turned_faces(mesh: Mesh, bent: Mesh) -> Mesh:
    """The bent mesh with no face turned over: a smooth field without folds still turns a face so thin that it hardly has a side.

    The corner opposite to the longest edge of such a face is moved as the edge beside it is, along with all vertices at its place
    (textured meshes have several), so that nothing tears. That is exact for the face, and hardly moves a corner that near to the
    edge. If a neighbour turns over instead, it goes on there; what is left after TURNS is logged.
    """
    before, after = mesh.vertices.astype(np.float64), bent.vertices.astype(np.float64)
    normals = face_normals(before, mesh.faces)
    turned = np.flatnonzero((normals * face_normals(after, mesh.faces)).sum(axis=1) < 0)
    if len(turned) == 0:
        return bent
    same = np.unique(before, axis=0, return_inverse=True)[1].reshape(-1)
    shift = after - before
    for _ in range(TURNS):
        faces = mesh.faces[turned]
        opposite = np.roll(before[faces], -1, axis=1) - np.roll(before[faces], 1, axis=1)
        apex = np.linalg.norm(opposite, axis=2).argmax(axis=1)
        rows = np.arange(len(faces))
        top, left, right = (faces[rows, (apex + i) % 3] for i in range(3))
        edge = before[right] - before[left]
        share = ((before[top] - before[left]) * edge).sum(axis=1) / (edge**2).sum(axis=1)
        moved = np.full(len(before), -1)
        moved[same[top]] = rows
        chosen = moved[same]
        wanted = (1 - share[:, None]) * shift[left] + share[:, None] * shift[right]
        shift = np.where((chosen >= 0)[:, None], wanted[chosen], shift)
        turned = np.flatnonzero((normals * face_normals(before + shift, mesh.faces)).sum(axis=1) < 0)
        if len(turned) == 0:
            break
    else:
        log.warning("%d of %d faces are turned over by the fit: they are next to lines", len(turned), len(mesh.faces))
    return replace(bent, vertices=(before + shift).astype(mesh.vertices.dtype))


def _check(mesh: Mesh, masks: Sequence[Bool[np.ndarray, "_ _"]], cameras: Sequence[Camera], config: OutlineFit) -> None:
    if len(mesh.faces) == 0:
        raise InvalidOption("the mesh has no triangles: there is nothing to fit to the masks")
    if len(masks) == 0 or len(masks) != len(cameras):
        raise InvalidOption(
            f"{len(masks)} masks and {len(cameras)} cameras: a mesh is fitted to at least one mask, with a camera for each"
        )
    for i, (mask, camera) in enumerate(zip(masks, cameras, strict=True)):
        if mask.shape != (camera.height, camera.width):
            raise InvalidOption(
                f"mask {i} has {mask.shape[1]} x {mask.shape[0]} pixels and its camera {camera.width} x {camera.height}: "
                "give the camera of the photo as it is, or scale its intrinsics"
            )
        if not mask.any():
            raise InvalidOption(f"mask {i} is empty: leave the view out")
    if not (config.largest > 0 and 0 < config.steepest < 1 and 0 < config.last_sigma <= config.first_sigma):
        raise InvalidOption(
            "`largest` must be positive, `steepest` between 0 and 1, `last_sigma` between 0 and `first_sigma`"
        )
    if len(config.cells) != len(config.rounds) or any(b != 2 * a for a, b in zip(config.cells, config.cells[1:])):
        raise InvalidOption(
            f"cells {config.cells} must double from lattice to lattice, with a number of rounds for each"
        )


class _Fit:
    """A mesh at rest and its views."""

    def __init__(self, mesh: Mesh, sights: list[Sight], config: OutlineFit) -> None:
        self.mesh, self.sights, self.config = mesh, sights, config
        self.vertices = mesh.vertices.astype(np.float64)
        self._places: tuple[tuple[int, ...], Places] | None = None
        self.low, self.high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        self.size = float((self.high - self.low).max())

    def start(self) -> Warp:
        return resting(self.low, self.high, self.size / self.config.cells[0])

    def now(self, warp: Warp) -> Float[np.ndarray, "vertex 3"]:
        """Where the vertices are; their places in the lattice are kept until it changes."""
        if self._places is None or self._places[0] != warp.shifts.shape:
            self._places = warp.shifts.shape, places(warp, self.vertices)
        now: Float[np.ndarray, "vertex 3"] = self.vertices + displacements_at(warp, self._places[1])
        return now

    def agreements(self, warp: Warp) -> Float[np.ndarray, " view"]:
        now = self.now(warp)
        return np.array([sight.agreement(sight.drawn(now, self.mesh)[0]) for sight in self.sights])

    def next(self, warp: Warp, solver: _Solver, sigma: float) -> Warp:
        """One round."""
        now = self.now(warp)
        asked = [sight.wishes(now, self.mesh)[0] for sight in self.sights]
        asked = [wishes for wishes in asked if len(wishes.wanted)]
        if not asked:
            return warp
        trust = _trust([wishes.wanted / self.size for wishes in asked])
        weights = [
            share / len(wishes.wanted) / (1 + (wishes.wanted / self.size / sigma) ** 2) ** 2
            for share, wishes in zip(trust, asked, strict=True)
        ]
        return solver.solved(
            warp,
            np.concatenate([wishes.resting for wishes in asked]),
            np.concatenate([wishes.along for wishes in asked]),
            np.concatenate([wishes.wanted for wishes in asked]),
            np.concatenate(weights),
        )


def _trust(wanted: list[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " view"]:
    """Shares of the views: next to nothing for one whose outlines are much farther off than those of most others."""
    gaps = np.array([np.median(np.abs(values)) for values in wanted])
    usual = max(2 * float(np.median(gaps)), LEAST_GAP)
    trust = 1 / (1 + (gaps / usual) ** 2) ** 2
    shares: Float[np.ndarray, " view"] = trust / trust.sum()
    return shares


@compiled
def _gather(first: Array, x: Array, y: Array, z: Array, along: Array, slide: float, shifts: Array, out: Array) -> None:
    """Displacement of each row's point, what lies across its direction made smaller by the factor `slide`."""
    for p in range(len(first)):
        a, b, c = first[p]
        dx = dy = dz = 0.0
        for i in range(4):
            for j in range(4):
                xy = x[p, i] * y[p, j]
                for k in range(4):
                    share, s = xy * z[p, k], shifts[a + i, b + j, c + k]
                    dx += share * s[0]
                    dy += share * s[1]
                    dz += share * s[2]
        u, v, w = along[p]
        more = (1 - slide) * (u * dx + v * dy + w * dz)
        out[p, 0], out[p, 1], out[p, 2] = slide * dx + more * u, slide * dy + more * v, slide * dz + more * w


@compiled
def _spread(first: Array, x: Array, y: Array, z: Array, values: Array, squared: bool, shifts: Array) -> None:
    """Add each row's values to its control points, by their weights or the squares of them."""
    for p in range(len(first)):
        a, b, c = first[p]
        u, v, w = values[p]
        for i in range(4):
            for j in range(4):
                xy = x[p, i] * y[p, j]
                for k in range(4):
                    share, s = xy * z[p, k], shifts[a + i, b + j, c + k]
                    if squared:
                        share *= share
                    s[0] += share * u
                    s[1] += share * v
                    s[2] += share * w


def _differences(count: int) -> csr_array:
    return csr_array(eye_array(count - 1, count, k=1) - eye_array(count - 1, count))


class _Solver:
    """Least squares on one lattice."""

    def __init__(self, warp: Warp, size: float, config: OutlineFit) -> None:
        self.config, self.size = config, size
        counts = warp.shifts.shape[:3]
        step = warp.spacing / size
        ones = [csr_array(eye_array(count)) for count in counts]
        first = [_differences(count) for count in counts]
        second = [csr_array(_differences(count - 1) @ d) for count, d in zip(counts, first, strict=True)]

        def spanned(parts: list[csr_array]) -> csr_array:
            return csr_array(kron(kron(parts[0], parts[1]), parts[2]))

        def square(parts: list[csr_array]) -> csr_array:
            rows = spanned(parts)
            return csr_array(rows.T @ rows)

        bend = sum(square([*ones[:a], second[a], *ones[a + 1 :]]) for a in range(3))
        for a, b in combinations(range(3), 2):
            bend = bend + 2 * square([first[i] if i in (a, b) else ones[i] for i in range(3)])
        stretch = sum(square([*ones[:a], first[a], *ones[a + 1 :]]) for a in range(3))
        still = eye_array(int(np.prod(counts)))
        # (difference / step)² summed over the volume: second differences step^-4, first step^-2, times step³ a point
        self.price = csr_array(
            config.bending * bend / step + config.stretching * stretch * step + config.moving * still * step**3
        )
        nodes = np.stack(np.meshgrid(*[np.arange(2 * count - 5) / 2 for count in counts], indexing="ij"), axis=-1)
        self.probes = places(warp, warp.corner + warp.spacing * nodes.reshape(-1, 3))

    def solved(
        self,
        warp: Warp,
        resting_points: Float[np.ndarray, "row 3"],
        along: Float[np.ndarray, "row 3"],
        wanted: Float[np.ndarray, " row"],
        weights: Float[np.ndarray, " row"],
    ) -> Warp:
        """The field that grants the wishes best, by conjugate gradients from the one before; bounded and without folds."""
        where = places(warp, resting_points)
        first, (x, y, z) = where.first, np.moveaxis(where.weights, 1, 0).copy()
        shape, slide, pulled = warp.shifts.shape, self.config.sliding, np.empty_like(along)

        def normal(shifts: Array) -> Array:
            _gather(first, x, y, z, along, slide, shifts, pulled)
            out: Array = (self.price @ shifts.reshape(-1, 3)).reshape(shape)
            _spread(first, x, y, z, weights[:, None] * pulled, False, out)
            return out

        diagonal = np.repeat(self.price.diagonal()[:, None], 3, axis=1).reshape(shape)
        _spread(first, x, y, z, weights[:, None] * (slide + (1 - slide) * along**2), True, diagonal)
        there = (displacements_at(warp, where) * along).sum(axis=1)
        right = (1 - self.config.elastic) * (self.price @ warp.shifts.reshape(-1, 3)).reshape(shape)
        _spread(first, x, y, z, (weights * (wanted + there))[:, None] * along, False, right)
        shifts = _conjugate_gradients(normal, right, warp.shifts, diagonal, self.config.iterations)
        return self.bounded(replace(warp, shifts=shifts))

    def bounded(self, warp: Warp) -> Warp:
        """The field without displacements and slopes that are too large: those are evened out where they are."""
        most = self.config.largest * self.size
        length = np.linalg.norm(warp.shifts, axis=-1, keepdims=True)
        warp = replace(warp, shifts=warp.shifts * np.minimum(1, most / np.maximum(length, 1e-300)))
        for _ in range(EVENINGS):
            slope = np.linalg.norm(gradients_at(warp, self.probes), axis=(1, 2))
            steep = slope > self.config.steepest
            if not steep.any():
                return warp
            warp = replace(warp, shifts=_evened(warp.shifts, self.probes.first[steep]))
        return replace(warp, shifts=warp.shifts * min(1, self.config.steepest / float(slope.max())))


def _evened(shifts: Float[np.ndarray, "x y z 3"], first: Int64[np.ndarray, "point 3"]) -> Float[np.ndarray, "x y z 3"]:
    """Control points around places replaced by the mean of themselves and their neighbours."""
    around = np.zeros(shifts.shape[:3], bool)
    for offset in np.ndindex(4, 4, 4):
        around[tuple((first + offset).T)] = True
    mean = shifts.copy()
    for axis in range(3):
        ahead = np.concatenate([np.take(mean, range(1, mean.shape[axis]), axis), np.take(mean, [-1], axis)], axis)
        behind = np.concatenate([np.take(mean, [0], axis), np.take(mean, range(mean.shape[axis] - 1), axis)], axis)
        mean = (ahead + 2 * mean + behind) / 4
    return np.where(around[..., None], mean, shifts)


def _conjugate_gradients(
    normal: Callable[[Array], Array], right: Array, start: Array, diagonal: Array, iterations: int
) -> Array:
    """Solve normal(x) = right, scaled by the diagonal, from `start`."""
    solution, residual = start.copy(), right - normal(start)
    scaled = residual / diagonal
    direction, size = scaled.copy(), float((residual * scaled).sum())
    for _ in range(iterations):
        if size <= 1e-24:
            break
        image = normal(direction)
        step = size / float((direction * image).sum())
        solution += step * direction
        residual -= step * image
        scaled = residual / diagonal
        new = float((residual * scaled).sum())
        direction = scaled + new / size * direction
        size = new
    return solution
