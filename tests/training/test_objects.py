"""Generated objects: closed forms of distances, laws of the solid, agreement of renders with the solid."""

import time

import numpy as np
import pytest

from mvsam3d.training.objects.classes import CLASS_NAMES, COMPOSITIONS, generate_object
from mvsam3d.training.objects.program import (
    LONGEST_SIDE,
    Builder,
    GeneratedObject,
    rotation,
    signed_distance,
    solid_grid,
    surface_colour,
    surface_samples,
)
from mvsam3d.training.objects.render import (
    BOX_FACTOR,
    Light,
    crop_intrinsics,
    look_at,
    render,
    sample_camera,
    sample_light,
)
from mvsam3d.training.objects.textures import Material, hsv

RED = Material("solid", (0.8, 0.1, 0.1), (0.8, 0.1, 0.1), np.eye(3), grain=0.0)
BLUE = Material("solid", (0.1, 0.1, 0.8), (0.1, 0.1, 0.8), np.eye(3), grain=0.0)
ROUNDING = 2e-5  # float32 results of points within 1


def _points(n: int, seed: int, reach: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-reach, reach, (n, 3)).astype(np.float32)


def _unscaled(obj: GeneratedObject, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Points in the builder's units, and its units per object unit."""
    scale = float(obj.tape.frame[3])
    return points.astype(np.float64) * scale + obj.tape.frame[:3], scale


def test_distance_to_a_ball() -> None:  # closed form: |p| - r; the diameter becomes the longest side
    b = Builder()
    b.ball((1.0, 2.0, 3.0), 0.7, b.material(RED))
    points = _points(500, 0)
    expected = np.linalg.norm(points, axis=1) - 0.5 * LONGEST_SIDE
    # 5e-4: how exactly the bounding box is found
    np.testing.assert_allclose(signed_distance(b.finish("ball", 0), points), expected, atol=5e-4)


def test_distance_to_a_turned_box() -> None:  # closed form
    half, turn = np.array([0.3, 0.2, 0.1]), rotation("z", 30) @ rotation("x", 20)
    b = Builder()
    b.box((0.1, 0.2, 0.3), 2 * half, b.material(RED), rot=turn)
    obj = b.finish("box", 0)
    points = _points(500, 1)
    at, scale = _unscaled(obj, points)
    q = np.abs((at - [0.1, 0.2, 0.3]) @ turn) - half
    expected = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)
    np.testing.assert_allclose(signed_distance(obj, points), expected / scale, atol=ROUNDING)


def test_distance_to_a_cut_and_a_union() -> None:  # closed form of booleans: max(a, -b), then min with c
    b = Builder()
    with b.group():
        b.ball((0, 0, 0), 0.5, b.material(RED))
        b.ball((0.3, 0, 0), 0.4, b.material(BLUE), op="subtract")
    b.ball((0.6, 0, 0), 0.2, 0)
    obj = b.finish("cut", 0)
    points = _points(2000, 2)
    at, scale = _unscaled(obj, points)

    def ball(x: float, r: float) -> np.ndarray:
        return np.linalg.norm(at - [x, 0, 0], axis=1) - r

    expected = np.minimum(np.maximum(ball(0, 0.5), -ball(0.3, 0.4)), ball(0.6, 0.2))
    np.testing.assert_allclose(signed_distance(obj, points), expected / scale, atol=ROUNDING)
    cut = np.array([[-0.1, 0, 0], [-0.5, 0, 0]])  # on the cut's wall, on the outside
    colours = surface_colour(obj, (cut - obj.tape.frame[:3]) / scale)
    np.testing.assert_allclose(colours, [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], atol=1e-6)


def test_distance_to_a_tube_is_that_to_its_curve() -> None:  # twin: the nearest of many points of the curve
    a, m, c = np.array([-0.4, 0, 0.1]), np.array([0.2, 0.5, 0.4]), np.array([0.4, -0.2, -0.3])
    b = Builder()
    b.tube(a, m, c, 0.05, b.material(RED))
    obj = b.finish("tube", 0)
    points = _points(300, 3)
    at, scale = _unscaled(obj, points)
    t = np.linspace(0, 1, 4001)[:, None]
    curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * m + t**2 * c
    expected = np.linalg.norm(at[:, None] - curve, axis=2).min(1) - 0.05
    np.testing.assert_allclose(signed_distance(obj, points), expected / scale, atol=1e-4)  # steps of the curve


@pytest.mark.parametrize("name", ["lathe", "prism", "torus", "rod", "capsule"])
def test_distance_never_passes_the_surface(name: str) -> None:  # law: exact shapes change by at most the way walked
    b = Builder()
    mat = b.material(RED)
    match name:
        case "lathe":
            b.lathe((0, 0, 0), [(0.3, 0), (0.5, 0.4), (0.2, 0.8)], mat, round=0.02)
        case "prism":
            b.prism((0, 0, 0), [(-0.4, -0.3), (0.5, -0.2), (0.0, 0.1), (0.3, 0.5)], 0.4, mat, round=0.03)
        case "torus":
            b.torus((0, 0, 0), 0.4, 0.1, mat, arc=200)
        case "rod":
            b.rod((0, 0, 0), (0.3, 0.4, 0.5), 0.2, mat, end=0.05, round=0.02)
        case _:
            b.capsule((0, 0, 0), (0.3, 0.4, 0.5), 0.2, mat, end=0.05)
    obj = b.finish(name, 0)
    p, q = _points(4000, 4), _points(4000, 5)
    q = (p + 0.1 * q).astype(np.float32)
    change = np.abs(signed_distance(obj, p) - signed_distance(obj, q))
    assert np.all(change <= np.linalg.norm(p.astype(np.float64) - q, axis=1) + ROUNDING)


