"""Furniture and lamps. Fronts face -Y; lengths are in metres or thereabouts (the result is scaled anyway)."""

import numpy as np

from mvsam3d.training.objects.program import ALONG_X, ALONG_Y, Builder, Point, rotation
from mvsam3d.training.objects.textures import Palette

SIDES = (-1, 1)


def _legs(b: Builder, p: Palette, mat: int, width: float, depth: float, top: float, *, thin: float = 1.0) -> None:
    """Four legs of one of several styles under a plate of width x depth at height `top`."""
    u = p.rng.uniform
    style, size, splay = p.rng.integers(4), thin * u(0.015, 0.035), u(0.0, 0.06)
    for sx in SIDES:
        for sy in SIDES:
            x, y = sx * (0.5 * width - 1.3 * size), sy * (0.5 * depth - 1.3 * size)
            if style == 0:
                b.box((x, y, 0.5 * top), (2 * size, 2 * size, top), mat, round=0.3 * size)
            elif style == 1:
                b.rod((x + sx * splay, y + sy * splay, 0), (x, y, top), 0.6 * size, mat, end=size)
            elif style == 2:
                profile = [(0.7, 0), (1.1, 0.1), (0.6, 0.2), (1.2, 0.5), (0.7, 0.7), (1.2, 0.8), (1.2, 1.0)]
                b.lathe((x, y, 0), [(size * r, top * z) for r, z in profile], mat)
            else:
                b.tube(
                    (x + sx * splay, y + sy * splay, 0), (x + sx * splay, y, 0.7 * top), (x, y, top), 0.7 * size, mat
                )


def _seat_back(b: Builder, p: Palette, mat: int, soft: int, width: float, low: float, high: float, y: float) -> None:
    """A backrest between two heights at depth y: slats, spindles, a panel or a frame with a panel."""
    u, style, t = p.rng.uniform, p.rng.integers(5), p.rng.uniform(0.012, 0.022)
    lean = rotation("x", -u(2, 12))
    height = high - low
    with b.placed((0, y, low), lean):
        if style <= 2:
            for sx in SIDES:
                b.rod(
                    (sx * (0.5 * width - t), 0, -0.03), (sx * (0.5 * width - t), 0, height), 1.2 * t, mat, round=0.3 * t
                )
            b.box((0, 0, height - 0.04), (width, 1.6 * t, u(0.06, 0.12)), mat, round=0.5 * t)
        if style == 0:
            count = int(p.rng.integers(2, 5))
            for i in range(count):
                z = height * (0.15 + 0.65 * i / count)
                b.box((0, 0, z), (width - t, t, u(0.03, 0.06)), mat, round=0.3 * t)
        elif style == 1:
            count = int(p.rng.integers(3, 7))
            for i in range(count):
                x = width * ((i + 1) / (count + 1) - 0.5)
                b.rod((x, 0, -0.02), (x, 0, height - 0.04), 0.7 * t, mat)
        elif style == 2:
            b.box((0, -0.5 * t, 0.55 * height), (0.85 * width, 2.0 * t, 0.7 * height), soft, round=0.8 * t)
        elif style == 3:
            b.box((0, 0, 0.5 * height), (width, u(0.02, 0.07), height + 0.04), soft, round=u(0.005, 0.03))
        else:
            with b.placed((0, 0.2 * width, 0.5 * height)):
                half = 0.5 * width
                b.lathe(
                    (0, 0, 0), [(half, -0.5 * height), (1.05 * half, 0.5 * height)], soft, wall=1.6 * t, round=0.2 * t
                )
        if style == 4:
            b.box((0, -0.3 * width, 0.5 * height), (3 * width, 0.62 * width, 3 * height), op="subtract")


