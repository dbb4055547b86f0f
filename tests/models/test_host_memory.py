"""Memory that goes back to the system: seen from outside, in a process of its own."""

import os
import subprocess
import sys

import pytest

from mvsam3d.models.host_memory import give_large_blocks_back

SCRIPT = """
import sys
from pathlib import Path
import torch
from mvsam3d.models.host_memory import give_large_blocks_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

if sys.argv[1] == "given back":
    give_large_blocks_back()
torch.ones(5_000_000)  # glibc learns from it that blocks of 20 MB come and go
before, large, small = resident(), [], []
for _ in range(10):
    large.append(torch.ones(5_000_000))
    small.append(torch.ones(50_000))  # between them, and still used
del large
print(resident() - before)
"""


def left(how: str) -> float:
    """MiB that are resident after 190 MiB have been freed."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], env=plain, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not give_large_blocks_back(), reason="not the GNU C library")
def test_large_blocks_go_back_between_small_ones() -> None:
    assert left("given back") < 10
    assert left("kept") > 100  # what it is for
