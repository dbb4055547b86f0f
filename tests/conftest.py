"""One thread for each of several test processes: the threads of processes that share cores spin while they wait for each other."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # of the commands that tests start, too

    import torch

    torch.set_num_threads(1)
