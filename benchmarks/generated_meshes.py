"""Generated objects that no training run has seen, as GLB files for `mvsam3d evaluate`.

python benchmarks/generated_meshes.py OUT [--objects 100] [--resolution 128]
    The held-out objects of the recipe "small", in its order: the surface of their distance field on a grid, colours at its vertices.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from mvsam3d.io.glb import write_glb
from mvsam3d.meshing.isosurface import dense_cells, dual_contour
from mvsam3d.training import objects
from mvsam3d.training.data import generated_object
from mvsam3d.training.recipes import SMALL_RECIPE, held_out_plans
from mvsam3d.types import Mesh

AT_ONCE = 1 << 20  # points


def surface(thing: objects.GeneratedObject, resolution: int) -> Mesh:
    """The mesh of a generated object, in the object frame."""
    axis = torch.arange(resolution + 1) / resolution - 0.5
    corners = torch.cartesian_prod(axis, axis, axis)
    points = corners.numpy()
    parts = [points[i : i + AT_ONCE] for i in range(0, len(points), AT_ONCE)]
    sdf = torch.from_numpy(np.concatenate([objects.signed_distance(thing, part) for part in parts]))
    shell = dual_contour(dense_cells(sdf, corners, resolution)).to_mesh()
    colours: Float32[np.ndarray, "vertex 3"] = objects.surface_colour(thing, shell.vertices)
    return Mesh(shell.vertices, shell.faces, vertex_colours=np.clip(colours, 0.0, 1.0))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write held-out generated objects as GLB files.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--resolution", type=int, default=128, help="cells along an edge of the grid")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    plan, *_ = held_out_plans(SMALL_RECIPE, None)
    for i in range(given.objects):
        thing = generated_object(plan.seed(i), plan.config)
        write_glb(given.out / f"{i:03d}-{thing.name}.glb", surface(thing, given.resolution))


if __name__ == "__main__":
    main()
