"""Functions over UINT8 codes, for which :mod:`lmaunet.cpu.operators` has kernels.

A runtime has integer kernels for convolutions, but between them it computes SiLU and the scan in
float32: a DequantizeLinear before, a QuantizeLinear behind, and for the scan a loop in a body. Here
each such place becomes one call of a function of the domain ``ai.lmaunet`` from codes to codes:

    SelectiveScan(x, dt, A, B, C, D) -> y                                        float32
    SelectiveScanCodes(x, x_scale, x_zero, dt, dt_scale, dt_zero, A, B, B_scale, B_zero,
                       C, C_scale, C_zero, D, y_scale, y_zero) -> y              codes
    SiluCodes(x, x_scale, x_zero, y_scale, y_zero) -> y                          codes

Those of :mod:`lmaunet.cpu.normed_convolutions` and :mod:`lmaunet.cpu.pixel_shuffles` go
before them.

The file defines all of them in standard operators, so it runs anywhere as it is. ONNX Runtime asks
for a kernel of a function's name first and looks into its definition only where there is none: a
session that has registered the library of operators runs the same file several times faster.

Maps of codes lie as ``(batch, 1, tokens, channels)``, channels last, as ONNX Runtime's integer
convolutions leave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import onnx.parser
import onnx_ir as ir

from lmaunet.cpu.cpu_layout import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    channels_first,
    channels_last,
    order_of,
)
from lmaunet.cpu.normed_convolutions import (
    NORMED_CONV,
    NormedConvolutions,
    normed_conv_function,
)
from lmaunet.cpu.pixel_shuffles import SHUFFLE, PixelShuffles, shuffle_function
from lmaunet.export.function import DOMAIN, OPSET, define, is_scan, undefined_calls
from lmaunet.export.lower import static_shapes
from lmaunet.export.lowerings.unrolled import scan_function
from lmaunet.export.passes import Pass, constant, label, new_node, replace, run

SCAN_CODES, SILU_CODES = "SelectiveScanCodes", "SiluCodes"

_SCAN_CODES = """
<opset_import: ["" : %d, "ai.lmaunet" : 1], domain: "ai.lmaunet">
SelectiveScanCodes (x, x_scale, x_zero, dt, dt_scale, dt_zero, A, B, B_scale, B_zero, C, C_scale,
                    C_zero, D, y_scale, y_zero) => (y)
{
    row = Constant <value = int64[1] {1}> ()
    x_map = DequantizeLinear (x, x_scale, x_zero)
    x_tokens = Squeeze (x_map, row)
    dt_map = DequantizeLinear (dt, dt_scale, dt_zero)
    dt_tokens = Squeeze (dt_map, row)
    B_map = DequantizeLinear (B, B_scale, B_zero)
    B_tokens = Squeeze (B_map, row)
    C_map = DequantizeLinear (C, C_scale, C_zero)
    C_tokens = Squeeze (C_map, row)
    y_tokens = ai.lmaunet.SelectiveScan (x_tokens, dt_tokens, A, B_tokens, C_tokens, D)
    y_map = Unsqueeze (y_tokens, row)
    y = QuantizeLinear (y_map, y_scale, y_zero)
}
"""
_SILU_CODES = """
<opset_import: ["" : %d], domain: "ai.lmaunet">
SiluCodes (x, x_scale, x_zero, y_scale, y_zero) => (y)
{
    value = DequantizeLinear (x, x_scale, x_zero)
    gate = Sigmoid (value)
    silu = Mul (value, gate)
    y = QuantizeLinear (silu, y_scale, y_zero)
}
"""


class CodeFunctions(Pass):
    """Make SiLU and the scan of quantized tensors calls from codes to codes.

    The model's activations are UINT8 (:class:`lmaunet.cpu.cpu_form.UnsignedActivations`) and its
    scans calls of the function ``SelectiveScan``. A place that is not of the form that the exporter
    writes stays as it is: a SiLU is DequantizeLinear, Sigmoid, Mul, QuantizeLinear; a scan's x,
    dt, B and C are a DequantizeLinear, a Reshape and a Transpose away from codes of a map of one
    row, its y a Transpose and a Reshape away from a QuantizeLinear.

    Every tensor of codes keeps its name, and so do the DequantizeLinears of the exported graph, of
    which some are read by nothing any more; :class:`lmaunet.export.passes.DeadNodes` drops those.
    """

    name = "functions over codes"

    def rewrite(self, model: ir.Model) -> int:
        """Put the calls in the places of what they compute."""
        found = list(_all_fused(model))
        for quantize, calls, gone in found:
            model.graph.insert_before(quantize, calls)
            replace(quantize.outputs[0], calls[-1].outputs[0])
            for node in gone:
                model.graph.remove(node, safe=True)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each place that could still become a call."""
        yield from (f"{label(n)} rounds what a call could" for n, *_ in _all_fused(model))


Fused = tuple[ir.Node, list[ir.Node], list[ir.Node]]
"""A quantizer, the nodes that put out its codes instead, and those that nothing needs then."""


Shapes = dict[str, tuple[int, ...]]


def _all_fused(model: ir.Model) -> Iterator[Fused]:
    # no shape is inferred behind calls that are defined only when the file is whole; volumes, whose
    # maps have an axis more, have none of them
    bare = any(node.domain == DOMAIN and not is_scan(node) for node in model.graph)
    shapes = {} if bare else static_shapes(ir.to_proto(model))
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            fused = _fused_silu(node, shapes) or _fused_scan(node, shapes)
            if fused is not None:
                yield fused


