"""YAML files of the public SAM 3D Objects checkpoint -> our configs and the names of its files, by a list of what may stand in them.

Each `_target_` that the release writes has a function here that takes its parameters one by one. A target without a function, a parameter
that none takes and a value that our networks cannot follow are errors that name the file and the key. Parameters of training are taken and
checked for their kind only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mvsam3d.errors import CheckpointMismatch
from mvsam3d.models.condition import ConditionConfig, EmbedderConfig
from mvsam3d.models.config import ModelConfig, SamplingDefaults, SlatConfig, StructureConfig
from mvsam3d.models.gaussian_decoder import GaussianDecoderConfig, Rates
from mvsam3d.models.image_encoder import VitConfig
from mvsam3d.models.mesh_decoder import MeshDecoderConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig
from mvsam3d.models.slat_flow import SlatFlowConfig
from mvsam3d.models.slat_trunk import TrunkConfig
from mvsam3d.models.structure_flow import POSE, POSE_CHANNELS, SHAPE, StructureFlowConfig
from mvsam3d.models.structure_vae import StructureVaeConfig
from mvsam3d.models.yaml_data import read_yaml

PIPELINE = "pipeline.yaml"
BACKBONE = "sam3d_objects.model.backbone."
NETWORKS = BACKBONE + "tdfy_dit.models."
DATA = "sam3d_objects.data.dataset.tdfy."
GENERATOR = BACKBONE + "generator."

VITS = {  # of the hub that the release names; the four differ in size alone
    "dinov2_vits14_reg": VitConfig(width=384, depth=12, heads=6),
    "dinov2_vitb14_reg": VitConfig(width=768, depth=12, heads=12),
    "dinov2_vitl14_reg": VitConfig(),
}
PARTS = (
    "ss_generator",
    "slat_generator",
    "ss_decoder",
    "slat_decoder_gs",
    "slat_decoder_mesh",
)  # that a reconstruction needs
OPTIONAL_PARTS = ("ss_encoder", "slat_decoder_gs_4")
SMALLEST_REMAP = ("linear", "sinh", "exp", "sinh_exp", "exp_disparity")


@dataclass(frozen=True)
class PublicFiles:
    """What the public folder says."""

    folder: Path
    """That of pipeline.yaml."""
    config: ModelConfig
    weights: Mapping[str, str]
    """Names of the files of tensors by part."""
    half: str
    """The precision that the release runs its sampling in: float16, bfloat16 or float32."""


def public_folder(folder: Path) -> Path | None:
    """Where the public checkpoint lies in a folder: at its top, or in checkpoints/ as it is downloaded. None: nowhere."""
    places = (folder, folder / "checkpoints")
    return next((place for place in places if (place / PIPELINE).is_file()), None)


def read_public_config(folder: Path) -> PublicFiles:
    """Read pipeline.yaml and the files that it names. `folder`: that of pipeline.yaml.

    Raises: CheckpointMismatch: a file is missing or broken, or says something that is not taken, by file and key.
    """
    with _file(folder / PIPELINE) as section:
        section.target("sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap")
        files = {part: _file_names(section, part, optional=part in OPTIONAL_PARTS) for part in PARTS + OPTIONAL_PARTS}
        sampling = _sampling(section)
        image_size, box_factor = _preprocessing(section)
        mean, std = section.numbers("slat_mean"), section.numbers("slat_std")
        half = section.choice("dtype", ("float16", "bfloat16", "float32"), "bfloat16")
        _unused(section)
    named = {part: names for part, names in files.items() if names is not None}
    structure = _generator(folder / named["ss_generator"][0], _structure_flow, _SHORTCUT)
    slat = _generator(folder / named["slat_generator"][0], _slat_flow, _FLOW_MATCHING)
    vae = _bare(folder / named["ss_decoder"][0], _structure_decoder)
    gaussians = _bare(folder / named["slat_decoder_gs"][0], _gaussian_decoder)
    mesh = _bare(folder / named["slat_decoder_mesh"][0], _mesh_decoder)
    config = ModelConfig(
        image_size=image_size,
        box_factor=box_factor,
        structure=StructureConfig(vae, *structure),
        slat=SlatConfig(*slat, gaussians, mesh, mean, std),
        sampling=sampling,
    )
    for name, values in (("slat_mean", mean), ("slat_std", std)):
        if len(values) != config.slat.flow.out_channels:
            _refuse(
                folder / PIPELINE,
                name,
                f"has {len(values)} values, and the latents {config.slat.flow.out_channels} channels",
            )
    return PublicFiles(folder, config, {part: names[1] for part, names in named.items()}, half)


def _refuse(file: Path, key: str, what: str) -> NoReturn:
    raise CheckpointMismatch(
        f"{file}: {key} {what}. mvsam3d reads the published files as they are; get the folder anew"
    )


Flow = TypeVar("Flow")
Config = TypeVar("Config")

_NONE: Any = object()  # no default: the key must be there


class _Section:
    """A mapping of a YAML file from which keys are taken; those left over at the end are unknown, and an error."""

    def __init__(self, values: Mapping[str, Any], file: Path, path: str) -> None:
        self._left, self.file, self._path = dict(values), file, path

    def refuse(self, key: str, what: str) -> NoReturn:
        _refuse(self.file, f"{self._path}{key}", what)

    def finish(self) -> None:
        for key in self._left:
            self.refuse(key, "is unknown here")

    def has(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str, default: Any = _NONE) -> Any:
        value = self._left.pop(key, default)
        if value is _NONE:
            self.refuse(key, "is missing")
        return value

    def target(self, *names: str) -> str:
        found = self.take("_target_")
        if found not in names:
            self.refuse("_target_", f"is {found!r}, and only {' or '.join(names)} is known here")
        partial = self.take("_partial_", False)
        if not isinstance(partial, bool):
            self.refuse("_partial_", f"is {partial!r}, not true or false")
        return str(found)

    def whole(self, key: str, default: Any = _NONE, *, least: int = 1, most: int = 16_384) -> int:
        value = self.take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(key, f"is {value!r}, and {least} to {most} are taken")
        return value

    def number(self, key: str, default: Any = _NONE) -> float:
        value = self.take(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self.refuse(key, f"is {value!r}, not a number")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        values = self.take(key)
        if not isinstance(values, list) or not values or len(values) > 256:
            self.refuse(key, f"is a {type(values).__name__}, not a list of numbers")
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                self.refuse(key, f"holds {value!r}, not a number")
        return tuple(float(value) for value in values)

    def wholes(self, key: str, *, most: int = 16_384) -> tuple[int, ...]:
        values = self.take(key)
        right = isinstance(values, list) and 0 < len(values) <= 16
        if not right or not all(type(value) is int and 0 < value <= most for value in values):
            self.refuse(key, f"is {str(values)[:60]}, not a list of a few sizes of 1 to {most}")
        return tuple(values)

    def flag(self, key: str, default: Any = _NONE) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.refuse(key, f"is {value!r}, not true or false")
        return value

    def text(self, key: str, default: Any = _NONE) -> str:
        value = self.take(key, default)
        if not isinstance(value, str):
            self.refuse(key, f"is {value!r}, not a text")
        return value

    def choice(self, key: str, among: Sequence[str], default: Any = _NONE) -> str:
        value = self.text(key, default)
        if value not in among:
            self.refuse(key, f"is {value!r}, and only {' or '.join(among)} is taken")
        return value

    def must_be(self, key: str, *known: Any, optional: bool = False) -> None:
        """A parameter of which our networks know these values only; `optional`: they are what its absence means."""
        if optional and key not in self._left:
            return
        value = self.take(key)
        if not any(type(value) is type(one) and value == one for one in known):
            self.refuse(key, f"is {str(value)[:60]!r}, and only {known[0]!r} is known")

    def idle(self, *keys: str) -> None:
        """Parameters that change no result of a reconstruction: of training, of devices, of programs not used here."""
        for key in keys:
            value = self._left.pop(key, None)
            if isinstance(value, Mapping) and "_target_" in value:
                self.refuse(key, "builds an object, which none is known to do here")

    def inner(self, key: str, values: Any = _NONE) -> _Section:
        value = self.take(key) if values is _NONE else values
        if not isinstance(value, Mapping):
            self.refuse(key, f"is a {type(value).__name__}, not keys and values")
        return _Section(value, self.file, f"{self._path}{key}.")

    @contextmanager
    def within(self, key: str, values: Any = _NONE) -> Iterator[_Section]:
        """A mapping inside this one, all of which must be taken."""
        section = self.inner(key, values)
        yield section
        section.finish()

    def items(self, key: str, default: Any = _NONE) -> list[Any]:
        value = self.take(key, default)
        if not isinstance(value, list) or len(value) > 64:
            self.refuse(key, f"is {str(value)[:60]!r}, not a list")
        return value


@contextmanager
def _file(path: Path) -> Iterator[_Section]:
    if not path.is_file():
        raise CheckpointMismatch(
            f"{path} is missing: it belongs to the public checkpoint facebook/sam-3d-objects. Download the whole folder again "
            "(docs/public-checkpoints.md says how)"
        )
    section = _Section(read_yaml(path), path, "")
    yield section
    section.finish()


def _file_names(section: _Section, part: str, *, optional: bool) -> tuple[str, str] | None:
    """Names of a part's YAML and of its tensors; None: it is not there."""
    keys = [f"{part}_config_path", f"{part}_ckpt_path"]
    default = None if optional else _NONE
    names = [section.take(key, default) for key in keys]
    if None in names and optional:
        return None
    for key, name in zip(keys, names, strict=True):
        if (
            not isinstance(name, str)
            or not name
            or name != Path(name).name
            or "\\" in name
            or "\0" in name
            or name in ("..", ".")
        ):
            section.refuse(key, f"is {str(name)[:80]!r}, not the name of a file beside it: paths are not followed")
    return names[0], names[1]


