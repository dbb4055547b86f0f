"""The values handed from photos to files, in the order in which they arise.

Axis words, one each in the whole package: view token latent channel voxel gaussian vertex face h w. Batch axes are `batch`.

Frames:
    object: canonical frame of the model, +Z up, the object inside the cube [-0.5, 0.5]^3 (no unit).
    camera: OpenCV, +X right, +Y down, +Z forward. Pixel centres at half-integers: the first pixel covers [0, 1) x [0, 1).
    p3d camera: PyTorch3D, +X left, +Y up, +Z forward: (-x, -y, z) of `camera`. Point maps and poses inside the model use it.
    glb: +Y up: (x, z, -y) of `object`.
Transforms are named target_from_source and act on column vectors unless a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Photo:
    """One photo of the object, upright, with the object's mask."""

    name: str  # stem of the file: "0"
    rgb: UInt8[np.ndarray, "h w 3"]  # sRGB
    mask: Bool[np.ndarray, "h w"]
    path: Path | None = None  # where it was read from


@dataclass(frozen=True)
class Camera:
    """A pinhole camera."""

    intrinsics: Float[np.ndarray, "3 3"]  # pixels
    camera_from_world: Float[np.ndarray, "4 4"]
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """What the networks see of one photo: square maps, the object cut out and the whole photo.

    Point maps are normalised, in the p3d camera frame, NaN where missing; None without depth. `pointmap_scale` and
    `pointmap_shift` take normalised points back: p = normalised * scale + shift.
    """

    image: Float[Tensor, "3 size size"]  # crop, [0, 1], background kept
    mask: Float[Tensor, "1 size size"]
    rgb_image: Float[Tensor, "3 size size"]  # whole photo
    rgb_image_mask: Float[Tensor, "1 size size"]
    pointmap: Float[Tensor, "3 size size"] | None
    rgb_pointmap: Float[Tensor, "3 size size"] | None
    pointmap_scale: Float[Tensor, " 3"]
    pointmap_shift: Float[Tensor, " 3"]
    crop_box: tuple[int, int, int, int]  # x1, y1, x2, y2 in the photo's pixels, may reach outside; x2, y2 exclusive


@dataclass(frozen=True)
class Span:
    """Where the tokens of one input stand in the sequence, and its leading tokens that are no patches."""

    name: str  # "image", "mask", ...
    start: int
    stop: int
    prefix: int = 0  # class token and registers before the patches


@dataclass(frozen=True)
class Conditions:
    """Condition tokens of one stage."""

    tokens: Float[Tensor, "batch token channel"]
    spans: tuple[Span, ...]
    kept: Sequence[Any] | None = None  # what each block of a network makes of the tokens, if it is kept over steps


@dataclass(frozen=True)
class StructureLatents:
    """Stage-1 result: the structure latent and the four pose latents (names and order of the public model).

    Where views share a structure, it has one row and the poses a row per view.
    """

    shape: Float[Tensor, "#batch latent channel"]
    rotation_6d: Float[Tensor, "batch 1 6"]  # 6drotation_normalized
    translation: Float[Tensor, "batch 1 3"]
    scale: Float[Tensor, "batch 1 3"]
    translation_scale: Float[Tensor, "batch 1 1"]


@dataclass(frozen=True)
class Voxels:
    """Active cells of a cubic grid, sorted by x, y, z; cell i covers [i, i + 1) / resolution - 0.5."""

    coords: Int32[Tensor, "voxel 3"]
    resolution: int


@dataclass(frozen=True)
class Slat:
    """Structured latents: a de-normalised feature at each active voxel."""

    voxels: Voxels
    features: Float[Tensor, "voxel channel"]


@dataclass(frozen=True)
class Pose:
    """Object in a camera: p_p3d_camera = (p_object * scale) @ R(rotation) + translation, row vectors.

    R(q) is the usual rotation matrix of the quaternion, so on column vectors the rotation is R(q) transposed (public convention).
    """

    rotation: Float[Tensor, " 4"]  # w, x, y, z
    translation: Float[Tensor, " 3"]
    scale: Float[Tensor, " 3"]


