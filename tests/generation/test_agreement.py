import torch

from mvsam3d.generation.agreement import agreeing, disagreement


def shapes(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None].expand(len(values), 4, 2).clone()


def test_distances_on_a_line() -> (
    None
):  # closed form: 10 is 9.5 from 0 and 1 by median (the lower of 10 and 9 counts: 9), they 1 apart
    marks = disagreement(shapes(0.0, 1.0, 10.0))
    torch.testing.assert_close(marks, torch.tensor([1.0 / 9, 1.0 / 10, 9.0]))
    assert agreeing(shapes(0.0, 1.0, 10.0)).tolist() == [True, True, False]


def test_views_alike_are_all_kept() -> None:
    assert agreeing(
        torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(0))
    ).all()  # all as far from each other
    assert agreeing(shapes(1.0, 1.0, 1.0)).all()  # copies of one view


def test_two_views_are_never_judged() -> None:
    assert agreeing(shapes(0.0, 100.0)).all()


def test_order_does_not_matter() -> None:
    x = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    x[2] += 5
    order = torch.tensor([4, 2, 0, 3, 1])
    torch.testing.assert_close(disagreement(x[order]), disagreement(x)[order])
    assert agreeing(x).tolist() == [True, True, False, True, True]
