"""Tools, instruments, devices, clothes, bags, toys and buildings. Fronts face -Y; tools stand on their handles."""

import numpy as np

from mvsam3d.training.objects.program import ALONG_X, ALONG_Y, Builder, rotation
from mvsam3d.training.objects.textures import Decal, Palette

SIDES = (-1, 1)
FACING_FRONT = rotation("x", 90)  # a prism drawn as (x, z), or a decal, seen from the front
SIDEWAYS = rotation("z", 90) @ rotation("x", 90)  # a prism drawn as (y, z)


def hammer(b: Builder, p: Palette) -> None:
    """Handle below, head above; the face looks to the front."""
    u = p.rng.uniform
    handle, head = b.material(p.wood() if u() < 0.6 else p.painted()), b.material(p.metal() if u() < 0.7 else p.any())
    h, r = u(0.7, 1.1), u(0.03, 0.045)
    b.rod((0, 0, 0), (0, 0, h), r, handle, end=0.75 * r, round=0.01)
    kind, size = p.rng.integers(3), u(0.07, 0.12)
    if kind == 0:
        b.box((0, 0, h - 0.03), (1.3 * size, u(0.3, 0.55), 1.4 * size), head, round=u(0.005, 0.03))
        return
    b.rod((0, -u(0.18, 0.26), h), (0, -0.1, h), size, head, round=0.012)
    b.rod((0, -0.12, h), (0, 0.08, h), 0.65 * size, head)
    if kind == 1:
        for sx in SIDES:
            b.tube((0, 0.05, h), (sx * 0.02, 0.2, h + 0.06), (sx * 0.05, 0.34, h - 0.08), 0.5 * size, head, end=0.02)
    else:
        b.prism(
            (0, 0, h),
            [(0.05, -0.5 * size), (0.05, 0.5 * size), (0.3, 0.1 * size), (0.3, -0.1 * size)],
            1.5 * size,
            head,
            rot=SIDEWAYS,
        )


def axe(b: Builder, p: Palette) -> None:
    """The edge looks to the front."""
    u = p.rng.uniform
    handle, head = b.material(p.wood() if u() < 0.7 else p.painted()), b.material(p.metal())
    h, bow = u(0.7, 1.2), u(-0.1, 0.1)
    b.tube((0, 0, 0), (0, bow, 0.5 * h), (0, 0, h), 0.035, handle, end=0.03)
    w, d, edge = u(0.08, 0.14), u(0.16, 0.3), u(0.14, 0.26)
    z = h - 0.1
    outline = [
        (0.06, -0.6 * w),
        (-0.05, -0.5 * w),
        (-d, -edge),
        (-d - 0.03, 0),
        (-d, 0.8 * edge),
        (-0.05, 0.6 * w),
        (0.06, 0.6 * w),
    ]
    with b.group():
        b.prism((0, 0, z), outline, 0.09, head, rot=SIDEWAYS)
        for sx in SIDES:
            b.box((sx * 0.085, -d, z), (0.1, 2 * d, 2), op="subtract", rot=rotation("z", -sx * u(8, 12)))
    if u() < 0.25:
        back = [(-y, q) for y, q in outline]
        b.prism((0, 0, z), back, 0.03, head, rot=SIDEWAYS)


def screwdriver(b: Builder, p: Palette) -> None:
    """A thick handle below, a shaft and a tip above; also brushes, pens and chisels."""
    u = p.rng.uniform
    handle, shaft, tip = b.material(p.painted()), b.material(p.metal()), b.material(p.any())
    h, r, long = u(0.25, 0.45), u(0.05, 0.09), u(0.3, 0.7)
    kind = p.rng.integers(3)
    profile = [(0.6 * r, 0), (r, 0.06), (r, 0.4 * h), (0.65 * r, 0.75 * h), (0.8 * r, 0.9 * h), (0.5 * r, h)]
    b.lathe((0, 0, 0), profile, handle, round=0.01)
    if kind == 0:
        b.rod((0, 0, h), (0, 0, h + long), 0.022, shaft)
        b.box((0, 0, h + long), (0.06, 0.02, 0.1), shaft, round=0.005)
    elif kind == 1:
        b.rod((0, 0, h), (0, 0, h + 0.5 * long), 0.7 * r, shaft)
        b.box((0, 0, h + 0.5 * long + 0.08), (u(1.4, 3.0) * r, 1.0 * r, 0.2), tip, round=0.02)
    else:
        w = u(0.05, 0.12)
        b.rod((0, 0, h), (0, 0, h + 0.4 * long), 0.025, shaft)
        b.prism(
            (0, 0, 0),
            [(-0.02, h + 0.3 * long), (-w, h + long), (w, h + 1.05 * long), (0.02, h + 0.3 * long)],
            0.025,
            shaft,
            round=0.005,
            rot=FACING_FRONT,
        )


def shovel(b: Builder, p: Palette) -> None:
    """Shovels, rakes, brooms: the head below, the handle above."""
    u = p.rng.uniform
    stick, head = b.material(p.wood()), b.material(p.metal() if u() < 0.7 else p.painted())
    h, kind = u(0.8, 1.3), p.rng.integers(3)
    b.rod((0, 0, 0.3), (0, 0, 0.3 + h), 0.022, stick)
    if kind == 0:
        w = u(0.12, 0.18)
        with b.placed((0, 0, 0.2)), b.group(warp="bend", amount=u(0.8, 2.0)):
            b.prism(
                (0, 0, 0),
                [(-w, 0.18), (-w, -0.05), (0, -u(0.1, 0.24)), (w, -0.05), (w, 0.18)],
                0.022,
                head,
                round=0.008,
                rot=FACING_FRONT @ rotation("x", 0),
            )
        b.torus((0, 0, 0.36 + h), 0.07, 0.02, stick, rot=rotation("x", 90))
        b.rod((0, 0, 0.2), (0, 0, 0.5), 0.03, head)
    elif kind == 1:
        w = u(0.2, 0.32)
        b.box((0, 0, 0.3), (2 * w, 0.04, 0.04), head)
        teeth = int(p.rng.integers(5, 9))
        for i in range(teeth):
            x = 2 * w * (i / (teeth - 1) - 0.5) * 0.96
            b.tube((x, 0, 0.3), (x, -0.02, 0.14), (x, -0.12, 0.1), 0.015, head)
    else:
        w = u(0.12, 0.26)
        b.box((0, 0, 0.28), (2 * w, 0.1, 0.08), head, round=0.02)
        bristles = b.material(p.fur())
        b.prism(
            (0, 0, 0),
            [(-w, 0.25), (w, 0.25), (1.25 * w, 0.0), (-1.25 * w, 0.0)],
            0.12,
            bristles,
            round=0.01,
            rot=FACING_FRONT,
        )


