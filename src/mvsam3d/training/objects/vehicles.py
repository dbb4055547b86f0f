"""Vehicles. They drive towards -Y, along which they are long."""

import numpy as np

from mvsam3d.training.objects.program import ALONG_X, ALONG_Y, Builder, rotation
from mvsam3d.training.objects.textures import Palette

SIDES = (-1, 1)
SIDEWAYS = rotation("z", 90) @ rotation("x", 90)  # a prism drawn as (y, z) in the plane of the vehicle's side


def _wheel(b: Builder, x: float, y: float, radius: float, width: float, tyre: int, hub: int) -> None:
    """A wheel standing on the ground, its axis along X."""
    with b.group():
        b.rod((x - 0.5 * width, y, radius), (x + 0.5 * width, y, radius), radius, tyre, round=0.25 * width)
        b.rod((x - 0.53 * width, y, radius), (x + 0.53 * width, y, radius), 0.58 * radius, hub, round=0.1 * width)


def car(b: Builder, p: Palette) -> None:
    """A body, a cabin of one of several shapes, glass, wheels, lamps."""
    u = p.rng.uniform
    paint, glass, tyre, hub = (
        b.material(p.painted()),
        b.material(p.shade(0.05, 0.3)),
        b.material(p.shade(0.03, 0.12)),
        b.material(p.metal()),
    )
    lamp, tail = b.material(p.plain((0.95, 0.93, 0.8))), b.material(p.plain((0.75, 0.08, 0.08)))
    length, w, r = u(3.4, 4.9), u(1.6, 1.9), u(0.29, 0.36)
    low, waist, roof = u(0.16, 0.28), u(0.72, 0.95), u(1.2, 1.65)
    front, rear = -0.5 * length, 0.5 * length
    hood = u(0.22, 0.32) * length
    tail_at = rear - (u(0.02, 0.08) if u() < 0.5 else u(0.14, 0.2)) * length
    side = [
        (front, low + 0.05),
        (front - 0.02, 0.75 * waist),
        (front + 0.12, 0.88 * waist),
        (front + hood, waist),
        (tail_at, waist + 0.02),
        (rear, 0.95 * waist),
        (rear, low + 0.05),
    ]
    b_round = u(0.03, 0.1)
    screen, back = u(0.25, 0.55), u(0.05, 0.35)
    cabin = [
        (front + hood, waist - 0.05),
        (front + hood + screen, roof - b_round),
        (tail_at - back - 0.25, roof - b_round),
        (tail_at, waist - 0.05),
    ]
    with b.group():
        b.prism((0, 0, 0), side, w, paint, round=b_round, rot=SIDEWAYS)
        b.prism((0, 0, 0), cabin, 0.86 * w, paint, round=b_round, rot=SIDEWAYS, blend=0.04)
        for sx in SIDES:
            for y in (front + 0.19 * length, rear - 0.19 * length):
                b.rod((sx * 0.3 * w, y, r), (sx * w, y, r), 1.15 * r, tyre, op="subtract")
    c = np.asarray(cabin)
    middle = c.mean(0)
    inner = [tuple(middle + (q - middle) * (0.86, 0.74) + (0, 0.05)) for q in c]
    b.prism((0, 0, 0), inner, 0.86 * w + 0.03, glass, round=0.01, rot=SIDEWAYS)
    for start, stop in ((cabin[0], cabin[1]), (cabin[3], cabin[2])):
        a, e = np.asarray(start), np.asarray(stop)
        across = e - a
        at = 0.52 * (a + e) + 0.5 * np.array([0.0, 0.0])
        at = a + 0.58 * across
        tilt = float(np.degrees(np.arctan2(across[1], across[0]))) - 90
        sign = -1.0 if a[0] < e[0] else 1.0
        with b.placed((0, at[0], at[1]), rotation("x", tilt)):
            b.box((0, sign * b_round, 0), (0.7 * w, 0.03, 0.62 * float(np.linalg.norm(across))), glass, round=0.01)
    for sx in SIDES:
        for y in (front + 0.19 * length, rear - 0.19 * length):
            _wheel(b, sx * (0.5 * w - 0.1), y, r, 0.2, tyre, hub)
        b.ellipsoid((sx * 0.36 * w, front + 0.02, 0.72 * waist), (0.16, 0.08, 0.09), lamp)
        b.box((sx * 0.38 * w, rear + b_round, 0.76 * waist), (0.22, 0.06, 0.1), tail, round=0.02)
        b.ellipsoid((sx * (0.5 * w + 0.06), front + hood + 0.35, waist + 0.06), (0.09, 0.05, 0.06), paint)
    b.box((0, front - 0.02, 0.45 * waist), (0.5 * w, 0.08, 0.14), glass, round=0.02)


