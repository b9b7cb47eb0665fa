"""Folding of batch normalisation."""

import pytest
import torch
from torch import nn

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.timm import Timm
from models.images import Preprocessing
from models.runtimes.folding import fold

SMALL = Preprocessing(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def norms(encoder: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


def with_random_statistics(encoder: Encoder) -> Encoder:
    """As after training: at their first values, a normalisation changes next to nothing."""
    torch.manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return encoder.eval()


@pytest.mark.parametrize("name", ["conv4", "resnet18", "mobilenetv3_small_050", "convnext_atto"])
def test_a_folded_encoder_embeds_like_the_original(name):
    architecture = Conv4(width=8) if name == "conv4" else Timm(model=name)
    encoder = with_random_statistics(architecture.build(pretrained=False))
    side = encoder.preprocessing.crop
    images = torch.rand(3, 3, side, side)
    with torch.no_grad():
        expected = encoder(images)

        folded = fold(encoder)

        assert torch.allclose(folded(images), expected, atol=1e-5)
    assert norms(folded) == 0
    assert norms(encoder) == {
        "conv4": 4, "resnet18": 20, "mobilenetv3_small_050": 34, "convnext_atto": 0,
    }[name]  # fmt: skip


def test_a_convolution_that_others_look_at_stays_as_it_was():
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.convolution(images)
            return (features + self.norm(features)).mean((2, 3))

    encoder = with_random_statistics(Encoder([Peeking()], embedding_dim=4, preprocessing=SMALL))

    assert fold(encoder) is encoder


def test_a_network_without_such_pairs_is_left_alone():
    stage = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 32))
    encoder = with_random_statistics(Encoder([stage], embedding_dim=4, preprocessing=SMALL))

    assert norms(fold(encoder)) == 1
