"""Things from the kitchen and the table. Handles are on +X, spouts on -X, machines look to -Y."""

import numpy as np

from mvsam3d.training.objects.program import Builder, rotation
from mvsam3d.training.objects.textures import Decal, Palette

SIDES = (-1, 1)
ALONG_Y_DOWN = rotation("x", 90)  # a decal's z axis to -y: it faces the front


def _label(b: Builder, p: Palette, mat: int, z: float, width: float, height: float) -> None:
    """A mark on the front of what is made of `mat`."""
    b.decal(Decal(mat, p.mark(), p.colour(), (0.0, 0.0, z), ALONG_Y_DOWN, width, height))


def mug(b: Builder, p: Palette) -> None:
    """A cup with one handle."""
    u = p.rng.uniform
    outer = b.material(p.painted())
    inner = b.material(p.shade(0.7, 1.0)) if u() < 0.4 else outer
    r, h, t = u(0.035, 0.05), u(0.06, 0.12), u(0.003, 0.006)
    low = r * u(0.6, 1.0)
    bulge = r * u(0.95, 1.2)
    with b.group():
        b.lathe((0, 0, 0), [(low, 0), (bulge, 0.45 * h), (r, h)], outer, round=0.001)
        b.lathe((0, 0, 0), [(low - t, 2 * t), (bulge - t, 0.45 * h), (r - t, h + t)], inner, op="subtract")
    size, thick = u(0.28, 0.38) * h, u(0.004, 0.008)
    x = 0.5 * (r + bulge) - 0.4 * t
    if u() < 0.6:
        b.torus((x, 0, 0.5 * h), size, thick, outer, arc=190, rot=rotation("x", 90) @ rotation("z", -90))
    else:
        b.tube((x, 0, 0.5 * h + size), (x + 3 * size, 0, 0.6 * h), (x - 0.1 * r, 0, 0.5 * h - size), thick, outer)
    if u() < 0.5:
        _label(b, p, outer, 0.5 * h, r * u(0.8, 1.4), h * u(0.3, 0.6))


def bottle(b: Builder, p: Palette) -> None:
    """A turned body, a neck, a cap, a label."""
    u = p.rng.uniform
    body, cap, label = b.material(p.painted()), b.material(p.any()), b.material(p.painted())
    r, h, neck = u(0.03, 0.06), u(0.2, 0.34), u(0.01, 0.022)
    shoulder = h * u(0.5, 0.78)
    waist = r * u(0.7, 1.0)
    profile = [
        (0.9 * r, 0),
        (r, 0.03 * h),
        (waist, 0.5 * shoulder),
        (r, shoulder),
        (neck + 0.35 * (r - neck), shoulder + 0.3 * (h - shoulder)),
        (neck, shoulder + u(0.4, 0.7) * (h - shoulder)),
        (neck, h),
    ]
    b.lathe((0, 0, 0), profile, body, round=0.002)
    b.rod((0, 0, 0.93 * h), (0, 0, h + u(0.005, 0.02)), neck + u(0.002, 0.006), cap, round=0.002)
    if u() < 0.6:
        low = u(0.1, 0.3) * shoulder
        b.rod((0, 0, low), (0, 0, low + u(0.3, 0.5) * shoulder), max(waist, 0.9 * r) + 0.003, label)
    if u() < 0.15:
        b.torus((neck, 0, shoulder + 0.5 * (h - shoulder)), 0.03, 0.006, body, rot=rotation("x", 90))


def wine_glass(b: Builder, p: Palette) -> None:
    """A bowl on a stem and a foot."""
    u = p.rng.uniform
    mat = b.material(p.painted() if u() < 0.7 else p.metal())
    r, h, stem = u(0.03, 0.05), u(0.06, 0.11), u(0.04, 0.1)
    mid = r * u(1.0, 1.25)
    low = u(0.25, 0.5)
    b.lathe((0, 0, stem), [(0, 0), (0.7 * mid, 0.12 * h), (mid, low * h), (r, h)], mat, wall=0.0045)
    b.lathe((0, 0, 0), [(0.85 * r, 0), (0.85 * r, 0.003), (0.006, 0.012), (0.004, 0.5 * stem), (0.006, stem)], mat)


