"""Tokens of several views: alone, together, each as the reference."""

import torch

from mvsam3d.models.config import SMALL
from mvsam3d.models.view_tokens import ViewTokens


def maps(views: int) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(views)
    return {
        "image": torch.rand(views, 3, 112, 112, generator=noise),
        "mask": (torch.rand(views, 1, 112, 112, generator=noise) > 0.5).float(),
    }


def tokens_of(joint: bool) -> ViewTokens:
    torch.manual_seed(0)
    return ViewTokens(SMALL.slat.condition, joint=joint).eval()


@torch.no_grad()
def test_every_view_is_the_reference_of_its_own_row() -> None:
    network, given = tokens_of(True), maps(3)
    rows = network.of_object(given, together=True)
    for view in range(3):
        order = [view, *(v for v in range(3) if v != view)]
        alone = network({name: value[order] for name, value in given.items()}, 3)
        torch.testing.assert_close(rows.tokens[view : view + 1], alone.tokens, rtol=1e-5, atol=1e-6)  # batch size
    assert [span.name for span in rows.spans] == ["0/rgba", "1/rgba", "2/rgba"]


@torch.no_grad()
def test_views_apart_are_single_views() -> None:
    network, given = tokens_of(True), maps(3)
    rows = network.of_object(given, together=False)
    single = network({name: value[1:2] for name, value in given.items()}, 1)
    torch.testing.assert_close(rows.tokens[1:2], single.tokens, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_model_of_single_views_gives_plain_tokens() -> None:
    network, given = tokens_of(False), maps(2)
    rows = network.of_object(given, together=True)
    assert torch.equal(rows.tokens, network(given, 2).tokens)
    assert rows.spans[0].name == "rgba"
    assert rows.spans[0].prefix == 1  # the mean of all patches stands first
