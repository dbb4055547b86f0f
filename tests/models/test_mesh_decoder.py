"""Mesh decoder: recorded tensors, public keys, and chunked evaluation against the ordinary one."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from mvsam3d.meshing.isosurface import collected, extract_surface
from mvsam3d.models.mesh_decoder import MeshDecoder, MeshDecoderConfig, SubdivideBlock, norm_silu_
from mvsam3d.models.slat_trunk import TrunkConfig, cast_torso
from mvsam3d.nn.sparse import SparseConv3d, SparseGrid, SparseGroupNorm32, SparseTensor
from mvsam3d.nn.sparse.subdivided import subdivided_conv3, subdivided_conv3_plain
from tests.models.test_slat_encoder import trunk_of
from tests.nn.sparse_cases import random_grid, shell_grid
from tests.parity import fixture, manifest

TINY = MeshDecoderConfig(TrunkConfig(resolution=8, width=32, blocks=1, heads=2, window=4), groups=4)


def config_of(public: Mapping[str, Any]) -> MeshDecoderConfig:
    return MeshDecoderConfig(
        trunk=trunk_of(public),
        latent_channels=public["latent_channels"],
        groups=public.get("num_groups", MeshDecoderConfig.groups),
        colour=public["representation_config"]["use_color"],
    )


def sparse_input(data: Any) -> SparseTensor:
    return SparseTensor(data.inputs["feats"], SparseGrid(data.inputs["coords"]))


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """Random numbers in the layers that start at zero too."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.3)
    return module


@pytest.mark.parametrize("chunk_rows", [None, 50])
@torch.no_grad()
def test_recorded_subdivide_block(chunk_rows: int | None) -> None:
    data = fixture("stage2", "sparse_subdivide_block")
    config = data.meta["config"]
    block = SubdivideBlock(config["channels"], config["out_channels"], config["num_groups"])
    block.load_state_dict(data.weights)
    out = block(sparse_input(data), chunk_rows)
    data.check("feats", out.feats)
    assert torch.equal(out.coords, data.outputs["coords"])


@pytest.mark.parametrize("chunk_rows", [None, 100])
@torch.no_grad()
def test_recorded_decoder(chunk_rows: int | None) -> None:
    data = fixture("stage2", "slat_mesh_decoder")
    config = config_of(data.meta["config"])
    decoder = MeshDecoder(config)
    decoder.load_state_dict(data.weights)
    fields = decoder(sparse_input(data), chunk_rows)
    data.check("features", torch.cat([field.features for field in fields]))
    assert torch.equal(torch.cat([field.coords for field in fields]), data.outputs["feature_coords"][:, 1:])
    assert fields[0].resolution == config.resolution
    surface = extract_surface(fields[0])
    data.check("vertices", surface.vertices)
    assert torch.equal(surface.faces.int(), data.outputs["faces"])
    assert surface.attributes is not None
    data.check("vertex_attrs", surface.attributes)


def test_public_keys_and_shapes() -> None:
    public = manifest("slat_decoder_mesh")
    with torch.device("meta"):
        decoder = MeshDecoder(config_of(public["config"]))
    assert {key: list(value.shape) for key, value in decoder.state_dict().items()} == public["tensors"]


def test_convolution_of_a_subdivision_equals_its_plain_twin() -> None:
    conv = SparseConv3d(6, 4).double()
    results = []
    for run in (subdivided_conv3, subdivided_conv3_plain):
        noise = torch.Generator().manual_seed(0)
        x = torch.randn(65, 6, dtype=torch.float64, generator=noise).requires_grad_()
        out = run(SparseTensor(x, random_grid([40, 25], 5)), conv).feats
        weights = torch.randn(out.shape, dtype=torch.float64, generator=noise)
        results.append((out, *torch.autograd.grad((out * weights).sum(), [x, conv.conv.weight, conv.conv.bias])))
    for fast, plain in zip(*results):
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("chunk_rows", [1, 7, 10_000])
def test_group_norm_in_chunks(chunk_rows: int) -> None:
    norm = awake(SparseGroupNorm32(4, 12))
    assert isinstance(norm, SparseGroupNorm32)
    feats = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 3 + 20
    x = SparseTensor(feats, random_grid([30, 20], 6))
    with torch.no_grad():
        expected = torch.nn.functional.silu(norm(x).feats)
        norm_silu_(x, norm, chunk_rows)
    torch.testing.assert_close(x.feats, expected, rtol=1e-4, atol=1e-4)  # mean 20: the difference loses two digits


@torch.no_grad()
def test_chunks_change_nothing() -> None:
    decoder = awake(MeshDecoder(TINY))
    x = SparseTensor(torch.randn(90, 8, generator=torch.Generator().manual_seed(1)), random_grid([60, 30], 8))
    for whole, parts in zip(decoder(x), decoder(x, chunk_rows=301)):
        assert torch.equal(whole.coords, parts.coords)
        torch.testing.assert_close(whole.features, parts.features, rtol=1e-4, atol=1e-4)  # other orders of sums


