"""Seconds and peak memory of the whole command on the example scene, and of importing the package.

python benchmarks/reconstruct.py [SCENE] [--rounds 3]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scene", nargs="?", default=str(ROOT / "examples" / "sofa"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "mvsam3d.cli",
            "reconstruct",
            arguments.scene,
            "--out",
            f"{folder}/out",
            "--quiet",
        ]
        seconds = [timed(command) for _ in range(arguments.rounds)]
    print("reconstruct:", " ".join(f"{s:.1f}" for s in seconds), f"s (best {min(seconds):.1f})")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10:.0f} MiB")
    bare = min(timed([sys.executable, "-c", "pass"]) for _ in range(5))
    loaded = min(timed([sys.executable, "-c", "import mvsam3d"]) for _ in range(5))
    print(f"import mvsam3d: {loaded - bare:.3f} s beyond the interpreter's {bare:.3f} s")


if __name__ == "__main__":
    main()