def truck(b: Builder, p: Palette) -> None:
    """A cab and a box, flat bed, tank or tipper."""
    u = p.rng.uniform
    cab, load, tyre, hub = (
        b.material(p.painted()),
        b.material(p.any()),
        b.material(p.shade(0.03, 0.12)),
        b.material(p.metal()),
    )
    glass, dark = b.material(p.shade(0.05, 0.3)), b.material(p.shade(0.1, 0.3))
    w, length, r, tall = u(0.9, 1.1), u(1.6, 2.6), u(0.19, 0.25), u(0.75, 1.05)
    deck, front = 1.7 * r, -0.35
    b.box((0, 0.5 * length - 0.1, deck - 0.05), (0.5 * w, length + 0.6, 0.1), dark)
    with b.group():
        b.box((0, front, deck + 0.45 * tall - 0.1), (w, 0.62, tall + 0.1), cab, round=0.07)
        if u() < 0.4:
            b.box((0, front - 0.45, deck + 0.1), (0.9 * w, 0.5, 0.5 * tall), cab, round=0.08)
    b.box((0, front - 0.3, deck + 0.62 * tall), (0.82 * w, 0.05, 0.36 * tall), glass, round=0.01)
    for sx in SIDES:
        b.box((sx * 0.49 * w, front - 0.04, deck + 0.62 * tall), (0.05, 0.34, 0.3 * tall), glass, round=0.01)
    kind, y, rear = p.rng.integers(4), 0.05, length
    mid, span = 0.5 * (y + rear), rear - y
    h = tall * u(0.9, 1.3)
    if kind == 0:
        b.box((0, mid, deck + 0.5 * h), (1.05 * w, span, h), load, round=0.015)
    elif kind == 1:
        with b.group():
            b.box((0, mid, deck + 0.16), (1.04 * w, span, 0.34), load, round=0.01)
            b.box((0, mid, deck + 0.25), (0.92 * w, 0.92 * span, 0.4), load, op="subtract")
        if u() < 0.5:
            for _ in range(3):
                b.ball((u(-0.2, 0.2), mid + u(-0.3, 0.3) * span, deck + 0.2), u(0.18, 0.3), dark)
    elif kind == 2:
        b.rod((0, y, deck + 0.42), (0, rear, deck + 0.42), 0.42, load, round=0.08)
    else:
        outline = [(y, deck), (rear, deck), (rear + 0.15, deck + h * 0.8), (y - 0.05, deck + 0.75 * h)]
        with b.group():
            b.prism((0, 0, 0), outline, w, load, rot=SIDEWAYS)
            b.box((0, mid, deck + 0.1 + 0.5 * h), (0.86 * w, 0.9 * span, h), load, op="subtract")
    axles = [front, *([rear - 0.3, rear - 0.3 - 2.3 * r][: p.rng.integers(1, 3)])]
    for sx in SIDES:
        for at in axles:
            _wheel(b, sx * 0.42 * w, at, r, 0.18, tyre, hub)


