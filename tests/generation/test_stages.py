"""Both sampling stages on velocities with known answers."""

import torch
from torch import Tensor

from mvsam3d.generation import slat_stage, structure_stage
from mvsam3d.generation.guidance import Guidance
from mvsam3d.generation.latents import combine
from mvsam3d.generation.slat_stage import SlatSampling, SlatStatistics, sample_slat
from mvsam3d.generation.structure_stage import StructureSampling, sample_structure
from mvsam3d.generation.weighting import ByEntropy
from mvsam3d.models.structure_flow import Context
from mvsam3d.nn.probe import AttentionProbe
from mvsam3d.nn.sparse import SparseGrid, SparseTensor
from mvsam3d.types import Conditions, Span, StructureLatents, Voxels

LATENTS = (8, 3)
VOXELS = Voxels(torch.tensor([[0, 0, 0], [0, 0, 1], [3, 2, 1]], dtype=torch.int32), 8)
STATISTICS = SlatStatistics((1.0, -2.0), (0.5, 4.0))


def conditions(*values: float) -> Conditions:
    tokens = torch.tensor(values)[:, None, None].expand(-1, 5, 2)
    return Conditions(tokens, (Span("image", 0, 5, 1),))


def end(x: StructureLatents, where: Conditions) -> StructureLatents:
    """Data that a view points at: its condition's value in every latent."""
    value = where.tokens[:, 0, 0]
    return combine(lambda latent: value[:, None, None].expand(-1, *latent.shape[1:]), x)


def towards(
    x: StructureLatents, t: float, where: Conditions, *, probe: AttentionProbe | None = None
) -> StructureLatents:
    """Straight to each view's data."""
    if probe is not None:  # the second of the views looks sharply, the others do not
        q = torch.ones(len(where.tokens), 8, 1, 4)
        k = torch.zeros(len(where.tokens), 5, 1, 4)
        k[1:2, 2] = 30.0
        probe.record(9, q, k)
    return combine(lambda a, b: (b - a) / (1 - t), x, end(x, where))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(3)


PLAIN = StructureSampling(steps=4, guidance=Guidance(0.0))


def test_structure_is_the_mean_of_the_views_and_every_view_keeps_its_pose() -> None:
    out = sample_structure(towards, conditions(1.0, 3.0), LATENTS, PLAIN, noise())
    torch.testing.assert_close(out.shape, torch.full((1, *LATENTS), 2.0))
    torch.testing.assert_close(out.translation[:, 0, 0], torch.tensor([1.0, 3.0]))


def test_copies_of_a_view_change_nothing() -> None:
    one = sample_structure(towards, conditions(0.7), LATENTS, PLAIN, noise())
    many = sample_structure(towards, conditions(0.7, 0.7, 0.7), LATENTS, PLAIN, noise())
    torch.testing.assert_close(many.shape, one.shape)
    torch.testing.assert_close(many.rotation_6d[2:], one.rotation_6d)


def test_the_order_of_the_views_does_not_matter_to_the_shape() -> None:
    a = sample_structure(towards, conditions(1.0, 3.0, -1.0), LATENTS, PLAIN, noise())
    b = sample_structure(towards, conditions(-1.0, 1.0, 3.0), LATENTS, PLAIN, noise())
    torch.testing.assert_close(a.shape, b.shape)


def test_entropy_weights_follow_the_sharp_view() -> None:
    config = StructureSampling(steps=4, guidance=Guidance(0.0), weighting=ByEntropy(alpha=30.0))
    out = sample_structure(towards, conditions(1.0, 3.0, 5.0), LATENTS, config, noise())
    assert float((out.shape - 3.0).abs().max()) < 0.05  # floors of 0.001 for the two others


def test_guidance_pushes_beyond_the_condition() -> None:
    """Within the interval of the first steps, towards (1 + s) c; one step covers all: exactly there."""
    config = StructureSampling(steps=1, guidance=Guidance(0.5))
    out = sample_structure(towards, conditions(2.0), LATENTS, config, noise())
    torch.testing.assert_close(out.shape, torch.full((1, *LATENTS), 1.5 * 2.0))


def test_one_step_from_the_mean_of_the_noise_is_the_same_for_all_seeds() -> None:
    config = StructureSampling(steps=1, guidance=Guidance(0.0), noise_scale=0.0)

    def shifted(
        x: StructureLatents, t: float, where: Conditions, *, probe: AttentionProbe | None = None
    ) -> StructureLatents:
        return combine(lambda latent: latent + 1.0, x)  # an answer that depends on the start

    a, b = (
        sample_structure(shifted, conditions(1.0), LATENTS, config, torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    torch.testing.assert_close(a.shape, torch.ones(1, *LATENTS))
    torch.testing.assert_close(a.shape, b.shape)


def test_a_network_that_predicts_data_is_a_velocity() -> None:
    def network(
        x: StructureLatents, t: Tensor, cond: Context, d: None, *, probe: AttentionProbe | None
    ) -> StructureLatents:
        return end(x, Conditions(cond.tokens, ()))

    velocity = structure_stage.network_velocity(network, predicts_data=True)
    out = sample_structure(velocity, conditions(1.0, 3.0), LATENTS, PLAIN, noise())
    torch.testing.assert_close(out.shape, torch.full((1, *LATENTS), 2.0))


def slat_network(
    x: SparseTensor, t: Tensor, cond: Tensor, *, probe: AttentionProbe | None, onto: SparseGrid | None
) -> SparseTensor:
    grid = onto or x.grid
    return SparseTensor(grid.spread(cond[:, 0, :1]).expand(len(grid), x.feats.shape[1]), grid)


def test_slat_is_the_mean_of_the_views_in_the_decoders_units() -> None:
    velocity = slat_stage.network_velocity(slat_network, predicts_data=True)
    config = SlatSampling(steps=3, guidance=Guidance(0.0))
    slat = sample_slat(velocity, conditions(1.0, 3.0), VOXELS, STATISTICS, config, noise())
    torch.testing.assert_close(slat.features, torch.tensor([[2 * 0.5 + 1, 2 * 4.0 - 2]]).expand(3, 2))


def test_progress_counts_every_step() -> None:
    told: list[tuple[int, int]] = []
    sample_structure(
        towards, conditions(1.0), LATENTS, PLAIN, noise(), progress=lambda done, of: told.append((done, of))
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
