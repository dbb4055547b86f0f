import torch

from mvsam3d.models.lifting import MASK, VIEW_FEATURES, LiftingConfig, LiftingNetwork, pooled

SMALL = LiftingConfig(resolution=16, view_channels=4, fine_channels=8, channels=(8, 16))


def network() -> LiftingNetwork:
    torch.manual_seed(0)
    made = LiftingNetwork(SMALL).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # residual blocks begin as the identity
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def features(views: int, side: int = 16) -> torch.Tensor:
    values = torch.randn(2, views, side, side, side, VIEW_FEATURES, generator=torch.Generator().manual_seed(1))
    values[..., MASK] = values[..., MASK].sigmoid()
    return values


@torch.no_grad()
def test_order_of_views_is_nothing() -> None:
    x, made = features(3), network()
    assert torch.allclose(made(x), made(x[:, [2, 0, 1]]), atol=1e-5)
    assert not torch.allclose(made(x), made(x[:, [0, 1, 1]]), atol=1e-2)


def test_statistics_of_views() -> None:
    """Closed form: two views of one cell, one of which shows no object there."""
    x = torch.zeros(1, 2, 1, 1, 1, VIEW_FEATURES)
    x[0, 0, 0, 0, 0, :6] = torch.tensor([0.2, -0.1, 0.4, 1.0, 0.5, 1.0])
    x[0, 1, 0, 0, 0, :6] = torch.tensor([0.0, 0.0, 0.0, 0.0, -0.3, 1.0])
    known = pooled(x, torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1, 1))[0, 0, 0, 0]
    expected = [2.0, 3.0, 0.2, -0.1, 0.4, 0.0, 0.0, 0.0, -0.3, 0.1, 0.5, -1.0, -1.0, -1.0, 0.25]
    assert torch.allclose(known, torch.tensor(expected), atol=1e-6)


@torch.no_grad()
def test_any_number_of_views_on_any_grid() -> None:
    made = network()
    for views, side in ((1, 16), (5, 8), (2, 24)):
        assert made(features(views, side)).shape == (2, side, side, side)


def test_every_weight_learns() -> None:
    made = network().train()
    made(features(2)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())
