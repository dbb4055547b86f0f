from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from mvsam3d.errors import InvalidOption
from mvsam3d.meshing.cleanup import boundary_loops
from mvsam3d.meshing.outline_fit import FittedMesh, OutlineFit, fitted_to_outlines, outline, without_turned_faces
from mvsam3d.meshing.warp import gradients
from mvsam3d.rendering.meshes import face_normals, rasterise
from mvsam3d.types import Camera, Mesh

SIDE, FOCAL, FAR = 240, 500.0, 2.5  # pixels and object units: the sphere is 160 pixels wide
QUICK = OutlineFit(side=256)  # more than a mask has: pixels are taken as they are
AXES = 0.4 * np.array([1.08, 0.92, 1.0])


def camera(azimuth: float, elevation: float, growth: float = 1.0) -> Camera:
    """From FAR away towards the origin, degrees; the camera's unit is `growth` smaller than the object's."""
    turn = Rotation.from_euler("zx", [azimuth, elevation], degrees=True).inv().as_matrix()
    axes = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # camera x, y, z: right, down, ahead, of a frame with z up
    matrix = np.eye(4)
    matrix[:3, :3] = growth * axes @ turn
    matrix[:3, 3] = growth * np.array([0, 0, FAR])
    return Camera(np.array([[FOCAL, 0, 120], [0, FOCAL, 118], [0, 0, 1.0]]), matrix, SIDE, SIDE)


def ring() -> list[Camera]:
    """Six views all round; one of them in other units."""
    return [camera(60.0 * i, 25.0 * (-1) ** i, 3.0 if i == 2 else 1.0) for i in range(6)]


def sphere(axes: np.ndarray, divisions: int = 4) -> Mesh:
    ball = trimesh.creation.icosphere(divisions, radius=1.0)
    return Mesh(np.asarray(ball.vertices) * axes, np.asarray(ball.faces))


def silhouette(mesh: Mesh, view: Camera) -> np.ndarray:
    turn, shift = view.camera_from_world[:3, :3], view.camera_from_world[:3, 3]
    return rasterise(mesh.vertices @ turn.T + shift, mesh.faces, view.intrinsics, view.width, view.height)[0] >= 0


def overlap(mesh: Mesh, masks: list[np.ndarray], views: list[Camera]) -> np.ndarray:
    drawn = [silhouette(mesh, view) for view in views]
    return np.array([(d & m).sum() / (d | m).sum() for d, m in zip(drawn, masks, strict=True)])


def masks_of(mesh: Mesh, views: list[Camera]) -> list[np.ndarray]:
    return [silhouette(mesh, view) for view in views]


def off(mesh: Mesh) -> float:
    """Mean distance from the ellipsoid with semi-axes AXES, to first order."""
    return float(np.abs(np.linalg.norm(mesh.vertices / AXES, axis=1) - 1).mean() * 0.4)


@cache
def fitted_ellipsoid() -> FittedMesh:
    return fitted_to_outlines(sphere(np.full(3, 0.4)), masks_of(sphere(AXES, 5), ring()), ring(), QUICK)


def test_a_sphere_becomes_the_ellipsoid_of_the_masks() -> None:
    start, fit = sphere(np.full(3, 0.4)), fitted_ellipsoid()
    assert off(fit.mesh) < off(start) / 5
    seen = overlap(fit.mesh, masks_of(sphere(AXES, 5), ring()), ring())
    assert seen.min() >= 0.98
    np.testing.assert_allclose(
        fit.silhouette_iou_after, seen, atol=0.01
    )  # at the same size but for the window's rounding
    assert (fit.silhouette_iou_before < 0.96).all()
    moved = np.linalg.norm(fit.mesh.vertices - start.vertices, axis=1) / 0.8
    assert fit.largest_displacement == pytest.approx(moved.max())
    assert fit.mean_displacement == pytest.approx(moved.mean())