def pliers(b: Builder, p: Palette) -> None:
    """Pliers or scissors standing on two handles, a little open; or a spanner."""
    u = p.rng.uniform
    grip, metal = b.material(p.painted()), b.material(p.metal())
    kind, spread = p.rng.integers(3), u(0.08, 0.18)
    if kind == 2:
        h = u(0.6, 0.9)
        with b.group():
            b.capsule((0, 0, 0), (0, 0, h), 0.05, metal)
            b.rod((0, -0.035, h), (0, 0.035, h), 0.14, metal, round=0.01)
            b.rod((0, -0.035, 0), (0, 0.035, 0), 0.12, metal, round=0.01)
            b.box((0.02, 0, h + 0.1), (0.13, 1, 0.22), op="subtract", rot=rotation("y", u(-15, 15)))
            b.rod((0, -1, 0), (0, 1, 0), 0.07, op="subtract")
        return
    for sx in SIDES:
        if kind == 0:
            b.tube((sx * 0.02, 0, 0.4), (sx * (spread + 0.08), 0, 0.3), (sx * spread, 0, 0.0), 0.035, grip, end=0.04)
            b.prism(
                (0, 0, 0),
                [
                    (-sx * 0.03, 0.4),
                    (sx * 0.07, 0.46),
                    (-sx * 0.06 + sx * 0.8 * spread, u(0.65, 0.8)),
                    (-sx * 0.06 + sx * 0.45 * spread, 0.66),
                ],
                0.06,
                metal,
                round=0.01,
                rot=FACING_FRONT,
            )
        else:
            b.torus((sx * spread, 0, 0.1), u(0.08, 0.11), 0.028, grip, rot=rotation("x", 90))
            b.capsule((sx * spread * 0.8, 0, 0.18), (0, 0, 0.42), 0.03, grip)
            tip = -sx * 0.5 * spread
            b.prism(
                (0, sx * 0.012, 0),
                [(sx * 0.03, 0.36), (-sx * 0.03, 0.36), (tip, u(0.85, 1.0)), (tip + sx * 0.03, 0.8)],
                0.02,
                metal,
                round=0.006,
                rot=FACING_FRONT,
            )
    b.rod((0, -0.05, 0.42), (0, 0.05, 0.42), 0.06 if kind == 0 else 0.03, metal, round=0.01)


def guitar(b: Builder, p: Palette) -> None:
    """A standing guitar or violin, strings to the front."""
    u = p.rng.uniform
    body, neck, dark = (
        b.material(p.wood() if u() < 0.6 else p.painted()),
        b.material(p.wood()),
        b.material(p.shade(0.03, 0.2)),
    )
    low, high, t, gap = u(0.19, 0.25), u(0.14, 0.19), u(0.05, 0.1), u(0.24, 0.3)
    top = low + gap + high
    with b.group():
        b.rod((0, -t, low), (0, t, low), low, body, round=0.015)
        b.rod((0, -t, low + gap), (0, t, low + gap), high, body, round=0.015, blend=0.08)
        if u() < 0.25:
            b.rod((0.6 * high + 0.1, -1, top - 0.02), (0.6 * high + 0.1, 1, top - 0.02), 0.09, op="subtract")
    long = u(0.4, 0.6)
    b.box((0, -t, top + 0.5 * long - 0.1), (0.06, 0.05, long + 0.2), neck, round=0.012)
    b.box((0, -t - 0.028, top + 0.5 * long - 0.15), (0.056, 0.012, long + 0.1), dark)
    with b.placed((0, -t, top + long + 0.02), rotation("x", -u(0, 15))):
        b.box((0, 0.01, 0.05), (u(0.09, 0.13), 0.035, 0.17), neck, round=0.01)
        for sx in SIDES:
            for i in range(3):
                b.capsule((sx * 0.05, 0.01, 0.05 * i), (sx * 0.085, 0.01, 0.05 * i), 0.011, dark)
    b.rod((0, -t - 0.004, low + gap - 0.04), (0, -t + 0.01, low + gap - 0.04), u(0.05, 0.075), dark)
    b.box((0, -t - 0.012, 0.75 * low), (0.14, 0.025, 0.03), dark, round=0.006)
    for i in range(3):
        b.rod((0.016 * (i - 1), -t - 0.034, 0.75 * low), (0.016 * (i - 1), -t - 0.036, top + long), 0.003, dark)


def headphones(b: Builder, p: Palette) -> None:
    """A band over two cushioned cups."""
    u = p.rng.uniform
    band, cup, soft = b.material(p.any()), b.material(p.painted()), b.material(p.shade(0.04, 0.4))
    r, size = u(0.34, 0.42), u(0.14, 0.2)
    b.torus((0, 0, 0), r, u(0.02, 0.045), band, arc=u(185, 215), rot=rotation("x", 90))
    for sx in SIDES:
        with b.placed((sx * r, 0, -0.12), rotation("y", sx * u(0, 12))):
            b.rod((sx * 0.0, 0, 0), (sx * 0.08, 0, 0), size, cup, round=0.03)
            b.torus((-sx * 0.02, 0, 0), 0.75 * size, 0.05, soft, rot=ALONG_X)
            b.rod((-sx * 0.02, 0, 0), (sx * 0.02, 0, 0), 0.7 * size, soft)


def camera(b: Builder, p: Palette) -> None:
    """A body, a lens to the front, a flash or prism on top."""
    u = p.rng.uniform
    body, grip, glass, metal = (
        b.material(p.shade(0.05, 0.3) if u() < 0.5 else p.painted()),
        b.material(p.shade(0.03, 0.2)),
        b.material(p.shade(0.05, 0.2)),
        b.material(p.metal()),
    )
    w, h, d = u(0.45, 0.6), u(0.28, 0.38), u(0.14, 0.22)
    b.box((0, 0, 0.5 * h), (w, d, h), body, round=u(0.02, 0.06))
    x, r, long = u(-0.06, 0.06), u(0.1, 0.15), u(0.06, 0.35)
    y = -0.5 * d
    b.rod((x, y, 0.48 * h), (x, y - long, 0.48 * h), r, grip, end=u(0.8, 1.1) * r, round=0.01)
    b.torus((x, y - long, 0.48 * h), 0.85 * r, 0.02, metal, rot=ALONG_Y)
    b.ellipsoid((x, y - long, 0.48 * h), (0.75 * r, 0.03, 0.75 * r), glass)
    if u() < 0.6:
        b.prism(
            (x, 0, h),
            [(-0.11, -0.02), (0.11, -0.02), (0.06, u(0.06, 0.12)), (-0.06, u(0.06, 0.12))],
            0.9 * d,
            body,
            round=0.01,
            rot=FACING_FRONT,
        )
    b.rod((-0.36 * w, 0, h - 0.01), (-0.36 * w, 0, h + 0.03), 0.04, metal, round=0.006)
    b.rod((0.32 * w, 0, h - 0.01), (0.32 * w, 0, h + 0.025), 0.055, metal, round=0.006)
    if u() < 0.6:
        b.box((-0.42 * w, y, 0.45 * h), (0.14 * w, 0.1, 0.85 * h), grip, round=0.035)


def laptop(b: Builder, p: Palette) -> None:
    """Keyboard half on the table, screen half opened towards the front."""
    u = p.rng.uniform
    shell, dark, screen = (
        b.material(p.shade(0.1, 0.9) if u() < 0.7 else p.painted()),
        b.material(p.shade(0.03, 0.25)),
        b.material(p.painted()),
    )
    w, t = 0.34, u(0.012, 0.022)
    d = u(0.2, 0.25)
    b.box((0, 0, 0.5 * t), (w, d, t), shell, round=0.005)
    rows = 4
    for i in range(rows):
        b.box((0, d * (0.32 - 0.13 * i), t), (0.86 * w, 0.1 * d, 0.006), dark, round=0.002)
    b.box((0, -0.36 * d, t), (0.28 * w, 0.18 * d, 0.003), dark)
    with b.placed((0, 0.5 * d, t), rotation("x", -u(0, 45))):
        b.box((0, 0, 0.5 * d), (w, 0.6 * t + 0.004, d), shell, round=0.004)
        b.box((0, -0.3 * t - 0.002, 0.52 * d), (0.92 * w, 0.004, 0.86 * d), screen)
    b.rod((-0.3 * w, 0.5 * d, t), (0.3 * w, 0.5 * d, t), 0.008, dark)