def chair(b: Builder, p: Palette) -> None:
    """Four legs, a seat, a back, at times arms and rungs."""
    u = p.rng.uniform
    wood, soft = b.material(p.wood() if u() < 0.6 else p.any()), b.material(p.fabric() if u() < 0.6 else p.any())
    w, d, h = u(0.4, 0.52), u(0.4, 0.5), u(0.4, 0.5)
    t = u(0.025, 0.07)
    b.box((0, 0, h), (w, d, t), soft, round=min(0.45 * t, u(0.005, 0.03)))
    _legs(b, p, wood, w, d, h)
    with b.group():
        _seat_back(b, p, wood, soft, w * u(0.85, 1.0), h, h + u(0.35, 0.6), 0.5 * d - 0.03)
    if u() < 0.3:
        for sx in SIDES:
            b.box((sx * (0.5 * w), 0.02, h + 0.2), (0.045, 0.8 * d, 0.025), wood, round=0.008)
            b.rod((sx * 0.5 * w, -0.3 * d, h), (sx * 0.5 * w, -0.3 * d, h + 0.2), 0.014, wood)
    if u() < 0.4:
        for sx in SIDES:
            b.rod((sx * 0.42 * w, -0.42 * d, 0.4 * h), (sx * 0.42 * w, 0.42 * d, 0.4 * h), 0.011, wood)


def office_chair(b: Builder, p: Palette) -> None:
    """A star foot with castors, a column, a padded seat and a bent back."""
    u = p.rng.uniform
    dark, soft = b.material(p.shade(0.04, 0.5)), b.material(p.fabric())
    h, w = u(0.4, 0.52), u(0.44, 0.54)
    feet, reach = int(p.rng.integers(4, 7)), u(0.26, 0.34)
    for i in range(feet):
        a = 2 * np.pi * (i + 0.25) / feet
        x, y = reach * np.cos(a), reach * np.sin(a)
        b.capsule((0, 0, 0.1), (x, y, 0.07), 0.03, dark, end=0.018)
        b.ball((x, y, 0.03), 0.03, dark)
    b.rod((0, 0, 0.08), (0, 0, h), 0.028, dark)
    b.box((0, 0, h), (w, w, 0.09), soft, round=0.04)
    height = u(0.4, 0.7)
    b.tube((0, 0.1, h - 0.04), (0, 0.5 * w + 0.1, h - 0.05), (0, 0.5 * w, h + 0.3), 0.025, dark)
    with b.placed((0, 0.48 * w, h + 0.14 + 0.5 * height), rotation("x", -u(3, 12))), b.group(warp="bend", amount=-0.01):
        b.box((0, 0, 0), (0.9 * w, 0.06, height), soft, round=0.028)
    if u() < 0.7:
        for sx in SIDES:
            x = sx * (0.5 * w + 0.03)
            b.tube((sx * 0.3 * w, 0.05, h - 0.03), (x, 0.05, h - 0.05), (x, 0.05, h + 0.2), 0.016, dark)
            b.box((x, 0, h + 0.21), (0.06, 0.27, 0.03), dark, round=0.014)


def stool(b: Builder, p: Palette) -> None:
    """A round or square seat on three or four legs or one foot, rungs."""
    u = p.rng.uniform
    wood, soft = b.material(p.any()), b.material(p.any())
    h, r, t = u(0.4, 0.8), u(0.15, 0.22), u(0.03, 0.08)
    if u() < 0.7:
        b.rod((0, 0, h - t), (0, 0, h), r, soft, round=0.4 * t)
    else:
        b.box((0, 0, h - 0.5 * t), (2 * r, 2 * r, t), soft, round=0.4 * t)
    if u() < 0.2:
        b.rod((0, 0, 0.02), (0, 0, h - t), 0.03, wood)
        b.rod((0, 0, 0), (0, 0, 0.03), r, wood, end=0.9 * r, round=0.01)
        return
    legs, splay, size = int(p.rng.integers(3, 5)), u(1.0, 1.5), u(0.014, 0.025)
    for i in range(legs):
        a = 2 * np.pi * (i + 0.5) / legs
        c, s = np.cos(a), np.sin(a)
        b.rod((splay * r * c, splay * r * s, 0), (0.75 * r * c, 0.75 * r * s, h - t), 0.8 * size, wood, end=size)
    if u() < 0.7:
        z = u(0.25, 0.5)
        b.torus((0, 0, z * h), r * (splay * (1 - z) + 0.75 * z), 0.6 * size, wood)