def bowl(b: Builder, p: Palette) -> None:
    """An open bowl, sometimes with fruit or soup in it."""
    u = p.rng.uniform
    mat, food = b.material(p.painted() if u() < 0.7 else p.wood()), b.material(p.plain())
    r, h, t = 0.1, u(0.04, 0.1), u(0.004, 0.008)
    foot = u(0.3, 0.6) * r
    profile = [(0, 0.01), (foot, 0.01), (u(0.75, 0.92) * r, 0.4 * h), (r, h)]
    b.lathe((0, 0, 0), profile, mat, wall=t)
    b.rod((0, 0, 0), (0, 0, 0.012), foot, mat)
    kind = u()
    if kind < 0.25:
        for _ in range(p.rng.integers(2, 6)):
            a, q = u(0, 2 * np.pi), u(0.0, 0.4) * r
            b.ball((q * np.cos(a), q * np.sin(a), 0.02 + 0.03 + 0.3 * h), u(0.025, 0.035), b.material(p.plain()))
    elif kind < 0.45:
        b.rod((0, 0, 0.015), (0, 0, 0.55 * h), foot, food, end=0.85 * r)


def plate(b: Builder, p: Palette) -> None:
    """A flat dish lying down; sometimes a cake or a piece of food on it."""
    u = p.rng.uniform
    mat = b.material(p.painted())
    r, h = 0.13, u(0.012, 0.035)
    b.lathe((0, 0, 0), [(0, 0.003), (u(0.5, 0.7) * r, 0.003), (0.75 * r, 0.6 * h), (r, h)], mat, wall=u(0.005, 0.008))
    kind = u()
    if kind < 0.3:
        cake, cream = b.material(p.fabric()), b.material(p.painted())
        q, z = u(0.35, 0.6) * r, u(0.04, 0.09)
        with b.group():
            b.rod((0, 0, 0.004), (0, 0, z), q, cake, round=0.005)
            b.rod((0, 0, z - 0.01), (0, 0, z + 0.008), 1.02 * q, cream, round=0.006)
            if u() < 0.6:
                b.prism((0, 0, 0.06), [(0, 0), (q * 1.2, -2 * q), (-q * 1.2, -2 * q)], 0.2, cake, op="subtract")
        b.ball((0, 0.5 * q, z + 0.012), 0.014, cream)
    elif kind < 0.5:
        food = b.material(p.painted())
        b.ellipsoid((0, 0, 0.02), (0.5 * r, 0.35 * r, u(0.015, 0.03)), food)


def teapot(b: Builder, p: Palette) -> None:
    """A round body, spout, handle, lid with a knob."""
    u = p.rng.uniform
    mat = b.material(p.painted() if u() < 0.7 else p.metal())
    lid = mat if u() < 0.6 else b.material(p.any())
    r, h = 0.09, u(0.1, 0.17)
    profile = [(0.6 * r, 0), (u(0.85, 1.1) * r, 0.25 * h), (r, 0.5 * h), (u(0.7, 0.9) * r, 0.8 * h), (0.45 * r, h)]
    b.lathe((0, 0, 0), profile, mat, round=0.004)
    b.lathe((0, 0, h), [(0.5 * r, -0.004), (0.45 * r, 0.01), (0.15 * r, 0.025), (0.08 * r, 0.028)], lid)
    b.ball((0, 0, h + 0.036), u(0.01, 0.016), lid)
    b.tube(
        (-0.7 * r, 0, 0.3 * h), (-1.5 * r, 0, 0.35 * h), (-u(1.5, 1.8) * r, 0, u(0.85, 1.05) * h), 0.018, mat, end=0.008
    )
    if u() < 0.65:
        b.tube((0.7 * r, 0, 0.82 * h), (u(2.0, 2.6) * r, 0, 0.9 * h), (0.8 * r, 0, 0.25 * h), 0.008, lid)
    else:
        b.torus((0, 0, 0.85 * h), 0.85 * r, 0.007, lid, arc=185, rot=rotation("x", 90))


