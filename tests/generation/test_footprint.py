"""What is foretold of memory, against a count of all tensors alive, at sizes at which no rate was measured."""

import pytest
import torch

from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.budget import FULL, HALF, MemoryBudget, budget_of, mesh_bytes
from mvsam3d.generation.footprint import Footprint, condition_tokens, footprints
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.slat_stage import SlatSampling, SlatStatistics, sample_slat
from mvsam3d.generation.structure_stage import StructureSampling, sample_structure
from mvsam3d.meshing.isosurface import collected
from mvsam3d.models.bundle import Models
from mvsam3d.models.checkpoints import weight_bytes
from mvsam3d.models.condition import (
    PUBLIC_IMAGES,
    PUBLIC_MASKS,
    SLAT_CONDITION,
    ConditionConfig,
    ConditionEmbedder,
    EmbedderConfig,
    PrecomputedConfig,
)
from mvsam3d.models.config import SMALL, ModelConfig
from mvsam3d.models.gaussian_decoder import GaussianDecoder, GaussianDecoderConfig
from mvsam3d.models.image_encoder import ImageEncoder, VitConfig
from mvsam3d.models.mesh_decoder import MeshDecoder, MeshDecoderConfig
from mvsam3d.models.pointmap_encoder import PointmapConfig, PointmapEncoder
from mvsam3d.models.slat_flow import SlatFlow, SlatFlowConfig
from mvsam3d.models.slat_trunk import TrunkConfig, cast_torso
from mvsam3d.models.structure_flow import StructureFlow, StructureFlowConfig
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.types import Conditions, Span, Voxels
from tests.generation.test_memory import peak
from tests.generation.test_savings import awake

RATES = {torch.float32: FULL, torch.bfloat16: HALF}
KEYS = 130


def shell(count: int, side: int = 64) -> torch.Tensor:
    """A sphere's surface, 1.5 voxels thick."""
    cells = torch.cartesian_prod(*[torch.arange(side, dtype=torch.int32)] * 3)
    away = ((cells - (side - 1) / 2).norm(dim=1) - (count / (4 * torch.pi * 1.5)) ** 0.5).abs()
    return cells[away.argsort()[:count].sort().values]


def halved(network: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    for part in network.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d):
            part.to(dtype)
    return network


def within(foretold: float, counted: float) -> bool:
    return 0.85 < counted / foretold < 1.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "grid", "rows"), [(192, 8, 2), (128, 10, 3)])