def sofa(b: Builder, p: Palette) -> None:
    """One to four seats: base, cushions, back, arms, feet."""
    u = p.rng.uniform
    cloth, other, feet = b.material(p.fabric()), b.material(p.fabric()), b.material(p.wood())
    other = cloth if u() < 0.6 else other
    seats = int(p.rng.integers(1, 5))
    w, d, h, arm = seats * u(0.5, 0.65), u(0.75, 0.95), u(0.28, 0.36), u(0.1, 0.22)
    full, soft = w + 2 * arm, u(0.02, 0.06)
    b.box((0, 0, 0.5 * h + 0.06), (full, d, h - 0.08), cloth, round=0.02)
    back, arm_height = u(0.7, 0.95), h + u(0.15, 0.28)
    thick = u(0.15, 0.24)
    b.box((0, 0.5 * (d - thick), 0.5 * (back + 0.08)), (full, thick, back - 0.08), cloth, round=soft)
    round_arms = u() < 0.4
    for sx in SIDES:
        x = sx * 0.5 * (w + arm)
        b.box((x, 0, 0.5 * (arm_height + 0.08)), (arm, d, arm_height - 0.08), cloth, round=soft)
        if round_arms:
            b.rod((x, -0.5 * d, arm_height), (x, 0.5 * d, arm_height), 0.62 * arm, cloth, round=0.03)
        for sy in SIDES:
            b.rod((x, sy * 0.42 * d, 0), (x, sy * 0.42 * d, 0.1), 0.018, feet, end=0.03)
    for i in range(seats):
        x = w * ((i + 0.5) / seats - 0.5)
        b.box((x, -0.4 * thick, h + 0.06), (0.97 * w / seats, d - thick, 0.14), other, round=0.05)
        with b.placed((x, 0.5 * d - thick - 0.05, h + 0.26), rotation("x", -10)):
            b.box((0, 0, 0), (0.94 * w / seats, 0.14, 0.34), other, round=0.06)


def armchair(b: Builder, p: Palette) -> None:
    """A round shell around one cushion, or a winged chair."""
    u = p.rng.uniform
    cloth, other, wood = b.material(p.fabric()), b.material(p.fabric()), b.material(p.wood())
    r, h, low = u(0.34, 0.42), u(0.68, 0.95), u(0.1, 0.2)
    with b.group(blend=0.0):
        b.lathe((0, 0, low), [(0.85 * r, 0), (r, 0.35), (1.05 * r, h - low)], cloth, wall=u(0.08, 0.13), round=0.02)
        b.box((0, -1.2 * r, low + 0.9), (4 * r, u(1.2, 1.7) * r, 1.2), op="subtract", blend=0.08)
    b.rod((0, -0.03, low), (0, -0.03, low + 0.2), 0.9 * r, cloth, round=0.03)
    b.rod((0, -0.05, low + 0.18), (0, -0.05, low + 0.32), 0.86 * r, other, round=0.06)
    for sx in SIDES:
        for sy in SIDES:
            b.rod((sx * 0.65 * r, sy * 0.65 * r, 0), (sx * 0.55 * r, sy * 0.55 * r, low + 0.03), 0.015, wood, end=0.03)


