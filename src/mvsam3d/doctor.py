"""Is this machine ready for this checkpoint? Versions, devices, files, what a run would take, and a short try."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from mvsam3d.errors import MvSam3dError
from mvsam3d.generation.budget import MemoryBudget, budget_of, free_memory, usable_memory
from mvsam3d.generation.cost import SlatCost, StructureCost, slat_run, structure_run
from mvsam3d.generation.footprint import Footprint, condition_tokens, footprints
from mvsam3d.generation.guidance import Guidance
from mvsam3d.jobs import CLEARLY_FASTER, Precision, chosen_device, chosen_dtype
from mvsam3d.models.checkpoints import PAGED_FROM, Checkpoint, checkpoint_folder, open_checkpoint, weight_bytes
from mvsam3d.models.config import ModelConfig
from mvsam3d.nn.precision import bf16_gain, use_fast_exact_matmul
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import decoded, occupied, stacked, structure_latents, structured_latents, view_config
from mvsam3d.types import Photo
from mvsam3d.views.prepare import prepare_views

PACKAGES = ("mvsam3d", "torch", "numpy", "safetensors", "numba", "opencv-python-headless")
PUBLISHED = {  # SHA-256 of the files as they were first published
    "ss_generator.ckpt": "225f40479e4cff4f39d6fa14c55be3abad1475bf55b61af3bec1e19ed2f6c146",
    "slat_generator.ckpt": "91529bde8e7daa12d09618a66c319e3a5a6398db6b23b958cedcb1c3f28faabb",
    "ss_decoder.ckpt": "6dac1cd7b7fda5a38e0614fadae441f1794f80e39ea2981f1ac8aff0a7e99340",
    "slat_decoder_gs.ckpt": "f8077c36a06eaf890dd93cda1937411f793dea1eb80b3dd9329f2038ba84a111",
    "slat_decoder_mesh.ckpt": "85907b37b67d8ce5b099a96629bdcfbd873eb407dee6b3aa9a75deb15038db33",
}
GIB = 2**30
USUAL_VOXELS = 20_000
NEIGHBOURS = 17  # of a voxel on a surface, itself among them
TRIED = 2048  # side of the matrices that the speed is measured with; 512 on a CPU
ALIKE = 0.05  # greatest difference of the tried networks between a device and the CPU, of the largest value


@dataclass(frozen=True)
class Finding:
    """A line of the report."""

    name: str
    text: str
    wrong: bool = False
    """It keeps a run from working."""


@dataclass(frozen=True)
class Examination:
    """What to look at."""

    model: str = "small"
    device: str = "cpu"
    dtype: Precision = "auto"
    views: int = 4
    voxels: int | None = None
    """Active ones; None: 20,000 in a grid of 64, as many in another as a surface has."""
    memory: int | None = None
    """Bytes of the device that may be used; None: what is free, less a margin."""
    hashes: bool = True
    """Read all weights and compare them with what was published."""


def examine(what: Examination, tell: Callable[[Finding], None]) -> bool:
    """Look at everything, tell each finding at once, and say whether all is well."""
    well = True

    def add(findings: Sequence[Finding]) -> None:
        nonlocal well
        for finding in findings:
            well &= not finding.wrong
            tell(finding)

    add([Finding("versions", _versions()), Finding("devices", ", ".join(_devices()))])
    try:
        device = chosen_device(what.device)
    except MvSam3dError as problem:
        add([Finding("device", str(problem), wrong=True)])
        return False
    add([Finding("free memory", f"{free_memory(device) / GIB:.1f} GiB on {device}")])
    speed = None
    try:
        checkpoint = open_checkpoint(checkpoint_folder(what.model))
        dtype = chosen_dtype(what.dtype, checkpoint, device)
        add(_checkpoint(checkpoint, hashes=what.hashes))
        add([Finding("precision", _precision(what.dtype, checkpoint, device, dtype))])
        speed = measured_speed(device, dtype)
        add(_demands(checkpoint, what, device, dtype, speed))
    except MvSam3dError as problem:
        add([Finding("checkpoint", str(problem), wrong=True)])
    add([self_test(device)])
    return well


def _versions() -> str:
    known = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if _installed(name)]
    return ", ".join([f"Python {platform.python_version()}", *known, platform.platform()])


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _devices() -> list[str]:
    found = [f"cpu ({os.cpu_count()} cores, torch uses {torch.get_num_threads()})"]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} ({properties.name}, {properties.total_memory / GIB:.1f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _checkpoint(checkpoint: Checkpoint, *, hashes: bool) -> list[Finding]:
    kind = (
        "the public SAM 3D Objects"
        if checkpoint.public
        else f"our own ({checkpoint.card.get('recipe', 'no recipe named')})"
    )
    found = [Finding("checkpoint", f"{checkpoint.folder}: {kind}")]
    for file in sorted({part.file for part in checkpoint.parts.values()}):
        size = f"{file.stat().st_size / 2**20:,.1f} MiB"
        if not hashes:
            found.append(Finding(file.name, size))
            continue
        digest = sha256(file)
        known = PUBLISHED.get(file.name) if checkpoint.public else None
        verdict = (
            "" if known is None else ", as published" if digest == known else ", not the file that was first published"
        )
        found.append(Finding(file.name, f"{size}, SHA-256 {digest}{verdict}"))
    models = checkpoint.empty()
    for network in checkpoint.parts:
        checkpoint.check(getattr(models, network), network, checkpoint.weights(network))
    found.append(Finding("keys and shapes", f"all of {len(checkpoint.parts)} networks fit"))
    licence = checkpoint.card.get("licence") or checkpoint.card.get("license")
    found.append(
        Finding(
            "licence", str(licence or "Apache-2.0, as mvsam3d; the card in config.json says what it was trained on")
        )
    )
    return found


def _precision(wanted: Precision, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> str:
    """The chosen one, and why."""
    kind = str(dtype).removeprefix("torch.")
    if wanted != "auto":
        return f"{kind}, as asked for"
    if device.type != "cpu" or checkpoint.half == torch.float32:
        return f"{kind}, what the checkpoint is meant for"
    return (
        f"{kind}: matrices are multiplied {bf16_gain():.2g} times as fast in bfloat16 as in float32 here, and it is taken from "
        f"{CLEARLY_FASTER} on"
    )


def sha256(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _demands(
    checkpoint: Checkpoint, what: Examination, device: torch.device, dtype: torch.dtype, speed: float
) -> list[Finding]:
    """Memory and time of a run, by formula."""
    models, size = checkpoint.empty(), checkpoint.config
    voxels = USUAL_VOXELS * size.slat.flow.resolution**2 // 64**2 if what.voxels is None else what.voxels
    weights = {network: weight_bytes(models, network, dtype) for network in checkpoint.parts}
    paged = sum(weights.values()) > PAGED_FROM
    room = usable_memory(device) if what.memory is None else what.memory
    budget = budget_of(room, max(weights.values()) if paged else sum(weights.values()))
    steps = size.sampling.structure_steps, size.sampling.slat_steps
    stages = footprints(
        size, weights, views=what.views, voxels=voxels, dtype=dtype, budget=budget, paged=paged, steps=steps
    )
    most = max(stages, key=lambda stage: stage.total)
    kind = str(dtype).removeprefix("torch.")
    text = (
        f"{most.total / GIB:.1f} of {room / GIB:.1f} GiB at most, in {most.network} ({_parts(most)}), for {what.views} views and "
        f"{voxels:,} voxels in {kind}; weights of all networks {sum(weights.values()) / GIB:.1f} GiB"
    )
    short = most.total > room
    if short:
        text += ": too much; give --dtype bf16, fewer views, or another --device"
    seconds = operations(size, what.views, voxels) / speed
    rate = f"{_time(seconds)} of sampling for {what.views} views, at the {speed / 1e9:,.0f} GFLOP/s of {kind} products here"
    return [Finding("memory", text, wrong=short), Finding("time", rate), Finding("plan", str(budget))]


def _parts(stage: Footprint) -> str:
    sizes = {"weights": stage.weights, "kept": stage.kept, "activations": stage.activations}
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in sizes.items())


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def operations(size: ModelConfig, views: int, voxels: int) -> float:
    """Floating-point operations of both stages' sampling as the model samples."""
    how = size.sampling
    one = structure_run(views, how.structure_steps, how.structure_rescale_t, Guidance(how.structure_guidance))
    two = slat_run(views, how.slat_steps, how.slat_rescale_t, Guidance(how.slat_guidance))
    keys = [
        condition_tokens(stage.condition) * (views if size.joint_views else 1) for stage in (size.structure, size.slat)
    ]
    rows = [voxels // 4**level for level in range(len(size.slat.flow.io_channels) + 1)]
    first = StructureCost(size.structure.flow, keys[0], keys[0] // 6).ours(one)
    slat = SlatCost(size.slat.flow, keys[1], keys[1] // 4, tuple(rows), tuple(NEIGHBOURS * count for count in rows))
    return float(first + slat.ours(two))


def measured_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of large matrix products, about a second of them."""
    if device.type == "cpu":
        use_fast_exact_matmul()
    side = TRIED // 4 if device.type == "cpu" else TRIED
    a = torch.ones(side, side, device=device, dtype=dtype)
    a @ a
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < 1:
        (a @ a)[0, 0].item()
        done += 1
    return 2 * side**3 * done / (time.perf_counter() - start)


def self_test(device: torch.device) -> Finding:
    """The shipped networks on a drawn photo, from the photo to a mesh's field; on a device that is no CPU, against one."""
    start = time.perf_counter()
    try:
        here = tried(device)
        if not all(np.isfinite(value).all() for value in here):
            return Finding("self-test", "the networks give numbers that are not finite on this device", wrong=True)
        if device.type != "cpu":
            away = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(here, tried(torch.device("cpu"))))
            if away > ALIKE:
                return Finding("self-test", f"{device} differs from the CPU by {away:.1%}", wrong=True)
    except (MvSam3dError, RuntimeError) as problem:
        return Finding("self-test", f"failed: {str(problem).splitlines()[0]}", wrong=True)
    return Finding("self-test", f"from a photo to voxels, splat and mesh in {time.perf_counter() - start:.1f} s")


@torch.no_grad()
def tried(device: torch.device) -> list[Float[np.ndarray, "..."]]:
    """Structure latents of a drawn ball, and how opaque its Gaussians are in the mean."""
    models = open_checkpoint(checkpoint_folder("small")).models(device)
    y, x = np.mgrid[:128, :128] - 63.5
    inside = x**2 + y**2 < 45**2
    shade = np.clip(200 + x - y, 0, 255) * inside
    photo = Photo("ball", np.repeat(shade[:, :, None], 3, axis=2).astype(np.uint8), inside)
    config, noise = ReconstructionConfig(memory=MemoryBudget()), torch.Generator().manual_seed(0)
    maps = stacked(prepare_views([photo], view_config(models.config)), device)
    latents = structure_latents(models, maps, config, noise)
    slat = structured_latents(models, maps, occupied(models, latents), config, noise)
    gaussians, _ = decoded(models, slat, config.memory)
    return [latents.shape.float().cpu().numpy(), gaussians.opacities.float().mean(0, keepdim=True).cpu().numpy()]
