"""How the metrics of `protocols` are read: names for people, digits, which way is better, and which of them lead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mvsam3d.evaluation.protocols import Protocol, higher_is_better
from mvsam3d.evaluation.tables import Measure

LABELS = {  # in the order of the tables
    "iou_64": ("IoU 64³", 3),
    "iou_32": ("IoU 32³", 3),
    "iou_points": ("IoU of points", 3),
    "f_score": ("F-score", 3),
    "chamfer_l1": ("Chamfer l1", 4),
    "chamfer_l2": ("Chamfer l2", 5),
    "emd": ("EMD", 4),
    "normal_consistency": ("normals", 3),
    "silhouette_iou_tests": ("outline IoU, new views", 3),
    "silhouette_iou_own_cameras": ("outline IoU, own cameras", 3),
    "silhouette_iou": ("outline IoU, given views", 3),
    "psnr": ("PSNR", 2),
    "psnr_inside": ("PSNR inside", 2),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 3),
    "rotation_error": ("rotation error, degrees", 1),
    "translation_error": ("translation error", 3),
    "add_s": ("ADD-S", 4),
    "pose_accuracy_rotation": ("relative rotations within", 3),
    "pose_accuracy_translation": ("relative translations within", 3),
    "pose_auc": ("pose AUC to", 3),
}
ENDINGS = {"_gaussians": ", splat", "_inputs_own_cameras": ", given views, own cameras"}
LEADING = ("iou_64", "f_score", "chamfer_l1", "normal_consistency", "silhouette_iou_tests", "psnr", "lpips")
FEW = 6  # metrics: all of them lead
MIDDLE_F = "f_score@0.05"  # that leads, of several thresholds
DECIDING = ("iou_64", "iou_32", "f_score", "chamfer_l1", "chamfer_l2")  # the first that a protocol has


def measure_of(name: str) -> Measure:
    """How a metric is to be read; one that is not known by its own name."""
    stem, at, threshold = name.partition("@")
    ending = next((ending for ending in ENDINGS if stem.endswith(ending) and stem not in LABELS), "")
    stem = stem.removesuffix(ending)
    label, digits = LABELS.get(stem, (stem.replace("_", " "), 3))
    share = ""
    if at:
        share = f" at {threshold}" if stem == "f_score" else f" {threshold}°"
    return Measure(name, label + share + ENDINGS.get(ending, ""), "high" if higher_is_better(name) else "low", digits)


def ordered(names: Iterable[str]) -> tuple[Measure, ...]:
    """The metrics in the order of the tables, the deciding one first, unknown ones last."""
    known = sorted(set(names), key=_place)
    for wanted in DECIDING:
        first = [name for name in known if name.partition("@")[0] == wanted]
        if first:
            chosen = MIDDLE_F if MIDDLE_F in first else first[0]
            known = [chosen, *(name for name in known if name != chosen)]
            break
    return tuple(measure_of(name) for name in known)


def _place(name: str) -> tuple[int, int, str]:
    places = list(LABELS)
    stem = name.partition("@")[0]
    ending = next((i + 1 for i, ending in enumerate(ENDINGS) if stem.endswith(ending) and stem not in LABELS), 0)
    for text in ENDINGS:
        stem = stem if stem in LABELS else stem.removesuffix(text)
    return places.index(stem) if stem in places else len(places), ending, name


def leading(measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """The few that say most, the deciding one among them; seconds stay."""
    if len(measures) <= FEW:
        return tuple(measures)
    chosen = []
    for wanted in LEADING:
        alike = [m for m in measures if m.name.partition("@")[0] == wanted]
        middle = [m for m in alike if m.name == MIDDLE_F]
        chosen += middle or alike[:1]
    first = [m for m in measures[:1] if m not in chosen]
    return (*first, *chosen, *(m for m in measures if m.name == "seconds"))


def deciding(protocol: Protocol) -> str:
    """The metric by which an oracle chooses."""
    for wanted in DECIDING:
        if wanted in protocol.metrics:
            if wanted != "f_score":
                return wanted
            names = [f"f_score@{threshold:g}" for threshold in protocol.thresholds]
            return MIDDLE_F if MIDDLE_F in names else names[0]
    return protocol.metrics[0]
