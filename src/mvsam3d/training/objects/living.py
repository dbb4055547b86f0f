"""Animals, figures and plants. They look to -Y."""

import numpy as np

from mvsam3d.training.objects.program import Builder, Point, rotation
from mvsam3d.training.objects.textures import Palette

SIDES = (-1, 1)


def _eyes(b: Builder, p: Palette, centre: Point, apart: float, size: float) -> None:
    """Two dark balls, at times in white."""
    black = b.material(p.plain((0.03, 0.03, 0.04), gloss=0.5))
    for sx in SIDES:
        b.ball((centre[0] + sx * apart, centre[1], centre[2]), size, black)


def quadruped(b: Builder, p: Palette) -> None:
    """A dog, horse, cow, pig, giraffe, elephant...: a barrel on four legs, neck, head, ears, tail."""
    u = p.rng.uniform
    coat, dark = b.material(p.fur()), b.material(p.shade(0.05, 0.35))
    length, r, leg = u(0.6, 1.0), u(0.15, 0.26), u(0.18, 0.65)
    thin = u(0.05, 0.09)
    top = leg + r
    neck_up = u(0.05, 0.3) if u() < 0.6 else u(0.3, 0.75)
    head = (0.0, -0.5 * length - u(0.1, 0.25), top + neck_up + 0.08)
    size = u(0.11, 0.17)
    with b.group():
        b.capsule((0, -0.4 * length, top), (0, 0.4 * length, top), r, coat, end=r * u(0.8, 1.1))
        for sx in SIDES:
            for sy, bend in ((-1, -0.02), (1, 0.05)):
                x, y = sx * 0.6 * r, sy * 0.42 * length
                b.capsule((x, y, top - 0.2 * r), (x, y + bend, 0.5 * leg), 1.5 * thin, coat, end=thin, blend=0.06)
                b.capsule((x, y + bend, 0.5 * leg), (x, y, thin), thin, coat, end=0.8 * thin, blend=0.03)
        b.capsule((0, -0.42 * length, top + 0.03), head, 0.75 * r, coat, end=0.85 * size, blend=0.08)
        b.ball(head, size, coat, blend=0.05)
        snout = u(0.08, 0.26)
        muzzle = (0, head[1] - size - snout, head[2] - u(0.02, 0.1))
        b.capsule(
            (0, head[1] - 0.4 * size, head[2] - 0.02), muzzle, 0.75 * size, coat, end=u(0.4, 0.6) * size, blend=0.04
        )
    b.ellipsoid((0, muzzle[1] - 0.42 * size, muzzle[2] + 0.02), (0.3 * size, 0.25 * size, 0.2 * size), dark)
    _eyes(b, p, (0, head[1] - 0.75 * size, head[2] + 0.35 * size), 0.5 * size, 0.16 * size)
    ears, kind = u(0.08, 0.22), p.rng.integers(3)
    for sx in SIDES:
        ex, ez = sx * 0.65 * size, head[2] + 0.7 * size
        if kind == 0:
            b.capsule((ex, head[1], ez), (1.3 * ex, head[1] + 0.02, ez + ears), 0.05, coat, end=0.015)
        elif kind == 1:
            b.ellipsoid(
                (1.5 * ex, head[1] + 0.02, ez - 0.4 * ears), (0.03, 0.06, 0.7 * ears), coat, rot=rotation("y", -sx * 15)
            )
        else:
            b.ellipsoid(
                (1.5 * ex, head[1] + 0.02, ez), (0.9 * ears, 0.03, 0.5 * ears), coat, rot=rotation("y", sx * 20)
            )
        if u() < 0.2:
            b.tube(
                (0.5 * ex, head[1], ez),
                (2 * ex, head[1], ez + 0.1),
                (1.6 * ex, head[1] - 0.05, ez + 0.25),
                0.03,
                dark,
                end=0.01,
            )
    tail, y = u(0.1, 0.5), 0.4 * length + 0.8 * r
    b.tube(
        (0, y - 0.08, top + 0.3 * r),
        (0, y + 0.5 * tail, top + u(-0.3, 0.4)),
        (0, y + 0.4 * tail, top + u(-0.4, 0.4)),
        0.035,
        coat,
        end=u(0.012, 0.05),
    )
    if u() < 0.6:
        for sx in SIDES:
            for sy in SIDES:
                b.ellipsoid((sx * 0.6 * r, sy * 0.42 * length - 0.02, 0.03), (1.1 * thin, 1.4 * thin, 0.04), dark)


