from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from mvsam3d.errors import InvalidOption, NothingFound, ObjectsFailed
from mvsam3d.evaluation import systems
from mvsam3d.evaluation.protocols import Judgement
from mvsam3d.evaluation.rigs import RandomSphere, Ring, captured
from mvsam3d.evaluation.subjects import Answer, Capture, Subject
from mvsam3d.evaluation.systems import (
    BestSingleView,
    External,
    Folder,
    Made,
    Oracle,
    Ours,
    PlainMean,
    VisualHull,
    in_truth_frame,
    moved_cloud,
    parse_system,
    parse_systems,
    run_system,
    visual_hull,
)
from mvsam3d.geometry.cameras import project
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.io.glb import write_glb
from mvsam3d.types import GaussianCloud, Mesh
from tests.evaluation.truths import block

TEMPLATE = "true {photos} {out}"
BOX = Subject("box", block(), None, "box.glb")


@pytest.mark.parametrize(
    ("text", "label", "system"),
    [
        ("ours", "ours", Ours()),
        ("ours:cameras=no", "ours (cameras=no)", Ours(cameras=False)),
        ("blind=ours:cameras=no, fusion=velocity", "blind", Ours(cameras=False, fusion="velocity")),
        (
            "ours:model=runs/x,weighting=entropy",
            "ours (model=runs/x, weighting=entropy)",
            Ours("runs/x", weighting="entropy"),
        ),
        ("best-single-view", "best single view (oracle)", BestSingleView()),
        ("plain-mean", "plain mean", PlainMean()),
        ("hull:resolution=96", "visual hull (resolution=96)", VisualHull(96)),
        (f"theirs=external:{TEMPLATE}", "theirs", External(TEMPLATE)),
        (f"external:{TEMPLATE} --a=b:c", f"external {TEMPLATE} --a=b:c", External(f"{TEMPLATE} --a=b:c")),
        (f"external@truth:{TEMPLATE}", f"external {TEMPLATE}", External(TEMPLATE, "truth", "z")),
        (f"external@z:{TEMPLATE}", f"external {TEMPLATE}", External(TEMPLATE, "own", "z")),
        ("folder@truth@y:.", "folder .", Folder(Path(), "truth", "y")),
    ],
)
def test_systems_by_name(text: str, label: str, system: systems.System) -> None:
    found = parse_system(text)
    assert (found.label, found.system) == (label, system)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("theirs", "'theirs' is none of ours, best-single-view"),
        ("ours:colour=red", "'colour=red' is no OPTION=VALUE of model, cameras, fusion"),
        ("ours:cameras=perhaps", "cameras=perhaps"),
        ("ours:fusion=best", "fusion=best: Input should be 'joint' or 'velocity'"),
        ("hull:resolution=2000", "give 8 to 256"),
        ("hull:resolution=many", "resolution=many"),
        ("hull@truth", "@truth is for external and folder"),
        ("external@up:true {photos} {out}", "@up is none of @truth"),
        ("external", "external: what"),
        ("external:true", "is missing"),
        ("folder:no/such/place", "no such folder"),
        ("=ours:cameras=no", "1 to 60 printable"),
        ("a\nb=ours:cameras=no", "1 to 60 printable"),
    ],
)
def test_wrong_names_are_told(text: str, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        parse_system(text)


def test_labels_differ() -> None:
    with pytest.raises(InvalidOption, match="two are called 'ours'"):
        parse_systems(["ours", "hull", "ours"])
    with pytest.raises(InvalidOption, match="name one"):
        parse_systems([])
    found = parse_systems(["ours", "b=ours", TEMPLATE.join(("external:", ""))], device="cuda", limit=7.0)
    assert [named.system for named in found] == [
        Ours(device="cuda"),
        Ours(device="cuda"),
        External(TEMPLATE, limit=7.0),
    ]


def test_a_description_tells_checkpoints_apart_by_content() -> None:
    ours = parse_system("ours").described()
    assert ours["kind"] == "ours"
    assert len(str(ours["weights"])) == 16
    assert parse_system("hull").described() == {"kind": "hull", "resolution": 64, "shape_only": False}
    assert parse_system("folder:.").described()["path"] == "."


RADIUS = 0.4


def ball() -> Subject:
    body = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    return Subject("ball", Mesh(np.asarray(body.vertices, np.float32), np.asarray(body.faces)), None, "ball.glb")


def test_hull_of_a_ball_is_the_ball() -> None:
    """Closed form: outlines from many sides leave the ball and thin corners; mesh, solid and cameras lie on each other."""
    photos, side = captured(ball(), RandomSphere(views=12, lowest=-80.0, highest=80.0), 128), 32
    answer = visual_hull(photos, side)
    assert answer.mesh is not None
    assert answer.occupied is not None
    assert answer.truth_from_answer is not None
    assert answer.cameras is not None
    cell = float(np.linalg.det(answer.truth_from_answer[:3, :3]) ** (1 / 3)) / side
    placed = in_truth_frame(answer)
    assert placed.mesh is not None
    away = np.linalg.norm(placed.mesh.vertices, axis=1)
    assert away.min() > RADIUS - cell
    assert np.median(away) < RADIUS + cell
    assert away.max() < RADIUS + 4 * cell
    cells = (np.argwhere(np.ones_like(answer.occupied)) + 0.5) / side - 0.5
    world = cells @ answer.truth_from_answer[:3, :3].T + answer.truth_from_answer[:3, 3]
    true, found = np.linalg.norm(world, axis=1) < RADIUS, answer.occupied.reshape(-1)
    assert not (true & ~found).any()
    assert (true & found).sum() / found.sum() > 0.8
    pixels, _ = project(answer.cameras[3], answer.mesh.vertices.astype(np.float64))
    rows, columns = np.argwhere(photos.photos[3].mask).min(0), np.argwhere(photos.photos[3].mask).max(0)
    np.testing.assert_allclose(pixels.min(0)[::-1], rows, atol=3)
    np.testing.assert_allclose(pixels.max(0)[::-1], columns + 1, atol=3)


def test_hull_of_one_photo_is_closed() -> None:
    answer = visual_hull(captured(BOX, Ring(views=1), 96), 24)
    assert answer.mesh is not None
    edges = np.sort(answer.mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    places = np.unique(answer.mesh.vertices.round(5), axis=0, return_inverse=True)[1].reshape(-1)
    _, counts = np.unique(np.sort(places[edges], axis=1), axis=0, return_counts=True)
    assert (counts == 2).mean() > 0.99


def cloud() -> GaussianCloud:
    noise = torch.Generator().manual_seed(0)
    return GaussianCloud(
        means=torch.randn(5, 3, generator=noise),
        scales=torch.rand(5, 3, generator=noise) + 0.1,
        rotations=torch.nn.functional.normalize(torch.randn(5, 4, generator=noise), dim=1),
        opacities=torch.rand(5, generator=noise),
        sh_dc=torch.randn(5, 3, generator=noise),
    )


def covariances(gaussians: GaussianCloud) -> torch.Tensor:
    axes = matrix_from_quaternion(gaussians.rotations.double()) * gaussians.scales.double()[:, None]
    return axes @ axes.mT


def similarity() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = 1.7 * Rotation.from_euler("xyz", [20, 50, -110], degrees=True).as_matrix()
    matrix[:3, 3] = (0.3, -1, 2)
    return matrix


def test_gaussians_move_as_their_ellipsoids_do() -> None:  # law: C becomes A C Aᵀ
    moved, a = moved_cloud(cloud(), similarity()), torch.from_numpy(similarity()[:3, :3])
    torch.testing.assert_close(covariances(moved), a @ covariances(cloud()) @ a.T, rtol=1e-5, atol=1e-6)
    expected = cloud().means.double() @ a.T + torch.from_numpy(similarity()[:3, 3])
    torch.testing.assert_close(moved.means.double(), expected, rtol=1e-5, atol=1e-5)


def test_an_answer_moves_with_all_its_parts() -> None:
    """Law: cameras see the moved mesh where they saw it before; an answer that knows no way stays as it is."""
    cameras = captured(BOX, Ring(views=2), 32).cameras
    answer = Answer(block(), np.ones((2, 2, 2), bool), cloud(), similarity(), cameras, 3.0)
    moved = in_truth_frame(answer)
    assert moved.mesh is not None
    assert moved.cameras is not None
    assert moved.truth_from_answer is not None
    np.testing.assert_array_equal(moved.truth_from_answer, np.eye(4))
    assert (moved.occupied, moved.seconds) == (None, 3.0)
    for before, after in zip(cameras, moved.cameras, strict=True):
        seen = project(before, block().vertices.astype(np.float64))[0]
        np.testing.assert_allclose(project(after, moved.mesh.vertices.astype(np.float64))[0], seen, atol=1e-4)
    lost = replace(answer, truth_from_answer=None)
    assert in_truth_frame(lost) is lost


def judgement(answer: Answer, photos: Capture) -> Judgement:
    """By how red the only photo is, which the answer's seconds tell; the third one cannot be judged."""
    assert len(photos.photos) == 1
    if answer.seconds == 3:
        return Judgement({}, {"iou_64": "no"}, None)
    return Judgement(
        {"iou_64": [0.1, 0.5, 0.9, 0.3][round(answer.seconds) - 1], "chamfer_l1": answer.seconds}, {}, None
    )


@pytest.mark.parametrize(("metric", "name"), [("iou_64", "1"), ("chamfer_l1", "0")])
def test_the_oracle_keeps_the_best_photo(
    metric: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = captured(BOX, Ring(views=4), 32)

    def ours(system: Ours, inputs: Capture, seed: int) -> Made:
        (photo,) = inputs.photos
        assert not system.cameras
        return Made(Answer(block(), seconds=float(photo.name) + 1.0), ())

    monkeypatch.setattr(systems, "_ours", ours)
    oracle = Oracle(judgement, metric)
    made = run_system(BestSingleView(), BOX, photos, tmp_path, oracle=oracle, seed=0, views=4)
    assert made.notes == (f"the best view is {name}",)
    assert made.answer.seconds == 1 + 2 + 3 + 4  # of all photos

    def nothing(system: Ours, inputs: Capture, seed: int) -> Made:
        raise NothingFound("too dark")

    monkeypatch.setattr(systems, "_ours", nothing)
    with pytest.raises(ObjectsFailed, match="view 0: too dark; view 1: too dark"):
        run_system(BestSingleView(), BOX, photos, tmp_path, oracle=oracle, seed=0, views=4)


def test_an_oracle_with_a_name_is_asked_once_for_each_photo_of_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight photos hold the four that were asked before; another object, and an oracle without a name, are asked anew."""
    photos, asked = captured(BOX, Ring(views=4), 32), []

    def ours(system: Ours, inputs: Capture, seed: int) -> Made:
        asked.append(inputs.photos[0].name)
        return Made(Answer(block(), seconds=float(inputs.photos[0].name) + 1.0), ())

    def best_of(count: int, oracle: Oracle) -> Made:
        few = replace(photos, photos=photos.photos[:count], cameras=photos.cameras[:count])
        return run_system(BestSingleView(), BOX, few, tmp_path, oracle=oracle, seed=0, views=count)

    monkeypatch.setattr(systems, "_ours", ours)
    named = Oracle(judgement, "iou_64", "box")
    first, then = best_of(2, named), best_of(4, named)
    assert asked == ["0", "1", "2", "3"]
    assert (first.answer.seconds, then.answer.seconds) == (1 + 2, 1 + 2 + 3 + 4)
    assert (first.notes, then.notes) == (("the best view is 1",), ("the best view is 1",))
    best_of(2, replace(named, of="another box"))
    best_of(2, named)  # of one object at a time
    best_of(1, Oracle(judgement, "iou_64"))
    best_of(1, Oracle(judgement, "iou_64"))
    assert asked == ["0", "1", "2", "3", "0", "1", "0", "1", "0", "0"]


def test_results_made_elsewhere(tmp_path: Path) -> None:
    write_glb(tmp_path / "box.glb", block((2.0, 1.0, 1.0)))
    oracle, photos = Oracle(judgement, "iou_64"), captured(BOX, Ring(views=1), 32)
    made = run_system(Folder(tmp_path), BOX, photos, tmp_path / "x", oracle=oracle, seed=0, views=1)
    assert made.answer.mesh is not None
    assert float(np.ptp(made.answer.mesh.vertices)) == 2
    assert made.answer.seconds == 0


def test_ours_with_and_without_cameras(tmp_path: Path) -> None:
    """The whole of it: with cameras the answer lies over the truth as it is, without it knows no way there."""
    photos, oracle = captured(BOX, Ring(views=3), 128), Oracle(judgement, "iou_64")
    given = run_system(Ours(), BOX, photos, tmp_path, oracle=oracle, seed=0, views=3)
    assert given.answer.mesh is not None
    assert given.answer.truth_from_answer is not None
    assert given.answer.cameras is not None
    assert given.notes == ()
    np.testing.assert_allclose(np.ptp(given.answer.mesh.vertices, axis=0), (1, 0.6, 0.3), atol=0.3)
    np.testing.assert_allclose(
        given.answer.cameras[1].camera_from_world, photos.cameras[1].camera_from_world, atol=1e-4
    )
    one = replace(photos, photos=photos.photos[:1], cameras=photos.cameras[:1])
    alone = run_system(Ours(), BOX, one, tmp_path, oracle=oracle, seed=0, views=1)
    assert alone.answer.truth_from_answer is None
    assert alone.notes == ("one photo, so it was not given the camera",)
    assert alone.answer.occupied is not None
    assert alone.answer.occupied.any()


def test_the_shape_alone_is_the_shape_of_the_whole(tmp_path: Path) -> None:
    """Law: stage 1 does not depend on what follows; where cameras are given, the way to the truth is the same."""
    photos, oracle = captured(BOX, Ring(views=3), 128), Oracle(judgement, "iou_64")
    for whole in (Ours(), Ours(cameras=False), PlainMean(cameras=False)):
        of_all = run_system(whole, BOX, photos, tmp_path, oracle=oracle, seed=0, views=3).answer
        shape = run_system(
            replace(whole, shape_only=True), BOX, photos, tmp_path, oracle=oracle, seed=0, views=3
        ).answer
        assert shape.mesh is None
        assert shape.cameras is None
        assert shape.occupied is not None
        made = _solid_of(of_all, whole, photos)
        np.testing.assert_array_equal(shape.occupied, made)
        assert (shape.truth_from_answer is None) == (not whole.cameras)


def _solid_of(whole: Answer, system: Ours | PlainMean, photos: Capture) -> np.ndarray:
    """The solid of a whole answer: that of a mesh laid among the cameras stays behind, so it is asked again."""
    if whole.occupied is not None:
        return whole.occupied
    assert isinstance(system, Ours)
    again = systems._ours(system, photos, 0).answer.occupied
    assert again is not None
    return again