def table(b: Builder, p: Palette) -> None:
    """Rectangular, round or oval top on legs, a column, trestles or panels."""
    u = p.rng.uniform
    top, leg = b.material(p.wood() if u() < 0.6 else p.any()), b.material(p.any())
    leg = top if u() < 0.5 else leg
    w, d, h, t = u(0.7, 1.8), u(0.5, 0.9), u(0.35, 0.8), u(0.02, 0.06)
    if u() < 0.35:
        r = 0.5 * d * u(1.0, 1.4)
        w, d = 1.3 * r, 1.3 * r
        b.rod((0, 0, h - t), (0, 0, h), r, top, round=0.3 * t)
        if u() < 0.6:
            profile = [
                (0.35 * r, 0),
                (0.4 * r, 0.03),
                (0.08, 0.1),
                (u(0.04, 0.1), 0.4),
                (u(0.03, 0.06), 0.6),
                (0.12, 1.0),
            ]
            b.lathe((0, 0, 0), [(q, z * (h - t) if z > 0.05 else z) for q, z in profile], leg, round=0.005)
            return
    else:
        b.box((0, 0, h - 0.5 * t), (w, d, t), top, round=u(0.05, 0.45) * t)
    style = p.rng.integers(4)
    if style <= 1:
        _legs(b, p, leg, 0.94 * w, 0.92 * d, h - t, thin=u(1.0, 1.8))
        if u() < 0.6:
            b.box((0, 0, h - t - 0.04), (0.84 * w, 0.8 * d, 0.08), leg)
            b.box((0, 0, h - t - 0.06), (0.8 * w, 0.76 * d, 0.1), op="subtract")
    elif style == 2:
        for sx in SIDES:
            b.box((sx * 0.42 * w, 0, 0.5 * (h - t)), (0.04, 0.86 * d, h - t), leg, round=0.005)
        b.box((0, 0.0, 0.55 * h), (0.84 * w, 0.03, 0.16), leg)
    else:
        for sx in SIDES:
            for sy in SIDES:
                b.rod((sx * 0.36 * w, sy * 0.42 * d, 0), (sx * 0.36 * w, -sy * 0.2 * d, h - t), 0.025, leg)
        b.rod((-0.36 * w, 0.1 * d, 0.5 * h), (0.36 * w, 0.1 * d, 0.5 * h), 0.018, leg)


def desk(b: Builder, p: Palette) -> None:
    """A top with drawers on one or both sides, perhaps a back panel or a hutch."""
    u = p.rng.uniform
    top, body, knob = b.material(p.wood()), b.material(p.any()), b.material(p.metal())
    body = top if u() < 0.5 else body
    w, d, h = u(1.0, 1.6), u(0.5, 0.75), u(0.68, 0.78)
    b.box((0, 0, h), (w, d, 0.04), top, round=0.01)
    side = 1 if u() < 0.5 else -1
    both, cw = u() < 0.35, u(0.28, 0.42)
    for sx in SIDES:
        if both or sx == side:
            tall = u(0.3, 1.0) * (h - 0.05) if not both else h - 0.06
            z = h - 0.02 - 0.5 * tall
            x = sx * (0.5 * w - 0.5 * cw - 0.02)
            b.box((x, 0, z), (cw, 0.92 * d, tall), body, round=0.006)
            n = int(p.rng.integers(2, 5))
            for i in range(n):
                zi = z + tall * ((i + 0.5) / n - 0.5)
                b.box((x, -0.46 * d, zi), (0.9 * cw, 0.03, 0.86 * tall / n), top, round=0.006)
                b.rod((x - 0.05, -0.5 * d, zi), (x + 0.05, -0.5 * d, zi), 0.012, knob)
        if not both or sx != side:
            x = sx * (0.5 * w - 0.04)
            for sy in SIDES:
                b.box((x, sy * (0.5 * d - 0.04), 0.5 * h), (0.05, 0.05, h), body)
    if u() < 0.6:
        b.box((0, 0.42 * d, 0.62 * h), (0.94 * w, 0.02, 0.5 * h), body)
    if u() < 0.3:
        b.box((0, 0.38 * d, h + 0.14), (0.96 * w, 0.2 * d, 0.26), body)
        for i in (-1, 0, 1):
            b.box((i * 0.31 * w, 0.3 * d, h + 0.15), (0.27 * w, 0.2 * d, 0.2), op="subtract")


