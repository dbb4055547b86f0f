import numpy as np

from mvsam3d.meshing.surface_smoothing import gathered, nodes_of, smoothed, spread


def wall(thickness=0.02, count=40_000):
    """Both sides of a wall [0, 1]^2: points and normals."""
    random = np.random.default_rng(0)
    points = np.concatenate(
        [random.uniform(size=(count, 2)), np.where(np.arange(count) % 2, thickness, 0.0)[:, None]], 1
    )
    normals = np.zeros((count, 3))
    normals[:, 2] = np.where(np.arange(count) % 2, 1, -1)
    return points.astype(np.float32), normals.astype(np.float32)


def smooth(values, weights, cell=0.05):
    points, normals = wall()
    nodes = nodes_of(points, normals, cell)
    every = np.arange(len(points))
    return points, smoothed(nodes, gathered(nodes, values, weights, every), points, normals, nodes.of_point)


def test_one_colour_stays():
    out = smooth(np.full((40_000, 3), 0.37), np.random.default_rng(0).uniform(size=40_000) + 0.01)[1]
    np.testing.assert_allclose(out, 0.37, rtol=1e-5)


def test_the_two_sides_of_a_wall_stay_apart():  # thinner than a cell
    front = (np.arange(40_000) % 2).astype(float)
    out = smooth(front[:, None].repeat(3, axis=1), np.ones(40_000))[1]
    np.testing.assert_allclose(out, front[:, None].repeat(3, axis=1), atol=1e-6)


def test_waves_are_damped_by_their_length():
    """Waves of 20 cells pass, waves of 2/3 of a cell do not, away from the border."""
    points, _ = wall()
    inner = (np.abs(points[:, :2] - 0.5) < 0.4).all(axis=1)
    for length, least, most in ((1.0, 0.95, 1.0), (0.033, 0.0, 0.1)):
        wave = np.sin(2 * np.pi * points[:, :1] / length).astype(float)
        out = smooth(wave, np.ones(40_000))[1]
        gain = (out * wave)[inner].sum() / (wave * wave)[inner].sum()
        assert least <= gain <= most


def test_what_is_known_spreads_and_fades_as_said():
    """1 at x < 0.2: beyond, exp(-way / reach), on that side of the wall only."""
    points, normals = wall(thickness=0.3)
    cell, reach = 0.025, 0.1
    nodes = nodes_of(points, normals, cell)
    front = nodes.normals[:, 2] > 0
    known = (nodes.places[:, 0] < 0.2) & front
    out = spread(nodes, known[:, None].astype(float), known.astype(float), reach=reach)[:, 0]
    assert np.abs(out[~front]).max() < 1e-3
    np.testing.assert_allclose(out[known & (nodes.places[:, 0] < 0.1)], 1, atol=0.02)
    for way in (0.1, 0.2):
        ring = front & (np.abs(nodes.places[:, 0] - 0.2 - way) < 0.0125)
        np.testing.assert_allclose(np.log(out[ring].mean()), -way / reach, atol=0.25)
