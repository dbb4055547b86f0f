from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvsam3d.errors import BadPhoto
from mvsam3d.types import Photo, View
from mvsam3d.views.crop import object_box
from mvsam3d.views.pointmap import ObjectCentric
from mvsam3d.views.prepare import ViewConfig, prepare_maps, prepare_view, prepare_views
from tests.parity import Fixture, fixture, names

PREPROCESSED = names("stage1", "preprocess_") or ["preprocess_ss_landscape"]


def step(preprocessor: dict[str, Any], name: str, function: str) -> dict[str, Any]:
    """The arguments of one transform in a public preprocessor's configuration."""
    steps = preprocessor[name]
    for one in steps["transforms"] if isinstance(steps, dict) else steps:
        if one["_target_"].endswith(function):
            return dict(one)
    raise AssertionError(f"no {function} in {name}")


def config_of(f: Fixture) -> ViewConfig:
    preprocessor = next(iter(f.meta["config"].values()))
    joint = "img_mask_pointmap_joint_transform" if "pointmap" in f.inputs else "img_mask_joint_transform"
    crop = step(preprocessor, joint, "crop_around_mask_with_padding")
    return ViewConfig(
        size=step(preprocessor, "img_transform", "Resize")["size"],
        box_factor=crop.get("box_size_factor", 1.6),
        padding_factor=crop.get("padding_factor", 0.1),
        normalise_pointmap=preprocessor.get("normalize_pointmap", False),
    )


def recorded_view(f: Fixture) -> View:
    rgba = f.inputs["rgba"].permute(2, 0, 1) / 255.0
    return prepare_maps(rgba[:3], rgba[3:], f.inputs.get("pointmap"), config_of(f))


@pytest.mark.parametrize("name", PREPROCESSED)
def test_recorded_preprocessing(name: str) -> None:
    f = fixture("stage1", name)
    view = recorded_view(f)
    index = f.inputs.get("sample_index")
    for key in f.outputs:
        value = getattr(view, key.replace("rgb_pointmap_s", "pointmap_s"))  # both maps share scale and shift
        if value.dim() == 3 and index is not None:
            finite = value[value.isfinite()].double().mean().item()
            assert finite == pytest.approx(f.meta["mean_of_finite"][key], abs=1e-4)  # float32 means of 800k values
            assert list(value.shape) == f.meta["full_shapes"][key]
            value = value[:, index][:, :, index]
        f.check(key, value)
    if "bbox_x1y1x2y2" in f.meta:
        assert list(view.crop_box) == f.meta["bbox_x1y1x2y2"]


def photo(mask: np.ndarray, name: str = "3") -> Photo:
    rgb = np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    return Photo(name, rgb, mask, Path("scene/images/3.png"))


def disc(h: int = 60, w: int = 80, radius: int = 15) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return (y - h // 2) ** 2 + (x - w // 2) ** 2 <= radius**2


def test_photo_and_maps_agree() -> None:
    mask = disc()
    one = photo(mask)
    view = prepare_views([one], ViewConfig(size=56))[0]
    rgb = torch.from_numpy(one.rgb).permute(2, 0, 1) / 255.0
    plain = prepare_maps(rgb, torch.from_numpy(mask)[None].float(), None, ViewConfig(size=56))
    assert torch.equal(view.image, plain.image)
    assert torch.equal(view.mask, plain.mask)
    assert view.pointmap is None
    assert view.image.min() >= 0
    assert view.image.max() <= 1


def test_crop_shows_the_box() -> None:  # closed form: a 36-pixel box resized to 36 is the photo's own pixels
    one = photo(disc())
    box = object_box(torch.from_numpy(one.mask)[None].float(), 1.2)
    assert box == (22, 12, 58, 48)  # extent 30, times 1.2, about (40, 30)
    view = prepare_view(one, None, ViewConfig(size=36))
    np.testing.assert_allclose(view.image.permute(1, 2, 0).numpy() * 255, one.rgb[12:48, 22:58], atol=1e-3)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((20, 30), bool), "empty"),
        (np.eye(20, 30, dtype=bool)[:2].repeat(1, 0), "2 x 2 pixels"),
    ],
)
def test_unusable_masks_name_photo_and_remedy(mask: np.ndarray, said: str) -> None:
    with pytest.raises(BadPhoto, match=f"3.png.*{said}"):
        prepare_view(photo(mask), None, ViewConfig(size=28))


def test_padding_of_the_crop_is_missing_points_but_zero_image() -> None:
    one = photo(disc())
    points = torch.ones(3, 60, 80) + torch.rand(3, 60, 80)
    view = prepare_view(one, points, ViewConfig(size=54, padding_factor=0.25))  # 36-pixel box and 9 on each side
    assert view.pointmap is not None
    assert view.pointmap[:, :9].isnan().all()
    assert view.pointmap[:, 9:45, 9:45].isfinite().all()
    assert view.mask[:, :9].sum() == 0


def test_point_maps_of_the_object_alone() -> None:
    """Everything outside the mask is missing, in the crop and in the whole photo; the object's points and units stay."""
    photo, points = _photo_with_depth()
    plain = prepare_view(photo, points, ViewConfig(size=40, normaliser=ObjectCentric("object-median")))
    alone = prepare_view(
        photo, points, ViewConfig(size=40, normaliser=ObjectCentric("object-median"), object_points=True)
    )
    assert plain.pointmap is not None
    assert alone.pointmap is not None
    inside = alone.mask[0] > 0.5
    assert inside.any()
    assert (~inside).any()
    assert (alone.pointmap[:, inside] == plain.pointmap[:, inside]).all()
    assert alone.pointmap[:, ~inside].isnan().all()
    assert plain.pointmap[:, ~inside].isfinite().any()
    torch.testing.assert_close(alone.pointmap_scale, plain.pointmap_scale)


def _photo_with_depth() -> tuple[Photo, torch.Tensor]:
    """A square at depth 2 before a wall at depth 5."""
    mask = np.zeros((40, 40), bool)
    mask[10:30, 12:28] = True
    z = torch.where(torch.from_numpy(mask), 2.0, 5.0)
    pixel = (torch.arange(40) - 19.5) / 40
    points = torch.stack([-pixel[None] * z, -pixel[:, None] * z, z])
    return Photo("a", np.full((40, 40, 3), 99, np.uint8), mask), points