def _sampling(section: _Section) -> SamplingDefaults:
    """Our defaults where the file leaves the steps open (MV-SAM3D takes 50 and 25), the release's own for the rest."""
    own = SamplingDefaults()
    for stage in ("ss", "slat"):
        interval = section.take(f"{stage}_cfg_interval", [0, 500])
        if interval != [0, 500]:
            section.refuse(f"{stage}_cfg_interval", f"is {str(interval)[:40]}, and only [0, 500] is known")
        section.idle(f"{stage}_cfg_strength_pm")
    section.must_be("pose_decoder_name", "ScaleShiftInvariant")
    return replace(
        own,
        structure_steps=section.whole("ss_inference_steps", own.structure_steps, most=10_000),
        structure_rescale_t=section.number("ss_rescale_t", 3.0),
        structure_guidance=section.number("ss_cfg_strength", 7.0),
        slat_steps=section.whole("slat_inference_steps", own.slat_steps, most=10_000),
        slat_rescale_t=section.number("slat_rescale_t", 3.0),
        slat_guidance=section.number("slat_cfg_strength", 5.0),
        prune_distance=section.whole("downsample_ss_dist", 0, least=0, most=8),
    )


def _unused(section: _Section) -> None:
    """What the release's program needs and ours does not."""
    for key in ("ss_condition_input_mapping", "slat_condition_input_mapping"):
        section.must_be(key, [], optional=True)
    section.must_be("clip_pointmap_beyond_scale", None, optional=True)
    if section.has("depth_model"):
        with section.within("depth_model") as depth:
            depth.target("sam3d_objects.pipeline.depth_models.moge.MoGe")
            depth.idle("device")
            with depth.within("model") as moge:
                moge.target("moge.model.v1.MoGeModel.from_pretrained")
                moge.text("pretrained_model_name_or_path")
    section.idle(
        "shape_model_dtype",
        "decode_formats",
        "rendering_engine",
        "compile_model",
        "layout_post_optimization_method",
        "pad_size",
        "version",
        "device",
        "workspace_dir",
    )


