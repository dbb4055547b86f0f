"""`python -m mvsam3d.training RECIPE ...`: `mvsam3d train` for machines that have this tree, torch, numpy, numba,
safetensors, scipy, pillow, jaxtyping and pydantic, and nothing else."""

import argparse
import sys
import time
from pathlib import Path

from mvsam3d.errors import MvSam3dError
from mvsam3d.training.recipes import PARTS, RECIPES, RunOptions, export_run, train_recipe

EVERY = 10.0  # seconds between two lines


def main() -> int:
    """Parse, train or export. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mvsam3d.training")
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--run", type=Path, default=Path("runs/small"))
    parser.add_argument("--data", type=Path, default=Path("cache"))
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--meshes", type=Path)
    parser.add_argument("--start")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--export", type=Path)
    arguments = vars(parser.parse_args())
    recipe, export = arguments.pop("recipe"), arguments.pop("export")
    options = RunOptions(**arguments)
    last = 0.0

    def report(text: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY or done == of:
            last = time.monotonic()
            sys.stderr.write(f"{text}  {done}/{of}\n")

    try:
        if export is not None:
            export_run(recipe, options, export)
        else:
            train_recipe(recipe, options, report)
    except MvSam3dError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
