import pytest

from mvsam3d.evaluation.protocols import P1, P4, P7, PROTOCOLS
from mvsam3d.evaluation.readings import deciding, leading, measure_of, ordered
from mvsam3d.evaluation.tables import SECONDS

ALL = (
    "psnr",
    "iou_64",
    "chamfer_l1",
    "f_score@0.01",
    "f_score@0.05",
    "psnr_gaussians",
    "silhouette_iou_tests",
    "rotation_error",
)


@pytest.mark.parametrize(
    ("name", "label", "better"),
    [
        ("iou_64", "IoU 64³", "high"),
        ("f_score@0.05", "F-score at 0.05", "high"),
        ("chamfer_l2", "Chamfer l2", "low"),
        ("psnr_gaussians", "PSNR, splat", "high"),
        ("ssim_inputs_own_cameras", "SSIM, given views, own cameras", "high"),
        ("silhouette_iou_own_cameras", "outline IoU, own cameras", "high"),
        ("lpips", "LPIPS", "low"),
        ("pose_auc@30", "pose AUC to 30°", "high"),
        ("new_metric", "new metric", "low"),
    ],
)
def test_metrics_have_names_for_people(name: str, label: str, better: str) -> None:
    found = measure_of(name)
    assert (found.name, found.label, found.better) == (name, label, better)


def test_the_deciding_metric_comes_first() -> None:
    assert [m.name for m in ordered(ALL)][:5] == [
        "iou_64",
        "f_score@0.01",
        "f_score@0.05",
        "chamfer_l1",
        "silhouette_iou_tests",
    ]
    assert ordered(["chamfer_l1", "f_score@0.01", "f_score@0.05"])[0].name == "f_score@0.05"
    assert ordered(["psnr", "chamfer_l1", "strange"])[0].name == "chamfer_l1"
    assert {m.name for m in ordered(ALL)} == set(ALL)


def test_few_metrics_lead() -> None:
    found = [m.name for m in leading((*ordered(ALL), SECONDS))]
    assert found == ["iou_64", "f_score@0.05", "chamfer_l1", "silhouette_iou_tests", "psnr", "seconds"]
    few = ordered(["psnr", "chamfer_l1"])
    assert leading(few) == few


def test_an_oracle_chooses_by_what_its_protocol_measures() -> None:
    assert [deciding(protocol) for protocol in (P1, P4, P7)] == ["iou_64", "f_score@0.1", "iou_32"]
    for protocol in PROTOCOLS.values():
        assert deciding(protocol).partition("@")[0] in protocol.metrics
