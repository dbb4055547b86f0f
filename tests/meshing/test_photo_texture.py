from dataclasses import replace

import numpy as np
import pytest

from mvsam3d.errors import InvalidOption
from mvsam3d.io.glb import linear_from_srgb, srgb_from_linear
from mvsam3d.meshing.photo_texture import (
    NO_VIEW,
    PhotoTextureConfig,
    coverage_colours,
    coverage_mesh,
    needed_resolution,
    photo_textured,
    pixels_per_unit,
)
from mvsam3d.meshing.seeing import SightConfig
from mvsam3d.meshing.texture import find_texels, mixed_over
from mvsam3d.rendering.meshes import face_normals, render_mesh, sample_texture
from mvsam3d.types import Mesh
from tests.meshing.photographed import AROUND, box, camera_at, photo_of, waves

CONFIG = PhotoTextureConfig(resolution=256)
STEP = 1 / 255


def light_of(mesh):
    """Linear light of the texture's texels, their points and normals."""
    texels = find_texels(mesh, len(mesh.texture))
    uv = np.concatenate([mesh.uv, np.zeros((len(mesh.uv), 1))], axis=1)
    light = linear_from_srgb(sample_texture(mesh.texture, mixed_over(uv, mesh, texels)[:, :2]))
    normals = face_normals(mesh.vertices, mesh.faces)[texels.faces]
    points = mixed_over(mesh.vertices, mesh, texels).astype(float)
    return light, points, normals / np.linalg.norm(normals, axis=1, keepdims=True), texels


def taken(mesh, eyes, light_at, scale=1.0, gains=None):
    cameras = [camera_at(eye, scale) for eye in eyes]
    gains = gains or [1.0] * len(eyes)
    return [photo_of(mesh, c, light_at, gain=g, name=str(i)) for i, (c, g) in enumerate(zip(cameras, gains))], cameras


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_known_colours_come_back(scale):  # closed form: smooth light, all round: within one step of a photo's 255
    mesh = box()
    out = photo_textured(mesh, *taken(mesh, AROUND, waves, scale), CONFIG)
    light, points, normals, _ = light_of(out.mesh)
    inner = np.sort(np.abs(points), axis=1)[:, 1] < 0.42  # away from the edges, where photos mix two sides
    assert np.abs(light - waves(points, normals))[inner].max() < STEP
    assert out.seen_fraction > 0.92  # the rim of each side lies within the margin of the outline
    np.testing.assert_allclose(out.gains, 1, atol=0.01)  # nothing to even: what remains is rounding to 255 steps


def test_gains_are_recovered():  # closed form: equal but for factors of geometric mean 1
    mesh = box()
    factors = np.array([0.8, 1.25, 1.0, 1.1, 1 / 1.1, 1.0])
    eyes = AROUND + 0.9 * AROUND[[1, 2, 3, 4, 5, 0]]  # neighbours share a side of the cube
    out = photo_textured(mesh, *taken(mesh, eyes, waves, gains=list(factors)), CONFIG)
    apart = np.log(out.gains * factors[:, None])
    assert np.ptp(apart, axis=0).max() < 0.01
    light, points, normals, _ = light_of(out.mesh)
    inner = np.sort(np.abs(points), axis=1)[:, 1] < 0.42
    np.testing.assert_allclose(light[inner], np.exp(apart.mean()) * waves(points, normals)[inner], atol=1.5 * STEP)


def test_two_exposures_leave_no_step():
    """A plate, its left half in one photo, its right half in the other, a strip in both; one photo has half the light."""
    mesh = plate()
    photos, cameras = taken(mesh, [(0, 1e-3, 3.0), (0, 1e-3, 3.0)], grey, gains=[1.0, 0.5])
    x = (np.arange(200) + 0.5 - 100) / 280 * 3 * np.sign(cameras[0].camera_from_world[0, 0] or 1)
    across = np.abs(cameras[0].camera_from_world[0, 0]) > 0.5
    shown = np.broadcast_to(x[None] if across else x[:, None], (200, 200))
    photos = [
        replace(photos[0], mask=photos[0].mask & (shown < 0.1)),
        replace(photos[1], mask=photos[1].mask & (shown > -0.1)),
    ]
    evened = photo_textured(mesh, photos, cameras, CONFIG)
    assert np.ptp(light_of(evened.mesh)[0]) < 2 * STEP
    blended = photo_textured(mesh, photos, cameras, replace(CONFIG, even=False))
    assert np.ptp(light_of(blended.mesh)[0]) > 0.1  # the photos do differ
    middle = (
        linear_from_srgb(blended.mesh.texture[..., 0] / 255)[[128]],
        linear_from_srgb(blended.mesh.texture[:, [128], 0] / 255),
    )
    assert max(np.abs(np.diff(line.ravel())).max() for line in middle) < 0.015  # 0.2 over a strip of 50 texels


def grey(points, normals):
    return np.full(points.shape, 0.4)


