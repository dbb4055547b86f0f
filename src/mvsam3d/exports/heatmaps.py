"""Pictures of what each view says where: heat maps on the voxels beside the photos, and turns around the object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from mvsam3d.exports.colours import Scale
from mvsam3d.exports.voxels import Cubes, Matrix, picture
from mvsam3d.rendering.framing import Box, square_around, square_intrinsics, turn_camera
from mvsam3d.types import Camera, Photo

Tile = UInt8[np.ndarray, "tile tile 3"]
Row = list[tuple[str, Tile]]  # tiles with their captions

TILE = 260  # pixels of a tile's side
GAP, LABEL, TITLE, BAR = 10, 20, 32, 16  # pixels between tiles, of a caption, the title, the colour bar
INK = (40, 40, 40)
TICKS = 6  # numbers under the colour bar
MARGIN = 1.2  # side of a tile, in sides of what it shows
ROWS = 4  # views one below the other before a second column begins
TURN_ELEVATION, TURN_START, TURN_DISTANCE = 20.0, 30.0, 6.0  # degrees, so that two sides and the top show; object cubes
TURNS = ("front", "right", "back", "left")
BEHIND = np.diag([-1.0, -1.0, 1.0, 1.0])  # half a turn of the object about its upright axis


def heat_map(
    path: Path,
    title: str,
    photos: Sequence[Photo],
    cameras: Sequence[Camera],
    shape: Cubes,
    values: Float[np.ndarray, "view voxel"],
    scale: Scale,
    captions: Sequence[str],
) -> None:
    """A row a view: its photo around the object, the voxels from the same place in the colours of the view's values, and from behind.

    Args:
        cameras: each photo's, with the object frame as the world (`generation.pose.placed_camera`).
        captions: a few words on each view, beside its name.
    """
    rows: list[Row] = []
    for photo, camera, row, caption in zip(photos, cameras, values, captions, strict=True):
        colours, box = scale(row), square_around(photo.mask, MARGIN)
        pose, behind = camera.camera_from_world, camera.camera_from_world @ BEHIND
        seen = picture(shape, colours, square_intrinsics(camera.intrinsics, box, TILE), pose, TILE)
        back = picture(shape, colours, _fitting(shape, behind), behind, TILE)
        rows.append([(f"view {photo.name}", _cut(photo, box)), (caption, seen), ("from behind", back)])
    high = math.ceil(len(rows) / math.ceil(len(rows) / ROWS))
    joined = [[tile for row in rows[i::high] for tile in row] for i in range(high)]
    _sheet(title, joined, scale).save(path)


def turn(path: Path, title: str, shape: Cubes, values: Float[np.ndarray, " cell"], scale: Scale) -> None:
    """The cells from four sides, in the colours of their values. The cube's middle is in each tile's."""
    azimuths = [TURN_START + 360 * i / len(TURNS) for i in range(len(TURNS))]
    poses, colours = [turn_camera(azimuth, TURN_ELEVATION, TURN_DISTANCE) for azimuth in azimuths], scale(values)
    lens = min((_fitting(shape, pose) for pose in poses), key=lambda lens: float(lens[0, 0]))  # one size in all four
    lens[:2, 2] = TILE / 2
    row = [(name, picture(shape, colours, lens, pose, TILE)) for name, pose in zip(TURNS, poses, strict=True)]
    _sheet(title, [row], scale).save(path)


def _sheet(title: str, rows: Sequence[Row], scale: Scale) -> Image.Image:
    """Rows of tiles under a title, over one colour bar."""
    width = max(len(row) for row in rows) * (TILE + GAP) + GAP
    top = TITLE + len(rows) * (LABEL + TILE + GAP)
    sheet = Image.new("RGB", (width, top + BAR + 3 * LABEL), "white")
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(size=17), ImageFont.load_default(size=13)
    draw.text((GAP, 7), title, fill=INK, font=large)
    for i, row in enumerate(rows):
        y = TITLE + i * (LABEL + TILE + GAP)
        for j, (caption, tile) in enumerate(row):
            x = GAP + j * (TILE + GAP)
            draw.text((x, y + 2), caption, fill=INK, font=small)
            sheet.paste(Image.fromarray(tile), (x, y + LABEL))
    left, length = 3 * GAP, width - 6 * GAP
    steps = scale(np.linspace(scale.low, scale.high, length))
    bar = np.broadcast_to(np.round(255 * steps).astype(np.uint8), (BAR, length, 3))
    sheet.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, top))
    digits = max(0, 2 - math.floor(math.log10(scale.high - scale.low)) - 1)  # two that change
    for share in np.linspace(0, 1, TICKS):
        x = left + round(share * (length - 1))
        draw.line([(x, top + BAR), (x, top + BAR + 4)], fill=INK)
        number = f"{scale.low + share * (scale.high - scale.low):.{digits}f}"
        draw.text((x, top + BAR + 6), number, fill=INK, font=small, anchor="ma")
    draw.text((width / 2, top + BAR + 8 + LABEL), scale.label, fill=INK, font=small, anchor="ma")
    return sheet


def _cut(photo: Photo, box: Box) -> UInt8[np.ndarray, "tile tile 3"]:
    """The photo in the square, white outside; what is not the object is paler."""
    left, top, side = box
    paler = np.where(photo.mask[..., None], photo.rgb, 255 - (255 - photo.rgb) // 3).astype(np.uint8)
    x1, y1, x2, y2 = (round(edge) for edge in (left, top, left + side, top + side))
    sheet = Image.new("RGB", (x2 - x1, y2 - y1), "white")
    sheet.paste(Image.fromarray(paler), (-x1, -y1))
    return np.asarray(sheet.resize((TILE, TILE), Image.Resampling.BOX if side > TILE else Image.Resampling.BILINEAR))


def _fitting(shape: Cubes, camera_from_object: Matrix) -> Float[np.ndarray, "3 3"]:
    """A lens that shows all cells, however the camera looks at them."""
    seen = shape.vertices @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
    flat = seen[:, :2] / np.maximum(seen[:, 2:], 1e-6)
    least, most = flat.min(axis=0), flat.max(axis=0)
    focal = TILE / (MARGIN * max(float((most - least).max()), 1e-6))
    centre = TILE / 2 - focal * (least + most) / 2
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