def bus(b: Builder, p: Palette) -> None:
    """A long box with rows of windows, one or two storeys."""
    u = p.rng.uniform
    paint, glass, tyre, hub = (
        b.material(p.painted()),
        b.material(p.shade(0.05, 0.3)),
        b.material(p.shade(0.03, 0.12)),
        b.material(p.metal()),
    )
    length, w = u(2.2, 3.6), u(0.8, 0.95)
    storeys = 2 if u() < 0.25 else 1
    h, low, r = (1.45 if storeys == 2 else u(0.85, 1.0)), 0.12, u(0.15, 0.19)
    b.box((0, 0, low + 0.5 * h), (w, length, h), paint, round=u(0.03, 0.12))
    count = int(p.rng.integers(4, 8))
    for s in range(storeys):
        z = low + h * (0.66 if storeys == 1 else (0.42, 0.8)[s])
        with b.group():
            for i in range(count):
                y = length * ((i + 0.5) / count - 0.5)
                b.box((0, y, z), (w + 0.02, 0.8 * length / count, 0.3), glass, round=0.02)
        for sy in SIDES:
            b.box((0, sy * 0.5 * length, z), (0.86 * w, 0.03, 0.34), glass, round=0.01)
    for sx in SIDES:
        for y in (-0.32 * length, 0.3 * length):
            _wheel(b, sx * (0.5 * w - 0.06), y, r, 0.14, tyre, hub)
        b.ball((sx * 0.36 * w, -0.5 * length, low + 0.2), 0.05, hub)
    b.box((0.5 * w, -0.4 * length, low + 0.36 * h), (0.03, 0.1 * length, 0.6 * h), glass)


def train(b: Builder, p: Palette) -> None:
    """A steam or a modern locomotive, sometimes with a wagon behind."""
    u = p.rng.uniform
    paint, dark, metal, glass = (
        b.material(p.painted()),
        b.material(p.shade(0.05, 0.25)),
        b.material(p.metal()),
        b.material(p.shade(0.05, 0.3)),
    )
    if u() < 0.6:
        length, r = u(0.9, 1.4), u(0.24, 0.32)
        b.box((0, 0.1, 0.28), (0.55, length + 0.5, 0.12), dark, round=0.02)
        b.rod((0, -0.5 * length, 0.34 + r), (0, 0.4 * length, 0.34 + r), r, paint, round=0.03)
        b.rod((0, -0.5 * length - 0.03, 0.34 + r), (0, -0.45 * length, 0.34 + r), 0.85 * r, dark, round=0.01)
        b.box((0, 0.5 * length, 0.34 + 1.25 * r), (0.62, 0.42, 2.5 * r), paint, round=0.02)
        b.box((0, 0.5 * length, 0.34 + 1.75 * r), (0.64, 0.26, 0.8 * r), glass)
        b.box((0, 0.5 * length, 0.36 + 2.6 * r), (0.72, 0.52, 0.05), dark, round=0.015)
        b.lathe((0, -0.36 * length, 0.3 + 2 * r), [(0.07, -0.1), (0.06, 0.12), (0.11, u(0.2, 0.3))], dark)
        b.ellipsoid((0, 0.05, 0.34 + 2 * r), (0.1, 0.1, 0.1), metal)
        outline = [(-0.3, 0.0), (0.3, 0.0), (0.0, -0.28)]
        b.prism((0, -0.5 * length - 0.12, 0.17), outline, 0.14, metal)
        wheels = int(p.rng.integers(2, 5))
        for sx in SIDES:
            for i in range(wheels):
                y = length * (0.9 * i / (wheels - 1) - 0.4)
                b.rod((sx * 0.22, y, 0.19), (sx * 0.3, y, 0.19), 0.17, metal, round=0.02)
            b.box((sx * 0.32, 0.05 * length, 0.17), (0.03, 0.9 * length, 0.04), dark)
        return
    length, h = u(1.6, 2.4), u(0.5, 0.62)
    nose = u(0.15, 0.6)
    outline = [
        (-0.5 * length, 0.14),
        (-0.5 * length - 0.02, 0.25),
        (-0.5 * length + nose, 0.14 + h),
        (0.5 * length, 0.14 + h),
        (0.5 * length, 0.14),
    ]
    b.prism((0, 0, 0), outline, 0.5, paint, round=0.03, rot=SIDEWAYS)
    for i in range(5):
        b.box((0, length * (0.16 * i - 0.2), 0.14 + 0.66 * h), (0.53, 0.11 * length, 0.15), glass, round=0.015)
    with b.placed(
        (0, -0.5 * length + 0.62 * nose, 0.14 + 0.68 * h), rotation("x", float(np.degrees(np.arctan2(nose, h))) * -1)
    ):
        b.box((0, -0.02, 0), (0.4, 0.05, 0.2), glass, round=0.01)
    for sx in SIDES:
        for y in (-0.36, -0.24, 0.24, 0.36):
            b.rod((sx * 0.14, y * length, 0.09), (sx * 0.22, y * length, 0.09), 0.09, dark, round=0.015)
    b.box((0, 0, 0.15), (0.36, 0.9 * length, 0.08), dark)