def test_a_mesh_that_fits_stays() -> None:
    """A quarter of a pixel: outlines come from masks, which are exact to about one."""
    start = sphere(AXES)
    fit = fitted_to_outlines(start, masks_of(start, ring()), ring(), QUICK)
    assert np.linalg.norm(fit.mesh.vertices - start.vertices, axis=1).max() * FOCAL / FAR < 0.25


def lumpy() -> Mesh:
    """A pear with a hole in its skin."""
    ball = sphere(np.full(3, 0.4))
    bulge = 1 + 0.3 * np.sin(4 * ball.vertices[:, :1] / 0.4) * np.cos(3 * ball.vertices[:, 2:] / 0.4)
    return replace(ball, vertices=ball.vertices * bulge, faces=ball.faces[5:])


@pytest.mark.parametrize("largest", [0.01, 0.08])
def test_wild_masks_bend_a_mesh_within_bounds_and_without_folds(largest: float) -> None:
    start = sphere(np.full(3, 0.4))
    start = replace(start, faces=start.faces[4:])
    config = replace(QUICK, largest=largest, first_sigma=0.5, last_sigma=0.5, bending=1e-9, stretching=0.0)
    fit = fitted_to_outlines(start, masks_of(lumpy(), ring()), ring(), config)
    assert fit.largest_displacement <= largest * (1 + 1e-9)
    assert fit.largest_displacement > 0.9 * largest  # the masks do ask for more
    assert np.array_equal(fit.mesh.faces, start.faces)
    assert len(boundary_loops(fit.mesh.faces)) == len(boundary_loops(start.faces))
    turned = (face_normals(fit.mesh.vertices, start.faces) * face_normals(start.vertices, start.faces)).sum(axis=1)
    assert turned.min() > 0
    everywhere = np.random.default_rng(0).uniform(-0.45, 0.45, (5000, 3))
    assert np.linalg.det(np.eye(3) + gradients(fit.warp, everywhere)).min() > 0
    assert fit.silhouette_iou_after.mean() > fit.silhouette_iou_before.mean()


@pytest.mark.parametrize("wrong", ["disc", "half", "shifted"])
def test_one_wrong_mask_of_six_does_not_spoil_the_others(wrong: str) -> None:
    start, masks = sphere(np.full(3, 0.4)), masks_of(sphere(AXES, 5), ring())
    right = fitted_ellipsoid()
    y, x = np.indices((SIDE, SIDE))
    other = {
        "disc": (x - 100) ** 2 + (y - 130) ** 2 < 50**2,
        "half": masks[4] & (x < 120),
        "shifted": np.roll(masks[4], 9, axis=1),
    }[wrong]
    fit = fitted_to_outlines(start, [*masks[:4], other, masks[5]], ring(), QUICK)
    others = np.arange(6) != 4
    loss = overlap(right.mesh, masks, ring()) - overlap(fit.mesh, masks, ring())
    assert loss[others].max() <= 0.01


