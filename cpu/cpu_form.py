"""A QCDQ graph in the form for which ONNX Runtime has integer kernels on a CPU.

Two things keep a network with INT8 activations of zero point 0 mostly in float on x86. ONNX
Runtime's integer convolutions want UINT8 activations there, and it drops a ReLU into one only
where the code 0 is the smallest; :class:`UnsignedActivations` gives the same values such codes.
And an integer convolution adds an integer bias; :class:`IntegerBiases` writes into the file the
rounding that ONNX Runtime would do when it loads it, so that the file computes the same with its
graph optimization and without. The fewer bits weights have, the coarser that rounding is, which
:class:`WideCodes` puts right first. :class:`UnsignedWeights` comes last.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from lmaunet.cpu.saturation import SHIFT
from lmaunet.errors import UserError
from lmaunet.export.convolutions import MOVES, grid_of, quantized
from lmaunet.export.passes import (
    Pass,
    UnreadConstants,
    add_constant,
    array_of,
    constant,
    label,
    new_node,
    run,
)

LARGEST_RELU_CODE = 127
LARGEST_WIDE_CODE = 64
"""Two products of an activation code up to 255 and a weight code up to 64 fit INT16, in which x86
processors without VNNI add them; larger ones would saturate there, see :class:`UnsignedWeights`."""
INT16_MAX = 32_767


class UnsignedActivations(Pass):
    """Give activations UINT8 codes.

    The model is one after :func:`lmaunet.export.convolutions.preparation`: every quantizer is INT8
    with zero point 0. A quantizer gets the zero point 128. Where it follows a ReLU that nothing
    else reads, the ReLU goes, the quantizer gets the zero point 0, and a Clip keeps its codes at
    127 and below, where the INT8 quantizer saturates. One that repeats such a quantizer behind
    operators that only move values has the zero point 0 too, so that these move codes. Constants
    under DequantizeLinear (weights) stay INT8. Every DequantizeLinear puts out the same values, bit
    for bit.
    """

    name = "unsigned activations"

    def requires(self, model: ir.Model) -> None:
        """Raise :class:`UserError` where another operator than DequantizeLinear reads codes."""
        for node in _signed_quantizers(model.graph):
            for reader in node.outputs[0].consumers():
                if reader.op_type != "DequantizeLinear":
                    raise UserError(
                        f"{reader.op_type} {reader.name} computes with the codes "
                        f"{node.outputs[0].name!r}; expected only DequantizeLinear to read codes; "
                        "export activations without narrow range"
                    )

    def rewrite(self, model: ir.Model) -> int:
        """Replace codes and zero points, from the image to the logits."""
        graph, quantizers = model.graph, list(_signed_quantizers(model.graph))
        if not quantizers:
            return 0
        zero, shift, largest = (
            add_constant(graph, f"unsigned/{name}", np.array(value, np.uint8))
            for name, value in (
                ("zero_point_0", 0), ("zero_point_128", SHIFT),
                ("largest_relu_code", LARGEST_RELU_CODE),
            )
        )  # fmt: skip
        for node in quantizers:
            value, codes = node.inputs[0], node.outputs[0]
            relu = _relu_of(value)
            moved = _points_moved(value) == {zero}
            point = zero if relu is not None or moved else shift
            node.replace_input_with(2, point)
            for reader in codes.consumers():
                reader.resize_inputs(3)
                reader.replace_input_with(2, point)
            if relu is not None:
                node.replace_input_with(0, relu.inputs[0])
                graph.remove(relu, safe=True)
                name = codes.name
                clip = new_node("Clip", [codes, None, largest], name, name=f"{node.name}/Clip")
                graph.insert_after(node, clip)
                codes.name = f"{name}/unclipped"
                codes.replace_all_uses_with(clip.outputs[0])
                clip.replace_input_with(0, codes)
        return len(quantizers)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each quantizer that still has codes of INT8."""
        for node in _signed_quantizers(model.graph):
            yield f"the codes of {label(node)} are signed"


