"""One picture that shows a reconstruction: photos beside renders from the same places, and a turn around the object."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation

from mvsam3d.rendering.framing import Box, square_around, square_intrinsics, turn_camera
from mvsam3d.rendering.meshes import render_mesh
from mvsam3d.rendering.splats import render_splats
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo

Picture = UInt8[np.ndarray, "h w 3"]
Tile = UInt8[np.ndarray, "side side 3"]

GAP = 4  # pixels between tiles
LABEL = 18  # pixels above each row
MARGIN = 1.25  # side of a photo's cut-out in sides of the mask's box
OUTLINE = (230, 30, 90)
TURNS = 8
TURN_ELEVATION = 20.0  # degrees
TURN_DISTANCE = 2.8
TURN_FOCAL = 1.45 * TURN_DISTANCE / 2  # in picture sides: the unit cube's diagonal stays inside
MOST_PHOTOS = 8


def preview(
    photos: Sequence[Photo],
    mesh: Mesh | None,
    gaussians: GaussianCloud | None,
    cameras: Sequence[Camera] | None = None,
    *,
    coverage: Mesh | None = None,
    side: int = 192,
) -> Picture:
    """A sheet: the photos with their masks outlined; mesh and splats from each photo's camera; both on a turntable; coverage.

    Args:
        photos: as given; of more than MOST_PHOTOS an even choice is shown.
        mesh: in the object frame, or None to leave its rows out.
        gaussians: likewise.
        cameras: each photo's, with the object frame as the world (`camera_from_world` may scale); None: no renders
            beside the photos.
        coverage: the mesh painted by how many photos see each place (`meshing.photo_texture.coverage_mesh`), for a row of its own.
        side: of a tile, in pixels.
    """
    assert cameras is None or len(cameras) == len(photos), "a camera for each photo"
    shown = sorted({round(i) for i in np.linspace(0, len(photos) - 1, min(len(photos), MOST_PHOTOS))}) if photos else []
    boxes = {i: square_around(photos[i].mask, MARGIN) for i in shown}
    rows = [("photos " + ", ".join(photos[i].name for i in shown), [_photo(photos[i], boxes[i], side) for i in shown])]
    turns = [
        (_turn_intrinsics(side), turn_camera(360 * i / TURNS, TURN_ELEVATION, TURN_DISTANCE)) for i in range(TURNS)
    ]
    posed = []
    if cameras is not None:
        posed = [
            (square_intrinsics(cameras[i].intrinsics, boxes[i], side), cameras[i].camera_from_world) for i in shown
        ]
    for label, views in (("the photo's camera", posed), ("all around", turns)):
        if views and mesh is not None:
            rows.append((f"mesh, {label}", [_tile(render_mesh(mesh, k, pose, side, side)[0]) for k, pose in views]))
        if views and gaussians is not None:
            rows.append(
                (f"splats, {label}", [_tile(render_splats(gaussians, k, pose, side, side)[0]) for k, pose in views])
            )
    if coverage is not None:
        label = "how many photos gave each place its colour: grey none (there the colours are the model's), violet few, yellow many"
        rows.append((label, [_tile(render_mesh(coverage, k, pose, side, side, shade=False)[0]) for k, pose in turns]))
    return _sheet([row for row in rows if row[1]], side)


def _photo(photo: Photo, box: Box, side: int) -> Tile:
    left, top, length = box
    zoom = (length / side, 0, left, 0, length / side, top)
    if length > side:  # `resize` averages over the source pixels, `transform` would skip them
        place = (round(left), round(top), round(left + length), round(top + length))
        rgb = Image.fromarray(photo.rgb).crop(place).resize((side, side), Image.Resampling.BOX)
    else:
        rgb = Image.fromarray(photo.rgb).transform(
            (side, side), Image.Transform.AFFINE, zoom, Image.Resampling.BILINEAR
        )
    mask = np.asarray(Image.fromarray(photo.mask).transform((side, side), Image.Transform.AFFINE, zoom))
    tile = np.array(rgb)
    tile[binary_dilation(mask) & ~mask] = OUTLINE
    return tile


def _tile(rgb: Float[np.ndarray, "side side 3"]) -> Tile:
    return np.asarray(np.clip(255 * rgb + 0.5, 0, 255), np.uint8)


def _turn_intrinsics(side: int) -> Float[np.ndarray, "3 3"]:
    return np.array([[TURN_FOCAL * side, 0, side / 2], [0, TURN_FOCAL * side, side / 2], [0, 0, 1]])


def _sheet(rows: Sequence[tuple[str, Sequence[Tile]]], side: int) -> Picture:
    width = max((len(tiles) for _, tiles in rows), default=1) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, len(rows) * (LABEL + side + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, (label, tiles) in enumerate(rows):
        top = i * (LABEL + side + GAP) + GAP
        draw.text((GAP, top), label, fill=(60, 60, 60), font=font)
        for j, tile in enumerate(tiles):
            sheet.paste(Image.fromarray(tile), (GAP + j * (side + GAP), top + LABEL))
    return np.asarray(sheet)
