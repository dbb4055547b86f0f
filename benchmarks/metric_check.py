"""Our measures beside those of independent libraries, on meshes and answers made of them.

python benchmarks/metric_check.py MESHES [--split val] [--objects 20] [--out check.json]
    Each answer is its mesh simplified to a third of its faces, made 3 % larger, shaken and moved. Each row: a measure, whose other
    code it is compared with, both means, the largest difference of any mesh, and what allows it. Exits 1 if one is larger than that.

trimesh and scipy come with the package, scikit-image with its extra `evaluate`. open3d is a gigabyte and is not asked for:
pip install open3d (and the system's libusb-1.0) adds its rows.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist, directed_hausdorff
from scipy.spatial.transform import Rotation
from scipy.stats import wasserstein_distance_nd
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import SimilarityTransform

from mvsam3d.evaluation import measures
from mvsam3d.evaluation.alignment import best_similarity, similarity_icp, starts
from mvsam3d.evaluation.measures import Samples, surface_samples
from mvsam3d.evaluation.pictures import pictured
from mvsam3d.evaluation.rigs import Ring, rig_cameras
from mvsam3d.evaluation.solids import Winding, longest_side, merged, middle, open_edges, solid_cells, volume, winding_of
from mvsam3d.evaluation.subjects import Subject, read_subjects
from mvsam3d.geometry.cameras import centre as camera_centre
from mvsam3d.geometry.cameras import unproject
from mvsam3d.io.runs import write_whole
from mvsam3d.meshing.cleanup import simplified
from mvsam3d.training.meshes import SKIN
from mvsam3d.types import Mesh

SAMPLES, INSIDE, CELLS, PIXELS, MOVED = 20_000, 20_000, 64, 128, 64
EXACT, ALLOWED = 1e-9, 1e-3


@dataclass
class Row:
    """A measure beside another's."""

    measure: str
    other: str
    allowed: float
    why: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def largest(self) -> float:
        return float(np.abs(np.subtract(self.ours, self.theirs)).max()) if self.ours else 0.0


Finding = tuple[str, str, float, str, float, float]  # measure, other, allowed, why, ours, theirs


def unit(mesh: Mesh) -> Mesh:
    """Longest side 1 around the origin; colours are left out."""
    return Mesh((mesh.vertices - middle(mesh.vertices)) / longest_side(mesh.vertices), np.ascontiguousarray(mesh.faces))


