"""What fusion weighed -> the folder `weights/`: the numbers, an account of them, heat maps, distributions and 3D files.

A file whose evidence was not gathered is left out, and the account names it with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvsam3d.exports import distributions, heatmaps
from mvsam3d.exports.colours import Scale, stretched, view_colours
from mvsam3d.exports.tensors import write_tensors
from mvsam3d.exports.voxels import array, axes_node, camera_nodes, cell_centres, cell_nodes, cubes, latent_of_voxels
from mvsam3d.geometry.frames import OBJECT_FROM_GLB
from mvsam3d.io.ply import FRAME_COMMENTS
from mvsam3d.io.runs import RunFolder, write_whole
from mvsam3d.io.scenes import Scene, write_scene
from mvsam3d.types import Camera, FusionRecord, Photo, Voxels

FOLDER = "weights"
LOG = "weight_analysis.log"
TITLES = {"structure": "stage 1 (shape)", "slat": "stage 2 (appearance)"}
NUMBERS = {"structure": 1, "slat": 2}
TOP = 5  # latents about which the views differ most, in the account
SHARP = "entropy of attention: low = the view is looked at sharply, and counts more"

Setting = str | int | float | bool | None
Values = Float[np.ndarray, "view latent"]


def write_weights(
    folder: RunFolder,
    records: Sequence[FusionRecord],
    voxels: Voxels,
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    *,
    settings: Mapping[str, Setting],
) -> dict[str, str]:
    """Write the files of `--visualize_weights`.

    Args:
        records: at most one of each stage.
        voxels: the active ones.
        photos: one for each view of the records.
        cameras: each photo's, with the object frame as the world (`generation.pose.placed_camera`).
        settings: how was weighed: entropy_alpha, attention_layer, attention_step, ...; kept as `config`.
    Returns: files left out and why, by their path in the run's folder.
    """
    assert len({record.stage for record in records}) == len(records), "a stage has one record"
    names = [photo.name for photo in photos]
    by_stage = {record.stage: record for record in records}
    structure, slat = by_stage.get("structure"), by_stage.get("slat")
    left_out: dict[str, str] = {}

    def write(name: str, missing: str | None, writer: Callable[[], None]) -> None:
        if missing is None:
            writer()
        else:
            left_out[f"{FOLDER}/{name}"] = missing

    write_tensors(folder.path(f"{FOLDER}/fusion_weights.pt"), _numbers(structure, slat, voxels, settings))
    for stage in ("structure", "slat"):
        for what in ("weight", "entropy", "visibility"):
            if (stage, what) == ("structure", "visibility"):
                continue  # before there are voxels, no camera can see them
            name = f"stage{NUMBERS[stage]}_{what}_heatmap.png"
            record = by_stage.get(stage)
            reason = _missing(record, stage, what)
            if record is None or reason is not None:
                left_out[f"{FOLDER}/{name}"] = str(reason)
            else:
                _heat_map(folder, name, record, what, voxels, photos, cameras)
    if slat is None:
        for name in (*_distributions(len(names)), "weight_distribution_3d.ply", "weight_distribution_3d.glb"):
            left_out[f"{FOLDER}/{name}"] = str(_missing(None, "slat", "weight"))
    else:
        _write_distributions(folder, slat, voxels, names)
        _write_3d(folder, array(slat.weights)[:, latent_of_voxels(slat, voxels)], voxels, photos, cameras)
    write(
        "entropy_distribution.png",
        _missing(slat, "slat", "entropy"),
        lambda: distributions.histograms(
            folder.path(f"{FOLDER}/entropy_distribution.png"),
            "stage 2: entropy of each view's attention",
            names,
            _values(slat, "entropy"),
            SHARP,
            None,
        ),
    )
    stages = [(TITLES[r.stage], array(r.entropy)) for r in (structure, slat) if r is not None and r.entropy is not None]
    write(
        "entropy_per_view.png",
        None if stages else "no entropy was gathered: neither stage was weighted by it",
        lambda: distributions.boxes(
            folder.path(f"{FOLDER}/entropy_per_view.png"),
            names,
            stages,
            "entropy of attention (low = sharp, counts more)",
        ),
    )
    text = "\n".join(_account(records, names, settings, left_out)) + "\n"
    folder.path(f"{FOLDER}/{LOG}").write_text(text, encoding="utf-8")
    return left_out


def _missing(record: FusionRecord | None, stage: str, what: str) -> str | None:
    """Why there is nothing to draw."""
    if record is None:
        return f"{TITLES[stage]} was not weighted"
    if what == "visibility" and record.visibility is None:
        return f"{TITLES[stage]} was not weighted by visibility, which needs cameras"
    if what == "entropy" and record.entropy is None:
        return f"{TITLES[stage]} was not weighted by entropy, so attention was not recorded"
    return None


def _values(record: FusionRecord | None, what: str) -> Values:
    assert record is not None
    values = {"weight": record.weights, "entropy": record.entropy, "visibility": record.visibility}[what]
    assert values is not None
    return array(values)


def _numbers(
    structure: FusionRecord | None, slat: FusionRecord | None, voxels: Voxels, settings: Mapping[str, Setting]
) -> dict[str, object]:
    """Plain tensors and dicts: the public names for stage 2, and stage 1 under `stage1`."""
    content: dict[str, object] = {"config": dict(settings), "resolution": voxels.resolution}
    if slat is not None:
        index = torch.from_numpy(latent_of_voxels(slat, voxels))
        weights = slat.weights.detach().cpu().float()
        content |= {
            "weights_downsampled": _by_view(weights),
            "weights_expanded": _by_view(weights[:, index]),
            "entropy": None if slat.entropy is None else _by_view(slat.entropy),
            "visibility": None if slat.visibility is None else _by_view(slat.visibility),
            "original_coords": _batched(voxels.coords),
            "downsampled_coords": _batched(slat.coords),
            "downsample_idx": index,
        }
    if structure is not None:
        content["stage1"] = {
            "weights": _by_view(structure.weights),
            "entropy": None if structure.entropy is None else _by_view(structure.entropy),
            "coords": _batched(structure.coords),
            "resolution": structure.resolution,
        }
    return content


def _by_view(values: Float[Tensor, "view latent"]) -> dict[int, Tensor]:
    return {view: row.clone() for view, row in enumerate(values.detach().cpu().float())}


def _batched(coords: Int[Tensor, "cell 3"]) -> Int[Tensor, "cell 4"]:
    """batch, x, y, z, as the public system keeps cells."""
    cells = coords.detach().cpu().int()
    return torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1)


def _heat_map(
    folder: RunFolder,
    name: str,
    record: FusionRecord,
    what: str,
    voxels: Voxels,
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
) -> None:
    values = _values(record, what)[:, latent_of_voxels(record, voxels)]
    best = values.argmax(axis=0)
    match what:
        case "entropy":
            scale, captions = stretched(values, SHARP), [f"mean {row.mean():.3f}" for row in values]
        case "visibility":
            scale = Scale("RdYlGn", 0.0, 1.0, "0 = hidden from the view's camera, 1 = seen")
            captions = [f"sees {row.mean():.0%}" for row in values]
        case _:
            scale = stretched(values, f"weight of the view; all alike: {1 / len(values):.2f}")
            captions = [f"mean {row.mean():.2f}, largest at {(best == i).mean():.0%}" for i, row in enumerate(values)]
    title = f"{TITLES[record.stage]}: {what} of each view, as seen from it and from behind"
    shape = cubes(voxels.coords.cpu().numpy(), voxels.resolution)
    heatmaps.heat_map(folder.path(f"{FOLDER}/{name}"), title, photos, cameras, shape, values, scale, captions)


def _distributions(views: int) -> list[str]:
    kinds = ("downsampled", "expanded")
    turns = [f"weight_3d_{kind}_view{view:02d}.png" for kind in kinds for view in range(views)]
    return [*(f"weight_distribution_{kind}.png" for kind in kinds), *turns]


def _write_distributions(folder: RunFolder, slat: FusionRecord, voxels: Voxels, names: Sequence[str]) -> None:
    weights = array(slat.weights)
    kinds = {
        "downsampled": (slat.coords.cpu().numpy(), slat.resolution, weights, "tokens"),
        "expanded": (
            voxels.coords.cpu().numpy(),
            voxels.resolution,
            weights[:, latent_of_voxels(slat, voxels)],
            "voxels",
        ),
    }
    for kind, (coords, resolution, values, where) in kinds.items():
        distributions.histograms(
            folder.path(f"{FOLDER}/weight_distribution_{kind}.png"),
            f"stage 2: weights of the views at {values.shape[1]:,} {where}",
            names,
            values,
            "weight",
            1 / len(names),
        )
        scale = stretched(values, f"weight of the view; all alike: {1 / len(names):.2f}")
        shape = cubes(coords, resolution)
        for view, name in enumerate(names):
            title = f"stage 2: weight of view {name} at the {where}"
            path = folder.path(f"{FOLDER}/weight_3d_{kind}_view{view:02d}.png")
            heatmaps.turn(path, title, shape, values[view], scale)


def _write_3d(
    folder: RunFolder, weights: Values, voxels: Voxels, photos: Sequence[Photo], cameras: Sequence[Camera]
) -> None:
    """Voxels in the views' colours, mixed by their weights; PLY in the object frame, GLB with the cameras in theirs."""
    coords, palette = voxels.coords.cpu().numpy(), view_colours(len(photos))
    colours = weights.T @ palette
    path = folder.path(f"{FOLDER}/weight_distribution_3d.ply")
    write_whole(path, _ply(cell_centres(coords, voxels.resolution), colours, weights, [photo.name for photo in photos]))
    from_camera = np.stack([np.linalg.inv(camera.camera_from_world) for camera in cameras])
    nodes = (
        *cell_nodes("weights", coords, voxels.resolution, colours),
        *camera_nodes(from_camera[:, :3, 3], from_camera[:, :3, 2], [photo.name for photo in photos], palette),
        axes_node(),
    )
    path = folder.path(f"{FOLDER}/weight_distribution_3d.glb")
    write_scene(path, Scene(nodes, "glb", {"object_from_glb": OBJECT_FROM_GLB}))


