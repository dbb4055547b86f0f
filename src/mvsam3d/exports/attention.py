"""Attention maps -> files, for `--save_attention`: attention/{ss,slat}/layer_LL/stepSSS_viewVV_idxIII.pt.

Labels count evaluations of the network: those of step 0, at the noise, are stored and labelled 0. A map is the softmax
over all condition tokens, averaged over the heads; by default only its part at the patches of the view's own cropped
photo is kept, so its rows sum to less than 1.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvsam3d.errors import InvalidOption
from mvsam3d.exports.tensors import write_tensors
from mvsam3d.io.runs import RunFolder

Stage = Literal["structure", "slat"]

FOLDERS: dict[Stage, str] = {"structure": "ss", "slat": "slat"}
LATENTS: dict[Stage, str] = {"structure": "shape", "slat": "slat"}
KEPT = torch.float16
BYTES = 2  # of a number of KEPT
FILE_BYTES = 3072  # of a file beside its map: at most, coordinates apart


def parse_layers(text: str | None, blocks: int, default: int) -> tuple[int, ...]:
    """Blocks of `--attention_layers`, each once, in the order given; the default is always among them.

    Args:
        text: numbers with commas, negative ones count from the end; None is the default alone.
        blocks: how many the network has.
        default: the block whose attention weighting measures.
    Raises: InvalidOption: no number, or none of the network's blocks.
    """
    assert 0 <= default < blocks, f"block {default} of {blocks}"
    chosen = []
    for part in [] if text is None else text.split(","):
        try:
            number = int(part)
        except ValueError:
            raise InvalidOption(
                f"attention layers {text!r}: {part.strip()!r} is no whole number: give 4,5,-1"
            ) from None
        if not -blocks <= number < blocks:
            raise InvalidOption(
                f"attention layer {number}: the network has {blocks} blocks, so give 0 to {blocks - 1}, or -1 to "
                f"{-blocks} to count from the end"
            )
        chosen.append(number % blocks)
    return tuple(dict.fromkeys([*chosen, default]))


def attention_bytes(stage: Stage, *, latents: int, keys: int, layers: int, steps: int, views: int) -> int:
    """About how much a stage's files will take, to say before the run.

    Args:
        latents: queries, 16 ** 3 in the public stage 1, the tokens of the voxels in stage 2.
        keys: of the region (1369 patches in the public model), or all condition tokens if maps are kept whole.
        layers: how many.
        steps: evaluations of the conditional network for a view, those of a warm-up included.
        views: how many.
    """
    coords = 16 * latents if stage == "slat" else 0  # 4 numbers of 4 bytes
    return layers * steps * views * (BYTES * latents * keys + coords + FILE_BYTES)


class AttentionWriter:
    """Where a recording probe hands its maps. Equal maps give equal files."""

    def __init__(self, folder: RunFolder, views: int, *, region: Literal["photo", "all"] = "photo") -> None:
        """`views`: how many there are. `region`: which keys the maps given to `write` hold; stored as a label."""
        self._folder, self._views, self._region = folder, views, region
        self._written: Counter[tuple[Stage, int]] = Counter()

    @torch.no_grad()
    def write(
        self,
        stage: Stage,
        block: int,
        step: int,
        view: int,
        attention: Float[Tensor, "latent key"],
        coords: Int[Tensor, "latent 3"] | None = None,
    ) -> None:
        """Write one map.

        Args:
            stage: whose network.
            block: number of the block, from 0.
            step: number of the evaluation, from 0.
            view: number of the view, from 0.
            attention: of the conditional branch, mean over the heads.
            coords: cells of the latents, in stage 2.
        """
        assert coords is not None or stage == "structure", "maps of stage 2 come with their cells"
        index = self._written[stage, block]
        self._written[stage, block] += 1
        content: dict[str, object] = {
            "stage": FOLDERS[stage],
            "layer": block,
            "step": step,
            "view": view,
            "branch": "cond",
            "latent_name": LATENTS[stage],
            "num_views": self._views,
            "attention": attention.detach().to("cpu", KEPT).clone()[None],
            "reduced_heads": True,
            "keys": "patches of the view's cropped photo" if self._region == "photo" else "all condition tokens",
        }
        if coords is not None:
            cells = coords.detach().cpu().int()
            content["coords"] = torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1)  # batch, x, y, z
        name = f"attention/{FOLDERS[stage]}/layer_{block:02d}/step{step:03d}_view{view:02d}_idx{index:03d}.pt"
        write_tensors(self._folder.path(name), content)
