"""Output folders and files that appear whole or not at all, and `params.npz`."""

import json
import logging
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvsam3d.errors import BadFile, InvalidOption
from mvsam3d.types import Pose, Voxels

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

MARKER = ".mvsam3d-run"  # lists the files of a run: a folder that holds no others may be replaced by the next run
LOG = "inference.log"
PARAMS_LIMIT = 1 << 30  # bytes after unpacking; 42,000 voxels are 0.7 MB

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes: a hidden folder beside the final one until the run is done."""

    folder: Path

    def path(self, name: str) -> Path:
        """Where to write the file `name`; folders in it are made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, content: Json) -> None:
        """Write indented JSON. Raises: ValueError: NaN or infinity, which JSON cannot hold."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        self.path(name).write_text(text + "\n", encoding="utf-8")

    @contextmanager
    def log(self, level: int = logging.INFO) -> Iterator[None]:
        """Copy what the package logs into `inference.log`."""
        handler = logging.FileHandler(self.path(LOG), encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.setLevel(level)
        package = logging.getLogger("mvsam3d")
        before = package.level
        package.setLevel(min(level, package.getEffectiveLevel()))
        package.addHandler(handler)
        try:
            yield
        finally:
            package.removeHandler(handler)
            package.setLevel(before)
            handler.close()


@contextmanager
def run_folder(out: Path, *, overwrite: bool = False) -> Iterator[RunFolder]:
    """A folder that is at `out` once the block ends, and nowhere if it is left by an error or Ctrl-C.

    An empty folder, or one that holds the files of an earlier run and nothing else, is replaced.

    Args:
        overwrite: replace any folder, with all that is in it.
    Raises: InvalidOption: `out` is a file, holds other files, or holds the place where we work.
    """
    out = Path(os.path.abspath(out))
    _check_target(out, overwrite=overwrite)
    made = _make_parents(out.parent)
    hidden = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        hidden.mkdir()
        yield RunFolder(hidden)
        files = sorted(str(path.relative_to(hidden)) for path in hidden.rglob("*") if path.is_file())
        (hidden / MARKER).write_text("\n".join(files) + "\n", encoding="utf-8")
        _check_target(out, overwrite=overwrite)  # it may have been filled in the meantime
        _swap(hidden, out)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder; returns those that were not there before, outermost first."""
    missing = [path for path in [*reversed(folder.parents), folder] if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _check_target(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InvalidOption(f"{out} is a file: give a folder for the results")
    if not any(out.iterdir()):
        return
    for place, what in ((Path.cwd(), "the current folder"), (Path.home(), "your home folder")):
        if place.is_relative_to(out):
            raise InvalidOption(f"{out} holds {what} and will not be replaced: give another folder for the results")
    foreign = _foreign_files(out)
    if foreign and not overwrite:
        some = ", ".join(foreign[:3]) + ", ..." * (len(foreign) > 3)
        raise InvalidOption(
            f"{out} holds files that are not from an earlier run ({some}): "
            "give another folder, or allow overwriting to replace it with all that is in it"
        )


def _foreign_files(out: Path) -> list[str]:
    marker = out / MARKER
    ours = {MARKER, *marker.read_text(encoding="utf-8").splitlines()} if marker.is_file() else set()
    there = (str(path.relative_to(out)) for path in out.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for name in there if name not in ours) or ([] if ours else ["folders"])


def _swap(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`; the old content goes once the new is there."""
    if not out.exists():
        new.rename(out)
        return
    old = new.with_suffix(".old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there in full or not at all. Raises: BadFile: the place cannot be written."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        hidden.write_bytes(content)
        os.replace(hidden, path)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise BadFile(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def write_params(
    path: Path,
    pose: Pose,
    voxels: Voxels,
    *,
    downsample_factor: int = 1,
    pointmap: tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]] | None = None,
    matrices: Mapping[str, Float[np.ndarray, "4 4"]] | None = None,
) -> None:
    """`params.npz` with the public keys, shapes and types; equal input gives equal bytes.

    Args:
        pose: of the object in the reference view, p3d camera axes; `scale` already multiplied by `downsample_factor`.
        voxels: the active cells.
        pointmap: scale and shift of that view's point map; left out with a single view, as the public system does.
        matrices: ways between frames, target_from_source on column vectors, kept by these names beside the public keys.
    """
    coords = voxels.coords.detach().cpu().numpy().astype(np.int32)
    arrays = {
        "translation": _row(pose.translation),
        "rotation": _row(pose.rotation),
        "scale": _row(pose.scale),
        "downsample_factor": np.array(downsample_factor),
        "coords": np.concatenate([np.zeros((len(coords), 1), np.int32), coords], axis=1),
    }
    if pointmap is not None:
        arrays["pointmap_scale"], arrays["pointmap_shift"] = _row(pointmap[0]), _row(pointmap[1])
    arrays.update({name: np.asarray(matrix, np.float64) for name, matrix in (matrices or {}).items()})
    file = BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_whole(path, file.getvalue())


def _row(values: Float[Tensor, " n"]) -> Float[np.ndarray, "1 n"]:
    return values.detach().cpu().numpy().astype(np.float32)[None]


def read_params(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `params.npz`, ours or the public system's. Raises: BadFile: broken, too large, another file."""
    shapes = {"translation": (1, 3), "rotation": (1, 4), "scale": (1, 3), "downsample_factor": ()}
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > PARAMS_LIMIT:
            raise BadFile(f"{path} unpacks to {size:,} bytes, at most {PARAMS_LIMIT:,} are read: not a params.npz")
        with np.load(path, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadFile(f"{path} cannot be read as params.npz ({error}): write it again") from error
    wrong = [key for key, shape in shapes.items() if key not in arrays or arrays[key].shape != shape]
    coords = arrays.get("coords", np.empty(0))
    if wrong or coords.ndim != 2 or coords.shape[1] != 4:
        raise BadFile(f"{path} is not a params.npz: {', '.join(wrong or ['coords'])} missing or of another shape")
    return arrays
