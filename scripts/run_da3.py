"""Depth Anything 3 on a folder of photos, by the public script's name and flags."""

import sys

from mvsam3d.perception.depth_flags import main

if __name__ == "__main__":
    sys.exit(main())
