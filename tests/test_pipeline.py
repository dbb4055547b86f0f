"""Choices of a reconstruction: which view gives the pose, what is refused before anything is loaded, what counts in the entropy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.evidence import Sight
from mvsam3d.generation.pose import pose_from_camera
from mvsam3d.generation.weighting import ByEntropy, ByVisibility, Mixed
from mvsam3d.geometry.hull import Cube, silhouette
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.models.config import SAM3D, SMALL
from mvsam3d.options import ReconstructionConfig, check_config, slat_sampling, structure_sampling
from mvsam3d.pipeline import _placed_by_poses, _shaped, reconstruct, reference_view, view_config
from mvsam3d.posing.alignment import Alignment
from mvsam3d.posing.by_photos import ByPhotos
from mvsam3d.posing.known_shape import KnownShape
from mvsam3d.posing.placement import Placement, photo_cameras
from mvsam3d.rendering.silhouettes import silhouette_iou
from mvsam3d.training.objects import look_at
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo, Voxels
from mvsam3d.views.prepare import prepare_views
from tests.geometry.test_hull import HEIGHT, WIDTH, shadow


def photo(name: str, covered: int) -> Photo:
    mask = np.zeros((20, 20), bool)
    mask[:covered, :covered] = True
    return Photo(name, np.full((20, 20, 3), 200, np.uint8), mask)


def looking_down(height: float) -> torch.Tensor:
    """camera_from_object of a camera above the origin that looks straight down."""
    matrix = torch.eye(4)
    matrix[:3, :3] = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]])
    matrix[2, 3] = height
    return matrix


def from_the_side(distance: float) -> torch.Tensor:
    """camera_from_object of a camera on the axis of +X that looks at the origin, +Z up."""
    matrix = torch.eye(4)
    matrix[:3, :3] = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
    matrix[2, 3] = distance
    return matrix


def plate() -> Voxels:
    """A flat plate at the height of the origin: whole from above, an edge from the side."""
    cells = torch.cartesian_prod(torch.arange(4, 28), torch.arange(4, 28), torch.tensor([15, 16])).to(torch.int32)
    return Voxels(cells, 32)


def test_the_view_whose_pose_counts() -> None:
    photos = [photo("a", 5), photo("b", 12), photo("c", 8)]
    poses = [
        pose_from_camera(from_the_side(3.0)),
        pose_from_camera(from_the_side(2.0)),
        pose_from_camera(looking_down(3.0)),
    ]
    which = lambda how, kept=(0, 1, 2): reference_view(how, photos, poses, plate(), kept, 1.0)  # noqa: E731
    assert which("first") == 0
    assert which("largest-mask") == 1
    assert which("most-visible") == 2
    assert which(2) == 2
    assert which(3, kept=(0, 2, 3)) == 2  # as counted before a view was left out
    with pytest.raises(InvalidOption, match="left out"):
        which(1, kept=(0, 2, 3))


def test_the_larger_photo_does_not_win_by_its_size() -> None:
    small = photo("a", 10)
    large = Photo("a", np.zeros((420, 420, 3), np.uint8), np.pad(small.mask, 200))
    poses = [pose_from_camera(looking_down(2.0))] * 2
    assert reference_view("largest-mask", [large, photo("b", 10)], poses, plate(), (0, 1), 1.0) == 1


CAMERAS = [Camera(np.eye(3), np.eye(4), 20, 20)] * 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ReconstructionConfig(structure_steps=0), "stage 1"),
        (ReconstructionConfig(slat_steps=-1), "stage 2"),
        (ReconstructionConfig(structure_block=4), "blocks 0 to 3"),
        (ReconstructionConfig(slat_block=-1), "blocks 0 to 3"),
        (ReconstructionConfig(slat_steps=5, slat_record_step=5), "steps 0 to 4"),
        (ReconstructionConfig(structure_record_step=1), "steps 0 to 0"),
        (ReconstructionConfig(reference=3), "0 to 2"),
        (ReconstructionConfig(slat_weighting=ByEntropy(floor=0.34)), "floor"),
        (ReconstructionConfig(structure_weighting=ByEntropy(floor=-0.1)), "floor"),
        (ReconstructionConfig(structure_weighting=ByVisibility()), "stage 1"),
        (ReconstructionConfig(slat_weighting=Mixed()), "--cameras"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(config: ReconstructionConfig, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        check_config(config, SMALL, 3, None)


def test_what_cameras_and_depth_allow() -> None:
    check_config(ReconstructionConfig(slat_weighting=Mixed()), SMALL, 3, CAMERAS)
    by_depth = ReconstructionConfig(sight=Sight(depth=True))
    check_config(by_depth, SMALL, 3, CAMERAS, depth=True)
    with pytest.raises(InvalidOption, match="--da3-output"):
        check_config(by_depth, SMALL, 3, CAMERAS)
    with pytest.raises(InvalidOption, match="3 cameras for 2"):
        check_config(ReconstructionConfig(), SMALL, 2, CAMERAS)
    some = [*CAMERAS[:2], None]
    check_config(ReconstructionConfig(), SMALL, 3, some)
    for config in (
        ReconstructionConfig(guidance=False),
        ReconstructionConfig(slat_weighting=Mixed()),
        ReconstructionConfig(visibility_compat=True),
    ):
        with pytest.raises(InvalidOption, match="some photos have no camera"):
            check_config(config, SMALL, 3, some)
    with pytest.raises(InvalidOption, match="no photo has a camera"):
        check_config(ReconstructionConfig(), SMALL, 3, [None] * 3)


def test_the_models_own_choices_and_the_calls() -> None:
    own, public = ReconstructionConfig(), ReconstructionConfig()
    assert (structure_sampling(own, SMALL).steps, structure_sampling(public, SAM3D).steps) == (1, 50)
    assert (structure_sampling(own, SMALL).recording.block, structure_sampling(public, SAM3D).recording.block) == (3, 9)
    assert (slat_sampling(own, SMALL).recording.block, slat_sampling(public, SAM3D).recording.block) == (3, 6)
    assert structure_sampling(own, SMALL).noise_scale == 0.0
    sampled = ReconstructionConfig(structure_steps=8, structure_block=1, structure_record_step=7)
    asked = structure_sampling(sampled, SMALL)
    assert (asked.steps, asked.noise_scale, asked.recording.block, asked.recording.step) == (8, 1.0, 1, 7)


@pytest.fixture(scope="module")
def models():
    return load_checkpoint(checkpoint_folder("small"))[0]


def cut_outs() -> list[Photo]:
    """Two views of a striped block in the middle of the photo, much background around it within the crop's rim."""
    photos = []
    for i in range(2):
        rgb = np.full((96, 96, 3), 230, np.uint8)
        mask = np.zeros((96, 96), bool)
        mask[24:72, 40 - 8 * i : 56 + 8 * i] = True
        rgb[mask] = (160, 40 + 60 * i, 30)
        rgb[24:72:8][mask[24:72:8]] = 20
        photos.append(Photo(str(i), rgb, mask))
    return photos


