"""A model's solids on held-out objects, beside two yardsticks that look at no shape.

python benchmarks/held_out.py [--data cache] [--model small] [--meshes MESHES] [--out TABLE.json]
"""

import argparse
import sys
from pathlib import Path

from mvsam3d.errors import MvSam3dError
from mvsam3d.evaluation.benchmark import evaluate_model
from mvsam3d.evaluation.report import as_table, write_table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure a model on held-out objects, beside two yardsticks.")
    parser.add_argument(
        "--data", type=Path, default=Path("cache"), help="folder of the shards; held-out ones are made if missing"
    )
    parser.add_argument("--model", default="small", help="small, or the folder of a checkpoint")
    parser.add_argument("--meshes", type=Path, help="folder of meshes, to measure on its val split too")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    given = parser.parse_args(arguments)
    try:
        table = evaluate_model(given.model, given.data, given.meshes)
    except MvSam3dError as error:
        print(f"held_out.py: {error}", file=sys.stderr)
        return 1
    print(as_table(table))
    if given.out is not None:
        write_table(table, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