def kettle(b: Builder, p: Palette) -> None:
    """An electric jug kettle on its base, or a stove kettle."""
    u = p.rng.uniform
    body, dark = b.material(p.painted() if u() < 0.5 else p.metal()), b.material(p.shade(0.03, 0.3))
    r, h = u(0.07, 0.085), u(0.16, 0.24)
    b.rod((0, 0, 0), (0, 0, 0.02), 1.05 * r, dark, round=0.006)
    b.rod((0, 0, 0.022), (0, 0, h), r, body, end=u(0.6, 0.85) * r, round=0.008)
    top = 0.75 * r
    b.rod((0, 0, h - 0.004), (0, 0, h + 0.012), 0.8 * top, dark, round=0.005)
    outline = [(-0.5 * r, 0.03), (-1.25 * r, 0.004), (-1.25 * r, -0.004), (-0.5 * r, -0.03)]
    b.prism((0, 0, h - 0.025), outline, 0.035, body, round=0.003)
    b.tube((0.4 * top, 0, h), (2.8 * r, 0, h), (0.9 * r, 0, 0.25 * h), 0.011, dark)


def vase(b: Builder, p: Palette) -> None:
    """A turned outline with an opening, sometimes twisted ribs."""
    u = p.rng.uniform
    mat = b.material(p.painted())
    h = u(0.2, 0.4)
    heights = [0, 0.12, 0.3, 0.5, 0.7, 0.85, 1.0]
    radii = np.cumsum(p.rng.normal(0, 0.022, 7)) + u(0.05, 0.09)
    radii = np.clip(radii, 0.018, 0.14)
    profile = [(0.0, 0.004), *((float(r), z * h + 0.004) for r, z in zip(radii, heights))]
    if u() < 0.3:
        with b.group(warp="twist", amount=u(-8, 8)):
            b.lathe((0, 0, 0), profile, mat, wall=0.008)
            ribs = int(p.rng.integers(5, 10))
            for i in range(ribs):
                a, q = 2 * np.pi * i / ribs, float(radii[1:6].mean())
                b.capsule(
                    (q * np.cos(a), q * np.sin(a), 0.1 * h),
                    (q * np.cos(a), q * np.sin(a), 0.85 * h),
                    0.01,
                    mat,
                    blend=0.01,
                )
    else:
        b.lathe((0, 0, 0), profile, mat, wall=u(0.006, 0.012))
    if u() < 0.25:
        for sx in SIDES:
            q = float(radii[4])
            b.torus((sx * q, 0, 0.7 * h), 0.16 * h, 0.008, mat, rot=rotation("x", 90))


