"""Where the photos of a rendered object are taken from, and the photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvsam3d.evaluation.subjects import Capture, Subject


@dataclass(frozen=True)
class Ring:
    """Cameras around the object at one height, evenly spread; the first of 4 is the first of 1."""

    views: int = 4
    elevation: float = 20.0  # degrees
    azimuth: float = 30.0  # degrees, of the first: 0 looks at the front from -Y, 90 at the +X side
    distance: float = 2.5  # from the middle of the box, in its longest sides
    field_of_view: float = 40.0  # degrees


@dataclass(frozen=True)
class RandomSphere:
    """Cameras at random directions, uniform over a belt of the sphere."""

    views: int = 8
    seed: int = 0
    lowest: float = -20.0  # degrees of elevation
    highest: float = 70.0
    distance: float = 2.5  # longest sides
    field_of_view: float = 40.0


@dataclass(frozen=True)
class EscherNetGso:
    """Views `first` to `first + views` of 25 at random directions and distances, in the style of EscherNet's renders of GSO."""

    views: int = 5
    first: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Trajectory:
    """A hand that walks around the object: a spiral from `lowest` to `highest`."""

    views: int = 8
    turns: float = 1.0
    lowest: float = 5.0
    highest: float = 45.0
    azimuth: float = 30.0
    distance: float = 2.5
    field_of_view: float = 40.0


Rig = Ring | RandomSphere | EscherNetGso | Trajectory


def captured(subject: Subject, rig: Rig, size: int, cache: Path | None = None) -> Capture:
    """Photos of a true object, `size` pixels a side, on white.

    Args:
        cache: folder for the pictures; they are found again by a hash of the object, the rig and the size.
    """
    raise NotImplementedError
