"""Thin out the points of a GLB or PLY: the mean of each cell, every n-th point, or a share by chance.

python tools/downsample_pointcloud.py output.glb --voxel 0.02 -o output_down.ply
python tools/downsample_pointcloud.py output.glb --uniform 2 -o output_down.ply
python tools/downsample_pointcloud.py output.glb --random 0.5 -o output_down.ply

Of a mesh the vertices are taken. Coordinates stay as they are in the file.
"""

import argparse
import sys
from pathlib import Path

from mvsam3d.errors import MvSam3dError
from mvsam3d.io.point_clouds import Downsampling, chosen_thinning, downsample


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where the input is at fault (said on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="GLB or PLY: points, a mesh, or Gaussians")
    parser.add_argument("--voxel", type=float, metavar="SIDE", help="mean of the points in each cell of this side")
    parser.add_argument("--uniform", type=int, metavar="N", help="every N-th point")
    parser.add_argument("--random", type=float, metavar="SHARE", help="this share of the points, in (0, 1]")
    parser.add_argument("--seed", type=int, default=42, help="of --random")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".ply or .glb")
    given = parser.parse_args(arguments)
    try:
        how = chosen_thinning(voxel=given.voxel, uniform=given.uniform, random=given.random, seed=given.seed)
        done = downsample(Downsampling(given.source, given.output, how))
    except MvSam3dError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    share = done.after / done.before
    colours = "with colours" if done.coloured else "without colours"
    sys.stdout.write(f"{given.output}: {done.after:,} of {done.before:,} points ({share:.1%}), {colours}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
