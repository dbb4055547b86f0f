"""Whole runs, named: which data, which sizes, how long. A run folder holds one folder per part, in the order of PARTS."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
import torch
from torch import nn

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.slat_stage import SlatStatistics
from mvsam3d.io.runs import Json
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import ENCODERS, WEIGHTS, checkpoint_folder, read_weights, save_checkpoint
from mvsam3d.models.config import SMALL, ModelConfig
from mvsam3d.models.lifting import LiftingConfig, LiftingNetwork
from mvsam3d.models.slat_encoder import SlatEncoderConfig
from mvsam3d.models.slat_flow import SlatFlow
from mvsam3d.models.structure_flow import StructureFlow
from mvsam3d.models.structure_vae import StructureDecoder, tokens_from_grid
from mvsam3d.models.view_tokens import ViewTokens
from mvsam3d.models.voxel_baseline import VoxelBaseline, VoxelBaselineConfig, write_baseline
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.training.classes import LIFTING_CLASSES, SMALL_CLASSES
from mvsam3d.training.cubes import LooseCubes
from mvsam3d.training.data import DataConfig, Derive, ShardPlan, Shards, background_shards, make_shards, plans
from mvsam3d.training.loop import LoopConfig, Run, Task, train
from mvsam3d.training.meshes import load_mesh_index
from mvsam3d.training.plots import plot_metrics
from mvsam3d.training.slat_data import SlatShards, make_slat_shard
from mvsam3d.training.tasks.lifting import LiftingTask, LiftingTraining
from mvsam3d.training.tasks.lifting_detail import LiftingDetailTask
from mvsam3d.training.tasks.slat_flow import SlatFlowTask, SlatNetworks
from mvsam3d.training.tasks.slat_vae import SHOWN, SlatVae, SlatVaeConfig, SlatVaeTask, latent_statistics
from mvsam3d.training.tasks.structure_flow import FlowTraining, StructureFlowTask, StructureNetworks
from mvsam3d.training.tasks.structure_vae import StructureVae, StructureVaeTask
from mvsam3d.training.tasks.voxel_baseline import VoxelBaselineTask, VoxelBaselineTraining, threshold_scores

log = logging.getLogger(__name__)

Part = Literal[
    "structure_vae", "structure_flow", "slat_vae", "slat_flow", "lifting", "lifting_detail", "voxel_baseline"
]
LIFTING: tuple[Part, ...] = ("lifting", "lifting_detail")
PARTS: tuple[Part, ...] = ("structure_vae", "structure_flow", "slat_vae", "slat_flow", *LIFTING)  # of a checkpoint
STATE = "state.pt"
BASELINE_WEIGHTS = "baseline.safetensors"  # beside the state of its part
LIFTING_DATA = "lifting"  # folder of its shards, below that of the others
AUTOENCODERS: tuple[Part, ...] = ("structure_vae", "slat_vae")
ENCODE_AT_ONCE = 64  # solid grids

Report = Callable[[str, int, int], None]  # (what is going on, steps done, steps in all)


# Of each part: (its own name for a network, the network's name in a checkpoint). The structure flow's part has the last word on the
# decoder that it trains along.
NETWORKS: dict[Part, tuple[tuple[str, str], ...]] = {
    "structure_vae": (("encoder", "structure_encoder"), ("decoder", "structure_decoder")),
    "structure_flow": (
        ("condition", "structure_condition"),
        ("flow", "structure_flow"),
        ("decoder", "structure_decoder"),
    ),
    "slat_vae": (
        ("encoder", "slat_encoder"),
        ("gaussian_decoder", "gaussian_decoder"),
        ("mesh_decoder", "mesh_decoder"),
    ),
    "slat_flow": (("condition", "slat_condition"), ("flow", "slat_flow")),
    "lifting": (("network", "lifting"),),
    "lifting_detail": (("network", "lifting.detail"),),
    "voxel_baseline": (),
}
ENCODER_NAMES = ("structure_encoder.", "slat_encoder.")


@dataclass(frozen=True)
class Recipe:
    """A model and everything that makes it."""

    model: ModelConfig
    data: DataConfig
    shards: int
    """Training shards, meshes and generated objects together."""
    slat_shards: int
    """How many of the generated shards carry stage-2 targets; the last of them is held out."""
    held_out: int
    """Generated objects kept for measuring."""
    lifting_data: DataConfig
    """What the lifting network is trained on: more views of an object, under one light as real ones are, and loose cubes around it."""
    lifting_shards: int
    loops: Mapping[Part, LoopConfig]
    flow: FlowTraining = field(default_factory=FlowTraining)
    lifting: LiftingTraining = field(default_factory=LiftingTraining)
    parts: tuple[Part, ...] = PARTS
    """What is trained, in order."""
    baseline: VoxelBaselineConfig = field(default_factory=VoxelBaselineConfig)
    seed: int = 0


SMALL_RECIPE = Recipe(
    model=SMALL,
    data=DataConfig(classes=SMALL_CLASSES),
    shards=40,
    slat_shards=10,
    held_out=200,
    lifting_data=DataConfig(
        views=8,
        classes=LIFTING_CLASSES,
        mesh_share=0.6,
        flaws=0.4,
        same_light=0.6,
        samples=64,
        rings=0.5,
        cubes=LooseCubes(count=6),
        fine_resolution=64,
    ),
    lifting_shards=20,
    loops={
        "structure_vae": LoopConfig(steps=450, batch=32, lr=2e-3, warmup=50, ema=0.995, evaluate_every=150),
        "structure_flow": LoopConfig(
            steps=3300, batch=32, lr=1.2e-3, warmup=50, ema=0.998, decay=0.75, evaluate_every=200
        ),
        "slat_vae": LoopConfig(steps=850, batch=4, lr=1.5e-3, decay=0.5, warmup=50, ema=0.995, evaluate_every=200),
        "slat_flow": LoopConfig(steps=3300, batch=4, lr=1.5e-3, warmup=50, decay=0.75, ema=0.998, evaluate_every=200),
        "lifting": LoopConfig(steps=2400, batch=8, lr=3e-3, warmup=50, decay=0.6, ema=0.995, evaluate_every=500),
        "lifting_detail": LoopConfig(steps=1500, batch=8, lr=3e-3, warmup=50, decay=0.6, ema=0.99, evaluate_every=500),
    },
    flow=FlowTraining(at_noise=0.85, decoded=1.0, strangers=0.25),
)

TINY_RECIPE = replace(  # the whole way in a minute, to try the trainer; the result is of no use
    SMALL_RECIPE,
    data=DataConfig(classes=("mug", "table"), objects=4, views=2),
    shards=1,
    slat_shards=2,
    held_out=2,
    lifting_data=DataConfig(
        classes=("mug", "table"), objects=4, views=2, samples=64, cubes=LooseCubes(), fine_resolution=64
    ),
    lifting_shards=1,
    loops={part: replace(loop, steps=2, batch=2, evaluate_every=0) for part, loop in SMALL_RECIPE.loops.items()},
    flow=FlowTraining(views=(0.5, 0.5), decoded=1.0),
    lifting=LiftingTraining(views=(0.5, 0.5)),
)

BASELINE_RECIPE = replace(  # another's kind of network, on the data of `small`, to measure that against
    SMALL_RECIPE,
    parts=("voxel_baseline",),
    loops={  # as the structure flow's first run, which saw 43,200 objects too
        "voxel_baseline": LoopConfig(
            steps=2700, batch=16, lr=1.5e-3, warmup=50, ema=0.998, decay=0.75, evaluate_every=300
        )
    },
)

RECIPES = {"small": SMALL_RECIPE, "tiny": TINY_RECIPE, "baseline": BASELINE_RECIPE}


@dataclass(frozen=True)
class RunOptions:
    """Where and how far to train; see `mvsam3d train --help`."""

    run: Path
    data: Path
    part: Part | None = None
    minutes: float | None = None
    steps: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 0
    workers: int = 0
    shards: int | None = None
    meshes: Path | None = None
    start: str | None = None
    """A run or a model whose weights the parts begin with, where they have not begun yet. The autoencoders are then not trained further,
    so that the latents keep the meaning that the flows have learnt."""
    seed: int | None = None
    """Of weights, draws and noise, instead of the recipe's: for a run that begins with trained weights, so that it sees other draws."""


