import torch

from mvsam3d.generation.agreement import agreeing, disagreement

NOTHING = torch.zeros(1, 1, 2)


def directions(*degrees: float) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], 1)[:, None]


def test_one_across_the_others() -> None:  # closed form: three alike and one at a right angle
    marks = disagreement(directions(0, 0, 90, 0), NOTHING)
    torch.testing.assert_close(marks, torch.tensor([-1 / 3, -1 / 3, 1.0, -1 / 3]), atol=1e-6, rtol=0)
    assert agreeing(directions(0, 0, 90, 0), NOTHING).tolist() == [True, True, False, True]


def test_only_what_views_add_counts() -> None:
    """Law: the same thing said in all predictions, and without any view, changes nothing; nor does how loud it is said."""
    shapes, said_anyway = torch.randn(4, 3, 5), torch.randn(1, 3, 5)
    plain = disagreement(shapes, torch.zeros(1, 3, 5))
    torch.testing.assert_close(disagreement(shapes + said_anyway, said_anyway), plain)
    torch.testing.assert_close(disagreement(3 * shapes, torch.zeros(1, 3, 5)), plain)


def test_views_alike_are_all_kept() -> None:
    assert agreeing(directions(10, 10, 10, 10), NOTHING).all()  # copies of one view
    assert agreeing(directions(0, 20, 40, 60), NOTHING).all()


def test_few_views_are_never_judged() -> None:
    assert agreeing(directions(0, 180), NOTHING).all()
    assert agreeing(directions(0, 0, 180), NOTHING).all()


def test_order_does_not_matter() -> None:
    x = torch.ones(5, 6, 3) + 0.3 * torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    x[2] *= -1
    order = torch.tensor([4, 2, 0, 3, 1])
    unseen = torch.zeros(1, 6, 3)
    torch.testing.assert_close(disagreement(x[order], unseen), disagreement(x, unseen)[order])
    assert agreeing(x, unseen).tolist() == [True, True, False, True, True]
