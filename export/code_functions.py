"""Functions over UINT8 codes, for which :mod:`lmaunet.export.operators` has kernels.

A runtime has integer kernels for convolutions, but between them it computes SiLU and the scan in
float32: a DequantizeLinear before, a QuantizeLinear behind, and for the scan a loop in a body. Here
each such place becomes one call of a function of the domain ``ai.lmaunet`` from codes to codes:

    SelectiveScan(x, dt, A, B, C, D) -> y                                        float32
    SelectiveScanCodes(x, x_scale, x_zero, dt, dt_scale, dt_zero, A, B, B_scale, B_zero,
                       C, C_scale, C_zero, D, y_scale, y_zero) -> y              codes
    SiluCodes(x, x_scale, x_zero, y_scale, y_zero) -> y                          codes

The file defines all of them in standard operators, so it runs anywhere as it is. ONNX Runtime asks
for a kernel of a function's name first and looks into its definition only where there is none: a
session that has registered the library of operators runs the same file several times faster.

Maps of codes lie as ``(batch, 1, tokens, channels)``, channels last, as ONNX Runtime's integer
convolutions leave them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmaunet.export.convolutions import Graph, copy_node
from lmaunet.export.cpu_layout import CHANNELS_FIRST, CHANNELS_LAST
from lmaunet.export.function import (
    DOMAIN,
    DOMAIN_VERSION,
    MINIMUM_IR_VERSION,
    OPSET,
    is_scan,
    main_opset,
)
from lmaunet.export.lowerings.unrolled import scan_function

if TYPE_CHECKING:
    import onnx

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


def fuse_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which SiLU and the scan of quantized tensors are calls from codes to codes.

    The model's activations are UINT8 (:func:`lmaunet.export.cpu_form.unsigned_activations`) and its
    scans calls of the function ``SelectiveScan``. A place that is not of the form that the exporter
    writes stays as it is: a SiLU is DequantizeLinear, Sigmoid, Mul, QuantizeLinear; a scan's x,
    dt, B and C are a DequantizeLinear, a Reshape and a Transpose away from codes of a map of one
    row, its y a Transpose and a Reshape away from a QuantizeLinear.

    Every tensor of codes keeps its name, and so do the DequantizeLinears of the exported graph, of
    which some are read by nothing any more; :func:`lmaunet.export.compact.compact` drops those. The
    model gets the definitions of the functions.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    readers = _readers(graph)
    nodes: list[onnx.NodeProto] = []
    removed: set[str] = set()
    for node in graph.nodes:
        made = _fused_silu(graph, readers, node) or _fused_scan(graph, readers, node)
        if made is None:
            nodes.append(copy_node(node))
            continue
        calls, gone = made
        nodes += calls
        removed |= gone
    kept = [node for node in nodes if node.name not in removed]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return define_functions(result)


Fused = tuple[list["onnx.NodeProto"], set[str]]


def _readers(graph: Graph) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _fused_silu(
    graph: Graph, readers: dict[str, list[onnx.NodeProto]], quantize: onnx.NodeProto
) -> Fused | None:
    """Return the call that puts out a quantizer's codes of a SiLU, and the nodes it replaces."""
    if quantize.op_type != "QuantizeLinear":
        return None
    product = graph.producers.get(quantize.input[0])
    if product is None or product.op_type != "Mul" or len(readers[product.output[0]]) != 1:
        return None
    for value, gate in (tuple(product.input), tuple(reversed(product.input))):
        sigmoid, source = graph.producers.get(gate), graph.producers.get(value)
        if (
            sigmoid is not None
            and sigmoid.op_type == "Sigmoid"
            and list(sigmoid.input) == [value]
            and len(readers[gate]) == 1
            and source is not None
            and source.op_type == "DequantizeLinear"
            and graph.constant(source.input[0]) is None
        ):
            codes, *grid = source.input
            calls = _call_on_map(
                quantize.output[0], SILU_CODES, codes, grid + list(quantize.input[1:3])
            )
            return calls, {product.name, sigmoid.name}
    return None


