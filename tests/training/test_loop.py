"""The loop on a problem with a known answer; resuming; the optimiser."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvsam3d.training.loop import LoopConfig, learning_rate, train
from mvsam3d.training.muon import Muon, orthogonalised

CONFIG = LoopConfig(steps=12, batch=8, lr=0.05, warmup=1, decay=0.5, ema=0.5, evaluate_every=0, weight_decay=0.0)


class Line:
    """Fit y = A x with a noisy batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.networks: nn.Module = nn.Sequential(nn.ModuleDict({"blocks": nn.Linear(3, 2)})["blocks"])
        self.truth = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0]])

    def draw(self, size: int, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.normal(size=(size, 3))).float()

    def loss(self, batch: Tensor, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        jitter = 1e-3 * torch.randn(len(batch), 2, generator=noise)
        error = (self.networks(batch) - batch @ self.truth.T + jitter).square().mean()
        return error, {"error": error}

    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        return {"distance": float((networks[0].weight - self.truth).abs().max())}  # type: ignore[index, operator]


def weights(run: object) -> list[Tensor]:
    return [p.detach().clone() for p in run.averaged.parameters()]  # type: ignore[attr-defined]


def test_resuming_gives_the_bits_of_an_unbroken_run(tmp_path: Path) -> None:
    whole = train(Line(), CONFIG, tmp_path / "whole")
    calls = 0

    class Impatient(Line):
        def loss(self, batch: Tensor, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            nonlocal calls
            calls += 1
            return super().loss(batch, noise)

    train(Impatient(), LoopConfig(**{**vars(CONFIG), "steps": 5, "decay": 0.0}), tmp_path / "parts")
    # the first slice ran without decay: give the same learning rates to the unbroken twin
    twin = train(Line(), LoopConfig(**{**vars(CONFIG), "steps": 5, "decay": 0.0}), tmp_path / "twin")
    resumed, straight = (train(Line(), CONFIG, tmp_path / name) for name in ("parts", "twin"))
    assert calls == 5
    assert resumed.step == whole.step == straight.step == twin.step + 7
    for a, b in zip(weights(resumed), weights(straight), strict=True):
        assert torch.equal(a, b)


def test_a_slice_of_no_time_changes_nothing_but_saves(tmp_path: Path) -> None:
    run = train(Line(), CONFIG, tmp_path, minutes=0.0)
    assert run.step == 0
    assert (tmp_path / "state.pt").exists()


def test_it_finds_the_answer(tmp_path: Path) -> None:
    run = train(Line(), LoopConfig(**{**vars(CONFIG), "steps": 300}), tmp_path)
    assert Line().evaluate(run.averaged)["distance"] < 0.01  # noise of 1e-3, learning rate down to 0


@pytest.mark.parametrize(("step", "share"), [(0, 0.25), (3, 1.0), (8, 1.0), (10, 1.0), (15, 0.5), (20, 0.0)])
def test_learning_rate(step: int, share: float) -> None:  # closed form: warm-up of 4, constant, linear from 10 to 20
    config = LoopConfig(steps=20, warmup=4, decay=0.5, lr=2.0)
    assert learning_rate(step, config) == pytest.approx(2.0 * share)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_orthogonalised_has_singular_values_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(matrix, steps=8))
    assert float(values.min()) > 0.6  # the polynomial keeps them within 0.7 to 1.2 rather than at 1
    assert float(values.max()) < 1.3


def test_muon_steps_along_the_singular_vectors_of_the_gradient() -> None:
    weight = nn.Parameter(torch.zeros(3, 3))
    optimiser = Muon([weight], lr=1.0)
    weight.grad = torch.diag(torch.tensor([3.0, 1.0, -2.0]))
    optimiser.step()
    off = weight.detach() - torch.diag(torch.diag(weight.detach()))
    assert torch.equal(off, torch.zeros(3, 3))
    assert (torch.sign(torch.diag(weight.detach())) == torch.tensor([-1.0, -1.0, 1.0])).all()
