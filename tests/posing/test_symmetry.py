import numpy as np
import pytest
import torch
from jaxtyping import Bool

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.geometry.hull import Cube, silhouette
from mvsam3d.geometry.mirror import MirrorPlane
from mvsam3d.models.lifted_views import MASK, LiftedViews
from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork
from mvsam3d.posing.known_shape import told_in
from mvsam3d.posing.symmetry import mirror_plane
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera, Photo

CUBE = Cube(np.array([0.2, -0.1, 0.3]), 2.0)
TURNED = np.radians(25.0)  # of the mirror plane about the vertical
NORMAL = np.array([np.cos(TURNED), np.sin(TURNED), 0.0])
AT = 0.04  # its offset
CELLS, SIDE = 48, 120


def object_cells(*, one_sided: bool) -> Bool[np.ndarray, "x y z"]:
    """A body with a nose and a hat, and an ear on both sides, or on one, and a fin on the other."""
    axis = (np.arange(CELLS) + 0.5) / CELLS - 0.5
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    across = points @ NORMAL - AT
    along = points @ np.array([-NORMAL[1], NORMAL[0], 0.0])
    up = points[..., 2]
    body = (across / 0.18) ** 2 + (along / 0.3) ** 2 + (up / 0.2) ** 2 < 1
    nose = (np.abs(across) < 0.05) & (along > 0.2) & (along < 0.42) & (np.abs(up) < 0.06)
    side = across if one_sided else np.abs(across)
    ears = (np.abs(side - 0.28) < 0.14) & (np.abs(along + 0.1) < 0.06) & (np.abs(up - 0.1) < 0.06)
    if one_sided:
        ears |= (np.abs(across + 0.22) < 0.1) & (np.abs(along - 0.1) < 0.08) & (np.abs(up + 0.12) < 0.05)
    hat = (np.hypot(across, along + 0.1) < 0.12) & (up > 0.1) & (up < 0.38)
    return np.asarray(body | nose | ears | hat)


def photographed(solid: Bool[np.ndarray, "x y z"], *degrees: float) -> tuple[list[Photo], list[Camera]]:
    lens = centred_intrinsics(SIDE, SIDE)
    to_cube = np.linalg.inv(np.diag([CUBE.side] * 3 + [1.0]))
    to_cube[:3, 3] = -CUBE.centre / CUBE.side
    cameras = [Camera(lens, look_at(turn, 25.0, 1.6) @ to_cube, SIDE, SIDE) for turn in degrees]
    masks = [silhouette(solid, CUBE, camera, SIDE, SIDE) for camera in cameras]
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    return [Photo(str(i), grey, mask) for i, mask in enumerate(masks)], cameras


def test_the_plane_is_found() -> None:
    solid = object_cells(one_sided=False)
    photos, cameras = photographed(solid, 10, 80, 170, 290)
    likely = solid * 0.8 + 0.1 * np.random.default_rng(0).random(solid.shape)
    plane = mirror_plane(likely, CUBE, cameras, [photo.mask for photo in photos])
    assert plane is not None
    assert abs(plane.normal @ NORMAL) > np.cos(np.radians(2.5))
    assert plane.offset * np.sign(plane.normal @ NORMAL) == pytest.approx(AT, abs=0.01)


def test_an_ear_and_a_fin_are_no_mirror_image() -> None:
    solid = object_cells(one_sided=True)
    photos, cameras = photographed(solid, 10, 80, 170, 290)
    assert mirror_plane(solid * 0.9, CUBE, cameras, [photo.mask for photo in photos]) is None


class Outlined(LiftingNetwork):
    """Says that a cell is inside the object if all views show it."""

    def with_fine(self, views: LiftedViews) -> tuple[torch.Tensor, torch.Tensor, None]:
        shown = views.features[..., MASK].amin(1)
        return 8 * shown - 4, shown[:, None], None


NETWORK = Outlined(LiftingConfig(resolution=32, view_channels=2, fine_channels=4, channels=(4, 8)))


def test_what_no_photo_sees_is_told_by_the_other_side() -> None:
    """Three photos from one side: what they and their mirror images show is the better shape, and inside what they show alone."""
    solid = object_cells(one_sided=False)
    photos, cameras = photographed(solid, 330, 40, 110)
    alone, both = (
        told_in(CUBE, photos, cameras, NETWORK, CELLS, fine=False, symmetry=symmetry) for symmetry in (False, True)
    )
    assert alone.mirror is None
    assert both.mirror is not None
    before, after = ((told.probability > 0.5) for told in (alone, both))
    assert (before & solid).sum() / (before | solid).sum() + 0.04 < (after & solid).sum() / (after | solid).sum()
    assert (after & ~before).sum() < 0.01 * before.sum()


def test_what_the_photos_contradict_is_not_kept() -> None:
    """Two photos from one side are met by a wrong plane; the shape by their mirror images then leaves out part of the masks."""
    photos, cameras = photographed(object_cells(one_sided=False), 40, 100)
    assert mirror_plane(object_cells(one_sided=True) * 0.9, CUBE, cameras, [photo.mask for photo in photos]) is not None
    assert told_in(CUBE, photos, cameras, NETWORK, CELLS, fine=False).mirror is None


def test_a_plane_of_the_shape_is_told_in_the_world() -> None:
    solid = object_cells(one_sided=False)
    photos, cameras = photographed(solid, 10, 80, 170, 290)
    told = told_in(CUBE, photos, cameras, NETWORK, CELLS, fine=False)
    assert told.mirror is not None
    expected = MirrorPlane(NORMAL, AT).out_of(CUBE).reflection()
    middle = np.append(CUBE.centre, 1.0)
    assert np.allclose(told.mirror.reflection() @ middle, expected @ middle, atol=0.06)


def test_outlines_alone_are_not_mirrored() -> None:
    """The product of chances that is the soft hull would shrink with every photo more."""
    photos, cameras = photographed(object_cells(one_sided=False), 10, 80, 170, 290)
    assert told_in(CUBE, photos, cameras, None, CELLS, fine=False).mirror is None


def test_one_photo_and_many_photos_are_not_mirrored() -> None:
    solid = object_cells(one_sided=False)
    for turns in ((10,), tuple(range(0, 360, 24))):
        photos, cameras = photographed(solid, *turns)
        assert told_in(CUBE, photos, cameras, NETWORK, 32, fine=False).mirror is None
