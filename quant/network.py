"""The quantized network: the float network with a named quantizer at every place that rounds.

Each activation tensor is quantized once, where it is made, to INT8 codes with one scale and zero
point 0. Tensors that are added or concatenated share a quantizer, so that their codes can be. All
linear maps are convolutions, Mamba's too, on a map ``(B, C, 1, L)``: every backend has integer
kernels for those. ReLU outputs are INT8 as well (codes 0 to 127): TensorRT takes no UINT8.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.net.fold import fold
from lmaunet.net.network import (
    BinPyramid,
    ConvNormReLU,
    DecoderLevel,
    LargeKernelMamba,
    LMaUNet,
    LocalPyramid,
    sizes,
    upsample,
)
from lmaunet.net.scan import selective_scan
from lmaunet.quant.convolution import QuantConv, Scales, quantizer
from lmaunet.spec import CONV1D_TAPS, NetSpec


class Choice:
    """What the layers of one part are built with: bits by layer, the scales, and norms kept or not.

    Args:
        bits: weight bits by layer name, within the part.
        scales: what every scale may be.
    """

    def __init__(self, bits: Mapping[str, int], scales: Scales) -> None:
        self.bits, self.scales = bits, scales

    def conv(
        self, name: str, conv: nn.Conv2d, norm: nn.Module | None = None, relu: bool = False
    ) -> QuantConv:
        """Return a layer's convolution in quantized form; a folded norm is an Identity."""
        kept = norm if isinstance(norm, nn.BatchNorm2d) else None
        return QuantConv(conv, self.bits[name], relu, kept, self.scales)

    def block(self, name: str, block: ConvNormReLU) -> QuantConv:
        """Return a convolution with its norm and ReLU in quantized form."""
        return self.conv(name, block.conv, block.norm, relu=True)

    def quantizer(self) -> nn.Module:
        """Return an activation quantizer."""
        return quantizer(self.scales)


def _conv_of(weight: Tensor, bias: Tensor | None, groups: int = 1) -> nn.Conv2d:
    """Return a convolution on a ``(1, L)`` map from a linear's or a Conv1d's weight."""
    kernel = (1, 1) if weight.dim() == 2 else (1, weight.shape[-1])
    conv = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], kernel, groups=groups,
                     bias=bias is not None)  # fmt: skip
    conv.weight.data.copy_(weight.data.reshape(conv.weight.shape))
    if bias is not None and conv.bias is not None:
        conv.bias.data.copy_(bias.data)
    return conv


class QuantMamba(nn.Module):
    """Mamba with INT8 tensors between its steps; the scan itself stays in float here.

    in_proj and x_proj are split by what their outputs are for, so that each has its own scale.
    """

    def __init__(self, mamba: nn.Module, choice: Choice) -> None:
        super().__init__()
        inner, rank, states = mamba.inner, mamba.rank, mamba.states
        x, z = mamba.in_proj.weight.split(inner)
        dt, b, c = mamba.x_proj.weight.split([rank, states, states])
        self.in_x = choice.conv("in_proj", _conv_of(x, None))
        self.in_z = choice.conv("in_proj", _conv_of(z, None))
        self.conv1d = choice.conv(
            "conv1d", _conv_of(mamba.conv1d.weight, mamba.conv1d.bias, groups=inner)
        )
        self.x_dt = choice.conv("x_proj", _conv_of(dt, None))
        self.x_b = choice.conv("x_proj", _conv_of(b, None))
        self.x_c = choice.conv("x_proj", _conv_of(c, None))
        self.dt_proj = choice.conv("dt_proj", _conv_of(mamba.dt_proj.weight, mamba.dt_proj.bias))
        self.out_proj = choice.conv("out_proj", _conv_of(mamba.out_proj.weight, None))
        self.A_log = nn.Parameter(mamba.A_log.detach().clone())
        self.D = nn.Parameter(mamba.D.detach().clone())
        for name in ("x", "z", "conv1d", "silu_x", "silu_z", "rank", "b", "c", "dt", "y", "gate"):
            self.add_module(f"quant_{name}", choice.quantizer())

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, model, 1, L)`` to the same shape, not quantized yet."""
        x = self.quant_x(self.in_x(tokens))
        z = self.quant_z(self.in_z(tokens))
        x = self.quant_conv1d(self.conv1d(F.pad(x, (CONV1D_TAPS - 1, 0))))
        x = self.quant_silu_x(F.silu(x))
        dt = self.quant_rank(self.x_dt(x))
        b = self.quant_b(self.x_b(x))
        c = self.quant_c(self.x_c(x))
        dt = self.quant_dt(self.dt_proj(dt))
        y = selective_scan(
            _to_tokens(x), _to_tokens(dt), -torch.exp(self.A_log), _to_tokens(b), _to_tokens(c),
            self.D,
        )  # fmt: skip
        y = self.quant_y(y.transpose(1, 2).reshape(sizes(z)))
        gated = self.quant_gate(y * self.quant_silu_z(F.silu(z)))
        return self.out_proj(gated)


def _to_tokens(x: Tensor) -> Tensor:
    """``(B, C, 1, L)`` to ``(B, L, C)``."""
    batch, channels, _, length = sizes(x)
    return x.reshape(batch, channels, length).transpose(1, 2)


class QuantLargeKernelMamba(nn.Module):
    """LKM in INT8. The local features and Mamba's output share a quantizer: they are added."""

    def __init__(self, stage: LargeKernelMamba, choice: Choice) -> None:
        super().__init__()
        self.has_proj = isinstance(stage.proj, nn.Conv2d)
        if isinstance(stage.proj, nn.Conv2d):
            self.proj = choice.conv("proj", stage.proj)
            self.quant_proj = choice.quantizer()
        self.local = choice.conv("local", stage.local, stage.norm)
        self.quant_local = choice.quantizer()
        self.mamba = QuantMamba(stage.mamba, choice)
        self.quant_out = choice.quantizer()

    def forward(self, x: Tensor) -> Tensor:
        """Map quantized ``(B, in, H, W)`` to quantized ``(B, out, H, W)``."""
        if self.has_proj:
            x = self.quant_proj(self.proj(x))
        local = self.quant_local(self.local(x))
        batch, channels, height, width = sizes(local)
        tokens = self.mamba(local.reshape(batch, channels, 1, height * width))
        out = self.quant_local(tokens.reshape(batch, channels, height, width))
        return self.quant_out(local + out)


