"""Endless textured objects: parametric everyday classes and free compositions, with distances, colours and renders."""

from mvsam3d.training.objects.classes import CLASS_NAMES, generate_object
from mvsam3d.training.objects.program import (
    GeneratedObject,
    signed_distance,
    solid_grid,
    surface_colour,
    surface_samples,
)
from mvsam3d.training.objects.render import CameraRange, Light, look_at, render, sample_camera, sample_light

__all__ = [
    "CLASS_NAMES",
    "CameraRange",
    "GeneratedObject",
    "Light",
    "generate_object",
    "look_at",
    "render",
    "sample_camera",
    "sample_light",
    "signed_distance",
    "solid_grid",
    "surface_colour",
    "surface_samples",
]
