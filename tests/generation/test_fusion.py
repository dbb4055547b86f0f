import pytest
import torch

from mvsam3d.generation.fusion import fuse, fused
from mvsam3d.generation.guidance import Guidance, guided
from mvsam3d.generation.latents import PUBLIC_NAMES, Velocity
from mvsam3d.generation.solver import solve
from mvsam3d.generation.weighting import ByEntropy, Evidence, mean_weights, view_weights
from mvsam3d.types import StructureLatents
from tests.generation.test_solver import noise
from tests.parity import Fixture, fixture


@pytest.mark.parametrize("views", [1, 2, 7])  # law: copies of one view fuse to that view
def test_copies_of_a_view_change_nothing(views: int) -> None:
    x, times = torch.randn(5, 3), [0.0, 0.25, 0.5, 1.0]
    weights = view_weights(Evidence(torch.rand(views, 5)), ByEntropy())
    field: Velocity[torch.Tensor] = lambda x, t: t - x  # noqa: E731 - a velocity in one line
    many, one = solve(fused([field] * views, weights), x, times), solve(field, x, times)
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-6)  # rounding of a few float32 products


def test_pose_follows_view_0() -> None:
    first, second = noise(0), noise(1)
    both = fuse([first, second], torch.tensor([[0.25], [0.75]]))
    assert torch.equal(both.rotation_6d, first.rotation_6d)
    assert torch.equal(both.translation, first.translation)
    torch.testing.assert_close(both.shape, 0.25 * first.shape + 0.75 * second.shape)


def test_weights_of_another_length_are_our_slip() -> None:
    with pytest.raises(AssertionError, match="4 weights for 5 latents"):
        fuse([torch.randn(5, 3), torch.randn(5, 3)], torch.full((2, 4), 0.5))


def recorded_views(f: Fixture) -> list[StructureLatents]:
    return [
        StructureLatents(**{ours: f.inputs[f"view{v}/{public}"][None] for public, ours in PUBLIC_NAMES.items()})
        for v in range(f.meta["config"]["num_views"])
    ]


def test_recorded_fusion() -> None:
    f = fixture("multiview", "velocity_fusion")
    views = recorded_views(f)
    cases = {
        "average": mean_weights(len(views)),
        "per_view": f.inputs["weights_view"][:, None],
        "per_latent": f.inputs["weights_latent"],
    }
    for name, weights in cases.items():
        result = fuse(views, weights)
        for public, ours in PUBLIC_NAMES.items():
            f.check(f"{name}/{public}", getattr(result, ours)[0])
    shapes = [view.shape[0] for view in views]
    f.check("sparse_3d", fuse(shapes, f.inputs["weights_latent"]))
    # sparse_mismatch_fallback: what the original does silently for a wrong length; here an error, so only its value
    f.check("sparse_mismatch_fallback", fuse(shapes, mean_weights(len(views))))


def test_recorded_guidance_before_and_after_fusion() -> None:
    f = fixture("multiview", "velocity_fusion")
    shapes = [view.shape[0] for view in recorded_views(f)]
    weights, how = f.inputs["weights_latent"], Guidance(f.meta["config"]["cfg_strength"])
    fields: list[Velocity[torch.Tensor]] = [lambda x, t, value=value: value for value in shapes]

    def unconditional(x: torch.Tensor, t: float) -> torch.Tensor:
        return f.inputs["uncond_shape"]

    before = fused([guided(field, unconditional, how) for field in fields], weights)
    after = guided(fused(fields, weights), unconditional, how)
    f.check("guided_then_fused", before(shapes[0], 0.1))
    f.check("fused_then_guided", after(shapes[0], 0.1))
