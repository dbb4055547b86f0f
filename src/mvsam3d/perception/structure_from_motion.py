"""Photos without cameras -> cameras, by matching points; or the reasons why there are none.

Two ways: the object alone, and the object with all that is around it. While it stands still and the camera moves, table and room tell the
cameras better than most objects; on a turntable they tell that nothing moves, and of cut-outs there is nothing to see. What is seen of
the object itself holds in either case, so both must explain it. What the masks contradict is not taken (see `camera_gate`).

The lens is found last. From few photos of a flat table a wrong focal length explains matches as well as the right one, so photos are
put together with a focal length held still, for several of them, and only the whole is refined.
Source: COLMAP (Schönberger & Frahm 2016) by pycolmap puts the photos together.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mvsam3d.errors import MissingExtra, NoCameras
from mvsam3d.geometry.hull import cube_around
from mvsam3d.perception.camera_gate import CameraGate, Solution, Verdict, Way, epipolar_distances, judged
from mvsam3d.perception.matching import FeatureOptions, matches, photo_features
from mvsam3d.types import Camera, Photo

log = logging.getLogger(__name__)

CUT_OUT = 0.99  # share of the pixels outside the mask that are of one colour in a photo without background
RIM = 3  # pixels beside the outline that may have colours of both
SAME_COLOUR = 6  # levels of 255, which JPEG may add to one colour
LEAST_MATCHES = 15  # of a pair of photos that says anything
VISIBLE_SHIFT = 1.0  # pixels by which a lens may bend an outline before it is told
MODELS = 6  # times that photos are put together from another pair, until all are
BETTER = 0.85  # of the error of a straight lens: that of a bent one, if it is to be believed
NEAR = 4.0  # pixels from its epipolar line at which a match counts as explained
LEAST_UP = 0.2  # length of the mean of the cameras' up directions below which there is none


# Tables are squeezed downwards; an object is squeezed along any direction, and has fewer points to lose.
AROUND = FeatureOptions(most=2000, copies=((1.0, 0.0), (1.5, 90.0), (2.0, 90.0)))
OBJECT = FeatureOptions(most=2000, contrast=0.01, copies=((1.0, 0.0), (1.5, 0.0), (1.5, 90.0), (2.0, 0.0), (2.0, 90.0)))


@dataclass(frozen=True)
class CameraSearch:
    """How cameras are looked for, and when they are believed."""

    around: FeatureOptions = AROUND
    """Points around the object."""
    object: FeatureOptions = OBJECT
    """Points of the object."""
    ratio: float = 0.8
    """Of a match: its distance to that of the next best, at most."""
    focals: tuple[float, ...] = (1.2, 0.85, 1.7, 2.4)
    """Focal lengths to begin with, in longer sides of the photo: 45, 61, 33 and 24 degrees."""
    seed: int = 0
    """Of the draws of matches."""
    threads: int = 1
    gate: CameraGate = field(default_factory=CameraGate)


@dataclass(frozen=True)
class FoundCameras:
    """Cameras that are believed, in a world around the object (see `around_object`)."""

    cameras: Mapping[str, Camera]  # by the photo's name; photos that could not be placed are left out
    way: Way
    report: CameraReport

    def lines(self) -> list[str]:
        """What to tell a user: a line per view, and the verdict."""
        solution, silhouettes = self.report.solution, self.report.silhouettes
        told = [
            f"{name}: {solution.points[name]} points, outlines agree to {silhouettes[name]:.2f}"
            for name in self.cameras
        ]
        told += [f"{name}: no camera" for name in self.report.missing]
        verdict = described(solution, Verdict((), silhouettes), len(self.cameras) + len(self.report.missing))
        return [*told, f"cameras from {_named(self.way)}: {verdict}"]


@dataclass(frozen=True)
class CameraReport:
    """How cameras were found, and what says that they are right."""

    solution: Solution  # in its own world
    silhouettes: Mapping[str, float]  # IoU of each mask and the outline of the hull
    missing: tuple[str, ...]  # photos without a camera
    refused: tuple[str, ...]  # ways that were tried and not believed, in words


def find_cameras(photos: Sequence[Photo], options: CameraSearch | None = None) -> FoundCameras:
    """Cameras of photos of one object.

    Intrinsics are for the photos' own pixels, of a pinhole: what the lens bends is folded into the focal length, and warned of where an
    outline moves by more than a pixel. The scale of the world is not metric.

    Raises: NoCameras: none were found that can be believed, with what was tried. MissingExtra: pycolmap is not installed.
    """
    options = options or CameraSearch()
    if len(photos) < options.gate.views:
        raise NoCameras(
            f"cameras cannot be told from {len(photos)} photo{'s' * (len(photos) != 1)}: give {options.gate.views} or "
            f"more, better 8. {ADVICE}"
        )
    believed: list[Judged] = []
    refused: list[str] = []
    for way, found in solutions(photos, options):
        if found is None:
            refused.append(
                f"{_named(way)}: no {options.gate.views} photos hang together by {options.gate.points} points"
            )
            continue
        solution, verdict = found
        log.info("%s: %s", _named(way), described(solution, verdict, len(photos)))
        if verdict.reasons:
            found_so = described(solution, Verdict((), {}), len(photos))
            refused.append(f"{_named(way)} ({found_so}): {'; '.join(verdict.reasons)}")
        else:
            believed.append(found)
    if not believed:
        raise NoCameras(f"no cameras that can be believed. {'. '.join(refused)}. {ADVICE}")
    solution, verdict = max(believed, key=_rank)
    missing = tuple(photo.name for photo in photos if photo.name not in solution.cameras)
    if missing:
        log.warning(
            "no camera for the photo%s %s: too few points shared with the others, or masks that contradict them",
            "s" * (len(missing) > 1),
            ", ".join(missing),
        )
    if solution.distortion > VISIBLE_SHIFT:
        log.warning(
            "the lens bends outlines by up to %.1f pixels, which cameras do not tell: undistort the photos for exact results",
            solution.distortion,
        )
    report = CameraReport(solution, verdict.silhouettes, missing, tuple(refused))
    return FoundCameras(around_object(solution.cameras, photos), solution.way, report)


ADVICE = (
    "What helps: photos all around the object, 30 degrees apart or less, that share a table with print or pattern which stands still with "
    "the object (a newspaper does); the same zoom in all; on a turntable, an object with a pattern of its own"
)


def _named(way: Way) -> str:
    return "the whole photos" if way == "photo" else "the object alone"


def described(solution: Solution, verdict: Verdict, photos: int) -> str:
    """What was found, in one line."""
    least, most = min(solution.points.values()), max(solution.points.values())
    text = (
        f"{len(solution.cameras)} of {photos} photos, {least} to {most} points in each, {solution.error:.2f} pixels off, focal length "
        f"{solution.focal():.2f} longer sides, {solution.explained:.0%} of the matches explained"
    )
    if not verdict.silhouettes:
        return text
    name, iou = verdict.worst()
    return f"{text}, outlines agree to {iou:.2f} or better (worst: {name})"


def cut_out(photo: Photo) -> bool:
    """Whether there is nothing but one colour outside the mask, but for a rim."""
    import cv2

    size = 2 * RIM + 1
    near = cv2.dilate(photo.mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
    outside = photo.rgb[~near].astype(np.int16)
    if not len(outside):
        return True
    plain = np.abs(outside - np.median(outside, axis=0)).max(axis=1) <= SAME_COLOUR
    return bool(plain.mean() >= CUT_OUT)


# The solution of one way


Judged = tuple[Solution, Verdict]


@dataclass(frozen=True)
class MatchedPoints:
    """Points of photos, and which of them are the same."""

    points: tuple[Float[np.ndarray, "_ 2"], ...]  # of each photo, its pixels
    pairs: Mapping[tuple[int, int], Int[np.ndarray, "_ 2"]]  # of photos i < j: rows of both

    def joined(self, other: MatchedPoints) -> MatchedPoints:
        """Both sets as one."""
        points = tuple(np.concatenate([a, b]) for a, b in zip(self.points, other.points, strict=True))
        starts = [len(a) for a in self.points]
        pairs = {
            (i, j): np.concatenate([rows, other.pairs[i, j] + np.array([starts[i], starts[j]])])
            for (i, j), rows in self.pairs.items()
        }
        return MatchedPoints(points, pairs)


def matched_points(photos: Sequence[Photo], options: FeatureOptions, *, inside: bool, ratio: float) -> MatchedPoints:
    """Points of the object or around it, matched between all photos."""
    features = [photo_features(photo.rgb, photo.mask, options, inside=inside) for photo in photos]
    pairs = {(i, j): matches(features[i], features[j], ratio=ratio) for j in range(len(photos)) for i in range(j)}
    return MatchedPoints(tuple(f.points.astype(np.float64) for f in features), pairs)


def solutions(photos: Sequence[Photo], options: CameraSearch) -> Iterator[tuple[Way, Judged | None]]:
    """What each way of looking leads to; None: no two photos hang together."""
    colmap = _pycolmap()
    of_object = matched_points(photos, options.object, inside=True, ratio=options.ratio)
    with tempfile.TemporaryDirectory(prefix="mvsam3d-") as folder:
        alone = _Mapper(colmap, photos, of_object, Path(folder), options)
        yield "object", _best(alone, alone, "object", photos, options)
        if any(cut_out(photo) for photo in photos):
            return
        around = matched_points(photos, options.around, inside=False, ratio=options.ratio)
        together = _Mapper(colmap, photos, of_object.joined(around), Path(folder), options)
        yield "photo", _best(together, alone, "photo", photos, options)


def _best(
    mapper: _Mapper, of_object: _Mapper, way: Way, photos: Sequence[Photo], options: CameraSearch
) -> Judged | None:
    """The best of what several focal lengths lead to; the first that is believed and has all photos.

    `of_object`: matches that every solution must explain, whatever is around the object.
    """
    best: Judged | None = None
    for focal in options.focals:
        cameras = mapper.solution(focal, way)
        if cameras is None:
            continue
        solution = replace(cameras, explained=min(cameras.explained, of_object.explained(cameras.cameras)))
        found = _believable(solution, photos, options.gate)
        if best is None or _rank(found) > _rank(best):
            best = found
        if not best[1].reasons and len(best[0].cameras) == len(photos):
            break
    return best


def _believable(solution: Solution, photos: Sequence[Photo], gate: CameraGate) -> Judged:
    """The solution; or what is left of it without one view, the least tied or the worst fitting, if only that is believed."""
    verdict = judged(solution, photos, gate)
    if not verdict.reasons or not verdict.silhouettes:
        return solution, verdict
    for name in (min(solution.points, key=lambda view: solution.points[view]), verdict.worst()[0]):
        fewer = solution.without(name)
        again = judged(fewer, photos, gate)
        if not again.reasons:
            return fewer, again
    return solution, verdict


def _rank(found: Judged) -> tuple[bool, int, int]:
    """Believed before not believed, then by photos, then by points: they hold the cameras in place."""
    solution, verdict = found
    return not verdict.reasons, len(solution.cameras), sum(solution.points.values())


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise MissingExtra(
            f'finding cameras needs the package {error.name}: pip install "mvsam3d[pose]"; or give cameras in a file'
        ) from error
    pycolmap.logging.minloglevel = 3  # it reports on stderr
    return pycolmap


class _Mapper:
    """A database of photos and matches in a folder; solutions from it.

    All photos are moved onto a square with their principal point at its middle, so that upright and lying photos share one lens.
    """

    def __init__(
        self,
        colmap: Any,
        photos: Sequence[Photo],
        matched: MatchedPoints,
        folder: Path,
        options: CameraSearch,
    ) -> None:
        self.colmap, self.photos, self.folder, self.options = colmap, photos, folder, options
        self.points = matched.points
        self.shift = [np.array([_side(p) - p.mask.shape[1], _side(p) - p.mask.shape[0]]) / 2 for p in photos]
        self.verified = dict(self._verified(matched.pairs))

    def _verified(
        self, matched: Mapping[tuple[int, int], Int[np.ndarray, "_ 2"]]
    ) -> Iterator[tuple[tuple[int, int], Any]]:
        """Matches that one movement of the camera, or of a plane, explains. The lens takes no part."""
        options = self.colmap.TwoViewGeometryOptions()
        options.ransac.random_seed, options.ransac.num_threads = self.options.seed, 1
        for (i, j), pairs in matched.items():
            if len(pairs) < LEAST_MATCHES:
                continue
            geometry = self.colmap.estimate_two_view_geometry(
                self._lens(_side(self.photos[i]), 1.2), self.points[i] + self.shift[i],
                self._lens(_side(self.photos[j]), 1.2), self.points[j] + self.shift[j],
                pairs.astype(np.uint32), options,
            )  # fmt: skip
            if len(geometry.inlier_matches) >= LEAST_MATCHES:
                yield (i, j), geometry

    def _lens(self, side: int, focal: float) -> Any:
        middle = side / 2
        return self.colmap.Camera(
            model="SIMPLE_RADIAL", width=side, height=side, params=[focal * side, middle, middle, 0]
        )

    def _database(self, focal: float) -> Path:
        path = self.folder / f"{focal:.6f}.db"
        path.unlink(missing_ok=True)
        with self.colmap.Database.open(str(path)) as database:
            lenses: dict[int, tuple[int, int]] = {}
            for i, photo in enumerate(self.photos):
                side = _side(photo)
                if side not in lenses:
                    lens = self._lens(side, focal)
                    lens.camera_id = database.write_camera(lens)
                    rig = self.colmap.Rig()
                    rig.add_ref_sensor(lens.sensor_id)
                    lenses[side] = (lens.camera_id, database.write_rig(rig))
                image = self.colmap.Image(name=str(i), camera_id=lenses[side][0])
                image.image_id = database.write_image(image)
                frame = self.colmap.Frame()
                frame.rig_id = lenses[side][1]
                frame.add_data_id(image.data_id)
                image.frame_id = database.write_frame(frame)
                database.update_image(image)
                database.write_keypoints(image.image_id, (self.points[i] + self.shift[i]).astype(np.float32))
            for (i, j), geometry in self.verified.items():
                database.write_matches(i + 1, j + 1, geometry.inlier_matches)
                database.write_two_view_geometry(i + 1, j + 1, geometry)
        return path

    def _mapped(self, focal: float) -> Any | None:
        """Photos put together by a focal length in longer sides that is held still: the largest model, or None."""
        options = self.colmap.IncrementalPipelineOptions()
        options.min_model_size, options.max_num_models, options.extract_colors = 3, MODELS, False
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
        options.mapper.init_min_tri_angle = 8
        options.structure_less_registration_fallback = False  # takes minutes of a photo that does not fit
        options.mapper.abs_pose_min_num_inliers = LEAST_MATCHES
        options.num_threads = options.mapper.num_threads = self.options.threads
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = self.options.seed
        database = self._database(focal)
        models = self.colmap.incremental_mapping(str(database), str(self.folder), str(self.folder), options)
        database.unlink()
        return max(models.values(), key=lambda model: model.num_reg_images(), default=None)

    def _refined(self, model: Any, *, bent: bool) -> Any:
        """All cameras, points and the focal length together; with `bent`, the lens's distortion too."""
        options = self.colmap.BundleAdjustmentOptions()
        options.refine_focal_length, options.refine_extra_params, options.print_summary = True, bent, False
        options.ceres.solver_options.num_threads = self.options.threads
        options.ceres.loss_function_type = self.colmap.LossFunctionType.SOFT_L1
        refined = self.colmap.Reconstruction(model)
        all_of_it = self.colmap.BundleAdjustmentConfig()
        for image in refined.images.values():
            if image.has_pose:
                all_of_it.add_image(image.image_id)
        all_of_it.fix_gauge(self.colmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        # Not pycolmap.bundle_adjustment, which sets the level of its log lines back and prints.
        self.colmap.create_default_bundle_adjuster(options, all_of_it, refined).solve()
        refined.update_point_3d_errors()
        return refined

    def solution(self, focal: float, way: Way) -> Solution | None:
        """From a first focal length: put together, refined, and put together again by the refined one."""
        model = self._mapped(focal) if self.verified else None
        if model is None:
            return None
        again = self._mapped(_focal(self._refined(model, bent=False)))
        if again is not None and again.num_reg_images() >= model.num_reg_images():
            model = again
        straight, bent = self._refined(model, bent=False), self._refined(model, bent=True)
        bending = self._bending(bent)
        if bending > VISIBLE_SHIFT and _error(bent) < BETTER * _error(straight):
            return self._told(bent, way, bending)
        return self._told(straight, way, 0.0)

    def _images(self, model: Any) -> Iterator[tuple[int, Any]]:
        for image in model.images.values():
            if image.has_pose and image.num_points3D >= self.options.gate.points:
                yield int(image.name), image

    def _bending(self, model: Any) -> float:
        """Largest shift at the masks by the distortion, against the pinhole that fits them best; pixels."""
        shifts = [0.0]
        for i, image in self._images(model):
            lens = model.cameras[image.camera_id]
            radius = _mask_radii(self.photos[i]) / lens.params[0]
            bent = lens.params[0] * radius * (1 + lens.params[3] * radius**2)
            shifts.append(float(np.abs(bent - self._pinhole(lens, radius) * radius).max()))
        return max(shifts)

    @staticmethod
    def _pinhole(lens: Any, radius: Float[np.ndarray, " pixel"]) -> float:
        """The focal length that comes nearest to r -> f r (1 + k r²), by squared pixels."""
        return float(lens.params[0] * (1 + lens.params[3] * (radius**4).sum() / (radius**2).sum()))

    def _told(self, model: Any, way: Way, bending: float) -> Solution | None:
        cameras: dict[int, Camera] = {}
        points: dict[str, int] = {}
        for i, image in sorted(self._images(model), key=lambda found: found[0]):
            height, width = self.photos[i].mask.shape
            lens = model.cameras[image.camera_id]
            focal = self._pinhole(lens, _mask_radii(self.photos[i]) / lens.params[0])
            pose = np.eye(4)
            pose[:3] = image.cam_from_world().matrix()
            cameras[i] = Camera(
                np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]), pose, width, height
            )
            points[self.photos[i].name] = int(image.num_points3D)
        if len(cameras) < 2:
            return None
        named = {self.photos[i].name: camera for i, camera in cameras.items()}
        return Solution(way, named, points, _error(model), bending, self.explained(named))

    def explained(self, cameras: Mapping[str, Camera]) -> float:
        """Share of the verified matches between photos with a camera that lie on each other's epipolar lines; 1 if there are none."""
        near = total = 0
        for (i, j), geometry in self.verified.items():
            one, other = cameras.get(self.photos[i].name), cameras.get(self.photos[j].name)
            if one is not None and other is not None:
                rows, columns = geometry.inlier_matches.T
                off = epipolar_distances(one, other, self.points[i][rows], self.points[j][columns])
                near, total = near + int((off < NEAR).sum()), total + len(rows)
        return near / total if total else 1.0


