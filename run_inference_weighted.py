"""The public script's name and flags: `mvsam3d reconstruct` with both stages weighted by entropy, results in visualization/."""

import sys

from mvsam3d.cli import public_main

if __name__ == "__main__":
    sys.exit(public_main())
