"""A convolution whose weights are fake-quantized, and its batch normalization.

Each output channel has one learned scale. It starts where it loses the least of the weights
(:func:`best_thresholds`), which matters below 8 bits: the largest weight alone would leave most
2-bit codes at zero.

**Batch normalization is kept while the network trains.** What is quantized is the weight that is
deployed, ``w * g`` with ``g = gamma / sqrt(running_var + eps)``, and the convolution's output is
then normalized by the batch, as a float network's is (after Krishnamoorthi, arXiv 1806.08342,
section 3.2.2). In evaluation mode it computes what :meth:`QuantConv.fold` leaves behind: the same
codes, the same scales, and a bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from brevitas import nn as qnn
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat
from brevitas.quant.fixed_point import Int8ActPerTensorFixedPoint, Int8WeightPerChannelFixedPoint
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.quant.fake_quant import FusedIntQuant
from lmaunet.quant.settings import WEIGHT_BITS, Scales

SEARCHED = 40
"""Thresholds tried for each channel, from a fifth of its largest weight to all of it."""


class _FreeActivation(Int8ActPerTensorFloat):
    int_quant = FusedIntQuant


class _Pow2Activation(Int8ActPerTensorFixedPoint):
    int_quant = FusedIntQuant


class _FreeWeight(Int8WeightPerChannelFloat):
    int_quant = FusedIntQuant
    scaling_impl_type = ScalingImplType.PARAMETER
    scaling_init = 1.0


class _Pow2Weight(Int8WeightPerChannelFixedPoint):
    int_quant = FusedIntQuant
    scaling_impl_type = ScalingImplType.PARAMETER
    scaling_init = 1.0


def quantizer(scales: Scales = "free") -> nn.Module:
    """Return an INT8 activation quantizer with one scale, zero point 0."""
    kind = _FreeActivation if scales == "free" else _Pow2Activation
    return qnn.QuantIdentity(act_quant=kind, return_quant_tensor=False)


def largest_code(bits: int) -> int:
    """Return the largest weight code; weights have a symmetric range without the lowest code."""
    return 2 ** (bits - 1) - 1


def best_thresholds(weight: Tensor, bits: int, scales: Scales = "free") -> Tensor:
    """Return the scale of each output channel that loses the least squares of its weights.

    Args:
        weight: ``(out, ...)``.
        bits: of a code.
        scales: ``pow2`` tries powers of two only.

    Returns:
        scales ``(out,)``: codes are ``round(weight / scale)``, clipped to
        :func:`largest_code`.
    """
    rows = weight.detach().reshape(len(weight), -1)
    top = largest_code(bits)
    largest = rows.abs().amax(1).clamp_min(1e-10)
    if scales == "pow2":
        exponent = torch.ceil(torch.log2(largest / top))
        candidates = [torch.exp2(exponent - k) for k in range(4)]
    else:
        candidates = [largest * (k / SEARCHED) / top for k in range(SEARCHED // 5, SEARCHED + 1)]
    best, least = candidates[0], torch.full_like(largest, float("inf"))
    for scale in candidates:
        codes = (rows / scale[:, None]).round().clamp(-top, top)
        lost = (codes * scale[:, None] - rows).square().sum(1)
        best, least = torch.where(lost < least, scale, best), torch.minimum(lost, least)
    return best


def round_weight(weight: Tensor, bits: int, scales: Scales = "free") -> Tensor:
    """Return a weight ``(out, ...)`` rounded to codes and back, at the best scale of each row."""
    scale = best_thresholds(weight, bits, scales).reshape(-1, *[1] * (weight.dim() - 1))
    top = largest_code(bits)
    return (weight / scale).round().clamp(-top, top) * scale


_KINDS = {2: qnn.QuantConv2d, 3: qnn.QuantConv3d}


class QuantConv(nn.Module):
    """A convolution with quantized weights and its bias, with two or three spatial axes.

    The output's quantizer is the caller's, because some are shared.

    Args:
        conv: the float convolution.
        bits: of a weight.
        norm: a batch normalization behind the convolution, kept until :meth:`fold`.
        scales: what the weights' scales may be.
    """

    def __init__(
        self,
        conv: nn.Conv2d | nn.Conv3d,
        bits: int = 8,
        norm: nn.BatchNorm2d | nn.BatchNorm3d | None = None,
        scales: Scales = "free",
    ) -> None:
        super().__init__()
        if bits not in WEIGHT_BITS:
            raise UserError(f"weights of {bits} bits; use one of {WEIGHT_BITS}")
        if norm is not None and conv.bias is not None:
            raise ValueError("a convolution before a batch normalization has no bias of its own")
        self.bits, self.scales = bits, scales
        self.conv = _KINDS[conv.weight.dim() - 2](
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None or norm is not None,
            weight_quant=_FreeWeight if scales == "free" else _Pow2Weight,
            weight_bit_width=bits,
            return_quant_tensor=False,
        )
        self.conv.weight.data.copy_(conv.weight.data)
        if conv.bias is not None:
            self.conv.bias.data.copy_(conv.bias.data)
        elif norm is not None:
            self.conv.bias.data.zero_()
            self.conv.bias.requires_grad_(False)
        self.norm = norm
        self._set_scales()

    @torch.no_grad()
    def _set_scales(self) -> None:
        scale = best_thresholds(self._deployed(), self.bits, self.scales)
        impl = self.conv.weight_quant.tensor_quant.scaling_impl
        # Brevitas learns the threshold, and for powers of two its logarithm
        if self.scales == "free":
            value = scale * largest_code(self.bits)
        else:
            value = torch.log2(scale * 2 ** (self.bits - 1))
        impl.value.copy_(value.reshape(impl.value.shape))

    def _factor(self) -> Tensor:
        """Return gamma / sqrt(running_var + eps), ``(out,)``."""
        assert self.norm is not None and self.norm.running_var is not None
        return self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)

    def _deployed(self) -> Tensor:
        """Return the weight that is quantized."""
        if self.norm is None:
            return self.conv.weight
        return self.conv.weight * self._over_channels(self._factor())

    def _over_channels(self, values: Tensor) -> Tensor:
        """Return ``(out,)`` so that it broadcasts over a weight ``(out, ...)``."""
        return values.reshape(-1, *[1] * (self.conv.weight.dim() - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in, *spatial)`` to ``(B, out, *spatial)``, not quantized yet."""
        return self.conv(x) if self.norm is None else self._normalized(x, self.norm)

    def _normalized(self, x: Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> Tensor:
        factor = self._factor()
        weight = self.conv.weight_quant(self._deployed())
        # while Brevitas calibrates it gives a plain tensor, not quantized
        weight = getattr(weight, "value", weight)
        convolve = F.conv2d if weight.dim() == 4 else F.conv3d
        y = convolve(
            x, weight, None, self.conv.stride, self.conv.padding, self.conv.dilation,
            self.conv.groups,
        )  # fmt: skip
        assert norm.running_mean is not None and norm.running_var is not None
        if not self.training:
            shift = norm.bias - norm.running_mean * factor
            return y + shift.reshape(-1, *[1] * (y.dim() - 2))
        # y is factor * conv(x, w), so that its statistics are the float network's times factor
        mean, variance = torch.zeros_like(factor), torch.zeros_like(factor)
        y = F.batch_norm(y, mean, variance, norm.weight.abs(), norm.bias, True, 1.0, 1e-12)
        with torch.no_grad():
            alive = factor.abs() > 1e-8
            safe = torch.where(alive, factor, 1.0)
            momentum = norm.momentum if norm.momentum is not None else 0.1
            for running, seen in (
                (norm.running_mean, mean / safe),
                (norm.running_var, variance / safe.square()),
            ):
                running.lerp_(torch.where(alive, seen, running), momentum)
        return y

    def at_bits(self, bits: int) -> QuantConv:
        """Return the convolution with the same weights and bias at other bits, its scales anew.

        Its batch normalization must be folded.
        """
        if self.norm is not None:
            raise ValueError("a convolution whose batch normalization is not folded")
        made = QuantConv(self.conv, bits, None, self.scales)
        return made.to(self.conv.weight.device).train(self.training)

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the batch normalization away; in evaluation mode the output stays the same."""
        if self.norm is None:
            return
        factor = self._factor()
        assert self.norm.running_mean is not None
        self.conv.bias.copy_(self.norm.bias - self.norm.running_mean * factor)
        self.conv.bias.requires_grad_(True)
        self.conv.weight.mul_(self._over_channels(factor))
        self.norm = None
