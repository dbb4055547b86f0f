"""How long it takes to photograph and judge an object, without the reconstruction itself.

python benchmarks/evaluator.py MESHES [--split val] [--objects 5] [--protocol default] [--views 4] [--out times.json]
    The answers are the true meshes, turned and scaled, with cameras: all that a protocol measures is measured. Processor seconds of one
    core, compiled kernels warmed up on the first object; at the end the time of 100 objects on two cores.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvsam3d.evaluation.protocols import PROTOCOLS, Judgement, Protocol, input_rig, judged
from mvsam3d.evaluation.rigs import captured
from mvsam3d.evaluation.subjects import Answer, Subject, SubjectFile, read_subject, spread, subject_files
from mvsam3d.io.runs import write_whole
from mvsam3d.io.scenes import transformed_mesh
from mvsam3d.types import Camera

OBJECTS, CORES, MINUTES = 100, 2, 10  # what an evaluation may take


@dataclass(frozen=True)
class Timing:
    """Processor seconds of one object."""

    name: str
    faces: int
    read: float
    photographed: float
    judged: float

    @property
    def total(self) -> float:
        return self.read + self.photographed + self.judged


def elsewhere(subject: Subject, cameras: tuple[Camera, ...], seed: int) -> Answer:
    """The truth as an answer in a frame of its own."""
    truth_from_answer = np.eye(4)
    truth_from_answer[:3, :3] = 2.0 * Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    mesh = transformed_mesh(subject.mesh, np.linalg.inv(truth_from_answer))
    own = tuple(replace(c, camera_from_world=c.camera_from_world @ truth_from_answer) for c in cameras)
    return Answer(mesh, truth_from_answer=truth_from_answer, cameras=own)


def measured(file: SubjectFile, protocol: Protocol, views: int) -> tuple[Timing, Judgement]:
    marks = [time.process_time()]
    subject = read_subject(file)
    marks.append(time.process_time())
    inputs = captured(subject, input_rig(protocol, views), protocol.size)
    tests = captured(subject, protocol.tests, protocol.size)
    marks.append(time.process_time())
    answer = elsewhere(subject, inputs.cameras, 0)
    marks.append(time.process_time())
    found = judged(answer, subject, inputs, tests, protocol, np.random.default_rng(0))
    marks.append(time.process_time())
    steps = np.diff(marks)
    return Timing(subject.name, len(subject.mesh.faces), *(float(steps[i]) for i in (0, 1, 3))), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--objects", type=int, default=5, help="0: all")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="default")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    protocol = PROTOCOLS[options.protocol]
    files = spread(subject_files(options.meshes, split=options.split), options.objects or None)
    measured(files[0], protocol, options.views)  # compiles
    timings = []
    print(
        f"protocol {protocol.name}: {options.views} photos in, {protocol.tests.views} kept back, {protocol.size} pixels"
    )
    print(f"{'object':44} {'faces':>7} {'read':>6} {'photos':>6} {'judged':>6} {'sum':>6}   s of one core")
    for file in files:
        timing, found = measured(file, protocol, options.views)
        timings.append(timing)
        row = f"{timing.read:6.2f} {timing.photographed:6.2f} {timing.judged:6.2f} {timing.total:6.2f}"
        print(f"{timing.name[:44]:44} {timing.faces:7} {row}   {', '.join(found.missing)}")
    mean = float(np.mean([timing.total for timing in timings]))
    minutes = mean * OBJECTS / CORES / 60
    verdict = "within" if minutes <= MINUTES else "over"
    print(
        f"mean {mean:.2f} s; {OBJECTS} objects on {CORES} cores: {minutes:.1f} minutes, {verdict} the {MINUTES} allowed"
    )
    if options.out:
        content = {
            "protocol": protocol.name,
            "views": options.views,
            "minutes": minutes,
            "objects": [asdict(t) for t in timings],
        }
        write_whole(options.out, json.dumps(content, indent=1).encode())


if __name__ == "__main__":
    main()
