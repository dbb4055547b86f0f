"""The public folder: found, read as data, loaded strictly, run; and one clear error for each way of being broken or hostile."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mvsam3d.errors import CheckpointMismatch, InvalidOption
from mvsam3d.io.glb import read_glb
from mvsam3d.io.ply import read_ply
from mvsam3d.jobs import Job, run_job
from mvsam3d.models import public_config, tensor_files
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import Checkpoint, checkpoint_folder, load_checkpoint, open_checkpoint
from mvsam3d.models.config import ModelConfig
from mvsam3d.models.tensor_files import check_pickle, read_tensors
from mvsam3d.models.yaml_data import parse_yaml, read_yaml
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import structure_latents
from tests.models import public_folder
from tests.parity import manifest
from tests.toy_scene import write_depth, write_photos


@pytest.fixture(autouse=True, scope="module")
def tiny_encoder():
    public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    yield
    del public_config.VITS[public_folder.TINY_VIT]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Models]:
    folder = tmp_path_factory.mktemp("hf")
    return folder, public_folder.write_public_folder(folder)


@pytest.fixture
def copied(published: tuple[Path, Models], tmp_path: Path) -> Path:
    return Path(shutil.copytree(published[0], tmp_path / "hf"))


# --- loading ---------------------------------------------------------------------------------------------------------


def test_every_weight_arrives_where_it_belongs(published: tuple[Path, Models]) -> None:
    folder, models = published
    loaded, config, card = load_checkpoint(folder)
    assert config == models.config
    assert "facebook/sam-3d-objects" in card["from"]
    wanted = models.state_dict()
    halves = 0
    for key, value in loaded.state_dict().items():
        assert value.dtype == wanted[key].dtype
        rounded = wanted[key].half().to(value.dtype) if value.is_floating_point() else wanted[key]
        same = torch.equal(value, wanted[key])
        halves += not same
        assert same or torch.equal(value, rounded), key
    assert (
        10 < halves < 40
    )  # the parts that are published in half precision: convolutions of one decoder, blocks of another
    encoder: Any = loaded.structure_condition.embedder.module_list[0]
    assert not encoder.mean.is_meta  # a constant that no file holds


def test_what_the_files_say_becomes_our_config(published: tuple[Path, Models]) -> None:
    config = open_checkpoint(published[0]).config
    assert config.image_size == public_folder.SIDE
    assert (config.sampling.structure_steps, config.sampling.slat_steps) == (2, 2)
    assert (config.sampling.slat_rescale_t, config.sampling.slat_guidance) == (1.0, 1.0)
    assert config.sampling.prune_distance == 1
    assert config.slat.std[1] == pytest.approx(2.1)
    assert config.structure.vae.channels == (8, 16, 32)  # from fine to coarse; the file lists them the other way


def test_left_out_values_are_the_releases_own(copied: Path) -> None:
    change(
        copied / "pipeline.yaml",
        lambda c: [c.pop(k) for k in ("slat_cfg_strength", "slat_rescale_t", "downsample_ss_dist")],
    )
    sampling = open_checkpoint(copied).config.sampling
    assert (sampling.slat_guidance, sampling.slat_rescale_t, sampling.prune_distance) == (5.0, 3.0, 0)


@pytest.mark.parametrize(
    "name", ["ss_generator", "slat_generator", "ss_decoder", "slat_decoder_gs", "slat_decoder_mesh"]
)
def test_the_published_configs_build_networks_with_the_published_keys(name: str, tmp_path: Path) -> None:
    """The recorded YAML contents, through the reader, against every recorded key and shape."""
    public, content = manifest(name), manifest(name)["config"]
    for file, config in public_folder.yaml_files().items():
        (tmp_path / file).write_text(yaml.safe_dump(config))
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    with torch.device("meta"):
        models = Models(public_config.read_public_config(tmp_path).config)
    holders = {
        "ss_generator": [("_base_models.generator.reverse_fn.backbone.", models.structure_flow),
                         ("_base_models.condition_embedder.", models.structure_condition.embedder)],
        "slat_generator": [("_base_models.generator.reverse_fn.backbone.", models.slat_flow),
                           ("_base_models.condition_embedder.", models.slat_condition.embedder)],
        "ss_decoder": [("", models.structure_decoder)],
        "slat_decoder_gs": [("", models.gaussian_decoder)],
        "slat_decoder_mesh": [("", models.mesh_decoder)],
    }  # fmt: skip
    ours = {
        prefix + key: list(value.shape)
        for prefix, module in holders[name]
        for key, value in module.state_dict().items()
    }
    assert ours == public["tensors"]


def test_the_published_configs_are_our_default_size(tmp_path: Path) -> None:
    for file, config in public_folder.yaml_files().items():
        (tmp_path / file).write_text(yaml.safe_dump(config))
    for name in ("ss_generator", "slat_generator", "ss_decoder", "slat_decoder_gs", "slat_decoder_mesh"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(manifest(name)["config"]))
    config, own = public_config.read_public_config(tmp_path).config, ModelConfig()
    assert config.structure == own.structure
    assert config.slat.flow == own.slat.flow
    assert config.slat.condition.embedders == own.slat.condition.embedders
    assert (config.slat.gaussian_decoder, config.slat.mesh_decoder) == (
        own.slat.gaussian_decoder,
        own.slat.mesh_decoder,
    )


def test_the_folder_of_the_published_size_is_described_as_the_published_one(tmp_path: Path) -> None:
    """What `benchmarks/full_run.py` writes, against the recorded YAML contents and sizes."""
    files = public_folder.yaml_files(public_folder.PUBLISHED)
    for file, config in files.items():
        (tmp_path / file).write_text(yaml.safe_dump(config))
    written, own = public_config.read_public_config(tmp_path).config, ModelConfig()
    assert replace(written.slat, mean=own.slat.mean, std=own.slat.std) == own.slat
    assert written.structure == own.structure
    assert (written.sampling, written.image_size) == (own.sampling, own.image_size)
    for name in ("ss_decoder", "slat_decoder_gs", "slat_decoder_mesh"):
        assert files[f"{name}.yaml"] == manifest(name)["config"]


def test_it_is_found_by_its_name_and_as_it_is_downloaded(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "checkpoints" / "hf" / "checkpoints"
    place.parent.mkdir(parents=True)
    copied.rename(place)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(checkpoint_folder("hf")).folder == Path("checkpoints/hf/checkpoints")


def test_tensors_saved_again_as_safetensors_are_taken(copied: Path) -> None:
    before = open_checkpoint(copied).weights("mesh_decoder")
    save_file({key: value.clone() for key, value in before.items()}, copied / "slat_decoder_mesh.safetensors")
    (copied / "slat_decoder_mesh.ckpt").unlink()
    after = open_checkpoint(copied).weights("mesh_decoder")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_half_precision_holds_the_products_weights_alone(published: tuple[Path, Models]) -> None:
    models = open_checkpoint(published[0]).models(dtype=torch.bfloat16, paged=False)
    kinds = {key: value.dtype for key, value in models.state_dict().items()}
    half, full = torch.bfloat16, torch.float32
    assert kinds["structure_flow.blocks.0.mlp.shape.mlp.0.weight"] == half
    assert kinds["structure_flow.blocks.0.norm2.shape.weight"] == full
    assert kinds["structure_flow.latent_mapping.shape.pos_emb"] == full
    assert kinds["mesh_decoder.blocks.0.attn.to_qkv.weight"] == half
    assert kinds["mesh_decoder.out_layer.weight"] == full  # its ends stay, in the release too
    assert kinds["mesh_decoder.upsample.0.out_layers.0.conv.weight"] == half


def test_paged_networks_are_there_only_while_they_work(published: tuple[Path, Models]) -> None:
    models = open_checkpoint(published[0]).models(paged=True)
    assert all(value.is_meta for value in models.state_dict().values())
    with models.at_work("structure_decoder"):
        assert not any(value.is_meta for value in models.structure_decoder.state_dict().values())
        assert all(value.is_meta for value in models.structure_flow.state_dict().values())
    assert all(value.is_meta for value in models.state_dict().values())
    with pytest.raises(ZeroDivisionError), models.at_work("mesh_decoder"):
        _ = 1 / 0
    assert all(value.is_meta for value in models.state_dict().values())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of mapped files")
def test_files_stay_mapped_only_where_all_their_tensors_are_used_as_they_lie(published: tuple[Path, Models]) -> None:
    """Of a file that is partly in half precision nothing stays but what was made of it."""
    models = open_checkpoint(published[0]).models(paged=True)
    for network, file, stays in (
        ("structure_decoder", "ss_decoder.ckpt", False),
        ("gaussian_decoder", "slat_decoder_gs.ckpt", False),
        ("mesh_decoder", "slat_decoder_mesh.ckpt", True),
    ):
        with models.at_work(network):
            mapped = Path("/proc/self/maps").read_text()
            assert (str(published[0] / file) in mapped) == stays


# --- the whole way -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("photos")
    write_depth(base / "depth", 2)
    return write_photos(base / "scene", "thing", count=2), base / "depth" / "da3_output.npz"


def test_the_whole_way_to_mesh_and_splat(
    published: tuple[Path, Models], photographed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = []
    for name in ("fresh", "from the cache"):
        out = tmp_path / name
        report = run_job(Job(photographed[0], out, depth=photographed[1], model=str(published[0])))
        assert report["model"]["card"]["from"] == "facebook/sam-3d-objects"
        results.append(out)
    mesh, cloud = read_glb(results[0] / "result.glb"), read_ply(results[0] / "result.ply")
    assert len(mesh.faces) > 100
    assert np.isfinite(mesh.vertices).all()
    assert len(cloud.means) % 4 == 0
    assert (results[0] / "result.glb").read_bytes() == (results[1] / "result.glb").read_bytes()
    kept = list((tmp_path / "cache" / "mvsam3d" / "embeddings").iterdir())
    assert len(kept) == 2 * 2 * 4  # stages, views, maps: each once


@pytest.mark.parametrize(("dtype", "away"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.02)])
@torch.no_grad()
def test_paging_and_half_precision_change_little(
    published: tuple[Path, Models], dtype: torch.dtype, away: float
) -> None:
    """Structure latents after two guided steps; bfloat16 has 8 bits of mantissa."""
    checkpoint, side = open_checkpoint(published[0]), public_folder.SIDE
    noise = torch.Generator().manual_seed(0)
    channels = {"image": 3, "rgb_image": 3, "mask": 1, "rgb_image_mask": 1, "pointmap": 3, "rgb_pointmap": 3}
    maps = {name: torch.rand(2, count, side, side, generator=noise) for name, count in channels.items()}

    def latents(models: Models) -> torch.Tensor:
        return structure_latents(models, maps, ReconstructionConfig(), torch.Generator().manual_seed(1)).shape

    exact = latents(checkpoint.models(paged=False))
    other = latents(checkpoint.models(dtype=dtype, paged=True))
    assert float((other - exact).norm() / exact.norm()) < away
    assert dtype == torch.float32 or not torch.equal(other, exact)


def test_without_depth_it_says_what_is_needed(
    published: tuple[Path, Models], photographed: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match=r"point map of every photo.*--da3-output"):
        run_job(Job(photographed[0], tmp_path / "out", model=str(published[0])))


# --- configs that are not taken ------------------------------------------------------------------------------------------


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = yaml.safe_load(path.read_text())
    how(content)
    path.write_text(yaml.safe_dump(content))


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(CheckpointMismatch) as caught:
        load_checkpoint(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


BACKBONE = ("module", "generator", "backbone", "reverse_fn", "backbone")


def inner(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        content = content[key]
    return content


@pytest.mark.parametrize(
    ("file", "how", "words"),
    [
        ("pipeline.yaml", lambda c: c.update(_target_="os.system"), ("_target_", "'os.system'")),
        ("pipeline.yaml", lambda c: c.update(surprise=1), ("surprise is unknown",)),
        ("pipeline.yaml", lambda c: c.update(slat_std=[1.0]), ("slat_std", "1 values")),
        ("pipeline.yaml", lambda c: c.update(slat_mean="x"), ("slat_mean",)),
        ("pipeline.yaml", lambda c: c.update(slat_std=[float("nan")] * 8), ("slat_std",)),
        ("pipeline.yaml", lambda c: c.pop("ss_decoder_ckpt_path"), ("ss_decoder_ckpt_path is missing",)),
        ("pipeline.yaml", lambda c: c.update(version={"_target_": "os.system"}), ("version", "builds an object")),
        ("pipeline.yaml", lambda c: c["depth_model"]["model"].update(_target_="builtins.eval"), ("depth_model.model._target_",)),
        ("pipeline.yaml", lambda c: c["ss_preprocessor"]["img_transform"]["transforms"][1].update(size=0), ("transforms.1.size",)),
        ("ss_generator.yaml", lambda c: inner(c, *BACKBONE).update(share_mod=True), ("share_mod", "ss_generator.yaml")),
        ("ss_generator.yaml", lambda c: inner(c, *BACKBONE).update(num_blocks=10**9), ("num_blocks", "1 to 128")),
        ("ss_generator.yaml", lambda c: inner(c, *BACKBONE).update(wizardry=3), ("reverse_fn.backbone.wizardry is unknown",)),
        ("ss_generator.yaml", lambda c: inner(c, *BACKBONE, "latent_mapping").pop("scale"), ("latent_mapping.scale is missing",)),
        ("slat_generator.yaml", lambda c: inner(c, *BACKBONE).update(patch_size=4), ("patch_size",)),
        ("slat_generator.yaml", lambda c: inner(c, "module", "condition_embedder", "backbone").update(embedder_list=3), ("embedder_list",)),
        ("ss_decoder.yaml", lambda c: c.update(channels=[10**9]), ("channels",)),
        ("slat_decoder_gs.yaml", lambda c: c["representation_config"].update(scaling_activation="exp"), ("scaling_activation",)),
        ("slat_decoder_mesh.yaml", lambda c: c.update(attn_mode="full"), ("attn_mode",)),
        ("slat_decoder_mesh.yaml", lambda c: c.update(num_heads=7), ("num_heads", "divide")),
    ],
)  # fmt: skip
def test_what_is_unknown_is_named_by_file_and_key(copied: Path, file: str, how: Any, words: tuple[str, ...]) -> None:
    change(copied / file, how)
    refused(copied, file, *words)


@pytest.mark.parametrize("name", ["../evil.ckpt", "/etc/passwd", "a/b.ckpt", "..", "", "a\\b", "x\0y", 3, None, ["a"]])
def test_names_of_files_are_no_paths(copied: Path, name: object) -> None:
    change(copied / "pipeline.yaml", lambda c: c.update(ss_decoder_ckpt_path=name))
    refused(copied, "ss_decoder_ckpt_path", "pipeline.yaml")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: !!python/object/apply:os.system ['touch pwned']", "tag"),
        ("a: !!python/name:os.system", "tag"),
        ("a: !mine 3", "tag"),
        ("!!set {a, b}", "tag"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a {b: *a}", "holds itself"),
        ("a: 1\na: 2", "stands twice"),
        ("x: &x {a: 1}\ny:\n  <<: *x", "no plain text"),
        ("? [1, 2]\n: 3", "no plain text"),
        ("a: ${oc.env:HOME}", "refers to another value"),
        ("a: [" * 500, "levels"),
        ("a: 0x41", "no int"),
        ("a: 1:30:00", "no int"),
        ("a: {", "line"),
        ("\x00", "cannot be used"),
        ("3", "instead of keys"),
        ("", "instead of keys"),
        ("a: 1\n---\nb: 2", "document"),
        ("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
         + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)), "unfolded"),
    ],
)  # fmt: skip
def test_hostile_yaml(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "pipeline.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(CheckpointMismatch, match=word):
        read_yaml(tmp_path / "pipeline.yaml")
    assert time.monotonic() - start < 5
    assert not Path("pwned").exists()


def test_a_config_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "pipeline.yaml").open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(CheckpointMismatch, match="bytes"):
        read_yaml(tmp_path / "pipeline.yaml")


def test_numbers_are_read_as_the_public_system_reads_them() -> None:
    read = parse_yaml("{a: 1e-5, b: 1E3, c: .5, d: -1., e: 'yes', f: yes, g: 1_000, h: 2024-01-01, i: ~, j: .inf}")
    assert read == {
        "a": 1e-5, "b": 1e3, "c": 0.5, "d": -1.0, "e": "yes", "f": True, "g": 1000, "h": "2024-01-01", "i": None, "j": float("inf")
    }  # fmt: skip


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
@settings(deadline=None, max_examples=100)
def test_what_is_written_is_read(value: object) -> None:  # law
    def plain(text: object) -> bool:
        return "${" not in json.dumps(text)

    if plain(value):
        assert parse_yaml(yaml.safe_dump(value)) == value


def outcome(read: Callable[[], Any]) -> Any:
    """What it gives, or the one error that it may end with."""
    try:
        return read()
    except CheckpointMismatch as problem:
        return problem


TOKENS = st.sampled_from(
    ["a", ":", " ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&x", "*x", "!!", "!!python/object:os.x", "<<", "'", '"', "|", ">", "?",
     "1", "1e9", "~", "#", "---", "...", "%YAML 1.1", "\t", "${", "\\", "\u2028", "é"]
)  # fmt: skip


@given(st.lists(TOKENS, max_size=60).map("".join))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:  # fuzz
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    read = outcome(lambda: read_yaml(path))
    assert str(path) in str(read) if isinstance(read, CheckpointMismatch) else json.dumps(read, default=repr)


@given(st.data())
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
def test_a_config_with_any_one_value_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:  # fuzz
    folder = tmp_path_factory.mktemp("changed")
    files = public_folder.yaml_files()
    name = data.draw(st.sampled_from(sorted(files)))
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(child, dict | list):
                walk(child)

    walk(files[name])
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(PLAIN | st.sampled_from([-1, 0, 10**6, 10**30, "os.system", {"_target_": "os.system"}]))
    for file, content in files.items():
        (folder / file).write_text(yaml.safe_dump(content))
    read = outcome(lambda: public_config.read_public_config(folder).config)
    shutil.rmtree(folder)
    if isinstance(read, CheckpointMismatch):
        assert ".yaml" in str(read)
    else:
        with suppress(CheckpointMismatch):
            Checkpoint(folder, read, {}, {}, public=True).empty()


# --- files of tensors that are not taken ---------------------------------------------------------------------------------


def test_a_missing_file_says_which_where_and_how_to_get_it(copied: Path) -> None:
    (copied / "slat_generator.ckpt").unlink()
    refused(copied, "slat_generator.ckpt", str(copied), ".safetensors", "facebook/sam-3d-objects", "access")
    (copied / "ss_decoder.yaml").unlink()
    refused(copied, "ss_decoder.yaml", str(copied), "facebook/sam-3d-objects")


def altered(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    how(content.get("state_dict", content))
    torch.save(content, path)


NAME = "_base_models.generator.reverse_fn.backbone.t_embedder.mlp.0.weight"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda w: w.pop(NAME), (NAME, "1 keys missing")),
        (lambda w: w.update({NAME + "s": w[NAME]}), (NAME + "s", "1 unknown")),
        (lambda w: w.update({"model.x": w[NAME]}), ("model.x", "no known part")),
        (lambda w: w.update({NAME: w[NAME][:3].clone()}), (NAME, "(3, 256) instead of (32, 256)")),
        (lambda w: w[NAME].fill_(float("nan")), (NAME, "NaN")),
        (lambda w: w[NAME][0].fill_(float("-inf")), (NAME, "infinity")),
        (lambda w: w.update({NAME: w[NAME].long()}), (NAME, "wrong kind of number")),
        (lambda w: w.update({NAME: torch.zeros(1).expand(1 << 20, 1 << 20)}), (NAME, "4 bytes")),
        (lambda w: w.update({NAME: w[NAME].T}), (NAME, "holds")),
        (
            lambda w: w.update({NAME: torch.zeros(3, 3).to_sparse()}),
            ("_rebuild_sparse_tensor", "nothing in it was run"),
        ),
        (lambda w: w.update({NAME: 3}), (NAME, "int")),
        (lambda w: w.clear(), ("keys missing",)),
    ],
)
def test_tensors_that_do_not_fit_are_named(copied: Path, how: Any, words: tuple[str, ...]) -> None:
    altered(copied / "ss_generator.ckpt", how)
    refused(copied, "ss_generator.ckpt", *words)


def test_overflow_of_the_sum_is_no_infinity(copied: Path) -> None:
    altered(copied / "ss_generator.ckpt", lambda w: w[NAME].fill_(3e38))
    open_checkpoint(copied).models(paged=False)


class Gadget:
    """Runs a command when it is unpickled."""

    def __init__(self, how: int, mark: Path) -> None:
        self.how, self.mark = how, mark

    def __reduce__(self) -> tuple[Any, ...]:
        command = f"touch {self.mark}"
        return [
            (os.system, (command,)),
            (eval, (f"__import__('os').system({command!r})",)),
            (subprocess.call, (["touch", str(self.mark)],)),
            (exec, (f"import os; os.system({command!r})",)),
            (torch.load, (str(self.mark),)),
            (torch.hub.load, ("evil/repo", "x")),
            (bytearray, (1 << 40,)),
            (torch.FloatTensor, (1 << 40,)),
            (__import__, ("antigravity",)),
        ][self.how]


@pytest.mark.parametrize("how", range(9))
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("hidden", [False, True])
def test_pickles_that_run_something_run_nothing(copied: Path, how: int, protocol: int, hidden: bool) -> None:
    mark, path = copied / "pwned", copied / "ss_decoder.ckpt"
    weights = torch.load(path, weights_only=True)
    gadget = Gadget(how, mark)
    content = {"state_dict": weights, "hyper": [gadget]} if hidden else {**weights, "x": gadget}
    torch.save(content, path, pickle_protocol=protocol)
    refused(copied, "ss_decoder.ckpt", "nothing in it was run")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": Gadget(0, Path("pwned"))}),
        b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.",
        b"",
        b"\x80",
        bytes(100),
    ],
)
def test_bare_pickles_are_not_loaded(copied: Path, content: bytes) -> None:
    (copied / "ss_decoder.ckpt").write_bytes(content)
    refused(copied, "ss_decoder.ckpt")
    assert not Path("pwned").exists()


def test_the_weaker_ways_of_loading_are_never_tried(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **how: Any) -> Any:
        asked.append(how)
        raise pickle.UnpicklingError("no")

    monkeypatch.setattr(tensor_files.torch, "load", load)
    refused(copied, "cannot be loaded as tensors")
    assert [how["weights_only"] for how in asked] == [True]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99, 0.99999])
def test_files_that_were_cut_off(copied: Path, share: float) -> None:
    for name in ("ss_decoder.ckpt", "ss_generator.ckpt"):
        path = copied / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(copied, "ckpt")


def rezipped(path: Path, how: Callable[[zipfile.ZipFile, zipfile.ZipFile], None]) -> None:
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
        how(old, new)


def entries(
    old: zipfile.ZipFile, new: zipfile.ZipFile, *, compressed: bool = False, more: dict[str, bytes] | None = None
) -> None:
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    for entry in old.infolist():
        new.writestr(entry.filename, old.read(entry), kind)
    for name, data in (more or {}).items():
        new.writestr(name, data, kind)


@pytest.mark.parametrize(
    ("how", "word"),
    [
        (lambda o, n: entries(o, n, compressed=True, more={"archive/data/bomb": bytes(200 << 20)}), "compressed"),
        (lambda o, n: entries(o, n, more={"other/data.pkl": b"."}), "2 lists of tensors"),
        (lambda o, n: entries(o, n, more={"../evil": b"."}), "lead elsewhere"),
        (lambda o, n: entries(o, n, more={f"x/{i}": b"" for i in range(21_000)}), "more than any known model"),
        (lambda o, n: n.writestr("archive/data.pkl", bytes(5 << 20)), "4,194,304"),
        (lambda o, n: n.writestr("archive/readme", b"hello"), "0 lists of tensors"),
    ],
)
def test_archives_that_torch_never_writes(copied: Path, how: Any, word: str) -> None:
    rezipped(copied / "ss_decoder.ckpt", how)
    refused(copied, "ss_decoder.ckpt", word)


def test_an_archive_whose_entries_overlap(copied: Path) -> None:
    """Its table of contents gives one entry's bytes to many: 1 MB announces a terabyte."""
    path = copied / "ss_decoder.ckpt"
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 20 : at + 28] = struct.pack("<II", len(content) - 1, len(content) - 1)
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)
    refused(copied, "ss_decoder.ckpt")


