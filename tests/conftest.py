"""One thread for each of several test processes, whose threads would spin waiting for each other; and the same examples each time."""

import os

from hypothesis import settings

# what is drawn at random is drawn alike each time; MVSAM3D_FUZZ=1 looks for new examples
settings.register_profile("same", derandomize=True)
if "MVSAM3D_FUZZ" not in os.environ:
    settings.load_profile("same")

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # of the commands that tests start, too

    import torch

    torch.set_num_threads(1)
