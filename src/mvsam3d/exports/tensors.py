"""Plain tensors, numbers and names -> a file that torch.load(path, weights_only=True) reads."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch

from mvsam3d.io.runs import write_whole


def write_tensors(path: Path, content: Mapping[str, object]) -> None:
    """Write a dict, whole or not at all; the bytes depend on the content alone, not on the file's name."""
    file = BytesIO()
    torch.save(dict(content), file)
    write_whole(path, file.getvalue())