@pytest.mark.parametrize("part_rows", [1, 37, 100_000])
@torch.no_grad()
def test_parts_with_halos_equal_the_whole(part_rows: int) -> None:
    """To the order of sums: 1e-5 of the largest value."""
    decoder = awake(MeshDecoder(TINY))
    for grid in (random_grid([60], 8), shell_grid(300, 16)):
        x = SparseTensor(torch.randn(len(grid), 8, generator=torch.Generator().manual_seed(1)), grid)
        (whole,) = decoder(x)
        made = decoder.in_parts(x, part_rows)
        rows, features = zip(*made.parts)
        assert torch.equal(torch.cat(rows), torch.arange(len(whole.coords)))
        assert torch.equal(made.coords, whole.coords)
        assert made.resolution == whole.resolution
        size = float(whole.features.abs().max())
        torch.testing.assert_close(torch.cat(features), whole.features, rtol=0, atol=1e-5 * size)


@torch.no_grad()
def test_a_part_without_its_halo_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The halo counts: cells at the edge of a part see it."""
    decoder = awake(MeshDecoder(TINY))
    x = SparseTensor(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), random_grid([60], 8))
    (whole,) = decoder(x)
    with_halo = torch.unique
    monkeypatch.setattr(torch, "unique", lambda table: with_halo(table[13]))  # the middle of the neighbourhood alone
    _, features = zip(*decoder.in_parts(x, 37).parts)
    assert float((torch.cat(features) - whole.features).abs().max()) > 1e-2 * float(whole.features.abs().max())


@torch.no_grad()
def test_the_surface_of_collected_parts_is_that_of_the_whole() -> None:
    decoder = awake(MeshDecoder(TINY))
    x = SparseTensor(torch.randn(200, 8, generator=torch.Generator().manual_seed(1)), shell_grid(200, 8))
    (whole,) = decoder(x)
    made = decoder.in_parts(x, 100)
    a, b = extract_surface(whole), extract_surface(collected(made.coords, made.parts, made.resolution))
    assert torch.equal(a.faces, b.faces)
    torch.testing.assert_close(a.vertices, b.vertices, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.attributes, b.attributes, rtol=0, atol=1e-5)


def test_chunks_refuse_gradients() -> None:
    x = SparseTensor(torch.randn(9, 8), random_grid([9], 8))
    with pytest.raises(AssertionError, match="no_grad"):
        MeshDecoder(TINY)(x, chunk_rows=4)


@torch.no_grad()
def test_elements_of_a_batch_do_not_meet() -> None:
    decoder, grid = awake(MeshDecoder(TINY)), random_grid([40, 25], 8)
    feats = torch.randn(65, 8, generator=torch.Generator().manual_seed(1))
    together = decoder(SparseTensor(feats, grid))
    for field, rows in zip(together, grid.slices):
        (alone,) = decoder(SparseTensor(feats[rows], SparseGrid.batched([grid.coords[rows, 1:]])))
        torch.testing.assert_close(field.features, alone.features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("narrowing", [(2,), (2, 4)])
@pytest.mark.parametrize("colour", [True, False])
def test_sizes_are_values(narrowing: tuple[int, ...], colour: bool) -> None:
    config = MeshDecoderConfig(TINY.trunk, latent_channels=3, narrowing=narrowing, groups=4, colour=colour)
    (field,) = MeshDecoder(config)(SparseTensor(torch.randn(20, 3), random_grid([20], 8)))
    assert field.features.shape == (20 * 8 ** len(narrowing), 101 if colour else 53)
    assert field.resolution == 8 * 2 ** len(narrowing) > int(field.coords.max())


def test_every_parameter_gets_a_gradient() -> None:
    decoder = awake(MeshDecoder(TINY))
    (field,) = decoder(SparseTensor(torch.randn(40, 8), random_grid([40], 8)))
    (field.features * torch.randn(field.features.shape)).sum().backward()
    assert [name for name, value in decoder.named_parameters() if value.grad is None or not value.grad.any()] == []


@torch.no_grad()
def test_half_precision_of_the_torso() -> None:
    decoder = awake(MeshDecoder(TINY))
    x = SparseTensor(torch.randn(40, 8, generator=torch.Generator().manual_seed(1)), random_grid([40], 8))
    (full,) = decoder(x)
    cast_torso(decoder, torch.bfloat16)
    for chunk_rows in (None, 100):
        (half,) = decoder(x, chunk_rows)
        assert half.features.dtype == torch.float32
        # 8 bits of mantissa through about ten layers
        assert float((half.features - full.features).norm() / full.features.norm()) < 0.05


def test_before_training_all_cells_are_inside_by_the_bias() -> None:
    (field,) = MeshDecoder(TINY)(SparseTensor(torch.randn(20, 8), random_grid([20], 8)))
    assert not field.features.any()


@pytest.mark.parametrize("voxels", [pytest.param(42_001, marks=pytest.mark.slow), 60_000])
@torch.no_grad()
def test_more_voxels_than_the_public_limit(voxels: int) -> None:
    config = MeshDecoderConfig(TrunkConfig(resolution=64, width=8, blocks=0, heads=1), narrowing=(2,), groups=2)
    decoder = awake(MeshDecoder(config))
    grid = shell_grid(voxels, 64)
    x = SparseTensor(torch.randn(voxels, 8, generator=torch.Generator().manual_seed(0)), grid)
    (field,) = decoder(x, chunk_rows=100_000)
    assert field.features.shape == (8 * voxels, 101)
    assert bool(torch.isfinite(field.features).all())
    assert torch.equal(field.coords[::8], 2 * grid.coords[:, 1:])
