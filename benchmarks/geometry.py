"""What cameras do for the shape: real scenes with cameras and a reference surface, and meshes rendered with true cameras.

python benchmarks/geometry.py scenes REAL [--scenes axe flowerpot] [--views 4 8] [--model small] [--found] [--out table.json]
    solid IoU at 64^3 beside the visual hull's; silhouette IoU and PSNR (inside the mask, 512 pixels on the long side) at the views given
    and at those left out. --found: cameras by structure from motion instead of the scene's own; the result is brought into the scene's
    frame by the similarity that fits the cameras' centres best.
python benchmarks/geometry.py meshes CACHE MESHES [--objects 148] [--views 2 4 8] [--model small] [--depth-error .02] [--no-symmetry]
    what lifting network and hull say together in each object's own cube, beside the hull alone, masks without flaws: surface and solid
    IoU of their cells at 32^3, and solid IoU at 64^3 of the surface that becomes the mesh. --depth-error: the former with the true depth of
    each view beside them, wrong as a whole by a share drawn for each view with this standard deviation.
python benchmarks/geometry.py answers CACHE MESHES [--objects 40] [--views 4 8] [--model small] [--surface auto]
    whole answers for those meshes, with true cameras: solid IoU at 64^3 beside the hull's, and silhouette IoU at the views given.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mvsam3d.errors import NoCameras
from mvsam3d.geometry.cameras import centre
from mvsam3d.geometry.depth_odds import depth_odds
from mvsam3d.geometry.hull import Cube, carved
from mvsam3d.geometry.occupancy import occupancy_iou
from mvsam3d.io.cameras import load_cameras
from mvsam3d.io.photos import load_photos
from mvsam3d.io.runs import write_whole
from mvsam3d.meshing.level_surface import level_surface
from mvsam3d.models.checkpoints import checkpoint_folder, load_checkpoint
from mvsam3d.nn.precision import use_fast_exact_matmul
from mvsam3d.options import ReconstructionConfig
from mvsam3d.pipeline import reconstruct
from mvsam3d.posing.by_photos import ByPhotos
from mvsam3d.posing.known_shape import log_odds, told_in
from mvsam3d.rendering.meshes import render_mesh
from mvsam3d.rendering.silhouettes import silhouette_iou
from mvsam3d.rendering.splats import render_splats
from mvsam3d.results import peak_memory_mib
from mvsam3d.training.data import ShardPlan, Shards, make_shard
from mvsam3d.training.meshes import TrainingMesh, load_mesh_index, load_training_mesh, read_glb, render, solid_grid
from mvsam3d.training.objects import sample_light
from mvsam3d.training.recipes import SMALL_RECIPE
from mvsam3d.training.tasks.lifting import views_of
from mvsam3d.types import Camera, Mesh, Photo

CELLS = 64
LONG_SIDE = 512
POORLY_MET = 0.85  # silhouette IoU below which an answer has lost parts of its object
WORLD = Cube(np.zeros(3), 1.0)  # of the scenes: longest side 1, bounding box around the origin


def solid_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    mesh = TrainingMesh(
        np.ascontiguousarray(vertices, np.float32),
        np.ascontiguousarray(faces, np.int32),
        np.zeros((len(vertices), 2), np.float32),
        np.zeros((1, 1, 3), np.uint8),
    )
    return solid_grid(mesh, CELLS)


def solid_iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def psnr(photo: Photo, camera: Camera, picture: Any) -> float:
    """Inside the mask, sRGB in [0, 1], at LONG_SIDE pixels."""
    zoom = min(1.0, LONG_SIDE / max(camera.width, camera.height))
    w, h = round(camera.width * zoom), round(camera.height * zoom)
    rgb = np.asarray(Image.fromarray(photo.rgb).resize((w, h), Image.Resampling.BOX)) / 255
    mask = np.asarray(Image.fromarray(photo.mask).resize((w, h), Image.Resampling.NEAREST))
    shown = picture(
        np.diag([w / camera.width, h / camera.height, 1.0]) @ camera.intrinsics, camera.camera_from_world, w, h
    )
    return float(-10 * np.log10(np.square(np.clip(shown, 0, 1) - rgb)[mask].mean()))


def similarity_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity that brings points nearest to others, by squares (Umeyama)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, v = np.linalg.svd(b.T @ a)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    matrix = np.eye(4)
    matrix[:3, :3] = (s * np.diag(sign)).sum() / np.square(a).sum() * u @ sign @ v
    matrix[:3, 3] = target.mean(0) - matrix[:3, :3] @ source.mean(0)
    return matrix


def scenes(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    models, _, _ = load_checkpoint(checkpoint_folder(arguments.model))
    rows = []
    for name in arguments.scenes:
        folder = arguments.real / name
        photos, _ = load_photos(folder)
        known = load_cameras(folder / "cameras.json", [photo.name for photo in photos])
        suggested = json.loads((folder / "cameras.json").read_text())["suggested_inputs"]
        surface = read_glb((folder / "mesh.glb").read_bytes(), name, nearest=False)
        truth = solid_of(surface.vertices, surface.faces)
        for count in arguments.views:
            chosen = [i for i, photo in enumerate(photos) if int(photo.name) in suggested[str(count)]]
            left_out = [i for i in range(len(photos)) if i not in chosen]
            given, true = [photos[i] for i in chosen], [known[i] for i in chosen]
            hull = carved(true, [photo.mask for photo in given], WORLD, CELLS, margin=0.0)
            start, cameras, true_from_world = time.perf_counter(), true, np.eye(4)
            if arguments.found:
                from mvsam3d.perception.structure_from_motion import find_cameras

                try:
                    found = find_cameras(given).cameras
                except NoCameras as problem:
                    rows.append({"scene": name, "views": count, "no_cameras": str(problem)})
                    print(json.dumps(rows[-1]), flush=True)
                    continue
                given = [photo for photo in given if photo.name in found]
                cameras = [found[photo.name] for photo in given]
                true = [known[[p.name for p in photos].index(photo.name)] for photo in given]
                true_from_world = similarity_between(*(np.stack([centre(c) for c in cs]) for cs in (cameras, true)))
            result = reconstruct(
                given, models, ReconstructionConfig(), torch.Generator().manual_seed(42), cameras=cameras
            )
            seconds = time.perf_counter() - start
            assert result.in_world is not None, "cameras were given"
            true_from_object = true_from_world @ result.in_world.world_from_object
            vertices = result.mesh.vertices @ true_from_object[:3, :3].T + true_from_object[:3, 3]
            row: dict[str, Any] = {
                "scene": name,
                "views": count,
                "iou": solid_iou(solid_of(vertices, result.mesh.faces), truth),
                "hull": solid_iou(hull, truth),
                "agreement": result.in_world.agreement,
                "seconds": seconds,
            }
            for kind, views in (("input", chosen), ("left_out", left_out)):
                placed = [
                    replace(known[i], camera_from_world=known[i].camera_from_world @ true_from_object) for i in views
                ]
                row |= measures(kind, [photos[i] for i in views], placed, result.mesh, result.gaussians)
            rows.append(row)
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    print(f"peak memory {peak_memory_mib():.0f} MiB")
    return rows


def measures(kind: str, photos: list[Photo], cameras: list[Camera], mesh: Mesh, cloud: Any) -> dict[str, float]:
    pairs = list(zip(photos, cameras))
    return {
        f"silhouette_{kind}": float(np.mean([silhouette_iou(photo, mesh, camera) for photo, camera in pairs])),
        f"psnr_mesh_{kind}": float(
            np.mean([psnr(p, c, lambda *view: render_mesh(mesh, *view, shade=False)[0]) for p, c in pairs])
        ),
        f"psnr_splat_{kind}": float(
            np.mean([psnr(p, c, lambda *view: render_splats(cloud, *view)[0]) for p, c in pairs])
        ),
    }


def depths_of(mesh: TrainingMesh, cameras: list[Camera], error: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Depth of each view along its optical axis, infinite off the object, each view's wrong by a share of its own."""
    light = sample_light(rng)
    seen = [render(mesh, c.intrinsics, c.camera_from_world, c.width, light)[2] for c in cameras]
    return [depth.astype(np.float64) * (1 + error * rng.standard_normal()) for depth in seen]


