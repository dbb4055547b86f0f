import numpy as np
import pytest
import torch

from mvsam3d.geometry.voxels import cells, centres, lower_corners, resampled


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


def test_finer_grids_are_interpolated() -> None:
    """Closed form: a ramp stays a ramp between the outermost middles."""
    ramp = np.broadcast_to(np.arange(4.0)[:, None, None], (4, 4, 4))
    fine = resampled(np.ascontiguousarray(ramp), 8)
    assert np.allclose(fine[:, 0, 0], np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3))