def plate(colour=0.5):
    """[-0.5, 0.5]^2 at z = 0, facing +z, of 16 x 16 squares."""
    side = np.linspace(-0.5, 0.5, 17)
    vertices = np.stack([*np.meshgrid(side, side), np.zeros((17, 17))], axis=-1).reshape(-1, 3)
    corner = (np.arange(16)[:, None] * 17 + np.arange(16)).reshape(-1, 1)
    faces = np.concatenate([corner + np.array([0, 1, 18]), corner + np.array([0, 18, 17])])
    uv = vertices[:, :2] * 0.96 + 0.5
    return Mesh(vertices, faces, vertex_colours=np.full(vertices.shape, colour), uv=uv)


def plates():
    """A small plate 0.4 above the middle of a large one; each half of the texture."""
    low, high = plate(), plate()
    vertices = np.concatenate([low.vertices, high.vertices * 0.3 + (0, 0, 0.4)])
    uv = np.concatenate([low.uv * (0.5, 1), high.uv * (0.5, 1) + (0.5, 0)])
    faces = np.concatenate([low.faces, high.faces + len(low.vertices)])
    return Mesh(vertices, faces, vertex_colours=np.full(vertices.shape, 0.5), uv=uv)


def red_and_blue(points, normals):
    return np.where(points[:, 2:] > 0.2, [[0.0, 0.0, 0.9]], [[0.6, 0.1, 0.0]])


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_a_hidden_texel_never_takes_what_hides_it(off):
    """Blue hides red, the model says so too; nothing turns into the other colour, even if the photo is off by a pixel."""
    mesh = plates()
    mesh = replace(mesh, vertex_colours=srgb_from_linear(red_and_blue(mesh.vertices, None)))
    photos, cameras = taken(mesh, [(0.3, 0.2, 3.0)], red_and_blue)
    cameras = [replace(cameras[0], intrinsics=cameras[0].intrinsics + np.array([[0, 0, off], [0, 0, 0], [0, 0, 0]]))]
    config = replace(CONFIG, sight=SightConfig(outline_margin=1.5 + off))
    out = photo_textured(mesh, photos, cameras, config)
    light, points, _, texels = light_of(out.mesh)
    np.testing.assert_allclose(light, red_and_blue(points, None), atol=2 * STEP)
    seen = out.views_seen[texels.rows, texels.columns] > 0
    red = points[:, 2] < 0.2
    assert seen[red].mean() > 0.6
    middle = np.abs(points[:, :2]).max(axis=1) < 0.1
    assert not seen[red & middle].any()


def test_what_no_photo_sees_is_the_shifted_model():
    """A cube from above; light = 2 model + 0.02. The underside is more than 7 fades away from the sides that are seen."""
    mesh = box()
    model = 0.15 + 0.1 * np.sin(4 * mesh.vertices[:, [0, 1, 0]] + 1)
    mesh = replace(mesh, vertex_colours=srgb_from_linear(model))

    def light_at(points, normals):
        return 2 * (0.15 + 0.1 * np.sin(4 * points[:, [0, 1, 0]] + 1)) + 0.02

    out = photo_textured(mesh, *taken(mesh, [(0.5, 0.3, 2.5)], light_at), replace(CONFIG, fade=0.05))
    np.testing.assert_allclose(
        out.shift.gain, 2, atol=0.08
    )  # the ratio of the means, 2.1, draws; straight lines between vertices are flatter
    light, points, normals, texels = light_of(out.mesh)
    unseen = out.views_seen[texels.rows, texels.columns] == 0
    below = normals[:, 2] < -0.9
    assert unseen[below].all()
    shifted = out.shift(0.15 + 0.1 * np.sin(4 * points[below][:, [0, 1, 0]] + 1))
    np.testing.assert_allclose(light[below], shifted, atol=3 * STEP)  # vertex colours run straight between vertices


def test_colours_fade_without_a_step():
    """A plate seen in its left part only, of another colour than the model there: no step anywhere."""
    mesh = plate(0.3)
    mesh = replace(mesh, vertex_colours=0.5 + 0.4 * mesh.vertices[:, [0, 0, 0]])
    photos, cameras = taken(mesh, [(0, 1e-3, 3.0)], grey)
    mask = photos[0].mask.copy()
    mask[:, :90] = False
    out = photo_textured(mesh, [replace(photos[0], mask=mask)], cameras, CONFIG)
    texels = light_of(out.mesh)[3]
    seen = out.views_seen[texels.rows, texels.columns] > 0
    assert 0.3 < seen.mean() < 0.8
    assert out.seen_fraction == pytest.approx(seen.mean(), abs=0.01)
    assert steepest(out.mesh) < 0.01


def steepest(mesh):
    """Largest difference in linear light between texels side by side."""
    texels = find_texels(mesh, len(mesh.texture))
    light = np.full(mesh.texture.shape[:2], np.nan)
    light[texels.rows, texels.columns] = linear_from_srgb(mesh.texture[texels.rows, texels.columns, 0] / 255)
    return max(np.nanmax(np.abs(np.diff(light, axis=axis))) for axis in (0, 1))


