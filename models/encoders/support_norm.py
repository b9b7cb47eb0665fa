"""Batch normalisation by the statistics of some of the images, differentiable twice."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

aten = torch.ops.aten


class Normalised(NamedTuple):
    """What a norm makes of maps, and by which statistics."""

    maps: Tensor
    mean: Tensor  # of each channel, through which no gradient flows
    variance: Tensor  # biased


def normalise_by_support(norm: _BatchNorm, maps: Tensor, support: int) -> Normalised:
    """Normalise all maps as `norm` would, had it been shown the first of them alone.

    `y = w (x - mean) / std + b`. Its derivatives, of first and second order, are written out: to
    differentiate what they are made of takes twice as long where maps are small.

    Args:
        maps: (B, C, ...).
        support: so many of the first make the statistics, through which gradients flow.
    """
    channels = maps.shape[1]
    weight = maps.new_ones(channels) if norm.weight is None else norm.weight
    bias = maps.new_zeros(channels) if norm.bias is None else norm.bias
    normalised, mean, inverse = _Normalise.apply(maps, weight, bias, support, norm.eps)
    return Normalised(normalised, mean, _variance(inverse, norm.eps))


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, support: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        made, mean, inverse = torch.native_batch_norm(
            maps[:support], weight, bias, None, None, True, 0.0, eps
        )
        if support < len(maps):
            by = mean, _variance(inverse, eps)
            made, _, _ = torch.native_batch_norm(maps, weight, bias, *by, False, 0.0, eps)
        ctx.save_for_backward(maps, weight, mean, inverse)
        ctx.support, ctx.eps = support, eps
        ctx.mark_non_differentiable(mean, inverse)
        return made, mean, inverse

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        by_maps, by_weight, by_bias = _Slopes.apply(
            slopes[0], *ctx.saved_tensors, ctx.support, ctx.eps
        )
        return by_maps, by_weight, by_bias, None, None


class _Slopes(torch.autograd.Function):
    """The gradients of `_Normalise`.

    With g those of its result, z the normalised maps, r one by the deviation and m the values of a
    channel of the support: `B = sum g`, `W = sum g z`, `X = w r (g - s (B + z W) / m)`, where s
    is 1 for the support and else 0. `backward` has the derivatives of these three.
    """

    @staticmethod
    def forward(
        ctx: Any,
        slope: Tensor,
        maps: Tensor,
        weight: Tensor,
        mean: Tensor,
        inverse: Tensor,
        support: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.support, ctx.eps = support, eps
        slope = slope.contiguous(memory_format=_memory_format(maps))  # pools forget it
        wanted = [True, True, True]
        if support == len(maps):
            by_maps, by_weight, by_bias = aten.native_batch_norm_backward(
                slope, maps, weight, None, None, mean, inverse, True, eps, wanted
            )
        else:
            by = mean, _variance(inverse, eps)
            by_maps, by_weight, by_bias = aten.native_batch_norm_backward(
                slope, maps, weight, *by, None, None, False, eps, wanted
            )
            shown = maps[:support]
            share = weight * inverse / _values(shown)
            by_maps[:support] -= _affine(shown, mean, inverse, share * by_weight, share * by_bias)
        ctx.save_for_backward(slope, maps, weight, mean, inverse, by_weight, by_bias)
        return by_maps, by_weight, by_bias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, w, b = slopes  # by X, W and B
        slope, maps, weight, mean, inverse, by_weight, by_bias = ctx.saved_tensors
        shown, shown_x = maps[: ctx.support], x[: ctx.support]
        m, scale = _values(shown), weight * inverse
        _, x_z, x_sum = aten.native_batch_norm_backward(
            shown_x, shown, weight, None, None, mean, inverse, True, ctx.eps, [False, True, True]
        )
        x_slope = (x * slope).sum(_but_channels(maps))
        through_z = w - scale * x_z / m
        by_slope = _affine(maps, mean, inverse, through_z, b - scale * x_sum / m)
        by_slope.addcmul_(x, _channel(scale, maps))
        inner = x_slope - (by_bias * x_sum + by_weight * x_z) / m
        z_sum = through_z * by_bias - scale * by_weight * x_sum / m
        z_z = through_z * by_weight - scale * by_weight * x_z / m
        by_inverse = weight * inner * inverse + z_z
        by_maps = slope * _channel(inverse * through_z, maps)
        of_shown = by_maps[: ctx.support]
        of_shown -= _affine(shown, mean, inverse, inverse * by_inverse / m, inverse * z_sum / m)
        of_shown.addcmul_(shown_x, _channel(-inverse * scale * by_weight / m, maps))
        return by_slope, by_maps, inverse * inner, None, None, None, None


def _affine(maps: Tensor, mean: Tensor, inverse: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale z + shift`, with z the normalised maps."""
    scale = scale * inverse
    return torch.addcmul(_channel(shift - scale * mean, maps), maps, _channel(scale, maps))


def _variance(inverse: Tensor, eps: float) -> Tensor:
    return inverse.square().reciprocal() - eps


def _memory_format(maps: Tensor) -> torch.memory_format:
    last = maps.ndim == 4 and maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _values(maps: Tensor) -> int:
    """Of a channel."""
    return maps.numel() // maps.shape[1]


def _but_channels(maps: Tensor) -> Sequence[int]:
    return [axis for axis in range(maps.ndim) if axis != 1]


def _channel(values: Tensor, maps: Tensor) -> Tensor:
    """Values of channels, as they are multiplied with maps."""
    return values.view(-1, *[1] * (maps.ndim - 2))
