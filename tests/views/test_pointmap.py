from typing import Any

import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.views.pointmap import (
    ApparentSize,
    Disparity,
    Moments,
    Normaliser,
    ObjectCentric,
    SceneMean,
    clipped,
    crop_plane,
    moments_of,
    normalised,
    pointmap_p3d,
)
from tests.parity import fixture

ORIGINAL = {True: "scene", False: "object-quantiles", "OBJECT_NORM_MEDIAN": "object-median"}


def normaliser(config: dict[str, Any]) -> Normaliser:
    """Ours for a public configuration."""
    whole = bool(config.get("use_scene_scale", True))
    match config["_target_"].rsplit(".", 1)[1]:
        case "ObjectCentricSSI":
            return ObjectCentric(
                scale=ORIGINAL[config.get("use_scene_scale", True)],
                dropped_quantile=config.get("quantile_drop_threshold", 0.1),
                scale_factor=config.get("scale_factor", 1.0),
                clip=config.get("clip_beyond_scale"),
            )
        case "SSIPointmapNormalizer":
            return SceneMean()
        case "ObjectApparentSizeSSI":
            return ApparentSize(whole)
        case "NormalizedDisparitySpaceSSI":
            return Disparity(whole)
    raise AssertionError(config)


def test_recorded_normalisers() -> None:
    f = fixture("stage1", "pointmap_normalizers")
    variants = {name: normaliser(config) for name, config in f.meta["config"]["variants"].items()}
    first = next(iter(variants.values()))
    inputs = {name: (f.inputs["pointmap"], how) for name, how in variants.items()}
    inputs["with_inf"] = (f.inputs["pointmap_with_inf"], first)
    inputs["all_invalid"] = (torch.full_like(f.inputs["pointmap"], torch.nan), first)
    assert {key.split("/")[0] for key in f.outputs} == set(inputs)
    for name, (points, how) in inputs.items():
        moments = moments_of(points, f.inputs["mask"], how)
        f.check(f"{name}/scale", moments.scale)
        f.check(f"{name}/shift", moments.shift)
        if f"{name}/pointmap" in f.outputs:
            f.check(f"{name}/pointmap", normalised(points, moments, how))


def test_recorded_frame_change_and_clip() -> None:
    f = fixture("stage1", "pointmap_camera")
    f.check("points_pytorch3d", pointmap_p3d(f.inputs["points_moge"].permute(2, 0, 1)).permute(1, 2, 0))
    f.check("rotation", pointmap_p3d(torch.eye(3)[..., None])[..., 0])
    limit = float(f.meta["config"]["function"].split("clip_pointmap_beyond_scale=")[1].rstrip(")"))
    f.check("clipped", clipped(f.inputs["clip_pointmap"], f.inputs["clip_mask"][None], limit))


def test_normalised_points_go_back() -> None:
    points, alpha = torch.randn(3, 9, 7) + torch.tensor([0, 0, 4.0])[:, None, None], torch.ones(1, 9, 7)
    for how in (ObjectCentric(), SceneMean(), ApparentSize()):
        moments: Moments = moments_of(points, alpha, how)
        back = normalised(points, moments, how) * moments.scale[:, None, None] + moments.shift[:, None, None]
        torch.testing.assert_close(back, points, rtol=1e-5, atol=1e-5)  # two float32 roundings


def test_no_object_pixel_leaves_the_scene_where_it_is() -> None:
    moments = moments_of(torch.randn(3, 8, 8), torch.zeros(1, 8, 8), ObjectCentric(scale_factor=2.0))
    assert moments.scale.tolist() == [2, 2, 2]
    assert moments.shift.tolist() == [0, 0, 0]


@pytest.mark.parametrize("focal", [None, 500.0])
def test_box_is_one_unit_wide_at_the_crop_plane(focal: float | None) -> None:
    box, width, height = (100, 40, 300, 240), 640, 480
    shift_p3d = crop_plane(box, width, height, focal).shift.double()
    intrinsics = torch.from_numpy(centred_intrinsics(width, height, focal))
    edges = torch.stack([shift_p3d + torch.tensor([half, 0.0, 0.0]) for half in (0.5, -0.5)])  # left of the box first
    pixels = (edges * torch.tensor([-1, -1, 1.0])) @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    torch.testing.assert_close(pixels, torch.tensor([[100.0, 140], [300, 140]]).double(), rtol=1e-5, atol=1e-4)


def test_focal_must_be_positive() -> None:
    with pytest.raises(InvalidOption, match="focal = -1"):
        crop_plane((0, 0, 10, 10), 20, 20, -1.0)
