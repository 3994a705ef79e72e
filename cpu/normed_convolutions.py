"""Convolutions with InstanceNorm behind them as one function from codes to codes.

nnU-Net's networks have a convolution, InstanceNorm, LeakyReLU and then a quantizer. Nothing rounds
between them, so that a runtime with a kernel for ``QLinearConv`` alone convolves in float32. Here
the four become one call:

    NormedConvCodes <epsilon, group, pads, strides> (
        x, x_scale, x_zero, W, W_scale, norm_scale, norm_shift, slope, y_scale, y_zero) -> y

x and y are UINT8 codes ``(batch, height, width, channels)``, W INT8 codes ``(out, in / group,
height, width)`` with a scale for each of the first axis. The sums of products of codes are whole
numbers. Mean and variance of the map come from them, so that the norm stays exact: between the
convolution and the codes of y nothing is rounded. The convolution's bias is left out; the norm's
mean takes it away.

The function is defined in the file in standard operators, in float32; the kernel of
``cpu/native/normed_conv.cpp`` sums codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from lmaunet.cpu.cpu_layout import CHANNELS_FIRST, CHANNELS_LAST
from lmaunet.export.convolutions import groups_of
from lmaunet.export.function import DOMAIN
from lmaunet.export.passes import (
    Pass,
    add_constant,
    array_of,
    constant,
    label,
    new_node,
    replace,
)

NORMED_CONV = "NormedConvCodes"
WEIGHT = 3
"""Which of its inputs is the weight."""
EPSILON = 1e-5

_BODY = """
<opset_import: ["" : %d], domain: "ai.lmaunet">
NormedConvCodes <epsilon, group, pads, strides> (x, x_scale, x_zero, W, W_scale, norm_scale,
                                                 norm_shift, slope, y_scale, y_zero) => (y)
{
    x_map = DequantizeLinear (x, x_scale, x_zero)
    x_first = Transpose <perm = [0, 3, 1, 2]> (x_map)
    kernel = DequantizeLinear <axis = 0> (W, W_scale)
    sums = Conv <group: int = @group, pads: ints = @pads, strides: ints = @strides> (
        x_first, kernel
    )
    normed = InstanceNormalization <epsilon: float = @epsilon> (sums, norm_scale, norm_shift)
    active = PRelu (normed, slope)
    y_first = QuantizeLinear (active, y_scale, y_zero)
    y = Transpose <perm = [0, 2, 3, 1]> (y_first)
}
"""


def normed_conv_function(opset: int) -> onnx.FunctionProto:
    """Return the definition of the function in standard operators."""
    return onnx.parser.parse_function(_BODY % opset)


def reads_weight(use: ir.Usage) -> bool:
    """Tell whether a node takes a tensor as the codes of a weight."""
    return (use.node.op_type, use.idx) in (("DequantizeLinear", 0), (NORMED_CONV, WEIGHT))


@dataclass(frozen=True)
class _Chain:
    """The nodes from a convolution to the quantizer behind its norm, and the slope between them."""

    conv: ir.Node
    norm: ir.Node
    activation: ir.Node | None
    quantize: ir.Node
    slope: float

    @property
    def source(self) -> ir.Node:
        """The DequantizeLinear that the convolution reads."""
        return self.conv.inputs[0].producer()

    @property
    def weight(self) -> ir.Node:
        """The DequantizeLinear of its weight."""
        return self.conv.inputs[1].producer()


class NormedConvolutions(Pass):
    """Make each chain of convolution, InstanceNorm, LeakyReLU and quantizer one call over codes.

    The model's activations are UINT8 (:class:`lmaunet.cpu.cpu_form.UnsignedActivations`). The
    LeakyReLU may be missing. Left as they are: convolutions in groups that are neither one nor one
    for each channel, dilated ones, and those whose result something else reads too.

    Every tensor of codes keeps its name; see :class:`lmaunet.cpu.code_functions.CodeFunctions`.
    """

    name = "normed convolutions over codes"

    def rewrite(self, model: ir.Model) -> int:
        """Put the calls in the places of the chains."""
        found = [chain for node in model.graph if (chain := _chain(node)) is not None]
        for chain in found:
            calls = _calls(model.graph, chain)
            model.graph.insert_before(chain.quantize, calls)
            replace(chain.quantize.outputs[0], calls[-1].outputs[0])
            for node in (chain.activation, chain.norm, chain.conv):
                if node is not None:
                    model.graph.remove(node, safe=True)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each chain that is left."""
        yield from (f"{label(n)} rounds what a call could" for n in model.graph if _chain(n))