def vessel(b: Builder, p: Palette) -> None:
    """A flowerpot, crock, tub or trough: open, with a wall and a floor that have thickness; empty, or with earth or water in it."""
    u = p.rng.uniform
    outer = b.material(p.any())
    inner = b.material(p.shade(0.3, 0.9)) if u() < 0.4 else outer
    r, h = 0.12, 0.12 * u(0.7, 2.6)
    wall = r * u(0.05, 0.28)
    floor = wall * u(0.7, 1.8)
    inside = r - wall
    turned = u() < 0.7
    with b.group():
        if turned:
            low, bulge = r * u(0.55, 1.05), r * u(0.85, 1.15)
            b.lathe((0, 0, 0), [(low, 0), (bulge, 0.55 * h), (r, h)], outer, round=0.15 * wall)
            if u() < 0.5:  # a rim
                high = h * u(0.06, 0.25)
                b.rod((0, 0, h - high), (0, 0, h), r + wall * u(0.2, 0.8), outer, round=0.2 * wall)
            within = [(low - wall, floor), (bulge - wall, max(0.55 * h, floor + 0.01)), (inside, h + wall)]
            b.lathe((0, 0, 0), within, inner, op="subtract")
        else:
            long = u(1.0, 2.2)
            b.box((0, 0, 0.5 * h), (2 * r * long, 2 * r, h), outer, round=wall * u(0.1, 0.45))
            size = (2 * (r * long - wall), 2 * inside, h)
            b.box((0, 0, 0.5 * h + floor), size, inner, round=wall * u(0.0, 0.5), op="subtract")
        if u() < 0.3:  # a hole for the water
            b.rod((0, 0, -0.01), (0, 0, floor + 0.01), r * u(0.06, 0.15), op="subtract")
    if u() < 0.25:
        level = floor + u(0.1, 0.85) * (h - floor)
        b.rod((0, 0, 0.5 * floor), (0, 0, level), 0.9 * inside, b.material(p.plain()))
    if turned and u() < 0.3:  # a saucer
        b.lathe((0, 0, -0.012), [(0, 0), (r * u(0.9, 1.2), 0), (r * u(1.1, 1.35), 0.03)], outer, wall=0.5 * wall)


def pan(b: Builder, p: Palette) -> None:
    """A frying pan with a long handle, or a pot with two ears and a lid."""
    u = p.rng.uniform
    metal, handle = b.material(p.metal() if u() < 0.5 else p.painted()), b.material(p.any())
    r = 0.13
    if u() < 0.5:
        h = u(0.03, 0.06)
        b.lathe((0, 0, 0), [(0, 0.004), (0.85 * r, 0.004), (r, h)], metal, wall=0.008)
        b.capsule((0.97 * r, 0, h - 0.008), (u(2.0, 2.7) * r, 0, h + u(0, 0.05)), 0.01, handle, end=0.014)
        return
    h = u(0.08, 0.18)
    b.lathe((0, 0, 0), [(0, 0.004), (0.97 * r, 0.004), (r, 0.02), (r, h)], metal, wall=0.008)
    for sx in SIDES:
        b.torus((sx * r, 0, 0.8 * h), 0.03, 0.008, handle)
    if u() < 0.6:
        b.lathe((0, 0, h), [(1.02 * r, 0), (0.9 * r, 0.012), (0.3 * r, 0.03), (0, 0.032)], metal, round=0.002)
        b.rod((0, 0, h + 0.03), (0, 0, h + 0.06), 0.01, handle, end=0.02, round=0.004)


def spoon(b: Builder, p: Palette) -> None:
    """A spoon or ladle, lying along Y with its bowl in front."""
    u = p.rng.uniform
    mat = b.material(p.metal() if u() < 0.5 else p.any())
    length, w, d = u(0.7, 1.2), u(0.11, 0.17), u(0.05, 0.12)
    with b.group():
        b.ellipsoid((0, 0, 0), (w, u(1.1, 1.6) * w, d), mat)
        b.box((0, 0, 0.5), (2, 2, 1), op="subtract")
        b.ellipsoid((0, 0, 0.012), (w - 0.02, 1.05 * w, d - 0.02), mat, op="subtract")
    rise = u(0.0, 0.25)
    b.tube((0, w, -0.012), (0, 0.3 * length, u(-0.05, 0.1)), (0, length, rise), 0.02, mat, end=u(0.018, 0.035))


def knife(b: Builder, p: Palette) -> None:
    """A blade standing on its handle's end, edge to the front."""
    u = p.rng.uniform
    blade, handle = b.material(p.metal()), b.material(p.any())
    length, w = u(0.5, 0.9), u(0.07, 0.16)
    tip = u(0.05, 0.3)
    outline = [
        (-0.5 * w, 0),
        (0.5 * w, 0),
        (0.5 * w, length * (1 - tip)),
        (0.42 * w, length),
        (-0.5 * w, length * u(0.6, 0.9)),
    ]
    with b.placed((0, 0, 0.4), rotation("z", 90) @ rotation("x", 90)):
        b.prism((0, 0, 0), outline, u(0.018, 0.03), blade)
    b.box((0, 0, 0.2), (u(0.05, 0.08), u(0.8, 1.1) * w, 0.42), handle, round=0.025)
    if u() < 0.4:
        b.box((0, 0, 0.41), (0.1, 1.5 * w, 0.04), handle, round=0.015)