def bed(b: Builder, p: Palette) -> None:
    """Frame, mattress, blanket, pillows; the foot end is the front."""
    u = p.rng.uniform
    wood, sheet, cover = b.material(p.wood() if u() < 0.6 else p.any()), b.material(p.plain()), b.material(p.fabric())
    w, d, h = u(0.9, 1.8), u(1.9, 2.1), u(0.25, 0.4)
    b.box((0, 0, h), (w + 0.06, d + 0.04, u(0.1, 0.25)), wood, round=0.02)
    _legs(b, p, wood, w, d, h, thin=1.6)
    b.box((0, 0, h + 0.15), (w, d, 0.22), sheet, round=0.06)
    part = u(0.5, 0.78)
    b.box((0, -0.5 * d * (1 - part), h + 0.17), (w + 0.05, d * part, 0.24), cover, round=0.06)
    count = 1 if w < 1.2 else 2
    for i in range(count):
        x = w * ((i + 0.5) / count - 0.5)
        with b.placed((x, 0.5 * d - 0.25, h + 0.31), rotation("x", u(5, 25))):
            b.ellipsoid((0, 0, 0), (0.42 * w / count, 0.2, 0.09), sheet)
    top = h + u(0.4, 0.9)
    if u() < 0.6:
        b.box((0, 0.5 * d, 0.5 * top), (w + 0.08, u(0.04, 0.1), top), wood, round=0.02)
    else:
        for i in range(7):
            b.rod((w * (i / 6 - 0.5), 0.5 * d, h), (w * (i / 6 - 0.5), 0.5 * d, top), 0.02, wood)
        b.rod((-0.54 * w, 0.5 * d, top), (0.54 * w, 0.5 * d, top), 0.03, wood)
    if u() < 0.5:
        low = h + u(0.1, 0.35)
        b.box((0, -0.5 * d - 0.02, 0.5 * low), (w + 0.08, 0.05, low), wood, round=0.02)


def bookcase(b: Builder, p: Palette) -> None:
    """Shelves between two sides, some with books."""
    u = p.rng.uniform
    wood, back = b.material(p.wood() if u() < 0.6 else p.any()), b.material(p.any())
    books = [b.material(p.plain()) for _ in range(4)]
    w, d, h, t = u(0.5, 1.2), u(0.24, 0.38), u(0.7, 2.0), u(0.02, 0.035)
    rows = max(2, round(h / u(0.28, 0.42)))
    for sx in SIDES:
        b.box((sx * 0.5 * (w - t), 0, 0.5 * h), (t, d, h), wood)
    if u() < 0.6:
        b.box((0, 0.5 * d - 0.01, 0.5 * h), (w, 0.02, h), back)
    gap = (h - t) / rows
    for i in range(rows + 1):
        z = 0.5 * t + i * gap
        with b.group():
            b.box((0, 0, z), (w - t, d, t), wood)
            if i == rows or u() < 0.35:
                continue
            x, stop = -0.5 * w + 1.5 * t, u(-0.1, 0.42) * w
            while x < stop:
                thick, tall = u(0.03, 0.08), gap * u(0.55, 0.85)
                mat = books[p.rng.integers(4)]
                b.box((x + 0.5 * thick, u(-0.02, 0.03), z + 0.5 * (t + tall)), (0.94 * thick, 0.7 * d, tall), mat)
                x += thick


