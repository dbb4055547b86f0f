"""What devices other than a CPU demand, without one: no float64, and no tensor taken to numpy where it is.

Tensors that are made without a device, and what `.cpu()` gives, are on the host; all others, the weights among them, count as on a device.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from mvsam3d.generation.budget import MemoryBudget
from mvsam3d.models import public_config
from mvsam3d.models.checkpoints import open_checkpoint
from mvsam3d.nn.sparse.grid import padded_lengths
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import decoded, occupancy_logits, structure_latents, structured_latents
from mvsam3d.types import Voxels
from tests.models import public_folder

TO_NUMPY = (Tensor.numpy, Tensor.__array__)


class Elsewhere(TorchFunctionMode):
    """Follows which tensors would be on a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        name = getattr(func, "__name__", str(func))
        here = [hasattr(x, "on_host") for x in given]
        like = name == "to" and len(given) > 1
        moves = like or (name == "to" and any(isinstance(x, torch.device) for x in (*args, *kwargs.values())))
        if func in TO_NUMPY:
            assert all(here), f"{name} of a tensor on the device"
        if given:
            host = name == "cpu" or (here[1] if like else all(here) and not moves)
        else:
            host = kwargs.get("device") is None
        made = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        if name == "cpu" or moves:
            made = [x.clone() for x in made]
            (out,) = made
        for x in made:
            if host:
                x.on_host = True
            else:
                assert x.dtype != torch.float64, f"{name} makes float64 on the device"
        return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    public_folder.write_public_folder(path)
    return path


@pytest.mark.parametrize("decoding", [0, 1 << 40])
@torch.no_grad()
def test_a_reconstruction_asks_no_device_for_what_it_has_not(folder: Path, decoding: int) -> None:
    models, side = open_checkpoint(folder).models(paged=False), public_folder.SIDE
    drawn = torch.Generator().manual_seed(0)
    channels = {"image": 3, "rgb_image": 3, "mask": 1, "rgb_image_mask": 1, "pointmap": 3, "rgb_pointmap": 3}
    maps = {name: torch.rand(2, count, side, side, generator=drawn) for name, count in channels.items()}
    config, noise = ReconstructionConfig(structure_steps=2, slat_steps=2), torch.Generator().manual_seed(1)
    with Elsewhere():
        latents = structure_latents(models, maps, config, noise)
        logits = occupancy_logits(models, latents)
        voxels = Voxels((logits > logits.median()).nonzero().int(), len(logits))
        slat = structured_latents(models, maps, voxels, config, noise)
        gaussians, _ = decoded(models, slat, MemoryBudget(decoding=decoding))
    assert not hasattr(latents.shape, "on_host")  # it was all followed to the end
    assert not hasattr(gaussians.means, "on_host")


def test_float64_on_the_device_would_be_seen() -> None:
    there = torch.ones(3)
    with Elsewhere():
        assert float(there.cpu().double().sum()) == 3
        for wrong in (lambda: there.double(), lambda: there.numpy()):
            with pytest.raises(AssertionError):
                wrong()


def test_lengths_of_windows_are_padded_as_whole_numbers_say() -> None:
    lengths = [*range(1, 70), 1023, 1024, 1025, 2**20 - 1, 2**20, 2**20 + 1, 2**24 + 1]
    found = padded_lengths(torch.tensor(lengths)).tolist()
    for length, padded in zip(lengths, found, strict=True):
        power = 1 << (length - 1).bit_length()
        assert padded == (power * 3 // 4 if power >= 4 and length <= power * 3 // 4 else power)
