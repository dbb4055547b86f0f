import pytest
import torch

from mvsam3d.errors import InvalidOption
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.schedule import flow_matching_times, network_time, shortcut_times, step_size
from tests.parity import fixture


def test_closed_forms() -> None:  # u / (1 + 2 (1 - u)) at quarters; rescaling by 0 or 1 leaves even steps
    assert shortcut_times(4, 3.0) == pytest.approx([0, 0.1, 0.25, 0.5, 1])
    assert shortcut_times(4, 1.0) == shortcut_times(4, 0.0) == [0, 0.25, 0.5, 0.75, 1]
    assert flow_matching_times(4, 1.0, backwards=True) == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_times_rise_from_noise_to_data(steps: int) -> None:
    for times in (shortcut_times(steps), flow_matching_times(steps, 3.0)):
        assert len(times) == steps + 1
        assert (times[0], times[-1]) == (0, 1)
        assert times == sorted(times)


def test_recorded_times_and_strengths() -> None:
    f = fixture("multiview", "schedules")
    for stage, times_of in (("stage1", shortcut_times), ("stage2", flow_matching_times)):
        config = f.meta["config"][stage]
        times = times_of(config["steps"], float(config["rescale_t"]))
        f.check(f"t_{stage}", torch.tensor(times))
        guidance = Guidance(float(config["cfg"]), tuple(map(float, config["interval"])))
        f.check(f"cfg_{stage}", torch.tensor([config["cfg"] * guidance.active(t) for t in times[:-1]]))


def test_recorded_times_of_single_view_samplers() -> None:
    for variant in fixture("stage1", "shortcut_sampling").meta["variants"].values():
        assert shortcut_times(variant["steps"], float(variant["rescale_t"])) == pytest.approx(
            variant["t_seq"], abs=1e-12
        )
        assert step_size(variant["steps"], distilled=not variant["no_shortcut"]) == variant["d"]
    f = fixture("stage1", "flow_matching_sampling")
    for name, variant in f.meta["variants"].items():
        backwards = name == "reversed_timestamp"
        steps = variant.get("steps", len(variant["t_seq"]) - 1)
        rescale_t = float(variant.get("rescale_t", f.meta["config"]["rescale_t"]))
        times = flow_matching_times(steps, rescale_t, backwards=backwards)
        assert times == variant["t_seq"]


def test_network_time_is_float32() -> None:  # 1000 * float32(0.1) rounds to 100, in float64 it would not
    assert network_time(0.1) == 100.0
    assert network_time(flow_matching_times(4, 3.0)[1]) == 100.0


def test_no_steps() -> None:
    with pytest.raises(InvalidOption, match="0 sampling steps"):
        shortcut_times(0)
