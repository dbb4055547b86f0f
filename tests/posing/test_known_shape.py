import numpy as np
import pytest
import torch

from mvsam3d.geometry.hull import Cube, distances_inside, outline_distance, soft_hull
from mvsam3d.models.lifted_views import MASK, LiftedViews
from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork
from mvsam3d.models.lifting_detail import refined
from mvsam3d.posing.known_shape import (
    BELIEVED,
    BELIEVED_FINE,
    agreed_chance,
    known_shape,
    lifted_probability,
    tight_cube,
)
from mvsam3d.types import Photo
from tests.geometry.test_hull import AROUND, RADIUS, WHERE, cameras, shadow


def photos() -> list[Photo]:
    rng = np.random.default_rng(0)
    masks = [shadow(camera) for camera in cameras(*AROUND)]
    return [Photo(str(i), rng.integers(0, 256, (*m.shape, 3)).astype(np.uint8), m) for i, m in enumerate(masks)]


def saying(logit: float) -> LiftingNetwork:
    """A network that says the same of every cell."""
    made = LiftingNetwork(LiftingConfig(resolution=16, view_channels=2, fine_channels=4, channels=(4, 8))).eval()
    with torch.no_grad():
        made.out_layer[2].weight.zero_()
        made.out_layer[2].bias.fill_(logit)
    return made


def test_without_a_network_it_is_the_hull() -> None:
    shape = known_shape(photos(), cameras(*AROUND), None, 24)
    assert shape.source == "hull"
    expected = soft_hull(cameras(*AROUND), [photo.mask for photo in photos()], shape.cube, 24)
    assert np.allclose(shape.probability, expected)


def test_network_and_hull_speak_together() -> None:
    """The network says the same of all cells: inside the hull its word stands, outside the hull's word is added."""
    shape = known_shape(photos(), cameras(*AROUND), saying(0.0), 24)
    assert shape.source == "lifting"
    hull = soft_hull(cameras(*AROUND), [photo.mask for photo in photos()], shape.cube, 24)
    odds = -np.log(BELIEVED / (1 - BELIEVED))
    sure = np.clip(hull, 1e-3, 1 - 1e-3)
    against = np.minimum(np.log(sure / (1 - sure)), 0)
    assert np.allclose(shape.probability, 1 / (1 + np.exp(-odds - 0.1 * against)), atol=1e-4)
    far = np.linalg.norm(shape.cube.cell_centres(24) - WHERE, axis=-1)
    assert shape.probability[far < 0.7 * RADIUS].min() > 0.6 > 0.5 > shape.probability[far > 1.6 * RADIUS].max()


def test_the_hull_takes_away_alone() -> None:
    """Closed form: a tenth of its log odds where they are negative, nothing where positive: what all outlines share may be hollow."""
    said = np.full((1, 1, 1), 0.6)
    assert agreed_chance(said, np.full((1, 1, 1), 0.9)).item() == pytest.approx(0.6)
    odds = np.log(0.6 / 0.4) + 0.1 * np.log(0.1 / 0.9)
    assert agreed_chance(said, np.full((1, 1, 1), 0.1)).item() == pytest.approx(1 / (1 + np.exp(-odds)))


@torch.no_grad()
def test_large_photos_are_shown_as_small_ones() -> None:
    """Law: the network sees about the same of a photo and of the same photo with three times the pixels."""
    torch.manual_seed(1)
    config = LiftingConfig(16, view_channels=4, fine_channels=4, channels=(8, 8), photo_channels=4, photo_widths=(8, 8))
    made = LiftingNetwork(config).eval()
    assert made.spot is not None
    torch.nn.init.normal_(made.spot.out_layer.weight)  # zero at first
    views = cameras(*AROUND[:3])
    small = [Photo(p.name, np.full((*p.mask.shape, 3), 90, np.uint8), p.mask) for p in photos()[:3]]
    zoom = np.diag([3.0, 3.0, 1.0])
    large = [
        Photo(p.name, np.kron(p.rgb, np.ones((3, 3, 1), np.uint8)), np.kron(p.mask, np.ones((3, 3), bool)))
        for p in small
    ]
    wide = [type(c)(zoom @ c.intrinsics, c.camera_from_world, 3 * c.width, 3 * c.height) for c in views]
    cube = Cube(WHERE, 0.8)
    a, b = lifted_probability(small, views, cube, made), lifted_probability(large, wide, cube, made)
    assert np.abs(a - b).mean() < 0.01


def test_the_tight_cube_is_around_the_cells() -> None:
    """Closed form: a block of cells in a cube."""
    probability = np.zeros((10, 10, 10))
    probability[2:6, 3:7, 5:7] = 0.9
    cube = tight_cube(Cube(np.array([1.0, 2.0, 3.0]), 5.0), probability)
    assert np.allclose(cube.centre, [1 + 5 * -0.1, 2.0, 3 + 5 * 0.1])
    assert cube.side == pytest.approx(5 * 0.4 * 1.06)
    assert tight_cube(cube, 0 * probability) is cube


class Covered(LiftingNetwork):
    """Says how many views cover a cell, and nothing else: the same from every heading. On the finer grid, it adds up who says so."""

    def with_fine(self, views: LiftedViews) -> tuple[torch.Tensor, torch.Tensor, None]:
        covered = views.features[..., MASK].sum(1)
        return covered, covered[:, None], None

    def detailed(self, logits: torch.Tensor, fine: torch.Tensor, finer: torch.Tensor) -> torch.Tensor:
        return refined(logits[:, None])[:, 0] + refined(fine)[:, 0] + finer[..., MASK].sum(1)


@pytest.mark.parametrize("fine", [False, True])
def test_what_is_asked_from_four_headings_comes_back_in_one_frame(fine: bool) -> None:
    cells, level, times = (32, BELIEVED_FINE, 3) if fine else (16, BELIEVED, 1)
    network = Covered(LiftingConfig(resolution=16, view_channels=2, fine_channels=4, channels=(4, 8)))
    views, cube = cameras(*AROUND[:2]), Cube(WHERE + np.array([0.1, -0.05, 0.0]), 1.0)
    shown = photos()[:2]
    chance = lifted_probability(shown, views, cube, network, fine=fine)
    assert chance.shape == (cells,) * 3
    for heading in range(1, 4):  # another heading of the whole: only what is not turned back would differ
        assert not np.allclose(np.rot90(chance, heading, (0, 1)), chance, atol=0.05)
    odds = np.log(chance / (1 - chance)) + np.log(level / (1 - level))
    inside = [
        distances_inside(camera, outline_distance(photo.mask), cube.cell_centres(cells))[0]
        for camera, photo in zip(views, shown, strict=True)
    ]
    sure = np.minimum(np.abs(inside[0]), np.abs(inside[1])) > 4 * times  # pixels from either outline
    expected = times * sum((distance > 0).astype(float) for distance in inside)
    assert np.allclose(odds[sure], expected[sure], atol=0.02)