def phone(b: Builder, p: Palette) -> None:
    """A phone, remote control or calculator standing up, keys to the front."""
    u = p.rng.uniform
    shell, dark, key = b.material(p.painted()), b.material(p.shade(0.03, 0.2)), b.material(p.plain())
    w, t, h = u(0.25, 0.5), u(0.05, 0.1), 1.0
    b.box((0, 0, 0.5), (w, t, h), shell, round=u(0.01, 0.045))
    y = -0.5 * t
    if u() < 0.45:
        b.box((0, y, 0.52), (0.9 * w, 0.012, 0.88), dark, round=0.005)
        b.box((0, y - 0.004, 0.52), (0.84 * w, 0.012, 0.78), key)
        return
    split = u(0.5, 0.7)
    b.box((0, y, 0.5 * (split + 0.95)), (0.8 * w, 0.015, 0.9 * (0.95 - split)), dark)
    columns, rows = int(p.rng.integers(3, 5)), int(p.rng.integers(3, 6))
    with b.group():
        for i in range(columns):
            for k in range(rows):
                x, z = w * 0.8 * ((i + 0.5) / columns - 0.5), 0.06 + (split - 0.1) * (k + 0.5) / rows
                b.box((x, y, z), (0.55 * w / columns, 0.04, 0.5 * split / rows), key, round=0.012)
    if u() < 0.5:
        b.rod((0.35 * w, 0, h - 0.02), (0.35 * w, 0, h + u(0.08, 0.3)), 0.03, dark, round=0.01)


def radio(b: Builder, p: Palette) -> None:
    """A radio or loudspeaker with grilles, knobs, a carrying handle, an aerial."""
    u = p.rng.uniform
    shell, grille, knob = (
        b.material(p.painted() if u() < 0.6 else p.wood()),
        b.material(p.shade(0.05, 0.4)),
        b.material(p.metal()),
    )
    w, d, h = u(0.4, 1.0), u(0.2, 0.35), u(0.35, 0.7)
    b.box((0, 0, 0.5 * h), (w, d, h), shell, round=u(0.01, 0.08))
    y, r = -0.5 * d, 0.36 * min(h, 0.55 * w)
    for x in (-0.27 * w, 0.27 * w) if w > 1.2 * h else (0.0,):
        b.torus((x, y, 0.45 * h), r, 0.025, knob, rot=ALONG_Y)
        b.ellipsoid((x, y, 0.45 * h), (r, 0.025, r), grille)
        b.ellipsoid((x, y - 0.02, 0.45 * h), (0.35 * r, 0.035, 0.35 * r), shell)
    b.box((0, y, 0.85 * h), (0.5 * w, 0.015, 0.14 * h), grille)
    for sx in SIDES:
        b.rod((sx * 0.38 * w, y - 0.03, 0.86 * h), (sx * 0.38 * w, y, 0.86 * h), 0.04, knob, round=0.008)
    if u() < 0.5:
        b.tube((-0.36 * w, 0, h - 0.02), (0, 0, h + u(0.2, 0.4)), (0.36 * w, 0, h - 0.02), 0.022, knob)
    if u() < 0.4:
        b.capsule((0.4 * w, 0.3 * d, h), (0.4 * w + u(-0.3, 0.3), 0.3 * d, h + 0.5), 0.014, knob)


def game_controller(b: Builder, p: Palette) -> None:
    """Two grips, sticks and buttons on top; held towards the front."""
    u = p.rng.uniform
    shell, dark, key = b.material(p.painted()), b.material(p.shade(0.03, 0.25)), b.material(p.painted())
    w, t = u(0.26, 0.34), u(0.06, 0.09)
    with b.group():
        b.box((0, 0, 0), (1.5 * w, 0.3, 1.6 * t), shell, round=0.7 * t)
        for sx in SIDES:
            b.ellipsoid((sx * 0.75 * w, 0.02, 0), (0.17, 0.17, 1.05 * t), shell, blend=0.04)
            b.capsule(
                (sx * 0.8 * w, -0.02, 0),
                (sx * u(0.85, 1.1) * w, -u(0.25, 0.36), -0.04),
                0.09,
                shell,
                end=0.065,
                blend=0.06,
            )
    for sx in SIDES:
        b.rod((sx * 0.36 * w, -0.09, 0), (sx * 0.36 * w, -0.09, t + 0.05), 0.03, dark)
        b.rod((sx * 0.36 * w, -0.09, t + 0.04), (sx * 0.36 * w, -0.09, t + 0.07), 0.055, dark, round=0.01)
        b.capsule((sx * 0.65 * w, 0.17, 0.02), (sx * 0.9 * w, 0.15, 0.02), 0.035, dark)
    for i in range(4):
        a = i * np.pi / 2
        b.rod(
            (0.75 * w + 0.055 * np.cos(a), 0.04 + 0.055 * np.sin(a), 0),
            (0.75 * w + 0.055 * np.cos(a), 0.04 + 0.055 * np.sin(a), t + 0.03),
            0.024,
            key,
        )
    for size in ((0.13, 0.04), (0.04, 0.13)):
        b.box((-0.75 * w, 0.04, t), (*size, 0.05), dark, round=0.005)


def drill(b: Builder, p: Palette) -> None:
    """A power drill or a hair dryer: barrel to the front, grip below."""
    u = p.rng.uniform
    shell, dark, metal = b.material(p.painted()), b.material(p.shade(0.03, 0.25)), b.material(p.metal())
    r, back, front = u(0.09, 0.13), u(0.12, 0.22), u(0.2, 0.32)
    z = 0.55
    b.rod((0, back, z), (0, -front, z), r, shell, end=u(0.7, 1.0) * r, round=0.03)
    b.capsule((0, 0.05, z), (0, 0.12, 0.14), 0.07, shell if u() < 0.5 else dark, end=0.065)
    b.box((0, -0.04, z - r - 0.06), (0.04, 0.04, 0.09), dark, round=0.015)
    if u() < 0.6:
        b.rod((0, -front + 0.02, z), (0, -front - 0.13, z), 0.065, dark, end=0.04)
        b.rod((0, -front - 0.1, z), (0, -front - u(0.25, 0.4), z), 0.014, metal)
        b.box((0, 0.1, 0.07), (0.17, 0.28, 0.14), dark, round=0.02)
    else:
        b.rod((0, -front + 0.03, z), (0, -front - u(0.1, 0.2), z), 0.8 * r, dark, end=u(0.5, 1.2) * r, round=0.008)
        b.tube((0, 0.12, 0.14), (0, 0.16, 0.0), (0.1, 0.3, 0.0), 0.02, dark)


def book(b: Builder, p: Palette) -> None:
    """A closed book lying down, standing, or a small pile."""
    u = p.rng.uniform
    if u() < 0.4:
        z = 0.0
        for _ in range(p.rng.integers(2, 6)):
            t = u(0.02, 0.06)
            with b.placed((u(-0.02, 0.02), u(-0.02, 0.02), z), rotation("z", u(-12, 12))):
                _volume(b, p, u(0.2, 0.26), u(0.14, 0.19), t)
            z += t
        return
    flat = u() < 0.4
    with b.placed((0, 0, 0), rotation("z", 90.0) if flat else rotation("x", 90.0) @ rotation("z", 90.0)):
        _volume(b, p, u(0.22, 0.32), u(0.15, 0.24), u(0.015, 0.06))