def test_a_pickle_that_unfolds_without_end(tmp_path: Path) -> None:
    nested: Any = ()
    for _ in range(60):
        nested = (nested, nested)
    start = time.monotonic()
    with pytest.raises(CheckpointMismatch, match="unfolds"):
        check_pickle(pickle.dumps(nested, 2), tmp_path)
    assert time.monotonic() - start < 1


SOUND = pickle.dumps({"state_dict": {f"layer.{i}": [1.0, "x", None, (3, True)] for i in range(20)}}, 2)


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=300)
def test_damaged_pickles_are_read_or_refused(changes: list[tuple[int, int]]) -> None:  # fuzz
    content = bytearray(SOUND)
    for place, value in changes:
        content[place] = value
    read = outcome(lambda: check_pickle(bytes(content), Path("x.ckpt")))
    assert read is None or "x.ckpt" in str(read)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_damaged_archives_are_read_or_refused(
    published: tuple[Path, Models], tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]]
) -> None:  # fuzz
    """Most bytes are weights; the ends hold what tells of them, so half of the changes go there."""
    content = bytearray((published[0] / "ss_decoder.ckpt").read_bytes())
    for i, (place, value) in enumerate(changes):
        at = int(place * len(content)) if i % 2 else -1 - int(place * 20_000)
        content[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.ckpt"
    path.write_bytes(content)
    read = outcome(lambda: read_tensors(path))
    assert str(path) in str(read) if isinstance(read, CheckpointMismatch) else all(map(torch.is_tensor, read.values()))


def test_memory_stays_bounded_with_hostile_files(published: tuple[Path, Models], tmp_path: Path) -> None:
    """A process that may take 3 GiB of addresses reads a bomb of each kind and ends by itself."""
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(1 << 20))
        archive.writestr("archive/data/0", bytes(300 << 20))
    code = f"""
import resource, pathlib
from mvsam3d.errors import CheckpointMismatch
from mvsam3d.models.tensor_files import read_tensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in ({str(bomb)!r},):
    try: read_tensors(pathlib.Path(path))
    except CheckpointMismatch: pass
    else: raise SystemExit("taken")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10  # kB
