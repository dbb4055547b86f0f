import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from mvsam3d.models.efficientnet import (
    EfficientNet,
    EfficientNetConfig,
    PretrainedEfficientNet,
    SameConv2d,
    weights_path,
)
from tests.parity import FOLDER


@pytest.fixture(scope="module")
def network():
    with torch.device("meta"):
        empty = EfficientNet(EfficientNetConfig(input_size=64))
    empty.load_pretrained()
    return empty


def test_the_packages_file_has_exactly_our_keys(network):
    weights = torch.load(weights_path(), weights_only=True)
    assert {key: value.shape for key, value in network.state_dict().items()} == {k: v.shape for k, v in weights.items()}
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.train().training


@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (9, 5, 2), (10, 5, 2), (8, 5, 1)])
def test_same_padding_starts_where_tensorflow_does(size, kernel, stride):
    """Twin: output i looks at inputs i * stride - before ..., before = half the padding, rounded down."""
    conv = SameConv2d(1, 1, kernel, stride)
    x = torch.randn(1, 1, size, size)
    count = -(-size // stride)
    before = max((count - 1) * stride + kernel - size, 0) // 2
    wide = F.pad(x, [before, kernel, before, kernel])
    rows = [
        [(wide[0, 0, i * stride :][:kernel, j * stride :][:, :kernel] * conv.weight[0, 0]).sum() for j in range(count)]
        for i in range(count)
    ]
    torch.testing.assert_close(conv(x)[0, 0], torch.stack([torch.stack(row) for row in rows]))


def test_tokens_are_cells_of_32_pixels_row_by_row(network):
    images = torch.rand(2, 3, 64, 96)[..., :64]
    tokens = network(images)
    assert tokens.shape == (2, 4, network.config.width)
    torch.testing.assert_close(tokens[:, 1], network.feature_map(images)[:, :, 0, 1])


@pytest.mark.parametrize(("photo", "name"), [("espresso/images/0.jpg", 550), ("stuffed_toy/images/0.png", 850)])
def test_photos_are_recognised(photo, name):  # ImageNet classes: espresso maker, teddy bear
    path = FOLDER.parent / "data" / "real" / photo
    if not path.exists():
        pytest.skip("the shared photos are not here")
    with Image.open(path) as image:
        square = ImageOps.fit(image.convert("RGB"), (224, 224))
    colours = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255
    network = PretrainedEfficientNet(EfficientNetConfig()).network(torch.device("cpu"))
    assert network.classify(colours).argmax() == name


def test_images_of_any_size_and_grey_ones_are_accepted(network):
    grey = torch.rand(1, 1, 100, 80)
    torch.testing.assert_close(network(grey), network(grey.expand(1, 3, -1, -1)))