def photographed(cache: Path, folder: Path, objects: int) -> tuple[Shards, int]:
    """Val meshes in eight views with masks without flaws, and the cells along an edge of their grids."""
    made = cache / "eight_views_faultless"
    made.mkdir(exist_ok=True)
    data = replace(SMALL_RECIPE.data, views=8, objects=objects, flaws=0.0, same_light=1.0, samples=64)
    make_shard(ShardPlan("held_out_mesh", 0, data, folder), made)
    return Shards(made, ("held_out_mesh",)), data.resolution


def given_of(shards: Shards, row: int, count: int) -> tuple[list[Photo], list[Camera]]:
    rgb, masks, cameras = views_of(shards, row, np.arange(count))
    return [Photo(str(i), picture, mask) for i, (picture, mask) in enumerate(zip(rgb, masks))], cameras


def answers(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    models, _, _ = load_checkpoint(checkpoint_folder(arguments.model))
    shards, _ = photographed(arguments.cache, arguments.meshes, 148)
    records = load_mesh_index(arguments.meshes, "val")
    config = ReconstructionConfig(by_photos=ByPhotos(surface=arguments.surface))
    rows = []
    for count in arguments.views:
        scores = []
        for row in range(arguments.objects):
            mesh = load_training_mesh(arguments.meshes, records[int(shards.rows(np.array([row]), "seed")[0])])
            truth = solid_grid(mesh, CELLS)
            photos, cameras = given_of(shards, row, count)
            made = reconstruct(photos, models, config, torch.Generator().manual_seed(42), cameras=cameras)
            assert made.in_world is not None, "cameras were given"
            placed = made.in_world.world_from_object
            vertices = made.mesh.vertices @ placed[:3, :3].T + placed[:3, 3]
            around = [replace(c, camera_from_world=c.camera_from_world @ placed) for c in cameras]
            met = np.mean([silhouette_iou(photo, made.mesh, camera) for photo, camera in zip(photos, around)])
            hull = carved(cameras, [photo.mask for photo in photos], WORLD, CELLS)
            ours = solid_iou(solid_of(vertices, made.mesh.faces), truth)
            scores.append([ours, solid_iou(hull, truth), float(met), float(met < POORLY_MET)])
        means = np.mean(scores, axis=0).tolist()
        rows.append({"views": count, **dict(zip(("iou", "hull", "silhouette", "poorly_met"), means))})
        print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.no_grad()
def meshes(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    models, _, _ = load_checkpoint(checkpoint_folder(arguments.model))
    assert models.lifting is not None, "this model has no lifting network"
    shards, resolution = photographed(arguments.cache, arguments.meshes, arguments.objects)
    records = load_mesh_index(arguments.meshes, "val")
    rows = []
    for count in arguments.views:
        scores = []
        for row in range(arguments.objects):
            photos, cameras = given_of(shards, row, count)
            masks = [photo.mask for photo in photos]
            mesh = load_training_mesh(arguments.meshes, records[int(shards.rows(np.array([row]), "seed")[0])])
            truth = torch.from_numpy(shards.solid(np.array([row]), resolution))
            told = told_in(WORLD, photos, cameras, models.lifting, resolution, fine=False, symmetry=arguments.symmetry)
            together = told.probability
            if arguments.depth_error is not None:
                depths = depths_of(mesh, cameras, arguments.depth_error, np.random.default_rng(row))
                odds = log_odds(together) + depth_odds(cameras, depths, masks, WORLD, resolution)
                together = 1 / (1 + np.exp(-odds))
            hull = carved(cameras, masks, WORLD, resolution)
            ours, its = (occupancy_iou(torch.from_numpy(cells)[None], truth) for cells in (together > 0.5, hull))
            seen = told_in(WORLD, photos, cameras, models.lifting, CELLS, fine=True, symmetry=arguments.symmetry)
            shape = level_surface(log_odds(seen.probability))
            finer, within = solid_grid(mesh, CELLS), carved(cameras, masks, WORLD, CELLS)
            at_64 = [solid_iou(cells, finer) for cells in (solid_of(shape.vertices, shape.faces), within)]
            mirrored = told.mirror is not None
            scores.append([*(float(v) for v in (ours.surface, ours.solid, its.surface, its.solid)), *at_64, mirrored])
        table = np.array(scores)
        names = ("surface", "solid", "hull_surface", "hull_solid", "solid_64", "hull_64", "mirrored")
        mean = dict(zip(names, table.mean(0).tolist()))
        worse = int((table[:, 1] < table[:, 3] - 0.05).sum())
        rows.append({"views": count, **mean, "more_than_.05_below_the_hull": worse})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    real = commands.add_parser("scenes")
    real.add_argument("real", type=Path)
    real.add_argument("--scenes", nargs="+", default=["axe", "flowerpot"])
    real.add_argument("--views", nargs="+", type=int, default=[4, 8])
    real.add_argument("--found", action="store_true")
    real.set_defaults(run=scenes)
    rendered = commands.add_parser("meshes")
    rendered.add_argument("cache", type=Path)
    rendered.add_argument("meshes", type=Path)
    rendered.add_argument("--objects", type=int, default=148)
    rendered.add_argument("--views", nargs="+", type=int, default=[2, 4, 8])
    rendered.add_argument("--depth-error", type=float)
    rendered.add_argument("--symmetry", action=argparse.BooleanOptionalAction, default=True)
    rendered.set_defaults(run=meshes)
    whole = commands.add_parser("answers")
    whole.add_argument("cache", type=Path)
    whole.add_argument("meshes", type=Path)
    whole.add_argument("--objects", type=int, default=40)
    whole.add_argument("--views", nargs="+", type=int, default=[4, 8])
    whole.add_argument("--surface", choices=("auto", "model"), default="auto")
    whole.set_defaults(run=answers)
    for command in (real, rendered, whole):
        command.add_argument("--model", default="small")
        command.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_fast_exact_matmul()
    rows = arguments.run(arguments)
    if arguments.out:
        write_whole(arguments.out, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
