"""Photos -> depth maps and cameras of one world, by Depth Anything 3, in a folder that reconstruction reads.

    da3_output.npz                   depth, points and cameras (see `io.depth`)
    exports/mini_npz/results.npz     depth and confidence
    scene.glb                        cloud of points with the cameras (see `io.depth_scene`)
    scene.jpg, depth_vis/0000.jpg    each photo beside its depth; scene.jpg is the first
The network is the user's own: its package and its weights are not part of this one. Source: MV-SAM3D, scripts/run_da3.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mvsam3d.errors import BadPhoto, BadScene, InvalidOption
from mvsam3d.io.depth import DepthPrediction, write_depth_npz, write_mini_npz
from mvsam3d.io.depth_scene import write_depth_scene
from mvsam3d.io.photos import EXTENSIONS, MASK_SUFFIX, OTHER_IMAGES, natural_key, open_image, rgb_pixels
from mvsam3d.io.runs import run_folder
from mvsam3d.perception.depth_pictures import write_depth_pictures

log = logging.getLogger(__name__)

PACKAGE = "depth_anything_3"
CHECKOUT = "Depth-Anything-3"
WEIGHTS = ("DA3NESTED-GIANT-LARGE", "DA3-GIANT-LARGE")  # in order of preference
HUB_OWNER = "depth-anything"
LEAST_PROCESS_RES, LARGEST_PROCESS_RES = 56, 4096

# Upright photos and the longest side at which to look at them -> maps of one size.
DepthNetwork = Callable[[Sequence[UInt8[np.ndarray, "_ _ 3"]], int], DepthPrediction]


@dataclass(frozen=True)
class DepthOptions:
    """What to run Depth Anything 3 on, and how."""

    photos: Path
    """Folder of photos, or of a scene with its photos in images/."""
    out: Path
    """Folder to make."""
    model_path: str | None = None
    """Folder of the weights, or a name on the Hugging Face hub to fetch them by; where they usually are if left out."""
    process_res: int = 504
    """Longest side at which the network sees a photo, in pixels."""
    no_vis: bool = False
    """Leave out scene.glb, scene.jpg and depth_vis/."""
    device: str = "cpu"
    """Where the network runs: cpu, cuda, cuda:1, mps."""
    overwrite: bool = False
    """Replace the output folder whatever is in it."""


def run_depth(options: DepthOptions, *, network: DepthNetwork | None = None) -> DepthPrediction:
    """Look at all photos together and write the folder, whole or not at all.

    `network`: stands in for Depth Anything 3, which is otherwise loaded as the options say.

    Raises: BadScene, BadPhoto: nothing to look at. InvalidOption: the network is not installed, its weights are not found, an option is
    out of range, or the output folder holds something else.
    """
    if not LEAST_PROCESS_RES <= options.process_res <= LARGEST_PROCESS_RES:
        raise InvalidOption(
            f"process_res = {options.process_res}: give {LEAST_PROCESS_RES} to {LARGEST_PROCESS_RES} pixels, 504 is usual"
        )
    files = photo_files(options.photos)
    with run_folder(options.out, overwrite=options.overwrite) as folder, folder.log():
        look = network or depth_anything(options.model_path, options.device)
        log.info("%s: %d photos (%s)", options.photos, len(files), ", ".join(file.stem for file in files))
        prediction = look([rgb_pixels(open_image(file, str(file))) for file in files], options.process_res)
        _check(prediction, files)
        write_depth_npz(
            folder.path("da3_output.npz"),
            depth=prediction.depth,
            camera_from_world=prediction.camera_from_world,
            intrinsics=prediction.intrinsics,
            image_files=[str(file) for file in files],
            process_res=options.process_res,
        )
        write_mini_npz(folder.path("exports/mini_npz/results.npz"), prediction)
        if not options.no_vis:
            write_depth_scene(folder.path("scene.glb"), prediction)
            write_depth_pictures(folder, prediction)
    return prediction


def photo_files(scene: Path) -> list[Path]:
    """The photos of a folder in natural order: of its images/ if there is one; never masks (N_mask, or in folders of their own).

    Raises: BadScene: no folder, no photos, or two of one name. BadPhoto: a kind of image that is not read.
    """
    if not scene.is_dir():
        raise BadScene(f"{scene} is not a folder: give the one that holds the photos, or images/ with them")
    folder = scene / "images" if (scene / "images").is_dir() else scene
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    files = [file for file in files if file.suffix.lower() in EXTENSIONS + OTHER_IMAGES]
    files = sorted((f for f in files if not f.stem.endswith(MASK_SUFFIX)), key=lambda f: (natural_key(f.stem), f.name))
    if not files:
        raise BadScene(f"{folder} holds no photos: put PNG, JPEG or WebP files there")
    for file, following in pairwise(files):
        if file.stem == following.stem:
            raise BadScene(f"{file} and {following} have one name: rename or remove one")
    for file in files:
        if file.suffix.lower() not in EXTENSIONS:
            raise BadPhoto(f"{file}: {file.suffix} photos are not read, convert it to JPEG or PNG")
    return files


def depth_anything(model_path: str | None, device: str) -> DepthNetwork:
    """The real network, loaded. Raises: InvalidOption: not installed, weights not found, or no such device."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise InvalidOption(
            f"Depth Anything 3 is not installed. In this Python: git clone https://github.com/ByteDance-Seed/{CHECKOUT} beside the "
            f"project, then pip install -e {CHECKOUT}. It needs weights too, {WEIGHTS[0]} (metric) or {WEIGHTS[1]}; with no "
            f"--model_path they are looked for in {_listed(weight_places())}"
        )
    weights = found_weights(model_path)
    api: Any = importlib.import_module(f"{PACKAGE}.api")
    log.info("Depth Anything 3 of %s on %s", weights, device)
    try:
        model: Any = api.DepthAnything3.from_pretrained(weights).to(device).eval()
    except (OSError, ValueError, RuntimeError, AssertionError) as problem:  # AssertionError: torch without CUDA
        raise InvalidOption(
            f"Depth Anything 3 cannot be loaded from {weights} onto {device} ({problem}): check --model_path and --device"
        ) from problem

    def look(photos: Sequence[UInt8[np.ndarray, "_ _ 3"]], process_res: int) -> DepthPrediction:
        return prediction_from(model.inference(list(photos), process_res=process_res))

    return look