def _error(model: Any) -> float:
    """Of the points, the median: that of a point behind a camera is as good as infinite."""
    return float(np.median([point.error for point in model.points3D.values()]))


def _side(photo: Photo) -> int:
    return int(max(photo.mask.shape))


def _focal(model: Any) -> float:
    """In longer sides of the photo, of the lens that most photos share."""
    lens = max(model.cameras.values(), key=lambda c: sum(i.camera_id == c.camera_id for i in model.images.values()))
    return float(np.clip(lens.params[0] / lens.width, 0.3, 5.0))


def _mask_radii(photo: Photo) -> Float[np.ndarray, " pixel"]:
    """Distances of the mask's pixels from the middle of the photo."""
    rows, columns = np.nonzero(photo.mask)
    height, width = photo.mask.shape
    radii: Float[np.ndarray, " pixel"] = np.hypot(columns + 0.5 - width / 2, rows + 0.5 - height / 2)
    return radii


# The world


def around_object(cameras: Mapping[str, Camera], photos: Sequence[Photo]) -> dict[str, Camera]:
    """The cameras in a world that has the object's hull in [-0.5, 0.5]^3.

    +Z is up as most cameras were held, the first camera stands on the side of -Y. The scale is the object's: it is not metric.

    Raises: InvalidOption: there is no hull.
    """
    placed = [photo for photo in photos if photo.name in cameras]
    turned = _moved(cameras, _upright([cameras[photo.name] for photo in placed]), np.zeros(3), 1.0)
    cube = cube_around([turned[photo.name] for photo in placed], [photo.mask for photo in placed])
    return _moved(turned, np.eye(3), cube.centre, cube.side)


