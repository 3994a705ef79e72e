"""The selective scan as one model-local ONNX function.

A network is exported with one node for each scan: domain ``ai.lmaunet``, operator
``SelectiveScan``, inputs x, dt, A, B, C, D, one output y, no attributes. :func:`attach` gives such
a model the function that says what the node computes, so that any runtime of the standard can run
it as it is, and a target can still recognise the node and put one of its own forms in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import onnx

DOMAIN = "ai.lmaunet"
DOMAIN_VERSION = 1
NAME = "SelectiveScan"
INPUTS = ("x", "dt", "A", "B", "C", "D")
OPSET = 18
# Functions exist since version 8 of the file format.
MINIMUM_IR_VERSION = 8

# A is a state of the Scan that never changes: some runtimes reject a body that uses a value of
# the graph around it.
_BODY = """
<opset_import: ["" : %d], domain: "ai.lmaunet">
SelectiveScan (x, dt, A, B, C, D) => (y)
{
    delta = Softplus (dt)
    u = Mul (delta, x)
    batch = Shape <start = 0, end = 1> (x)
    channels_states = Shape (A)
    h_shape = Concat <axis = 0> (batch, channels_states)
    zero = Constant <value = float {0.0}> ()
    h_start = Expand (zero, h_shape)
    h_end, A_end, read = Scan <
        num_scan_inputs = 4,
        scan_input_axes = [1, 1, 1, 1],
        scan_output_axes = [1],
        body = step (
            float[batch, channels, states] h_before, float[channels, states] A_in,
            float[batch, channels] delta_t, float[batch, channels] u_t,
            float[batch, states] B_t, float[batch, states] C_t
        ) => (
            float[batch, channels, states] h, float[channels, states] A_out,
            float[batch, channels] read_t
        ) {
            last = Constant <value = int64[1] {-1}> ()
            middle = Constant <value = int64[1] {1}> ()
            delta_column = Unsqueeze (delta_t, last)
            exponent = Mul (delta_column, A_in)
            a = Exp (exponent)
            u_column = Unsqueeze (u_t, last)
            B_row = Unsqueeze (B_t, middle)
            b = Mul (u_column, B_row)
            decayed = Mul (a, h_before)
            h = Add (decayed, b)
            C_column = Unsqueeze (C_t, last)
            read_column = MatMul (h, C_column)
            read_t = Squeeze (read_column, last)
            A_out = Identity (A_in)
        }
    > (h_start, A, delta, u, B, C)
    skip = Mul (D, x)
    y = Add (read, skip)
}
"""


def selective_scan_function(opset: int = OPSET) -> onnx.FunctionProto:
    """Return the function ``ai.lmaunet::SelectiveScan``: an ONNX Scan over single steps, float32.

    Its inputs are x and dt ``(batch, L, channels)``, A ``(channels, states)``, B and C
    ``(batch, L, states)``, D ``(channels,)``; its output y is like x. All sizes are free:

        delta = softplus(dt); h[t] = exp(delta * A) * h[t-1] + delta * B * x
        y[t] = sum over states of C * h[t], plus D * x; h[-1] = 0 for each image of the batch

    The recurrence is equation 2 of Gu and Dao, "Mamba" (2023), discretised as their kernel does.

    Args:
        opset: the version of the main operator set that its body is written in, 18 or more.
    """
    import onnx.parser

    return onnx.parser.parse_function(_BODY % opset)


def is_scan(node: onnx.NodeProto) -> bool:
    """Tell whether a node is a selective scan."""
    return node.op_type == NAME and node.domain == DOMAIN


def all_nodes(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes and those of every body (subgraph) in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from all_nodes(list(graph.node))


def scan_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the scans of a model's main graph, in the order of the graph.

    Raises:
        UserError: where a scan has not six inputs and one output, or sits in a body or in another
            function, where no lowering would find it.
    """
    found = [node for node in model.graph.node if is_scan(node)]
    for node in found:
        if len(node.input) != len(INPUTS) or not all(node.input) or len(node.output) != 1:
            raise UserError(
                f"scan {node_name(node)}: {len(node.input)} inputs and {len(node.output)} outputs; "
                f"expected the inputs {', '.join(INPUTS)} and one output; "
                "export the network again with this version"
            )
    everywhere = [*all_nodes(list(model.graph.node))]
    for function in model.functions:
        everywhere += all_nodes(list(function.node))
    hidden = [node for node in everywhere if is_scan(node)]
    if len(hidden) > len(found):
        raise UserError(
            f"{len(hidden) - len(found)} scans are inside a body or a function of the model; "
            "expected them in the main graph; inline that function "
            "(onnx.inliner.inline_selected_functions) first"
        )
    return found


def node_name(node: onnx.NodeProto) -> str:
    """Return a node's name, or its output's name where it has none."""
    return node.name or node.output[0]


def attach(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model in which the function defines its ``SelectiveScan`` nodes.

    The result is checked by the ONNX checker and runs as it is in ONNX Runtime. A function of that
    name that the model already has is replaced.

    Raises:
        UserError: where the model has no scan, is of an older operator set than 18, or is no valid
            ONNX model.
    """
    import onnx
    import onnx.checker

    if not scan_nodes(model):
        raise UserError(
            f"the model has no node {DOMAIN}::{NAME}; expected one for each selective scan; "
            "export a network that has scans"
        )
    opset = main_opset(model)
    if opset < OPSET:
        raise UserError(
            f"the model is of operator set {opset}; expected {OPSET} or more; "
            f"export with opset_version={OPSET}"
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    remove_function(result)
    result.functions.append(selective_scan_function(opset))
    if not any(entry.domain == DOMAIN for entry in result.opset_import):
        result.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    result.ir_version = max(result.ir_version, MINIMUM_IR_VERSION)
    try:
        onnx.checker.check_model(result)
    except onnx.checker.ValidationError as error:
        raise UserError(
            f"the model is not valid ONNX: {str(error).splitlines()[0]}; export the network again"
        ) from error
    return result


def main_opset(model: onnx.ModelProto) -> int:
    """Return the version of the main operator set that a model imports; 0 where it has none."""
    return max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)


def remove_function(model: onnx.ModelProto) -> None:
    """Remove the function ``SelectiveScan`` from a model, in place; its other functions stay."""
    kept = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, NAME)]
    if len(kept) != len(model.functions):
        del model.functions[:]
        model.functions.extend(kept)
