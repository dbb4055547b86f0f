"""What a report shows of an answer: seen from two sides, and where its surface is wrong. Small JPEGs."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.spatial import cKDTree

from mvsam3d.evaluation.measures import surface_samples
from mvsam3d.evaluation.subjects import Subject
from mvsam3d.geometry.cameras import centred_intrinsics, project, unproject
from mvsam3d.io.scenes import transformed_mesh
from mvsam3d.rendering.framing import square_around, turn_camera
from mvsam3d.rendering.meshes import render_mesh
from mvsam3d.types import Camera, Mesh, Photo

Tile = UInt8[np.ndarray, "side side 3"]

SIDE = 144  # pixels
QUALITY = 82
SIDES = ((35.0, 22.0), (215.0, 22.0))  # azimuth and elevation of the two cameras, degrees
DISTANCE = 3.2  # from the middle of the truth's box, in its longest sides
FILLED = 0.88  # of a tile, by the true object: an answer may be larger
MOST_PHOTOS = 8
ERROR_SAMPLES = 60_000
WORST = 0.05  # of the longest side: the end of the colour scale
SCALE = np.array(
    [[226, 232, 240], [250, 204, 110], [226, 75, 38], [96, 8, 32]], np.float64
)  # sRGB at equal steps of error
ABSENT = (150, 90, 200)  # where the truth is seen and the answer is not
PLAIN = 255


def truth_cameras(truth: Mesh) -> tuple[Camera, ...]:
    """The two cameras that all tiles of an object are seen by, for tiles of SIDE pixels that it fills; truth's frame, +Z up."""
    low, high = truth.vertices.min(0).astype(np.float64), truth.vertices.max(0).astype(np.float64)
    unit_from_truth = np.eye(4)
    unit_from_truth[:3, 3] = -(low + high) / 2
    unit_from_truth[:3] /= max(float((high - low).max()), 1e-12)
    poses = [turn_camera(azimuth, elevation, DISTANCE) @ unit_from_truth for azimuth, elevation in SIDES]
    plain = centred_intrinsics(SIDE, SIDE, float(SIDE))
    pixels = [project(Camera(plain, pose, SIDE, SIDE), truth.vertices)[0] for pose in poses]
    reach = max(float(np.abs(found - SIDE / 2).max()) for found in pixels)
    lens = centred_intrinsics(SIDE, SIDE, SIDE * (SIDE / 2 * FILLED) / max(reach, 1e-12))
    return tuple(Camera(lens, pose, SIDE, SIDE) for pose in poses)


def seen(mesh: Mesh, cameras: Sequence[Camera]) -> list[Tile]:
    """A mesh in its own colours, a tile for each camera."""
    return [_bytes(render_mesh(mesh, c.intrinsics, c.camera_from_world, c.width, c.height)[0]) for c in cameras]


def error_tiles(subject: Subject, mesh: Mesh, cameras: Sequence[Camera], noise: np.random.Generator) -> list[Tile]:
    """How far each point of the answer that is seen is from the truth, by SCALE; ABSENT where the truth is seen and no answer is.

    Args:
        mesh: the answer in the truth's frame.
        noise: of the samples of the truth's surface.
    """
    tree = cKDTree(surface_samples(subject.mesh, ERROR_SAMPLES, noise).points)
    size = max(float(np.ptp(subject.mesh.vertices, axis=0).max()), 1e-12)
    tiles = []
    for camera in cameras:
        grey = Mesh(mesh.vertices, mesh.faces, np.ones_like(mesh.vertices, dtype=np.float32))
        light, cover, depth = render_mesh(
            grey, camera.intrinsics, camera.camera_from_world, camera.width, camera.height, background=(0.0, 0.0, 0.0)
        )
        there = (cover > 0.5) & np.isfinite(depth)
        points = unproject(camera, np.argwhere(there)[:, ::-1] + 0.5, depth[there].astype(np.float64))
        off, _ = tree.query(points)
        tile = np.full((camera.height, camera.width, 3), PLAIN, np.float64)
        tile[_covered(subject.mesh, camera) & ~there] = ABSENT
        shade = light[there][:, :1] / np.maximum(cover[there][:, None], 1e-6)
        tile[there] = error_colours(off / size) * (0.5 + 0.5 * shade)  # so that the shape can still be seen
        tiles.append(np.clip(tile, 0, 255).astype(np.uint8))
    return tiles


def error_colours(error: Float[np.ndarray, " point"]) -> Float[np.ndarray, "point 3"]:
    """Colours in 255ths of errors in longest sides of the truth; WORST and more is the darkest."""
    place = np.clip(error / WORST, 0, 1) * (len(SCALE) - 1)
    colours = [np.interp(place, np.arange(len(SCALE)), SCALE[:, channel]) for channel in range(3)]
    return np.stack(colours, -1)


def answer_strip(
    subject: Subject, mesh: Mesh, truth_from_answer: Float[np.ndarray, "4 4"], noise: np.random.Generator
) -> bytes:
    """JPEG of four tiles: the answer from both sides, its errors from both sides."""
    placed = transformed_mesh(mesh, truth_from_answer)
    cameras = truth_cameras(subject.mesh)
    return jpeg([*seen(placed, cameras), *error_tiles(subject, placed, cameras, noise)])


def truth_strip(subject: Subject) -> bytes:
    """JPEG of two tiles: the true object from both sides."""
    return jpeg(seen(subject.mesh, truth_cameras(subject.mesh)))


def photo_strip(photos: Sequence[Photo]) -> bytes:
    """JPEG of the photos, cut to their masks; of more than MOST_PHOTOS an even choice."""
    chosen = sorted({round(i) for i in np.linspace(0, len(photos) - 1, min(len(photos), MOST_PHOTOS))})
    return jpeg([_photo(photos[i]) for i in chosen])


def _photo(photo: Photo) -> Tile:
    left, top, length = square_around(photo.mask, 1.15)
    place = (round(left), round(top), round(left + length), round(top + length))
    padded = Image.new("RGB", (place[2] - place[0], place[3] - place[1]), (PLAIN,) * 3)
    padded.paste(Image.fromarray(photo.rgb), (-place[0], -place[1]))
    return np.asarray(padded.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def jpeg(tiles: Sequence[Tile]) -> bytes:
    """Tiles side by side."""
    file = BytesIO()
    Image.fromarray(np.concatenate(tiles, 1)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _covered(mesh: Mesh, camera: Camera) -> Bool[np.ndarray, "h w"]:
    _, cover, _ = render_mesh(mesh, camera.intrinsics, camera.camera_from_world, camera.width, camera.height)
    seen: Bool[np.ndarray, "h w"] = cover > 0.5
    return seen


def _bytes(picture: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(np.round(picture * 255), 0, 255).astype(np.uint8)