def fork(b: Builder, p: Palette) -> None:
    """A fork standing upright, tines up, facing front."""
    u = p.rng.uniform
    mat = b.material(p.metal() if u() < 0.7 else p.any())
    w, tines, t = u(0.1, 0.15), int(p.rng.integers(2, 5)), u(0.015, 0.022)
    b.capsule((0, 0, 0.03), (0, 0, 0.62), u(0.02, 0.04), mat, end=0.02)
    b.tube((-0.5 * w, 0, 0.8), (0, 0.02, 0.5), (0.5 * w, 0, 0.8), 0.022, mat, blend=0.02)
    b.ellipsoid((0, 0.005, 0.7), (0.42 * w, 0.022, 0.08), mat)
    for i in range(tines):
        x = w * (i / (tines - 1) - 0.5)
        b.tube((x, 0, 0.76), (x, 0.02, 0.9), (x, -0.02, 1.05), t, mat, end=0.6 * t)


def coffee_machine(b: Builder, p: Palette) -> None:
    """A back with a head over a cup; the front is open."""
    u = p.rng.uniform
    body, metal, cup = b.material(p.painted()), b.material(p.metal()), b.material(p.shade(0.6, 1.0))
    w, d, h, foot = u(0.2, 0.35), u(0.25, 0.32), u(0.28, 0.4), 0.04
    with b.group():
        b.box((0, 0, 0.5 * h), (w, d, h), body, round=u(0.01, 0.04))
        b.box(
            (0, -0.3 * d, 0.5 * (h * 0.66 + foot)),
            (0.86 * w, 0.7 * d, h * 0.66 - foot),
            metal,
            op="subtract",
            blend=0.01,
        )
    b.rod((0, -0.22 * d, 0.58 * h), (0, -0.22 * d, 0.72 * h), 0.03, metal)
    b.capsule((0, -0.25 * d, 0.6 * h), (0, -0.7 * d, 0.58 * h), 0.012, metal)
    b.lathe((0, -0.22 * d, foot), [(0.02, 0), (0.035, 0.07)], cup, wall=0.006)
    b.rod((0, -0.22 * d, foot - 0.01), (0, -0.22 * d, foot + 0.005), 0.03, cup)
    for i in range(p.rng.integers(1, 4)):
        x = (i - 1) * 0.26 * w
        b.rod((x, -0.5 * d - 0.008, 0.84 * h), (x, -0.5 * d + 0.01, 0.84 * h), 0.018, metal)
    if u() < 0.5:
        b.box((0, 0.1 * d, h + 0.03), (0.7 * w, 0.5 * d, 0.07), metal, round=0.01)


def toaster(b: Builder, p: Palette) -> None:
    """Two slots on top, a lever at the side, toast at times."""
    u = p.rng.uniform
    body, dark, bread = (
        b.material(p.painted() if u() < 0.5 else p.metal()),
        b.material(p.shade(0.02, 0.2)),
        b.material(p.wood()),
    )
    w, d, h = u(0.26, 0.36), u(0.15, 0.2), u(0.17, 0.22)
    with b.group():
        b.box((0, 0, 0.5 * h + 0.01), (w, d, h), body, round=u(0.015, 0.06))
        for sy in SIDES:
            b.box((0, sy * 0.2 * d, h), (0.74 * w, 0.16 * d, 0.2 * h), dark, op="subtract")
    b.box((0, 0, 0.012), (0.96 * w, 0.94 * d, 0.024), dark, round=0.005)
    b.box((0.5 * w + 0.01, 0, 0.65 * h), (0.03, 0.04, 0.02), dark, round=0.005)
    b.rod((0.3 * w, -0.5 * d - 0.015, 0.3 * h), (0.3 * w, -0.5 * d + 0.01, 0.3 * h), 0.02, dark)
    if u() < 0.5:
        for sy in SIDES:
            b.box((0, sy * 0.2 * d, h + 0.01), (0.64 * w, 0.1 * d, 0.09), bread, round=0.01)


