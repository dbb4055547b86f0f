import pytest
import torch
from torch.nn import functional as F

from mvsam3d.nn.sparse import SparseConv3d, SparseGrid, SparseGroupNorm32, SparseTensor, downsample, subdivide, upsample
from mvsam3d.nn.sparse.convolution import submanifold_conv3, submanifold_conv3_plain
from mvsam3d.nn.sparse.grid import neighbour_table
from tests.nn.sparse_cases import random_grid, shell_grid
from tests.parity import fixture


@pytest.mark.parametrize("name", ["subm_conv3", "subm_conv1"])
def test_convolution_fixture(name: str) -> None:
    case = fixture("stage2", name)
    config = case.meta["config"]
    layer = SparseConv3d(config["in_channels"], config["out_channels"], config["kernel_size"])
    layer.load_state_dict(case.weights)
    case.check("feats", layer(SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"]))).feats)


def test_resampling_fixture() -> None:
    case = fixture("stage2", "sparse_downsample_upsample")
    grid = SparseGrid(case.inputs["coords"])
    coarse = downsample(SparseTensor(case.inputs["feats"], grid))
    case.check("coarse_feats", coarse.feats)
    case.check("coarse_coords", coarse.coords)
    case.check("idx", grid.coarse.index)
    up = upsample(coarse.replace(2 * coarse.feats + 1), grid)
    case.check("up_feats", up.feats)
    case.check("up_coords", up.coords)


def test_tokens_of_the_views_fixture() -> None:
    case = fixture("multiview", "downsample_expand")
    coarse = downsample(SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"].int())))
    case.check("coords_tokens", coarse.coords)
    case.check("feats_tokens", coarse.feats)
    index = SparseGrid(case.inputs["coords"].int()).coarse.index
    case.check("idx", index)
    case.check("weights_voxels", case.inputs["weights_tokens"][:, index])


def test_subdivide_fixture() -> None:
    case = fixture("stage2", "sparse_subdivide")
    fine = subdivide(SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"])))
    case.check("coords", fine.coords)
    case.check("feats", fine.feats)


def test_group_norm_fixture() -> None:
    case = fixture("stage2", "sparse_group_norm32")
    norm = SparseGroupNorm32(case.meta["config"]["num_groups"], case.meta["config"]["num_channels"])
    norm.load_state_dict(case.weights)
    case.check("feats", norm(SparseTensor(case.inputs["feats"], SparseGrid(case.inputs["coords"]))).feats)


@pytest.mark.parametrize("counts", [[300], [150, 1, 260]])
def test_convolution_and_its_gradients_equal_the_dense_twin(counts: list[int]) -> None:
    grid = random_grid(counts, 9)
    tensors = [torch.randn(len(grid), 5), torch.randn(6, 3, 3, 3, 5), torch.randn(6)]
    tensors = [tensor.double().requires_grad_() for tensor in tensors]
    fast = submanifold_conv3(tensors[0], grid, *tensors[1:])
    plain = submanifold_conv3_plain(tensors[0], grid.coords, *tensors[1:])
    torch.testing.assert_close(fast, plain)
    arriving = torch.randn_like(plain)
    for a, b in zip(torch.autograd.grad(fast, tensors, arriving), torch.autograd.grad(plain, tensors, arriving)):
        torch.testing.assert_close(a, b)


def test_convolution_in_many_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvsam3d.nn.sparse.grid.CPU_BLOCK", 7)
    test_convolution_and_its_gradients_equal_the_dense_twin([150, 1, 260])


def test_half_precision_convolution_rounds_once() -> None:
    grid, layer = random_grid([200], 8), SparseConv3d(16, 8)
    x = torch.randn(200, 16).bfloat16()
    exact = layer.bfloat16().float()(SparseTensor(x.float(), grid)).feats
    half = layer.bfloat16()(SparseTensor(x, grid)).feats
    assert half.dtype == torch.bfloat16
    # the sum is rounded to 8 bits before and after the bias is added: 2 x 2^-9 of values up to 2
    torch.testing.assert_close(half.float(), exact, rtol=8e-3, atol=8e-3)


def test_convolution_follows_autocast_and_gives_gradients_to_float_weights() -> None:
    layer, grid = SparseConv3d(4, 4), random_grid([30], 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(SparseTensor(torch.randn(30, 4), grid)).feats
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert layer.conv.weight.grad is not None
    assert layer.conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("lookup_cells", [0, 1 << 22])
def test_neighbours_are_symmetric_and_do_not_wrap(lookup_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvsam3d.nn.sparse.grid.LOOKUP_CELLS", lookup_cells)
    grid = SparseGrid(torch.tensor([[0, 0, 0, 3], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.int32))
    table = neighbour_table(grid.coords)
    assert table[13].tolist() == [0, 1, 2, 3]
    pairs = {(k, row, int(table[k, row])) for k in range(27) for row in range(4) if k != 13 and table[k, row] >= 0}
    assert pairs == {(14, 2, 3), (12, 3, 2)}  # +z and -z in element 1; the end of a column does not touch the next one


def test_neighbours_are_the_same_looked_up_and_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    coords = random_grid([200, 0, 90], 9).coords
    looked_up = neighbour_table(coords)
    monkeypatch.setattr("mvsam3d.nn.sparse.grid.LOOKUP_CELLS", 0)
    assert torch.equal(neighbour_table(coords), looked_up)


def test_maps_are_built_once() -> None:
    grid = random_grid([50], 8)
    first, second = SparseTensor(torch.randn(50, 2), grid), SparseTensor(torch.randn(50, 3), grid)
    assert downsample(first).grid is downsample(second.replace(second.feats + 1)).grid
    assert first.grid.neighbours is second.grid.neighbours
    assert grid.windows(4, 2) is grid.windows(4, 2)
    assert grid.fine is grid.fine


def test_two_levels_keep_their_own_maps() -> None:
    x = SparseTensor(torch.randn(200, 3), random_grid([120, 80], 16))
    middle = downsample(x)
    lowest = downsample(middle)
    back = upsample(upsample(lowest, middle.grid), x.grid)
    cells = torch.cat([x.coords[:, :1], x.coords[:, 1:] // 4], dim=1)
    for row in (0, 57, 199):
        found = (lowest.coords == cells[row]).all(1).nonzero()[0, 0]
        torch.testing.assert_close(back.feats[row], lowest.feats[found])


def test_coarse_features_of_a_lone_voxel_are_halved() -> None:
    x = SparseTensor(torch.ones(1, 1), SparseGrid(torch.tensor([[0, 3, 4, 5]], dtype=torch.int32)))
    assert downsample(x).feats.item() == 0.5


def test_group_norm_equals_torch_per_element() -> None:
    grid, norm = random_grid([40, 60], 8), SparseGroupNorm32(4, 8)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(100, 8) * 3 + 5
    plain = [F.group_norm(x[rows].T[None], 4, norm.weight, norm.bias, 1e-5)[0].T for rows in grid.slices]
    torch.testing.assert_close(norm(SparseTensor(x, grid)).feats, torch.cat(plain), atol=1e-5, rtol=1e-5)


def test_an_element_without_voxels_keeps_its_place() -> None:
    grid = SparseGrid.batched([torch.zeros(1, 3, dtype=torch.int32), torch.zeros(0, 3, dtype=torch.int32)])
    assert (grid.batch_size, grid.slices) == (2, [slice(0, 1), slice(1, 1)])
    assert SparseGroupNorm32(1, 2)(SparseTensor(torch.randn(1, 2), grid)).feats.shape == (1, 2)


def test_sixty_thousand_voxels_convolve() -> None:
    grid = shell_grid(60_000, 64)
    assert len(grid) == 60_000
    out = SparseConv3d(4, 4)(SparseTensor(torch.randn(60_000, 4), grid))
    assert bool(out.feats.isfinite().all())