def airplane(b: Builder, p: Palette) -> None:
    """A fuselage, wings, a tail; propeller or jets."""
    u = p.rng.uniform
    body, wing, dark, metal = (
        b.material(p.painted()),
        b.material(p.painted()),
        b.material(p.shade(0.05, 0.3)),
        b.material(p.metal()),
    )
    wing = body if u() < 0.6 else wing
    length, r = u(1.6, 2.2), u(0.11, 0.18)
    profile = [
        (0, -0.5 * length),
        (0.7 * r, -0.45 * length),
        (r, -0.32 * length),
        (r, 0.15 * length),
        (0.5 * r, 0.4 * length),
        (0.15 * r, 0.5 * length),
    ]
    b.lathe((0, 0, 0), profile, body, round=0.01, rot=ALONG_Y)
    span, chord, sweep, taper = u(0.7, 1.1), u(0.28, 0.45), u(-0.05, 0.5), u(0.35, 1.0)
    height = u(-0.5, 0.7) * r
    dihedral = u(-2, 7)
    for sx in SIDES:
        outline = [
            (0, -0.5 * chord),
            (sx * span, -0.5 * chord * taper + sweep),
            (sx * span, 0.5 * chord * taper + sweep),
            (0, 0.5 * chord),
        ]
        b.prism((0, -0.05 * length, height), outline, 0.035, wing, round=0.015, rot=rotation("y", -sx * dihedral))
        tail = [(0, -0.13), (sx * 0.36, 0.0), (sx * 0.36, 0.12), (0, 0.13)]
        b.prism((0, 0.43 * length, 0.2 * r), tail, 0.025, wing, round=0.01)
    b.prism(
        (0, 0, 0),
        [(0.33 * length, 0.3 * r), (0.47 * length, u(0.32, 0.5)), (0.53 * length, u(0.32, 0.5)), (0.5 * length, 0)],
        0.028,
        wing,
        round=0.01,
        rot=SIDEWAYS,
    )
    b.ellipsoid((0, -0.28 * length, 0.75 * r), (0.6 * r, 0.13 * length, 0.5 * r), dark)
    kind = u()
    if kind < 0.4:
        y = -0.5 * length - 0.02
        b.capsule((0, y - 0.03, 0), (0, y + 0.06, 0), 0.03, metal, end=0.06)
        for i in range(int(p.rng.integers(2, 5))):
            with b.placed((0, y, 0), rotation("y", 90.0 * i + 20)):
                b.box((0, 0, 0.14), (0.05, 0.015, 0.28), dark, round=0.007)
    else:
        for sx in SIDES:
            for k in range(1 + int(kind > 0.8)):
                x = sx * span * (0.36 + 0.28 * k)
                y = -0.05 * length + sweep * abs(x) / span - 0.4 * chord
                z = height - 0.09 + abs(x) * float(np.tan(np.radians(dihedral)))
                b.rod((x, y - 0.12, z), (x, y + 0.15, z), 0.065, metal, end=0.05, round=0.012)
                b.rod((x, y - 0.13, z), (x, y - 0.1, z), 0.05, dark)
    if u() < 0.5:
        for x, y in ((0.25, 0.02), (-0.25, 0.02), (0.0, -0.34 * length)):
            b.rod((x, y, -0.3), (x * 0.6, y, height), 0.014, metal)
            b.rod((x - 0.02, y, -0.3), (x + 0.02, y, -0.3), 0.06, dark, round=0.01)


