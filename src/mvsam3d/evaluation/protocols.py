"""Named ways to judge: which photos go in, how the answer is aligned, what is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mvsam3d.evaluation.alignment import Alignment, Rule
from mvsam3d.evaluation.rigs import RandomSphere, Rig, Ring
from mvsam3d.evaluation.subjects import Answer, Capture, Subject


@dataclass(frozen=True)
class Normalisation:
    """The frame in which lengths are measured: the box's middle at the origin, its longest side `side`."""

    by: Literal["truth", "each"] = "truth"  # each: the answer by its own box, which hides errors of scale
    side: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """One way to judge."""

    name: str
    inputs: Rig
    tests: Rig
    size: int = 256
    rule: Rule = "icp-24"
    normalisation: Normalisation = field(default_factory=Normalisation)
    samples: int = 30_000
    thresholds: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """What was measured, what could not be and why, and how the answer was laid over the truth."""

    metrics: dict[str, float]
    missing: dict[str, str]
    alignment: Alignment | None  # None: none could be found, `missing` says why


DEFAULT = Protocol("default", Ring(), RandomSphere())
PROTOCOLS = {protocol.name: protocol for protocol in (DEFAULT,)}


def input_rig(protocol: Protocol, views: int) -> Rig:
    """The protocol's input cameras for so many views."""
    raise NotImplementedError


def judged(
    answer: Answer, subject: Subject, inputs: Capture, tests: Capture, protocol: Protocol, noise: np.random.Generator
) -> Judgement:
    """Measure an answer.

    Args:
        inputs: the photos the answer was made from.
        tests: photos kept back.
    """
    raise NotImplementedError


def floor(subject: Subject, protocol: Protocol, noise: np.random.Generator) -> Judgement:
    """The truth against itself, sampled again: no answer can be expected to do better."""
    raise NotImplementedError