@pytest.mark.parametrize("warp", ["bend", "twist", "taper"])
def test_warps_keep_balls_of_the_distance_empty(warp: str) -> None:  # law: nothing solid nearer than the distance says
    b = Builder()
    with b.group(warp=warp, amount=0.9):  # type: ignore[arg-type]
        b.box((0, 0, 0), (0.9, 0.3, 0.5), b.material(RED))
    obj = b.finish(warp, 0)
    p = _points(3000, 6, 0.7)
    d = signed_distance(obj, p)
    direction = np.random.default_rng(7).normal(size=(3000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    q = (p + 0.999 * np.abs(d)[:, None] * direction).astype(np.float32)
    wrong = np.sign(signed_distance(obj, q)) != np.sign(d)
    assert np.all(~wrong | (np.abs(signed_distance(obj, q)) < 1e-3))


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_every_class_fits_its_cube(name: str) -> None:
    obj = generate_object(5, name=name)
    sides = obj.box[1] - obj.box[0]
    assert sides.max() == pytest.approx(LONGEST_SIDE)
    np.testing.assert_allclose(obj.box.mean(0), 0, atol=1e-9)
    grid = solid_grid(obj, 32)
    assert grid.any()
    filled = np.argwhere(grid)
    # the solid's own box, up to the half cell that the threshold and the centres may miss on either side
    extent = (filled.max(0) - filled.min(0) + 1) / 32
    assert extent.max() >= LONGEST_SIDE - 2.5 / 32
    outside = _points(20000, 8, 0.56)
    outside = outside[np.any((outside < obj.box[0] - 0.006) | (outside > obj.box[1] + 0.006), axis=1)]
    assert signed_distance(obj, outside).min() > 0


def test_same_seed_same_object() -> None:
    for seed in range(4):
        one, two = generate_object(seed), generate_object(seed)
        assert one.name == two.name
        for a, b in zip(one.tape, two.tape):
            np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(generate_object(0).box, generate_object(s).box) for s in (1, 2))


def test_share_of_compositions() -> None:
    rng = np.random.default_rng(0)  # the first draws of a seed choose the class: count them without building
    drawn = 0
    for _ in range(2000):
        draw = np.random.Generator(np.random.PCG64(int(rng.integers(2**31))))
        drawn += draw.uniform() < COMPOSITIONS
    assert drawn / 2000 == pytest.approx(COMPOSITIONS, abs=0.03)  # 4 standard deviations
    assert len(CLASS_NAMES) >= 50


def test_grid_is_the_distance_at_the_centres() -> None:  # twin: every cell by itself
    obj = generate_object(11, name="chair")
    resolution = 20
    line = (np.arange(resolution) + 0.5) / resolution - 0.5
    centres = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)
    d = signed_distance(obj, centres).reshape(3 * [resolution])
    differs = solid_grid(obj, resolution) != (d < 0.35 / resolution)
    assert np.all(np.abs(d - 0.35 / resolution)[differs] < 1e-5)


@pytest.mark.parametrize("name", ["teapot", "car", "composition"])
def test_samples_lie_on_the_surface(name: str) -> None:
    obj = generate_object(3, name=name)
    points, normals, colours = surface_samples(obj, 2000, np.random.default_rng(0))
    assert points.shape == normals.shape == colours.shape == (2000, 3)
    assert np.abs(signed_distance(obj, points)).max() < 2e-3
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    inner, outer = signed_distance(obj, points - 3e-3 * normals), signed_distance(obj, points + 3e-3 * normals)
    assert np.mean((inner < 0) & (outer > 0)) > 0.97  # but for edges and sheets thinner than that
    assert colours.min() >= 0
    assert colours.max() <= 1


def test_samples_of_a_ball_are_uniform() -> None:
    b = Builder()
    b.ball((0, 0, 0), 1.0, b.material(RED))
    points, normals, _ = surface_samples(b.finish("ball", 0), 6000, np.random.default_rng(0))
    z = points[:, 2] / (0.5 * LONGEST_SIDE)  # uniform in height (Archimedes)
    counts, _ = np.histogram(z, 6, (-1.001, 1.001))
    np.testing.assert_allclose(counts, 1000, atol=130)  # 4 standard deviations and the cells' grain
    np.testing.assert_allclose(normals, points / (0.5 * LONGEST_SIDE), atol=5e-3)


