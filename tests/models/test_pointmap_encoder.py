from dataclasses import replace

import pytest
import torch

from mvsam3d.models.pointmap_encoder import PointmapConfig, PointmapEncoder, remap_points, unmap_points
from tests.models import public_configs
from tests.parity import fixture, names

TINY = PointmapConfig(input_size=8, patch_size=4, width=16, heads=2)
REMAPS = ["linear", "sinh", "exp", "sinh_exp", "exp_disparity"]


@pytest.mark.parametrize("name", names("stage1", "point_patch_embed"))
def test_tokens_agree_with_the_public_encoder(name):
    case = fixture("stage1", name)
    encoder = PointmapEncoder(public_configs.pointmap(case.meta["config"])).eval()
    encoder.load_state_dict(case.weights)
    maps = {key.removeprefix("xyz"): value for key, value in case.inputs.items()}
    for key in case.outputs:
        stem, _, kind = key.partition("_")
        if key.startswith("point_features"):
            case.check(key, encoder.point_features(maps[key.removeprefix("point_features")]))
        elif kind == "forced_drop":
            case.check(key, encoder(maps[""], drop=torch.ones(len(maps[""]), dtype=torch.bool)))
        else:
            case.check(key, encoder(maps[key.removeprefix(stem)]))


@pytest.mark.parametrize("name", names("stage1", "point_remapper"))
def test_remapping_agrees_with_the_public_one(name):
    case = fixture("stage1", name)
    for key in case.outputs:
        direction, how = key.split("_", 1)
        squeezed = remap_points(case.inputs["points"], how)
        case.check(key, squeezed if direction == "forward" else unmap_points(squeezed, how))


@pytest.mark.parametrize("how", REMAPS)
def test_unmapping_inverts_remapping(how):  # law; float32 loses digits where sinh and exp grow
    points = torch.rand(20, 3) + 0.1
    torch.testing.assert_close(unmap_points(remap_points(points, how), how), points, rtol=1e-5, atol=1e-6)


def test_a_point_with_one_bad_coordinate_counts_as_missing():  # law: whatever its other coordinates are
    encoder, pointmap = PointmapEncoder(TINY), torch.randn(2, 3, 8, 8)
    pointmap[:, 2, 1, 1] = torch.tensor([float("nan"), float("inf")])
    pointmap[1] = torch.where(pointmap[1].isfinite(), pointmap[0], pointmap[1])
    pointmap[1, 0, 1, 1] = 99.0
    tokens = encoder(pointmap)
    assert tokens.isfinite().all()
    torch.testing.assert_close(tokens[0], tokens[1])


def test_training_drops_about_the_asked_share():  # 400 draws at 0.25: deviation 0.022, so 0.1 is over four of them
    torch.manual_seed(0)
    encoder = PointmapEncoder(replace(TINY, dropout_prob=0.25)).train()
    pointmaps = torch.randn(1, 3, 8, 8).expand(400, -1, -1, -1)
    tokens = encoder(pointmaps, generator=torch.Generator().manual_seed(1))
    kept = encoder.eval()(pointmaps)
    share = (tokens != kept).flatten(1).any(1).float().mean()
    assert abs(share - 0.25) < 0.1
