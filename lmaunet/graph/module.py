"""A graph as a torch module: the float network, which can be trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.graph import base_operator
from lmaunet.graph import operators as op
from lmaunet.graph import relayouts as move
from lmaunet.graph import resampling as grid
from lmaunet.graph.graph import Array, Graph, Weights, check_weights
from lmaunet.graph.layouts import shape_of
from lmaunet.net.scan import selective_scan

WatchValue = Callable[[str, Tensor], None]
"""Is given each node's name and what it gives."""

MOMENTUM = 0.1
"""How much a batch's statistics count in those of a batch normalization that is trained."""


class GraphModule(nn.Module):
    """The network of a graph, for any number of images.

    Takes the graph's inputs as float32 tensors and returns its output, or a tuple of several. What
    is learned is a parameter, the rest a buffer. In training mode a batch normalization uses the
    batch's statistics and keeps a running mean of them, as torch's does.

    Args:
        graph: the network.
        weights: its weights, by name.

    Attributes:
        watch_value: where set, what is called for each node.

    Raises:
        UserError: where the weights are not the graph's, or an input not of its shape.
    """

    def __init__(self, graph: Graph, weights: Weights) -> None:
        super().__init__()
        check_weights(graph, weights)
        self.graph = graph
        for name, weight in graph.weights.items():
            tensor = torch.from_numpy(np.array(weights[name], np.float32))
            if weight.learned:
                self.register_parameter(_key(name), nn.Parameter(tensor))
            else:
                self.register_buffer(_key(name), tensor)
        self._free = last_uses(graph)
        self.watch_value: WatchValue | None = None

    @staticmethod
    def without_numbers(graph: Graph) -> GraphModule:
        """Return the module of a graph whose weights are still to be loaded."""
        zeros = {name: np.zeros(weight.shape, np.float32) for name, weight in graph.weights.items()}
        return GraphModule(graph, zeros)

    def forward(self, *images: Tensor) -> Any:
        """Map the inputs ``(N, C, *spatial)`` to the output, or to a tuple of several."""
        values = self._inputs(images)
        count = int(images[0].shape[0])
        context = Context(self.graph.sizes_for(count), self.training)
        for node in self.graph.nodes:
            inputs = [values[value] for value in node.inputs]
            weights = {role: self.weight(name) for role, name in node.weights.items()}
            values[node.name] = RUN[type(node.operator)](node.operator, inputs, weights, context)
            if self.watch_value is not None:
                self.watch_value(node.name, values[node.name])
            for value in self._free[node.name]:
                del values[value]
        outputs = tuple(values[name] for name in self.graph.outputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def weight(self, name: str) -> Tensor:
        """Return a weight by its name in the graph."""
        return getattr(self, _key(name))

    def weights(self) -> dict[str, Array]:
        """Return the weights as they are now, by name."""
        return {
            name: self.weight(name).detach().cpu().numpy().copy() for name in self.graph.weights
        }

    def _inputs(self, images: tuple[Tensor, ...]) -> dict[str, Tensor]:
        names = list(self.graph.inputs)
        if len(images) != len(names):
            raise UserError(f"{len(images)} inputs; the graph takes {', '.join(names)}")
        for name, image in zip(names, images, strict=True):
            expected = self.graph.shape(name, images[0].shape[0] if images[0].dim() else 0)
            if tuple(image.shape) != expected or not image.shape[0]:
                raise UserError(
                    f"input {name!r} is {tuple(image.shape)}; expected {('N', *expected[1:])}, "
                    "the size that the graph was captured for"
                )
        return dict(zip(names, images, strict=True))


def _key(name: str) -> str:
    """Return the name of a tensor of the module: no dot may be in it, and no attribute be it."""
    return "w:" + name.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def last_uses(graph: Graph) -> dict[str, list[str]]:
    """Return, by node, the values that nothing takes after it; outputs are kept."""
    last = {value: node.name for node in graph.nodes for value in node.inputs}
    free: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for value, name in last.items():
        if value not in graph.outputs:
            free[name].append(value)
    return free


@dataclass(frozen=True)
class Context:
    """What an operator may depend on beside its inputs: the symbols' sizes, and if in training."""

    sizes: Mapping[str, int]
    training: bool


Run = Callable[[Any, list[Tensor], dict[str, Tensor], Context], Tensor]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}


