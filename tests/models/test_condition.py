from dataclasses import replace

import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.models.condition import (
    SLAT_CONDITION,
    ConditionConfig,
    ConditionEmbedder,
    EmbedderConfig,
    JointViews,
    PrecomputedConfig,
)
from mvsam3d.models.image_encoder import VitConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig
from mvsam3d.types import Conditions, Span
from tests.models import public_configs
from tests.parity import fixture, manifest, names

VIT = VitConfig(input_size=28, position_size=28, width=16, depth=1, heads=2, registers=1, prenorm_features=True)
SMALL = ConditionConfig(
    embedders=(
        EmbedderConfig(VIT, (("image", "cropped"), ("mask", "cropped"))),
        EmbedderConfig(
            PointmapConfig(input_size=8, patch_size=4, width=8, heads=2), (("pointmap", "points"),), optional=True
        ),
    ),
    width=12,
    drop_sets=((("pointmap",), 1.0), (("mask",), 3.0)),
    dropout_prob=0.4,
    frozen=False,
)


def small_maps(batch=2):
    return {
        "image": torch.rand(batch, 3, 28, 28),
        "mask": torch.rand(batch, 1, 28, 28),
        "pointmap": torch.randn(batch, 3, 8, 8),
    }


@pytest.mark.parametrize("name", names("stage1", "embedder_fuser"))
def test_tokens_agree_with_the_public_fuser(name):
    case = fixture("stage1", name)
    embedder = ConditionEmbedder(public_configs.condition(case.meta["config"], case.meta["dino_arch"]))
    embedder.load_state_dict(case.weights)
    conditions = embedder(case.inputs)
    case.check("tokens", conditions.tokens)
    assert [[span.name, span.stop - span.start] for span in conditions.spans] == case.meta["token_order"]
    dropped = [name for names, _ in case.meta["config"]["drop_modalities_weight"] for name in names]
    case.check("tokens_force_drop", embedder(case.inputs, drop=dropped).tokens)


@pytest.mark.parametrize("name", names("stage2", "slat_condition_fuser"))
def test_fusing_agrees_with_the_public_fuser_of_stage_2(name):
    case = fixture("stage2", name)
    config = case.meta["config"]
    network = PrecomputedConfig(width=config["embed_dim"])
    embedder = ConditionEmbedder(
        ConditionConfig(
            embedders=tuple(
                EmbedderConfig(network, tuple((name, group) for name, group in inputs))
                for inputs in config["embedder_list"]
            ),
            projection_multiplier=float(config["projection_net_hidden_dim_multiplier"]),
        )
    )
    embedder.load_state_dict(case.weights)
    case.check("tokens", embedder({}, features=case.inputs).tokens)


@pytest.mark.parametrize(("name", "ours"), [("ss_generator", ConditionConfig()), ("slat_generator", SLAT_CONDITION)])
def test_default_size_has_the_keys_of_the_public_checkpoint(name, ours):
    public = manifest(name)
    prefix = public["groups"]["condition_embedder"]["prefix"]
    config = public["config"]
    assert public_configs.condition(config.get("module", config)["condition_embedder"]["backbone"]) == ours
    with torch.device("meta"):
        module = ConditionEmbedder(ours)
    wanted = {k.removeprefix(prefix): shape for k, shape in public["tensors"].items() if k.startswith(prefix)}
    assert {key: list(value.shape) for key, value in module.state_dict().items()} == wanted
    assert not any(p.requires_grad for p in module.parameters())


def test_an_absent_optional_map_leaves_the_other_tokens_as_they_are():  # law
    embedder, maps = ConditionEmbedder(SMALL).eval(), small_maps()
    full = embedder(maps)
    assert full.spans == (Span("image", 0, 6, 2), Span("mask", 6, 12, 2), Span("pointmap", 12, 16, 0))
    part = embedder({key: value for key, value in maps.items() if key != "pointmap"})
    assert part.spans == full.spans[:2]
    torch.testing.assert_close(part.tokens, full.tokens[:, :12])


def test_a_missing_map_is_named():
    embedder = ConditionEmbedder(SMALL).eval()
    with pytest.raises(InvalidOption, match="'mask'"):
        embedder({"image": torch.rand(1, 3, 28, 28)})


def test_cached_features_stand_for_maps():  # law
    embedder, maps = ConditionEmbedder(SMALL).eval(), small_maps()
    features = embedder.features(maps)
    assert set(features) == set(maps)
    torch.testing.assert_close(embedder({}, features=features).tokens, embedder(maps).tokens)


def test_training_drops_sets_by_their_weights():
    """2000 draws of 0.4 x 1/4 and 0.4 x 3/4: deviations 0.007 and 0.010, five of which are allowed."""
    batch = 2000
    config = replace(SMALL, embedders=tuple(replace(e, network=PrecomputedConfig(width=4)) for e in SMALL.embedders))
    embedder = ConditionEmbedder(config).train()
    features = {name: torch.randn(batch, 1, 4) for name in ("image", "mask", "pointmap")}
    tokens = embedder({}, features=features, generator=torch.Generator().manual_seed(0)).tokens
    image, mask, pointmap = (tokens == 0).all(-1).T
    assert not image.any()
    assert not (mask & pointmap).any()
    assert abs(mask.float().mean() - 0.3) < 0.05
    assert abs(pointmap.float().mean() - 0.1) < 0.035
    again = embedder({}, features=features, generator=torch.Generator().manual_seed(0)).tokens
    assert torch.equal(tokens, again)


def test_joint_views_puts_the_views_in_a_row_and_marks_the_first():  # closed form
    joint = JointViews(3)
    tokens = torch.randn(4, 5, 3)  # two objects with two views
    spans = (Span("image", 0, 3, 1), Span("mask", 3, 5, 0))
    together = joint(Conditions(tokens, spans), views=2)
    for b, v in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        expected = tokens[2 * b + v] + joint.view_emb[min(v, 1)]
        torch.testing.assert_close(together.tokens[b, 5 * v : 5 * v + 5], expected)
    assert together.spans == (
        Span("0/image", 0, 3, 1),
        Span("0/mask", 3, 5, 0),
        Span("1/image", 5, 8, 1),
        Span("1/mask", 8, 10, 0),
    )


def test_joint_views_treat_all_but_the_reference_alike():  # law: swapping two other views swaps their tokens
    joint, tokens = JointViews(3), torch.randn(3, 2, 3)
    spans = (Span("image", 0, 2),)
    straight = joint(Conditions(tokens, spans), 3).tokens.reshape(3, 2, 3)
    swapped = joint(Conditions(tokens[[0, 2, 1]], spans), 3).tokens.reshape(3, 2, 3)
    torch.testing.assert_close(straight[[0, 2, 1]], swapped)
