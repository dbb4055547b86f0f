import pytest
import torch
from torch import Tensor

from mvsam3d.generation.latents import PUBLIC_NAMES, PerLatent
from mvsam3d.nn.sparse import SparseGrid
from mvsam3d.training.flow_losses import (
    ShortcutConfig,
    ShortcutDraws,
    ShortcutLoss,
    between,
    consistency_target,
    draw_shortcut,
    flow_matching_loss,
    line_velocity,
    lognormal_times,
    shortcut_loss,
    squared_error,
)
from mvsam3d.types import StructureLatents
from tests.generation.networks import PREFIX, backbone_weights, slat_flow, slat_step_network
from tests.generation.plain_structure_flow import PlainStructureFlow
from tests.generation.test_solver import noise
from tests.parity import fixture

T = torch.tensor([0.0, 0.25, 1.0])


def draws(d: Tensor, guided: bool = False) -> ShortcutDraws:
    return ShortcutDraws(T, d, torch.full((3,), guided), with_condition=True)


def test_line_from_noise_to_data() -> None:
    x0, x1 = noise(0, batch=3), noise(1, batch=3)
    x_t = between(x0, x1, T)
    assert torch.equal(x_t.shape[0], x0.shape[0])
    assert torch.equal(x_t.scale[2], x1.scale[2])
    torch.testing.assert_close(x_t.shape[1], 0.75 * x0.shape[1] + 0.25 * x1.shape[1])


def test_error_weighs_latents() -> None:  # closed form: every difference is 1, so the weights add up
    x = noise(0, batch=3)
    ones = line_velocity(x, between(x, x, T))
    shifted = type(x)(**{name: value + 1 for name, value in vars(ones).items()})
    weights = PerLatent(shape=1.0, rotation_6d=0.1, translation=2.0, scale=0.5, translation_scale=0.0)
    torch.testing.assert_close(squared_error(shifted, ones, weights), torch.tensor(3.6))


def test_the_true_velocity_has_no_loss() -> None:
    x0, x1 = torch.randn(3, 5, 2), torch.randn(3, 5, 2)
    assert flow_matching_loss(lambda x, t: x1 - x0, x1, x0, T).item() == 0
    assert flow_matching_loss(lambda x, t: x0, x1, x0, T).item() > 0


def test_constant_velocity_is_consistent_and_growth_is_not() -> None:
    x0, x1, d = torch.randn(3, 5, 2), torch.randn(3, 5, 2), torch.full((3,), 0.125)
    config = ShortcutConfig(weights=1.0, guidance=2.0)
    constant = shortcut_loss(lambda x, t, d, c: x1, x1, x0, draws(d), config)
    assert constant.total.item() == pytest.approx(0, abs=1e-12)
    # v(x) = x: two steps give x and x + d x, their mean is (1 + d / 2) x
    target = consistency_target(lambda x, t, d, c: x, x0, draws(d), 2.0)
    torch.testing.assert_close(target, (1 + 0.125 / 2) * x0)


def test_network_is_asked_for_twice_the_step() -> None:
    asked: list[float] = []

    def network(x: Tensor, t: Tensor, d: Tensor, with_condition: bool) -> Tensor:
        asked.append(d[0].item())
        return x

    x = torch.randn(3, 5, 2)
    shortcut_loss(network, x, x, draws(torch.full((3,), 0.25)), ShortcutConfig(weights=1.0, guidance=2.0))
    assert asked == [0.5, 0.25, 0.25]


def test_no_gradient_through_targets() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    x = torch.randn(3, 5, 2)
    loss = shortcut_loss(
        lambda x, t, d, c: w * x, x, x, draws(torch.full((3,), 0.5)), ShortcutConfig(weights=1.0, guidance=2.0)
    )
    loss.total.backward()
    # target = (w + w (1 + d w)) / 2 x with w = 2: only the prediction w x moves
    expected = 2 * (2 - 3.0) * x.square().mean()
    torch.testing.assert_close(w.grad, expected, rtol=1e-4, atol=1e-5)


def test_draws_follow_their_chances() -> None:
    generator = torch.Generator().manual_seed(0)
    many = [draw_shortcut(4, ShortcutConfig(), generator) for _ in range(2000)]
    consistent = [one for one in many if one.d.any()]
    # shares of 2000 coins: three standard deviations are about 0.03
    assert len(consistent) / len(many) == pytest.approx(0.25, abs=0.03)
    assert sum(bool(one.guided.all()) for one in many) / len(many) == pytest.approx(0.25, abs=0.03)
    assert sum(not one.with_condition for one in many) / len(many) == pytest.approx(0.1, abs=0.03)
    assert {float(d) for one in consistent for d in one.d} == {2.0**-k for k in range(8)}


def test_lognormal_times() -> None:  # the median of sigmoid(N(-1, 1)) is sigmoid(-1) = 0.269
    t = lognormal_times(20000, torch.Generator().manual_seed(0))
    assert t.median().item() == pytest.approx(0.2689, abs=0.01)
    assert t.min() > 0
    assert t.max() < 1


def test_recorded_stage2_loss() -> None:
    f = fixture("stage2", "slat_flow_matching_loss")
    network = slat_step_network(slat_flow(f), SparseGrid(f.inputs["coords"]), f.inputs["cond"])
    noise_, data, t = f.inputs["noise"], f.inputs["x1"], f.inputs["t"]
    f.check("x_t", between(noise_, data, t))
    f.check("target", line_velocity(noise_, data))
    f.check("loss", flow_matching_loss(network, data, noise_, t)[None])