def _axes(value: ir.Value, shapes: Shapes) -> int:
    """Return a tensor's axes: 4 behind a function of ours, whose shape is not inferred."""
    return len(shapes.get(value.name or "", CHANNELS_LAST))


def _fused_silu(quantize: ir.Node, shapes: Shapes) -> Fused | None:
    product = _only_producer(quantize.inputs[0], "Mul")
    if product is None:
        return None
    for value, gate in (product.inputs, product.inputs[::-1]):
        sigmoid, source = _only_producer(gate, "Sigmoid"), value.producer()
        if (
            sigmoid is not None
            and sigmoid.inputs[0] is value
            and source is not None
            and source.op_type == "DequantizeLinear"
            and constant(source.inputs[0]) is None
        ):
            codes, *grid = source.inputs
            prefix = quantize.outputs[0].name
            axes = _axes(codes, shapes)
            inside = _transpose(codes, f"{prefix}/channels_last_in", channels_last(axes))
            inputs = [inside.outputs[0], *grid, *quantize.inputs[1:3]]
            name = f"{prefix}/{SILU_CODES}"
            call = new_node(SILU_CODES, inputs, f"{prefix}/channels_last", name=name, domain=DOMAIN)
            calls = [inside, call, _transpose(call.outputs[0], prefix, channels_first(axes))]
            return quantize, calls, [product, sigmoid]
    return None


def _fused_scan(quantize: ir.Node, shapes: Shapes) -> Fused | None:
    reshape = _only_producer(quantize.inputs[0], "Reshape")
    transpose = _only_producer(reshape.inputs[0], "Transpose") if reshape is not None else None
    scan = _only_producer(transpose.inputs[0], "SelectiveScan") if transpose is not None else None
    if scan is None or not is_scan(scan):
        return None
    x, dt, A, B, C, D = scan.inputs
    sources = [source for value in (x, dt, B, C) if (source := _tokens_of(value)) is not None]
    if len(sources) < 4 or any(_axes(s.inputs[0], shapes) != 4 for s in sources):
        return None
    prefix = quantize.outputs[0].name
    maps = [
        _transpose(source.inputs[0], f"{prefix}/{name}", CHANNELS_LAST)
        for source, name in zip(sources, ("x", "dt", "B", "C"), strict=True)
    ]
    x_codes, dt_codes, B_codes, C_codes = (
        [node.outputs[0], *source.inputs[1:3]] for node, source in zip(maps, sources, strict=True)
    )
    inputs = [*x_codes, *dt_codes, A, *B_codes, *C_codes, D, *quantize.inputs[1:3]]
    call = new_node(
        SCAN_CODES, inputs, f"{prefix}/channels_last", name=f"{scan.name}/codes", domain=DOMAIN
    )
    calls = [*maps, call, _transpose(call.outputs[0], prefix, CHANNELS_FIRST)]
    return quantize, calls, [reshape, transpose, scan]


def _only_producer(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the node of a type that puts out a tensor which only one node reads."""
    node = value.producer()
    return node if node is not None and node.op_type == op_type and len(value.uses()) == 1 else None


def _tokens_of(value: ir.Value) -> ir.Node | None:
    """Return the DequantizeLinear of a map ``(batch, C, 1, L)`` that tokens are made from."""
    transpose = value.producer()
    if transpose is None or transpose.op_type != "Transpose" or order_of(transpose) != [0, 2, 1]:
        return None
    reshape = transpose.inputs[0].producer()
    if reshape is None or reshape.op_type != "Reshape":
        return None
    source = reshape.inputs[0].producer()
    return source if source is not None and source.op_type == "DequantizeLinear" else None


def _transpose(value: ir.Value, after: str, order: list[int]) -> ir.Node:
    return new_node("Transpose", [value], after, name=f"{after}/Transpose", perm=order)


class FunctionDefinitions(Pass):
    """Define each function over codes that the model calls, and no other.

    ``SelectiveScan`` gets the form of the lowering ``unrolled``, for scans of any size.
    """

    name = "definitions of functions"

    def rewrite(self, model: ir.Model) -> int:
        """Define them, in place of those that the model may have."""
        opset = max(model.opset_imports.get("", 0), OPSET)
        called = {node.op_type for node in model.graph if node.domain == DOMAIN}
        definitions: dict[str, Callable[[], ir.Function | onnx.FunctionProto]] = {
            SCAN_CODES: lambda: onnx.parser.parse_function(_SCAN_CODES % opset),
            SILU_CODES: lambda: onnx.parser.parse_function(_SILU_CODES % opset),
            NORMED_CONV: lambda: normed_conv_function(opset),
            SHUFFLE: lambda: shuffle_function(opset),
            "SelectiveScan": lambda: scan_function(opset),
        }
        if SCAN_CODES in called:
            called.add("SelectiveScan")
        for name, make in definitions.items():
            model.functions.pop((DOMAIN, name, ""), None)
            if name in called:
                define(model, make())
        return len(called)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each call of a function of ours that the model does not define."""
        yield from undefined_calls(model)


def fuse_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model with every function over codes, and their definitions."""
    return run(
        [PixelShuffles(), NormedConvolutions(), CodeFunctions(), FunctionDefinitions()], model
    )


def define_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`FunctionDefinitions`."""
    return run([FunctionDefinitions()], model)