def helicopter(b: Builder, p: Palette) -> None:
    """A cabin, a tail boom, rotors, skids."""
    u = p.rng.uniform
    body, glass, dark = b.material(p.painted()), b.material(p.shade(0.05, 0.35)), b.material(p.shade(0.08, 0.4))
    r, tail = u(0.22, 0.3), u(0.7, 1.0)
    b.ellipsoid((0, 0, 0), (0.85 * r, 1.5 * r, r), body)
    b.ellipsoid((0, -0.5 * r, 0.12 * r), (0.8 * r, 1.1 * r, 0.8 * r), glass)
    b.capsule((0, 0.8 * r, 0.25 * r), (0, tail, 0.45 * r), 0.35 * r, body, end=0.05)
    b.prism(
        (0, 0, 0),
        [(tail - 0.12, 0.3 * r), (tail + 0.03, 0.3), (tail + 0.1, 0.3), (tail + 0.03, 0.2 * r)],
        0.025,
        body,
        round=0.008,
        rot=SIDEWAYS,
    )
    b.rod((0, 0.1 * r, 0.8 * r), (0, 0.1 * r, 1.35 * r), 0.035, dark)
    blades, span, turn = int(p.rng.integers(2, 5)), u(0.7, 1.0), u(0, 90)
    for i in range(blades):
        with b.placed((0, 0.1 * r, 1.35 * r), rotation("z", turn + 360 * i / blades)):
            b.box((0.5 * span, 0, 0), (span, 0.07, 0.018), dark, round=0.008)
    for i in range(3):
        with b.placed((0.06, tail + 0.02, 0.24), rotation("x", 120 * i + 15)):
            b.box((0, 0, 0.08), (0.012, 0.03, 0.17), dark)
    b.rod((-0.02, tail + 0.02, 0.24), (0.07, tail + 0.02, 0.24), 0.014, dark)
    for sx in SIDES:
        x, z = sx * 0.8 * r, -1.4 * r
        b.capsule((x, -1.4 * r, z + 0.02), (x, 1.2 * r, z), 0.022, dark)
        for y in (-0.5 * r, 0.5 * r):
            b.rod((x, y, z), (sx * 0.4 * r, y, -0.7 * r), 0.014, dark)


def boat(b: Builder, p: Palette) -> None:
    """A hull, hollow or decked; a cabin and funnel, or a mast and sails."""
    u = p.rng.uniform
    hull, deck, sail = b.material(p.painted() if u() < 0.6 else p.wood()), b.material(p.wood()), b.material(p.fabric())
    length, w, h = u(1.3, 2.0), u(0.4, 0.6), u(0.2, 0.32)
    ends = (
        [(-0.2 * w, 0.5 * length), (0.2 * w, 0.5 * length)]
        if u() < 0.4
        else [(-0.42 * w, 0.5 * length), (0.42 * w, 0.5 * length)]
    )
    outline = [
        (0, -0.5 * length),
        (0.32 * w, -0.3 * length),
        (0.5 * w, 0.0),
        (0.47 * w, 0.3 * length),
        ends[1],
        ends[0],
        (-0.47 * w, 0.3 * length),
        (-0.5 * w, 0.0),
        (-0.32 * w, -0.3 * length),
    ]
    with b.group(warp="taper", amount=u(0.8, 1.6)):
        b.prism((0, 0, -0.5 * h), outline, h, hull, round=0.02)
        depth = u(0.3, 0.75) * h if u() < 0.6 else 0.04
        inner = [(0.86 * x, 0.9 * y) for x, y in outline]
        b.prism((0, 0, 0.05), inner, 2 * depth + 0.1, deck, op="subtract")
    kind = u()
    if kind < 0.45:
        mast = u(0.9, 1.4)
        b.rod((0, -0.08 * length, -0.6 * h), (0, -0.08 * length, mast), 0.022, deck, end=0.014)
        b.prism(
            (0, 0, 0),
            [(-0.04 * length, 0.16), (-0.06 * length, 0.95 * mast), (0.42 * length, 0.16)],
            0.022,
            sail,
            rot=SIDEWAYS,
        )
        b.rod((0, -0.08 * length, 0.13), (0, 0.42 * length, 0.13), 0.014, deck)
        if u() < 0.6:
            b.prism(
                (0, 0, 0),
                [(-0.47 * length, 0.08), (-0.12 * length, 0.12), (-0.11 * length, 0.8 * mast)],
                0.018,
                sail,
                rot=SIDEWAYS,
            )
    elif kind < 0.8:
        glass, red = b.material(p.shade(0.05, 0.3)), b.material(p.painted())
        tall = u(0.18, 0.3)
        b.box((0, 0.1 * length, 0.5 * tall - 0.12), (0.6 * w, 0.4 * length, tall + 0.2), sail, round=0.02)
        b.box((0, 0.1 * length, 0.6 * tall), (0.62 * w, 0.3 * length, 0.3 * tall), glass)
        if u() < 0.7:
            b.rod((0, 0.16 * length, tall - 0.05), (0, 0.18 * length, tall + u(0.15, 0.3)), 0.07, red, round=0.01)
    else:
        for y in (-0.15, 0.2):
            b.box((0, y * length, -0.25 * h), (0.86 * w, 0.12, 0.03), deck)
        for sx in SIDES:
            b.capsule((sx * 0.2, 0.1, 0.05), (sx * 0.85, 0.3, -0.1), 0.018, deck)
            b.ellipsoid((sx * 0.9, 0.315, -0.11), (0.15, 0.06, 0.02), deck)