def _volume(b: Builder, p: Palette, long: float, wide: float, thick: float) -> None:
    """A book lying on its back cover, spine at -Y, a mark on the cover."""
    cover, paper = b.material(p.painted()), b.material(p.shade(0.8, 0.95))
    skin = 0.12 * thick
    b.box((0, 0, 0.5 * thick), (0.97 * long, 0.97 * wide, thick - skin), paper)
    for z in (0.5 * skin, thick - 0.5 * skin):
        b.box((0, 0, z), (long, wide, skin), cover)
    b.box((0, -0.5 * wide, 0.5 * thick), (long, 0.03 * wide + 0.002, thick), cover, round=0.001)
    for _ in range(p.rng.integers(1, 3)):
        at = (p.rng.uniform(-0.25, 0.25) * long, p.rng.uniform(-0.2, 0.2) * wide, 0.6 * thick)
        shape = p.mark()
        size = p.rng.uniform(0.2, 0.6, 2) * (long, wide)
        b.decal(Decal(cover, shape, p.colour(), at, rotation("z", 0), float(size[0]), float(size[1])))


def carton(b: Builder, p: Palette) -> None:
    """A parcel, an open box, a crate, a drink carton or a gift with a ribbon."""
    u = p.rng.uniform
    card, tape = b.material(p.any()), b.material(p.painted())
    w, d, h, kind = u(0.25, 0.6), u(0.2, 0.5), u(0.15, 0.6), p.rng.integers(5)
    b.decal(
        Decal(
            card,
            p.mark(),
            p.colour(),
            (u(-0.2, 0.2) * w, -0.4 * d, u(0.3, 0.7) * h),
            FACING_FRONT,
            u(0.2, 0.6) * w,
            u(0.2, 0.6) * h,
        )
    )
    if kind == 0:
        b.box((0, 0, 0.5 * h), (w, d, h), card, round=0.008)
        b.box((0, 0, 0.5 * h), (0.12 * w, d + 0.006, h + 0.006), tape)
    elif kind == 1:
        with b.group():
            b.box((0, 0, 0.5 * h), (w, d, h), card, round=0.005)
            b.box((0, 0, 0.5 * h + 0.02), (w - 0.03, d - 0.03, h), card, op="subtract")
        for sx in SIDES:
            with b.placed((sx * 0.5 * w, 0, h), rotation("y", -sx * u(-50, 40))):
                b.box((sx * 0.2 * w, 0, 0), (0.4 * w, 0.98 * d, 0.015), card)
    elif kind == 2:
        slats = int(p.rng.integers(3, 5))
        for i in range(slats):
            z = h * (i + 0.5) / slats
            with b.group():
                b.box((0, 0, z), (w, d, 0.72 * h / slats), card)
                b.box((0, 0, z), (w - 0.04, d - 0.04, h), op="subtract")
        b.box((0, 0, 0.01), (w - 0.02, d - 0.02, 0.02), card)
        for sx in SIDES:
            for sy in SIDES:
                b.box((sx * (0.5 * w - 0.03), sy * (0.5 * d - 0.03), 0.5 * h), (0.03, 0.03, h), tape)
    elif kind == 3:
        side, tall = 0.2, u(0.35, 0.55)
        b.box((0, 0, 0.5 * tall), (side, side, tall), card, round=0.005)
        b.prism((0, 0, tall), [(-0.5 * side, 0), (0.5 * side, 0), (0, 0.55 * side)], side - 0.004, card, rot=SIDEWAYS)
        b.box((0, 0, tall + 0.6 * side), (side, 0.012, 0.06), tape)
        if u() < 0.6:
            b.rod((0, -0.05, tall + 0.03), (0, -0.1, tall + 0.11), 0.035, tape, round=0.005)
    else:
        b.box((0, 0, 0.5 * h), (w, d, h), card, round=0.006)
        b.box((0, 0, 0.86 * h), (1.06 * w, 1.06 * d, 0.26 * h), card, round=0.006)
        for size in ((0.14 * w, 1.08 * d), (1.08 * w, 0.14 * d)):
            b.box((0, 0, 0.5 * h + 0.004), (*size, h + 0.012), tape)
        for sx in SIDES:
            b.torus((sx * 0.06, 0, h + 0.04), 0.045, 0.016, tape, rot=rotation("x", 90) @ rotation("y", sx * 30))


def backpack(b: Builder, p: Palette) -> None:
    """A soft bag with pockets and straps, or a handbag or a suitcase."""
    u = p.rng.uniform
    cloth, other, metal = b.material(p.fabric()), b.material(p.fabric()), b.material(p.metal())
    kind, w, d, h = p.rng.integers(3), u(0.3, 0.42), u(0.14, 0.24), u(0.4, 0.56)
    if kind == 0:
        b.box((0, 0, 0.5 * h), (w, d, h), cloth, round=0.45 * d)
        b.ellipsoid((0, 0, 0.9 * h), (0.46 * w, 0.5 * d, 0.14 * h), cloth)
        b.box((0, -0.5 * d, 0.3 * h), (0.75 * w, 0.14, 0.42 * h), other, round=0.04)
        b.rod((-0.3 * w, -0.5 * d - 0.07, 0.42 * h), (0.3 * w, -0.5 * d - 0.07, 0.42 * h), 0.008, metal)
        for sx in SIDES:
            b.tube(
                (sx * 0.25 * w, 0.4 * d, 0.92 * h),
                (sx * 0.4 * w, u(1.2, 1.8) * d, 0.6 * h),
                (sx * 0.36 * w, 0.42 * d, 0.12 * h),
                0.022,
                other,
            )
            b.ellipsoid((sx * 0.52 * w, 0, 0.25 * h), (0.05, 0.36 * d, 0.2 * h), other)
        b.torus((0, 0.3 * d, h), 0.05, 0.012, other, rot=rotation("x", 90))
    elif kind == 1:
        tall = u(0.22, 0.32)
        bottom, top = 0.5 * w, u(0.3, 0.5) * w
        b.prism(
            (0, 0, 0),
            [(-bottom, 0), (bottom, 0), (top, tall), (-top, tall)],
            0.8 * d,
            cloth,
            round=0.03,
            rot=FACING_FRONT,
        )
        for sy in SIDES:
            b.tube(
                (-0.7 * top, sy * 0.3 * d, tall),
                (0, sy * 0.3 * d, tall + u(0.3, 0.6)),
                (0.7 * top, sy * 0.3 * d, tall),
                0.012,
                other,
            )
        b.box((0, -0.4 * d, 0.8 * tall), (0.4 * w, 0.05, 0.3 * tall), other, round=0.015)
        b.ball((0, -0.4 * d - 0.03, 0.72 * tall), 0.015, metal)
    else:
        b.box((0, 0, 0.5 * h + 0.06), (w, d, h), cloth, round=0.04)
        for i in range(p.rng.integers(0, 5)):
            b.box((0, 0, 0.16 + 0.09 * i), (w + 0.012, d + 0.012, 0.03), cloth, round=0.006)
        up = u(0.05, 0.3)
        for sx in SIDES:
            b.rod((sx * 0.2 * w, 0.3 * d, h), (sx * 0.2 * w, 0.3 * d, h + 0.06 + up), 0.011, metal)
            for sy in SIDES:
                b.rod(
                    (sx * 0.4 * w - 0.015, sy * 0.3 * d, 0.04),
                    (sx * 0.4 * w + 0.015, sy * 0.3 * d, 0.04),
                    0.04,
                    metal,
                    round=0.006,
                )
        b.capsule((-0.22 * w, 0.3 * d, h + 0.06 + up), (0.22 * w, 0.3 * d, h + 0.06 + up), 0.02, other)


