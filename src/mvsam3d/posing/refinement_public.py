"""The public system's refinement of a pose, for comparison only: ours is `pose_refinement`.

One-sided distance, no check against the start, Adam on a raw quaternion. Source: MV-SAM3D, PoseOptimizer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvsam3d.generation.pose import placed
from mvsam3d.geometry.frames import camera_from_p3d, object_from_glb
from mvsam3d.geometry.transforms import transformed
from mvsam3d.types import Pose

REGULARISER = 1e-3
NEAR = 0.01  # initial distance below which all rates are halved
HALVED_EVERY = 100  # iterations
PATIENCE = 50  # iterations without a lower distance


@dataclass(frozen=True)
class PublicRefinement:
    """What the public system returns; the histories are measured before each step."""

    pose: Pose
    loss_history: Float[Tensor, " step"]
    distance_history: Float[Tensor, " step"]
    scale_history: Float[Tensor, " step"]


def public_placed(
    pose: Pose, vertices_glb: Float[Tensor, "vertex 3"], scene_from_camera: Float[Tensor, "4 4"]
) -> Float[Tensor, "vertex 3"]:
    """Vertices of `result.glb` in the scene. The public system gives its scene_from_world here: right only if the world is view 0."""
    return transformed(scene_from_camera, camera_from_p3d(placed(pose, object_from_glb(vertices_glb))))


def public_distance(points: Float[Tensor, "point 3"], vertices: Float[Tensor, "vertex 3"]) -> Float[Tensor, ""]:
    """Mean over the measured points of the distance to the nearest vertex."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, vertices, compute_mode=exact).amin(dim=1).mean()


def public_refinement(
    pose: Pose,
    vertices_glb: Float[Tensor, "vertex 3"],
    points_scene: Float[Tensor, "point 3"],
    scene_from_camera: Float[Tensor, "4 4"],
    *,
    iterations: int = 300,
    lr: float = 0.01,
    optimise_scale: bool = False,
) -> PublicRefinement:
    """As the public system does it, faults included: the snapshot of the best round is taken after its step, and used only if 50
    rounds in a row bring nothing."""
    rotation = pose.rotation.clone().requires_grad_()
    translation = pose.translation.clone().requires_grad_()
    log_scale = pose.scale[:1].log().requires_grad_(optimise_scale)
    variables = [rotation, translation, log_scale] if optimise_scale else [rotation, translation]
    starts = [variable.detach().clone() for variable in variables]

    def current() -> Pose:
        return Pose(rotation, translation, log_scale.exp().expand(3))

    with torch.no_grad():
        start = float(public_distance(points_scene, public_placed(pose, vertices_glb, scene_from_camera)))
    rate = lr * (0.5 if start < NEAR else 1.0)
    rates = zip(variables, (rate, 5 * rate, 10 * rate), strict=False)
    optimiser = torch.optim.Adam([{"params": [variable], "lr": own} for variable, own in rates])
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, HALVED_EVERY, 0.5)
    history: list[tuple[float, float, float]] = []
    best, waited, snapshot = torch.inf, 0, starts
    for _ in range(iterations):
        optimiser.zero_grad()
        distance = public_distance(points_scene, public_placed(current(), vertices_glb, scene_from_camera))
        strayed = sum(((now - then) ** 2).sum() for now, then in zip(variables, starts, strict=True))
        loss = distance + REGULARISER * strayed
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        history.append((loss.item(), distance.item(), log_scale.exp().item()))
        waited = 0 if distance.item() < best else waited + 1
        if waited == 0:
            best, snapshot = distance.item(), [variable.detach().clone() for variable in variables]
        if waited >= PATIENCE:
            with torch.no_grad():
                for variable, kept in zip(variables, snapshot, strict=True):
                    variable.copy_(kept)
            break
    result = current()
    unit = torch.nn.functional.normalize(result.rotation.detach(), dim=0)
    losses, distances, scales = torch.tensor(history).T
    return PublicRefinement(Pose(unit, result.translation.detach(), result.scale.detach()), losses, distances, scales)
