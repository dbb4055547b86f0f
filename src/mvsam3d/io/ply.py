"""GaussianCloud <-> PLY as 3D Gaussian splatting viewers read it.

Binary little endian, one element `vertex` of 17 float32 properties, in the object frame (+Z up, not turned as the GLB
is; comments in the header say so): normals 0, opacity as logit, scales as natural logarithm, rotation w first and not
normalised, colour as the spherical harmonic of degree 0. Other writers' files may hold more, as `f_rest_*` (higher
harmonics): it is ignored.
"""

import logging
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from mvsam3d.errors import BadFile
from mvsam3d.io.runs import write_whole
from mvsam3d.types import GaussianCloud

PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
NEEDED = tuple(name for name in PROPERTIES if name not in ("nx", "ny", "nz"))
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"},
    **{"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8"},
}
HEADER_LIMIT = 1 << 16  # bytes; a file with 45 f_rest properties has 1.5 kB
PROPERTY_LIMIT = 512
FRAME_COMMENTS = (  # by rows, on column vectors: see docs/frames.md
    "comment frame: object\ncomment glb_from_object: 1 0 0 0 0 0 1 0 0 -1 0 0 0 0 0 1\n"
)
OPAQUE = 1 - 2.0**-24  # largest float32 under 1: keeps the logit finite

logger = logging.getLogger(__name__)


def ply_rows(cloud: GaussianCloud) -> Float32[np.ndarray, "gaussian 17"]:
    """The stored values, columns in the order of PROPERTIES."""
    means, scales, rotations, opacities, sh_dc = (
        value.detach().cpu().double()
        for value in (cloud.means, cloud.scales, cloud.rotations, cloud.opacities, cloud.sh_dc)
    )
    logits = torch.logit(opacities, eps=1 - OPAQUE)
    rows = [means, torch.zeros_like(means), sh_dc, logits[:, None], scales.log(), rotations]
    return torch.cat(rows, dim=1).float().numpy()


def write_ply(path: Path, cloud: GaussianCloud) -> None:
    """Write the cloud, whole or not at all. Raises: BadFile: no Gaussians, or values that are not finite."""
    rows = ply_rows(cloud)
    if len(rows) == 0:
        raise BadFile(f"{path} not written: there are no Gaussians")
    broken = int((~np.isfinite(rows).all(axis=1)).sum())
    if broken:
        raise BadFile(
            f"{path} not written: {broken} of {len(rows)} Gaussians hold NaN, infinity or a scale <= 0; "
            "the network that made them is at fault, try another checkpoint or precision"
        )
    properties = "".join(f"property float {name}\n" for name in PROPERTIES)
    head = f"ply\nformat binary_little_endian 1.0\n{FRAME_COMMENTS}element vertex {len(rows)}\n"
    header = f"{head}{properties}end_header\n"
    write_whole(path, header.encode("ascii") + rows.astype("<f4").tobytes())


def read_ply(path: Path) -> GaussianCloud:
    """Read our own or any standard Gaussian PLY.

    Raises: BadFile: broken, of another kind, or with values that are not finite.
    """
    try:
        with path.open("rb") as file:
            count, layout, start = _parse_header(file.read(HEADER_LIMIT), path)
            file.seek(start)
            left = path.stat().st_size - start
            if count * layout.itemsize > left:
                raise BadFile(
                    f"{path} is cut short: {count} Gaussians need {count * layout.itemsize:,} bytes after the header, "
                    f"there are {left:,}"
                )
            table = np.fromfile(file, dtype=layout, count=count)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from error
    return _cloud(table, path)


def _parse_header(head: bytes, path: Path) -> tuple[int, np.dtype[np.void], int]:
    """Number of Gaussians, the record of each, and where the first begins. Raises: BadFile."""
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0 or b"\n" not in head[end:]:
        raise BadFile(f"{path} is not a PLY file, or its header is longer than {HEADER_LIMIT:,} bytes")
    lines = [line.split() for line in head[:end].decode("ascii", errors="replace").splitlines()]
    lines = [line for line in lines[1:] if line and line[0] not in ("comment", "obj_info")]
    if not lines or lines[0] != ["format", "binary_little_endian", "1.0"]:
        raise BadFile(f"{path}: its PLY format is not binary_little_endian 1.0, which is the only one read")
    elements = [i for i, line in enumerate(lines) if line[0] == "element"]
    if elements[:1] != [1] or not re.fullmatch("element vertex [0-9]{1,15}", " ".join(lines[1])):
        raise BadFile(f"{path}: its first element must be `vertex` with a count; compressed splats are not read")
    properties = lines[2 : elements[1] if len(elements) > 1 else None]
    return int(lines[1][2]), _record(properties, path), head.index(b"\n", end) + 1


def _record(properties: list[list[str]], path: Path) -> np.dtype[np.void]:
    names = [line[-1] for line in properties]
    strange = [line for line in properties if len(line) != 3 or line[0] != "property" or line[1] not in TYPES]
    if strange or len(names) > PROPERTY_LIMIT or len(set(names)) < len(names):
        what = f"`{' '.join(strange[0])[:80]}`" if strange else "repeated names, or too many properties"
        raise BadFile(f"{path}: cannot read the properties of its vertices: {what}")
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise BadFile(f"{path} holds no Gaussians: its vertices have no {', '.join(missing)}")
    ignored = [name for name in names if name not in PROPERTIES]
    if ignored:
        logger.debug("%s: %d properties ignored, from %s to %s", path, len(ignored), ignored[0], ignored[-1])
    return np.dtype([(line[2], TYPES[line[1]]) for line in properties])


def _cloud(table: np.ndarray, path: Path) -> GaussianCloud:
    def columns(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([table[name].astype(np.float64) for name in names], axis=1))

    cloud = GaussianCloud(
        means=columns("x", "y", "z").float(),
        scales=columns("scale_0", "scale_1", "scale_2").exp().float(),
        rotations=columns("rot_0", "rot_1", "rot_2", "rot_3").float(),
        opacities=columns("opacity")[:, 0].sigmoid().float(),
        sh_dc=columns("f_dc_0", "f_dc_1", "f_dc_2").float(),
    )
    values = [cloud.means, cloud.scales, cloud.rotations, cloud.opacities[:, None], cloud.sh_dc]
    broken = int((~torch.cat(values, dim=1).isfinite().all(dim=1)).sum())
    if len(table) == 0 or broken:
        found = f"{broken} of {len(table)} Gaussians hold NaN or infinity" if broken else "it holds no Gaussians"
        raise BadFile(f"{path}: {found}: write it again")
    return cloud