def _preprocessing(section: _Section) -> tuple[int, float]:
    """Side of the crops, and how much larger than the object they are: the same in both stages."""
    found = []
    for stage in ("ss", "slat"):
        with section.within(f"{stage}_preprocessor") as steps:
            steps.target(DATA + "preprocessor.PreProcessor")
            sizes = {_resized(steps, name, nearest=name != "img") for name in ("img", "mask")}
            if steps.has("pointmap_transform"):
                sizes.add(_resized(steps, "pointmap", nearest=True))
            factors = {1.2} if stage == "ss" else set()
            for key in (
                "img_mask_pointmap_joint_transform",
                "img_mask_joint_transform",
                "rgb_img_mask_joint_transform",
            ):
                factors |= _crops(steps, key)
            _normalising(steps)
            if len(sizes) != 1 or len(factors) != 1:
                steps.refuse("", f"makes crops of several kinds: sides {sorted(sizes)}, factors {sorted(factors)}")
            found.append((sizes.pop(), factors.pop()))
    if found[0] != found[1]:
        section.refuse(
            "slat_preprocessor",
            f"makes crops {found[1]}, but the first stage {found[0]}: ours are the same in both stages",
        )
    return found[0]


def _resized(steps: _Section, name: str, *, nearest: bool) -> int:
    """The side to which a map is padded and resized."""
    with steps.within(f"{name}_transform") as compose:
        compose.target("torchvision.transforms.Compose")
        parts = compose.items("transforms")
        if len(parts) != 2:
            compose.refuse("transforms", f"has {len(parts)} steps, and only to pad and to resize is known")
        with compose.within("transforms.0", parts[0]) as pad:
            pad.target(DATA + "img_processing.pad_to_square_centered")
            pad.must_be("value", 0, optional=True)
        with compose.within("transforms.1", parts[1]) as resize:
            resize.target("torchvision.transforms.Resize")
            if nearest:
                resize.must_be("interpolation", 0)
            else:
                resize.must_be("interpolation", 2, optional=True)
            resize.must_be("antialias", True, optional=True)
            return resize.whole("size", most=4096)


