import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mvsam3d.models.lifted_views import (
    DISTANCE,
    EDGES,
    FARTHEST,
    MASK,
    SPOT,
    VIEW_FEATURES,
    WINDOW_CHANNELS,
    LiftedViews,
    edges,
    pooled,
)
from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork, SpotNetwork

SMALL = LiftingConfig(
    resolution=16,
    view_channels=4,
    fine_channels=8,
    channels=(8, 16),
    photo_channels=4,
    photo_widths=(8, 16),
    edge_channels=8,
)
COLOURS_ALONE = replace(SMALL, photo_channels=0, edge_channels=0)
DETAILED = replace(SMALL, detail_channels=8)


def network(config: LiftingConfig = SMALL) -> LiftingNetwork:
    torch.manual_seed(0)
    made = LiftingNetwork(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # residual blocks begin as the identity
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def shown(views: int, side: int = 16) -> LiftedViews:
    random = torch.Generator().manual_seed(1)
    features = torch.randn(2, views, side, side, side, VIEW_FEATURES, generator=random)
    features[..., MASK] = features[..., MASK].sigmoid()
    windows = torch.randn(2, views, WINDOW_CHANNELS, 32, 32, generator=random)
    return LiftedViews(features, windows, torch.randn(2, views, *(side // 2,) * 3, SPOT, generator=random))


def chosen(views: LiftedViews, order: list[int]) -> LiftedViews:
    return LiftedViews(views.features[:, order], views.windows[:, order], views.spots[:, order])


@pytest.mark.parametrize("config", [SMALL, COLOURS_ALONE])
@torch.no_grad()
def test_order_of_views_is_nothing(config: LiftingConfig) -> None:
    x, made = shown(3), network(config)
    assert torch.allclose(made(x), made(chosen(x, [2, 0, 1])), atol=1e-5)
    assert not torch.allclose(made(x), made(chosen(x, [0, 1, 1])), atol=1e-2)


@torch.no_grad()
def test_photos_join_where_their_spots_are() -> None:
    """Closed form: a network of spots that passes one feature on reads it where the spot lies, in the right view, and sees the depth."""
    config = replace(SMALL, photo_channels=1, channels=(1, 1))
    made = SpotNetwork(config)
    first, last = made.layers[0], made.layers[2]
    for layer in (first, last, made.out_layer):
        layer.weight.zero_()
        layer.bias.zero_()
    first.weight[0, 0], first.weight[0, -2], first.bias[0] = 1.0, 10.0, 30.0  # the photo's feature, ten times the depth
    last.weight[0, 0] = 1.0
    made.out_layer.weight[0, 0] = 1.0  # the mean over views
    photos = torch.arange(2.0 * 4 * 4).view(2, 1, 4, 4)
    spots = torch.zeros(1, 2, 1, 1, 1, SPOT)
    spots[0, 0, ..., :2] = torch.tensor([-0.75, -0.75])  # middle of the first pixel
    spots[0, 1, ..., :2] = torch.tensor([0.25, 0.75])  # third column, last row
    spots[..., 2] = 0.5
    told = made(photos, LiftedViews(torch.zeros(1, 2, 2, 2, 2, VIEW_FEATURES), photos[None], spots))
    assert told.flatten().tolist() == pytest.approx([(0 + 16 + 3 * 4 + 2) / 2 + 5 + 30])


@pytest.mark.parametrize(
    "larger",
    [
        replace(SMALL, edge_channels=0),
        replace(COLOURS_ALONE, edge_channels=8),
        replace(COLOURS_ALONE, blocks=2),
        replace(COLOURS_ALONE, fine_blocks=2),
    ],
)
@torch.no_grad()
def test_what_a_larger_network_has_more_changes_nothing_at_first(larger: LiftingConfig) -> None:
    """Weights of a network without photo network, edge network or later blocks go on where they were."""
    torch.manual_seed(0)
    plain, grown = LiftingNetwork(COLOURS_ALONE), LiftingNetwork(larger)
    grown.load_state_dict(grown.state_dict() | plain.state_dict())
    assert len(grown.state_dict()) > len(plain.state_dict())
    assert torch.equal(grown(shown(2)), plain(shown(2)))


@torch.no_grad()
def test_photos_of_several_cubes_are_looked_at_once() -> None:
    """Two cubes among the same photos have the answers that each has by itself."""
    made, x = network(), shown(3)
    both = made(LiftedViews(x.features, x.windows[:1], x.spots))
    for i in (0, 1):
        alone = LiftedViews(x.features[i : i + 1], x.windows[:1], x.spots[i : i + 1])
        assert torch.allclose(both[i], made(alone)[0], atol=1e-5)
    assert not torch.allclose(both[1], made(x)[1], atol=1e-3)


def test_statistics_of_views() -> None:
    """Closed form: two views of one cell, one of which shows no object there."""
    x = torch.zeros(1, 2, 1, 1, 1, VIEW_FEATURES)
    x[0, 0, 0, 0, 0, :6] = torch.tensor([0.2, -0.1, 0.4, 1.0, 0.5, 1.0])
    x[0, 1, 0, 0, 0, :6] = torch.tensor([0.0, 0.0, 0.0, 0.0, -0.3, 1.0])
    known = pooled(x, torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1, 1))[0, 0, 0, 0]
    expected = [2.0, 3.0, 0.2, -0.1, 0.4, 0.0, 0.0, 0.0, -0.3, 0.1, 0.5, -1.0, -1.0, -1.0, 0.25]
    assert torch.allclose(known, torch.tensor(expected), atol=1e-6)


def test_how_outlines_run_through_a_cell() -> None:
    """Closed form: three views in which a cell lies far inside, .6 cells inside and .3 cells outside the outline."""
    x = torch.zeros(1, 3, 1, 1, 1, VIEW_FEATURES)
    x[0, :, 0, 0, 0, DISTANCE] = torch.tensor([3.0, 0.6, -0.3]) / FARTHEST
    *shares, least, second, number = edges(x)[0, 0, 0, 0].tolist()
    inside = {-1.0: 3, -0.5: 2, -0.25: 2, 0.0: 2, 0.25: 2, 0.5: 1, 1.0: 1, 2.0: 1}  # of three, by more than each edge
    # What those within .4 cells of an edge add
    near = {-0.5: 0.881, -0.25: 0.378, 0.0: 0.047, 0.25: -0.029, 0.5: 0.731, 1.0: 0.018}
    expected = [(count + near.get(edge, 0.0)) / 3 for edge, count in inside.items()]
    assert tuple(inside) == EDGES
    assert shares == pytest.approx(expected, abs=2e-3)
    assert (least, second) == pytest.approx((-0.3, 0.6))
    assert number == pytest.approx(math.log2(3) / 4)


@torch.no_grad()
def test_one_view_is_the_least_and_the_second_least() -> None:
    x = torch.zeros(1, 1, 1, 1, 1, VIEW_FEATURES)
    x[..., DISTANCE] = 0.5 / FARTHEST
    assert edges(x)[0, 0, 0, 0, -3:].tolist() == [0.5, 0.5, 0.0]


@torch.no_grad()
def test_any_number_of_views_on_any_grid() -> None:
    made = network()
    for views, side in ((1, 16), (5, 8), (2, 24)):
        assert made(shown(views, side)).shape == (2, side, side, side)


@torch.no_grad()
def test_detail_begins_with_what_is_said_between_the_cells() -> None:
    """Weights of a network without detail go on where they were: trilinear between its cells; trained, the views' order is nothing."""
    torch.manual_seed(0)
    x, finer = shown(3), shown(3, side=32).features

    def between_and_said(made: LiftingNetwork, order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        logits, fine, _ = made.with_fine(chosen(x, order))
        between = F.interpolate(logits[:, None], scale_factor=2, mode="trilinear")[:, 0]
        return between, made.detailed(logits, fine, finer[:, order])

    assert torch.equal(*between_and_said(LiftingNetwork(DETAILED).eval(), [0, 1, 2]))
    between, said = between_and_said(network(DETAILED), [0, 1, 2])
    assert not torch.allclose(said, between, atol=1e-2)
    assert torch.allclose(said, between_and_said(network(DETAILED), [2, 0, 1])[1], atol=1e-5)


def test_every_weight_of_the_detail_learns() -> None:
    made = network(DETAILED).train()
    logits, fine, _ = made.with_fine(shown(2))
    made.detailed(logits, fine, shown(2, side=32).features).square().mean().backward()
    assert made.detail is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.detail.parameters())


def test_every_weight_learns() -> None:
    made = network().train()
    logits, _, depth = made.with_fine(shown(2))
    assert depth is not None
    assert depth.shape == (2, 2, 8, 8)
    (logits.square().mean() + depth.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())
