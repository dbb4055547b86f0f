"""Whole judgements of answers whose worth is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mvsam3d.evaluation import protocols
from mvsam3d.evaluation.perceptual import LAYERS, Lpips
from mvsam3d.evaluation.protocols import (
    DEFAULT,
    P1,
    P3,
    P4,
    P5,
    P7,
    PROTOCOLS,
    SHAPE,
    Judgement,
    Normalisation,
    Protocol,
    floor,
    higher_is_better,
    input_rig,
    judged,
)
from mvsam3d.evaluation.rigs import RandomSphere, Ring, captured
from mvsam3d.evaluation.solids import solid_cells, winding_of
from mvsam3d.evaluation.subjects import Answer, Capture, Subject
from mvsam3d.types import Camera, GaussianCloud, Mesh
from tests.evaluation.shapes import ball, box, letter, split, turned

SMALL = replace(DEFAULT, tests=RandomSphere(views=2, seed=1), inputs=Ring(views=2), size=64, samples=4000)


def true(mesh: Mesh) -> Subject:
    coloured = replace(mesh, vertex_colours=np.clip(mesh.vertices * 0.8 + 0.5, 0, 1))
    inside = winding_of(mesh)
    return Subject("it", coloured, None if isinstance(inside, int) else inside, "it.glb")


def judge(answer: Answer, subject: Subject, protocol: Protocol = SMALL, seed: int = 0, **options) -> Judgement:
    inputs, tests = (captured(subject, rig, protocol.size) for rig in (protocol.inputs, protocol.tests))
    return judged(answer, subject, inputs, tests, protocol, np.random.default_rng(seed), **options)


def similarity(degrees=(0, 0, 0), scale=1.0, shift=(0.0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def test_every_metric_has_values_or_a_reason() -> None:
    for protocol in PROTOCOLS.values():
        small = replace(protocol, size=64, samples=500, inputs=replace(protocol.inputs, views=2))
        found = judge(Answer(mesh=true(letter()).mesh), true(letter()), small)
        for metric in small.metrics:
            values = [
                name
                for name in found.metrics
                if name.startswith({"poses": "pose", "silhouette": "silhouette"}.get(metric, metric))
            ]
            assert bool(values) != (metric in found.missing), (protocol.name, metric)
        json.dumps([found.metrics, found.missing], allow_nan=False)
        assert found.missing.get("lpips", "no weights of LPIPS were given") == "no weights of LPIPS were given"


def test_an_answer_in_its_own_frame_is_as_good_as_the_truth() -> None:
    """Law: a similarity of the answer changes nothing once it is laid over the truth."""
    subject, answer_from_truth = true(letter()), similarity((170, 20, -80), 0.4, (3, 1, -2))
    mesh = turned(subject.mesh, answer_from_truth)
    cameras = tuple(
        replace(camera, camera_from_world=camera.camera_from_world @ np.linalg.inv(answer_from_truth))
        for camera in captured(subject, SMALL.inputs, 64).cameras
    )
    known = np.linalg.inv(answer_from_truth)
    found = judge(Answer(mesh, truth_from_answer=known, cameras=cameras), subject)
    assert found.metrics["iou_64"] > 0.98
    assert found.metrics["iou_points"] > 0.98
    assert found.metrics["f_score@0.05"] == 1
    assert found.metrics["silhouette_iou"] > 0.97
    assert found.metrics["silhouette_iou_own_cameras"] == 1
    assert found.metrics["rotation_error"] < 1
    assert found.metrics["translation_error"] < 0.03
    assert found.metrics["add_s"] < 0.03
    assert found.metrics["pose_auc@30"] == 1
    by_cameras = judge(
        Answer(mesh, truth_from_answer=known, cameras=cameras), subject, replace(SMALL, rule="true pose")
    )
    assert by_cameras.metrics["iou_64"] == 1
    assert by_cameras.metrics["rotation_error"] < 1e-4


def test_without_alignment_the_frame_counts() -> None:
    subject = true(letter())
    moved = Answer(turned(subject.mesh, similarity(shift=(0.3, 0, 0))))
    assert judge(moved, subject, replace(SMALL, rule="none")).metrics["iou_64"] < 0.5
    assert judge(moved, subject).metrics["iou_64"] > 0.98


def test_separate_normalisation_hides_scale() -> None:  # the trap
    subject, none = true(ball()), replace(SMALL, rule="none")
    small = Answer(turned(subject.mesh, similarity(scale=0.8)))
    shared = judge(small, subject, none).metrics
    apart = judge(small, subject, replace(none, normalisation=Normalisation("each"))).metrics
    assert shared["iou_points"] == pytest.approx(0.8**3, abs=0.01)  # closed form; 100,000 points
    assert shared["chamfer_l1"] == pytest.approx(0.1, abs=0.003)  # radii 0.5 and 0.4; points 0.025 apart
    assert apart["iou_64"] == 1
    assert apart["chamfer_l1"] < 0.02


def test_units_of_the_normalised_frame() -> None:
    subject, none = true(ball()), replace(SMALL, rule="none", thresholds=(0.09, 0.11), metrics=SHAPE)
    small = Answer(turned(subject.mesh, similarity(scale=0.8)))
    one = judge(small, subject, none).metrics
    two = judge(
        small,
        subject,
        replace(none, normalisation=Normalisation("truth", 2.0), thresholds=(0.18, 0.22), two_ways="sum"),
    ).metrics
    assert two["chamfer_l1"] == pytest.approx(4 * one["chamfer_l1"])  # twice as long, both ways added
    assert two["chamfer_l2"] == pytest.approx(8 * one["chamfer_l2"])
    assert two["emd"] == pytest.approx(2 * one["emd"])
    assert (one["f_score@0.09"], one["f_score@0.11"]) == (two["f_score@0.18"], two["f_score@0.22"])
    assert one["f_score@0.09"] < 0.05 < 0.95 < one["f_score@0.11"]
    big = true(turned(ball(), similarity(scale=30.0)))  # the truth's units do not count
    thirty = judge(Answer(turned(big.mesh, similarity(scale=0.8))), big, none).metrics
    assert thirty["chamfer_l1"] == pytest.approx(one["chamfer_l1"], rel=1e-6)


def test_p1_measures_vertices_and_others_do_not() -> None:  # the trap, in the protocols
    subject = true(box())
    dense = Answer(split(split(split(box()))))
    by_vertices = replace(P1, size=64)
    assert judge(Answer(box()), subject, by_vertices).metrics["chamfer_l1"] == 0
    assert judge(dense, subject, by_vertices).metrics["chamfer_l1"] > 0.1  # the same surface
    by_surface = replace(by_vertices, surface="surface", samples=4000)
    values = [judge(answer, subject, by_surface).metrics["chamfer_l1"] for answer in (Answer(box()), dense)]
    assert values[0] == pytest.approx(values[1], rel=0.05)


def test_p7_measures_grids() -> None:
    subject, protocol = true(box()), replace(P7, tests=RandomSphere(views=0))
    half = solid_cells(box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.0)), 32)
    found = judge(Answer(occupied=half), subject, protocol, 0).metrics
    assert found["iou_32"] == 0.5
    # closed form: a random one of n points on an area A is nearer than t with probability 1 - exp(-pi t^2 n / A), for the same surface too
    same = judge(Answer(occupied=solid_cells(box(), 32)), subject, protocol).metrics
    assert same["iou_32"] == 1
    assert same["f_score@0.01"] == pytest.approx(1 - math.exp(-math.pi * 1e-4 * 8192 / 6), abs=0.02)
    assert found["f_score@0.01"] < 0.8 * same["f_score@0.01"]


def test_an_answer_of_cells_alone_is_laid_over_the_truth() -> None:
    subject = true(letter())
    found = judge(Answer(occupied=solid_cells(turned(letter(), similarity((0, 0, 90))), 64)), subject)
    assert found.metrics["iou_64"] > 0.9
    assert found.missing["chamfer_l1"] == "the answer has no mesh"
    assert set(found.metrics) == {"iou_32", "iou_64"}


def bad_mesh(**changes) -> Answer:
    return Answer(replace(box(), **changes))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(), "the answer has no mesh"),
        (Answer(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))), "mesh is empty"),
        (bad_mesh(vertices=np.full((8, 3), np.nan)), "8 of 8 vertices of the answer are NaN"),
        (bad_mesh(faces=np.array([[0, 1, 99]])), "point outside its 8 vertices"),
        (bad_mesh(vertices=np.zeros((8, 3))), "no surface"),
        (Answer(occupied=np.zeros((8, 8, 8), bool)), "the answer has no mesh"),
    ],
)
def test_bad_answers_are_named(answer: Answer, reason: str) -> None:
    found = judge(answer, true(box()))
    assert found.metrics == {}
    assert found.alignment is None
    assert set(found.missing) == set(SMALL.metrics)
    assert all(reason in said for said in found.missing.values())


def test_what_an_answer_lacks_is_named() -> None:
    open_box = replace(box(), faces=box().faces[:-2])
    found = judge(Answer(open_box), true(box()))
    assert "4 open edges" in found.missing["iou_points"]
    assert found.missing["psnr"] == "the answer has no colours"
    assert found.missing["poses"] == "the answer has no cameras"
    one_camera = Answer(box(), cameras=(Camera(np.eye(3), np.eye(4), 64, 64),))
    assert "1 cameras, 2 photos" in judge(one_camera, true(box())).missing["poses"]
    assert "not closed" in judge(Answer(box()), true(open_box)).missing["iou_points"]
    unposed = judge(Answer(box()), true(box()), replace(SMALL, rule="true pose"))
    assert "give the system the cameras" in unposed.missing["iou_64"]


# pictures


def test_colours_of_the_photos_win_over_wrong_ones() -> None:
    subject = true(letter())
    right, wrong = (
        judge(Answer(replace(subject.mesh, vertex_colours=colours)), subject, replace(SMALL, rule="none")).metrics
        for colours in (subject.mesh.vertex_colours, 1 - subject.mesh.vertex_colours)
    )
    for metric in ("psnr", "psnr_inside", "ssim"):
        assert right[metric] > wrong[metric]
    assert right["psnr"] > right["psnr_inside"]  # white around the object is easy
    assert right["silhouette_iou_tests"] == 1


def test_gaussians_are_judged_in_the_answers_frame() -> None:
    subject, none = true(ball(0.4)), replace(SMALL, rule="true pose")
    noise = np.random.default_rng(0)
    points = noise.normal(size=(4000, 3))
    points *= 0.36 / np.linalg.norm(points, axis=1, keepdims=True)
    truth_from_answer = similarity((0, 0, 90), 2.0, (0.1, 0, 0))

    def cloud(means: np.ndarray) -> GaussianCloud:
        n = len(means)
        at = torch.tensor((means - [0.1, 0, 0]) @ truth_from_answer[:3, :3] / 4, dtype=torch.float32)
        return GaussianCloud(
            at,
            torch.full((n, 3), 0.01),
            torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
            torch.full((n,), 0.9),
            torch.zeros(n, 3),
        )

    mesh = turned(subject.mesh, np.linalg.inv(truth_from_answer))
    there, aside = (
        judge(Answer(mesh, gaussians=cloud(points + shift), truth_from_answer=truth_from_answer), subject, none).metrics
        for shift in (np.zeros(3), np.array([0.4, 0, 0]))
    )
    assert there["psnr_gaussians"] > aside["psnr_gaussians"] + 3
    assert there["psnr"] == aside["psnr"]


def test_photos_of_a_scene_are_compared_without_their_background() -> None:
    subject, none = true(letter()), replace(SMALL, rule="none")
    inputs, tests = (captured(subject, rig, 64) for rig in (none.inputs, none.tests))
    cluttered = tuple(
        replace(photo, rgb=np.where(photo.mask[..., None], photo.rgb, np.uint8(40))) for photo in tests.photos
    )
    white = judged(Answer(subject.mesh), subject, inputs, tests, none, np.random.default_rng(0)).metrics
    scene = judged(
        Answer(subject.mesh),
        subject,
        inputs,
        Capture(cluttered, tests.cameras, "scene"),
        none,
        np.random.default_rng(0),
    ).metrics
    assert scene["psnr"] == pytest.approx(white["psnr"], abs=1.5)  # but for the soft edges
    assert scene["psnr_inside"] == white["psnr_inside"]


def lpips(seed: int = 0) -> Lpips:
    noise = torch.Generator().manual_seed(seed)
    weights = {}
    for i, (key, into, out, kernel, _, _) in enumerate(LAYERS):
        weights[f"{key}.weight"] = torch.randn(out, into, kernel, kernel, generator=noise) / math.sqrt(into * kernel**2)
        weights[f"{key}.bias"] = torch.zeros(out)
        weights[f"lin{i}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=noise)
    return Lpips(weights)


def test_lpips_when_there_are_weights() -> None:
    subject = true(letter())
    found = judge(Answer(subject.mesh), subject, replace(SMALL, rule="none"), lpips=lpips())
    assert found.metrics["lpips"] > 0
    assert "lpips" not in found.missing
    picture = np.random.default_rng(0).random((64, 64, 3), np.float32)
    assert lpips().distance(picture, picture) == 0
    assert lpips().distance(picture, 1 - picture) == pytest.approx(lpips().distance(1 - picture, picture))


# the truth against itself


def test_the_floor_is_what_sampling_leaves() -> None:
    found = floor(true(letter()), SMALL, np.random.default_rng(0))
    # closed form: n points on an area A leave a mean gap of 0.5 sqrt(A / n) to the nearest
    corners = letter().vertices[letter().faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    assert found.metrics["chamfer_l1"] == pytest.approx(0.5 * math.sqrt(area / 4000), rel=0.1)
    assert found.metrics["iou_64"] > 0.97
    assert found.metrics["normal_consistency"] > 0.9
    assert found.metrics["psnr"] > 25
    assert set(found.missing) == {"lpips"}
    other = floor(true(letter()), SMALL, np.random.default_rng(1))
    assert other.metrics["chamfer_l1"] != found.metrics["chamfer_l1"]
    again = floor(true(letter()), SMALL, np.random.default_rng(0))
    assert again.metrics == found.metrics


def test_more_points_lower_the_floor() -> None:
    shape = replace(SMALL, metrics=SHAPE, rule="none")
    few, many = (
        floor(true(ball()), replace(shape, samples=count), np.random.default_rng(0)).metrics["chamfer_l1"]
        for count in (1000, 16_000)
    )
    assert many == pytest.approx(few / 4, rel=0.1)  # closed form: as 1 / sqrt(n)


# configs


def test_protocols_say_what_they_are() -> None:
    assert list(PROTOCOLS) == ["default", "P1", "P3", "P4", "P5", "P7"]
    assert (P1.surface, P1.rule, P1.normalisation.by, P1.size) == ("vertices", "none", "each", 256)
    assert (P3.samples, P3.thresholds, P3.normalisation.side) == (100_000, (0.1,), 2)
    assert (P4.rule, P4.thresholds) == ("icp-4", (0.1,))
    assert (P5.inputs, "poses" in P5.metrics) == (Ring(views=4), True)
    assert (P7.surface, P7.samples, P7.thresholds, P7.size) == ("cells", 8192, (0.01,), 137)
    assert all(protocol.note for protocol in PROTOCOLS.values())
    assert input_rig(P4, 24) == Ring(views=24)


def test_which_way_is_better() -> None:
    high = {"f_score@0.01", "iou_64", "psnr_gaussians", "ssim", "silhouette_iou", "normal_consistency", "pose_auc@30"}
    low = {"chamfer_l1", "chamfer_l2", "emd", "lpips", "rotation_error", "translation_error", "add_s"}
    assert {name for name in high | low if higher_is_better(name)} == high
    assert protocols.higher_is_better("pose_accuracy_rotation@30")