def _ply(
    points: Float[np.ndarray, "voxel 3"], colours: Float[np.ndarray, "voxel 3"], weights: Values, names: Sequence[str]
) -> bytes:
    """Points with a colour and, as weight_VV, what each view counts."""
    scalars = [f"weight_{view:02d}" for view in range(len(names))]
    layout = [(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")]
    table = np.zeros(len(points), np.dtype(layout + [(name, "<f4") for name in scalars]))
    for i, (axis, channel) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        table[axis], table[channel] = points[:, i], np.round(255 * np.clip(colours[:, i], 0, 1))
    for name, row in zip(scalars, weights, strict=True):
        table[name] = row
    kinds = {"x": "float", "y": "float", "z": "float", "red": "uchar", "green": "uchar", "blue": "uchar"}
    properties = "".join(f"property {kinds.get(name, 'float')} {name}\n" for name in table.dtype.names or ())
    comments = "".join(
        f"comment {scalar}: view {name.encode('ascii', 'replace').decode()}\n"
        for scalar, name in zip(scalars, names, strict=True)
    )
    head = f"ply\nformat binary_little_endian 1.0\n{FRAME_COMMENTS}{comments}element vertex {len(table)}\n"
    return f"{head}{properties}end_header\n".encode("ascii") + table.tobytes()


def _account(
    records: Sequence[FusionRecord],
    names: Sequence[str],
    settings: Mapping[str, Setting],
    left_out: Mapping[str, str],
) -> Iterator[str]:
    yield f"Views: {', '.join(f'{i:02d} = {name}' for i, name in enumerate(names))}"
    yield "Settings: " + ", ".join(f"{name} {value}" for name, value in settings.items())
    for record in records:
        yield from _stage_account(record, names)
    if left_out:
        yield ""
        yield "Left out:"
        yield from (f"  {name}: {reason}" for name, reason in left_out.items())


def _stage_account(record: FusionRecord, names: Sequence[str]) -> Iterator[str]:
    weights = array(record.weights)
    yield ""
    yield f"{TITLES[record.stage]}: {weights.shape[1]:,} latents, of a grid of {record.resolution}"
    yield "view        weight mean   std   min   max  largest  entropy mean   std    seen"
    best = weights.argmax(axis=0)
    for i, name in enumerate(names):
        row = weights[i]
        entropy = "      -        - " if record.entropy is None else _pair(array(record.entropy)[i])
        seen = "    - " if record.visibility is None else f"{array(record.visibility)[i].mean():6.1%}"
        yield (
            f"{i:02d} {name[:12]:12} {row.mean():8.3f} {row.std():5.3f} {row.min():5.3f} {row.max():5.3f} "
            f"{(best == i).mean():8.1%}  {entropy} {seen}"
        )
    spread = weights.std(axis=0)
    yield f"Latents about which the views differ most (of all: standard deviation over the views {spread.mean():.4f} in the mean):"
    for latent in np.argsort(-spread, kind="stable")[:TOP]:
        cell = ", ".join(str(int(index)) for index in record.coords[int(latent)])
        shares = " ".join(f"{weight:.3f}" for weight in weights[:, latent])
        yield f"  cell ({cell}): weights {shares}, standard deviation {spread[latent]:.4f}"


def _pair(values: Float[np.ndarray, " latent"]) -> str:
    return f"{values.mean():10.4f} {values.std():7.4f}"