def _crops(steps: _Section, key: str) -> set[float]:
    """The box factor of a list of steps that cut the object out; empty without one."""
    factors = set()
    for i, step in enumerate(steps.items(key, [])):
        with steps.within(f"{key}.{i}", step) as crop:
            kind = crop.target(
                DATA + "img_and_mask_transforms.resize_all_to_same_size",
                DATA + "img_and_mask_transforms.crop_around_mask_with_padding",
            )
            if kind.endswith("padding"):
                factors.add(crop.number("box_size_factor", 1.6))
                crop.must_be("padding_factor", 0.0, 0)
            else:
                crop.must_be("target_size", None, optional=True)
    return factors


def _normalising(steps: _Section) -> None:
    if not steps.flag("normalize_pointmap", False):
        return
    with steps.within("pointmap_normalizer") as normaliser:
        normaliser.target(DATA + "img_and_mask_transforms.ObjectCentricSSI")
        normaliser.must_be("use_scene_scale", True, optional=True)
        normaliser.must_be("allow_scale_and_shift_override", True, optional=True)
        normaliser.must_be("scale_factor", 1.0, 1, optional=True)
        normaliser.must_be("clip_beyond_scale", None, optional=True)
        normaliser.idle("quantile_drop_threshold", "raise_on_no_valid_points")
    steps.must_be("rgb_pointmap_normalizer", None, optional=True)


_SHORTCUT = (GENERATOR + "shortcut.model.ShortCut", GENERATOR + "shortcut.model.ShortCut_faster")
_FLOW_MATCHING = (GENERATOR + "flow_matching.model.FlowMatching", GENERATOR + "flow_matching.model.FlowMatching_faster")