def cat(b: Builder, p: Palette) -> None:
    """A sitting cat, rabbit or mouse."""
    u = p.rng.uniform
    coat, pink = b.material(p.fur()), b.material(p.plain((0.85, 0.55, 0.55)))
    h, r = u(0.4, 0.55), u(0.2, 0.27)
    head = (0, -0.12, h + 0.16)
    hr = u(0.16, 0.21)
    with b.group():
        b.ellipsoid((0, 0.06, 0.24), (r, 1.15 * r, 0.25), coat)
        b.capsule((0, 0.02, 0.3), (0, -0.08, h), 0.85 * r, coat, end=0.13, blend=0.06)
        b.ellipsoid(head, (1.05 * hr, 0.95 * hr, 0.92 * hr), coat, blend=0.03)
        for sx in SIDES:
            b.capsule((sx * 0.1, -0.18, 0.3), (sx * 0.1, -0.24, 0.05), 0.06, coat, end=0.05, blend=0.04)
            b.ellipsoid((sx * 0.9 * r, 0.0, 0.13), (0.1, 0.18, 0.14), coat, blend=0.04)
        b.ellipsoid((0, head[1] - 0.85 * hr, head[2] - 0.3 * hr), (0.45 * hr, 0.3 * hr, 0.3 * hr), coat, blend=0.02)
    kind, long = p.rng.integers(3), u(0.15, 0.4)
    for sx in SIDES:
        x, z = sx * 0.6 * hr, head[2] + 0.6 * hr
        if kind == 0:
            b.rod((x, head[1], z - 0.02), (1.25 * x, head[1], z + 0.14), 0.08, coat, end=0.008)
        elif kind == 1:
            b.ellipsoid(
                (0.9 * x, head[1] + 0.04, z + 0.7 * long), (0.055, 0.03, long), coat, rot=rotation("y", sx * u(0, 20))
            )
        else:
            b.rod(
                (1.5 * x, head[1] - 0.01, z + 0.05),
                (1.5 * x, head[1] + 0.03, z + 0.05),
                u(0.1, 0.14),
                coat,
                round=0.015,
            )
    b.ball((0, head[1] - 1.13 * hr, head[2] - 0.2 * hr), 0.025, pink)
    _eyes(b, p, (0, head[1] - 0.82 * hr, head[2] + 0.2 * hr), 0.42 * hr, 0.03)
    if kind == 1:
        b.ball((0, 0.06 + 1.15 * r, 0.15), 0.08, coat)
    else:
        b.tube((0, 0.28, 0.08), (0.5, 0.5, 0.04), (0.34, u(-0.1, 0.2), u(0.06, 0.3)), 0.04, coat, end=0.02)


