from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.errors import InvalidOption
from mvsam3d.io.glb import linear_from_srgb, srgb_from_linear
from mvsam3d.meshing.splat_colours import SplatColourConfig, photo_coloured
from mvsam3d.rendering.splats import SH_DC, render_splats
from mvsam3d.types import GaussianCloud, Mesh, Photo
from tests.meshing.photographed import AROUND, camera_at, waves


def ball(colours, count=4000):
    """Gaussians on a ball of radius 0.5, and its mesh; `colours`: points -> sRGB."""
    made = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    step = np.arange(count) + 0.5
    z, turn = 1 - 2 * step / count, np.pi * (1 + 5**0.5) * step
    points = 0.5 * np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], axis=1)
    cloud = GaussianCloud(
        torch.tensor(points, dtype=torch.float32),
        torch.full((count, 3), 0.018),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        torch.full((count,), 0.9),
        torch.tensor((colours(points) - 0.5) / SH_DC, dtype=torch.float32),
    )
    return cloud, Mesh(np.asarray(made.vertices), np.asarray(made.faces))


def stored(points):
    return srgb_from_linear(waves(points, None))


def photos_of(cloud, cameras, gain=1.0):
    made = []
    for i, camera in enumerate(cameras):
        rgb, alpha = render_splats(cloud, camera.intrinsics, camera.camera_from_world, 200, 200)
        light = linear_from_srgb(np.clip(rgb, 0, 1)) * gain
        made.append(
            Photo(str(i), np.round(255 * srgb_from_linear(np.clip(light, 0, 1))).astype(np.uint8), alpha > 0.95)
        )
    return made


def colours_of(cloud):
    return 0.5 + SH_DC * cloud.sh_dc.numpy()


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_colours_come_back_from_pictures_of_them(scale):
    """Photos of a cloud from all round, given to a grey copy of it: its pictures are met to 40 dB in the masks."""
    cloud, mesh = ball(stored)
    cameras = [camera_at(eye, scale) for eye in AROUND]
    photos = photos_of(cloud, cameras)
    grey = replace(cloud, sh_dc=torch.zeros_like(cloud.sh_dc))
    fitted = photo_coloured(grey, mesh, photos, cameras)
    assert fitted.means is cloud.means
    for photo, camera in zip(photos, cameras, strict=True):
        rgb, _ = render_splats(fitted, camera.intrinsics, camera.camera_from_world, 200, 200)
        error = np.square(rgb[photo.mask] - photo.rgb[photo.mask] / 255).mean()
        assert -10 * np.log10(error) > 40


def test_what_no_photo_shows_is_shifted():
    """Light of the photos = 1.8 times the model's: the far side, which no photo shows, takes the factor too."""
    cloud, mesh = ball(stored)
    cameras = [camera_at(eye) for eye in ((2.5, 0.4, 0.2), (2.4, -0.5, 0.3))]
    fitted = photo_coloured(cloud, mesh, photos_of(cloud, cameras, 1.8), cameras)
    far = cloud.means[:, 0].numpy() < -0.3
    found, wanted = linear_from_srgb(colours_of(fitted)[far]), 1.8 * linear_from_srgb(colours_of(cloud)[far])
    np.testing.assert_allclose(found, wanted, rtol=0.05)


def test_colours_run_on_past_what_is_seen():
    """A grey model of a ball, its upper half bright, its lower half dark: just past the rim of the photo, colours that
    run on are nearer to that than those of the shift alone, which is the same above and below."""

    def halves(points):
        return np.where(points[:, 2:] > 0, 0.7, 0.4) + np.zeros(points.shape)

    cloud, mesh = ball(halves)
    cameras = [camera_at((3.0, 0.1, 0.2))]
    photos = photos_of(cloud, cameras)
    grey = replace(cloud, sh_dc=torch.zeros_like(cloud.sh_dc))
    band = np.abs(cloud.means[:, 0].numpy() + 0.05) < 0.05
    errors = [
        np.abs(
            colours_of(photo_coloured(grey, mesh, photos, cameras, SplatColourConfig(fade=fade))) - colours_of(cloud)
        )
        for fade in (0.3, 0.01)
    ]
    assert errors[0][band].mean() < 0.8 * errors[1][band].mean()


def test_photos_that_agree_with_the_cloud_change_nothing():
    cloud, mesh = ball(stored)
    cameras = [camera_at(eye) for eye in AROUND]
    fitted = photo_coloured(cloud, mesh, photos_of(cloud, cameras), cameras)
    assert np.abs(colours_of(fitted) - colours_of(cloud)).max() < 4 / 255  # photos have 255 steps and a background


def test_gains_brighten():
    cloud, mesh = ball(stored)
    cameras = [camera_at(eye) for eye in AROUND]
    photos = photos_of(cloud, cameras)
    fitted = photo_coloured(cloud, mesh, photos, cameras, gains=np.full((6, 3), 1.5))
    found, wanted = linear_from_srgb(colours_of(fitted)), 1.5 * linear_from_srgb(colours_of(cloud))
    assert np.abs(found - wanted).mean() < 0.01


def test_an_empty_mask_and_wrong_sizes():
    cloud, mesh = ball(stored, 50)
    camera = camera_at((0, 0.1, 3))
    photo = Photo("0", np.zeros((200, 200, 3), np.uint8), np.zeros((200, 200), bool))
    assert photo_coloured(cloud, mesh, [photo], [camera]) is cloud
    with pytest.raises(InvalidOption, match="100 x 100"):
        photo_coloured(cloud, mesh, [photo], [camera_at((0, 0.1, 3), size=100)], SplatColourConfig())