def _generator(path: Path, network: Callable[[_Section], Flow], targets: Sequence[str]) -> tuple[ConditionConfig, Flow]:
    """A flow and its condition. What the file says of sampling is overwritten by pipeline.yaml, in the release too."""
    with _file(path) as root, root.within("module") if root.has("module") else _same(root) as module:
        with module.within("generator") as generator, generator.within("backbone") as model:
            model.target(*targets)
            model.idle(
                "inference_steps",
                "rescale_t",
                "batch_mode",
                "cfg_modalities",
                "self_consistency_prob",
                "shortcut_loss_weight",
            )
            model.idle(
                "ratio_cfg_samples_in_self_consistency_target",
                "self_consistency_cfg_strength",
                "fm_in_shortcut_target_prob",
            )
            model.idle("fm_eps_max", "solver_kwargs", "seed_or_generator", "no_shortcut")
            model.must_be("sigma_min", 0.0, 0, optional=True)
            model.must_be("time_scale", 1000.0, 1000, optional=True)
            model.must_be("reversed_timestamp", False, optional=True)
            model.must_be("solver_method", "euler", optional=True)
            _training(model)
            with model.within("reverse_fn") as guidance:
                guidance.target(
                    GENERATOR + "classifier_free_guidance.ClassifierFreeGuidance",
                    GENERATOR + "classifier_free_guidance.ClassifierFreeGuidanceWithExternalUnconditionalProbability",
                )
                guidance.idle("strength", "interval", "p_unconditional", "use_unconditional_from_flow_matching")
                guidance.must_be("unconditional_handling", "add_flag")
                with guidance.within("backbone") as backbone:
                    flow = network(backbone)
        with module.within("condition_embedder") as embedder, embedder.within("backbone") as fuser:
            condition = _condition(fuser)
    return condition, flow


@contextmanager
def _same(section: _Section) -> Iterator[_Section]:
    yield section


def _training(model: _Section) -> None:
    if model.has("loss_weights"):
        with model.within("loss_weights") as weights:
            weights.target("sam3d_objects.config.utils.make_dict")
            for name in (SHAPE, *POSE_CHANNELS):
                weights.number(name, 0.0)
    if model.has("training_time_sampler_fn"):
        with model.within("training_time_sampler_fn") as sampler:
            sampler.target(GENERATOR + "flow_matching.model.lognorm_sampler")
            sampler.number("mean", -1.0)
            sampler.number("std", 1.0)


def _structure_flow(network: _Section) -> StructureFlowConfig:
    network.target(NETWORKS + "mot_sparse_structure_flow.SparseStructureFlowTdfyWrapper")
    width = network.whole("model_channels")
    network.idle(
        "in_channels", "out_channels", "resolution", "patch_size", "shape_attend_pose", "freeze_d_time_embedder"
    )
    network.idle("use_fp16", "use_checkpoint")
    for key, wanted in (("qk_rms_norm", True), ("force_zeros_cond", True)):
        network.must_be(key, wanted)
    for key, off in (("qk_rms_norm_cross", False), ("share_mod", False), ("condition_embedder", None)):
        network.must_be(key, off, optional=True)
    network.must_be("pe_mode", "ape", optional=True)
    merged = network.take("latent_share_transformer")
    if merged != {POSE: list(POSE_CHANNELS)}:
        network.refuse("latent_share_transformer", f"is not {POSE} with {', '.join(POSE_CHANNELS)}, in this order")
    with network.within("latent_mapping") as latents:
        for name, channels in POSE_CHANNELS.items():
            with latents.within(name) as latent:
                latent.target(NETWORKS + "mm_latent.Latent")
                latent.must_be("in_channels", channels)
                latent.must_be("model_channels", width)
                with latent.within("pos_embedder") as positions:
                    positions.target(NETWORKS + "mm_latent.LearntPositionEmbedder")
                    positions.must_be("model_channels", width)
                    positions.must_be("token_len", 1)
        with latents.within(SHAPE) as shape:
            shape.target(NETWORKS + "mm_latent.Latent")
            channels = shape.whole("in_channels")
            shape.must_be("model_channels", width)
            with shape.within("pos_embedder") as positions:
                positions.target(NETWORKS + "mm_latent.ShapePositionEmbedder")
                positions.must_be("model_channels", width)
                grid = positions.whole("resolution", most=256) // positions.whole("patch_size", most=256)
    return StructureFlowConfig(
        width=width,
        blocks=network.whole("num_blocks", most=128),
        heads=_heads(network, width),
        mlp_ratio=network.number("mlp_ratio"),
        cond_channels=network.whole("cond_channels"),
        grid=grid,
        latent_channels=channels,
        step_embedding=network.flag("is_shortcut_model"),
        freeze_shared_parameters=network.flag("freeze_shared_parameters", False),
    )