def test_background_can_be_left_out_of_the_entropy(models) -> None:
    """The tall block fills the middle columns of its square crop: the patches beside it are background."""
    photos = cut_outs()
    config = ReconstructionConfig(
        fusion="velocity", structure_weighting=ByEntropy(), slat_weighting=ByEntropy(), search_poses=False
    )
    noise = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    whole = reconstruct(photos, models, config, noise())
    inside = reconstruct(photos, models, replace(config, object_entropy=True), noise())
    assert [record.stage for record in whole.fusion] == ["structure", "slat"]
    for a, b in zip(whole.fusion, inside.fusion, strict=True):
        assert a.entropy is not None
        assert b.entropy is not None
        assert b.entropy.isfinite().all()
        assert 0 <= float(b.entropy.min()) <= float(b.entropy.max()) <= 1 + 1e-5
        torch.testing.assert_close(a.weights.sum(0), torch.ones(len(a.coords)))
    assert not torch.allclose(whole.fusion[0].entropy, inside.fusion[0].entropy, atol=1e-3)
    views = prepare_views(photos, view_config(models.config), None)
    assert float(views[0].mask.mean()) < 0.5  # there is background to leave out


def test_the_reference_view_and_records_are_in_the_result(models) -> None:
    config = ReconstructionConfig(reference="largest-mask", search_poses=False)
    result = reconstruct(cut_outs(), models, config, torch.Generator().manual_seed(1))
    assert result.reference == 1
    assert result.fusion == ()  # all alike: nothing was weighed
    assert result.visibility is None


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ((0.0, 0.0, 0.0, 0.0), "see the object from within 0 degrees"),
        ((0.0, 10.0, 20.0, 40.0), "see the object from within 37 degrees"),  # 40 of the horizon, 20 degrees above it
        ((0.0, 90.0, 180.0, 270.0), "are not used for the shape: no point lies inside the outlines of all views"),
    ],
)
def test_poses_found_together_are_left_where_they_tell_nothing(
    models, caplog: pytest.LogCaptureFixture, turns: tuple[float, ...], why: str
) -> None:
    """A round thing is found at one pose in all photos, and its outlines leave anything behind it. The log says why there is no shape."""
    photos = [replace(photo, name=str(i)) for i, photo in enumerate(cut_outs()[:1] * 4)]
    if turns[-1] == 270.0:  # masks that meet nowhere
        corner = np.zeros_like(photos[0].mask)
        corner[:4, :4] = True
        photos[1:] = [replace(photo, mask=corner) for photo in photos[1:]]
    views = prepare_views(photos, view_config(models.config), None)
    poses = [pose_from_camera(torch.from_numpy(look_at(turn, 20.0, 2.5)).float()) for turn in turns]
    mesh = Mesh(np.eye(3, dtype=np.float32) - 0.3, np.array([[0, 1, 2]]))
    logits = torch.full((32, 32, 32), -3.0)
    with caplog.at_level("INFO"):
        found = _placed_by_poses(photos, views, poses, poses, mesh, models, logits, ReconstructionConfig())
    assert found is None
    assert f"poses found together {why}" in caplog.text
    off = ReconstructionConfig(guidance=False)
    assert _placed_by_poses(photos, views, poses, poses, mesh, models, logits, off) is None


