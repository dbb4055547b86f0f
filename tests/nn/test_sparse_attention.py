import math
import subprocess
import sys

import pytest
import torch

from mvsam3d.nn.probe import EntropyProbe, patch_entropy
from mvsam3d.nn.sparse import SparseCrossAttention, SparseGrid, SparseSelfAttention, SparseTensor
from mvsam3d.nn.sparse.attention import Window, attend_full, attend_groups_plain, attend_windows
from tests.nn.sparse_cases import random_grid, shell_grid
from tests.parity import Fixture, fixture


def _sparse(case: Fixture) -> SparseTensor:
    return SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"]))


@pytest.mark.parametrize("name", ["sparse_attn_full", "sparse_attn_window", "sparse_attn_window_shifted"])
def test_self_attention_fixture(name: str) -> None:
    case = fixture("stage2", name)
    config = case.meta["config"]
    window = Window(config["window_size"], config["shift_window"]) if config["attn_mode"] == "windowed" else None
    layer = SparseSelfAttention(
        config["channels"], config["num_heads"], window, qk_rms_norm=config.get("qk_rms_norm", False)
    )
    layer.load_state_dict(case.weights)
    case.check("feats", layer(_sparse(case)).feats)


def test_cross_attention_fixture() -> None:
    case = fixture("stage2", "sparse_attn_cross")
    config = case.meta["config"]
    layer = SparseCrossAttention(config["channels"], config["num_heads"], config["ctx_channels"])
    layer.load_state_dict(case.weights)
    case.check("feats", layer(_sparse(case), case.inputs["context"]).feats)
    case.check("feats", layer(_sparse(case), layer.keys_values(case.inputs["context"])).feats)


@pytest.mark.parametrize("counts", [[120], [60, 60], [90, 1, 130]])
def test_full_attention_equals_the_masked_twin(counts: list[int]) -> None:
    grid = random_grid(counts, 8)
    _compare(grid, lambda qkv: attend_full(qkv, grid), grid.coords[:, 0].long())


@pytest.mark.parametrize(("size", "shift"), [(4, 0), (4, 2), (3, 1), (8, 4)])
def test_windows_equal_the_masked_twin(size: int, shift: int) -> None:
    grid = random_grid([350, 200], 12)
    cell = (grid.coords[:, 1:].long() + shift) // size
    group = ((grid.coords[:, 0].long() * 99 + cell[:, 0]) * 99 + cell[:, 1]) * 99 + cell[:, 2]
    _compare(grid, lambda qkv: attend_windows(qkv, grid.windows(size, shift)), group)


def _compare(grid, fast, group) -> None:  # values and gradients; float32 sums in another order
    ours = torch.randn(len(grid), 3, 2, 8, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    out, expected = fast(ours), attend_groups_plain(theirs, group)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)
    arriving = torch.randn_like(out)
    out.backward(arriving)
    expected.backward(arriving)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-5)


def test_windows_pad_by_half_at_most() -> None:
    buckets = shell_grid(3000, 32).windows(8, 4).buckets
    rows = sum(bucket.rows.numel() for bucket in buckets)
    assert 3000 <= rows <= 4500
    assert len(buckets) <= 2 * math.log2(512) + 1


def test_sixty_thousand_voxels_attend_without_quadratic_memory() -> None:
    grid = shell_grid(60_000, 64)
    x = SparseTensor(torch.randn(60_000, 8), grid)
    with torch.no_grad():
        out = SparseSelfAttention(8, 1, Window(8, 4))(x)
    assert bool(out.feats.isfinite().all())


def _written_out(q: torch.Tensor, k: torch.Tensor, span: slice) -> torch.Tensor:
    attention = (torch.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])).softmax(-1).mean(1)[..., span]
    p = attention / attention.sum(-1, keepdim=True)
    return -(p * p.log()).sum(-1) / math.log(p.shape[-1])


def test_entropy_in_blocks_of_queries_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvsam3d.nn.probe.QUERY_BLOCK", 5)
    monkeypatch.setattr("mvsam3d.nn.probe.KEY_BLOCK", 7)
    q, k, probe = torch.randn(2, 13, 3, 4), 2 * torch.randn(2, 20, 3, 4), EntropyProbe(1, slice(4, 15))
    probe.record(0, q + 1, k)  # another block: not asked for
    probe.record(1, q, k)
    torch.testing.assert_close(probe.entropy, _written_out(q, k, slice(4, 15)), atol=1e-5, rtol=1e-5)


FULL_SIZE = """
import resource, torch
from mvsam3d.nn.probe import EntropyProbe
torch.set_num_threads(1)
q, k = torch.randn(1, 4096, 16, 64), torch.randn(1, 7528, 16, 64)
EntropyProbe(0, slice(1, 1370)).record(0, q[:, :8], k[:, :64].repeat(1, 22, 1, 1))  # what torch itself takes at first
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
EntropyProbe(0, slice(1, 1370)).record(0, q, k)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read in Linux's units")
def test_entropy_at_full_size_takes_little_memory() -> None:
    """The dense map of stage 1 takes 2 GB in float32; the promise is at most 100 MB beside queries and keys."""
    done = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


def test_cross_attention_shows_its_queries_and_keys() -> None:
    grid = random_grid([12, 12], 6)
    x, context, layer = torch.randn(24, 8), torch.randn(2, 9, 5), SparseCrossAttention(8, 2, 5)
    probe = EntropyProbe(3, slice(1, 9))
    plain = layer(SparseTensor(x, grid), context).feats
    torch.testing.assert_close(layer(SparseTensor(x, grid), context, probe=probe, block=3).feats, plain)
    q, k = layer.to_q(x).view(2, 12, 2, 4), layer.keys_values(context).k
    torch.testing.assert_close(probe.entropy, _written_out(q, k, slice(1, 9)).detach(), atol=1e-5, rtol=1e-5)


def test_entropy_fixture_of_stage_2() -> None:
    case = fixture("multiview", "entropy_slat")
    span = slice(case.meta["config"]["patch_start"], case.meta["config"]["patch_end"])
    entropy = patch_entropy(case.inputs["attention"][..., span])
    case.check("entropy", entropy.mean(0))
    case.check("entropy_raw", entropy.mean(0) * math.log(span.stop - span.start))
    case.check("entropy_b2", patch_entropy(case.inputs["attention_b2"][..., span]).mean(0))


def test_entropy_fixture_of_stage_1() -> None:
    case = fixture("multiview", "entropy_weights_ss")
    span = slice(case.meta["config"]["patch_start"], case.meta["config"]["patch_end"])
    views = [value for name, value in sorted(case.inputs.items()) if name.startswith("attention_view")]
    case.check("entropy", torch.cat([patch_entropy(view[..., span]) for view in views]))