def test_cameras_look_where_they_say() -> None:
    pose = look_at(0, 0, 2.0)  # in front, at -Y: right is +X, up is +Z, depth grows towards +Y
    np.testing.assert_allclose(pose @ [0.1, 0.2, 0.3, 1], [0.1, -0.3, 2.2, 1], atol=1e-12)
    side = look_at(90, 0, 2.0)  # from +X: +Y is to the right
    np.testing.assert_allclose(side @ [0.1, 0.2, 0.3, 1], [0.2, -0.3, 1.9, 1], atol=1e-12)


@pytest.mark.parametrize("name", ["mug", "bicycle", "composition"])
def test_crop_frames_the_object(name: str) -> None:
    obj = generate_object(2, name=name)
    pose = look_at(40, 25, 2.5)
    _, mask, _ = render(obj, crop_intrinsics(obj.hull, pose, 120), pose, 120, sample_light(np.random.default_rng(0)))
    rows, columns = np.nonzero(mask)
    spans = np.array([np.ptp(rows) + 1, np.ptp(columns) + 1])
    assert spans.max() == pytest.approx(120 / BOX_FACTOR, abs=3.5)  # hull points stand a cell of 1/32 apart
    assert abs(rows.min() + rows.max() - 119) < 5
    assert abs(columns.min() + columns.max() - 119) < 5


@pytest.mark.parametrize("name", ["chair", "airplane", "quadruped", "vase", "composition"])
def test_mask_is_the_outline_of_the_solid(name: str) -> None:  # the render and the grid show the same thing
    obj = generate_object(9, name=name)
    rng = np.random.default_rng(1)
    size, resolution = 96, 64
    intrinsics, pose = sample_camera(obj.hull, size, rng)
    _, mask, depth = render(obj, intrinsics, pose, size, sample_light(rng))
    assert np.array_equal(np.isfinite(depth), mask)
    cells = (np.argwhere(solid_grid(obj, resolution)) + 0.5) / resolution - 0.5
    cells = cells[signed_distance(obj, cells.astype(np.float32)) < 0]  # those whose centre is truly inside
    p = cells @ pose[:3, :3].T + pose[:3, 3]
    uv = p @ intrinsics.T
    u, v = (uv[:, :2] / uv[:, 2:]).astype(int).T
    inside = (u >= 0) & (v >= 0) & (u < size) & (v < size)
    u, v, z = u[inside], v[inside], p[inside, 2]
    hits = mask[v, u]
    assert hits.mean() > 0.995  # a centre inside is seen, but for pixels on the outline
    pixel = 3 * size / intrinsics[0, 0] * z.max() / size
    assert np.mean(depth[v, u][hits] <= z[hits] + pixel) > 0.98  # and nothing behind it is seen instead
    spread = np.zeros_like(mask)
    reach = int(1.2 * intrinsics[0, 0] / z.min() / resolution) + 2
    for dv in range(-reach, reach + 1):
        for du in range(-reach, reach + 1):
            spread[np.clip(v + dv, 0, size - 1), np.clip(u + du, 0, size - 1)] = True
    solid_only = mask & ~spread  # thinner than a cell: legs, wires
    assert solid_only.sum() < 0.1 * mask.sum()


def test_shading_of_a_plain_ball() -> None:  # closed form: sky only, facing up: albedo * sky in linear light
    b = Builder()
    b.ball(
        (0, 0, 0), 0.5, b.material(Material("solid", (0.5, 0.5, 0.5), (0, 0, 0), np.eye(3), grain=0.0, specular=0.0))
    )
    obj = b.finish("ball", 0)
    pose = look_at(0, 89.9, 3)
    light = Light(np.array([[0.0, 0, 1, 0, 0, 0, 0]]), np.array([0.5, 0.5, 0.5, 0.0, 0.0, 0.0]))
    rgb, _, depth = render(obj, crop_intrinsics(obj.hull, pose, 65), pose, 65, light)
    linear = ((0.5 + 0.055) / 1.055) ** 2.4 * 0.5
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(rgb[32, 32], expected, atol=1.5)
    assert depth[32, 32] == pytest.approx(3 - 0.5 * LONGEST_SIDE, abs=2e-3)


def test_hues() -> None:
    assert hsv(0, 1, 1) == (1, 0, 0)
    np.testing.assert_allclose(
        [hsv(1 / 3, 1, 0.5), hsv(2 / 3, 0.5, 1), hsv(0.3, 0, 0.7)], [[0, 0.5, 0], [0.5, 0.5, 1], [0.7] * 3], atol=1e-12
    )


def test_time_of_an_object(capsys: pytest.CaptureFixture[str]) -> None:  # printed, not judged: machines differ
    rng, seconds = np.random.default_rng(0), []
    for seed in range(6):
        start = time.process_time()
        obj = generate_object(seed)
        made = time.process_time()
        for _ in range(4):
            render(obj, *sample_camera(obj.hull, 112, rng), 112, sample_light(rng))
        drawn = time.process_time()
        solid_grid(obj, 32)
        seconds.append((made - start, drawn - made, time.process_time() - drawn))
    with capsys.disabled():
        for what, value in zip(("object", "4 views of 112 x 112", "grid of 32^3"), np.mean(seconds, axis=0)):
            print(f"\n{what}: {1e3 * value:.0f} ms", end="")  # noqa: T201
