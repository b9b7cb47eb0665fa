"""Batch normalisation folded into the convolution before it, for faster serving."""

import copy
from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.encoders import Encoder

TOLERANCE = 1e-3  # in an element of a unit vector; rounding gives some 1e-6, a wrong pair far more


@torch.no_grad()
def fold(encoder: Encoder) -> Encoder:
    """The same encoder for inference only: fewer passes over memory, channels last.

    In evaluation mode a batch normalisation is affine, so its scale and shift fit into the weights
    of the convolution before it (Jacob et al., 2018, section 3.2; https://arxiv.org/abs/1712.05877).
    Which convolution that is shows when the network runs once. A network that does not embed alike
    afterwards, because something else looked at the convolution as well, stays as it was.
    """
    encoder.eval()
    if not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
        return encoder.to(memory_format=torch.channels_last)
    side = encoder.preprocessing.crop
    device = encoder.mean.device
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    folded = copy.deepcopy(encoder)
    expected, pairs = _pairs(folded, images)
    for convolution, norm in pairs:
        _fold_pair(folded, convolution, norm)
    alike = torch.allclose(expected, folded(images), rtol=0, atol=TOLERANCE)
    # PyTorch's convolutions are faster on CPUs and on tensor cores when channels lie together.
    return (folded if alike else encoder).to(memory_format=torch.channels_last)


def _pairs(
    encoder: Encoder, images: Float[Tensor, "B 3 S S"]
) -> tuple[Float[Tensor, "B D"], list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """Embeddings, and convolutions whose very output a normalisation got, each seen once."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        outputs[id(output)] = (module, output)  # kept, so that no other tensor gets the same id

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(inputs[0]) in outputs and module.running_var is not None:
            pairs.append((outputs[id(inputs[0])][0], module))

    hooks = []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    embeddings = encoder(images)
    for hook in hooks:
        hook.remove()
    used = Counter(module for pair in pairs for module in pair)
    return embeddings, [pair for pair in pairs if all(used[module] == 1 for module in pair)]


def _fold_pair(encoder: Encoder, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    for name, module in list(encoder.named_modules(remove_duplicate=False)):
        if module is norm:
            parent, _, attribute = name.rpartition(".")
            # timm's normalisations carry the activation that follows them.
            setattr(
                encoder.get_submodule(parent),
                attribute,
                getattr(norm, "act", None) or nn.Identity(),
            )
