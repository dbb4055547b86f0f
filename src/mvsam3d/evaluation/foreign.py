"""Programs and results that are not ours: photos and masks for a program, its run without a shell, its mesh."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from mvsam3d.errors import BadFile, InvalidOption, ObjectsFailed
from mvsam3d.evaluation.mesh_files import Up, read_mesh_file
from mvsam3d.evaluation.records import slug
from mvsam3d.evaluation.subjects import Answer, Capture
from mvsam3d.geometry.frames import GLB_FROM_OBJECT
from mvsam3d.io.cameras import write_cameras

PLACES = ("photos", "masks", "out", "cameras")
NEEDED = ("photos", "out")
MESHES = (".glb", ".obj", ".ply")
FIRST = ("result", "mesh", "output")  # stems that are taken before others
WORLD, REPORT = "world_from_result.json", "report.json"
LARGEST_JSON = 16 << 20  # bytes
TOLD = 600  # last characters of what a program printed that are kept of a failure
PATIENCE = 5.0  # seconds between asking a program to stop and ending it
NOT_A_SIMILARITY = 1e-3  # largest deviation of R Rᵀ / scale² from the identity


def check_template(template: str) -> None:
    """Raises: InvalidOption: not a command line, an unknown or missing place, or a program that is not there."""
    try:
        words = shlex.split(template)
    except ValueError as problem:
        raise InvalidOption(f"external:{template}: {problem}") from problem
    used = set(re.findall(r"\{(\w*)\}", template))
    unknown, lacking = used - set(PLACES), set(NEEDED) - used
    if unknown or lacking or not words:
        what = f"{{{min(unknown)}}} is unknown" if unknown else f"{{{min(lacking or {'photos'})}}} is missing"
        raise InvalidOption(
            f"external:{template}: {what}; write {{photos}} (a folder), {{masks}} (a folder), {{cameras}} (a JSON) and {{out}} (the "
            "folder for its mesh) where the program wants them"
        )
    if shutil.which(words[0]) is None:
        raise InvalidOption(f"external:{template}: there is no program {words[0]!r} that can be run")


def run_program(template: str, inputs: Capture, work: Path, *, limit: float) -> float:
    """Run a program on the photos, without a shell; it and all that it starts end with the time limit. Returns its seconds.

    {photos} is a folder of 0.png, 1.png, ... and {masks} one of masks of those names, white on the object (it lies in {photos}/masks/);
    {cameras} the true cameras as our own JSON; {out} an empty folder for its mesh. Each is put into the words of the command line
    after it has been split into words, so that no name can add one. The program works in the caller's current folder, as relative
    paths in the command line are meant.

    Raises: ObjectsFailed: another exit status than 0, or out of time; with the end of what it printed.
    """
    work = work.absolute()
    photos, out = work / "photos", work / "out"
    masks = photos / "masks" / "object"
    masks.mkdir(parents=True)
    out.mkdir()
    for i, photo in enumerate(inputs.photos):
        Image.fromarray(photo.rgb).save(photos / f"{i}.png")
        Image.fromarray(photo.mask * np.uint8(255)).save(masks / f"{i}.png")
    cameras = work / "cameras.json"
    write_cameras(cameras, {str(i): camera for i, camera in enumerate(inputs.cameras)})
    places = {"photos": photos, "masks": masks, "out": out, "cameras": cameras}
    words = [_filled_in(word, places) for word in shlex.split(template)]
    log = work / "log.txt"
    start = time.perf_counter()
    with log.open("wb") as told:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as problem:
            raise ObjectsFailed(f"{words[0]} cannot be run: {problem.strerror or problem}") from problem
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    seconds = time.perf_counter() - start
    if status != 0:
        why = f"it was still running after {limit:g} s" if status is None else f"it ended with status {status}"
        raise ObjectsFailed(f"{words[0]} failed: {why}; it said: {_end_of(log) or 'nothing'}")
    return seconds


def _filled_in(word: str, places: dict[str, Path]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: str(places[found[1]]), word)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The program and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 4 * TOLD, 0))
        return " ".join(file.read().decode("utf-8", "replace").split())[-TOLD:]


def found_for(folder: Path, subject: str, views: int) -> Path:
    """Where the result of an object lies: SUBJECT/vN, SUBJECT.vN.glb, or for any number of views SUBJECT or SUBJECT.glb (.obj, .ply).

    Raises: ObjectsFailed: there is none.
    """
    names = dict.fromkeys(name for name in (subject, slug(subject)) if name == Path(name).name and name != "..")
    tried = []
    for name in names:
        for stem in (f"{name}/v{views}", f"{name}.v{views}", name):
            places = [folder / stem] if "/v" in stem else [folder / f"{stem}{ending}" for ending in MESHES]
            if stem == name:
                places.append(folder / name)
            tried += [str(place.relative_to(folder)) for place in places]
            for place in places:
                if place.is_file() or (place.is_dir() and _meshes(place)):
                    return place
    raise ObjectsFailed(f"{folder} has no result for {subject} with {views} views: none of {', '.join(tried)}")


def answer_in(place: Path, *, frame: str, up: Up) -> tuple[Answer, tuple[str, ...]]:
    """The mesh of a result: a file, or the mesh in a folder (result, mesh or output .glb, .obj or .ply; or the only one there is).

    The way to the cameras' world is the identity for `frame` truth; else the 4 x 4 matrix in world_from_result.json beside the mesh, on
    column vectors of the file's own axes, or what our own report.json says; else unknown.

    Returns: the answer, and what of the file's looks could not be kept.
    Raises: ObjectsFailed: no mesh, or several; BadFile: a broken one.
    """
    path = place if place.is_file() else _mesh_in(place)
    mesh, notes = read_mesh_file(path, up)
    answer = Answer(mesh=mesh, truth_from_answer=np.eye(4) if frame == "truth" else _world(path.parent, up))
    return answer, notes


def _meshes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in MESHES)


def _mesh_in(folder: Path) -> Path:
    found = _meshes(folder) if folder.is_dir() else []
    for ending in MESHES:
        for stem in FIRST:
            for path in found:
                if (path.stem.lower(), path.suffix.lower()) == (stem, ending):
                    return path
    if len(found) == 1:
        return found[0]
    if not found:
        there = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else []
        raise ObjectsFailed(f"no mesh was made: there is no .glb, .obj or .ply among {', '.join(there) or 'no files'}")
    names = ", ".join(path.name for path in found[:5])
    raise ObjectsFailed(f"{len(found)} meshes were made ({names}): call the one to be judged result.glb")


def _world(folder: Path, up: Up) -> Float[np.ndarray, "4 4"] | None:
    if (folder / WORLD).is_file():
        world_from_file = _similarity(folder / WORLD, _json(folder / WORLD))
        return world_from_file if up == "z" else world_from_file @ GLB_FROM_OBJECT
    if (folder / REPORT).is_file():
        report = _json(folder / REPORT)
        world = report.get("world") if isinstance(report, dict) else None
        if isinstance(world, dict) and "world_from_object" in world:
            return _similarity(folder / REPORT, world["world_from_object"])
    return None


def _json(path: Path) -> object:
    if path.stat().st_size > LARGEST_JSON:
        raise BadFile(f"{path} has more than {LARGEST_JSON:,} bytes")
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise BadFile(f"{path} is not JSON ({problem})") from problem
    return content


def _similarity(path: Path, value: object) -> Float[np.ndarray, "4 4"]:
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError) as problem:
        raise BadFile(f"{path} holds no 4 x 4 matrix of numbers") from problem
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise BadFile(f"{path} holds no 4 x 4 matrix of finite numbers that ends with the row 0 0 0 1")
    square = matrix[:3, :3] @ matrix[:3, :3].T
    size = np.trace(square) / 3
    if size <= 0 or np.abs(square / size - np.eye(3)).max() > NOT_A_SIMILARITY or np.linalg.det(matrix[:3, :3]) < 0:
        raise BadFile(f"{path}: its matrix does more than turn, scale alike and move")
    return matrix
