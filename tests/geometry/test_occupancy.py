import pytest
import torch

from mvsam3d.geometry.occupancy import iou, occupancy_iou, surface


def cube(side: int, resolution: int = 8, start: int = 1) -> torch.Tensor:
    grid = torch.zeros(1, resolution, resolution, resolution, dtype=torch.bool)
    stop = start + side
    grid[:, start:stop, start:stop, start:stop] = True
    return grid


@pytest.mark.parametrize("side", [1, 2, 3, 5])  # closed form: a cube without the cube two cells shorter inside
def test_surface_of_a_cube(side: int) -> None:
    assert surface(cube(side)).sum() == side**3 - max(side - 2, 0) ** 3


def test_cells_at_the_border_of_the_grid_are_surface() -> None:
    assert surface(cube(8, start=0)).sum() == 8**3 - 6**3


def test_a_cell_beside_an_empty_corner_is_surface() -> None:  # 26 neighbours, not 6
    solid = cube(5)
    solid[0, 1, 1, 1] = False
    assert surface(solid)[0, 2, 2, 2]


def test_iou_of_shifted_cubes() -> None:  # closed form: 4^3 cells each, 3^3 of them shared
    both, either = 27, 64 + 64 - 27
    scores = occupancy_iou(cube(4), cube(4, start=2))
    torch.testing.assert_close(scores.solid, torch.tensor([both / either]))
    # Shells of 56 cells; in the shared 3^3 cells the two inner 2^3 cubes meet in 1 cell: 27 - 8 - 8 + 1 cells of both shells.
    torch.testing.assert_close(scores.surface, torch.tensor([12 / (56 + 56 - 12)]))


def test_two_empty_grids_agree_and_an_empty_one_misses_everything() -> None:
    empty = torch.zeros_like(cube(2))
    torch.testing.assert_close(iou(torch.cat([empty, empty]), torch.cat([empty, cube(2)])), torch.tensor([1.0, 0.0]))