@dataclass(frozen=True)
class CubeField:
    """Mesh decoder output at active cells of a fine grid: what FlexiCubes needs of each cell."""

    coords: Int32[Tensor, "voxel 3"]
    features: Float[Tensor, "voxel channel"]  # sdf 8, deform 24, weights 21, colour 48 (absent without colour)
    resolution: int


@dataclass(frozen=True)
class GaussianCloud:
    """Gaussians in the object frame, activated: what a renderer needs."""

    means: Float[Tensor, "gaussian 3"]
    scales: Float[Tensor, "gaussian 3"]  # standard deviations along the axes
    rotations: Float[Tensor, "gaussian 4"]  # w, x, y, z; not normalised
    opacities: Float[Tensor, " gaussian"]  # (0, 1)
    sh_dc: Float[Tensor, "gaussian 3"]  # sRGB colour = 0.5 + 0.28209479177387814 * sh_dc


@dataclass(frozen=True)
class Mesh:
    """Triangles in the object frame, outward winding; colours are sRGB."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    vertex_colours: Float[np.ndarray, "vertex 3"] | None = None  # [0, 1]
    uv: Float[np.ndarray, "vertex 2"] | None = None  # v upward: image row = (1 - v) * height
    texture: UInt8[np.ndarray, "h w 3"] | None = None


@dataclass(frozen=True)
class FusionRecord:
    """How much each view counted at each latent of a stage, and by what evidence. None: not gathered."""

    stage: Literal["structure", "slat"]
    coords: Int32[Tensor, "latent 3"]  # cells of the latents, of a grid of `resolution`
    resolution: int
    weights: Float[Tensor, "view latent"]  # sum to 1 over the views
    entropy: Float[Tensor, "view latent"] | None  # 0 = looks at one patch of the view, 1 = at all alike
    visibility: Float[Tensor, "view latent"] | None  # 1 = seen by the view's camera, 0 = hidden


@dataclass(frozen=True)
class InWorld:
    """How the object frame lies in the world of cameras that were given."""

    world_from_object: Float[np.ndarray, "4 4"]  # similarity
    agreement: float  # of the outlines of the model's own structure with the masks: mean IoU, in [0, 1]
    source: Literal["hull", "lifting"]  # of the shape that the cameras show
    model_share: float = 0.0  # of the model's log odds in the shape
    # Unit normal n and offset d in that world, points x with n · x = d: the object is its own mirror image there as far as its outlines
    # tell, and what no photo shows is as what lies opposite
    mirror_plane: Float[np.ndarray, " 4"] | None = None


@dataclass(frozen=True)
class Reconstruction:
    """What comes out: geometry and appearance in the object frame, the object's pose in each view, and how it was made."""

    mesh: Mesh
    gaussians: GaussianCloud
    voxels: Voxels
    poses: tuple[Pose, ...]  # one per view, in that view's camera
    views: tuple[View, ...]
    kept: tuple[int, ...]  # which of the photos given the views are: all, but for outliers
    reference: int = 0  # the view whose pose is the object's, among those kept
    fusion: tuple[FusionRecord, ...] = ()  # of each stage in which views were weighted by evidence
    visibility: Float[Tensor, "view token"] | None = None  # 1 = seen by the view's camera, if cameras were given
    cameras: tuple[Camera, ...] | None = (
        None  # those given, with the object frame as their world: by `in_world`, or the reference's pose
    )
    in_world: InWorld | None = None  # None: the cameras tell neither shape nor poses
    without_camera: tuple[str, ...] = ()  # names of views that had none among others whose cameras tell the shape
    by_found_poses: bool = False  # without cameras: poses that were found together tell the shape
    painted_by: tuple[int, ...] = ()  # the views whose photos gave colours; where none did, colours are the model's
    seen_fraction: float = 0.0  # of the surface, seen by one of those or more
    coverage: Mesh | None = None  # the mesh painted by how many of those see each place; None: no photo gave colours
    seen_by: tuple[float, ...] = ()  # of the surface, seen by each of those
    seconds: dict[str, float] = field(default_factory=dict)  # per stage
