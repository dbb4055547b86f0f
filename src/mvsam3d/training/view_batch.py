"""Rows of shards -> what the networks see of them, and where the object stands in the first view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvsam3d.generation.pose import pose_from_camera
from mvsam3d.geometry.frames import p3d_from_camera
from mvsam3d.training.data import Shards
from mvsam3d.types import Pose
from mvsam3d.views.pointmap import Moments, ObjectCentric, moments_of, normalised

OBJECT_UNITS = ObjectCentric(scale="object-median")  # crops know nothing of the scene


@dataclass(frozen=True)
class ViewBatch:
    """Views of a batch of objects, the views of one object next to each other; the first is the reference."""

    maps: dict[str, Float[Tensor, "_ channel h w"]]  # by input name; a row per view
    features: dict[str, Float[Tensor, "_ token channel"]]  # of frozen encoders, by input name
    count: int  # views of each object
    poses: tuple[Pose, ...]  # of each object in its reference view
    moments: Moments  # scale and shift of the reference views' point maps, [batch, 3]

    def to(self, device: torch.device | str) -> ViewBatch:
        """Maps and features on a device."""
        return replace(
            self,
            maps={name: value.to(device) for name, value in self.maps.items()},
            features={name: value.to(device) for name, value in self.features.items()},
        )


def drawn_views(
    shards: Shards, rows: np.ndarray, chosen: np.ndarray, *, pointmap: bool, images: bool = False
) -> ViewBatch:
    """Views `chosen` [batch, view] of the objects `rows` [batch].

    Args:
        shards: may hold "features" of the photos, made by a frozen encoder.
        rows: objects.
        chosen: views of each; the first is the reference.
        pointmap: show point maps, and give poses in their units; else poses in units of the crops (see `crop_plane`).
        images: show the photos' pixels.
    """
    count, size = chosen.shape[1], shards.tensors[0]["rgb"].shape[2]

    def pick(key: str) -> np.ndarray:
        tensor = shards.rows(rows, key)
        return np.asarray(tensor[np.arange(len(rows))[:, None], chosen])

    masks = np.unpackbits(pick("mask"), axis=-1)[..., : size * size].reshape(-1, 1, size, size)
    maps = {"mask": torch.from_numpy(masks).float()}
    features = {}
    if "features" in shards.tensors[0]:
        features["image"] = torch.from_numpy(pick("features")).float().flatten(0, 1)
    if images:
        rgb = torch.from_numpy(pick("rgb")).flatten(0, 1)
        maps["image"] = rgb.permute(0, 3, 1, 2).float() / 255
    intrinsics = torch.from_numpy(pick("intrinsics"))
    cameras = torch.from_numpy(pick("camera_from_object"))
    if pointmap:
        depth = torch.from_numpy(pick("depth")).float()
        maps["pointmap"], moments = _pointmaps(depth, intrinsics, size)
        poses = tuple(pose_from_camera(camera) for camera in cameras[:, 0])
        moments = Moments(moments.scale[:, 0], moments.shift[:, 0])
    else:
        poses, moments = _crop_poses(cameras[:, 0], intrinsics[:, 0], size)
    return ViewBatch(maps, features, count, poses, moments)


def with_strangers(views: ViewBatch, where: Bool[np.ndarray, " batch"], view: int) -> ViewBatch:
    """The same, but in the objects `where`, their view number `view` is that of the next object of the batch.

    A network that sees this learns to go by what most of the views say.
    """
    assert 0 < view < views.count, "the reference view tells whose pose it is"
    rows = torch.from_numpy(np.flatnonzero(where)) * views.count + view
    others = (rows + views.count) % (len(where) * views.count)

    def swapped(maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.index_copy(0, rows, value[others]) for name, value in maps.items()}

    return replace(views, maps=swapped(views.maps), features=swapped(views.features))


def _crop_poses(
    cameras: Float[Tensor, "batch 4 4"], intrinsics: Float[Tensor, "batch 3 3"], size: int
) -> tuple[tuple[Pose, ...], Moments]:
    """Poses in units in which the object's centre lies at the depth where the crop is one unit wide (`crop_plane`)."""
    f, cx, cy = intrinsics[:, 0, 0], intrinsics[:, 0, 2], intrinsics[:, 1, 2]
    plane = torch.stack([(size / 2 - cx) / size, (size / 2 - cy) / size, f / size], 1)
    unit = plane[:, 2] / cameras[:, 2, 3]
    poses = []
    for camera, u in zip(cameras, unit, strict=True):
        moved = camera.clone()
        moved[:3, 3] *= u
        poses.append(pose_from_camera(moved, float(u)))
    return tuple(poses), Moments(torch.ones_like(plane), p3d_from_camera(plane))


def _pointmaps(
    depth: Float[Tensor, "batch view h w"], intrinsics: Float[Tensor, "batch view 3 3"], size: int
) -> tuple[Float[Tensor, "_ 3 h w"], Moments]:
    """Normalised point maps of all views, and their scales and shifts [batch, view, 3]."""
    b, v, _, w = depth.shape
    step = size / w  # depth is kept at the centres of every other pixel's upper left
    pixel = torch.arange(w) * step + 0.5
    k = intrinsics[..., None, None]
    x = (pixel - k[:, :, 0, 2]) / k[:, :, 0, 0] * depth
    y = (pixel[:, None] - k[:, :, 1, 2]) / k[:, :, 1, 1] * depth
    points = p3d_from_camera(torch.stack([x, y, depth], -1)).permute(0, 1, 4, 2, 3).flatten(0, 1)
    points = torch.where(points.isfinite().all(1, keepdim=True), points, torch.nan)
    maps, scales, shifts = [], [], []
    for cloud in points:
        inside = cloud[:1].isfinite().float()
        moments = moments_of(cloud, inside, OBJECT_UNITS)
        maps.append(normalised(cloud, moments, OBJECT_UNITS))
        scales.append(moments.scale)
        shifts.append(moments.shift)
    return torch.stack(maps), Moments(torch.stack(scales).view(b, v, 3), torch.stack(shifts).view(b, v, 3))
