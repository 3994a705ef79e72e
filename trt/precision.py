"""Whether the engine computes in the precision that quantization-aware training prepared.

The exported graph says what should be INT8; the engine's own layer table says what is. A builder
that does not recognise a pattern falls back to float without a word, and the engine is slower and
larger than it should be.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from export.convolutions import QuantizedConvolution
from lmaunet.errors import Disagreement
from trt.layer_table import EngineLayer, EngineTensor, bytes_by_datatype

# the names of layers that convolve: "correlation" in TensorRT for RTX, "CaskConvolution" and the
# like in the full TensorRT, a matrix product for some 1x1 convolutions
CONVOLVES = re.compile(r"corr|conv|gemm|matmul", re.IGNORECASE)


@dataclass(frozen=True)
class ConvolutionPrecision:
    """What the engine made of one quantized convolution.

    ``layer`` is the engine's layer, ``input`` and ``weights`` the data types that it multiplies
    (``Int8`` ...), ``output`` what it puts out. ``weight_bytes`` is the size of its weights in the
    engine and ``exported_bytes`` in the ONNX file: channels are padded with zeros where a kernel
    needs a multiple of 4.
    """

    node: str
    kind: str
    layer: str
    input: str
    weights: str
    output: str
    weight_bytes: int
    exported_bytes: int

    @property
    def is_int8(self) -> bool:
        """Whether INT8 is multiplied by INT8."""
        return self.input == self.weights == "Int8"


def find_layer(layers: Sequence[EngineLayer], node: str) -> EngineLayer | None:
    """Return the layer that computes an ONNX convolution; None where the engine has none.

    A layer names each ONNX node that it came from, however many were fused into it, so that the
    match is by that list and never by the layer's own name. Generated kernels that only prepare a
    convolution's operands or finish its result name it too; they are not of a type that convolves.
    """
    found = [layer for layer in layers if node in layer.onnx_nodes and CONVOLVES.search(layer.type)]
    # where one layer was split, the one that holds the weights computes it
    return max(found, key=lambda layer: sum(c.bytes for c in layer.constants), default=None)


def precision_of(
    layers: Sequence[EngineLayer], convolution: QuantizedConvolution
) -> ConvolutionPrecision:
    """Return what the engine made of one quantized convolution.

    Raises:
        Disagreement: where no layer of the engine computes it.
    """
    layer = find_layer(layers, convolution.node)
    if layer is None:
        types = sorted({one.type for one in layers if convolution.node in one.onnx_nodes})
        raise Disagreement(
            f"convolution {convolution.node}: no layer of the engine computes it; its name occurs "
            f"in layers of type {', '.join(types) or '(none)'}"
        )
    weights = _weights(layer, convolution)
    exported = 1
    for dim in convolution.weight_dims:
        exported *= dim
    return ConvolutionPrecision(
        node=convolution.node,
        kind=convolution.kind,
        layer=layer.name,
        input=layer.inputs[0].datatype if layer.inputs else "(none)",
        weights=weights.datatype if weights else "(none)",
        output=layer.outputs[0].datatype if layer.outputs else "(none)",
        weight_bytes=weights.bytes if weights else 0,
        exported_bytes=exported,
    )


def _weights(layer: EngineLayer, convolution: QuantizedConvolution) -> EngineTensor | None:
    """Return the operand that holds the weights: ``(out, in, height, width)``, ``in`` padded.

    Weights that the engine dequantizes first come from another layer, as an input.
    """
    operands = [*layer.constants, *layer.inputs[1:]]
    out, _, *kernel = convolution.weight_dims
    shaped = [t for t in operands if t.dims[:1] == (out,) and list(t.dims[2:]) == kernel]
    return max(shaped or operands, key=lambda t: t.bytes, default=None)


def precision_table(
    layers: Sequence[EngineLayer], convolutions: Iterable[QuantizedConvolution]
) -> list[ConvolutionPrecision]:
    """Return what the engine made of each quantized convolution; raises as precision_of."""
    return [precision_of(layers, convolution) for convolution in convolutions]


def check_int8(
    layers: Sequence[EngineLayer], expected: Iterable[QuantizedConvolution]
) -> list[ConvolutionPrecision]:
    """Return the table of all quantized convolutions, each dense one in INT8 times INT8.

    A depthwise convolution is listed with what it became.

    Raises:
        Disagreement: where a dense convolution is not INT8 times INT8, with each of them.
    """
    table = precision_table(layers, expected)
    wrong = [row for row in table if row.kind == "dense" and not row.is_int8]
    if wrong:
        rows = "; ".join(
            f"{row.node} is {row.input} x {row.weights} in layer {row.layer}" for row in wrong
        )
        dense = sum(row.kind == "dense" for row in table)
        raise Disagreement(
            f"{len(wrong)} of {dense} quantized dense convolutions are not INT8 x INT8 in the "
            f"engine: {rows}; expected a QuantizeLinear/DequantizeLinear pair right before each, "
            "and INT8 weights under DequantizeLinear alone"
        )
    return table


@dataclass(frozen=True)
class ConstantBytes:
    """The bytes of an engine's constants.

    ``weights``: what multiplies or adds, by data type, with the zero channels that a kernel's
    weights are padded with. ``padding``: constant zeros that the engine concatenates to a map of
    codes because a kernel needs a multiple of 4 channels. Neither contains the compiled or
    compilable kernels, which are the rest of the plan.
    """

    weights: dict[str, int]
    padding: int

    @property
    def weights_total(self) -> int:
        """All weights, in bytes."""
        return sum(self.weights.values())


def constant_bytes(
    layers: Sequence[EngineLayer], convolutions: Iterable[QuantizedConvolution]
) -> ConstantBytes:
    """Return the bytes of an engine's constants, each constant counted once.

    A generated kernel's INT8 constant is padding unless it has the dimensions of the INT8 weights
    of a convolution that the kernel came from.
    """
    dims_of = {convolution.node: convolution.weight_dims for convolution in convolutions}
    all_dims = set(dims_of.values())
    weights: dict[str, EngineTensor] = {}
    padding: dict[str, EngineTensor] = {}
    for layer in layers:
        for constant in layer.constants:
            generated = not CONVOLVES.search(layer.type)
            is_padding = generated and constant.datatype == "Int8" and constant.dims not in all_dims
            (padding if is_padding else weights)[constant.name] = constant
    return ConstantBytes(
        bytes_by_datatype(weights.values()), sum(t.bytes for t in padding.values())
    )


def summary(layers: Sequence[EngineLayer], table: Sequence[ConvolutionPrecision]) -> dict[str, Any]:
    """Return the counts for a report: convolutions in INT8, layers by type and input data type."""
    kinds = sorted({row.kind for row in table})
    inputs = Counter(
        f"{layer.type} {'+'.join(sorted({t.datatype for t in layer.inputs})) or '(none)'}"
        for layer in layers
    )
    return {
        "int8_convolutions": {
            kind: {
                "int8": sum(row.is_int8 for row in table if row.kind == kind),
                "quantized": sum(row.kind == kind for row in table),
            }
            for kind in kinds
        },
        "layers": len(layers),
        "layers_by_type_and_input": dict(sorted(inputs.items())),
    }
