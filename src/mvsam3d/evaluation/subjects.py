"""What is judged against what: true objects, photos of them, and what a system made of the photos.

The truth's frame has +Z up and the units of the file: glTF, OBJ and PLY files are taken to have +Y up (`up` says otherwise), the
collections with an index.json and the real scenes have +Z up as they are. An answer is in its system's own frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from mvsam3d.errors import BadFile, BadScene, MvSam3dError
from mvsam3d.evaluation.mesh_files import KINDS, Up, read_mesh_file
from mvsam3d.evaluation.solids import Winding, longest_side, volume, winding_of, with_used_vertices
from mvsam3d.geometry.cameras import resized
from mvsam3d.io.cameras import load_cameras
from mvsam3d.io.photos import load_photos
from mvsam3d.types import Camera, GaussianCloud, Mesh, Photo

Inside = Callable[[Float[np.ndarray, "point 3"]], Bool[np.ndarray, " point"]]
INDEX = "index.json"
LARGEST_INDEX = 256 << 20  # bytes
MANY_FACES = 500_000
FLAT = 1e-3  # least side of the box in longest sides


@dataclass(frozen=True)
class Subject:
    """One true object."""

    name: str
    mesh: Mesh  # in the truth's frame
    solid: Inside | None  # which points of the truth's frame are inside; None: the surface is not closed
    source: str  # the file it was read from
    notes: tuple[str, ...] = ()  # what is wrong with it, one finding each


@dataclass(frozen=True)
class Capture:
    """Photos of an object with masks, and the true cameras, whose world is the truth's frame."""

    photos: tuple[Photo, ...]
    cameras: tuple[Camera, ...]
    background: Literal["white", "scene"] = "white"  # of the photos: rendered ones stand on white


@dataclass(frozen=True)
class Answer:
    """What a system made, in the system's own frame."""

    mesh: Mesh | None = None
    occupied: Bool[np.ndarray, "x y z"] | None = None  # filled solid in the cube [-0.5, 0.5]^3, axes x, y, z
    gaussians: GaussianCloud | None = None
    truth_from_answer: Float[np.ndarray, "4 4"] | None = None  # similarity, if the system was given the true cameras
    cameras: tuple[Camera, ...] | None = None  # of the input photos, the answer's frame as world; may scale
    seconds: float = 0.0