def bird(b: Builder, p: Palette) -> None:
    """A standing bird: from sparrow to heron; or a penguin or owl."""
    u = p.rng.uniform
    feathers, wing, beak = (
        b.material(p.painted()),
        b.material(p.painted()),
        b.material(p.plain((0.9, u(0.4, 0.7), 0.1))),
    )
    upright = u(10, 75)
    r, leg = u(0.15, 0.22), u(0.08, 0.5)
    z = leg + r
    c, s = np.cos(np.radians(upright)), np.sin(np.radians(upright))
    half = u(0.1, 0.22)
    chest = (0, -half * c, z + half * s)
    neck = u(0.1, 0.2) if u() < 0.7 else u(0.3, 0.5)
    head = (0, chest[1] - 0.5 * neck - 0.03, chest[2] + neck + 0.04)
    hr = u(0.09, 0.13)
    with b.group():
        b.capsule(chest, (0, half * c, z - half * s * 0.7), r, feathers, end=0.7 * r)
        b.tube(chest, (0, chest[1] - 0.1, chest[2] + 0.6 * neck), head, 0.55 * r, feathers, end=0.7 * hr, blend=0.05)
        b.ball(head, hr, feathers, blend=0.03)
    length = u(0.08, 0.25)
    b.rod((0, head[1] - 0.8 * hr, head[2]), (0, head[1] - hr - length, head[2] - u(0, 0.05)), 0.4 * hr, beak, end=0.006)
    _eyes(b, p, (0, head[1] - 0.5 * hr, head[2] + 0.35 * hr), 0.72 * hr, 0.022)
    tail = u(0.2, 0.45)
    with b.placed((0, half * c, z - 0.5 * half * s), rotation("x", -0.6 * upright + u(-5, 25))):
        b.prism(
            (0, 0, 0),
            [(-0.06, 0), (0.06, 0), (u(0.05, 0.14), tail + r), (-u(0.05, 0.14), tail + r)],
            0.04,
            wing,
            round=0.015,
        )
    for sx in SIDES:
        with b.placed((sx * 0.85 * r, 0.03, z), rotation("x", -0.8 * upright)):
            b.ellipsoid((0, 0.06, 0), (0.05, half + 0.16, 0.72 * r), wing, rot=rotation("z", -sx * 6))
        x = sx * 0.45 * r
        b.rod((x, 0.02, 0.02), (x, 0.0, z - 0.5 * r), 0.016, beak)
        for a in (-0.5, 0.0, 0.5):
            b.capsule((x, 0.02, 0.015), (x + 0.1 * np.sin(a), 0.02 - 0.1 * np.cos(a), 0.012), 0.014, beak)


def duck(b: Builder, p: Palette) -> None:
    """A swimming duck, as toys are."""
    u = p.rng.uniform
    body, beak = b.material(p.painted()), b.material(p.plain((0.92, u(0.35, 0.65), 0.08)))
    r, hr = u(0.24, 0.32), u(0.16, 0.22)
    head = (0, -u(0.18, 0.3), 0.42 + u(0.0, 0.15))
    with b.group():
        b.ellipsoid((0, 0, 0.2), (r, u(1.3, 1.6) * r, 0.22), body)
        b.capsule((0, -0.16, 0.24), head, 0.15, body, end=0.12, blend=0.08)
        b.ball(head, hr, body, blend=0.03)
        b.capsule((0, 0.25, 0.26), (0, 0.52, u(0.36, 0.46)), 0.13, body, end=0.03, blend=0.1)
        b.box((0, 0, -0.15), (2, 2, 0.3), op="subtract", blend=0.03)
    for sx in SIDES:
        b.ellipsoid((sx * 0.93 * r, 0.07, 0.26), (0.06, 0.22, 0.12), body, rot=rotation("x", u(0, 20)))
    b.ellipsoid((0, head[1] - hr - 0.02, head[2] - 0.03), (0.09, 0.13, 0.035), beak)
    _eyes(b, p, (0, head[1] - 0.72 * hr, head[2] + 0.3 * hr), 0.5 * hr, 0.035)


def fish(b: Builder, p: Palette) -> None:
    """A fish swimming to -Y: body, fins, tail; or a whale."""
    u = p.rng.uniform
    body, fin = b.material(p.painted()), b.material(p.painted())
    w, h = u(0.08, 0.2), u(0.16, 0.34)
    side = rotation("z", 90) @ rotation("x", 90)
    with b.group():
        b.ellipsoid((0, 0, 0), (w, 0.5, h), body)
        b.capsule((0, 0.3, 0), (0, u(0.5, 0.6), 0), 0.5 * w, body, end=0.35 * w, blend=0.1)
    tail, fork = u(0.16, 0.32), u(0.0, 0.12)
    b.prism(
        (0, 0, 0),
        [(0.48, 0.03), (0.78, tail), (0.78 - fork, 0), (0.78, -tail), (0.48, -0.03)],
        0.03,
        fin,
        round=0.012,
        rot=side,
    )
    back = u(0.08, 0.2)
    b.prism(
        (0, 0, 0),
        [(-0.2, 0.9 * h), (0.02, h + back), (0.22, h + 0.3 * back), (0.3, 0.6 * h)],
        0.028,
        fin,
        round=0.01,
        rot=side,
    )
    if u() < 0.7:
        b.prism(
            (0, 0, 0), [(-0.05, -0.9 * h), (0.15, -h - 0.6 * back), (0.2, -0.7 * h)], 0.028, fin, round=0.01, rot=side
        )
    for sx in SIDES:
        b.ellipsoid((sx * (w + 0.05), -0.08, -0.25 * h), (0.1, 0.07, 0.02), fin, rot=rotation("y", sx * 35))
    _eyes(b, p, (0, -0.36, 0.25 * h), 0.66 * w, 0.04)