def test_poses_found_together_tell_the_shape_where_it_meets_the_masks_as_well(
    models, caplog: pytest.LogCaptureFixture
) -> None:
    """A ball from four sides: beside a mesh that is too small its shape is taken, beside the ball itself the mesh stays."""
    blank = Photo("blank", np.full((HEIGHT, WIDTH, 3), 128, np.uint8), np.ones((HEIGHT, WIDTH), bool))
    poses = [
        pose_from_camera(torch.from_numpy(look_at(angle, 20.0, 2.0)).float()) for angle in (0.0, 80.0, 190.0, 280.0)
    ]
    placed = photo_cameras([blank] * 4, poses, (), None, among=False)
    photos = [replace(blank, name=str(i), mask=shadow(camera, 0.3, np.zeros(3))) for i, camera in enumerate(placed)]
    views = prepare_views(photos, view_config(models.config), None)
    logits = torch.full((32, 32, 32), -3.0)
    logits[8:24, 8:24, 8:24] = 3.0
    for radius, kept in ((0.15, True), (0.3, False)):
        ball = trimesh.creation.icosphere(subdivisions=4, radius=radius)
        mesh = Mesh(ball.vertices.astype(np.float32), ball.faces)
        found = _placed_by_poses(photos, views, poses, poses, mesh, models, logits, ReconstructionConfig())
        assert (found is not None) == kept
    # one photo of a ball half as large: what all masks share meets the others' badly, though better than a crumb does
    photos[3] = replace(photos[3], mask=shadow(placed[3], 0.15, np.zeros(3)))
    crumb = Mesh((0.05 / 0.3 * ball.vertices).astype(np.float32), ball.faces)
    with caplog.at_level("INFO"):
        assert _placed_by_poses(photos, views, poses, poses, crumb, models, logits, ReconstructionConfig()) is None
    assert "(0.82 is asked for)" in caplog.text