def prediction_from(found: Any) -> DepthPrediction:
    """Our value of the network's. Raises: InvalidOption: it is of a kind that finds no cameras or no confidence."""
    parts = {
        name: getattr(found, name, None) for name in ("depth", "conf", "extrinsics", "intrinsics", "processed_images")
    }
    missing = [name for name, value in parts.items() if value is None]
    if missing:
        raise InvalidOption(
            f"this model of Depth Anything 3 gives no {', '.join(missing)}: take one for several views, such as {WEIGHTS[0]}"
        )
    numbers = {name: np.asarray(value) for name, value in parts.items()}
    return DepthPrediction(
        depth=numbers["depth"].astype(np.float32),
        confidence=numbers["conf"].astype(np.float32),
        camera_from_world=numbers["extrinsics"][:, :3].astype(np.float32),
        intrinsics=numbers["intrinsics"].astype(np.float32),
        images=numbers["processed_images"].astype(np.uint8),
    )


def found_weights(model_path: str | None) -> str:
    """What to load: a folder that is there, or a name on the hub if one was asked for. Raises: InvalidOption."""
    if model_path is not None:
        if _holds_weights(Path(model_path)):
            return model_path
        if not Path(model_path).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", model_path):
            return model_path
        raise InvalidOption(
            f"model_path {model_path}: no folder with config.json and *.safetensors, and no name on the hub such as "
            f"{HUB_OWNER}/{WEIGHTS[0]}"
        )
    for place in weight_places():
        if _holds_weights(place):
            return str(place)
    raise InvalidOption(
        f"no weights of Depth Anything 3: none of {_listed(weight_places())} holds config.json and *.safetensors. Put them there, give "
        f"--model_path FOLDER, or let them be downloaded by --model_path {HUB_OWNER}/{WEIGHTS[0]}"
    )


def weight_places() -> list[Path]:
    """Where weights are looked for, in order, the preferred ones first in each place: checkpoints/ of the checkout that the package is
    installed from, or of one in or beside the working folder, and the cache of the Hugging Face hub ($HF_HUB_CACHE, $HF_HOME/hub, or
    ~/.cache/huggingface/hub).
    """
    checkouts = [Path.cwd() / CHECKOUT, Path.cwd().parent / CHECKOUT]
    installed = importlib.util.find_spec(PACKAGE)
    if installed is not None and installed.origin is not None:
        checkouts.insert(0, Path(installed.origin).parents[2])  # CHECKOUT/src/depth_anything_3/__init__.py
    checkouts = list(dict.fromkeys(checkouts))
    places = [checkout / "checkpoints" / name for checkout in checkouts for name in WEIGHTS]
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    for name in WEIGHTS:
        snapshots = cache / f"models--{HUB_OWNER}--{name}" / "snapshots"
        there = sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime) if snapshots.is_dir() else []
        places.append(there[-1] if there else snapshots)
    return places


def _holds_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _check(prediction: DepthPrediction, files: Sequence[Path]) -> None:
    """Raises: BadPhoto: the network failed on some photos."""
    assert len(prediction.depth) == len(files), "a map for each photo"
    finite = [bool((np.isfinite(depth) & (depth > 0)).any()) for depth in prediction.depth]
    empty = [file.name for file, any_ in zip(files, finite, strict=True) if not any_]
    if empty:
        raise BadPhoto(
            f"the network finds no depth in {', '.join(empty)}: leave them out, or try another --process_res"
        )


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)
