import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.geometry.transforms import inverse, rigid, similarity, transformed
from tests.parity import fixture


def test_similarity_of_a_point() -> None:  # closed form: 2 * (1, 0, 0) turned to y, then moved
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    matrix = similarity(turn, torch.tensor([1.0, 1, 1]), torch.tensor(2.0))
    torch.testing.assert_close(transformed(matrix, torch.tensor([1.0, 0, 0])), torch.tensor([1.0, 3, 1]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 20))
def test_inverse_undoes(seed: int, scale: float) -> None:
    noise = torch.Generator().manual_seed(seed)
    rotation = matrix_from_quaternion(torch.randn(4, generator=noise, dtype=torch.float64))
    translation = torch.randn(3, generator=noise, dtype=torch.float64)
    matrix = similarity(rotation, translation, torch.tensor(scale, dtype=torch.float64))
    torch.testing.assert_close(inverse(matrix) @ matrix, torch.eye(4, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_recorded_cameras_in_the_frame_of_view_0() -> None:
    f = fixture("multiview", "coordinate_transforms")
    cameras = rigid(f.inputs["extrinsics"][:, :, :3], f.inputs["extrinsics"][:, :, 3])
    f.check("view0_c2w", cameras[0] @ inverse(cameras))
    f.check("view0_w2c", cameras @ inverse(cameras[0]))