@dataclass(frozen=True)
class Broken:
    """A file that is no subject, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Subjects:
    """What a folder holds."""

    subjects: tuple[Subject, ...]
    broken: tuple[Broken, ...]


@dataclass(frozen=True)
class SubjectFile:
    """A subject before it is read."""

    name: str
    path: Path
    up: Up


def subject_files(folder: Path, *, split: str | None = None, up: Up = "y") -> tuple[SubjectFile, ...]:
    """The mesh files of a folder, in the order of its index.json or else by name.

    Args:
        split: "train" or "val" of an index.json; None takes all.
        up: axis that points up in the files; an index.json's files have +Z up.
    Raises: BadFile: no folder, no mesh in it, a broken index, or a split without an index.
    """
    if not folder.is_dir():
        raise BadFile(f"{folder} is not a folder: give one with {', '.join(KINDS)} files")
    if (folder / INDEX).is_file():
        return _indexed(folder, split)
    if split is not None:
        raise BadFile(f"{folder} has no {INDEX}, so it has no split {split!r}: leave the split out")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS)
    if not paths:
        raise BadFile(f"{folder} holds no {', '.join(KINDS)} files")
    stems = [path.stem for path in paths]
    names = [path.name if stems.count(path.stem) > 1 else path.stem for path in paths]
    return tuple(SubjectFile(name, path, up) for name, path in zip(names, paths))


def _indexed(folder: Path, split: str | None) -> tuple[SubjectFile, ...]:
    if (folder / INDEX).stat().st_size > LARGEST_INDEX:
        raise BadFile(f"{folder / INDEX} has more than {LARGEST_INDEX:,} bytes: it is no index of meshes")
    try:
        rows = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        found = [(f"{row['set']}-{row['id']}", str(row["file"]), str(row["split"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFile(f"{folder / INDEX} is not an index of meshes: {error!r}") from error
    splits = sorted({row[2] for row in found})
    if split is not None and split not in splits:
        raise BadFile(f"{folder / INDEX} has no split {split!r}: it has {', '.join(splits)}")
    outside = [file for _, file, _ in found if Path(file).is_absolute() or ".." in Path(file).parts]
    if outside:
        raise BadFile(f"{folder / INDEX} names a file outside the folder: {outside[0]}")
    return tuple(SubjectFile(name, folder / file, "z") for name, file, of in found if split in (None, of))


def read_subject(file: SubjectFile) -> Subject:
    """One true object, its faces turned outward if they all look inward. Raises: BadFile: broken, or without any surface."""
    mesh, notes = read_mesh_file(file.path, file.up)
    mesh = with_used_vertices(mesh)
    unit = longest_side(mesh.vertices)
    if not unit > 0 or not np.isfinite(unit):
        raise BadFile(f"{file.path} has no extent: its {len(mesh.vertices)} vertices lie at one point or too far apart")
    found = list(notes)
    if len(mesh.faces) >= MANY_FACES:
        found.append(f"{len(mesh.faces):,} faces: slow to judge")
    if float(np.ptp(mesh.vertices, axis=0).min()) < FLAT * unit:
        found.append("flat: it has no volume to speak of")
    if mesh.texture is None and mesh.vertex_colours is None:
        found.append("no colours: shown grey")
    inside = winding_of(mesh)
    if isinstance(inside, Winding) and volume(inside.vertices, inside.faces) < 0:
        found.append("inside out: its faces were turned")
        mesh, inside = replace(mesh, faces=mesh.faces[:, ::-1]), Winding(inside.vertices, inside.faces[:, ::-1].copy())
    if not isinstance(inside, Winding):
        found.append(f"not closed: {inside} open edges")
    return Subject(file.name, mesh, inside if isinstance(inside, Winding) else None, str(file.path), tuple(found))


def read_subjects(folder: Path, *, split: str | None = None, up: Up = "y", objects: int | None = None) -> Subjects:
    """All true objects of a folder; those that cannot be read are named, with the reason.

    Args:
        objects: at most so many, evenly spread over the folder; None takes all.
    Raises: BadFile: see `subject_files`.
    """
    subjects, broken = [], []
    for file in spread(subject_files(folder, split=split, up=up), objects):
        try:
            subjects.append(read_subject(file))
        except MvSam3dError as error:
            broken.append(Broken(file.name, str(error)))
    return Subjects(tuple(subjects), tuple(broken))


def spread(files: tuple[SubjectFile, ...], most: int | None) -> tuple[SubjectFile, ...]:
    """At most so many of the files, evenly spread."""
    if most is None or most >= len(files):
        return files
    chosen = np.unique(np.linspace(0, len(files) - 1, most).round().astype(np.int64))
    return tuple(files[i] for i in chosen)


def is_real_scene(folder: Path) -> bool:
    """Whether a folder is one of photos with true cameras."""
    return (folder / "cameras.json").is_file()


def read_real_subject(folder: Path) -> tuple[Subject | None, Capture, dict[int, tuple[int, ...]]]:
    """Photos of a real object with masks and cameras (`images`, `masks`, cameras.json), and mesh.glb if it is there.

    Returns: the object (None without a mesh: shape cannot be judged), the photos, and by number of views which of the photos to put in,
        as cameras.json suggests.
    Raises: BadScene: no cameras. BadFile, BadPhoto: a broken file.
    """
    if not is_real_scene(folder):
        raise BadScene(f"{folder} has no cameras.json: without true cameras nothing can be judged")
    photos, _ = load_photos(folder)
    cameras = load_cameras(folder / "cameras.json", [photo.name for photo in photos])
    subject = None
    if (folder / "mesh.glb").is_file():
        subject = read_subject(SubjectFile(folder.name, folder / "mesh.glb", "z"))
    return subject, Capture(photos, cameras, "scene"), _suggested(folder / "cameras.json", photos)


def _suggested(path: Path, photos: tuple[Photo, ...]) -> dict[int, tuple[int, ...]]:
    """Positions among the photos; cameras.json counts its own views."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stems = [Path(view["image"]).stem for view in content["views"]]
        places = {photo.name: i for i, photo in enumerate(photos)}
        chosen = content.get("suggested_inputs", {})
        return {int(count): tuple(places[stems[i]] for i in views) for count, views in chosen.items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadFile(f"{path}: suggested_inputs does not name views of the scene ({error!r})") from error


def sized(capture: Capture, side: int) -> Capture:
    """Photos brought down to `side` pixels along their longer side, by the mean of what each new pixel covers, and their cameras."""
    pairs = [_sized(photo, camera, side) for photo, camera in zip(capture.photos, capture.cameras, strict=True)]
    return Capture(tuple(photo for photo, _ in pairs), tuple(camera for _, camera in pairs), capture.background)


def _sized(photo: Photo, camera: Camera, side: int) -> tuple[Photo, Camera]:
    height, width = photo.mask.shape
    if max(height, width) <= side:
        return photo, camera
    zoom = side / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    rgb = np.asarray(Image.fromarray(photo.rgb).resize(size, Image.Resampling.BOX))
    cover = np.asarray(Image.fromarray(photo.mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    return Photo(photo.name, rgb, cover > 0.5, photo.path), resized(camera, *size)