def _fused_scan(
    graph: Graph, readers: dict[str, list[onnx.NodeProto]], quantize: onnx.NodeProto
) -> Fused | None:
    """Return the call that puts out a quantizer's codes of a scan's y, and what it replaces."""
    if quantize.op_type != "QuantizeLinear":
        return None
    reshape = _only_producer(graph, readers, quantize.input[0], "Reshape")
    transpose = _only_producer(graph, readers, reshape and reshape.input[0], "Transpose")
    scan = graph.producers.get(transpose.input[0]) if transpose is not None else None
    if reshape is None or transpose is None or scan is None or not is_scan(scan):
        return None
    x, dt, A, B, C, D = scan.input
    sources = [_tokens_of(graph, name) for name in (x, dt, B, C)]
    if len(readers[scan.output[0]]) != 1 or any(source is None for source in sources):
        return None
    grids = [list(source.input[1:3]) for source in sources if source is not None]
    codes = [source.input[0] for source in sources if source is not None]
    y = list(quantize.input[1:3])
    prefix = quantize.output[0]
    last = [f"{prefix}/{name}" for name in ("x", "dt", "B", "C", "channels_last")]
    calls = [
        _transpose(before, after, CHANNELS_LAST)
        for before, after in zip(codes, last[:4], strict=True)
    ]
    inputs = [
        last[0], *grids[0], last[1], *grids[1], A, last[2], *grids[2], last[3], *grids[3], D, *y,
    ]  # fmt: skip
    calls += [
        _call(SCAN_CODES, inputs, last[4], f"{scan.name}/codes"),
        _transpose(last[4], quantize.output[0], CHANNELS_FIRST),
    ]
    return calls, {scan.name, transpose.name, reshape.name}


def _only_producer(
    graph: Graph, readers: dict[str, list[onnx.NodeProto]], name: str | None, op_type: str
) -> onnx.NodeProto | None:
    """Return the node of a type that puts out a tensor which only one node reads."""
    node = graph.producers.get(name) if name else None
    if node is None or node.op_type != op_type or len(readers[node.output[0]]) != 1:
        return None
    return node


def _tokens_of(graph: Graph, name: str) -> onnx.NodeProto | None:
    """Return the DequantizeLinear of a map ``(batch, C, 1, L)`` that tokens are made from."""
    transpose = graph.producers.get(name)
    if transpose is None or transpose.op_type != "Transpose":
        return None
    if [list(a.ints) for a in transpose.attribute] != [[0, 2, 1]]:
        return None
    reshape = graph.producers.get(transpose.input[0])
    if reshape is None or reshape.op_type != "Reshape":
        return None
    source = graph.producers.get(reshape.input[0])
    if source is None or source.op_type != "DequantizeLinear":
        return None
    return source


def _call_on_map(
    output: str, op_type: str, codes: str, constants: list[str]
) -> list[onnx.NodeProto]:
    """Return a call on a channels-last map between two Transposes, which runtimes cancel."""
    inside, outside = f"{output}/channels_last_in", f"{output}/channels_last"
    return [
        _transpose(codes, inside, CHANNELS_LAST),
        _call(op_type, [inside, *constants], outside, f"{output}/{op_type}"),
        _transpose(outside, output, CHANNELS_FIRST),
    ]


def _transpose(before: str, after: str, order: list[int]) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Transpose", [before], [after], name=f"{after}/Transpose", perm=order)


def _call(op_type: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op_type, inputs, [output], name=name, domain=DOMAIN)


def define_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that defines each function of this module that the model calls, and no other.

    ``SelectiveScan`` gets the form of the lowering ``unrolled``, for scans of any size.
    """
    import onnx
    import onnx.parser

    result = onnx.ModelProto()
    result.CopyFrom(model)
    opset = max(main_opset(model), OPSET)
    called = {node.op_type for node in result.graph.node if node.domain == DOMAIN}
    definitions = {
        SCAN_CODES: lambda: onnx.parser.parse_function(_SCAN_CODES % opset),
        SILU_CODES: lambda: onnx.parser.parse_function(_SILU_CODES % opset),
        "SelectiveScan": lambda: scan_function(opset),
    }
    if SCAN_CODES in called:
        called.add("SelectiveScan")
    kept = [function for function in result.functions if function.name not in definitions]
    del result.functions[:]
    result.functions.extend(kept)
    result.functions.extend(make() for name, make in definitions.items() if name in called)
    if called and not any(entry.domain == DOMAIN for entry in result.opset_import):
        result.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    result.ir_version = max(result.ir_version, MINIMUM_IR_VERSION)
    return result
