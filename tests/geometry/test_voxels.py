import pytest
import torch

from mvsam3d.geometry.voxels import cells, centres, lower_corners


def test_first_and_last_cell() -> None:  # closed form
    coords = torch.tensor([[0, 0, 0], [63, 63, 63]])
    torch.testing.assert_close(centres(coords, 64)[:, 0], torch.tensor([-0.5 + 1 / 128, 0.5 - 1 / 128]))
    torch.testing.assert_close(lower_corners(coords, 64)[:, 0], torch.tensor([-0.5, 63 / 64 - 0.5]))


@pytest.mark.parametrize("resolution", [1, 5, 32, 64, 256])
def test_cell_of_its_centre(resolution: int) -> None:
    coords = torch.randint(resolution, (100, 3), dtype=torch.int32)
    assert torch.equal(cells(centres(coords, resolution), resolution), coords)


def test_points_outside_go_to_the_border() -> None:
    assert cells(torch.tensor([[-0.7, 0.5, 9.0]]), 8).tolist() == [[0, 7, 7]]
