"""Free compositions: a few random solids, cut, bent, rounded and joined; no class, any shape."""

import numpy as np
from jaxtyping import Float64

from mvsam3d.training.objects.program import Builder, Matrix, Op, WarpKind, rotation
from mvsam3d.training.objects.textures import Palette


def _turn(p: Palette) -> Matrix:
    """Upright, in right angles, or any orientation."""
    u = p.rng.uniform
    kind = u()
    if kind < 0.4:
        return rotation("z", u(0, 360))
    if kind < 0.65:
        square: Matrix = rotation("x", 90.0 * p.rng.integers(4)) @ rotation("y", 90.0 * p.rng.integers(4))
        return square
    free: Matrix = rotation("z", u(0, 360)) @ rotation("x", u(0, 360)) @ rotation("y", u(0, 360))
    return free


def _solid(
    b: Builder, p: Palette, at: Float64[np.ndarray, " 3"], size: float, mat: int, op: Op = "union", blend: float = 0.0
) -> None:
    """A random primitive about `at` of about `size` across."""
    u, rng = p.rng.uniform, p.rng
    s = 0.5 * size
    with b.placed(tuple(at), _turn(p)):
        match int(rng.integers(9)):
            case 0 | 1:
                thin = 0.12 if u() < 0.25 else 1.0
                sides = (s * u(0.7, 2.2), s * u(0.7, 2.2), s * u(0.7, 2.2) * thin)
                b.box((0, 0, 0), sides, mat, round=s * u(0, 0.4) * thin, op=op, blend=blend)
            case 2:
                b.ellipsoid((0, 0, 0), tuple(s * u(0.4, 1.2, 3)), mat, op=op, blend=blend)
            case 3:
                b.capsule(
                    (0, 0, -s * u(0.3, 1)),
                    (0, 0, s * u(0.3, 1)),
                    s * u(0.15, 0.6),
                    mat,
                    end=s * u(0.15, 0.6),
                    op=op,
                    blend=blend,
                )
            case 4:
                end = u(0.0, 1.0)
                b.rod(
                    (0, 0, -s * u(0.2, 1)),
                    (0, 0, s * u(0.2, 1)),
                    s * u(0.3, 1),
                    mat,
                    end=s * end,
                    round=s * u(0, 0.1),
                    op=op,
                    blend=blend,
                )
            case 5:
                arc = 360.0 if u() < 0.5 else u(120, 300)
                b.torus((0, 0, 0), s * u(0.6, 1.0), s * u(0.08, 0.3), mat, arc=arc, op=op, blend=blend)
            case 6:
                n = int(rng.integers(3, 9))
                radii = s * u(0.5, 1.1, n)
                angles = 2 * np.pi * (np.arange(n) + u(-0.25, 0.25, n)) / n
                outline = [(float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles)]
                b.prism((0, 0, 0), outline, s * u(0.15, 1.5), mat, round=s * u(0, 0.06), op=op, blend=blend)
            case 7:
                heights = np.linspace(-s, s, 6) * u(0.5, 1.1)
                profile = [(float(r), float(z)) for r, z in zip(s * u(0.2, 1.0, 6), heights)]
                wall = s * u(0.08, 0.15) if u() < 0.4 else 0.0
                b.lathe((0, 0, 0), profile, mat, wall=wall, round=s * u(0, 0.04), op=op, blend=blend)
            case _:
                a, m, c = (tuple(s * u(-1.2, 1.2, 3)) for _ in range(3))
                b.tube(a, m, c, s * u(0.1, 0.35), mat, end=s * u(0.05, 0.35), op=op, blend=blend)


def composition(b: Builder, p: Palette) -> None:
    """Two to eight solids, each begun on the one before, in up to three warped groups, then a few cuts."""
    u, rng = p.rng.uniform, p.rng
    mats = [b.material(p.any()) for _ in range(rng.integers(1, 5))]
    total, at = int(rng.integers(2, 9)), np.zeros(3)
    while total > 0:
        count = min(total, int(rng.integers(1, 5)))
        total -= count
        warp: WarpKind | None = ("bend", "twist", "taper")[rng.integers(3)] if u() < 0.35 else None
        smooth = u(0.03, 0.2) if u() < 0.4 else 0.0
        amount = float(u(0.3, 0.9) * rng.choice([-1, 1]) * (2.5 if warp == "twist" else 0.7))
        with b.placed(tuple(at), rotation("z", u(0, 360))), b.group(warp=warp, amount=amount if warp else 0.0):
            local = np.zeros(3)
            for i in range(count):
                size = u(0.35, 1.0)
                _solid(b, p, local, size, mats[rng.integers(len(mats))], blend=smooth if i else 0.0)
                cuts = int(u() < 0.35)
                for _ in range(cuts):
                    where = local + rng.normal(0, 0.4 * size, 3)
                    mat = -1 if u() < 0.7 else mats[0]
                    _solid(b, p, where, size * u(0.3, 0.8), mat, "subtract", blend=0.3 * smooth)
                direction = rng.normal(size=3)
                local = local + 0.45 * size * direction / np.linalg.norm(direction)
        at = at + 0.7 * local