class QuantLocalPyramid(nn.Module):
    """The local pyramid in INT8; its maps are concatenated, so they share the input's scale."""

    def __init__(self, pyramid: LocalPyramid, choice: Choice) -> None:
        super().__init__()
        self.reduce = choice.conv("reduce", pyramid.reduce)
        self.out = choice.block("out", pyramid.out)
        self.quant_out = choice.quantizer()

    def forward(self, x: Tensor, shared: nn.Module) -> Tensor:
        """Map ``(B, in, H, W)``, which ``shared`` quantized, to quantized ``(B, out, H, W)``."""
        pool1 = shared(self.reduce(x))
        pool3 = F.max_pool2d(pool1, 3, 1, 1)
        pool5 = F.max_pool2d(pool3, 3, 1, 1)
        return self.quant_out(self.out(torch.cat([x, pool1, pool3, pool5], 1)))


class QuantBinPyramid(nn.Module):
    """The bin pyramid in INT8; its maps are concatenated, so they share the input's scale."""

    def __init__(self, pyramid: BinPyramid, choice: Choice) -> None:
        super().__init__()
        self.bins = pyramid.bins
        self.bin = nn.ModuleList(choice.conv(f"bin{i}", conv) for i, conv in enumerate(pyramid.bin))
        self.quant_pool = nn.ModuleList(choice.quantizer() for _ in pyramid.bins)
        self.out = choice.block("out", pyramid.out)
        self.quant_out = choice.quantizer()

    def forward(self, x: Tensor, shared: nn.Module) -> Tensor:
        """Map ``(B, in, H, W)``, which ``shared`` quantized, to quantized ``(B, out, H, W)``."""
        height, width = sizes(x)[2:]
        maps = [x]
        for bins, conv, quant in zip(self.bins, self.bin, self.quant_pool, strict=True):
            pooled = quant(F.avg_pool2d(x, (height // bins, width // bins)))
            maps.append(F.interpolate(shared(conv(pooled)), size=(height, width), mode="nearest"))
        return self.quant_out(self.out(torch.cat(maps, 1)))


class QuantDecoderLevel(nn.Module):
    """A decoder level in INT8; the upsampled map shares the quantizer of the skip it joins."""

    def __init__(self, level: DecoderLevel, choice: Choice) -> None:
        super().__init__()
        self.join = level.join
        self.up = choice.conv("up", level.up)
        self.has_skip = isinstance(level.skip, nn.Conv2d)
        if isinstance(level.skip, nn.Conv2d):
            self.skip = choice.conv("skip", level.skip)
        if self.join == "add":
            self.quant_join = choice.quantizer()
        self.convs = nn.ModuleList(
            choice.block(f"conv{j}", conv) for j, conv in enumerate(level.convs)
        )
        self.quant_convs = nn.ModuleList(choice.quantizer() for _ in level.convs)

    def forward(self, x: Tensor, skip: Tensor, shared: nn.Module) -> Tensor:
        """Map ``(B, in, h, w)`` and the skip, which ``shared`` quantized, to ``(B, out, H, W)``."""
        up = upsample(shared(self.up(x)), sizes(skip)[2] // sizes(x)[2])
        if self.has_skip:
            skip = shared(self.skip(skip))
        x = self.quant_join(up + skip) if self.join == "add" else torch.cat([up, skip], 1)
        for conv, quant in zip(self.convs, self.quant_convs, strict=True):
            x = quant(conv(x))
        return x


class QuantLMaUNet(nn.Module):
    """The INT8 network. Takes images ``(B, in_channels, H, W)``, returns logits in float.

    Args:
        model: the trained float network; its norms are folded first.
        bits: weight bits by ``part.layer`` as :meth:`NetSpec.layers` names them; 8 where absent.
        scales: what every scale may be: ``free``, or ``pow2`` for powers of two.
        keep_norms: keep the batch normalizations for training, until :meth:`fold_norms`.
    """

    def __init__(
        self,
        model: LMaUNet,
        bits: Mapping[str, int] | None = None,
        *,
        scales: Scales = "free",
        keep_norms: bool = False,
    ) -> None:
        super().__init__()
        if model.spec.mamba != "causal":
            raise UserError(
                f"spec {model.spec.name} has mamba={model.spec.mamba!r}; only 'causal' can be "
                "quantized"
            )
        model = copy.deepcopy(model) if keep_norms else fold(model)
        self.spec: NetSpec = model.spec
        self.bits = weight_bits(self.spec, bits or {})
        self.scales = scales
        choices = {
            part: Choice(_of_part(self.bits, part), scales)
            for part in dict.fromkeys(name.split(".", 1)[0] for name in self.bits)
        }
        self.quant_image = quantizer(scales)
        shallow = choices["shallow"]
        self.shallow = nn.ModuleList(
            shallow.block(str(i), conv) for i, conv in enumerate(model.shallow)
        )
        self.quant_shallow = nn.ModuleList(quantizer(scales) for _ in model.shallow)
        self.stages = nn.ModuleList(
            QuantLargeKernelMamba(stage, choices["deep" if i == 3 else f"lkm{i + 1}"])
            for i, stage in enumerate(model.stages)
        )
        kind = QuantLocalPyramid if isinstance(model.pyramid, LocalPyramid) else QuantBinPyramid
        self.pyramid = kind(model.pyramid, choices["pyramid"])
        self.decoder = nn.ModuleList(
            QuantDecoderLevel(level, choices[f"decoder{3 - j}"])
            for j, level in enumerate(model.decoder)
        )
        self.head = choices["head"].conv("head", model.head)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, in_channels, H, W)`` to logits ``(B, classes, H, W)``."""
        x = self.quant_image(image)
        for conv, quant in zip(self.shallow, self.quant_shallow, strict=True):
            x = quant(conv(x))
        skips = [(x, self.quant_shallow[-1])]
        for stride, stage in zip(self.spec.strides, self.stages, strict=True):
            x = stage(F.max_pool2d(x, stride) if stride > 1 else x)
            skips.append((x, stage.quant_out))
        x = self.pyramid(*skips.pop())
        for level in self.decoder:
            x = level(x, *skips.pop())
        return self.head(x)

    def fold_norms(self) -> None:
        """Fold every batch normalization that was kept; the network computes the same."""
        for module in self.modules():
            if isinstance(module, QuantConv):
                module.fold()


def weight_bits(spec: NetSpec, chosen: Mapping[str, int]) -> dict[str, int]:
    """Return the weight bits of every layer of a spec, by ``part.layer``; 8 where not chosen."""
    names = [layer.path for layer in spec.layers() if layer.kind != "scan"]
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        raise UserError(
            f"no layer {unknown[:3]} in spec {spec.name}; names are such as {names[:3]}"
        )
    return {name: chosen.get(name, 8) for name in names}


def count_weight_bits(spec: NetSpec, bits: Mapping[str, int]) -> dict[int, int]:
    """Return how many weights (without biases, A and D) have how many bits."""
    counts: dict[int, int] = {}
    for layer in spec.layers():
        if layer.kind == "scan":
            continue
        width = bits[layer.path]
        counts[width] = counts.get(width, 0) + layer.weights
    return counts


def _of_part(bits: Mapping[str, int], part: str) -> dict[str, int]:
    return {k.split(".", 1)[1]: v for k, v in bits.items() if k.split(".", 1)[0] == part}