def bicycle(b: Builder, p: Palette) -> None:
    """Two wheels, a frame, handlebar and saddle; or a scooter or motorbike."""
    u = p.rng.uniform
    frame, tyre, metal, dark = (
        b.material(p.painted()),
        b.material(p.shade(0.03, 0.15)),
        b.material(p.metal()),
        b.material(p.shade(0.04, 0.3)),
    )
    kind = p.rng.integers(3)
    r = u(0.3, 0.35) if kind == 0 else u(0.2, 0.3)
    base, tube, fat = u(0.95, 1.1), u(0.015, 0.022), (0.02 if kind == 0 else u(0.05, 0.07))
    front, rear = -0.5 * base, 0.5 * base
    for y in (front, rear):
        b.torus((0, y, r + fat), r, fat, tyre, rot=ALONG_X)
        b.capsule((-0.05, y, r + fat), (0.05, y, r + fat), 0.03, metal)
        spokes = 4 if kind == 0 else 3
        for i in range(spokes):
            a = np.pi * i / spokes
            s, c = r * np.sin(a), r * np.cos(a)
            b.rod((0, y - s, r + fat - c), (0, y + s, r + fat + c), 0.008 if kind == 0 else 0.025, metal)
    hub = r + fat
    if kind == 0:
        head, seat, pedal = (0, front + 0.16, 0.82), (0, rear - 0.34, 0.82), (0, 0.02, 0.3)
        low_step = u() < 0.3
        for start, stop in (
            ((0, front + 0.2, 0.7), pedal),
            (pedal, seat),
            ((0, front + 0.2, 0.72), (0, rear - 0.4, 0.42 if low_step else 0.74)),
            (pedal, (0, rear, hub)),
            ((0, rear - 0.35, 0.76), (0, rear, hub)),
            (head, (0, front, hub)),
        ):
            b.capsule(start, stop, tube, frame)
        b.capsule(head, (0, front + 0.2, 0.96), 0.014, metal)
        b.tube(
            (-0.28, front + u(0.2, 0.36), 0.98), (0, front + 0.1, 1.0), (0.28, front + u(0.2, 0.36), 0.98), 0.016, dark
        )
        b.rod(seat, (0, rear - 0.36, 0.9), 0.014, metal)
        b.capsule((0, rear - 0.5, 0.93), (0, rear - 0.3, 0.94), 0.03, dark, end=0.07)
        b.rod((-0.02, 0.02, 0.3), (0.03, 0.02, 0.3), 0.09, metal)
        for sx in SIDES:
            b.capsule((sx * 0.04, 0.02, 0.3), (sx * 0.06, 0.02 + sx * 0.12, 0.3), 0.012, dark)
            b.box((sx * 0.11, 0.02 + sx * 0.12, 0.3), (0.1, 0.07, 0.02), dark)
        return
    b.capsule((0, front, hub), (0, front + 0.2, 0.85), 0.04, metal)
    b.tube((-0.3, front + 0.3, 0.9), (0, front + 0.1, 0.88), (0.3, front + 0.3, 0.9), 0.02, dark)
    b.ball((0, front + 0.1, 0.74), 0.08, metal)
    if kind == 1:
        b.ellipsoid((0, -0.05, 0.66), (0.13, 0.25, 0.14), frame)
        b.capsule((0, 0.15, 0.66), (0, rear - 0.02, 0.68), 0.08, dark, end=0.07)
        b.ellipsoid((0, 0.0, 0.38), (0.14, 0.2, 0.17), metal)
        b.capsule((0, 0.05, 0.42), (0, rear, hub), 0.045, frame)
        b.capsule((0.13, 0.0, 0.3), (0.13, rear + 0.15, 0.28), 0.035, metal, end=0.05)
    else:
        b.tube((0, front + 0.19, 0.8), (0, front + 0.3, 0.1), (0, 0.1, 0.24), 0.07, frame)
        b.box((0, 0.0, 0.22), (0.24, 0.5, 0.06), frame, round=0.02)
        b.ellipsoid((0, rear - 0.12, 0.44), (0.16, 0.34, 0.22), frame)
        b.ellipsoid((0, rear - 0.18, 0.66), (0.12, 0.3, 0.06), dark)
    b.torus((0, front, hub), r + fat + 0.015, 0.03, frame, arc=120, rot=ALONG_X @ rotation("z", 90))