@pytest.mark.parametrize(("turn", "apart"), [((0, 0, 90.0), 1e-6), ((50.0, 20.0, 70.0), 0.005)])
def test_a_turned_world_gives_the_turned_mesh(turn: tuple[float, float, float], apart: float) -> None:
    """By quarter turns to rounding; else the lattice lies differently in the object: within a pixel."""
    new_from_old = np.eye(4)
    new_from_old[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    start = sphere(np.full(3, 0.4))
    views = [replace(view, camera_from_world=view.camera_from_world @ new_from_old.T) for view in ring()]
    turned = replace(start, vertices=start.vertices @ new_from_old[:3, :3].T)
    fit = fitted_to_outlines(turned, masks_of(sphere(AXES, 5), ring()), views, QUICK)
    wanted = fitted_ellipsoid().mesh.vertices @ new_from_old[:3, :3].T
    assert np.linalg.norm(fit.mesh.vertices - wanted, axis=1).max() < apart


def test_one_view_moves_nothing_along_its_rays() -> None:
    """Seen from the front alone the sphere grows sideways; its depth stays, but for the slant of the rays."""
    front, start = [camera(0.0, 0.0)], sphere(np.full(3, 0.4))
    fit = fitted_to_outlines(start, masks_of(sphere(AXES, 5), front), front, QUICK)
    assert fit.silhouette_iou_after[0] > 0.98
    moved = np.abs(fit.mesh.vertices - start.vertices)
    assert moved[:, 1].max() < 0.25 * moved[:, 0].max()


def test_the_edge_of_a_photo_is_no_outline() -> None:
    """The photo shows the left half only, and the mesh stands too far to the right: all of it moves, also where the photo ends."""
    left = [replace(camera(0.0, 0.0), width=120)]
    right = sphere(AXES)
    right = replace(right, vertices=right.vertices + np.array([0.04, 0, 0]))
    fit = fitted_to_outlines(right, masks_of(sphere(AXES), left), left, QUICK)
    assert fit.silhouette_iou_after[0] > 0.97
    moved = fit.mesh.vertices - right.vertices
    edge = np.linalg.norm(right.vertices - np.array([0.0, -0.368, 0.0]), axis=1) < 0.1  # the middle of the front
    assert moved[edge, 0].mean() < -0.005  # a quarter of the way: no outline is near; were the edge one, it would hold


def test_an_outline_lies_between_pixels_and_looks_outward() -> (
    None
):  # closed form: a disc of radius 30.3 around (50.2, 49.6)
    y, x = np.indices((100, 100)) + 0.5
    line = outline((x - 50.2) ** 2 + (y - 49.6) ** 2 < 30.3**2, np.ones((100, 100), bool))
    away = line.points - [50.2, 49.6]
    radius = np.linalg.norm(away, axis=1)
    assert abs(radius.mean() - 30.3) < 0.1
    assert np.abs(radius - 30.3).max() < 0.5  # the stairs of single pixels
    assert ((away / radius[:, None]) * line.normals).sum(axis=1).min() > 0.97


def test_a_thin_face_that_turned_over_lies_flat_again() -> None:
    """Two faces along a line that was bent downward: the flat one turned over; the copy of its tip goes along."""
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0.5, 1e-4, 0], [0.5, 1e-4, 0], [0.2, 1, 0]])
    faces = np.array([[0, 1, 2], [0, 3, 4]])
    start = Mesh(corners, faces)
    bent = replace(
        start, vertices=corners + np.array([[0.0, 0.1, 0], [0, 0.3, 0], [0, 0.1, 0], [0, 0.1, 0], [0, 0, 0]])
    )
    assert face_normals(bent.vertices, faces)[0, 2] < 0
    mended = without_turned_faces(start, bent)
    assert (face_normals(mended.vertices, faces)[:, 2] > 0).all()
    np.testing.assert_allclose(mended.vertices[2:4], [[0.5, 0.2 + 1e-4, 0]] * 2, atol=1e-12)
    np.testing.assert_array_equal(mended.vertices[[0, 1, 4]], bent.vertices[[0, 1, 4]])


def test_what_cannot_be_fitted_is_refused() -> None:
    mesh, views = sphere(AXES, 2), ring()
    masks = masks_of(mesh, views)
    with pytest.raises(InvalidOption, match="at least one mask"):
        fitted_to_outlines(mesh, [], [])
    with pytest.raises(InvalidOption, match="5 masks and 6 cameras"):
        fitted_to_outlines(mesh, masks[:5], views)
    with pytest.raises(InvalidOption, match="mask 1 is empty"):
        fitted_to_outlines(mesh, [masks[0], np.zeros_like(masks[0])], views[:2])
    with pytest.raises(InvalidOption, match="240 x 120 pixels and its camera 240 x 240"):
        fitted_to_outlines(mesh, [masks[0][:120]], views[:1])
    with pytest.raises(InvalidOption, match="no triangles"):
        fitted_to_outlines(replace(mesh, faces=mesh.faces[:0]), masks, views)
    with pytest.raises(InvalidOption, match="double"):
        fitted_to_outlines(mesh, masks, views, OutlineFit(cells=(6, 10), rounds=(1, 1)))
