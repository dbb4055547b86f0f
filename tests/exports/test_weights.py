import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from mvsam3d.exports.colours import Scale, stretched, view_colours
from mvsam3d.exports.weights import write_weights
from mvsam3d.io.runs import RunFolder
from mvsam3d.io.scenes import read_scene
from mvsam3d.types import Camera, FusionRecord, Photo, Voxels

VIEWS = 2
VOXELS = Voxels(torch.tensor([[x, y, z] for x in range(2, 6) for y in range(3, 5) for z in range(2, 4)]).int(), 8)
SETTINGS = {"entropy_alpha": 30.0, "attention_layer": 6, "attention_step": 0}
ALWAYS = {"fusion_weights.pt", "weight_analysis.log"}
HEAT = {"stage1_entropy", "stage1_weight", "stage2_entropy", "stage2_visibility", "stage2_weight"}
PROMISED = (
    ALWAYS
    | {f"{name}_heatmap.png" for name in HEAT}
    | {"weight_distribution_downsampled.png", "weight_distribution_expanded.png", "entropy_distribution.png"}
    | {f"weight_3d_{kind}_view{view:02d}.png" for kind in ("downsampled", "expanded") for view in range(VIEWS)}
    | {"weight_distribution_3d.ply", "weight_distribution_3d.glb", "entropy_per_view.png"}
)


def photos_and_cameras():
    mask = np.zeros((40, 50), np.bool_)
    mask[10:30, 12:40] = True
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    pose = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 3], [0, 0, 0, 1]])  # from -Y, at a distance of 3
    lens = np.array([[60.0, 0, 25], [0, 60, 20], [0, 0, 1]])
    turned = pose @ np.diag([-1.0, -1, 1, 1])
    return [Photo("frönt", rgb, mask), Photo("back", rgb, mask)], [Camera(lens, p, 50, 40) for p in (pose, turned)]