def train_recipe(name: str, options: RunOptions, report: Report) -> None:
    """Train the parts in order, each from where it stopped.

    Raises: InvalidOption: no such recipe, start, or part of the recipe, or CUDA without a GPU.
    """
    recipe = _recipe(name, options)
    if options.part not in (None, *recipe.parts):
        raise InvalidOption(f"--part {options.part}: the recipe {name} has {', '.join(recipe.parts)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InvalidOption(
            "--device cuda, but torch sees no GPU here: use --device cpu, or install a CUDA build of torch"
        )
    parts = _chosen_parts(recipe, options)
    for part in parts:
        if options.start is not None and not (options.run / part / STATE).exists():
            starting_weights(options.start, part)  # before hours are spent on data
    if options.threads:
        torch.set_num_threads(options.threads)
    use_fast_exact_matmul()
    prepare_data(recipe, options, report)
    with background_shards(_training_plans(recipe, options), options.data, options.workers):
        left = options.minutes
        for part in parts:
            loop = replace(recipe.loops[part], device=options.device, precision=options.precision, seed=recipe.seed)
            loop = replace(loop, steps=loop.steps if options.steps is None else options.steps)
            left = _train_part(recipe, options, part, loop, left, report)
            if left is not None and left <= 0:
                return


def _chosen_parts(recipe: Recipe, options: RunOptions) -> tuple[Part, ...]:
    return (options.part,) if options.part else recipe.parts