def can(b: Builder, p: Palette) -> None:
    """A drink can, jar or tube with a label and lid."""
    u = p.rng.uniform
    body, metal = b.material(p.painted()), b.material(p.metal())
    r, h = 0.033, u(0.05, 0.15)
    neck = u(0.75, 1.0) * r
    profile = [(0.85 * r, 0), (r, 0.006), (r, h - 0.012), (neck, h - 0.002)]
    b.lathe((0, 0, 0), profile, body)
    b.rod((0, 0, h - 0.006), (0, 0, h), neck, metal, round=0.001)
    if u() < 0.5:
        b.rod((0, 0, h - 0.002), (0, 0, h + u(0.008, 0.02)), 1.02 * neck, metal, round=0.002)
    else:
        b.box((0, -0.01, h + 0.001), (0.012, 0.02, 0.003), metal)
    _label(b, p, body, 0.5 * h, r * u(0.8, 1.8), h * u(0.2, 0.6))


def fruit(b: Builder, p: Palette) -> None:
    """Apple, pear, lemon, banana, mushroom or pumpkin."""
    u, kind = p.rng.uniform, p.rng.integers(6)
    skin, stalk, leaf = b.material(p.painted()), b.material(p.wood()), b.material(p.leaves())
    if kind == 0:
        with b.group():
            b.ellipsoid((0, 0, 0), (0.4, 0.4, u(0.33, 0.4)), skin)
            b.capsule((0, 0, 0.55), (0, 0, 0.28), 0.12, op="subtract", end=0.03, blend=0.15)
        b.tube((0, 0, 0.2), (0, 0, 0.4), (0.08, 0, 0.5), 0.02, stalk, end=0.03)
        b.ellipsoid((0.16, 0, 0.45), (0.13, 0.06, 0.02), leaf, rot=rotation("y", -25))
    elif kind == 1:
        with b.group():
            b.ball((0, 0, 0), 0.36, skin)
            b.capsule((0, 0, 0.05), (u(-0.05, 0.05), 0, u(0.4, 0.55)), 0.3, skin, end=u(0.12, 0.18), blend=0.2)
        b.tube((0, 0, 0.5), (0, 0, 0.7), (0.08, 0, 0.85), 0.02, stalk)
    elif kind == 2:
        with b.group(blend=0.0):
            b.ellipsoid((0, 0, 0), (0.42, 0.3, 0.3), skin)
            b.capsule((-0.47, 0, 0), (0.47, 0, 0), 0.05, skin, blend=0.2)
    elif kind == 3:
        c = u(0.3, 0.6)
        b.tube((-0.5, 0, 0.3 * c), (0, 0, -0.9 * c), (0.5, 0, 0.4 * c), u(0.08, 0.12), skin, end=0.07)
        b.capsule((0.48, 0, 0.38 * c), (0.58, 0, 0.6 * c), 0.05, stalk, end=0.03)
        b.capsule((-0.5, 0, 0.3 * c), (-0.56, 0, 0.4 * c), 0.06, stalk, end=0.025)
    elif kind == 4:
        r = u(0.25, 0.45)
        b.lathe((0, 0, 0), [(0.14, 0), (0.1, 0.2), (0.09, 0.45)], stalk, round=0.02)
        with b.group():
            b.ellipsoid((0, 0, 0.42), (r, r, u(0.2, 0.35)), skin)
            b.box((0, 0, 0.12), (2, 2, 0.6), op="subtract", blend=0.05)
    else:
        with b.group():
            for i in range(8):
                a = i * np.pi / 4
                b.ellipsoid((0.2 * np.cos(a), 0.2 * np.sin(a), 0), (0.25, 0.25, 0.33), skin, blend=0.04)
        b.tube((0, 0, 0.2), (0, 0, 0.42), (0.1, 0, 0.5), 0.05, stalk, end=0.04)