def turtle(b: Builder, p: Palette) -> None:
    """A shell on four short legs, or a crab with claws, or a beetle."""
    u = p.rng.uniform
    skin, shell = b.material(p.leaves() if u() < 0.6 else p.painted()), b.material(p.painted())
    kind, r, h = p.rng.integers(3), u(0.32, 0.42), u(0.18, 0.34)
    with b.group():
        b.ellipsoid((0, 0, 0.12), (r, 1.15 * r, h), shell)
        b.box((0, 0, -0.14), (2, 2, 0.46), op="subtract", blend=0.04)
    b.ellipsoid((0, 0, 0.12), (1.02 * r, 1.17 * r, 0.06), skin)
    if kind == 0:
        head = (0, -1.15 * r - 0.16, u(0.14, 0.3))
        b.capsule((0, -0.9 * r, 0.13), head, 0.08, skin, end=0.1)
        _eyes(b, p, (0, head[1] - 0.07, head[2] + 0.04), 0.06, 0.022)
        for sx in SIDES:
            for sy in SIDES:
                b.capsule(
                    (sx * 0.7 * r, sy * 0.75 * r, 0.13), (sx * 1.0 * r, sy * 1.05 * r, 0.05), 0.09, skin, end=0.075
                )
        b.rod((0, 1.1 * r, 0.12), (0, 1.1 * r + 0.16, 0.06), 0.05, skin, end=0.006)
        return
    for sx in SIDES:
        for i in range(3):
            y = r * (0.55 * i - 0.4)
            b.tube(
                (sx * 0.8 * r, y, 0.12),
                (sx * 1.4 * r, y, u(0.25, 0.4)),
                (sx * 1.6 * r, 1.3 * y, 0.0),
                0.035,
                skin,
                end=0.02,
            )
        if kind == 1:
            b.tube(
                (sx * 0.6 * r, -0.8 * r, 0.13),
                (sx * 1.4 * r, -1.1 * r, 0.15),
                (sx * 0.9 * r, -1.7 * r, 0.15),
                0.045,
                skin,
            )
            b.torus((sx * 0.8 * r, -1.9 * r, 0.15), 0.1, 0.045, skin, arc=290, rot=rotation("z", 180 + sx * 20))
        else:
            b.tube((sx * 0.1, -1.3 * r, 0.14), (sx * 0.15, -1.6 * r, 0.3), (sx * 0.3, -1.9 * r, 0.3), 0.015, skin)
    b.ball((0, -1.15 * r, 0.13), 0.12, skin)
    _eyes(b, p, (0, -1.15 * r - 0.1, 0.2), 0.07, 0.03)


