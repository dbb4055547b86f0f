"""How an answer is laid over the truth before it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Rule = Literal["none", "icp-4", "icp-24", "true pose"]


@dataclass(frozen=True)
class Alignment:
    """A similarity, how well it fits, and how it was found."""

    truth_from_answer: Float[np.ndarray, "4 4"]
    residual: float  # mean distance between nearest points of both surfaces, both ways, in the truth's longest sides
    rule: Rule
