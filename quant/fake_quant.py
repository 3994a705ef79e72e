"""Rounding to codes and back, with straight-through gradients, in few passes over memory.

Brevitas composes it of some twenty operations forward and backward, half of the time of a training
step on a CPU. Values and gradients here are the same to the bit, but for the order in which the
gradient of a scale is summed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from brevitas.core.quant import IntQuant
from torch import Tensor
from torch.autograd.function import once_differentiable


class FusedIntQuant(IntQuant):
    """Brevitas' integer quantizer with zero point 0, trained by :class:`FakeQuantize`."""

    def forward(self, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor) -> Tensor:
        """Return x rounded to ``bit_width`` bits of ``scale`` and back; the zero point is 0."""
        if not torch.is_grad_enabled():
            return super().forward(scale, zero_point, bit_width, x)
        low, high = float(self.min_int(bit_width)), float(self.max_int(bit_width))
        return FakeQuantize.apply(x, scale, low, high)


class FakeQuantize(torch.autograd.Function):
    """``y = scale * clip(round(x / scale), low, high)``, ties to even.

    The gradients are those of learned step size quantization (Esser et al., arXiv 1902.08153,
    equation 3, without its factor): rounding passes them on, clipping stops those of x. With
    v = x / scale and q its code::

        x' = g where q is v rounded, else 0
        scale' = sum of g * (q - v) where q is v rounded, and of g * q elsewhere
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        """Return y, of the shape of x; ``scale`` broadcasts to it."""
        ctx.save_for_backward(x, scale)
        ctx.limits = low, high
        return (x / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the scale."""
        x, scale = ctx.saved_tensors
        low, high = ctx.limits
        v = x / scale
        q = v.round().clamp_(low, high)
        # this operation passes g on strictly between two limits, in one vectorised pass
        passed = torch.ops.aten.hardtanh_backward(grad, v, *_rounding_inwards(low, high))
        rounding = torch.sub(q, v, out=v)
        by_scale = _sum_products(passed, rounding, scale) + _sum_products(grad - passed, q, scale)
        return passed, by_scale, None, None


def _sum_products(left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """Return ``left * right`` summed to the shape of the scale."""
    if scale.numel() == 1:
        return torch.dot(left.reshape(-1), right.reshape(-1)).reshape(scale.shape)
    return (left * right).sum_to_size(scale.shape)


def _rounding_inwards(low: float, high: float) -> tuple[float, float]:
    """Return the open interval of what rounds, ties to even, to low..high.

    Its ends hold in float32, in which they meet their values.
    """
    below, above = low - 0.5, high + 0.5
    if low % 2 == 0:
        below = float(torch.nextafter(torch.tensor(below), torch.tensor(-math.inf)))
    if high % 2 == 0:
        above = float(torch.nextafter(torch.tensor(above), torch.tensor(math.inf)))
    return below, above
