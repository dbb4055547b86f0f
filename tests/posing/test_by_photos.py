import numpy as np
import pytest
import torch

from mvsam3d.geometry.cameras import centred_intrinsics
from mvsam3d.meshing.texture import textured
from mvsam3d.posing.by_photos import ByPhotos, explained_views, fitted, painted
from mvsam3d.rendering.meshes import render_mesh
from mvsam3d.rendering.silhouettes import silhouette_iou
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo

SIDE = 128
ORANGE, GREY = (0.9, 0.5, 0.1), (0.4, 0.4, 0.4)


def ball(radii: tuple[float, float, float], colour: tuple[float, float, float]) -> Mesh:
    """An ellipsoid of 2,400 faces."""
    rings, turns = 25, 48
    polar = np.pi * np.arange(1, rings + 1) / (rings + 1)
    around = 2 * np.pi * np.arange(turns) / turns
    x = np.outer(np.sin(polar), np.cos(around)).ravel()
    y = np.outer(np.sin(polar), np.sin(around)).ravel()
    points = np.stack([x, y, np.repeat(np.cos(polar), turns)], 1)
    points = np.concatenate([points, [[0, 0, 1], [0, 0, -1]]])
    top, bottom = len(points) - 2, len(points) - 1
    faces = []
    for j in range(turns):
        k = (j + 1) % turns
        faces += [[top, j, k], [bottom, (rings - 1) * turns + k, (rings - 1) * turns + j]]
        for i in range(rings - 1):
            a, b, c, d = i * turns + j, i * turns + k, (i + 1) * turns + j, (i + 1) * turns + k
            faces += [[a, c, b], [b, c, d]]
    return Mesh(points * np.array(radii), np.array(faces), np.tile(np.array(colour), (len(points), 1)))


def cloud(mesh: Mesh) -> GaussianCloud:
    means = torch.from_numpy(mesh.vertices).float()
    count = len(means)
    turns = torch.zeros(count, 4)
    turns[:, 0] = 1
    return GaussianCloud(means, torch.full((count, 3), 0.03), turns, torch.full((count,), 0.9), torch.zeros(count, 3))


@pytest.fixture(scope="module")
def views() -> tuple[list[Photo], list[Camera]]:
    """Six photos of an orange egg; the camera of the last is that of another photo."""
    egg = ball((0.3, 0.3, 0.4), ORANGE)
    lens = centred_intrinsics(SIDE, SIDE)
    cameras = [Camera(lens, look_at(60.0 * i, 10.0 + 15 * (i % 2), 2.0), SIDE, SIDE) for i in range(6)]
    photos = []
    for i, camera in enumerate(cameras):
        rgb, cover, _ = render_mesh(egg, lens, camera.camera_from_world, SIDE, SIDE, shade=False)
        photos.append(Photo(str(i), np.asarray(np.round(rgb * 255), np.uint8), cover > 0.5))
    shifted = cameras[5].camera_from_world.copy()
    shifted[0, 3] += 0.5
    return photos, [*cameras[:5], Camera(lens, shifted, SIDE, SIDE)]


def test_only_views_that_the_mesh_explains_bend_it(
    views: tuple[list[Photo], list[Camera]], caplog: pytest.LogCaptureFixture
) -> None:
    photos, cameras = views
    round_ball = ball((0.33, 0.33, 0.37), GREY)
    everything = range(6)
    with caplog.at_level("WARNING"):
        assert explained_views(round_ball, photos, cameras, everything, 0.6, "sleeps") == (0, 1, 2, 3, 4)
    assert [record.getMessage().split(" by")[0] for record in caplog.records] == ["view 5: the mesh meets its mask"]
    assert "(0.60 is asked for), so it sleeps" in caplog.text
    before = [silhouette_iou(photos[i], round_ball, cameras[i]) for i in range(5)]
    mesh, bent = fitted(round_ball, cloud(round_ball), photos, cameras, ByPhotos(), views=everything)
    after = [silhouette_iou(photos[i], mesh, cameras[i]) for i in range(5)]
    assert min(after) > 0.97 > max(before)
    height = np.ptp(bent.means[:, 2].numpy())
    assert height == pytest.approx(0.8, abs=0.03)  # the splats go along
    same, _ = fitted(round_ball, cloud(round_ball), photos, cameras, ByPhotos(fit_outlines=False), views=everything)
    assert same is round_ball
    alone, _ = fitted(round_ball, cloud(round_ball), photos, cameras, ByPhotos(), views=(5,))
    assert alone is round_ball


def test_only_photos_that_are_met_well_paint_it(views: tuple[list[Photo], list[Camera]]) -> None:
    photos, cameras = views
    egg = textured(ball((0.3, 0.3, 0.4), GREY), None)
    result = painted(egg, cloud(egg), photos, cameras, ByPhotos(), views=range(6))
    assert result.views == (0, 1, 2, 3, 4)
    assert 0.8 < result.seen_fraction <= 1.0
    shown, cover, _ = render_mesh(
        result.mesh, cameras[0].intrinsics, cameras[0].camera_from_world, SIDE, SIDE, shade=False
    )
    assert np.abs(shown[cover == 1] - np.array(ORANGE)).mean() < 0.02
    assert painted(egg, cloud(egg), photos, cameras, ByPhotos(texture="photos"), views=(1, 5)).views == (1, 5)
    for untouched in (
        painted(egg, cloud(egg), photos, cameras, ByPhotos(texture="model"), views=range(6)),
        painted(egg, cloud(egg), photos, cameras, ByPhotos(), views=(5,)),
    ):
        assert untouched.mesh is egg
        assert untouched.views == ()
        assert untouched.seen_fraction == 0