def teddy(b: Builder, p: Palette) -> None:
    """A sitting or standing plush bear."""
    u = p.rng.uniform
    coat, pale = b.material(p.fur()), b.material(p.fabric())
    dark = b.material(p.plain((0.06, 0.04, 0.04)))
    hr, r, h = u(0.2, 0.27), u(0.2, 0.27), u(0.28, 0.36)
    z = h + 0.24 + 0.7 * hr
    limb = u(0.08, 0.11)
    sitting = u() < 0.6
    with b.group():
        b.ellipsoid((0, 0, h), (r, 0.88 * r, 0.3), coat)
        b.ellipsoid((0, 0, z), (1.08 * hr, 0.95 * hr, hr), coat, blend=0.03)
        for sx in SIDES:
            lift = u(-0.25, 0.2)
            b.capsule(
                (sx * 0.8 * r, -0.02, h + 0.14), (sx * (r + 0.16), -u(0.05, 0.25), h + lift), limb, coat, blend=0.03
            )
            foot = (sx * 0.22, -0.38, 0.11) if sitting else (sx * 0.15, -0.02, -0.08)
            b.capsule((sx * 0.13, -0.03, 0.13), foot, 1.25 * limb, coat, end=1.2 * limb, blend=0.03)
            b.ellipsoid((sx * 0.8 * hr, 0, z + 0.75 * hr), (0.1, 0.05, 0.1), coat, blend=0.015)
    for sx in SIDES:
        b.ellipsoid((sx * 0.8 * hr, -0.03, z + 0.75 * hr), (0.06, 0.04, 0.06), pale)
    b.ellipsoid((0, -0.82 * hr, z - 0.25 * hr), (0.5 * hr, 0.42 * hr, 0.4 * hr), pale)
    b.ellipsoid((0, -1.2 * hr, z - 0.12 * hr), (0.16 * hr, 0.1 * hr, 0.12 * hr), dark)
    b.ellipsoid((0, -0.5 * r, h - 0.03), (0.62 * r, 0.44 * r, 0.2), pale)
    _eyes(b, p, (0, -0.84 * hr, z + 0.22 * hr), 0.38 * hr, 0.1 * hr)
    if u() < 0.4:
        ribbon = b.material(p.painted())
        for sx in SIDES:
            b.capsule((0, -0.6 * r, h + 0.23), (sx * 0.12, -0.65 * r, h + 0.23), 0.02, ribbon, end=0.05)


def figurine(b: Builder, p: Palette) -> None:
    """A person: head, hair, dress or trousers, arms in some pose."""
    u = p.rng.uniform
    tone = u(0.3, 0.95)
    skin = b.material(p.plain((tone, 0.76 * tone, 0.6 * tone)))
    shirt, trousers, hair, shoe = (
        b.material(p.fabric()),
        b.material(p.fabric()),
        b.material(p.shade(0.04, 0.5)),
        b.material(p.shade(0.04, 0.4)),
    )
    head, leg, torso, w = u(0.09, 0.16), u(0.3, 0.5), u(0.32, 0.42), u(0.1, 0.15)
    hip, neck = leg, leg + torso
    z = neck + 0.05 + 0.9 * head
    if u() < 0.3:
        b.lathe((0, 0, 0.05), [(u(0.2, 0.3), 0), (0.8 * w, hip + 0.05)], trousers, round=0.01)
    stance = u(0.0, 0.08)
    for sx in SIDES:
        step = u(-0.1, 0.1)
        b.capsule((sx * 0.55 * w, 0, hip), (sx * (0.55 * w + stance), step, 0.05), 0.07, trousers, end=0.05)
        b.ellipsoid((sx * (0.55 * w + stance), step - 0.04, 0.035), (0.05, 0.1, 0.04), shoe)
        shoulder, elbow = (
            (sx * (w + 0.03), 0, neck - 0.05),
            (sx * (w + u(0.06, 0.22)), u(-0.1, 0.05), neck - u(0.0, 0.25)),
        )
        hand = (elbow[0] + sx * u(-0.1, 0.12), elbow[1] - u(0.0, 0.15), elbow[2] + u(-0.22, 0.2))
        b.capsule(shoulder, elbow, 0.05, shirt, end=0.042)
        b.capsule(elbow, hand, 0.04, shirt if u() < 0.5 else skin, end=0.032)
        b.ball(hand, 0.045, skin)
    with b.group():
        b.capsule((0, 0, hip), (0, 0, neck - 0.08), 1.05 * w, shirt, end=w)
        b.capsule((-w, 0, neck - 0.06), (w, 0, neck - 0.06), 0.05, shirt, blend=0.05)
    b.rod((0, 0, neck - 0.05), (0, 0, z), 0.04, skin)
    b.ellipsoid((0, 0, z), (0.88 * head, 0.92 * head, head), skin)
    style = p.rng.integers(4)
    with b.group():
        b.ellipsoid((0, 0.02, z + 0.05 * head), (0.96 * head, 0.98 * head, 1.06 * head), hair)
        b.box((0, -head, z - 0.35 * head), (4 * head, 1.7 * head, 1.6 * head), op="subtract")
        b.box((0, 0, z - 1.2 * head), (4 * head, 4 * head, u(0.7, 1.8) * head), op="subtract")
    if style == 0:
        b.capsule((0, 0.7 * head, z + 0.3 * head), (0, 1.2 * head, z - 1.2 * head), 0.35 * head, hair, end=0.1 * head)
    elif style == 1:
        b.rod((0, 0, z + 0.5 * head), (0, 0, z + 0.56 * head), 1.6 * head, shoe, round=0.01)
        b.rod((0, 0, z + 0.5 * head), (0, 0, z + u(1.2, 1.9) * head), 0.9 * head, shoe, end=u(0.1, 0.85) * head)
    _eyes(b, p, (0, -0.82 * head, z + 0.1 * head), 0.32 * head, 0.1 * head)
    b.ball((0, -0.95 * head, z - 0.1 * head), 0.12 * head, skin)
    if u() < 0.3:
        b.rod((0, 0, -0.04), (0, 0, 0.01), u(0.2, 0.3), shoe, round=0.01)


