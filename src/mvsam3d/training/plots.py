"""A picture of a run's curves."""

from __future__ import annotations

import json
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def plot_metrics(folder: Path) -> None:
    """Draw `metrics.jsonl` into `losses.png`: the loss and its parts on the left, measures on the right.

    Without matplotlib (extra `train`) the metrics file is all there is, and the log says so.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning('no plot of the losses: pip install "mvsam3d[train]" for matplotlib')
        return
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    measured = [row for row in rows if "loss" not in row]
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, part, title in zip(figure.subplots(1, 2), (losses, measured), ("training", "held out"), strict=True):
        names = [name for name in (part[0] if part else {}) if name not in ("step", "seconds", "lr", "norm")]
        for name in names:
            axes.plot(
                [row["step"] for row in part if name in row], [row[name] for row in part if name in row], label=name
            )
        axes.set(xlabel="step", title=title)
        if names:
            axes.legend(fontsize="small")
    figure.savefig(folder / "losses.png", dpi=110)
