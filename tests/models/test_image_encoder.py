import pytest
import torch

from mvsam3d.models.image_encoder import ImageEncoder, VisionTransformer, VitConfig
from tests.models import public_configs
from tests.parity import fixture, names

TINY = VitConfig(input_size=28, position_size=28, width=16, depth=1, heads=2, registers=3)


@pytest.mark.parametrize("name", names("stage1", "dino_reg"))
def test_tokens_agree_with_the_public_encoder(name):
    case = fixture("stage1", name)
    encoder = ImageEncoder(public_configs.vit(case.meta["config"], case.meta["dino_arch"])).eval()
    encoder.load_state_dict(case.weights)
    for key, images in case.inputs.items():
        case.check(key, encoder(images))
    for key in case.outputs:
        if key.startswith("preprocessed_"):
            case.check(key, encoder.preprocess(case.inputs[key.removeprefix("preprocessed_")]))


@pytest.mark.parametrize("prenorm", [False, True])
def test_tokens_are_prefix_then_patches(prenorm):
    encoder = ImageEncoder(VitConfig(**{**vars(TINY), "prenorm_features": prenorm}))
    assert encoder(torch.rand(2, 1, 30, 40)).shape == (2, encoder.config.prefix + 4, 16)


def test_a_mask_is_a_grey_image():  # law
    encoder, mask = ImageEncoder(TINY), torch.rand(1, 1, 28, 28)
    torch.testing.assert_close(encoder(mask), encoder(mask.expand(1, 3, 28, 28)))


def test_frozen_means_no_parameter_trains():
    assert not any(p.requires_grad for p in ImageEncoder(TINY).parameters())
    assert all(p.requires_grad for p in ImageEncoder(VitConfig(**{**vars(TINY), "frozen": False})).parameters())


def test_resized_positions_keep_a_constant_table():  # law: interpolation weights sum to 1
    network = VisionTransformer(TINY)
    with torch.no_grad():
        network.pos_embed.fill_(0.7)
    torch.testing.assert_close(network.positions(5, 3), torch.full((1, 15, 16), 0.7))