def robot(b: Builder, p: Palette) -> None:
    """A toy robot of boxes and cylinders."""
    u = p.rng.uniform
    body, limb, metal, light = (
        b.material(p.painted()),
        b.material(p.any()),
        b.material(p.metal()),
        b.material(p.painted()),
    )
    w, d, h, leg = u(0.3, 0.5), u(0.22, 0.34), u(0.3, 0.5), u(0.15, 0.35)
    if u() < 0.7:
        b.box((0, 0, leg + 0.5 * h), (w, d, h), body, round=u(0.01, 0.08))
    else:
        b.rod((0, 0, leg), (0, 0, leg + h), 0.5 * w, body, end=u(0.3, 0.5) * w, round=0.02)
    b.box((0, -0.5 * d, leg + 0.6 * h), (0.6 * w, 0.05, 0.4 * h), metal, round=0.01)
    for i in range(p.rng.integers(1, 4)):
        b.ball(((i - 1) * 0.16 * w, -0.5 * d - 0.03, leg + 0.66 * h), 0.03, light)
    hw, hh = w * u(0.5, 0.95), u(0.16, 0.26)
    z = leg + h + 0.04 + 0.5 * hh
    b.rod((0, 0, leg + h - 0.02), (0, 0, z), 0.05, metal)
    if u() < 0.65:
        b.box((0, 0, z), (hw, 0.8 * hw, hh), limb, round=u(0.01, 0.05))
        face = 0.4 * hw
    else:
        b.ellipsoid((0, 0, z), (0.5 * hw, 0.45 * hw, 0.6 * hh), limb)
        face = 0.38 * hw
    for sx in SIDES:
        b.rod(
            (sx * 0.22 * hw, -face - 0.03, z + 0.02), (sx * 0.22 * hw, -face + 0.05, z + 0.02), 0.045, light, round=0.01
        )
        x = sx * (0.5 * w + 0.05)
        b.ball((x, 0, leg + 0.85 * h), 0.065, metal)
        hand = (x + sx * u(0.02, 0.12), -u(0.0, 0.25), leg + h * u(0.2, 0.9))
        b.capsule((x + sx * 0.02, 0, leg + 0.85 * h), hand, 0.045, limb)
        b.torus(hand, 0.06, 0.022, metal, arc=260, rot=rotation("z", 180))
        b.box((sx * 0.27 * w, 0, 0.5 * leg + 0.02), (0.28 * w, 0.4 * d, leg), limb, round=0.01)
        b.box((sx * 0.27 * w, -0.05, 0.04), (0.38 * w, 0.9 * d, 0.08), metal, round=0.02)
    if u() < 0.7:
        b.rod((0, 0, z + 0.4 * hh), (0, 0, z + 0.5 * hh + u(0.08, 0.2)), 0.012, metal)
        b.ball((0, 0, z + 0.5 * hh + 0.15), 0.035, light)