def shoe(b: Builder, p: Palette) -> None:
    """A low shoe, boot or heeled shoe; the toe looks to the front."""
    u = p.rng.uniform
    upper, sole, lace = (
        b.material(p.fabric() if u() < 0.5 else p.painted()),
        b.material(p.shade(0.05, 0.95)),
        b.material(p.shade(0.1, 0.95)),
    )
    w, length, shaft, heel = u(0.1, 0.13), u(0.3, 0.36), u(0.1, 0.4), u(0.0, 0.05)
    t = u(0.02, 0.045)
    outline = [
        (-0.8 * w, 0.45 * length),
        (-0.75 * w, 0.1 * length),
        (-w, -0.25 * length),
        (-0.6 * w, -0.5 * length),
        (0, -0.56 * length),
    ]
    outline += [(-x, y) for x, y in outline[-2::-1]]
    b.prism((0, 0, 0.5 * t), outline, t, sole, round=0.01)
    if heel > 0.02:
        b.box((0, 0.36 * length, -0.5 * heel), (1.5 * w, 0.22 * length, heel + 0.02), sole, round=0.01)
        b.box((0, -0.3 * length, -0.5 * heel), (1.3 * w, 0.3 * length, 0.0), sole)
    r = 0.8 * w
    with b.group():
        b.ellipsoid((0, -0.24 * length, t), (0.95 * w, 0.32 * length, u(0.07, 0.1)), upper)
        b.capsule((0, 0.05 * length, t + 0.03), (0, 0.25 * length, t + 0.05), 0.9 * r, upper, blend=0.06)
        b.rod(
            (0, 0.28 * length, t),
            (0, 0.28 * length + u(-0.02, 0.03), t + shaft),
            r,
            upper,
            end=u(0.75, 1.0) * r,
            blend=0.05,
        )
        b.box((0, 0, t - 0.2), (2, 2, 0.4), op="subtract")
        b.rod(
            (0, 0.28 * length, t + 0.3 * shaft + 0.02), (0, 0.3 * length, t + shaft + 0.1), 0.6 * r, lace, op="subtract"
        )
    for i in range(int(p.rng.integers(0, 5))):
        y, z = -0.02 * length - 0.035 * i, t + 0.125 - 0.016 * i
        b.capsule((-0.5 * w, y, z - 0.03), (0.5 * w, y, z - 0.03), 0.012, lace)


def hat(b: Builder, p: Palette) -> None:
    """A cap with its peak to the front, a brimmed hat, a top hat, a helmet or a cone."""
    u = p.rng.uniform
    cloth, band = b.material(p.fabric() if u() < 0.7 else p.painted()), b.material(p.painted())
    kind, r = p.rng.integers(4), u(0.17, 0.21)
    if kind == 0:
        with b.group():
            b.ellipsoid((0, 0, 0), (r, 1.1 * r, u(0.14, 0.2)), cloth)
            b.box((0, 0, -0.5), (2, 2, 1.0), op="subtract")
            b.ellipsoid((0, 0, -0.01), (r - 0.015, 1.1 * r - 0.015, 0.13), op="subtract")
        long = u(0.12, 0.2)
        b.prism(
            (0, 0, 0.008),
            [(-0.85 * r, -0.6 * r), (0.85 * r, -0.6 * r), (0.6 * r, -r - long), (-0.6 * r, -r - long)],
            0.016,
            band,
            round=0.006,
            rot=rotation("x", u(0, 8)),
        )
        b.ball((0, 0, 0.17), 0.014, band)
    elif kind == 1:
        h, brim = u(0.1, 0.26), u(1.5, 2.4) * r
        b.lathe((0, 0, 0), [(0.9 * r, h), (r, 0.01), (brim, u(-0.02, 0.05))], cloth, wall=0.014)
        b.rod((0, 0, h - 0.012), (0, 0, h), 0.9 * r, cloth, round=0.005)
        b.rod((0, 0, 0.02), (0, 0, 0.06), 1.03 * r, band)
    elif kind == 2:
        h = u(0.25, 0.5)
        b.lathe((0, 0, 0), [(r, 0), (0.7 * r, 0.35 * h), (0.35 * r, 0.7 * h), (0.02, h)], cloth, wall=0.014)
        if u() < 0.6:
            b.torus((0, 0, 0.02), r, u(0.025, 0.045), band)
        b.ball((0, 0, h), u(0.02, 0.05), band)
        if u() < 0.4:
            b.rod((0, 0, 0), (0, 0, 0.015), 1.9 * r, cloth, round=0.005)
    else:
        with b.group():
            b.ellipsoid((0, 0, 0.02), (1.05 * r, 1.25 * r, 0.2), cloth)
            b.box((0, 0, -0.52), (2, 2, 1.0), op="subtract")
            b.ellipsoid((0, 0, 0), (0.92 * r, 1.1 * r, 0.17), op="subtract")
            for sx in (-1, 0, 1):
                if u() < 0.7:
                    b.ellipsoid((sx * 0.09, 0, 0.21), (0.02, 0.16, 0.08), op="subtract")
        b.torus((0, 0, -0.005), 1.0 * r, 0.012, band)
        if u() < 0.5:
            b.tube((-r, 0, 0), (0, -0.05, -0.35), (r, 0, 0), 0.012, band)


def shirt(b: Builder, p: Palette) -> None:
    """A T-shirt, jumper or dress as if worn by nobody."""
    u = p.rng.uniform
    cloth, trim = b.material(p.fabric()), b.material(p.fabric())
    w, h, long, flare = u(0.24, 0.32), u(0.5, 0.7), u(0.15, 0.5), u(0.9, 1.5)
    droop = u(0.05, 0.35)
    d = u(0.1, 0.15)
    with b.group():
        for sx in SIDES:
            b.capsule(
                (sx * 0.75 * w, 0, h - 0.08),
                (sx * (w + long), 0, h - 0.08 - droop * (0.4 + long)),
                0.095,
                cloth,
                end=0.08,
            )
        outline = [
            (-flare * w, 0),
            (flare * w, 0),
            (0.92 * w, h - 0.16),
            (0.95 * w, h - 0.03),
            (0.35 * w, h),
            (-0.35 * w, h),
            (-0.95 * w, h - 0.03),
            (-0.92 * w, h - 0.16),
        ]
        b.prism((0, 0, 0), outline, 2 * d, cloth, round=0.06, rot=FACING_FRONT, blend=0.05)
        b.ellipsoid((0, -0.02, h + 0.05), (0.34 * w, 0.09, 0.1), trim, op="subtract")
        b.box((0, 0, -0.05), (4 * w, d, 0.2), trim, op="subtract")
    if u() < 0.7:
        b.decal(
            Decal(
                cloth,
                p.mark(),
                p.colour(),
                (0.0, -0.02, 0.6 * h),
                FACING_FRONT,
                u(0.5, 1.1) * w,
                u(0.1, 0.3),
            )
        )


