"""What large frozen image encoders make of a photo, kept on disk by content: shared between runs, and between objects of one photo."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mvsam3d.models.bundle import Models
from mvsam3d.models.image_encoder import VitConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig
from mvsam3d.models.view_tokens import ViewTokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder of tensors that holds no more than `most` bytes: those used longest ago go first."""

    folder: Path
    most: int = 2 << 30
    """A photo takes 11 MB with the public model in half precision, crops and masks included."""

    def get(self, key: str) -> Tensor | None:
        """The tensor kept under a key. A file that cannot be read counts as none, and goes."""
        path = self.folder / f"{key}.safetensors"
        try:
            tensor = load_file(path)["features"]
            os.utime(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, OSError):
            with suppress(OSError):
                path.unlink()
            return None
        return tensor

    def put(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor; several processes may do so at once. Where nothing can be written, a warning says so."""
        path = self.folder / f"{key}.safetensors"
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"features": tensor.cpu().contiguous()}, part)
            part.replace(path)
            self._shrink()
        except (OSError, SafetensorError) as problem:
            with suppress(OSError):
                part.unlink()
            log.warning("%s: embeddings cannot be kept there (%s); --no-cache leaves it alone", self.folder, problem)

    def _shrink(self) -> None:
        files = []
        for path in self.folder.glob("*.safetensors*"):
            with suppress(FileNotFoundError):  # another process was faster
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.most:
                return
            path.unlink(missing_ok=True)
            total -= size


def default_folder() -> Path:
    """Where embeddings are kept: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvsam3d" / "embeddings"


@torch.no_grad()
def image_features(
    models: Models,
    network: str,
    maps: Mapping[str, Float[Tensor, "view _ _ _"]],
    cache: EmbeddingCache | None,
) -> dict[str, Float[Tensor, "view _ _"]]:
    """The outputs of the large encoders by map, made one view at a time, so that more views take no more memory.

    Those of vision transformers may be found in the cache; they are the same numbers either way.

    Args:
        models: with this network at work.
        network: structure_condition or slat_condition.
        maps: of all views.
        cache: where they are kept; None: nowhere.
    """
    tokens: ViewTokens = getattr(models, network)
    home = models.residence
    keep = cache if home is not None and home.identity is not None else None
    found: dict[str, Tensor] = {}
    for i, embedder in enumerate(tokens.embedder.config.embedders):
        if not isinstance(embedder.network, VitConfig | PointmapConfig):
            continue
        encoder = tokens.embedder.module_list[i]
        for name, _ in embedder.inputs:
            rows = []
            for row in maps.get(name, ()):
                if isinstance(embedder.network, PointmapConfig):
                    rows.append(encoder(row[None])[0])
                    continue
                key = _key(f"{home and home.identity}/{network}/{i}/{models.dtype}/{models.device.type}", row)
                known = None if keep is None else keep.get(key)
                if known is None:
                    known = encoder(row[None])[0].to(models.dtype)
                    if keep is not None:
                        keep.put(key, known)
                rows.append(known.to(models.device))
            if rows:
                found[name] = torch.stack(rows)
    return found


def _key(encoder: str, row: Float[Tensor, "_ _ _"]) -> str:
    content = hashlib.sha256(f"{encoder}/{tuple(row.shape)}/{row.dtype}/{torch.__version__}".encode())
    content.update(row.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()
