"""Whether the engine computes in the precision that quantization-aware training prepared.

The exported graph says what should be INT8; the engine's own layer table says what is. A builder
that does not recognise a pattern falls back to float without a word, and the engine is slower and
larger than it should be.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lmaunet.errors import Disagreement
from lmaunet.export.convolutions import QuantizedConvolution
from lmaunet.trt.layer_table import BITS, EngineLayer, EngineTensor, bytes_by_datatype
from lmaunet.trt.policy import W8A8, WEIGHT_ONLY, PlannedConvolution

# the names of layers that convolve: "correlation" in TensorRT for RTX, "runtime_fusion" with what
# follows it in FP16, "CaskConvolution" and the like in the full TensorRT, a matrix product for
# some 1x1 convolutions
CONVOLVES = re.compile(r"corr|conv|gemm|matmul|fusion", re.IGNORECASE)


@dataclass(frozen=True)
class ConvolutionPrecision:
    """What the engine made of one quantized convolution.

    ``form`` is what the policy asks for. ``layer`` is the engine's layer, ``input`` the data type
    that it multiplies (``Int8`` ...), ``weights`` the one that its weights are stored in, and
    ``output`` what it puts out. ``weight_bytes`` is the size of its weights in the engine and
    ``exported_bytes`` in the ONNX file: channels are padded with zeros where a kernel needs a
    multiple of 4.
    """

    node: str
    kind: str
    form: str
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

    @property
    def as_planned(self) -> bool:
        """Whether the engine does what the policy asks for."""
        if self.form == W8A8:
            return self.is_int8
        return self.input == "Float" and self.weights == "Int8"


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
    layers: Sequence[EngineLayer], planned: PlannedConvolution
) -> ConvolutionPrecision:
    """Return what the engine made of one quantized convolution.

    Raises:
        Disagreement: where no layer of the engine computes it.
    """
    convolution = planned.convolution
    layer = find_layer(layers, convolution.node)
    if layer is None:
        types = sorted({one.type for one in layers if convolution.node in one.onnx_nodes})
        raise Disagreement(
            f"convolution {convolution.node}: no layer of the engine computes it; its name occurs "
            f"in layers of type {', '.join(types) or '(none)'}"
        )
    weights = _weights(layer, convolution)
    exported = math.prod(convolution.weight_dims)
    stored, nbytes = (weights.datatype, weights.bytes) if weights else ("(none)", 0)
    if weights is not None and weights in layer.inputs:
        pool = _stored(layers, weights)
        if pool is not None:
            stored, nbytes = pool.datatype, -(-exported * BITS[pool.datatype] // 8)
    return ConvolutionPrecision(
        node=convolution.node,
        kind=convolution.kind,
        form=planned.form,
        layer=layer.name,
        input=layer.inputs[0].datatype if layer.inputs else "(none)",
        weights=stored,
        output=layer.outputs[0].datatype if layer.outputs else "(none)",
        weight_bytes=nbytes,
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


def _stored(layers: Sequence[EngineLayer], weights: EngineTensor) -> EngineTensor | None:
    """Return the constant that a layer makes these weights of; None where no layer does.

    It has the weights' kernel size and at least their output channels: those of several
    convolutions are joined.
    """
    for layer in layers:
        if any(output.name == weights.name for output in layer.outputs):
            found = [
                constant
                for constant in layer.constants
                if constant.dims[1:] == weights.dims[1:] and constant.dims[0] >= weights.dims[0]
            ]
            return max(found, key=lambda t: t.bytes, default=None)
    return None


def precision_table(
    layers: Sequence[EngineLayer], planned: Iterable[PlannedConvolution]
) -> list[ConvolutionPrecision]:
    """Return what the engine made of each quantized convolution; raises as precision_of."""
    return [precision_of(layers, one) for one in planned]


NAMED = 5
"""How many convolutions a message names."""

REASONS = {
    W8A8: "expected a QuantizeLinear/DequantizeLinear pair right before each, and INT8 weights "
    "under DequantizeLinear alone",
    WEIGHT_ONLY: "expected float values from a Max after DequantizeLinear, and weights that one "
    "layer dequantizes from INT8",
}


def check_policy(
    layers: Sequence[EngineLayer], planned: Iterable[PlannedConvolution]
) -> list[ConvolutionPrecision]:
    """Return the table of all quantized convolutions, each as the policy asks.

    Raises:
        Disagreement: where one is not, with its layer and what it lacks; the first five by name.
    """
    table = precision_table(layers, planned)
    complaints = []
    for form in (W8A8, WEIGHT_ONLY):
        of_form = [row for row in table if row.form == form]
        wrong = [row for row in of_form if not row.as_planned]
        if wrong:
            rows = "; ".join(
                f"{row.node} is {row.input} x {row.weights} in layer {row.layer}"
                for row in wrong[:NAMED]
            )
            if len(wrong) > NAMED:
                rows += f"; and {len(wrong) - NAMED} more"
            complaints.append(
                f"{len(wrong)} of {len(of_form)} {form} convolutions are otherwise in the engine: "
                f"{rows}; {REASONS[form]}"
            )
    if complaints:
        raise Disagreement("; ".join(complaints))
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
    layers: Sequence[EngineLayer], planned: Iterable[PlannedConvolution]
) -> ConstantBytes:
    """Return the bytes of an engine's constants, each constant counted once.

    A generated kernel's INT8 constant is padding unless it has the dimensions of the INT8 weights,
    or of the joined weights, of a convolution that the kernel serves.
    """
    all_dims = {one.convolution.weight_dims for one in planned}
    kernels = {dims[1:] for dims in all_dims}
    weights: dict[str, EngineTensor] = {}
    padding: dict[str, EngineTensor] = {}
    for layer in layers:
        for constant in layer.constants:
            generated = not CONVOLVES.search(layer.type)
            # what is only dequantized has no input
            joined = not layer.inputs and constant.dims[1:] in kernels
            is_padding = (
                generated
                and constant.datatype == "Int8"
                and constant.dims not in all_dims
                and not joined
            )
            (padding if is_padding else weights)[constant.name] = constant
    return ConstantBytes(
        bytes_by_datatype(weights.values()), sum(t.bytes for t in padding.values())
    )


def summary(layers: Sequence[EngineLayer], table: Sequence[ConvolutionPrecision]) -> dict[str, Any]:
    """Return the counts for a report: convolutions by form, layers by type and input data type."""
    kinds = sorted({row.kind for row in table if row.form == W8A8})
    weight_only = [row for row in table if row.form == WEIGHT_ONLY]
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
        "weight_only_convolutions": {
            "int8": sum(row.weights == "Int8" for row in weight_only),
            "quantized": len(weight_only),
        },
        "layers": len(layers),
        "layers_by_type_and_input": dict(sorted(inputs.items())),
    }
