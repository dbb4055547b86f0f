import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.evidence import on_voxels, tokens_of
from mvsam3d.generation.weighting import (
    ByEntropy,
    ByScore,
    ByVisibility,
    Evidence,
    Mixed,
    PlainMean,
    Weighting,
    check_floor,
    mean_weights,
    needs_entropy,
    needs_visibility,
    softmax_weights,
    view_weights,
)
from mvsam3d.nn.sparse import SparseGrid, SparseTensor, downsample
from mvsam3d.types import Voxels
from tests.parity import fixture


def test_odds_of_the_better_view() -> None:  # closed form: exp(alpha * difference) = exp(10 * 0.1) = e
    weights = softmax_weights(torch.tensor([[0.3], [0.2]]), alpha=10.0, floor=0.0)
    torch.testing.assert_close(weights[0] / weights[1], torch.tensor([math.e]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.floats(0, 300), st.integers(0, 2**31))
def test_weights_sum_to_one_and_order_by_sharpness(views: int, alpha: float, seed: int) -> None:
    entropy = torch.rand(views, 11, generator=torch.Generator().manual_seed(seed))
    weights = view_weights(Evidence(entropy), ByEntropy(alpha, floor=0.0))
    torch.testing.assert_close(weights.sum(0), torch.ones(11))
    best = weights.gather(0, entropy.argmin(0, keepdim=True))
    assert (best >= weights - 1e-6).all()


def test_plain_mean_and_no_contrast_agree() -> None:
    evidence = Evidence(torch.rand(3, 5))
    torch.testing.assert_close(view_weights(evidence, PlainMean()), view_weights(evidence, ByEntropy(alpha=0.0)))
    torch.testing.assert_close(view_weights(evidence, PlainMean())[:, :1], mean_weights(3))


def test_one_view_counts_fully() -> None:
    assert view_weights(Evidence(torch.rand(1, 5)), ByEntropy()).tolist() == [[1.0] * 5]


def test_floor_too_high_for_the_views() -> None:
    with pytest.raises(InvalidOption, match=r"floor = 0.3, but 4 views leave room for 0 to 0.2500"):
        view_weights(Evidence(torch.rand(4, 5)), ByEntropy(floor=0.3))


def test_recorded_weights_stage2() -> None:
    f = fixture("multiview", "weights_entropy_slat")
    assert {case["tensor"].removeprefix("out/") for case in f.meta["config"]["cases"]} == set(f.outputs)
    for case in f.meta["config"]["cases"]:
        how = ByEntropy(case["alpha"] / case["temperature"], case["min_weight"])
        f.check(case["tensor"].removeprefix("out/"), view_weights(Evidence(f.inputs["entropy"]), how))


def test_recorded_weights_stage1() -> None:
    f = fixture("multiview", "entropy_weights_ss")
    evidence = Evidence(f.outputs["entropy"])
    for case in f.meta["config"]["cases"]:
        how = ByEntropy(case["alpha"], case["min_weight"])
        f.check(case["tensor"].removeprefix("out/"), view_weights(evidence, how))
    f.check("weights_single_view", view_weights(Evidence(f.outputs["entropy"][:1]), ByEntropy()))


def test_recorded_visibility_and_mixed_weights() -> None:
    f = fixture("multiview", "weights_visibility_mixed")
    evidence = Evidence(f.inputs["entropy"], f.inputs["visibility"])
    assert {case["tensor"].removeprefix("out/") for case in f.meta["config"]["cases"]} == set(f.outputs)
    for case in f.meta["config"]["cases"]:
        how: Weighting = ByVisibility(case["visibility_alpha"], case["min_weight"])
        if case["source"] == "mixed":
            alphas = case["entropy_alpha"], case["visibility_alpha"]
            how = Mixed(*alphas, case["min_weight"], case["mode"], case["ratio"])
        f.check(case["tensor"].removeprefix("out/"), view_weights(evidence, how))


def test_odds_of_the_view_that_sees() -> None:  # closed form: one of three sees, odds exp(2) to 1 to 1
    weights = view_weights(Evidence(visibility=torch.tensor([[1.0], [0.0], [0.0]])), ByVisibility(2.0, floor=0.0))
    torch.testing.assert_close(weights[:, 0], torch.tensor([math.e**2, 1, 1]) / (math.e**2 + 2))
    for seen in (0.0, 1.0):
        alike = view_weights(Evidence(visibility=torch.full((3, 1), seen)), ByVisibility())
        torch.testing.assert_close(alike, torch.full((3, 1), 1 / 3))


def test_ends_of_a_mixture() -> None:  # law: all of one share is that weighting
    evidence = Evidence(torch.rand(3, 7), (torch.rand(3, 7) > 0.5).float())
    torch.testing.assert_close(view_weights(evidence, Mixed(visibility_share=0.0)), view_weights(evidence, ByEntropy()))
    torch.testing.assert_close(
        view_weights(evidence, Mixed(visibility_share=1.0)), view_weights(evidence, ByVisibility())
    )


def test_the_worked_example_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/extending.md", "exec"), names)
    how = names["how"]
    assert isinstance(how, ByScore)
    assert needs_entropy(how)
    assert needs_visibility(how)


def test_a_score_of_minus_the_entropy_is_entropy_weighting() -> None:  # law
    evidence = Evidence(torch.rand(3, 7))
    how = ByScore(lambda e: -torch.as_tensor(e.entropy), needs=frozenset({"entropy"}))
    torch.testing.assert_close(view_weights(evidence, how), view_weights(evidence, ByEntropy()))
    assert not needs_visibility(how)


def test_shares_and_floors_out_of_range() -> None:
    with pytest.raises(InvalidOption, match=r"1\.5"):
        Mixed(visibility_share=1.5)
    with pytest.raises(InvalidOption, match="floor"):
        check_floor(ByVisibility(floor=0.5), 4)
    check_floor(ByVisibility(floor=0.25), 4)


def test_recorded_tokens_of_voxels() -> None:
    f = fixture("multiview", "downsample_expand")
    coords, token = tokens_of(Voxels(f.inputs["coords"][:, 1:], 64))
    f.check("coords_tokens", torch.nn.functional.pad(coords, (1, 0)))
    f.check("idx", token)
    f.check("weights_voxels", on_voxels(f.inputs["weights_tokens"], token))
    pooled = downsample(SparseTensor(f.inputs["feats"], SparseGrid(f.inputs["coords"])))
    f.check("feats_tokens", pooled.feats)
