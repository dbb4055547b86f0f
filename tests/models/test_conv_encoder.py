"""The convolutional encoder: shapes, places, and the colours that bypass it."""

import torch

from mvsam3d.models.conv_encoder import ConvConfig, ConvEncoder, object_colours


def test_colours_of_halves() -> (
    None
):  # closed form: red left, blue right, the mask covers the left and half of the right
    image = torch.zeros(1, 4, 8, 8)
    image[:, 0, :, :4], image[:, 2, :, 4:] = 1.0, 1.0
    image[:, 3, :, :4], image[:, 3, :4, 4:] = 1.0, 1.0
    cells = object_colours(image, 2)[0]
    assert cells[:, 0, 0].tolist() == [1, -1, -1, 1]
    assert cells[:, 0, 1].tolist() == [-1, -1, 1, 1]
    assert cells[:, 1, 1].tolist() == [0, 0, 0, -1]  # outside the mask: no colour, no share
    torch.testing.assert_close(object_colours(image, 1)[0, :, 0, 0], torch.tensor([1 / 3, -1, -1 / 3, 0.5]))


def test_background_has_no_colour() -> None:
    image = torch.rand(2, 4, 16, 16)
    image[:, 3] = (image[:, 3] > 0.5).float()
    painted = image.clone()
    painted[:, :3] = torch.where(image[:, 3:] > 0, image[:, :3], torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(object_colours(painted, 4), object_colours(image, 4))


def test_each_token_is_shown_its_own_patch() -> None:
    """With nothing but the colours' layer, painting one patch changes its token and the first, which sees the whole photo."""
    torch.manual_seed(0)
    encoder = ConvEncoder(ConvConfig(input_size=32, widths=(8, 16), colour_cells=2)).eval()
    for parameter in encoder.norm.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.full((1, 4, 32, 32), 0.5)
    image[:, 3] = 1
    painted = image.clone()
    painted[:, 0, 8:12, 20:24] = 1.0  # patches are 4 pixels wide: row 2, column 5 of 8
    changed = (encoder(painted) - encoder(image)).abs().sum(-1)[0] > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [0, 1 + 2 * 8 + 5]


def test_no_colours_unless_asked_for() -> None:
    assert ConvEncoder(ConvConfig()).colours is None
    assert tuple(ConvEncoder(ConvConfig(colour_cells=2))(torch.rand(2, 4, 112, 112)).shape) == (2, 50, 128)