def cabinet(b: Builder, p: Palette) -> None:
    """Doors and drawers with knobs, on legs or a plinth."""
    u = p.rng.uniform
    body, door, knob = b.material(p.any()), b.material(p.any()), b.material(p.metal())
    door = body if u() < 0.5 else door
    w, d, h = u(0.5, 1.5), u(0.35, 0.6), u(0.5, 1.6)
    low = u(0.0, 0.2)
    b.box((0, 0, low + 0.5 * h), (w, d, h), body, round=0.01)
    if u() < 0.5:
        b.box((0, -0.01, low + h), (w + 0.06, d + 0.05, 0.03), body, round=0.01)
    if low > 0.06:
        _legs(b, p, body, w, d, low + 0.02, thin=1.2)
    else:
        b.box((0, 0.02, 0.5 * low), (0.94 * w, 0.9 * d, low + 0.02), knob)
    columns, drawers = int(p.rng.integers(1, 4)), int(p.rng.integers(0, 5))
    share = 1.0 if drawers == 0 else u(0.3, 0.7)
    cw, y = w / columns, -0.5 * d - 0.005
    for i in range(columns):
        x = w * ((i + 0.5) / columns - 0.5)
        with b.group():
            b.box((x, y, low + 0.5 * share * h), (0.92 * cw, 0.03, 0.94 * share * h), door, round=0.008)
            hand = (x + (0.36 if i % 2 == 0 else -0.36) * cw, y - 0.03, low + 0.55 * share * h)
            b.box(hand, (0.02, 0.03, u(0.03, 0.16)), knob, round=0.008)
        for k in range(drawers if share < 1 else 0):
            z = low + h * (share + (1 - share) * (k + 0.5) / drawers)
            with b.group():
                b.box((x, y, z), (0.92 * cw, 0.03, 0.9 * h * (1 - share) / drawers), door, round=0.008)
                b.ball((x, y - 0.03, z), 0.02, knob)


def desk_lamp(b: Builder, p: Palette) -> None:
    """A foot, a stem or a jointed arm, and a shade; the arm reaches to the front."""
    u = p.rng.uniform
    metal, shade = b.material(p.any()), b.material(p.painted() if u() < 0.6 else p.fabric())
    r, h = u(0.09, 0.14), u(0.3, 0.5)
    b.rod((0, 0, 0), (0, 0, u(0.02, 0.04)), r, metal, end=0.85 * r, round=0.008)
    if u() < 0.5:
        stem = u(0.008, 0.02)
        if u() < 0.5:
            profile = [(0.05, 0.0), (u(0.03, 0.1), 0.25), (u(0.03, 0.12), 0.5), (0.03, 0.8), (0.015, 1.0)]
            b.lathe((0, 0, 0.02), [(q, z * h) for q, z in profile], metal)
        else:
            b.rod((0, 0, 0), (0, 0, h + 0.05), stem, metal)
        low, high, tall = u(0.13, 0.2), u(0.06, 0.14), u(0.14, 0.22)
        b.lathe((0, 0, h), [(low, 0), (high, tall)], shade, wall=0.008)
        b.ball((0, 0, h + 0.06), 0.035, metal)
        b.rod((-high, 0, h + tall - 0.01), (high, 0, h + tall - 0.01), 0.004, metal)
        return
    elbow: Point = (0, u(0.02, 0.2), h)
    head: Point = (0, -u(0.15, 0.35), h + u(0.0, 0.15))
    b.capsule((0, 0, 0.02), elbow, 0.011, metal)
    b.capsule(elbow, head, 0.01, metal)
    b.ball(elbow, 0.02, metal)
    with b.placed(head, rotation("x", u(150, 190))):
        b.lathe((0, 0, -0.03), [(0.02, 0), (0.04, 0.05), (u(0.06, 0.1), u(0.1, 0.16))], shade, wall=0.01)
        b.ball((0, 0, 0.05), 0.035, metal)


def floor_lamp(b: Builder, p: Palette) -> None:
    """A tall stem or tripod, or an arch, with a shade."""
    u = p.rng.uniform
    metal, shade = b.material(p.metal() if u() < 0.6 else p.any()), b.material(p.fabric())
    h, style = u(1.2, 1.7), p.rng.integers(3)
    if style == 0:
        b.rod((0, 0, 0), (0, 0, 0.03), u(0.12, 0.17), metal, round=0.008)
        b.rod((0, 0, 0), (0, 0, h), u(0.01, 0.018), metal)
        x, y = 0.0, 0.0
    elif style == 1:
        for i in range(3):
            a = 2 * np.pi * i / 3 + 0.5
            b.rod((0.35 * np.cos(a), 0.35 * np.sin(a), 0), (0, 0, h), 0.02, metal, end=0.014)
        x, y = 0.0, 0.0
    else:
        x, y = 0.0, -u(0.4, 0.6)
        b.box((0, 0.1, 0.03), (0.3, 0.3, 0.06), metal, round=0.015)
        b.tube((0, 0.1, 0.03), (0, 0.1, 1.5 * h), (0, y, h + 0.1), 0.016, metal)
    low, tall = u(0.17, 0.27), u(0.2, 0.35)
    b.lathe((x, y, h - 0.08), [(low, 0), (low * u(0.4, 1.0), tall)], shade, wall=0.012)
    b.ball((x, y, h), 0.06, metal)
    b.rod((x - 0.4 * low, y, h), (x + 0.4 * low, y, h), 0.006, metal)