def _heads(network: _Section, width: int) -> int:
    heads = network.whole("num_heads", max(width // 64, 1), most=256)
    if width % heads:
        network.refuse("num_heads", f"is {heads}, which does not divide model_channels {width}")
    return heads


def _slat_flow(network: _Section) -> SlatFlowConfig:
    network.target(NETWORKS + "structured_latent_flow.SLatFlowModelTdfyWrapper")
    network.must_be("force_zeros_cond", True)
    network.must_be("pe_mode", "ape", optional=True)
    for key, off in (
        ("qk_rms_norm_cross", False),
        ("share_mod", False),
        ("condition_embedder", None),
        ("is_shortcut_model", False),
    ):
        network.must_be(key, off, optional=True)
    network.idle("use_fp16", "use_checkpoint", "freeze_shared_parameters", "freeze_d_time_embedder")
    width, levels = network.whole("model_channels"), network.wholes("io_block_channels")
    patch = network.whole("patch_size", most=64)
    if patch != 2 ** len(levels):
        network.refuse(
            "patch_size", f"is {patch}, but io_block_channels has {len(levels)} levels, each of which halves"
        )
    return SlatFlowConfig(
        resolution=network.whole("resolution", most=1024),
        in_channels=network.whole("in_channels"),
        out_channels=network.whole("out_channels"),
        width=width,
        cond_channels=network.whole("cond_channels"),
        blocks=network.whole("num_blocks", most=128),
        heads=_heads(network, width),
        mlp_ratio=network.number("mlp_ratio"),
        patch_size=patch,
        io_res_blocks=network.whole("num_io_res_blocks", most=64),
        io_channels=levels,
        qk_rms_norm=network.flag("qk_rms_norm"),
        use_skip_connection=network.flag("use_skip_connection", True),
    )


def _condition(fuser: _Section) -> ConditionConfig:
    fuser.target(BACKBONE + "dit.embedder.embedder_fuser.EmbedderFuser")
    fuser.must_be("use_pos_embedding", "learned")
    fuser.must_be("projection_pre_norm", True, optional=True)
    fuser.must_be("compression_projection_multiplier", 0, 0.0, optional=True)
    fuser.must_be("force_drop_modalities", None, optional=True)
    embedders = []
    for i, entry in enumerate(fuser.items("embedder_list")):
        key = f"embedder_list.{i}"
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], Mapping):
            fuser.refuse(key, "is not an embedder and its inputs")
        embedders.append(EmbedderConfig(_embedder(fuser, f"{key}.0", entry[0]), _pairs(fuser, f"{key}.1", entry[1])))
    sets = _two(fuser, "drop_modalities_weight", fuser.take("drop_modalities_weight", None) or [])
    dropped = []
    for i, (names, weight) in enumerate(sets):
        with fuser.within(f"drop_modalities_weight.{i}", {"names": names, "weight": weight}) as one:
            dropped.append((_names(one, "names", one.take("names")), one.number("weight")))
    return ConditionConfig(
        embedders=tuple(embedders),
        projection_multiplier=fuser.number("projection_net_hidden_dim_multiplier"),
        drop_sets=tuple(dropped),
        dropout_prob=fuser.number("dropout_prob", 0.0),
        frozen=fuser.flag("freeze", False),
    )


def _embedder(fuser: _Section, key: str, values: Mapping[str, Any]) -> VitConfig | PointmapConfig:
    with fuser.within(key, values) as network:
        dino = BACKBONE + "dit.embedder.dino.Dino"
        if network.target(dino, BACKBONE + "dit.embedder.pointmap.PointPatchEmbed") == dino:
            size = VITS[network.choice("dino_model", tuple(VITS))]
            network.idle("repo_or_dir", "source", "backbone_kwargs")
            network.must_be("prune_network", False, optional=True)
            return replace(
                size,
                input_size=network.whole("input_size", 224, most=4096),
                normalize_images=network.flag("normalize_images"),
                prenorm_features=network.flag("prenorm_features", False),
                frozen=network.flag("freeze_backbone", True),
            )
        network.must_be("force_dropout_always", False, optional=True)
        remap: Any = network.choice("remap_output", SMALLEST_REMAP, "exp")
        return PointmapConfig(
            input_size=network.whole("input_size", most=4096),
            patch_size=network.whole("patch_size", most=256),
            width=network.whole("embed_dim"),
            remap=remap,
            dropout_prob=network.number("dropout_prob", 0.0),
        )