def _signed_quantizers(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if node.op_type == "QuantizeLinear" and array_of(node.inputs[2]).dtype == np.int8:
            yield node


def _relu_of(value: ir.Value) -> ir.Node | None:
    """Return the ReLU that puts out a tensor which only one node reads; None where none does."""
    node = value.producer()
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return node if node is not None and node.op_type == "Relu" and alone else None


def _points_moved(value: ir.Value) -> set[ir.Value | None]:
    """Return the zero points of the codes that a tensor's values are moved from, None for others.

    Those are the zero points of activations; a weight has none here.
    """
    node = value.producer()
    if node is None:
        return {None}
    if node.op_type == "DequantizeLinear":
        return {None if node.inputs[0].is_initializer() else node.inputs[2]}
    if node.op_type not in MOVES or node.op_type == "Relu" or grid_of(value) is None:
        return {None}
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return set().union(*(_points_moved(source) for source in inputs))


class WideCodes(Pass):
    """Let weights of few bits use the larger codes, with a finer scale.

    A convolution's bias is rounded to a unit of ``input scale * weight scale``. Codes of 3 bits
    have a scale 32 times as coarse as those of 8, and half a unit may be much of an output's step.
    Codes are multiplied by the largest power of two that keeps them within
    :data:`LARGEST_WIDE_CODE`, and their scale is divided by it: the values stay as they are, bit
    for bit. A weight is an INT8 initializer under a DequantizeLinear without zero point, or with
    zeros.
    """

    name = "wide codes"

    def rewrite(self, model: ir.Model) -> int:
        """Widen them."""
        found = list(_narrow_weights(model.graph))
        for node, shift in found:
            codes, scale = (array_of(value) for value in node.inputs[:2])
            wide = (codes << shift).astype(np.int8)
            finer = (scale * np.float32(2.0**-shift)).astype(np.float32)
            for index, name, array in ((0, "wide_codes", wide), (1, "finer_scale", finer)):
                added = add_constant(model.graph, f"{node.name}/{name}", array)
                node.replace_input_with(index, added)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each weight that could still be twice as wide."""
        yield from (f"the codes of {label(n)} are narrow" for n, _ in _narrow_weights(model.graph))


def _narrow_weights(graph: ir.Graph) -> Iterator[tuple[ir.Node, int]]:
    """Yield the DequantizeLinear of each weight, and by how many bits its codes can be shifted."""
    for node in graph:
        if node.op_type != "DequantizeLinear" or not node.inputs[0].is_initializer():
            continue
        codes, scale = array_of(node.inputs[0]), constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
        if codes.dtype != np.int8 or scale is None or zero is None or zero.any():
            continue
        largest = int(np.abs(codes.astype(np.int16)).max(initial=0))
        shift = (LARGEST_WIDE_CODE // largest).bit_length() - 1 if largest else 0
        if shift > 0:
            yield node, shift


class UnsignedWeights(Pass):
    """Give weights that could saturate on a CPU UINT8 codes.

    x86 processors without VNNI multiply UINT8 by INT8 in pairs and add each pair in INT16, which
    saturates: wrong sums, without a word. ONNX Runtime multiplies UINT8 by UINT8 in wider numbers.
    So where two products of the largest codes of a convolution's input and weights exceed INT16,
    the weights' codes and zero points become larger by 128; the values stay as they are, bit for
    bit. A model is one after :class:`UnsignedActivations`.
    """

    name = "unsigned weights"

    def rewrite(self, model: ir.Model) -> int:
        """Shift them."""
        found = saturating(model.graph)
        for conv in found:
            weight = conv.inputs[1].producer()
            stored = weight.inputs[0]
            codes, scale = (array_of(value) for value in weight.inputs[:2])
            if codes.dtype != np.int8:
                continue  # another convolution has the same weight
            shifted = (codes.astype(np.int16) + SHIFT).astype(np.uint8)
            zeros = np.full(scale.shape, SHIFT, np.uint8)
            name = f"unsigned/zero_points_{scale.size}x{scale.ndim}"
            weight.replace_input_with(
                0, add_constant(model.graph, f"{stored.name}/unsigned", shifted)
            )
            weight.resize_inputs(3)
            weight.replace_input_with(2, add_constant(model.graph, name, zeros))
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each convolution that may still saturate."""
        yield from (f"the sums of {label(node)} may saturate" for node in saturating(model.graph))


def saturating(graph: ir.Graph) -> list[ir.Node]:
    """Return the convolutions of INT8 weights whose sums may saturate in INT16."""
    found = []
    for node in quantized(graph):
        source, weight = grid_of(node.inputs[0]), node.inputs[1].producer()
        codes, scale = (constant(value) for value in weight.inputs[:2])
        if source is None or codes is None or scale is None or codes.dtype != np.int8:
            continue
        zero = constant(source.inputs[2])
        largest = LARGEST_RELU_CODE if zero is not None and not zero.any() else 255
        if 2 * largest * int(np.abs(codes.astype(np.int16)).max(initial=0)) > INT16_MAX:
            found.append(node)
    return found


class IntegerBiases(Pass):
    """Make the bias of each quantized convolution an accumulator value.

    A convolution of codes accumulates in units of ``input scale * weight scale[channel]``. Each
    bias is rounded to the nearest multiple of that unit, half to even, so that it changes by half
    a unit at most. It stays a float32 tensor.
    """

    name = "integer biases"

    def rewrite(self, model: ir.Model) -> int:
        """Round them."""
        found = list(_biases(model.graph))
        for node, bias, unit in found:
            rounded = (np.rint(bias / unit) * unit).astype(np.float32)
            added = add_constant(model.graph, f"{node.name}/integer_bias", rounded)
            node.replace_input_with(2, added)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each bias that is further from an accumulator value than float32 makes it."""
        for node, bias, unit in _biases(model.graph):
            off = np.abs(bias - np.rint(bias / unit) * unit)
            if (off > np.spacing(np.abs(bias).astype(np.float32))).any():
                yield f"the bias of {label(node)} is between accumulator values"


def _biases(graph: ir.Graph) -> Iterator[tuple[ir.Node, np.ndarray, np.ndarray]]:
    """Yield each quantized convolution with a bias, the bias and its unit, float64."""
    for node in quantized(graph):
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        source, weight = grid_of(node.inputs[0]), node.inputs[1].producer()
        scales = [constant(n.inputs[1]) for n in (source, weight) if n is not None]
        if bias is None or any(scale is None for scale in scales):
            continue
        unit = np.ones(1)
        for scale in scales:
            unit = unit * np.asarray(scale, np.float64).reshape(-1)
        yield node, bias, unit


def unsigned_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`UnsignedActivations`; raises as that does."""
    return run([UnsignedActivations(), UnreadConstants()], model)


def widen_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`WideCodes`."""
    return run([WideCodes(), UnreadConstants()], model)


def unsigned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`UnsignedWeights`."""
    return run([UnsignedWeights(), UnreadConstants()], model)


def integer_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`IntegerBiases`."""
    return run([IntegerBiases(), UnreadConstants()], model)