def cart(b: Builder, p: Palette) -> None:
    """A wheelbarrow, a hand cart or a pram."""
    u = p.rng.uniform
    tub, metal, tyre = b.material(p.any()), b.material(p.metal()), b.material(p.shade(0.04, 0.2))
    kind = p.rng.integers(2)
    if kind == 0:
        outline = [(-0.34, 0.3), (0.36, 0.3), (0.5, 0.62), (-0.62, 0.66)]
        with b.group():
            b.prism((0, 0, 0), outline, u(0.45, 0.6), tub, round=0.02, rot=SIDEWAYS)
            inner = [(0.9 * x - 0.01, z + 0.06) for x, z in outline]
            b.prism((0, 0, 0), inner, 0.42, tub, rot=SIDEWAYS, op="subtract")
        b.torus((0, -0.6, 0.17), 0.13, 0.045, tyre, rot=ALONG_X)
        b.rod((-0.06, -0.6, 0.17), (0.06, -0.6, 0.17), 0.09, metal)
        for sx in SIDES:
            b.capsule((sx * 0.07, -0.6, 0.17), (sx * 0.24, 0.95, 0.52), 0.022, metal)
            b.capsule((sx * 0.2, 0.3, 0.3), (sx * 0.24, 0.42, 0.02), 0.02, metal)
        return
    w, length, h, r = u(0.45, 0.6), u(0.8, 1.1), u(0.15, 0.4), u(0.1, 0.18)
    with b.group():
        b.box((0, 0, 2 * r + 0.5 * h), (w, length, h), tub, round=0.02)
        b.box((0, 0, 2 * r + 0.5 * h + 0.05), (w - 0.07, length - 0.07, h), tub, op="subtract")
    for sx in SIDES:
        for y in (-0.32 * length, 0.32 * length):
            _wheel(b, sx * (0.5 * w), y, r, 0.06, tyre, metal)
    with b.placed((0, 0.5 * length, 2 * r + 0.1), rotation("x", -u(10, 50))):
        for sx in SIDES:
            b.capsule((sx * 0.35 * w, 0, 0), (sx * 0.35 * w, 0, 0.6), 0.018, metal)
        b.capsule((-0.4 * w, 0, 0.6), (0.4 * w, 0, 0.6), 0.022, tyre)


