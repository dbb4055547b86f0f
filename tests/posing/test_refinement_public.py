import pytest
import torch

from mvsam3d.posing.refinement_public import public_distance, public_placed, public_refinement
from mvsam3d.types import Pose
from tests.parity import fixture


@pytest.mark.parametrize("kind", ["fixed", "scaled"])
def test_recorded_refinement(kind: str) -> None:
    f = fixture("multiview", "pose_refinement")
    pose = Pose(f.inputs["rotation"], f.inputs["translation"], f.inputs["scale"].expand(3))
    vertices, scene = f.inputs["mesh_vertices"], f.inputs["hf_alignment"]
    f.check("aligned_initial", public_placed(pose, vertices, scene))
    config = f.meta["config"]
    result = public_refinement(
        pose,
        vertices,
        f.inputs["target_points"],
        scene,
        iterations=config["iterations"],
        lr=config["lr"],
        optimise_scale=kind == "scaled",
    )
    f.check(f"{kind}_loss", result.loss_history)
    f.check(f"{kind}_cd", result.distance_history)
    f.check(f"{kind}_scale_hist", result.scale_history)
    f.check(f"{kind}_scale", result.pose.scale)
    f.check(f"{kind}_rotation", result.pose.rotation)
    f.check(f"{kind}_translation", result.pose.translation)


def test_distance_is_one_sided() -> None:  # closed form: (0 + 3) / 2 one way, and a far vertex changes nothing
    points = torch.tensor([[0.0, 0, 0], [3.0, 0, 0]])
    vertices = torch.tensor([[0.0, 0, 0], [0, 0, 100.0]])
    assert float(public_distance(points, vertices)) == 1.5
    assert float(public_distance(points, vertices[:1])) == 1.5
