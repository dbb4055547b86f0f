"""One training loop for every network: seeded, resumable to the step, in slices of minutes, on CPU or CUDA."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from mvsam3d.training.muon import Muon

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class LoopConfig:
    """How to train; what to train is the task."""

    steps: int = 10_000
    """Length of the whole run. The learning rate falls to zero over its last part; may be changed when resuming."""
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 100
    """Steps of linear warm-up."""
    decay: float = 0.3
    """Share of the run, at its end, over which the learning rate falls linearly to zero."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what a run yields; shorter while the run is young."""
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_minutes: float = 4.0
    evaluate_every: int = 500
    """Steps between evaluations of the averaged weights; 0 for only at the end of a slice."""


@runtime_checkable
class Task(Protocol, Generic[Batch]):
    """What a loop needs of the thing it trains. Batches depend on the step alone, so a resumed run sees the same ones."""

    @property
    def networks(self) -> nn.Module:
        """What is trained, averaged and checkpointed."""

    def draw(self, size: int, rng: np.random.Generator) -> Batch:
        """A batch, on the CPU."""

    def loss(self, batch: Batch, noise: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss to minimise, and parts worth recording."""

    def evaluate(self, networks: nn.Module) -> Mapping[str, float]:
        """Measures of the given (averaged) weights on held-out data."""


def learning_rate(step: int, config: LoopConfig) -> float:
    """Warm-up, constant, linear to zero."""
    start = config.steps * (1 - config.decay)
    falling = (config.steps - step) / max(config.steps - start, 1)
    return config.lr * min((step + 1) / max(config.warmup, 1), 1.0, max(falling, 0.0))


def optimisers(networks: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks (orthogonalised momentum, Jordan et al. 2024) and the convolutions of a U-Net's levels, AdamW for
    everything else."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in networks.named_parameters():
        if parameter.requires_grad:
            of_block = parameter.ndim == 2 and "blocks." in name and min(parameter.shape) > 1
            hidden = of_block or (parameter.ndim in (4, 5) and "_levels." in name)
            (matrices if hidden else rest).append(parameter)
    adam = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    if not matrices:
        return [adam]
    return [Muon(matrices, config.lr, weight_decay=config.weight_decay), adam]


@dataclass
class Run:
    """The state of a run: everything that a checkpoint holds."""

    step: int
    seconds: float
    networks: nn.Module
    averaged: nn.Module
    optimisers: list[torch.optim.Optimizer]

    def save(self, path: Path) -> None:
        """Write whole or not at all."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "networks": self.networks.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path, device: str) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, map_location=device, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.networks.load_state_dict(state["networks"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def average(self, decay: float) -> None:
        """Move the averaged weights towards the current ones."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), self.networks.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
            for kept, current in zip(self.averaged.buffers(), self.networks.buffers(), strict=True):
                kept.copy_(current)


Report = Callable[[int, Mapping[str, float]], None]
Saved = Callable[[Run], None]


def train(
    task: Task[Batch],
    config: LoopConfig,
    folder: Path,
    *,
    minutes: float | None = None,
    report: Report | None = None,
    saved: Saved | None = None,
) -> Run:
    """Train until `config.steps` or for `minutes`, from the checkpoint in `folder` if there is one.

    Writes `state.pt` (to resume), `metrics.jsonl` (a line every 10 steps and at each evaluation) to `folder`. `saved` is called after
    each checkpoint, to write what else shall keep up with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task.networks.to(config.device)
    run = Run(0, 0.0, task.networks, deepcopy(task.networks).requires_grad_(False), optimisers(task.networks, config))
    if (folder / "state.pt").exists():
        run.load(folder / "state.pt", config.device)
        log.info("resumed %s at step %d", folder, run.step)
    started, before, kept = time.monotonic(), run.seconds, time.monotonic()

    def save() -> None:
        run.save(folder / "state.pt")
        if saved is not None:
            saved(run)

    with ThreadPoolExecutor(1) as ahead, (folder / "metrics.jsonl").open("a") as metrics:

        def record(values: Mapping[str, float]) -> None:
            metrics.write(json.dumps({"step": run.step, "seconds": round(run.seconds, 1), **values}) + "\n")
            metrics.flush()
            if report is not None:
                report(run.step, values)

        def draw(step: int) -> Batch:
            return task.draw(config.batch, np.random.default_rng([config.seed, step]))

        following = ahead.submit(draw, run.step)
        while run.step < config.steps and (minutes is None or time.monotonic() - started < 60 * minutes):
            batch, following = following.result(), ahead.submit(draw, run.step + 1)
            values = _step(run, task, batch, config)
            run.seconds = before + time.monotonic() - started
            if run.step % 10 == 0:
                record({name: float(value) for name, value in values.items()})
            if config.evaluate_every and run.step % config.evaluate_every == 0:
                record(task.evaluate(run.averaged.eval()))
            if time.monotonic() - kept > 60 * config.checkpoint_minutes:
                save()
                kept = time.monotonic()
        following.cancel()
        record(task.evaluate(run.averaged.eval()))
    save()
    return run


def _step(run: Run, task: Task[Batch], batch: Batch, config: LoopConfig) -> dict[str, Tensor | float]:
    """One update. Noise depends on the seed and the step alone."""
    noise = torch.Generator().manual_seed(config.seed * 1_000_003 + run.step)
    rate = learning_rate(run.step, config)
    for optimiser in run.optimisers:
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = rate
    run.networks.train()
    with torch.autocast(config.device, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        loss, parts = task.loss(batch, noise)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(run.networks.parameters(), config.clip)
    if torch.isfinite(norm):  # a bad batch must not spoil the weights; it shows as a non-finite loss in the metrics
        for optimiser in run.optimisers:
            optimiser.step()
    run.step += 1
    run.average(config.ema)
    return {"loss": loss.detach(), "norm": norm, "lr": rate, **{k: v.detach() for k, v in parts.items()}}