def test_wings_thinner_than_a_cell_are_in_the_mesh(models) -> None:
    """A body with two wings, six photos with cameras: the mesh that cameras tell has them, and so has the model's own."""
    side = 96
    grid = np.stack(np.meshgrid(*[(np.arange(128) + 0.5) / 128 - 0.5] * 3, indexing="ij"), -1)
    body = np.linalg.norm(grid / [0.1, 0.3, 0.08], axis=-1) < 1
    wings = (abs(grid[..., 0]) < 0.48) & (abs(grid[..., 1]) < 0.06) & (abs(grid[..., 2] - 0.04) < 0.008)
    lens = np.array([[110.0, 0, side / 2], [0, 110.0, side / 2], [0, 0, 1]])
    cameras = [Camera(lens, look_at(60.0 * i, 20.0 + 25 * (i % 2), 1.6), side, side) for i in range(6)]
    masks = [silhouette(body | wings, Cube(np.zeros(3), 1.0), camera, side, side) for camera in cameras]
    photos = [Photo(str(i), np.full((side, side, 3), 170, np.uint8), mask) for i, mask in enumerate(masks)]
    met = {}
    for surface in ("auto", "model"):
        config = ReconstructionConfig(by_photos=ByPhotos(surface=surface, texture="model"))
        made = reconstruct(photos, models, config, torch.Generator().manual_seed(1), cameras=cameras)
        assert made.cameras is not None
        met[surface] = np.mean([silhouette_iou(p, made.mesh, c) for p, c in zip(photos, made.cameras, strict=True)])
        assert made.mesh.texture is not None
    assert met["auto"] > 0.94
    assert met["model"] > 0.85  # of cells that have wings as thin as they are, the decoder loses some


def test_the_mesh_is_that_of_cameras_where_a_lifting_network_had_a_say() -> None:
    """The decoder's ball, or the cameras' block in the ball's colours; outlines alone hollow nothing, so there the ball is kept."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.2)
    decoded = Mesh(ball.vertices, ball.faces, vertex_colours=np.full((len(ball.vertices), 3), 0.3))
    cloud = GaussianCloud(
        torch.zeros(5, 3), torch.full((5, 3), 0.01), torch.eye(4)[:1].repeat(5, 1), torch.ones(5), torch.zeros(5, 3)
    )
    chance = np.where((abs(Cube(np.zeros(3), 1.0).cell_centres(64)) < 0.25).all(-1), 0.9, 0.1)
    for source, surface, side in (("lifting", "auto", 0.5), ("lifting", "model", 0.4), ("hull", "auto", 0.4)):
        shape = KnownShape(Cube(np.zeros(3), 1.0), chance, chance, source)
        placement = Placement(shape, Alignment(np.eye(4), 0.9), 0.0, np.eye(4), np.eye(4), ())
        config = ReconstructionConfig(by_photos=ByPhotos(surface=surface))
        mesh, moved = _shaped(decoded, cloud, placement, (), (), config)
        assert np.ptp(mesh.vertices, axis=0) == pytest.approx(side, abs=0.01)
        assert mesh.vertex_colours == pytest.approx(0.3)
        assert torch.equal(moved.means, cloud.means) == (side == 0.4)
    assert _shaped(decoded, cloud, None, (), (), ReconstructionConfig())[1] is cloud
