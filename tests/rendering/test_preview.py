import numpy as np
import torch
import trimesh

from mvsam3d.rendering.preview import GAP, LABEL, OUTLINE, TURNS, preview
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo

SIDE = 96


def scene(photos: int = 3) -> tuple[list[Photo], Mesh, GaussianCloud, list[Camera]]:
    """A green ball, seen from three places, as a red disk in the photos."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
    colours = np.broadcast_to(np.float32([0, 1, 0]), (len(ball.vertices), 3)).copy()
    mesh = Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces), vertex_colours=colours)
    n = 6000
    points = torch.nn.functional.normalize(torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), dim=-1) * 0.4
    turns = torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1)
    cloud = GaussianCloud(points, torch.full((n, 3), 0.008), turns, torch.full((n,), 0.9), torch.full((n, 3), -5.0))
    cameras, shots = [], []
    for i in range(photos):
        pose = np.eye(4)
        pose[:3, 3] = [0.2 * i, 0.1, 3.0]  # off centre: the cut-out has to follow
        k = np.array([[150.0, 0, 60], [0, 150, 50], [0, 0, 1]])
        v, u = np.indices((100, 120)) + 0.5
        rays = np.stack([(u - 60) / 150, (v - 50) / 150, np.ones_like(u)], axis=-1)
        near = (rays @ pose[:3, 3]) ** 2 - (rays**2).sum(-1) * (pose[:3, 3] @ pose[:3, 3] - 0.4**2)
        mask = near > 0  # the ray meets the ball
        rgb = np.where(mask[..., None], [255, 0, 0], [0, 0, 0]).astype(np.uint8)
        shots.append(Photo(str(i), rgb, mask))
        cameras.append(Camera(k, pose, 120, 100))
    return shots, mesh, cloud, cameras


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = GAP + LABEL + row * (LABEL + SIDE + GAP), GAP + column * (SIDE + GAP)
    return sheet[top : top + SIDE, left : left + SIDE].astype(int)


def test_renders_lie_on_the_photos() -> None:
    photos, mesh, cloud, cameras = scene()
    sheet = preview(photos, mesh, cloud, cameras, side=SIDE)
    assert sheet.shape == (5 * (LABEL + SIDE + GAP) + GAP, TURNS * (SIDE + GAP) + GAP, 3)
    for i in range(3):
        red = (tile(sheet, 0, i) == [255, 0, 0]).all(axis=-1)
        green = (tile(sheet, 1, i)[..., 1] > 100) & (tile(sheet, 1, i)[..., 0] < 50)
        black = tile(sheet, 2, i).max(axis=-1) < 128
        assert red.sum() > 4000
        assert (tile(sheet, 0, i) == OUTLINE).all(axis=-1).any()
        # The disk's radius is 38 pixels: a ring of half a pixel is 3 % of it; Gaussians at the rim add up, and reach
        # out by three of their standard deviations, near 3 pixels.
        for drawn, least in ((green, 0.94), (black, 0.8)):
            assert (drawn & red).sum() / (drawn | red).sum() > least
            centres = [np.argwhere(area).mean(axis=0) for area in (drawn, red)]
            np.testing.assert_allclose(*centres, atol=0.5)


def test_without_cameras_or_splats() -> None:
    photos, mesh, cloud, cameras = scene()
    for sheet, rows in (
        (preview(photos, mesh, cloud, side=SIDE), 3),
        (preview(photos, mesh, None, cameras, side=SIDE), 3),
        (preview([], None, cloud, side=SIDE), 1),
    ):
        assert sheet.shape[0] == rows * (LABEL + SIDE + GAP) + GAP


def test_many_photos_are_thinned() -> None:
    photos, mesh, _, cameras = scene(20)
    sheet = preview(photos, mesh, None, cameras, side=SIDE)
    assert sheet.shape[1] == 8 * (SIDE + GAP) + GAP