def _pairs(section: _Section, key: str, value: Any) -> tuple[tuple[str, str], ...]:
    known = ("image", "rgb_image", "mask", "rgb_image_mask", "pointmap", "rgb_pointmap")
    pairs = [(name, group) for name, group in _two(section, key, value)]
    for name, group in pairs:
        if name not in known or not isinstance(group, str):
            section.refuse(key, f"names the input {str(name)[:40]!r}, and only {', '.join(known)} are known")
    return tuple(pairs)


def _two(section: _Section, key: str, value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        section.refuse(key, f"is {str(value)[:60]!r}, not a list of pairs")
    return [(first, second) for first, second in value]


def _names(section: _Section, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        section.refuse(key, f"is {str(value)[:60]!r}, not a list of names")
    return tuple(value)


def _bare(path: Path, network: Callable[[_Section], Config]) -> Config:
    """A network whose file holds nothing else."""
    with _file(path) as section:
        section.idle("pretrained_ckpt_path")
        return network(section)


def _structure_decoder(section: _Section) -> StructureVaeConfig:
    section.target(NETWORKS + "sparse_structure_vae.SparseStructureDecoderTdfyWrapper")
    section.must_be("norm_type", "layer", optional=True)
    section.idle("reshape_input_to_cube", "use_fp16")
    return StructureVaeConfig(
        channels=section.wholes("channels")[::-1],
        latent_channels=section.whole("latent_channels"),
        occupancy_channels=section.whole("out_channels"),
        num_res_blocks=section.whole("num_res_blocks", most=64),
        num_res_blocks_middle=section.whole("num_res_blocks_middle", 2, least=0, most=64),
    )


def _trunk(section: _Section) -> TrunkConfig:
    section.must_be("attn_mode", "swin", optional=True)
    section.must_be("pe_mode", "ape", optional=True)
    section.must_be("qk_rms_norm", False, optional=True)
    section.idle("use_fp16", "use_checkpoint")
    width = section.whole("model_channels")
    return TrunkConfig(
        resolution=section.whole("resolution", most=1024),
        width=width,
        blocks=section.whole("num_blocks", most=128),
        heads=_heads(section, width),
        mlp_ratio=section.number("mlp_ratio", 4.0),
        window=section.whole("window_size", 8, most=64),
    )


def _gaussian_decoder(section: _Section) -> GaussianDecoderConfig:
    section.target(NETWORKS + "structured_latent_vae.decoder_gs.SLatGaussianDecoderTdfyWrapper")
    with section.within("representation_config") as how:
        with how.within("lr") as lr:
            rates = Rates(
                **{name: lr.number(f"_{name}") for name in ("xyz", "features_dc", "scaling", "rotation", "opacity")}
            )
        how.must_be("perturb_offset", True)
        how.must_be("scaling_activation", "softplus")
        how.idle("2d_filter_kernel_size")
        return GaussianDecoderConfig(
            trunk=_trunk(section),
            latent_channels=section.whole("latent_channels"),
            gaussians=how.whole("num_gaussians", most=1024),
            voxel_size=how.number("voxel_size"),
            rates=rates,
            scaling_bias=how.number("scaling_bias"),
            least_scale=how.number("3d_filter_kernel_size"),
            opacity_bias=how.number("opacity_bias"),
        )


def _mesh_decoder(section: _Section) -> MeshDecoderConfig:
    section.target(NETWORKS + "structured_latent_vae.decoder_mesh.SLatMeshDecoderTdfyWrapper")
    section.idle("device")
    with section.within("representation_config") as how:
        return MeshDecoderConfig(
            trunk=_trunk(section), latent_channels=section.whole("latent_channels"), colour=how.flag("use_color")
        )
