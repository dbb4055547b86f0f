"""Depth from the command line by the flags of the public scripts, older and newer spelling."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mvsam3d.errors import MvSam3dError
from mvsam3d.perception.depth_anything import DepthOptions, run_depth


def options_from_flags(arguments: Sequence[str] | None = None) -> DepthOptions:
    """Options of a command line: --image_dir or --input_path, --output_dir or --output_path, and so on; exits on unknown flags."""
    parser = argparse.ArgumentParser(
        prog="run_da3.py",
        description="Depth Anything 3 on a folder of photos -> da3_output.npz, scene.glb, pictures. The same as: mvsam3d depth",
    )
    parser.add_argument("--image_dir", "--input_path", type=Path, required=True, help="photos, or a scene with images/")
    parser.add_argument(
        "--output_dir", "--output_path", type=Path, help="folder to make; da3_outputs/SCENE if left out"
    )
    parser.add_argument("--model_path", help="folder of weights, or a name on the Hugging Face hub")
    parser.add_argument("--process_res", type=int, default=DepthOptions.process_res, help="longest side, pixels")
    parser.add_argument("--no_vis", action="store_true", help="no scene.glb and no pictures")
    parser.add_argument("--device", default=DepthOptions.device, help="cpu, cuda, cuda:1, mps")
    given = parser.parse_args(arguments)
    return DepthOptions(
        photos=given.image_dir,
        out=given.output_dir or Path("da3_outputs") / given.image_dir.resolve().name,
        model_path=given.model_path,
        process_res=given.process_res,
        no_vis=given.no_vis,
        device=given.device,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of scripts/run_da3.py. Returns the exit status."""
    options = options_from_flags(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run_depth(options)
    except MvSam3dError as error:
        sys.stderr.write(f"run_da3.py: {error}\n")
        return 1
    sys.stdout.write(f"{options.out / 'da3_output.npz'}\n")
    return 0
