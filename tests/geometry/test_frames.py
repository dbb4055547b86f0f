import numpy as np
import torch

from mvsam3d.geometry.frames import camera_from_p3d, glb_from_object, object_from_glb, p3d_from_camera
from tests.parity import fixture


def test_axes_by_name() -> None:  # closed form: "up" of the object is +z, of a GLB +y; "right" of a photo is -x in p3d
    np.testing.assert_array_equal(glb_from_object(np.array([0.0, 0, 1])), [0, 1, 0])
    np.testing.assert_array_equal(p3d_from_camera(np.array([1.0, 0, 0])), [-1, 0, 0])
    np.testing.assert_array_equal(p3d_from_camera(np.array([0.0, 1, 0])), [0, -1, 0])


def test_maps_are_inverse_and_right_handed() -> None:
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_array_equal(object_from_glb(glb_from_object(points)), points)
    np.testing.assert_array_equal(camera_from_p3d(p3d_from_camera(points)), points)
    for change in (glb_from_object, object_from_glb, p3d_from_camera, camera_from_p3d):
        assert np.linalg.det(change(np.eye(3))) == 1


def test_arrays_and_tensors_agree() -> None:
    points = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(glb_from_object(torch.from_numpy(points)).numpy(), glb_from_object(points))


def test_recorded_maps() -> None:
    f = fixture("multiview", "coordinate_transforms")
    points = f.inputs["points"]
    # The public names: its "pytorch3d" beside "canonical" is the GLB's opposite turn.
    f.check("canonical_to_pytorch3d", object_from_glb(points))
    f.check("pytorch3d_to_canonical", glb_from_object(points))
    f.check("roundtrip_canonical", glb_from_object(object_from_glb(points)))
    f.check("pytorch3d_to_opencv", camera_from_p3d(points))
    f.check("opencv_to_pytorch3d", p3d_from_camera(points))
    f.check("roundtrip_opencv", camera_from_p3d(p3d_from_camera(points)))