def answer_of(mesh: Mesh, noise: np.random.Generator) -> Mesh:
    vertices, faces = merged(mesh)
    few = simplified(Mesh(vertices, faces), max(len(faces) // 3, 12)) if len(faces) > 40 else Mesh(vertices, faces)
    shaken = 1.03 * few.vertices + noise.normal(0, 0.004, few.vertices.shape) + noise.uniform(-0.02, 0.02, 3)
    return Mesh(shaken, few.faces)


def of_points(truth: Samples, answer: Samples) -> Iterator[Finding]:
    found = measures.nearest(truth, answer)
    a, b = truth.points, answer.points
    forth, back = trimesh.points.PointCloud(a).kdtree.query(b)[0], trimesh.points.PointCloud(b).kdtree.query(a)[0]
    why = "the same points"
    yield (
        "Chamfer l1",
        "trimesh kd-tree",
        EXACT,
        why,
        measures.chamfer(found, squared=False),
        (forth.mean() + back.mean()) / 2,
    )
    few = slice(0, 3000)
    some = measures.nearest(Samples(a[few], truth.normals[few]), Samples(b[few], answer.normals[few]))
    table = cdist(b[few], a[few])
    one, two = table.min(1), table.min(0)
    yield (
        "Chamfer l2",
        "scipy, all pairs",
        EXACT,
        why,
        measures.chamfer(some, squared=True),
        ((one**2).mean() + (two**2).mean()) / 2,
    )
    for t in (0.01, 0.02, 0.05, 0.1):
        p, r = (one < t).mean(), (two < t).mean()
        yield (
            f"F-score at {t:g}",
            "scipy, all pairs",
            EXACT,
            why,
            measures.f_score(some, t),
            2 * p * r / (p + r) if p + r else 0.0,
        )
    cosines = [
        np.abs((answer.normals[few] * truth.normals[few][table.argmin(1)]).sum(1)).mean(),
        np.abs((truth.normals[few] * answer.normals[few][table.argmin(0)]).sum(1)).mean(),
    ]
    yield (
        "normal consistency",
        "scipy, all pairs",
        EXACT,
        why,
        measures.normal_consistency(some),
        float(np.mean(cosines)),
    )
    farthest = directed_hausdorff(a[few], b[few])[0]
    yield "largest distance one way", "scipy Hausdorff", EXACT, why, float(some.truth_to_answer.max()), farthest
    moved = a[:MOVED], b[:MOVED]
    yield (
        "earth mover's distance",
        "scipy, linear program",
        1e-6,
        "tolerance of the program",
        measures.earth_movers(*moved),
        (wasserstein_distance_nd(*moved)),
    )


def of_surfaces(truth: Mesh, answer: Mesh, noise: np.random.Generator) -> Iterator[Finding]:
    theirs = [trimesh.Trimesh(mesh.vertices, mesh.faces, process=False) for mesh in (truth, answer)]
    draws = [
        [np.asarray(trimesh.sample.sample_surface(mesh, SAMPLES, seed=seed)[0]) for mesh in theirs] for seed in range(4)
    ]
    other = [float(cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean()) / 2 for a, b in draws]
    own = []
    for _ in range(4):
        samples = [surface_samples(mesh, SAMPLES, noise) for mesh in (truth, answer)]
        own.append(measures.chamfer(measures.nearest(*samples), squared=False))
    why = "other random points"
    yield "Chamfer l1, own points", "trimesh sampler", ALLOWED, why, float(np.mean(own)), float(np.mean(other))
    vertices, faces = merged(truth)
    solid = trimesh.Trimesh(vertices, faces, process=False)
    closed = open_edges(faces) == 0
    yield (
        "closed",
        "trimesh",
        1.0,
        "trimesh wants two faces at each edge, we as many there as back",
        closed,
        solid.is_watertight,
    )
    if solid.is_watertight and closed:
        yield "volume", "trimesh", EXACT, "the same formula", volume(vertices, faces), float(solid.volume)


def of_solids(truth: Mesh, answer: Mesh, noise: np.random.Generator) -> Iterator[Finding]:
    inside = [winding_of(mesh) for mesh in (truth, answer)]
    if not all(isinstance(one, Winding) for one in inside):
        return
    points = noise.uniform(-0.55, 0.55, (INSIDE, 3))
    ours = measures.iou(*(one(points) for one in inside if isinstance(one, Winding)))
    try:
        bare = [trimesh.Trimesh(*merged(mesh), process=False) for mesh in (truth, answer)]
        theirs = [np.asarray(mesh.contains(points)) for mesh in bare]
    except (ImportError, ModuleNotFoundError):
        return
    simple = all(_counts_once(one, points) for one in inside if isinstance(one, Winding))
    if simple:
        yield "IoU, points in closed meshes", "trimesh rays", ALLOWED, "rays through edges", ours, measures.iou(*theirs)


def _counts_once(winding: Winding, points: np.ndarray) -> bool:
    """Whether the surface winds at most once around each point: parity, which others count, says the same then."""
    return bool((np.abs(winding.turns(points)) <= 1).all())


def of_pictures(truth: Mesh, answer: Mesh) -> Iterator[Finding]:
    cameras = rig_cameras(Ring(views=1), truth, PIXELS)
    (a, _), (b, _) = (next(pictured(mesh, cameras, lit=True)) for mesh in (truth, answer))
    why = "single precision of the pictures"
    yield "PSNR", "scikit-image", 1e-4, why, measures.psnr(a, b), float(peak_signal_noise_ratio(a, b, data_range=1))
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    other = structural_similarity(a.astype(np.float64), b.astype(np.float64), channel_axis=2, data_range=1, **window)
    yield "SSIM", "scikit-image", EXACT, "the same window", measures.ssim(a, b), float(other)


def of_alignment(truth: np.ndarray, noise: np.random.Generator) -> Iterator[Finding]:
    turn = Rotation.random(rng=noise)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 1.7 * turn.as_matrix(), noise.normal(size=3)
    moved = truth[:500] @ matrix[:3, :3].T + matrix[:3, 3] + noise.normal(0, 0.01, (500, 3))
    theirs = SimilarityTransform(dimensionality=3)
    theirs.estimate(truth[:500], moved)
    off = float(np.abs(best_similarity(moved, truth[:500]) - theirs.params).max())
    yield "best similarity, entries off", "scikit-image", EXACT, "the same formula", 0.0, off
    yield (
        "angle of a rotation",
        "scipy",
        1e-6,
        "degrees",
        measures.angle(turn.as_matrix()),
        float(np.degrees(turn.magnitude())),
    )


def of_open3d(
    o3d: ModuleType, truth: Mesh, answer: Mesh, samples: tuple[Samples, Samples], noise: np.random.Generator
) -> Iterator[Finding]:
    clouds = [o3d.geometry.PointCloud(o3d.utility.Vector3dVector(s.points)) for s in samples]
    forth, back = (np.asarray(x.compute_point_cloud_distance(y)) for x, y in (clouds[::-1], clouds))
    found = measures.nearest(*samples)
    yield (
        "Chamfer l1",
        "open3d",
        EXACT,
        "the same points",
        measures.chamfer(found, squared=False),
        (forth.mean() + back.mean()) / 2,
    )
    icp = o3d.pipelines.registration
    estimate = icp.TransformationEstimationPointToPoint(with_scaling=True)
    theirs = icp.registration_icp(
        clouds[1], clouds[0], 0.2, np.eye(4), estimate, icp.ICPConvergenceCriteria(max_iteration=100)
    )
    a, b = samples[0].points, samples[1].points

    def residual(found: np.ndarray) -> float:
        at = b @ found[:3, :3].T + found[:3, 3]
        return float(cKDTree(a).query(at)[0].mean() + cKDTree(at).query(a)[0].mean()) / 2

    worse = residual(similarity_icp(a, b, starts(1))) - residual(theirs.transformation)
    why = "other points; it pairs one way only, which may fit worse but not better"
    yield "residual of ICP above the other's", "open3d", ALLOWED, why, max(worse, 0.0), 0.0
    bare = merged(truth)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(bare[0].astype(np.float32)), o3d.core.Tensor(bare[1].astype(np.uint32)))
    camera = rig_cameras(Ring(views=1), truth, PIXELS)[0]
    pixels = np.stack(np.meshgrid(np.arange(PIXELS) + 0.5, np.arange(PIXELS) + 0.5), -1)
    start = camera_centre(camera)
    rays = np.concatenate(
        [np.broadcast_to(start, (PIXELS, PIXELS, 3)), unproject(camera, pixels, np.ones((PIXELS, PIXELS))) - start], -1
    )
    hit = np.isfinite(scene.cast_rays(o3d.core.Tensor(rays.astype(np.float32)))["t_hit"].numpy())
    _, cover = next(pictured(truth, [camera], lit=False, samples=1))
    off = float((hit != (cover > 0.5)).sum() / max(hit.sum(), 1))
    yield (
        "pixels of the outline that differ",
        "open3d rays",
        5e-3,
        "rays that graze an edge, in single precision",
        0.0,
        off,
    )
    inside = winding_of(truth)
    if not isinstance(inside, Winding):
        return
    points = noise.uniform(-0.55, 0.55, (INSIDE, 3))
    if _counts_once(inside, points):
        theirs_in = scene.compute_occupancy(o3d.core.Tensor(points.astype(np.float32)), nsamples=3).numpy() > 0.5
        yield (
            "share of points inside",
            "open3d rays",
            ALLOWED,
            "points on the surface",
            float(inside(points).mean()),
            float(theirs_in.mean()),
        )
        centres = ((np.indices((CELLS,) * 3).transpose(1, 2, 3, 0) + 0.5) / CELLS - 0.5).astype(np.float32)
        near = scene.compute_signed_distance(o3d.core.Tensor(centres), nsamples=3).numpy() < SKIN / CELLS
        cells = solid_cells(truth, CELLS)
        why = "thin sheets stay, and narrow hollows count as full"
        yield "IoU with our solid cells", "open3d distance", 0.1, why, 1.0, measures.iou(near, cells)


def findings(subject: Subject, o3d: ModuleType | None) -> Iterator[Finding]:
    noise = np.random.default_rng(0)
    truth = unit(subject.mesh)
    answer = answer_of(truth, noise)
    samples = surface_samples(truth, SAMPLES, noise), surface_samples(answer, SAMPLES, noise)
    yield from of_points(*samples)
    yield from of_surfaces(truth, answer, noise)
    yield from of_solids(truth, answer, noise)
    yield from of_pictures(replace(truth), answer)
    yield from of_alignment(samples[0].points, noise)
    if o3d is not None:
        yield from of_open3d(o3d, truth, answer, samples, noise)


def open3d() -> ModuleType | None:
    try:
        import open3d as found
    except (ImportError, OSError) as error:
        print(f"open3d left out: {error}\n    to add its rows: pip install open3d, and the system's libusb-1.0")
        return None
    return found  # type: ignore[no-any-return]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    read = read_subjects(options.meshes, split=options.split, objects=options.objects)
    rows: dict[tuple[str, str], Row] = {}
    o3d = open3d()
    for subject in read.subjects:
        for measure, other, allowed, why, ours, theirs in findings(subject, o3d):
            row = rows.setdefault((measure, other), Row(measure, other, allowed, why))
            row.ours.append(float(ours))
            row.theirs.append(float(theirs))
    print(f"{len(read.subjects)} meshes of {options.meshes}, {len(read.broken)} broken")
    print("| measure | other | meshes | ours | theirs | largest difference | allowed | why |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows.values():
        means = f"{np.mean(row.ours):.6f} | {np.mean(row.theirs):.6f}"
        print(
            f"| {row.measure} | {row.other} | {len(row.ours)} | {means} | {row.largest:.1e} | {row.allowed:.0e} | {row.why} |"
        )
    if options.out:
        write_whole(options.out, json.dumps([asdict(row) for row in rows.values()], indent=1).encode())
    over = [row for row in rows.values() if row.largest > row.allowed]
    for row in over:
        print(f"over: {row.measure} against {row.other}: {row.largest:.2e}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
