"""Damages the files of a public folder at random, for as long as asked, and stops at anything but a result or the one error.

python -m tests.models.fuzz_readers --seconds 60 --seed 0
"""

import argparse
import io
import random
import resource
import tempfile
import time
import zipfile
from pathlib import Path

from mvsam3d.errors import CheckpointMismatch
from mvsam3d.models import public_config
from mvsam3d.models.checkpoints import load_checkpoint
from tests.models import public_folder

SLOWEST = 20.0  # seconds for one folder
MOST_MEMORY = 1 << 30  # bytes beyond what the sound folder took
WORDS = [
    b"!!python/object/apply:os.system",
    b"&a [*a]",
    b"*id001",
    b"${x}",
    b"1e999",
    b"PK\x01\x02",
    b"\x80\x02",
    b"cos\nsystem\n",
    b"R.",
]


def damaged(content: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, cut, doubled, or replaced by a word that means something."""
    found = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        # what tells of the tensors lies at both ends of an archive
        at = dice.choice(
            [dice.randrange(len(found) + 1), max(len(found) - dice.randrange(30_000), 0), dice.randrange(3000)]
        )
        match dice.randrange(5):
            case 0:
                found[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del found[at : at + dice.randint(1, 200)]
            case 2:
                found[at:at] = found[at : at + dice.randint(1, 200)]
            case 3:
                found[at:at] = dice.choice(WORDS)
            case 4:
                found[at : at + 8] = dice.choice([bytes(8), b"\xff" * 8, dice.randbytes(8)])
    return bytes(found) or b"x"


def damaged_pickle(content: bytes, dice: random.Random) -> bytes:
    """The archive written anew around a damaged list of tensors, so that the damage is reached."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, damaged(data, dice) if entry.filename.endswith("data.pkl") else data)
    return written.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    public_config.VITS[public_folder.TINY_VIT] = public_folder.VIT
    dice, tried, taken = random.Random(arguments.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        public_folder.write_public_folder(folder)
        load_checkpoint(folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sound = {path: path.read_bytes() for path in sorted(folder.iterdir())}
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            path = dice.choice(list(sound))
            inside = path.suffix == ".ckpt" and dice.random() < 0.5
            path.write_bytes((damaged_pickle if inside else damaged)(sound[path], dice))
            start, said = time.monotonic(), ""
            try:
                load_checkpoint(folder)
                taken += 1
            except CheckpointMismatch as problem:
                said = str(problem)
            except BaseException as problem:
                kept = Path(f"fuzz-{arguments.seed}-{tried}-{path.name}")
                kept.write_bytes(path.read_bytes())
                problem.add_note(f"by {kept}")
                raise
            assert "\n" not in said, said
            assert time.monotonic() - start < SLOWEST, f"{path.name}, round {tried}"
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MOST_MEMORY
            path.write_bytes(sound[path])
            tried += 1
    parser.exit(0, f"{tried} damaged folders: {taken} could be loaded, the others were refused with one error each\n")


if __name__ == "__main__":
    main()