def _calls(graph: ir.Graph, chain: _Chain) -> list[ir.Node]:
    """Return the nodes that put out a quantizer's codes instead of a chain."""
    prefix, conv = chain.quantize.outputs[0].name, chain.conv
    codes, scale = chain.weight.inputs[:2]
    channels = array_of(codes).shape[0]
    scales = np.broadcast_to(array_of(scale).reshape(-1), channels).astype(np.float32)
    slope = add_constant(graph, f"normed/slope_{chain.slope}", np.float32(chain.slope))
    inside = new_node(
        "Transpose", [chain.source.inputs[0]], f"{prefix}/channels_last_in",
        name=f"{prefix}/last", perm=CHANNELS_LAST,
    )  # fmt: skip
    inputs = [
        inside.outputs[0], *chain.source.inputs[1:3], codes,
        add_constant(graph, f"{scale.name}/of_{conv.name}", scales), *chain.norm.inputs[1:3], slope,
        *chain.quantize.inputs[1:3],
    ]  # fmt: skip
    epsilon = chain.norm.attributes.get("epsilon")
    call = new_node(
        NORMED_CONV, inputs, f"{prefix}/channels_last", name=conv.name, domain=DOMAIN,
        epsilon=EPSILON if epsilon is None else epsilon.as_float(), group=groups_of(conv),
        pads=_whole(conv, "pads", (0, 0, 0, 0)), strides=_whole(conv, "strides", (1, 1)),
    )  # fmt: skip
    outside = new_node(
        "Transpose", [call.outputs[0]], prefix, name=f"{prefix}/first", perm=CHANNELS_FIRST
    )
    return [inside, call, outside]


def _chain(quantize: ir.Node) -> _Chain | None:
    if quantize.op_type != "QuantizeLinear" or not _is_grid(quantize):
        return None
    node, activation, slope = _alone(quantize.inputs[0]), None, 1.0
    if node is not None and node.op_type == "LeakyRelu":
        alpha = node.attributes.get("alpha")
        activation, slope = node, 0.01 if alpha is None else alpha.as_float()
        node = _alone(node.inputs[0])
    if node is None or node.op_type != "InstanceNormalization":
        return None
    conv = _alone(node.inputs[0])
    if conv is None or not _fits(conv, [constant(value) for value in node.inputs[1:3]]):
        return None
    return _Chain(conv, node, activation, quantize, slope)


def _alone(value: ir.Value) -> ir.Node | None:
    """Return the node that puts out a tensor which only one node reads."""
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return value.producer() if alone else None


def _is_grid(node: ir.Node) -> bool:
    """Tell whether a quantizer or its inverse has one scale and codes of UINT8, both constant."""
    scale, zero = (constant(value) for value in (*node.inputs[1:], None, None)[:2])
    return scale is not None and scale.size == 1 and zero is not None and zero.dtype == np.uint8


def _fits(conv: ir.Node, norm: list[np.ndarray | None]) -> bool:
    """Tell whether the kernel knows a convolution of codes with a norm's scale and shift."""
    if conv.op_type != "Conv" or "auto_pad" in conv.attributes:
        return False
    source, weight = (value.producer() for value in conv.inputs[:2])
    if any(n is None or n.op_type != "DequantizeLinear" for n in (source, weight)):
        return False
    codes, scale = (constant(value) for value in weight.inputs[:2])
    zero = constant(weight.inputs[2]) if len(weight.inputs) > 2 else np.zeros(1)
    if codes is None or scale is None or zero is None or codes.dtype != np.int8 or zero.any():
        return False
    group, one_each = groups_of(conv), codes.shape[1] == 1
    return (
        _is_grid(source)
        and constant(source.inputs[0]) is None
        and codes.ndim == 4
        and (group == 1 or (one_each and group == codes.shape[0]))
        and scale.size in (1, codes.shape[0])
        and all(array is not None and array.size == codes.shape[0] for array in norm)
        and set(_whole(conv, "dilations", (1, 1))) == {1}
    )


def _whole(node: ir.Node, name: str, default: tuple[int, ...]) -> list[int]:
    """Return an attribute of whole numbers."""
    given = node.attributes.get(name)
    return list(default if given is None else given.as_ints())
