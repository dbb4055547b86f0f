"""Where the Gaussians of a cloud are: on the surface of a mesh of the same object."""

from dataclasses import replace

import torch
from scipy.spatial import cKDTree

from mvsam3d.types import GaussianCloud, Mesh

POINTS = 200_000  # of the surface, of which the nearest is taken


def under_surface(cloud: GaussianCloud, mesh: Mesh) -> GaussianCloud:
    """The cloud, each Gaussian moved to the nearest place of the surface and below it by as much as it is wide (one standard deviation):
    with its middle on the surface, half of it would stand beyond the outlines.
    """
    import trimesh

    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points, faces = trimesh.sample.sample_surface(surface, POINTS, seed=0)
    means = cloud.means.detach().cpu().double().numpy()
    near = cKDTree(points).query(means)[1]
    depth = cloud.scales.detach().cpu().double().numpy().mean(axis=1, keepdims=True)
    return replace(
        cloud, means=torch.from_numpy(points[near] - depth * surface.face_normals[faces[near]]).to(cloud.means)
    )