def snowman(b: Builder, p: Palette) -> None:
    """Two or three balls, a hat, a nose, arms, a scarf."""
    u = p.rng.uniform
    white, dark, carrot, cloth = (
        b.material(p.shade(0.85, 1.0)),
        b.material(p.shade(0.04, 0.2)),
        b.material(p.plain((0.95, 0.45, 0.1))),
        b.material(p.fabric()),
    )
    radii = sorted(u(0.14, 0.36, int(p.rng.integers(2, 4))), reverse=True)
    z, places = 0.0, []
    for i, r in enumerate(radii):
        z += 0.85 * r if i else 0.9 * r
        places.append(z)
        z += 0.8 * r
        b.ball((0, 0, places[-1]), r, white)
    r, at = radii[-1], places[-1]
    b.rod((0, -0.9 * r, at), (0, -r - u(0.1, 0.25), at), 0.18 * r, carrot, end=0.01)
    _eyes(b, p, (0, -0.86 * r, at + 0.3 * r), 0.32 * r, 0.09 * r)
    if u() < 0.75:
        b.rod((0, 0, at + 0.75 * r), (0, 0, at + 0.85 * r), 1.1 * r, dark, round=0.01)
        b.rod((0, 0, at + 0.8 * r), (0, 0, at + u(1.3, 1.9) * r), 0.7 * r, dark)
    b.torus((0, 0, at - 0.85 * r), 0.75 * r, 0.22 * r, cloth)
    low, mid = radii[-2], places[-2]
    for sx in SIDES:
        tip = (sx * (low + u(0.2, 0.35)), 0, mid + u(0.1, 0.35))
        b.capsule((sx * 0.85 * low, 0, mid + 0.2 * low), tip, 0.025, dark, end=0.014)
        b.capsule(tip, (tip[0] + sx * 0.08, 0, tip[2] + 0.02), 0.012, dark)
    for i in range(3):
        b.ball((0, -0.97 * low, mid + low * (0.3 * i - 0.2)), 0.028, dark)


def potted_plant(b: Builder, p: Palette) -> None:
    """A pot with leaves, a cactus, a bush or flowers."""
    u = p.rng.uniform
    pot, soil, leaf = b.material(p.painted()), b.material(p.plain((0.2, 0.13, 0.08))), b.material(p.leaves())
    r, h = u(0.14, 0.22), u(0.2, 0.34)
    if u() < 0.75:
        b.lathe((0, 0, 0), [(u(0.6, 0.95) * r, 0), (r, h)], pot)
        b.lathe((0, 0, h - 0.03), [(r, 0), (1.03 * r, 0.05)], pot, wall=0.04)
    else:
        b.box((0, 0, 0.5 * h), (2 * r, 2 * r, h), pot, round=0.02)
    b.rod((0, 0, h - 0.02), (0, 0, h + 0.008), 0.92 * r, soil)
    kind = p.rng.integers(4)
    if kind == 0:
        for i in range(p.rng.integers(6, 14)):
            a, out, up = 2.4 * i + u(-0.3, 0.3), u(0.15, 0.4), u(0.2, 0.6)
            c, s = np.cos(a), np.sin(a)
            b.tube(
                (0.03 * c, 0.03 * s, h),
                (0.3 * out * c, 0.3 * out * s, h + up),
                (out * c, out * s, h + u(0.4, 1.0) * up),
                u(0.02, 0.03),
                leaf,
                end=0.008,
            )
            b.ellipsoid(
                (0.85 * out * c, 0.85 * out * s, h + 0.72 * up),
                (0.11, 0.045, 0.02),
                leaf,
                rot=rotation("z", float(np.degrees(a))),
            )
    elif kind == 1:
        tall, q = u(0.3, 0.6), u(0.08, 0.14)
        b.capsule((0, 0, h), (0, 0, h + tall), q, leaf)
        for sx in SIDES[: p.rng.integers(0, 3)]:
            z = h + u(0.3, 0.6) * tall
            b.tube((0, 0, z), (sx * (q + 0.22), 0, z - 0.06), (sx * (q + 0.14), 0, z + u(0.1, 0.25)), 0.55 * q, leaf)
        b.ball((0, 0, h + tall + q), 0.04, b.material(p.painted()))
    elif kind == 2:
        stem = u(0.05, 0.5)
        b.rod((0, 0, h - 0.02), (0, 0, h + stem + 0.1), 0.025, soil)
        with b.group():
            for i in range(p.rng.integers(4, 9)):
                at = p.rng.normal(0, 0.1, 3)
                b.ball((at[0], at[1], h + stem + 0.16 + abs(at[2])), u(0.1, 0.17), leaf, blend=0.04 if i else 0.0)
    else:
        petals = b.material(p.painted())
        for i in range(p.rng.integers(1, 6)):
            a, out, up = 2.4 * i, (0.0 if i == 0 else u(0.1, 0.25)), u(0.25, 0.5)
            tip = (out * np.cos(a), out * np.sin(a), h + up)
            b.tube((0, 0, h), (0, 0, h + 0.6 * up), tip, 0.016, leaf)
            b.ellipsoid(tip, (0.09, 0.09, 0.035), petals)
            b.ball((tip[0], tip[1], tip[2] + 0.025), 0.035, soil)
            b.ellipsoid(
                (0.5 * tip[0] + 0.07, 0.5 * tip[1], h + 0.35 * up), (0.1, 0.04, 0.018), leaf, rot=rotation("y", -30)
            )