def _moved(
    cameras: Mapping[str, Camera], new_from_old: Float[np.ndarray, "3 3"], origin: Float[np.ndarray, " 3"], unit: float
) -> dict[str, Camera]:
    """The same cameras in a world turned by a rotation about `origin` (of the old world), which becomes 0, and measured in `unit`s."""
    moved = {}
    for name, camera in cameras.items():
        rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation @ new_from_old.T, (rotation @ origin + translation) / unit
        moved[name] = Camera(camera.intrinsics, pose, camera.width, camera.height)
    return moved


def _upright(cameras: Sequence[Camera]) -> Float[np.ndarray, "3 3"]:
    """The turn of the world by which cameras are held upright on average and the first one stands at -Y of their middle.

    Cameras held in all ways, so that the mean of their up directions (-Y) says nothing, leave the first one upright.
    """
    ups = np.stack([-camera.camera_from_world[1, :3] for camera in cameras])
    up = ups.mean(0) if np.linalg.norm(ups.mean(0)) > LEAST_UP else ups[0]
    up = up / np.linalg.norm(up)
    ahead = cameras[0].camera_from_world[2, :3]  # where the first camera looks: +Y
    ahead = ahead - up * (up @ ahead)
    if np.linalg.norm(ahead) < 1e-3:  # it looks straight down
        ahead = ups[0] - up * (up @ ups[0])
    ahead = ahead / np.linalg.norm(ahead)
    return np.stack([np.cross(ahead, up), ahead, up])