def glasses(b: Builder, p: Palette) -> None:
    """Spectacles with open temples."""
    u = p.rng.uniform
    frame, lens = b.material(p.painted() if u() < 0.6 else p.metal()), b.material(p.shade(0.05, 0.5))
    r, t, gap = u(0.17, 0.22), u(0.016, 0.035), u(0.04, 0.08)
    for sx in SIDES:
        x = sx * (r + gap)
        if u() < 0.5:
            b.torus((x, 0, 0), r, t, frame, rot=ALONG_Y)
        else:
            with b.group():
                b.box((x, 0, 0), (2.2 * r, 1.8 * t, 1.7 * r), frame, round=0.02)
                b.box((x, 0, 0), (2.2 * r - 3 * t, 1, 1.7 * r - 3 * t), op="subtract")
        b.ellipsoid((x, 0, 0), (r, 0.014, 0.86 * r), lens)
        side = sx * (2 * r + gap)
        b.capsule((side, 0, 0.3 * r), (side, 0.62, 0.3 * r), 0.8 * t, frame)
        b.tube((side, 0.6, 0.3 * r), (side, 0.75, 0.3 * r), (side, 0.8, -0.16), 0.8 * t, frame)
    b.tube((-gap - t, 0, 0.2 * r), (0, 0, 0.5 * r), (gap + t, 0, 0.2 * r), 0.8 * t, frame)


def umbrella(b: Builder, p: Palette) -> None:
    """Open, standing on a curved handle; or closed."""
    u = p.rng.uniform
    cloth, stick, grip = b.material(p.fabric()), b.material(p.metal()), b.material(p.wood())
    h = u(0.7, 0.9)
    b.rod((0, 0, 0.08), (0, 0, h + 0.06), 0.014, stick)
    b.tube((0, 0, 0.1), (0, 0, -0.08), (0.1, 0, -0.02), 0.022, grip)
    b.capsule((0.1, 0, -0.02), (0.1, 0, 0.03), 0.022, grip)
    if u() < 0.75:
        r, deep = u(0.4, 0.56), u(0.15, 0.3)
        profile = [(r, h - deep), (0.8 * r, h - 0.55 * deep), (0.45 * r, h - 0.17 * deep), (0.02, h)]
        with b.group():
            b.lathe((0, 0, 0), profile, cloth, wall=0.016)
            for i in range(8):
                a = (i + 0.5) * np.pi / 4
                b.ball((1.02 * r * np.cos(a), 1.02 * r * np.sin(a), h - 1.12 * deep), 0.24 * r, op="subtract")
        for i in range(4):
            a = i * np.pi / 2
            b.rod((0, 0, h - deep), (0.6 * r * np.cos(a), 0.6 * r * np.sin(a), h - 0.32 * deep), 0.007, stick)
    else:
        b.lathe((0, 0, 0), [(0.05, 0.28), (u(0.06, 0.1), 0.33), (0.02, h)], cloth)


def ball(b: Builder, p: Palette) -> None:
    """A football, rugby ball, globe on a stand, or a dumbbell."""
    u = p.rng.uniform
    skin, other, metal = b.material(p.painted()), b.material(p.painted()), b.material(p.metal())
    kind = p.rng.integers(4)
    if kind == 0:
        b.ball((0, 0, 0), 0.5, skin)
        if u() < 0.5:
            for rot in (ALONG_X, ALONG_Y, rotation("z", 0)):
                b.torus((0, 0, 0), 0.492, 0.014, other, rot=rot)
    elif kind == 1:
        b.ellipsoid((0, 0, 0), (u(0.28, 0.36), 0.5, 0.3), skin)
        b.box((0, 0, 0.29), (0.05, 0.3, 0.03), other, round=0.01)
    elif kind == 2:
        r = u(0.28, 0.36)
        b.ball((0, 0, r + 0.2), r, skin)
        tilt = rotation("y", u(10, 30))
        with b.placed((0, 0, r + 0.2), tilt):
            b.torus((0, 0, 0), r + 0.04, 0.02, metal, arc=200, rot=rotation("x", 90) @ rotation("z", 90))
            b.rod((0, 0, -r - 0.05), (0, 0, r + 0.05), 0.015, metal)
        b.rod((0, 0, 0.02), (0, 0, 0.18), 0.03, other)
        b.rod((0, 0, 0), (0, 0, 0.03), u(0.18, 0.25), other, round=0.01)
    else:
        half, r, t = u(0.12, 0.3), u(0.12, 0.2), u(0.06, 0.14)
        b.rod((-half, 0, 0), (half, 0, 0), 0.03, metal)
        for sx in SIDES:
            for k in range(p.rng.integers(1, 3)):
                x = sx * (half + 0.9 * t * k)
                b.rod((x, 0, 0), (x + sx * t, 0, 0), r * (1 - 0.25 * k), skin, round=0.02)


def candle(b: Builder, p: Palette) -> None:
    """Candlesticks with one to three arms, or a lantern, a trophy, a bell."""
    u = p.rng.uniform
    metal, wax, glass = b.material(p.metal()), b.material(p.plain()), b.material(p.shade(0.4, 0.9))
    kind, h = p.rng.integers(3), u(0.3, 0.7)
    foot = u(0.12, 0.2)
    if kind == 0:
        arms = int(p.rng.integers(0, 3))
        b.lathe(
            (0, 0, 0),
            [(foot, 0), (foot, 0.03), (0.03, 0.08), (0.05, 0.3 * h), (0.02, 0.5 * h), (0.025, h), (0.07, h + 0.02)],
            metal,
        )
        places = [(0.0, 0.0)] + [(sx * u(0.18, 0.26), 0.0) for sx in SIDES if arms]
        for x, _ in places:
            tall = u(0.1, 0.35)
            if x:
                b.tube((0, 0, 0.6 * h), (1.3 * x, 0, 0.5 * h), (x, 0, h), 0.018, metal)
                b.rod((x, 0, h - 0.01), (x, 0, h + 0.015), 0.06, metal)
            b.rod((x, 0, h), (x, 0, h + tall), 0.04, wax, end=0.034)
            b.rod((x, 0, h + tall), (x, 0, h + tall + 0.03), 0.007, metal)
    elif kind == 1:
        w = u(0.12, 0.18)
        b.box((0, 0, 0.03), (2.3 * w, 2.3 * w, 0.06), metal, round=0.01)
        b.rod((0, 0, 0.05), (0, 0, 0.05 + 0.5 * h), 0.05, wax)
        for sx in SIDES:
            for sy in SIDES:
                b.rod((sx * w, sy * w, 0.05), (sx * w, sy * w, h), 0.016, metal)
        b.prism(
            (0, 0, h),
            [(-1.2 * w, 0), (1.2 * w, 0), (0.3 * w, u(0.08, 0.2)), (-0.3 * w, u(0.08, 0.2))],
            2.4 * w,
            metal,
            rot=FACING_FRONT,
        )
        b.torus((0, 0, h + 0.2), 0.06, 0.012, metal, rot=rotation("x", 90))
        b.box((0, 0, 0.5 * h), (1.6 * w, 1.6 * w, 0.9 * h), glass) if u() < 0.4 else None
    else:
        b.box((0, 0, 0.06), (1.6 * foot, 1.6 * foot, 0.12), wax, round=0.01)
        b.lathe(
            (0, 0, 0.12), [(0.08, 0), (0.02, 0.08), (0.03, 0.15), (0.12, 0.25), (u(0.12, 0.18), 0.25 + 0.5 * h)], metal
        )
        for sx in SIDES:
            b.torus((sx * 0.13, 0, 0.4 + 0.2 * h), u(0.07, 0.1), 0.016, metal, rot=rotation("x", 90))