def test_order_of_photos_does_not_matter():
    mesh = box()
    photos, cameras = taken(mesh, AROUND * 0.9 + 0.3, waves, gains=[1, 0.9, 1.1, 1, 0.8, 1])
    one = photo_textured(mesh, photos, cameras, CONFIG)
    order = [3, 0, 5, 1, 4, 2]
    other = photo_textured(mesh, [photos[i] for i in order], [cameras[i] for i in order], CONFIG)
    assert np.abs(one.mesh.texture.astype(int) - other.mesh.texture).max() <= 1  # sums in another order
    np.testing.assert_allclose(one.gains[order], other.gains, rtol=1e-4)
    np.testing.assert_array_equal(one.views_seen, other.views_seen)
    np.testing.assert_array_equal(one.face_views[order], other.face_views)


def test_one_photo_is_not_evened_and_a_copy_changes_nothing():
    mesh = box()
    photos, cameras = taken(mesh, AROUND[:1] + 0.8, waves)
    one = photo_textured(mesh, photos, cameras, CONFIG)
    np.testing.assert_array_equal(one.gains, 1)
    both = photo_textured(mesh, photos * 2, cameras * 2, CONFIG)
    assert np.abs(one.mesh.texture.astype(int) - both.mesh.texture).max() <= 1
    np.testing.assert_array_equal(both.views_seen, 2 * one.views_seen)


def test_the_photos_come_back_when_rendered():
    """Fine stripes and noise-free cameras: each input view is met to 30 dB within its mask."""

    def stripes(points, normals):
        return 0.3 + 0.2 * np.sin(25 * points)

    mesh = box()
    photos, cameras = taken(mesh, AROUND * 0.8, stripes)
    out = photo_textured(mesh, photos, cameras, CONFIG)
    for photo, camera in zip(photos, cameras, strict=True):
        picture, covered, _ = render_mesh(out.mesh, camera.intrinsics, camera.camera_from_world, 200, 200, shade=False)
        inside = photo.mask & (covered == 1)
        error = np.square(picture[inside] - photo.rgb[inside] / 255).mean()
        assert -10 * np.log10(error) > 30


def test_resolution_follows_the_photos():
    mesh = plate()
    near, far = camera_at((0, 1e-3, 3.0), size=200), camera_at((0, 1e-3, 3.0), size=2000)
    assert pixels_per_unit(mesh, [near]) == pytest.approx(1.4 * 200 / 3, rel=0.02)  # focal / distance
    assert pixels_per_unit(mesh, [far, near]) == pytest.approx(1.4 * 2000 / 3, rel=0.02)
    assert needed_resolution(mesh, [near]) == 1024
    assert needed_resolution(mesh, [camera_at((0, 1e-3, 3.0), size=6000)]) == 2048  # 2800 pixels across the plate
    assert pixels_per_unit(mesh, [camera_at((0, 1e-3, -3.0))]) == 0  # from behind


def test_coverage_is_painted():
    mesh = box()
    photos, cameras = taken(mesh, AROUND[:2], waves)
    out = photo_textured(mesh, photos, cameras, CONFIG)
    painted = coverage_mesh(out)
    colours = coverage_colours(2)
    assert tuple(colours[0]) == NO_VIEW
    texels = find_texels(mesh, 256)
    counts = out.views_seen[texels.rows, texels.columns]
    assert set(counts) == {0, 1}  # two sides, nothing in common that both see well enough
    np.testing.assert_array_equal(painted.texture[texels.rows, texels.columns], colours[counts])
    normals = face_normals(mesh.vertices, mesh.faces)
    assert out.face_views[0, normals[:, 0] > 0].mean() > 0.9
    assert not out.face_views[0, normals[:, 0] < 0].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mesh": {"uv": None}}, "unwrap it first"),
        ({"mesh": {"vertex_colours": None}}, "no colours for what no photo sees"),
        ({"config": {"sharpness": (1.0,)}}, "2 borders between bands part 3"),
        ({"config": {"bands": (0.08, 0.02)}}, "finest first"),
    ],
)
def test_what_cannot_be_textured_is_said(change, words):
    mesh = plate()
    photos, cameras = taken(mesh, [(0, 1e-3, 3.0)], grey)
    with pytest.raises(InvalidOption, match=words):
        photo_textured(
            replace(mesh, **change.get("mesh", {})), photos, cameras, replace(CONFIG, **change.get("config", {}))
        )


def test_photos_and_cameras_must_agree():
    mesh = plate()
    photos, _ = taken(mesh, [(0, 1e-3, 3.0)], grey)
    with pytest.raises(InvalidOption, match="100 x 100 pixels, the photo has 200 x 200"):
        photo_textured(mesh, photos, [camera_at((0, 1e-3, 3.0), size=100)], CONFIG)
    with pytest.raises(InvalidOption, match="1 photos and 0 cameras"):
        photo_textured(mesh, photos, [], CONFIG)
