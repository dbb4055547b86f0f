from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mvsam3d.evaluation.subjects import Subject
from mvsam3d.evaluation.tiles import (
    ABSENT,
    FILLED,
    SCALE,
    SIDE,
    WORST,
    answer_strip,
    error_colours,
    error_tiles,
    photo_strip,
    seen,
    truth_cameras,
    truth_strip,
)
from mvsam3d.geometry.cameras import project
from mvsam3d.types import Mesh, Photo
from tests.evaluation.truths import block

BOX = Subject("box", block(), None, "box.glb")


def noise() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("size", [0.01, 1.0, 300.0])
def test_an_object_of_any_size_and_place_fills_its_tiles(size: float) -> None:
    truth = replace(block(), vertices=(block().vertices * size + 5 * size).astype(np.float32))
    cameras = truth_cameras(truth)
    reach = [np.abs(project(c, truth.vertices.astype(np.float64))[0] - SIDE / 2).max() for c in cameras]
    assert max(reach) == pytest.approx(FILLED * SIDE / 2, rel=1e-3)
    shown = seen(truth, cameras)
    assert all(0.1 < (tile < 250).any(-1).mean() < 0.9 for tile in shown)
    assert (shown[0] != shown[1]).any()


def test_colours_of_errors() -> None:  # closed form: the anchors at thirds of the scale
    steps = np.array([0, WORST / 3, 2 * WORST / 3, WORST, 10 * WORST])
    np.testing.assert_allclose(error_colours(steps), [*SCALE, SCALE[-1]])


def redness(tile: np.ndarray) -> np.ndarray:
    """How far along the scale its coloured pixels are: red less blue."""
    coloured = (tile != 255).any(-1)
    return (tile[..., 0].astype(float) - tile[..., 2])[coloured]


def test_where_an_answer_is_wrong() -> None:
    cameras = truth_cameras(BOX.mesh)
    right = error_tiles(BOX, BOX.mesh, cameras, noise())
    assert max(np.median(redness(tile)) for tile in right) < 30  # light grey
    assert not any((tile == ABSENT).all(-1).any() for tile in right)
    shifted = replace(BOX.mesh, vertices=(BOX.mesh.vertices + np.array([0, 0, 0.04])).astype(np.float32))
    wrong = error_tiles(BOX, shifted, cameras, noise())
    assert min(np.percentile(redness(tile), 60) for tile in wrong) > 60
    half = Mesh(BOX.mesh.vertices, BOX.mesh.faces[:6])
    assert all((tile == ABSENT).all(-1).sum() > 100 for tile in error_tiles(BOX, half, cameras, noise()))


def test_strips_are_pictures_of_their_tiles() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    photos = [Photo(str(i), np.full((40, 60, 3), 20 * i, np.uint8), mask) for i in range(12)]
    for content, tiles in (
        (answer_strip(BOX, BOX.mesh, np.eye(4), noise()), 4),
        (truth_strip(BOX), 2),
        (photo_strip(photos), 8),
        (photo_strip(photos[:3]), 3),
    ):
        assert Image.open(BytesIO(content)).size == (tiles * SIDE, SIDE)
        assert len(content) < 40_000
    first, *_, last = np.split(np.asarray(Image.open(BytesIO(photo_strip(photos)))), 8, axis=1)
    assert (first[SIDE // 2, SIDE // 2].max(), last[SIDE // 2, SIDE // 2].max()) == (0, 220)


def test_the_answer_is_laid_over_the_truth() -> None:
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    small = replace(BOX.mesh, vertices=BOX.mesh.vertices / 2)
    assert answer_strip(BOX, small, matrix, noise()) == answer_strip(BOX, BOX.mesh, np.eye(4), noise())