def chess_piece(b: Builder, p: Palette) -> None:
    """A turned piece: pawn, bishop, rook, queen, king; or a skittle."""
    u = p.rng.uniform
    mat = b.material(p.wood() if u() < 0.5 else p.painted())
    r, h = u(0.16, 0.22), u(0.5, 0.8)
    b.lathe(
        (0, 0, 0),
        [
            (r, 0),
            (r, 0.05),
            (0.75 * r, 0.09),
            (0.8 * r, 0.13),
            (0.42 * r, 0.3 * h),
            (0.34 * r, 0.85 * h),
            (0.6 * r, 0.88 * h),
            (0.35 * r, 0.95 * h),
        ],
        mat,
        round=0.006,
    )
    kind = p.rng.integers(4)
    if kind == 0:
        b.ball((0, 0, h + 0.3 * r), 0.52 * r, mat)
    elif kind == 1:
        b.ellipsoid((0, 0, h + 0.4 * r), (0.48 * r, 0.48 * r, 0.75 * r), mat)
        b.ball((0, 0, h + 1.2 * r), 0.12 * r, mat)
    elif kind == 2:
        with b.group():
            b.rod((0, 0, h - 0.1 * r), (0, 0, h + 0.8 * r), 0.55 * r, mat, end=0.65 * r)
            b.rod((0, 0, h + 0.45 * r), (0, 0, h + r), 0.4 * r, op="subtract")
            for a in (0, 60, 120):
                b.box((0, 0, h + 0.75 * r), (3 * r, 0.16 * r, 0.3 * r), op="subtract", rot=rotation("z", a))
    else:
        b.rod((0, 0, h - 0.1 * r), (0, 0, h + 0.9 * r), 0.35 * r, mat, end=0.62 * r)
        b.box((0, 0, h + 1.25 * r), (0.14 * r, 0.14 * r, 0.8 * r), mat)
        b.box((0, 0, h + 1.3 * r), (0.5 * r, 0.14 * r, 0.14 * r), mat)


def house(b: Builder, p: Palette) -> None:
    """Walls, roof, door to the front, windows, chimney; at times a wing."""
    u = p.rng.uniform
    wall, roof, door, glass = (
        b.material(p.masonry()),
        b.material(p.painted() if u() < 0.5 else p.masonry()),
        b.material(p.wood()),
        b.material(p.shade(0.1, 0.4)),
    )
    w, d, h, rise = u(0.6, 1.1), u(0.5, 0.8), u(0.35, 0.8), u(0.2, 0.5)
    b.box((0, 0, 0.5 * h), (w, d, h), wall)
    kind, over = p.rng.integers(3), u(0.03, 0.08)
    if kind == 0:
        b.prism((0, 0, h), [(-0.5 * d, 0), (0.5 * d, 0), (0, rise)], w - 0.005, wall, rot=SIDEWAYS)
        pitch = float(np.degrees(np.arctan2(rise, 0.5 * d)))
        slope = float(np.hypot(rise, 0.5 * d)) + over
        for sy in SIDES:
            with b.placed((0, 0, h + rise + 0.015), rotation("x", -sy * pitch)):
                b.box((0, sy * 0.5 * slope, 0.0), (w + 2 * over, slope, 0.04), roof)
    elif kind == 1:
        b.prism((0, 0, h), [(-0.5 * w, 0), (0.5 * w, 0), (0, rise)], d - 0.005, wall, rot=FACING_FRONT)
        pitch = float(np.degrees(np.arctan2(rise, 0.5 * w)))
        slope = float(np.hypot(rise, 0.5 * w)) + over
        for sx in SIDES:
            with b.placed((0, 0, h + rise + 0.015), rotation("y", sx * pitch)):
                b.box((sx * 0.5 * slope, 0, 0.0), (slope, d + 2 * over, 0.04), roof)
    else:
        b.box((0, 0, h + 0.03), (w + over, d + over, 0.06), roof)
    b.box((u(-0.2, 0.2) * w, -0.5 * d, 0.13), (0.13, 0.04, 0.26), door, round=0.005)
    storeys, columns = max(1, round(h / 0.36)), int(p.rng.integers(2, 4))
    for s in range(storeys):
        with b.group():
            z = h * (s + 0.62) / storeys
            for i in range(columns):
                x = w * ((i + 0.5) / columns - 0.5)
                b.box((x, 0, z), (0.11, d + 0.02, 0.13), glass)
            b.box((0, 0, z), (w + 0.02, 0.14, 0.13), glass)
    if u() < 0.6 and kind < 2:
        b.box((0.28 * w, 0.1 * d, h + 0.7 * rise), (0.09, 0.09, 0.6 * rise + 0.15), wall)
    if u() < 0.35:
        sx = 1 if u() < 0.5 else -1
        b.box((sx * (0.5 * w + 0.14), 0.05, 0.2 * h + 0.08), (0.34, 0.8 * d, 0.4 * h + 0.16), wall)
        b.box((sx * (0.5 * w + 0.14), 0.05, 0.4 * h + 0.17), (0.38, 0.86 * d, 0.03), roof)


def tower(b: Builder, p: Palette) -> None:
    """A castle tower, lighthouse, skyscraper or windmill."""
    u = p.rng.uniform
    wall, roof, glass = b.material(p.masonry()), b.material(p.painted()), b.material(p.shade(0.08, 0.35))
    kind, h, r = p.rng.integers(4), u(0.9, 1.3), u(0.16, 0.24)
    if kind == 0:
        with b.group():
            b.rod((0, 0, 0), (0, 0, h), 1.05 * r, wall, end=r)
            b.rod((0, 0, h - 0.02), (0, 0, h + 0.12), 1.15 * r, wall)
            b.rod((0, 0, h + 0.03), (0, 0, h + 0.3), 0.9 * r, op="subtract")
            for i in range(3):
                b.box((0, 0, h + 0.1), (4 * r, 0.09, 0.1), op="subtract", rot=rotation("z", 60 * i))
        if u() < 0.5:
            b.rod((0, 0, h), (0, 0, h + u(0.3, 0.5)), 0.85 * r, roof, end=0.01)
        for i in range(3):
            b.box((0, -r, h * (0.3 + 0.22 * i)), (0.05, 0.1, 0.12), glass)
    elif kind == 1:
        b.rod((0, 0, 0), (0, 0, h), r, wall, end=0.6 * r)
        for i in range(3):
            q = 1 - 0.4 * (i + 0.5) / 3.4
            b.rod(
                (0, 0, h * (0.12 + 0.3 * i)),
                (0, 0, h * (0.26 + 0.3 * i)),
                r * q + 0.012,
                roof,
                end=r * (q - 0.055) + 0.012,
            )
        b.rod((0, 0, h), (0, 0, h + 0.03), 0.85 * r, glass)
        b.rod((0, 0, h), (0, 0, h + 0.18), 0.4 * r, glass)
        b.rod((0, 0, h + 0.16), (0, 0, h + 0.3), 0.6 * r, roof, end=0.01)
    elif kind == 2:
        z, side = 0.0, 1.2 * r
        for _ in range(p.rng.integers(1, 4)):
            tall = u(0.3, 0.6)
            b.box((0, 0, z + 0.5 * tall), (2 * side, 2 * side, tall), wall)
            for k in range(4):
                b.box((0, 0, z + tall * (k + 0.5) / 4), (2 * side + 0.012, 2 * side + 0.012, 0.12 * tall), glass)
            z, side = z + tall, side * u(0.6, 0.85)
        b.rod((0, 0, z), (0, 0, z + u(0.1, 0.3)), 0.014, roof)
    else:
        b.rod((0, 0, 0), (0, 0, 0.7 * h), 1.2 * r, wall, end=0.75 * r)
        b.rod((0, 0, 0.7 * h), (0, 0, 0.7 * h + 0.2), 0.85 * r, roof, end=0.05)
        turn = u(0, 90)
        y, z = -0.75 * r - 0.08, 0.72 * h
        b.rod((0, 0, z), (0, y - 0.03, z), 0.03, glass)
        for i in range(4):
            with b.placed((0, y, z), rotation("y", turn + 90 * i)):
                b.box((0, 0, 0.28), (0.02, 0.02, 0.52), glass)
                b.box((0.05, 0, 0.34), (0.1, 0.014, 0.38), roof)
        b.box((0, -1.1 * r, 0.1), (0.12, 0.12, 0.2), glass)