def _recipe(name: str, options: RunOptions) -> Recipe:
    """With the seed of the call, which the checkpoint's card names too."""
    if name not in RECIPES:
        raise InvalidOption(f"no recipe {name!r}: there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    return recipe if options.seed is None else replace(recipe, seed=options.seed)


def _train_part(
    recipe: Recipe, options: RunOptions, part: Part, loop: LoopConfig, minutes: float | None, report: Report
) -> float | None:
    """Train one part; returns the minutes left."""
    folder, started = options.run / part, 0.0
    torch.manual_seed(recipe.seed)
    task: Task[Any] = build_task(part, recipe, options)

    def tell(step: int, values: Mapping[str, float]) -> None:
        loss = f"loss {values['loss']:.3f}" if "loss" in values else "measured"
        report(f"{part}: {loss}", step, loop.steps)

    state = folder / STATE
    if state.exists():
        started = float(torch.load(state, weights_only=True)["seconds"])
    elif options.start is not None:
        start_from(task.networks, starting_weights(options.start, part))
        if part in AUTOENCODERS:
            loop = replace(loop, steps=0)
    saved = None
    if isinstance(task, VoxelBaselineTask):
        saved = partial(_write_baseline, task, loop, folder / BASELINE_WEIGHTS)
    run = train(task, loop, folder, minutes=minutes, report=tell, saved=saved)
    plot_metrics(folder)
    return None if minutes is None else minutes - (run.seconds - started) / 60


def _write_baseline(task: VoxelBaselineTask, loop: LoopConfig, path: Path, run: Run) -> None:
    """The averaged weights of a baseline, with the threshold that suits them on training objects."""
    network = run.averaged.eval()
    assert isinstance(network, VoxelBaseline)
    scores = threshold_scores(network, task.train, loop.seed)
    config = replace(task.config, threshold=max(scores, key=scores.__getitem__))
    card: dict[str, Json] = {
        "steps": run.step,
        "batch": loop.batch,
        "samples_seen": run.step * loop.batch,
        "minutes": round(run.seconds / 60, 1),
        "seed": loop.seed,
        "training_objects": len(task.train),
        "training_iou_by_threshold": {f"{threshold:g}": round(score, 4) for threshold, score in scores.items()},
    }
    write_baseline(path, network, config, card)


def build_task(
    part: Part, recipe: Recipe, options: RunOptions
) -> (
    StructureVaeTask
    | StructureFlowTask
    | SlatVaeTask
    | SlatFlowTask
    | LiftingTask
    | LiftingDetailTask
    | VoxelBaselineTask
):
    """The task of a part, with what earlier parts of the run have learnt."""
    resolution = recipe.data.resolution
    match part:
        case "structure_vae":
            held_out = Shards(options.data, ("held_out", "held_out_mesh"))
            return StructureVaeTask(
                recipe.model.structure.vae, Shards(options.data, ("generated", "mesh")), held_out, resolution=resolution
            )
        case "structure_flow":
            vae = trained_structure_vae(recipe, options.run)
            return StructureFlowTask(
                structure_networks(recipe.model, vae.decoder),
                Shards(options.data, ("generated", "mesh"), _structure_latents(vae, recipe)),
                _held_out(options.data),
                resolution=resolution,
                training=recipe.flow,
            )
        case "slat_vae":
            files = slat_files(recipe, options.data)
            return SlatVaeTask(slat_vae_config(recipe.model), SlatShards(files[:-1]), SlatShards(files[-1:]))
        case "slat_flow":
            return _slat_flow_task(recipe, options)
        case "lifting":
            assert recipe.model.lifting is not None, "the recipe's model has a lifting network"
            folder = options.data / LIFTING_DATA
            return LiftingTask(
                recipe.model.lifting, Shards(folder, ("generated", "mesh")), _held_out(folder), recipe.lifting
            )
        case "lifting_detail":
            assert recipe.model.lifting is not None, "the recipe's model has a lifting network"
            folder = options.data / LIFTING_DATA
            lifting, train_on = trained_lifting(recipe.model.lifting, options), Shards(folder, ("generated", "mesh"))
            measured = _held_out(folder)
            if lacking := [path for shards in (train_on, *measured.values()) for path in shards.without("fine_solid")]:
                raise InvalidOption(
                    f"{lacking[0]}: made without finer grids, as {len(lacking)} of the shards there; delete them, and they are made again"
                )
            return LiftingDetailTask(recipe.model.lifting, lifting, train_on, measured, recipe.lifting)
        case "voxel_baseline":
            train_on = Shards(options.data, ("generated", "mesh"))
            return VoxelBaselineTask(recipe.baseline, train_on, _held_out(options.data), VoxelBaselineTraining())
        case _:
            assert_never(part)


def trained_lifting(config: LiftingConfig, options: RunOptions) -> LiftingNetwork:
    """The lifting network of the run or, where that has none, of the weights to start from. Raises: InvalidOption: of neither."""
    own = (options.run / "lifting" / STATE).exists() or options.start is None
    weights = _averaged(options.run / "lifting") if own else starting_weights(str(options.start), "lifting")
    network = LiftingNetwork(replace(config, detail_channels=0))
    start_from(network, _below(weights, "network."))
    return network


def _held_out(data: Path) -> dict[str, Shards]:
    """The shards to measure on that there are."""
    held = {"generated": Shards(data, ("held_out",)), "mesh": Shards(data, ("held_out_mesh",))}
    return {name: shards for name, shards in held.items() if len(shards)}


def structure_networks(model: ModelConfig, decoder: StructureDecoder) -> StructureNetworks:
    """Condition encoder and flow of stage 1, and the decoder that they feed."""
    flow = StructureFlow(model.structure.flow)
    flow.open_gates()
    condition = ViewTokens(model.structure.condition, joint=model.joint_views)
    return StructureNetworks(condition, flow, deepcopy(decoder))


def slat_vae_config(model: ModelConfig) -> SlatVaeConfig:
    """The stage-2 autoencoder: both decoders of the model, and an encoder of the same trunk."""
    trunk = model.slat.mesh_decoder.trunk
    encoder = SlatEncoderConfig(trunk, SHOWN, model.slat.flow.in_channels)
    return SlatVaeConfig(encoder, model.slat.gaussian_decoder, model.slat.mesh_decoder)


def _slat_flow_task(recipe: Recipe, options: RunOptions) -> SlatFlowTask:
    files = slat_files(recipe, options.data)
    vae = SlatVaeTask(slat_vae_config(recipe.model), SlatShards(files[:-1]), SlatShards(files[-1:]))
    vae.networks.load_state_dict(_averaged(options.run / "slat_vae"))
    vae.networks.eval().requires_grad_(False).to(options.device)
    assert isinstance(vae.networks, SlatVae)
    views = [
        Shards(options.data, ("generated",), only=[file.with_suffix(".safetensors").name for file in part])
        for part in (files[:-1], files[-1:])
    ]
    flow = SlatFlow(recipe.model.slat.flow)
    flow.open_gates()
    condition = ViewTokens(recipe.model.slat.condition, joint=recipe.model.joint_views)
    start_from(condition, _below(_averaged(options.run / "structure_flow"), "condition."))
    networks = SlatNetworks(condition, flow)
    statistics = SlatStatistics(*(tuple(values) for values in latent_statistics(vae.networks, vae.train)))
    return SlatFlowTask(
        networks, vae, statistics, (views[0], vae.train), (views[1], vae.held_out), training=recipe.flow
    )


def start_from(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Let a network begin with what another has learnt. Modules that either of them lacks, or all, are left as they are, and logged.

    Raises: InvalidOption: a tensor has another shape, or none is shared.
    """
    own = module.state_dict()
    if not weights:
        log.warning("the weights to start from have nothing of this part: it begins afresh")
        return
    shared = own.keys() & weights.keys()
    wrong = sorted(key for key in shared if weights[key].shape != own[key].shape)
    if wrong or not shared:
        raise InvalidOption(f"these weights are of another network: {', '.join(wrong[:3]) or 'they share no name'}")
    if new := sorted(own.keys() - shared):
        log.warning("%d tensors begin afresh, the weights to start from lack them: %s ...", len(new), new[0])
    module.load_state_dict(own | {key: weights[key] for key in shared})


def starting_weights(start: str, part: Part) -> Mapping[str, torch.Tensor]:
    """A part's weights in a run folder, a checkpoint folder, or a model by name. Raises: InvalidOption, CheckpointMismatch."""
    if (Path(start) / part / STATE).exists():
        return _averaged(Path(start) / part)
    folder = checkpoint_folder(start)
    if not (folder / ENCODERS).exists():
        raise InvalidOption(
            f"--start {start}: {folder} holds neither the run of a part {part} ({part}/{STATE}) nor a checkpoint that can be trained "
            f"on ({ENCODERS})"
        )
    weights = {**read_weights(folder / WEIGHTS), **read_weights(folder / ENCODERS)}
    return {
        f"{below}.{key}": value.float()
        for below, name in NETWORKS[part]
        for key, value in _below(weights, f"{name}.").items()
    }


def slat_files(recipe: Recipe, data: Path) -> list[Path]:
    """The stage-2 targets of the first generated shards."""
    found = sorted(data.glob("generated-*.slat"))[: recipe.slat_shards]
    if len(found) < 2:
        raise InvalidOption(
            f"{data} holds {len(found)} shards with stage-2 targets, but one to train and one to measure on are needed"
        )
    return found


def trained_structure_vae(recipe: Recipe, run: Path) -> StructureVae:
    """The structure VAE of a run, to be used, not trained."""
    vae = StructureVae(recipe.model.structure.vae)
    vae.load_state_dict(_averaged(run / "structure_vae"))
    vae.eval().requires_grad_(False)
    return vae


def _averaged(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / STATE
    if not path.exists():
        raise InvalidOption(f"{path} is not there: train the part {folder.name} first")
    averaged: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["averaged"]
    return averaged


def _structure_latents(vae: StructureVae, recipe: Recipe) -> dict[str, Derive]:
    """Structure latents of a shard's objects, under a name that tells which encoder made them."""
    name = hashlib.sha256(b"".join(value.numpy().tobytes() for value in vae.encoder.state_dict().values())).hexdigest()

    @torch.no_grad()
    def derive(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        side, patch = recipe.data.resolution, recipe.model.structure.vae.token_patch
        solid = np.unpackbits(tensors["solid"], axis=-1).reshape(-1, 1, side, side, side)
        parts = [
            tokens_from_grid(vae.encoder(torch.from_numpy(solid[i : i + ENCODE_AT_ONCE]).float()).mean, patch)
            for i in range(0, len(solid), ENCODE_AT_ONCE)
        ]
        return {"latents": torch.cat(parts).half().numpy()}

    return {f"lat{name[:8]}": derive}


def held_out_plans(recipe: Recipe, meshes: Path | None) -> list[ShardPlan]:
    """The shards to measure on: generated objects and, if there is a folder of meshes, its val split."""
    plans_ = [ShardPlan("held_out", 0, replace(recipe.data, objects=recipe.held_out))]
    if meshes is not None:
        count = len(load_mesh_index(meshes, "val"))
        plans_.append(ShardPlan("held_out_mesh", 0, replace(recipe.data, objects=count), meshes))
    return plans_


def lifting_plans(recipe: Recipe, options: RunOptions) -> list[ShardPlan]:
    """The shards of the lifting network, with those to measure on first: of faultless masks and from all heights, so that hulls
    are what they should be.
    """
    held_out = replace(recipe, data=replace(recipe.lifting_data, flaws=0.0, rings=0.0))
    count = recipe.lifting_shards if options.shards is None else options.shards
    return [*held_out_plans(held_out, options.meshes), *plans(recipe.lifting_data, count, options.meshes)]


def prepare_data(recipe: Recipe, options: RunOptions, report: Report) -> None:
    """Make the shards that training cannot start without: all of them if no workers will make the rest meanwhile."""
    parts = _chosen_parts(recipe, options)
    if set(LIFTING) & set(parts):
        todo = lifting_plans(recipe, options)
        for done, _ in enumerate(make_shards(todo, options.data / LIFTING_DATA, options.workers), 1):
            report("making data of the lifting network", done, len(todo))
        if set(parts) <= set(LIFTING):
            return
    config = recipe.data
    first = held_out_plans(recipe, options.meshes)
    appearance = "slat_vae" in parts or "slat_flow" in parts
    slat = [ShardPlan("generated", i, config) for i in range(recipe.slat_shards)] if appearance else []
    rest = [] if options.workers else _training_plans(recipe, options)
    todo = [*first, *slat, *rest]
    for done, _ in enumerate(make_shards(todo, options.data, options.workers), 1):
        report("making training data", done, len(todo) + len(slat))
    for done, plan in enumerate(slat, 1):
        make_slat_shard(plan, options.data)
        report("making stage-2 targets", len(todo) + done, len(todo) + len(slat))


def _training_plans(recipe: Recipe, options: RunOptions) -> list[ShardPlan]:
    return plans(recipe.data, recipe.shards if options.shards is None else options.shards, options.meshes)


def export_run(name: str, options: RunOptions, folder: Path) -> None:
    """The averaged weights of a run's parts as one checkpoint folder.

    Raises: InvalidOption: no such recipe, one that makes no checkpoint, or a part is not trained yet.
    """
    recipe = _recipe(name, options)
    if recipe.parts != PARTS:
        raise InvalidOption(
            f"--export: the recipe {name} makes no checkpoint folder; its weights are in {options.run}/{recipe.parts[0]}/{BASELINE_WEIGHTS}"
        )
    parts = {part: _averaged(options.run / part) for part in PARTS}
    vae = SlatVae(slat_vae_config(recipe.model))
    vae.load_state_dict(parts["slat_vae"])
    mean, std = latent_statistics(vae, SlatShards(slat_files(recipe, options.data)[:-1]))
    model = replace(recipe.model, slat=replace(recipe.model.slat, mean=tuple(mean), std=tuple(std)))
    models = Models(model)
    weights = {
        f"{name}.{key}": value
        for part, networks in NETWORKS.items()
        for below, name in networks
        for key, value in _below(parts[part], f"{below}.").items()
    }
    encoders = {key: value for key, value in weights.items() if key.startswith(ENCODER_NAMES)}
    models.load_state_dict({key: value for key, value in weights.items() if key not in encoders})
    save_checkpoint(folder, model, models, run_card(name, recipe, options), encoders)


def _below(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def run_card(name: str, recipe: Recipe, options: RunOptions) -> dict[str, object]:
    """What a checkpoint was trained on, how long, with which seed."""
    parts = {}
    for part in PARTS:
        state = torch.load(options.run / part / STATE, map_location="cpu", weights_only=True)
        batch = recipe.loops[part].batch
        parts[part] = {
            "steps": state["step"],
            "batch": batch,
            "samples_seen": state["step"] * batch,
            "minutes": round(state["seconds"] / 60, 1),
        }
    shards = Shards(options.data, ("generated", "mesh"))
    kinds = [path.name.rsplit("-", 1)[0] for path in shards.files]
    return {
        "recipe": name,
        "seed": recipe.seed,
        "parts": parts,
        "data": {
            "generated_objects": kinds.count("generated") * recipe.data.objects,
            "classes": list(recipe.data.classes),
            "augmented_meshes": kinds.count("mesh") * recipe.data.objects,
            "mesh_licences": "CC0, public domain, MIT, MIT-0, BSD-3-Clause, Apache-2.0, CC BY 3.0, CC BY 4.0 (see README)",
            "views_per_object": recipe.data.views,
        },
    }
