import numpy as np
import pytest
import trimesh

from mvsam3d.posing.fit_terms import Pulls, Window, normal_equations, outline_pulls, robust_weights, surface_pulls


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["surface", "outline"])
def test_equations_equal_derivatives_by_differences(kind: str) -> None:
    rng = np.random.default_rng(0)
    moving, residual, normals = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), unit(rng.normal(size=(7, 3)))
    pulls = (
        surface_pulls(moving, normals, residual, 0.5)
        if kind == "surface"
        else outline_pulls(moving, normals, residual, 0.5, 11)
    )

    def cost(motion: np.ndarray) -> float:  # the definition, written out
        total = 0.0
        for p, r, axes, weight in zip(pulls.moving, pulls.residual, pulls.axes, pulls.weight, strict=True):
            now = r + np.cross(motion[:3], p) + motion[3:6] + motion[6] * p
            total += weight * ((axes @ now) ** 2).sum() / 2
        return total

    matrix, right = normal_equations(pulls)
    steps = np.eye(7)
    gradient = [(cost(step) - cost(-step)) / 2 for step in steps]  # exact: the cost is quadratic
    hessian = [[(cost(a + b) - cost(a - b) - cost(b - a) + cost(-a - b)) / 4 for b in steps] for a in steps]
    np.testing.assert_allclose(right, gradient, atol=1e-12)
    np.testing.assert_allclose(matrix, hessian, atol=1e-12)


def test_weights() -> None:  # closed form: 1, a quarter at sigma, (1 + 9)^-2 at three sigma
    lengths = np.array([[0.0, 0, 0], [0, 0.2, 0], [0, 0, 0.6]])
    np.testing.assert_allclose(robust_weights(lengths, 0.2), [1, 0.25, 0.01])


def test_a_pure_shift_is_undone_in_one_step() -> None:
    points = trimesh.creation.box().sample(200, seed=0)
    shift = np.array([0.01, -0.02, 0.03])
    pulls = Pulls(points, np.broadcast_to(shift, points.shape), np.broadcast_to(np.eye(3), (200, 3, 3)), np.ones(200))
    matrix, right = normal_equations(pulls)
    np.testing.assert_allclose(-np.linalg.solve(matrix, right), [0, 0, 0, *-shift, 0], atol=1e-12)


def window_and_box() -> tuple[Window, trimesh.Trimesh]:
    """A box 4 before the camera fills 32 x 16 pixels; the mask is that rectangle moved by 8 pixels to the right."""
    box = trimesh.creation.box((1.0, 0.5, 1e-3))
    box.apply_translation((0, 0, 4))
    mask = np.zeros((64, 64), bool)
    mask[24:40, 24:56] = True
    window = Window(np.array([[128.0, 0, 32], [0, 128, 32], [0, 0, 1]]), np.eye(4), mask, 64, 2.0)
    return window, box


def test_overlap_with_a_mask() -> None:  # closed form: 24 of 40 columns
    window, box = window_and_box()
    assert window.agreement(window.drawn(box.vertices, box.faces)) == pytest.approx(24 / 40)


def test_misses_point_to_the_mask_and_from_the_nearest_drawn_pixel() -> None:
    window, box = window_and_box()
    drawn = window.drawn(box.vertices, box.faces)
    points, wanted, rays = window.misses(drawn)
    pixels = (wanted @ window.intrinsics.T)[:, :2] / wanted[:, 2:]
    outside = (drawn.covered & ~window.mask).sum()
    assert len(points) == outside + (window.mask & ~drawn.covered).sum()
    assert (wanted[:, 0] - points[:, 0] > 0).all()  # to the right, all of them
    np.testing.assert_allclose(wanted[:, 1:], points[:, 1:], atol=1e-9)
    columns, rows = np.floor(pixels + 1e-6).astype(int).T
    assert window.mask[rows, columns].all()
    np.testing.assert_allclose(np.cross(rays, points), 0, atol=1e-12)
    gone = window.drawn(box.vertices + np.array([9, 0, 0]), box.faces)
    assert not gone.covered.any()
    assert len(window.misses(gone)[0]) == 0