def record(stage, *, entropy=True, visibility=True):
    g = torch.Generator().manual_seed(0)
    if stage == "slat":
        coords, side = torch.unique(VOXELS.coords // 2, dim=0), 4
    else:
        coords, side = torch.cartesian_prod(*[torch.arange(2)] * 3).int(), 2
    some = lambda: torch.rand(VIEWS, len(coords), generator=g)  # noqa: E731
    weights = torch.softmax(3 * some(), 0)
    seen = (some() > 0.5).float() if visibility and stage == "slat" else None
    return FusionRecord(stage, coords, side, weights, some() if entropy else None, seen)


def written(folder, records):
    photos, cameras = photos_and_cameras()
    left_out = write_weights(RunFolder(folder), records, VOXELS, photos, cameras, settings=SETTINGS)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return there, left_out


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Both stages with all evidence, written twice."""
    folders = [tmp_path_factory.mktemp("weights") for _ in range(2)]
    there = [written(folder, [record("slat"), record("structure")]) for folder in folders]
    return folders, there


def test_all_promised_files(both):
    (folder, _), ((there, left_out), _) = both
    assert there == {f"weights/{name}" for name in PROMISED}
    assert left_out == {}
    for path in folder.rglob("*.png"):
        assert np.asarray(Image.open(path)).std() > 5, path  # something is drawn


@pytest.mark.parametrize(
    ("records", "missing"),
    [
        ([record("structure"), record("slat", visibility=False)], {"stage2_visibility_heatmap.png": "needs cameras"}),
        (
            [record("structure", entropy=False), record("slat", entropy=False)],
            {
                "stage1_entropy_heatmap.png": "attention was not recorded",
                "stage2_entropy_heatmap.png": "attention was not recorded",
                "entropy_distribution.png": "attention was not recorded",
                "entropy_per_view.png": "no entropy was gathered",
            },
        ),
        ([record("slat")], dict.fromkeys(["stage1_entropy_heatmap.png", "stage1_weight_heatmap.png"], "not weighted")),
        (
            [record("structure")],
            {
                name: "stage 2 (appearance) was not weighted"
                for name in PROMISED
                if name.startswith(("stage2", "weight_3d", "weight_distribution", "entropy_distribution"))
            },
        ),
    ],
)
def test_without_evidence_a_file_is_left_out_and_named(records, missing, tmp_path):
    there, left_out = written(tmp_path, records)
    assert there == {f"weights/{name}" for name in PROMISED if name not in missing}
    assert set(left_out) == {f"weights/{name}" for name in missing}
    account = (tmp_path / "weights/weight_analysis.log").read_text()
    for name, reason in missing.items():
        (line,) = [line for line in account.splitlines() if line.startswith(f"  weights/{name}:")]
        assert reason in line


def test_numbers_can_be_read_as_data(both):
    slat, structure = record("slat"), record("structure")
    content = torch.load(both[0][0] / "weights/fusion_weights.pt", weights_only=True)
    assert content["config"] == SETTINGS
    assert torch.equal(content["weights_downsampled"][1], slat.weights[1])
    assert torch.equal(content["stage1"]["entropy"][0], structure.entropy[0])
    assert torch.equal(content["original_coords"][:, 1:], VOXELS.coords)
    index = content["downsample_idx"]
    assert torch.equal(content["downsampled_coords"][index, 1:], VOXELS.coords // 2)
    assert torch.equal(content["weights_expanded"][0], slat.weights[0][index])
    assert content["original_coords"].dtype == torch.int32


def test_equal_records_give_equal_files(both):
    (first, second), _ = both
    for path in first.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


def test_the_account_counts(tmp_path):
    """Weights of 0.75 and 0.25 everywhere but at one latent, which is all the second view's."""
    slat = record("slat")
    weights = torch.tensor([[0.75], [0.25]]).repeat(1, len(slat.coords))
    weights[:, 2] = torch.tensor([0.0, 1.0])
    count = len(slat.coords)
    written(tmp_path, [FusionRecord("slat", slat.coords, 4, weights, None, torch.ones_like(weights))])
    lines = (tmp_path / "weights/weight_analysis.log").read_text().splitlines()
    first = next(line for line in lines if line.startswith("00 fr")).split()
    assert float(first[2]) == pytest.approx(0.75 * (count - 1) / count, abs=1e-3)
    assert first[6] == f"{(count - 1) / count:.1%}"
    assert first[-1] == "100.0%"
    top = next(line for line in lines if line.startswith("  cell"))
    assert str(tuple(slat.coords[2].tolist())) in top


def test_the_ply_holds_every_view_s_weight(both):
    slat, folder = record("slat"), both[0][0]
    cloud = trimesh.load(folder / "weights/weight_distribution_3d.ply")
    np.testing.assert_allclose(cloud.vertices, (VOXELS.coords.numpy() + 0.5) / 8 - 0.5, atol=1e-6)
    index = torch.load(folder / "weights/fusion_weights.pt", weights_only=True)["downsample_idx"]
    data = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(data["weight_01"], slat.weights[1][index].numpy())
    mixed = slat.weights[:, index].T.numpy() @ view_colours(VIEWS)
    np.testing.assert_allclose(np.asarray(cloud.colors)[:, :3] / 255, mixed, atol=0.003)  # 8 bits


def test_the_glb_shows_voxels_where_the_ply_has_them_and_the_cameras(both):
    scene = read_scene(both[0][0] / "weights/weight_distribution_3d.glb")
    shapes = {node.name: node.shape for node in scene.nodes}
    turn = scene.matrices["object_from_glb"][:3, :3]
    points = shapes["weights_points"].positions @ turn.T
    np.testing.assert_allclose(points, (VOXELS.coords.numpy() + 0.5) / 8 - 0.5, atol=1e-6)
    np.testing.assert_allclose(shapes["camera_00_frönt"].vertices[0] @ turn.T, [0, -3, 0], atol=1e-6)
    np.testing.assert_allclose(shapes["camera_01_back"].vertices[0] @ turn.T, [0, 3, 0], atol=1e-6)


def test_colours_are_stretched_between_percentiles():
    values = np.linspace(0, 100, 101)[None]
    scale = stretched(values, "")
    assert (scale.low, scale.high) == (2, 98)
    alike = stretched(np.full((2, 3), 0.5), "")
    assert alike.low < 0.5 < alike.high
    greys = Scale("gray", 0.0, 2.0, "")(np.array([-1.0, 1, 5]))
    np.testing.assert_allclose(greys, [[0, 0, 0], [0.5, 0.5, 0.5], [1, 1, 1]], atol=0.01)


def test_many_views_have_colours_of_their_own():
    for views in (2, 10, 11, 24):
        assert len(np.unique(view_colours(views).round(3), axis=0)) == views