def tractor(b: Builder, p: Palette) -> None:
    """Large rear wheels, an engine hood, a cab, an exhaust; at times a shovel."""
    u = p.rng.uniform
    paint, glass, tyre, hub = (
        b.material(p.painted()),
        b.material(p.shade(0.1, 0.4)),
        b.material(p.shade(0.03, 0.14)),
        b.material(p.painted()),
    )
    metal = b.material(p.metal())
    big, small = u(0.36, 0.46), u(0.2, 0.28)
    b.box((0, -0.35, 0.5), (0.34, 0.8, 0.34), paint, round=0.05)
    b.box((0, 0.25, 0.42), (0.45, 0.55, 0.3), paint, round=0.04)
    if u() < 0.7:
        b.box((0, 0.26, 0.85), (0.5, 0.5, 0.6), glass, round=0.03)
        b.box((0, 0.26, 1.16), (0.58, 0.6, 0.06), paint, round=0.02)
        for sx in SIDES:
            for y in (0.03, 0.49):
                b.rod((sx * 0.25, y, 0.5), (sx * 0.25, y, 1.15), 0.022, paint)
    else:
        b.box((0, 0.35, 0.66), (0.3, 0.25, 0.08), tyre, round=0.03)
        b.box((0, 0.48, 0.82), (0.3, 0.05, 0.3), tyre, round=0.02)
        b.torus((0, 0.08, 0.84), 0.12, 0.014, tyre, rot=rotation("x", 60))
        b.rod((0, -0.05, 0.55), (0, 0.08, 0.84), 0.015, tyre)
    b.rod((0.08, -0.45, 0.6), (0.08, -0.45, u(0.85, 1.1)), 0.025, metal)
    for sx in SIDES:
        _wheel(b, sx * 0.36, 0.35, big, 0.2, tyre, hub)
        _wheel(b, sx * 0.28, -0.55, small, 0.14, tyre, hub)
    if u() < 0.4:
        for sx in SIDES:
            b.tube((sx * 0.2, -0.1, 0.6), (sx * 0.2, -0.7, 0.95), (sx * 0.2, -1.0, 0.25), 0.03, hub)
        b.prism((0, 0, 0), [(-1.25, 0.06), (-0.98, 0.06), (-0.95, 0.36)], 0.7, metal, round=0.015, rot=SIDEWAYS)


def rocket(b: Builder, p: Palette) -> None:
    """A standing rocket with fins, or a flying saucer."""
    u = p.rng.uniform
    body, fin, glass = b.material(p.painted()), b.material(p.painted()), b.material(p.shade(0.1, 0.4))
    if u() < 0.7:
        h, r = u(0.8, 1.2), u(0.12, 0.2)
        profile = [
            (0.7 * r, 0.1),
            (r, 0.35 * h),
            (0.95 * r, 0.6 * h),
            (0.65 * r, 0.8 * h),
            (0.25 * r, 0.95 * h),
            (0, h),
        ]
        b.lathe((0, 0, 0), profile, body, round=0.01)
        b.rod((0, 0, 0.02), (0, 0, 0.12), 0.6 * r, glass, end=0.4 * r)
        b.rod((0, -r, 0.62 * h), (0, -0.8 * r, 0.62 * h), 0.4 * r, fin)
        b.ellipsoid((0, -r - 0.005, 0.62 * h), (0.3 * r, 0.02, 0.3 * r), glass)
        fins = int(p.rng.integers(3, 5))
        for i in range(fins):
            with b.placed((0, 0, 0), rotation("z", 360 * i / fins + 45)):
                outline = [(0.6 * r, 0.1), (2.1 * r, -0.02), (2.2 * r, 0.12), (0.85 * r, 0.42 * h)]
                b.prism((0, 0, 0), outline, 0.03, fin, round=0.012, rot=rotation("x", 90))
        return
    r = u(0.5, 0.6)
    b.lathe((0, 0, 0), [(0.2, -0.1), (r, 0.0), (r, 0.02), (0.25, 0.12)], body, round=0.01)
    b.ellipsoid((0, 0, 0.1), (0.25, 0.25, u(0.15, 0.25)), glass)
    for i in range(8):
        a = i * np.pi / 4
        b.ball((0.8 * r * np.cos(a), 0.8 * r * np.sin(a), 0.045), 0.035, fin)
    for i in range(3):
        a = 2 * np.pi * i / 3 + 0.5
        b.capsule((0.3 * np.cos(a), 0.3 * np.sin(a), 0), (0.42 * np.cos(a), 0.42 * np.sin(a), -0.28), 0.02, fin)