def toy_blocks(b: Builder, p: Palette) -> None:
    """A stack of building blocks, a stacking ring toy, or a bridge of blocks."""
    u = p.rng.uniform
    mats = [b.material(p.plain()) for _ in range(5)]
    kind = p.rng.integers(3)
    if kind == 0:
        rings = int(p.rng.integers(3, 6))
        b.rod((0, 0, 0), (0, 0, 0.05), 0.3, mats[0], round=0.02)
        b.rod((0, 0, 0), (0, 0, 0.12 * rings + 0.12), 0.05, mats[0])
        for i in range(rings):
            b.torus((0, 0, 0.11 + 0.12 * i), 0.22 - 0.1 * i / rings, 0.065, mats[1 + i % 4])
        b.ball((0, 0, 0.12 * rings + 0.15), 0.075, mats[-1])
    elif kind == 1:
        size, z = 0.2, 0.0
        for i in range(p.rng.integers(2, 5)):
            with b.placed((u(-0.03, 0.03), u(-0.03, 0.03), z), rotation("z", u(-25, 25))):
                b.box((0, 0, 0.5 * size), (size, size, size), mats[i], round=0.015)
                b.decal(
                    Decal(
                        mats[i],
                        p.mark(),
                        p.colour(),
                        (0.0, -0.4 * size, 0.5 * size),
                        FACING_FRONT,
                        0.6 * size,
                        0.6 * size,
                    )
                )
            z += size
        if u() < 0.5:
            b.rod((0, 0, z), (0, 0, z + 0.2), 0.12, mats[-1], end=0.005)
    else:
        for sx in SIDES:
            b.box((sx * 0.25, 0, 0.2), (0.15, 0.16, 0.4), mats[0], round=0.01)
        b.box((0, 0, 0.46), (0.65, 0.16, 0.12), mats[1], round=0.01)
        if u() < 0.7:
            b.prism((0, 0, 0.52), [(-0.2, 0), (0.2, 0), (0, 0.2)], 0.16, mats[2], round=0.008, rot=FACING_FRONT)
        for sx in SIDES:
            b.rod((sx * 0.27, 0, 0.52), (sx * 0.27, 0, 0.7), 0.06, mats[3], end=u(0.01, 0.06))


def sword(b: Builder, p: Palette) -> None:
    """A sword or a wand standing on its point's other end: grip below, blade above."""
    u = p.rng.uniform
    grip, guard, blade = b.material(p.any()), b.material(p.metal()), b.material(p.metal())
    h, w, long = 0.25, u(0.04, 0.08), u(0.6, 1.1)
    b.rod((0, 0, 0.03), (0, 0, h), 0.025, grip)
    b.ball((0, 0, 0.02), u(0.03, 0.05), guard)
    reach = u(0.1, 0.2)
    b.tube((-reach, 0, h + u(-0.05, 0.08)), (0, 0, h), (reach, 0, h + u(-0.05, 0.08)), 0.024, guard)
    with b.placed((0, 0, h), rotation("y", -90)), b.group(warp="bend", amount=u(0.3, 0.8) if u() < 0.3 else 0.0):
        b.prism(
            (0, 0, 0),
            [(0, -w), (0.85 * long, -0.8 * w), (long, 0), (0.85 * long, 0.8 * w), (0, w)],
            0.03,
            blade,
            round=0.006,
            rot=rotation("x", 90),
        )


def lamp_post(b: Builder, p: Palette) -> None:
    """A street lamp, a signpost, a traffic light or a hydrant."""
    u = p.rng.uniform
    metal, head, light = (
        b.material(p.metal() if u() < 0.5 else p.painted()),
        b.material(p.painted()),
        b.material(p.shade(0.8, 1.0)),
    )
    kind, h = p.rng.integers(4), u(0.9, 1.4)
    if kind == 3:
        r = u(0.12, 0.16)
        b.rod((0, 0, 0), (0, 0, 0.05), 1.4 * r, head, round=0.01)
        b.rod((0, 0, 0), (0, 0, 0.5), r, head)
        b.ellipsoid((0, 0, 0.5), (1.15 * r, 1.15 * r, 0.14), head)
        b.rod((-1.6 * r, 0, 0.36), (1.6 * r, 0, 0.36), 0.45 * r, metal, round=0.01)
        b.rod((0, 0, 0.36), (0, -1.6 * r, 0.36), 0.55 * r, metal, round=0.01)
        b.ball((0, 0, 0.65), 0.035, metal)
        return
    b.rod((0, 0, 0), (0, 0, 0.04), 0.12, metal, end=0.08)
    b.rod((0, 0, 0), (0, 0, h), 0.03, metal, end=0.024)
    if kind == 0:
        b.tube((0, 0, h - 0.02), (0, 0, h + 0.2), (0, -0.3, h + 0.12), 0.022, metal)
        b.ellipsoid((0, -0.36, h + 0.1), (0.07, 0.14, 0.05), head)
        b.ellipsoid((0, -0.36, h + 0.08), (0.05, 0.11, 0.05), light)
    elif kind == 1:
        shape = p.rng.integers(3)
        n, turn = (3, 90) if shape == 0 else ((8, 22.5) if shape == 1 else (4, 45))
        outline = [
            (0.22 * float(np.cos(np.radians(turn + 360 * i / n))), 0.22 * float(np.sin(np.radians(turn + 360 * i / n))))
            for i in range(n)
        ]
        b.prism((0, -0.04, h - 0.05), outline, 0.025, light, rot=FACING_FRONT, round=0.008)
        b.prism((0, -0.05, h - 0.05), [(0.8 * x, 0.8 * z) for x, z in outline], 0.025, head, rot=FACING_FRONT)
    else:
        b.box((0, -0.03, h), (0.18, 0.13, 0.46), metal, round=0.02)
        for i, rgb in enumerate(((0.1, 0.75, 0.25), (0.95, 0.75, 0.1), (0.85, 0.1, 0.1))):
            b.ball((0, -0.085, h + 0.14 * (i - 1)), 0.055, b.material(p.plain(rgb)))