def tree(b: Builder, p: Palette) -> None:
    """A fir, a broad-leaved tree, a palm or a bare one."""
    u = p.rng.uniform
    bark, leaf = b.material(p.wood()), b.material(p.leaves())
    kind, h, r = p.rng.integers(4), u(0.3, 0.7), u(0.04, 0.09)
    if kind == 0:
        layers, wide, tall = int(p.rng.integers(2, 5)), u(0.25, 0.42), u(0.25, 0.4)
        b.rod((0, 0, 0), (0, 0, 0.5), r, bark)
        for i in range(layers):
            z = 0.18 + 0.62 * i * tall
            b.rod(
                (0, 0, z),
                (0, 0, z + tall),
                wide * (1 - 0.22 * i),
                leaf,
                end=0.02 if i == layers - 1 else 0.1,
                round=0.01,
            )
    elif kind == 1:
        b.rod((0, 0, 0), (0, 0, h + 0.1), 1.3 * r, bark, end=0.8 * r)
        with b.group():
            for i in range(p.rng.integers(3, 9)):
                a, q = 2.4 * i, (0 if i == 0 else u(0.1, 0.22))
                b.ellipsoid(
                    (q * np.cos(a), q * np.sin(a), h + 0.2 + u(-0.08, 0.2)),
                    (u(0.15, 0.25), u(0.15, 0.25), u(0.12, 0.22)),
                    leaf,
                    blend=0.05 if i else 0.0,
                )
    elif kind == 2:
        lean = u(-0.25, 0.25)
        top = (lean, 0, 1.3 * h + 0.3)
        b.tube((0, 0, 0), (0, 0, 0.8 * h), top, 1.1 * r, bark, end=0.6 * r)
        fronds = int(p.rng.integers(6, 10))
        for i in range(fronds):
            a, reach = 2 * np.pi * i / fronds, u(0.35, 0.5)
            c, s = np.cos(a), np.sin(a)
            end = (lean + reach * c, reach * s, top[2] - u(0.05, 0.2))
            b.tube(top, (lean + 0.6 * reach * c, 0.6 * reach * s, top[2] + 0.22), end, 0.05, leaf, end=0.015)
    else:
        b.rod((0, 0, 0), (0, 0, 0.6), 1.2 * r, bark, end=0.7 * r)
        for i in range(p.rng.integers(4, 9)):
            a, z = 2.4 * i, u(0.3, 0.6)
            c, s, out = np.cos(a), np.sin(a), u(0.2, 0.4)
            tip = (out * c, out * s, z + u(0.15, 0.45))
            b.capsule((0, 0, z), tip, 0.5 * r, bark, end=0.018)
            b.ellipsoid(tip, (u(0.08, 0.15), u(0.08, 0.15), 0.1), leaf)
