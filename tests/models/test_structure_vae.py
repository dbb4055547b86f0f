import pytest
import torch

from mvsam3d.models.structure_vae import (
    Posterior,
    StructureDecoder,
    StructureEncoder,
    StructureVaeConfig,
    grid_from_tokens,
    pixel_shuffle_3d,
    tokens_from_grid,
)
from tests.models import public_configs
from tests.parity import fixture, manifest, names


def check_logits(case, logits):
    """At the fixture's tolerance, but for one logit in a thousand at five times that.

    Where the channels of a voxel are nearly equal, the norm multiplies rounding by up to 1 / sqrt(1e-5): the recorded
    logits themselves lie 1.4 tolerances from a float64 evaluation at one voxel, and convolutions round differently on
    every processor.
    """
    expected, tolerance = case.outputs["logits"], case.meta["tolerance"]
    assert logits.shape == expected.shape
    excess = (logits - expected).abs() / (tolerance["atol"] + tolerance["rtol"] * expected.abs())
    assert excess.max() < 5
    assert (excess > 1).float().mean() < 1e-3


@pytest.mark.parametrize("name", names("stage1", "ss_decoder"))
def test_decoder_agrees_with_the_public_one(name):
    case = fixture("stage1", name)
    decoder = StructureDecoder(public_configs.structure_vae(case.meta["config"])).eval()
    decoder.load_state_dict(case.weights)
    logits = decoder(case.inputs["latent"])
    check_logits(case, logits)
    case.check("coords", (logits > 0).nonzero()[:, [0, 2, 3, 4]])
    check_logits(case, decoder(grid_from_tokens(case.inputs["tokens"])))


@pytest.mark.parametrize("name", names("stage1", "ss_encoder"))
def test_encoder_agrees_with_the_public_one(name):
    case = fixture("stage1", name)
    encoder = StructureEncoder(public_configs.structure_vae(case.meta["config"])).eval()
    encoder.load_state_dict(case.weights)
    posterior = encoder(case.inputs["occupancy"])
    case.check("mean", posterior.mean)
    case.check("logvar", posterior.logvar)
    case.check("z", posterior.mean)  # recorded with sample_posterior: false


@pytest.mark.parametrize(("name", "network"), [("ss_encoder", StructureEncoder), ("ss_decoder", StructureDecoder)])
def test_default_size_has_the_keys_of_the_public_checkpoint(name, network):
    public = manifest(name)
    assert public_configs.structure_vae(public["config"]) == StructureVaeConfig()
    with torch.device("meta"):
        module = network(StructureVaeConfig())
    assert {key: list(value.shape) for key, value in module.state_dict().items()} == public["tensors"]


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_any_number_of_levels(
    levels,
):  # law: encoding then decoding keeps the grid, the latent is `factor` times smaller
    config = StructureVaeConfig(channels=(4, 6, 8, 10)[:levels], latent_channels=3, num_res_blocks=1)
    occupancy = (torch.rand(2, 1, 16, 16, 16) > 0.5).float()
    latent = StructureEncoder(config)(occupancy).mean
    assert latent.shape == (2, 3, *[16 // config.factor] * 3)
    assert StructureDecoder(config)(latent).shape == occupancy.shape


def test_pixel_shuffle_puts_each_channel_where_it_says():  # closed form
    x = torch.randn(1, 16, 2, 3, 2)
    out = pixel_shuffle_3d(x)
    for c, i, j, k in [(0, 0, 0, 1), (1, 0, 1, 0), (0, 1, 0, 0), (1, 1, 0, 1)]:
        assert torch.equal(out[0, c, i::2, j::2, k::2], x[0, c * 8 + i * 4 + j * 2 + k])


def test_tokens_and_grid_are_inverse():
    grid = torch.randn(2, 5, 3, 3, 3)
    tokens = tokens_from_grid(grid)
    assert torch.equal(tokens[1, 2 * 9 + 0 * 3 + 1], grid[1, :, 2, 0, 1])
    assert torch.equal(grid_from_tokens(tokens), grid)


def test_sample_at_unit_noise_lies_one_deviation_from_the_mean():  # closed form: logvar = 2 log s
    mean = torch.randn(1, 2, 2, 2, 2)
    posterior = Posterior(mean, torch.full_like(mean, 2 * 0.25).log() * 2)
    torch.testing.assert_close(posterior.sample(torch.ones_like(mean)) - mean, torch.full_like(mean, 0.5))


def test_bf16_autocast_stays_near_float32():  # bf16 keeps 8 bits: errors of a few 1/256 of the largest value
    torch.manual_seed(0)
    config = StructureVaeConfig(channels=(8, 16), num_res_blocks=1, num_res_blocks_middle=1)
    encoder, occupancy = StructureEncoder(config), (torch.rand(1, 1, 8, 8, 8) > 0.5).float()
    exact = encoder(occupancy).mean
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(occupancy).mean.float()
    assert (rough - exact).abs().max() < 0.03 * exact.abs().max()