def test_stage_1(dtype: torch.dtype, width: int, grid: int, rows: int) -> None:
    size = StructureFlowConfig(width=width, blocks=2, heads=2, cond_channels=width, grid=grid)
    network = halved(awake(StructureFlow(size)), dtype)
    seen = Conditions(torch.randn(2 * rows, KEYS, width).to(dtype), (Span("image", 0, 40),))
    cost = structure_stage.view_cost(network, seen)
    config = StructureSampling(steps=2, guidance=Guidance(1.0))

    def work() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            chunks = structure_stage.view_chunks(network, seen, config, MemoryBudget(rows * cost.activations, 1 << 40))
            assert len(chunks[0].tokens) == rows
            velocity = structure_stage.network_velocity(network, step_size=0.0)
            sample_structure(velocity, chunks, (grid**3, 8), config, torch.Generator())

    counted = peak(work) - 2 * rows * cost.keys_values
    assert within(rows * grid**3 * width * RATES[dtype].structure, counted)
    assert within(cost.activations, grid**3 * width * RATES[dtype].structure)  # the batch is chosen by the same number


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "voxels", "rows"), [(96, 9000, 1), (128, 5000, 3)])
def test_stage_2(dtype: torch.dtype, width: int, voxels: int, rows: int) -> None:
    size = SlatFlowConfig(width=width, cond_channels=width, blocks=2, heads=2, io_channels=(16,))
    network = awake(SlatFlow(size))
    halved(network, dtype)
    cast_torso(network, dtype)
    where = Voxels(shell(voxels), 64)
    seen = Conditions(torch.randn(2 * rows, KEYS, width).to(dtype), (Span("image", 0, 40),))
    cost = slat_stage.view_cost(network, seen, voxels)
    config, statistics = SlatSampling(steps=2, guidance=Guidance(1.0)), SlatStatistics((0.0,) * 8, (1.0,) * 8)

    def work() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            budget = MemoryBudget(rows * cost.activations, 1 << 40)
            chunks = slat_stage.view_chunks(network, seen, where, config, budget)
            assert len(chunks[0].tokens) == rows
            sample_slat(slat_stage.network_velocity(network), chunks, where, statistics, config, torch.Generator())

    counted = peak(work) - 2 * rows * cost.keys_values
    rates = RATES[dtype]
    assert within(rows * voxels * width * rates.slat + width * rates.gathered, counted)
    assert within(cost.activations, voxels * width * rates.slat)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encoders_and_trunk(dtype: torch.dtype) -> None:
    rates = RATES[dtype]

    def encoded(network: torch.nn.Module, side: int) -> int:
        def work() -> None:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                network(torch.rand(1, 3, side, side))

        return peak(work)

    vit = VitConfig(width=192, depth=2, heads=3, input_size=336, position_size=336)
    foretold = (24**2 + 5) * 192 * rates.vit + 24 * 336**2
    assert within(foretold, encoded(halved(ImageEncoder(vit), dtype), 336))
    points = PointmapConfig(input_size=96, width=192, heads=4)
    assert within(12**2 * 65 * 192 * rates.points, encoded(halved(PointmapEncoder(points), dtype), 96))
    decoder = GaussianDecoder(GaussianDecoderConfig(TrunkConfig(width=192, blocks=2, heads=3)))
    cast_torso(decoder, dtype)
    x = SparseTensor(torch.randn(5000, 8), SparseGrid.batched([shell(5000)]))
    assert within(5000 * 192 * rates.trunk, peak(lambda: decoder(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_of_all_views(dtype: torch.dtype) -> None:
    sources = tuple(
        EmbedderConfig(PrecomputedConfig(width=192), tuple((name, group) for name, group in inputs))
        for inputs in (PUBLIC_IMAGES, PUBLIC_MASKS)
    )
    network = halved(ConditionEmbedder(ConditionConfig(embedders=sources)), dtype)
    features = {name: torch.randn(3, 400, 192).to(dtype) for name, _ in PUBLIC_IMAGES + PUBLIC_MASKS}

    def work() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            network({}, features=features).tokens.to(dtype)

    assert within(3 * 1600 * 192 * RATES[dtype].fused, peak(work))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mesh_in_parts_at_the_public_width(dtype: torch.dtype) -> None:
    """3,500 voxels; by the same formula 20,000 take less than 1.5 GB in half precision, weights and all."""
    config = MeshDecoderConfig(TrunkConfig(blocks=1))
    decoder = awake(MeshDecoder(config))
    cast_torso(decoder, dtype)

    def work() -> None:
        made = decoder.in_parts(SparseTensor(torch.randn(3500, 8), SparseGrid.batched([shell(3500)])))
        collected(made.coords, made.parts, made.resolution)

    size = ModelConfig()
    budget = MemoryBudget(decoding=0)
    weights = dict.fromkeys(NETWORKS, 0)
    found = {f.network: f for f in footprints(size, weights, views=4, voxels=3500, dtype=dtype, budget=budget)}
    assert within(found["mesh_decoder"].activations, peak(work))


NETWORKS = (
    "structure_condition",
    "structure_flow",
    "structure_decoder",
    "slat_condition",
    "slat_flow",
    "gaussian_decoder",
    "mesh_decoder",
)


def test_the_public_model_on_a_card_of_12_gigabytes() -> None:
    """4 views, 20,000 voxels, bfloat16, each network only while it works: within 11 GB; the mesh within 1.5 GB."""
    with torch.device("meta"):
        models = Models(ModelConfig())
    weights = {name: weight_bytes(models, name, torch.bfloat16) for name in NETWORKS}
    assert 3.0e9 < sum(weights.values()) / 2 < 3.2e9  # numbers in all networks
    budget = budget_of(int(11e9), max(weights.values()))
    found = footprints(models.config, weights, views=4, voxels=20_000, dtype=torch.bfloat16, budget=budget)
    assert max(stage.total for stage in found) < 11e9
    mesh = next(stage for stage in found if stage.network == "mesh_decoder")
    assert mesh.total < 1.5e9
    flow = next(stage for stage in found if stage.network == "structure_flow")
    assert flow.kept > 4 * 24 * 7528 * 2048 * 2  # there is room for the keys and values of all four


def test_no_room_keeps_nothing_and_evaluates_one_view_at_a_time() -> None:
    def flow(memory: int) -> Footprint:
        budget = budget_of(memory, 0)
        found = footprints(ModelConfig(), dict.fromkeys(NETWORKS, 0), views=8, voxels=4000, budget=budget)
        return next(stage for stage in found if stage.network == "slat_flow")

    little, much = flow(0), flow(1 << 36)
    assert little.activations < much.activations
    assert little.kept == 8 * 5496 * 1024 * 4
    assert much.kept == little.kept + 8 * 24 * 5496 * 2048 * 4


def test_a_single_step_keeps_no_keys_and_values() -> None:
    budget = budget_of(1 << 36, 0)

    def kept(steps: tuple[int, int] | None) -> dict[str, int]:
        zero = dict.fromkeys(NETWORKS, 0)
        return {
            f.network: f.kept for f in footprints(ModelConfig(), zero, views=2, voxels=4000, budget=budget, steps=steps)
        }

    assert kept((1, 1))["structure_flow"] == 2 * 7528 * 1024 * 4  # the tokens alone
    assert kept((1, 25))["slat_flow"] == kept(None)["slat_flow"] == 2 * 5496 * (1024 + 24 * 2048) * 4


def test_tokens_are_those_of_the_public_model() -> None:
    assert condition_tokens(ConditionConfig()) == 7528
    assert condition_tokens(SLAT_CONDITION) == 5496


def test_what_is_left_beside_the_weights_is_shared_out() -> None:
    budget = budget_of(12 << 30, 2 << 30)
    assert budget.activations == 1 << 30
    assert budget.activations + budget.keys_values == 10 << 30
    assert budget_of(1 << 30, 2 << 30) == MemoryBudget(0, 0, 0)
    small = SMALL.slat.mesh_decoder
    assert mesh_bytes(small, 8000, torch.float32) < MemoryBudget().decoding  # decoded whole, as ever
