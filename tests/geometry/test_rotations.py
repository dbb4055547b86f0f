import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.geometry.rotations import (
    matrix_from_6d,
    matrix_from_quaternion,
    quaternion_from_matrix,
    vector_6d_from_matrix,
)
from tests.parity import fixture

seeds = st.integers(0, 2**31)
EXACT = {"rtol": 1e-5, "atol": 2e-6}  # about ten float32 products of numbers up to 1


def random_quaternions(seed: int, count: int = 64) -> torch.Tensor:
    q = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(torch.where(q[:, :1] < 0, -q, q), dim=-1)


def test_quarter_turn_about_z() -> None:  # closed form: x goes to y
    q = torch.tensor([0.5**0.5, 0.0, 0.0, 0.5**0.5])
    torch.testing.assert_close(matrix_from_quaternion(q) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_quaternion_to_matrix_and_back(seed: int) -> None:
    q = random_quaternions(seed)
    torch.testing.assert_close(quaternion_from_matrix(matrix_from_quaternion(q)), q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_keep_their_quaternion(axis: int) -> None:  # w = 0: dividing by w would fail
    q = torch.zeros(4)
    q[1 + axis] = 1.0
    back = quaternion_from_matrix(matrix_from_quaternion(q))
    torch.testing.assert_close(back.abs(), q, **EXACT)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_matrices_are_rotations_and_6d_goes_back(seed: int) -> None:
    matrix = matrix_from_quaternion(random_quaternions(seed))
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3).expand_as(matrix), **EXACT)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(64), **EXACT)
    torch.testing.assert_close(matrix_from_6d(vector_6d_from_matrix(matrix)), matrix, **EXACT)


def test_gram_schmidt_ignores_length_and_shear() -> None:
    matrix = matrix_from_quaternion(random_quaternions(3))
    x, y = matrix[..., 0], matrix[..., 1]
    torch.testing.assert_close(matrix_from_6d(torch.cat([3 * x, 0.5 * y + 2 * x], -1)), matrix, rtol=1e-4, atol=1e-5)


def test_recorded_matrices() -> None:
    f = fixture("multiview", "coordinate_transforms")
    f.check("quat_to_matrix", matrix_from_quaternion(f.inputs["quat_wxyz"]))