def _conv(o: op.Conv, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    value, pads = x[0], [before for before, _ in o.padding]
    if any(before != after for before, after in o.padding):
        value = F.pad(value, list(itertools.chain(*reversed(o.padding))))
        pads = [0] * len(pads)
    rank = len(o.stride)
    return _CONV[rank](value, w["weight"], w.get("bias"), o.stride, pads, o.dilation, o.groups)


def _transposed(
    o: op.TransposedConv, x: list[Tensor], w: dict[str, Tensor], context: Context
) -> Tensor:
    return _TRANSPOSED[len(o.stride)](
        x[0], w["weight"], w.get("bias"), o.stride, o.padding, o.output_padding, o.groups,
        o.dilation,
    )  # fmt: skip


def _scan(o: op.Scan, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    inner, dt, B, C = (to_tokens(value) for value in x)
    y = selective_scan(inner, dt, rates_of(o, w), B, C, w["skip"])
    return y.transpose(1, 2).reshape(sizes(x[0]))


def rates_of(operator: op.Scan, weights: Mapping[str, Tensor]) -> Tensor:
    """Return A ``(channels, states)`` of a scan."""
    return -torch.exp(weights["rates"]) if operator.log_rates else weights["rates"]


def to_tokens(x: Tensor) -> Tensor:
    """``(B, C, *spatial)`` to ``(B, L, C)``, the positions in raster order."""
    batch, channels, *spatial = sizes(x)
    return x.reshape(batch, channels, math.prod(spatial)).transpose(1, 2)


def sizes(x: Tensor) -> tuple[int, ...]:
    """Return the shape as plain integers, so that an export traces it as constants."""
    return tuple(int(n) for n in x.shape)


def _activation(
    o: op.Activation, x: list[Tensor], w: dict[str, Tensor], context: Context
) -> Tensor:
    if o.function == "leaky_relu":
        return F.leaky_relu(x[0], o.slope)
    return _FUNCTIONS[o.function](x[0])


def _norm(o: op.Norm, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    scale, shift = w.get("scale"), w.get("shift")
    if o.kind == "batch":
        return F.batch_norm(
            x[0], w["mean"], w["variance"], scale, shift, context.training, MOMENTUM, o.epsilon
        )
    if o.kind == "instance":
        return F.instance_norm(x[0], None, None, scale, shift, True, MOMENTUM, o.epsilon)
    if o.kind == "group":
        return F.group_norm(x[0], o.groups, scale, shift, o.epsilon)
    rank = x[0].dim()  # written out: an export can't turn an axis counted from the end
    last = x[0].permute(0, *range(2, rank), 1)
    normed = F.layer_norm(last, last.shape[-1:], scale, shift, o.epsilon)
    return normed.permute(0, rank - 1, *range(1, rank - 1))


def _affine(o: op.Affine, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    value = x[0]
    if o.factor != 1:
        value = value * o.factor
    if "scale" in w:
        value = value * w["scale"]
    if o.offset:
        value = value + o.offset
    return value + w["shift"] if "shift" in w else value


def _pool(o: grid.Pool, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    rank = len(o.kernel)
    if o.kind == "max":
        return _MAX[rank](x[0], o.kernel, o.stride, o.padding)
    return _AVERAGE[rank](x[0], o.kernel, o.stride, o.padding, False, o.count_padding)


def _upsample(o: grid.Upsample, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    if o.mode == "nearest":
        factors = [size / n for size, n in zip(o.size, sizes(x[0])[2:], strict=True)]
        if all(factor.is_integer() for factor in factors):  # an export keeps factors as constants
            return F.interpolate(x[0], scale_factor=factors, mode="nearest")
        return F.interpolate(x[0], size=o.size, mode="nearest")
    mode = _LINEAR[len(o.size)]
    return F.interpolate(x[0], size=o.size, mode=mode, align_corners=o.align_corners)


def _reduce(o: grid.Reduce, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    return x[0].mean(o.axes, True) if o.kind == "mean" else x[0].amax(o.axes, True)


def _slice(o: move.Slice, x: list[Tensor], w: dict[str, Tensor], context: Context) -> Tensor:
    return x[0][(slice(None),) * o.axis + (slice(o.start, o.stop, o.step),)]


def _pixel_shuffle(
    o: move.PixelShuffle, x: list[Tensor], w: dict[str, Tensor], context: Context
) -> Tensor:
    images, channels, *spatial = sizes(x[0])
    rank = len(spatial)
    if rank == 2 and o.factors[0] == o.factors[1]:
        return F.pixel_shuffle(x[0], o.factors[0])
    blocks = x[0].reshape(images, channels // math.prod(o.factors), *o.factors, *spatial)
    pairs = ((2 + rank + axis, 2 + axis) for axis in range(rank))
    shuffled = blocks.permute(0, 1, *itertools.chain(*pairs))
    wide = (size * factor for size, factor in zip(spatial, o.factors, strict=True))
    return shuffled.reshape(*sizes(shuffled)[:2], *wide)


RUN: dict[type[base_operator.Operator], Run] = {
    op.Conv: _conv,
    op.TransposedConv: _transposed,
    op.Scan: _scan,
    op.Add: lambda o, x, w, context: x[0] + x[1],
    op.Mul: lambda o, x, w, context: x[0] * x[1],
    op.Concat: lambda o, x, w, context: torch.cat(x, o.axis),
    op.Activation: _activation,
    op.Norm: _norm,
    op.Affine: _affine,
    grid.Pool: _pool,
    grid.Upsample: _upsample,
    grid.Reduce: _reduce,
    move.Reshape: lambda o, x, w, context: x[0].reshape(shape_of(o.layout, context.sizes)),
    move.Permute: lambda o, x, w, context: x[0].permute(o.order),
    move.Flip: lambda o, x, w, context: x[0].flip(o.axes),
    move.Slice: _slice,
    move.PixelShuffle: _pixel_shuffle,
}
"""What runs each operator, from its inputs and its weights by role."""


def execute(graph: Graph, weights: Weights, *images: Tensor) -> Any:
    """Return what a graph gives for its inputs, without gradients; see :class:`GraphModule`."""
    with torch.no_grad():
        return GraphModule(graph, weights).eval()(*images)