def television(b: Builder, p: Palette) -> None:
    """A flat screen on a foot."""
    u = p.rng.uniform
    frame, screen, foot = b.material(p.shade(0.03, 0.25)), b.material(p.painted()), b.material(p.shade(0.1, 0.8))
    w = u(0.6, 1.2)
    h, t, low = w / u(1.4, 2.2), u(0.03, 0.08), u(0.04, 0.2)
    b.box((0, 0, low + 0.5 * h), (w, t, h), frame, round=0.01)
    b.box((0, -0.5 * t, low + 0.51 * h), (0.94 * w, 0.012, 0.9 * h), screen)
    b.box((0, 0.6 * t, low + 0.45 * h), (0.5 * w, t, 0.5 * h), frame, round=0.02)
    if u() < 0.6:
        b.box((0, 0.02, 0.5 * low), (0.08, 0.03, low + 0.1), foot)
        b.box((0, 0, 0.01), (u(0.2, 0.5) * w, 0.2, 0.02), foot, round=0.008)
    else:
        for sx in SIDES:
            b.tube((sx * 0.34 * w, -0.12, 0.01), (sx * 0.32 * w, 0, 2 * low), (sx * 0.34 * w, 0.12, 0.01), 0.012, foot)


def washing_machine(b: Builder, p: Palette) -> None:
    """A box with a round door, or an oven or a fridge: large kitchen machines."""
    u, style = p.rng.uniform, p.rng.integers(3)
    body = b.material(p.shade(0.7, 0.95) if u() < 0.6 else p.painted())
    dark, metal = b.material(p.shade(0.05, 0.3)), b.material(p.metal())
    w, d = u(0.55, 0.7), u(0.5, 0.65)
    y = -0.5 * d
    if style == 0:
        h = u(0.8, 0.95)
        b.box((0, 0, 0.5 * h), (w, d, h), body, round=0.02)
        b.torus((0, y, 0.45 * h), u(0.17, 0.21), 0.03, metal, rot=ALONG_Y)
        b.ellipsoid((0, y, 0.45 * h), (0.17, 0.05, 0.17), dark)
        b.box((-0.25 * w, y, 0.89 * h), (0.35 * w, 0.02, 0.09), dark, round=0.005)
        b.rod((0.25 * w, y - 0.03, 0.89 * h), (0.25 * w, y, 0.89 * h), 0.04, metal)
    elif style == 1:
        h = u(0.75, 0.95)
        b.box((0, 0, 0.5 * h), (w, d, h), body, round=0.01)
        b.box((0, y, 0.42 * h), (0.8 * w, 0.03, 0.5 * h), dark, round=0.01)
        b.rod((-0.35 * w, y - 0.05, 0.72 * h), (0.35 * w, y - 0.05, 0.72 * h), 0.015, metal)
        for i in range(4):
            b.rod((w * (0.2 * i - 0.3), y - 0.03, 0.88 * h), (w * (0.2 * i - 0.3), y, 0.88 * h), 0.025, metal)
            b.rod(
                (w * 0.24 * (i % 2 * 2 - 1), d * 0.24 * (i // 2 * 2 - 1), h),
                (w * 0.24 * (i % 2 * 2 - 1), d * 0.24 * (i // 2 * 2 - 1), h + 0.015),
                0.09,
                dark,
            )
    else:
        h, split = u(1.3, 1.9), u(0.3, 0.7)
        b.box((0, 0.02, 0.5 * h), (w, d, h), body, round=0.015)
        for low, high in ((0.01, split - 0.006), (split + 0.006, 0.99)):
            b.box((0, y, 0.5 * (low + high) * h), (w, 0.06, (high - low) * h), body, round=0.015)
            b.rod(
                (-0.4 * w, y - 0.06, (0.5 * (low + high) - 0.1) * h),
                (-0.4 * w, y - 0.06, (0.5 * (low + high) + 0.1) * h),
                0.015,
                metal,
            )


def bench(b: Builder, p: Palette) -> None:
    """A park bench of slats."""
    u = p.rng.uniform
    wood, metal = b.material(p.wood() if u() < 0.7 else p.any()), b.material(p.metal())
    w, h, count = u(1.0, 1.7), u(0.4, 0.48), int(p.rng.integers(3, 6))
    for i in range(count):
        b.box((0, 0.4 * (i / (count - 1) - 0.5), h), (w, 0.3 / count, 0.035), wood, round=0.008)
    high = u() < 0.75
    for i in range(count if high else 0):
        z = h + 0.1 + 0.36 * i / (count - 1)
        b.box((0, 0.24 + 0.25 * (z - h), z), (w, 0.03, 0.25 / count), wood, round=0.008, rot=rotation("x", -14))
    for sx in SIDES:
        x = sx * 0.4 * w
        with b.group():
            b.box((x, 0, h - 0.04), (0.05, 0.44, 0.05), metal)
            for sy in SIDES:
                b.rod((x, sy * 0.24, 0), (x, sy * 0.18, h - 0.04), 0.025, metal)
            if high:
                b.rod((x, 0.22, h - 0.06), (x, 0.38, h + 0.52), 0.02, metal)
                b.tube((x, 0.26, h + 0.2), (x, -0.25, h + 0.32), (x, -0.2, h - 0.04), 0.018, metal)


def clock(b: Builder, p: Palette) -> None:
    """An alarm clock or a mantel clock with a face and hands."""
    u = p.rng.uniform
    body, face, dark = b.material(p.any()), b.material(p.shade(0.8, 1.0)), b.material(p.plain((0.08, 0.08, 0.1)))
    r, t = u(0.3, 0.4), u(0.12, 0.3)
    z = r + 0.08
    if u() < 0.6:
        b.rod((0, 0.5 * t, z), (0, -0.5 * t, z), r, body, round=0.04)
        for sx in SIDES:
            b.capsule((sx * 0.6 * r, 0, z - 0.6 * r), (sx * 0.85 * r, 0, 0.02), 0.035, body, end=0.025)
            if u() < 0.9:
                b.ellipsoid((sx * 0.6 * r, 0, z + 0.95 * r), (0.13, 0.1, 0.09), dark, rot=rotation("y", sx * 30))
        b.torus((0, 0, z + r), 0.1, 0.02, dark, arc=200, rot=ALONG_X @ rotation("z", -90))
    else:
        side = r * u(1.05, 1.3)
        b.box((0, 0, 0.5 * z + 0.5 * side), (2 * side, t, z + side), body, round=u(0.01, 0.1))
        b.box((0, 0, 0.04), (2.2 * side, 1.3 * t, 0.08), body, round=0.02)
    y = -0.5 * t
    b.rod((0, y, z), (0, y - 0.015, z), 0.86 * r, face)
    for length, width in ((0.7, 0.015), (0.45, 0.022)):
        a = u(0, 2 * np.pi)
        b.capsule((0, y - 0.02, z), (length * r * np.sin(a), y - 0.02, z + length * r * np.cos(a)), width, dark)
    for i in range(12):
        a = i * np.pi / 6
        b.ball((0.74 * r * np.sin(a), y - 0.012, z + 0.74 * r * np.cos(a)), 0.018, dark)