class Recorded:
    """The inputs of the recorded ShortCut loss, and its network in our order of arguments."""

    def __init__(self) -> None:
        self.f = fixture("stage1", "shortcut_loss")
        config = self.f.meta["config"]
        backbone = config["reverse_fn"]["backbone"]
        self.weights = {key: value.requires_grad_() for key, value in backbone_weights(self.f).items()}
        self.network = PlainStructureFlow(self.weights, backbone["num_heads"], backbone["num_blocks"])
        self.tokens, self.t, self.d = self.f.inputs["cond"], self.f.inputs["t"], self.f.inputs["d"]
        self.x0, self.x1 = (
            StructureLatents(**{ours: self.f.inputs[f"{x}/{public}"] for public, ours in PUBLIC_NAMES.items()})
            for x in ("x0", "x1")
        )
        strength = float(config["self_consistency_cfg_strength"])
        self.config = ShortcutConfig(
            weights=PerLatent(**{ours: float(config["loss_weights"][name]) for name, ours in PUBLIC_NAMES.items()}),
            consistency_weight=float(config["shortcut_loss_weight"]),
            guidance=PerLatent(
                **{ours: strength * (name in config["cfg_modalities"]) for name, ours in PUBLIC_NAMES.items()}
            ),
        )

    def __call__(self, x: StructureLatents, t: Tensor, d: Tensor, with_condition: bool) -> StructureLatents:
        tokens = self.tokens[: len(t)]
        return self.network(x, 1000 * t, 1000 * d, tokens if with_condition else 0 * tokens)

    def draws(self, *, consistency: bool, guided: bool = False, with_condition: bool = True) -> ShortcutDraws:
        d = self.d if consistency else torch.zeros_like(self.d)
        return ShortcutDraws(self.t, d, torch.full(self.t.shape, guided), with_condition)

    def loss(self, draws: ShortcutDraws) -> ShortcutLoss:
        return shortcut_loss(self, self.x1, self.x0, draws, self.config)

    def check(self, name: str, latents: StructureLatents) -> None:
        for public, ours in PUBLIC_NAMES.items():
            self.f.check(f"{name}/{public}", getattr(latents, ours))

    def check_gradients(self, name: str, loss: Tensor) -> None:
        prefix = f"{name}/{PREFIX}"
        keys = [key.removeprefix(prefix) for key in self.f.outputs if key.startswith(prefix)]
        gradients = torch.autograd.grad(loss, [self.weights[key] for key in keys])
        for key, gradient in zip(keys, gradients, strict=True):
            self.f.check(prefix + key, gradient)


def test_recorded_flow_matching() -> None:
    recorded = Recorded()
    loss = recorded.loss(recorded.draws(consistency=False))
    recorded.check("x_t", between(recorded.x0, recorded.x1, recorded.t))
    recorded.check("fm_target", line_velocity(recorded.x0, recorded.x1))
    recorded.f.check("fm_total", loss.total)
    recorded.f.check("fm_flow", loss.flow)
    recorded.f.check("fm_sc", loss.consistency)
    recorded.check_gradients("fm_grad", loss.total)
    unconditional = recorded.loss(recorded.draws(consistency=False, with_condition=False))
    recorded.f.check("fm_total_unconditional", unconditional.total)


@pytest.mark.parametrize(("name", "guided"), [("sc_cond", False), ("sc_cfg", True)])
def test_recorded_self_consistency(name: str, guided: bool) -> None:
    recorded = Recorded()
    draws = recorded.draws(consistency=True, guided=guided)
    x_t = between(recorded.x0, recorded.x1, recorded.t)
    recorded.check(f"{name}_target", consistency_target(recorded, x_t, draws, recorded.config.guidance))
    loss = recorded.loss(draws)
    recorded.f.check(f"{name}_total", loss.total)
    recorded.f.check(f"{name}_loss", loss.consistency)
    recorded.check_gradients(f"{name}_grad", loss.total)


def test_recorded_target_of_a_mixed_batch() -> None:  # batch_mode false: the first sample is guided, in all its latents
    recorded = Recorded()
    strength = float(recorded.f.meta["config"]["self_consistency_cfg_strength"])
    x_t = between(recorded.x0, recorded.x1, recorded.t)
    first_two = StructureLatents(**{name: latent[:2] for name, latent in vars(x_t).items()})
    draws = ShortcutDraws(recorded.t[:2], recorded.d[:2], torch.tensor([True, False]), with_condition=True)
    recorded.check("sc_mixed_target", consistency_target(recorded, first_two, draws, strength))


def test_parts_of_a_mixed_batch_are_means_over_their_own_samples() -> None:
    recorded = Recorded()
    d = recorded.d.clone()
    d[0] = 0.0
    guided = torch.zeros(len(d), dtype=torch.bool)
    mixed = recorded.loss(ShortcutDraws(recorded.t, d, guided, with_condition=True))
    recorded.tokens, recorded.t = recorded.tokens[:1], recorded.t[:1]
    recorded.x0, recorded.x1 = (
        StructureLatents(**{name: latent[:1] for name, latent in vars(x).items()}) for x in (recorded.x0, recorded.x1)
    )
    alone = recorded.loss(ShortcutDraws(recorded.t, d[:1], guided[:1], with_condition=True))
    torch.testing.assert_close(mixed.flow, alone.flow)
    assert mixed.consistency > 0