def pitcher(b: Builder, p: Palette) -> None:
    """A watering can or a jug."""
    u = p.rng.uniform
    body = b.material(p.painted() if u() < 0.6 else p.metal())
    r, h = u(0.1, 0.14), u(0.18, 0.26)
    if u() < 0.5:
        b.rod((0, 0, 0), (0, 0, h), r, body, end=u(0.75, 1.0) * r, round=0.01)
        tip = (-u(0.3, 0.36), 0, u(0.9, 1.3) * h)
        b.capsule((-0.7 * r, 0, 0.25 * h), tip, 0.025, body, end=0.014)
        with b.placed(tip, rotation("y", -40)):
            b.rod((0, 0, -0.01), (0, 0, 0.04), 0.02, body, end=u(0.03, 0.06))
        b.tube((0.1 * r, 0, h), (0.6, 0, 1.3 * h), (0.9 * r, 0, 0.2 * h), 0.012, body)
        return
    with b.group():
        profile = [(0.6 * r, 0), (r, 0.3 * h), (0.6 * r, 0.75 * h), (0.7 * r, h)]
        b.lathe((0, 0, 0), profile, body, round=0.003)
        b.capsule((-0.5 * r, 0, 0.85 * h), (-0.95 * r, 0, 1.02 * h), 0.03, body, end=0.02, blend=0.03)
        b.lathe((0, 0, 0), [(q - 0.01, z + 0.015) for q, z in profile], op="subtract")
        b.capsule((-0.4 * r, 0, 0.95 * h), (-1.0 * r, 0, 1.06 * h), 0.03, op="subtract", end=0.018)
    b.tube((0.55 * r, 0, 0.9 * h), (2.4 * r, 0, 0.9 * h), (0.9 * r, 0, 0.3 * h), 0.011, body)


def blender(b: Builder, p: Palette) -> None:
    """A motor base with knobs under a jar, or a mixer with a head over a bowl."""
    u = p.rng.uniform
    body, jar, dark = b.material(p.painted()), b.material(p.painted()), b.material(p.shade(0.05, 0.4))
    if u() < 0.5:
        b.rod((0, 0, 0), (0, 0, 0.14), 0.1, body, end=0.07, round=0.01)
        h, r = u(0.2, 0.28), u(0.07, 0.09)
        b.rod((0, 0, 0.145), (0, 0, 0.145 + h), 0.055, jar, end=r, round=0.004)
        b.rod((0, 0, 0.14 + h), (0, 0, 0.17 + h), 1.02 * r, dark, round=0.006)
        b.tube((r - 0.01, 0, 0.12 + h), (r + 0.1, 0, 0.12 + h), (0.058, 0, 0.19), 0.01, dark)
        b.rod((0, -0.11, 0.06), (0, -0.06, 0.06), 0.025, dark, round=0.004)
        return
    b.box((0, 0, 0.02), (0.2, 0.34, 0.04), body, round=0.018)
    b.capsule((0, 0.12, 0.05), (0, 0.12, 0.27), 0.05, body)
    b.capsule((0, 0.14, 0.29), (0, -0.13, 0.3), 0.06, body, end=0.05)
    b.rod((0, -0.08, 0.16), (0, -0.08, 0.27), 0.012, dark)
    b.lathe((0, -0.06, 0.045), [(0, 0), (0.06, 0), (0.085, 0.06), (0.095, 0.13)], jar, wall=0.007)
    b.rod((0.04, 0.0, 0.3), (0.075, 0.0, 0.3), 0.015, dark)
