"""The selective scan as one model-local ONNX function.

A network is exported with one node for each scan: domain ``ai.lmaunet``, operator
``SelectiveScan``, inputs x, dt, A, B, C, D, one output y, no attributes. :func:`attach` gives such
a model the function that says what the node computes, so that any runtime of the standard can run
it as it is, and a target can still recognise the node and put one of its own forms in its place.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.checker
import onnx.parser
import onnx_ir as ir

from lmaunet.errors import UserError
from lmaunet.export.lowerings import (
    DOMAIN,
    DOMAIN_VERSION,
    INPUTS,
    MINIMUM_IR_VERSION,
    NAME,
    OPSET,
)
from lmaunet.export.model_messages import all_nodes
from lmaunet.export.passes import Pass, label, run

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
    return onnx.parser.parse_function(_BODY % opset)


def is_scan(node: onnx.NodeProto | ir.Node) -> bool:
    """Tell whether a node is a selective scan."""
    return node.op_type == NAME and node.domain == DOMAIN


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


class ScanFunction(Pass):
    """Define the ``SelectiveScan`` nodes of a model by the function, in place of one it may have.

    What comes out is checked by the ONNX checker and runs as it is in ONNX Runtime.
    """

    name = "definition of the scan"

    def requires(self, model: ir.Model) -> None:
        """Raise :class:`UserError` where there is no scan, or the operator set is older than 18."""
        if not scan_nodes(ir.to_proto(model)):
            raise UserError(
                f"the model has no node {DOMAIN}::{NAME}; expected one for each selective scan; "
                "export a network that has scans"
            )
        opset = model.opset_imports.get("", 0)
        if opset < OPSET:
            raise UserError(
                f"the model is of operator set {opset}; expected {OPSET} or more; "
                f"export with opset_version={OPSET}"
            )

    def rewrite(self, model: ir.Model) -> int:
        """Add it; raises :class:`UserError` where the checker takes the model for invalid."""
        define(model, selective_scan_function(model.opset_imports[""]))
        try:
            onnx.checker.check_model(ir.to_proto(model))
        except onnx.checker.ValidationError as error:
            raise UserError(
                f"the model is not valid ONNX: {str(error).splitlines()[0]}; "
                "export the network again"
            ) from error
        return 1

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each call of a function of ours that the model does not define."""
        yield from undefined_calls(model)


def define(model: ir.Model, function: onnx.FunctionProto | ir.Function) -> None:
    """Add a function of ours to a model, as its last one, and what it takes to call it."""
    added = ir.from_proto(function) if isinstance(function, onnx.FunctionProto) else function
    model.functions.pop(added.identifier(), None)
    model.functions[added.identifier()] = added
    model.opset_imports.setdefault(DOMAIN, DOMAIN_VERSION)
    model.ir_version = max(model.ir_version, MINIMUM_IR_VERSION)


def undefined_calls(model: ir.Model) -> Iterator[str]:
    """Yield the calls of functions of ours that a model does not define."""
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN and node.op_identifier() not in model.functions:
            yield f"{label(node)} is a call of a function that is not in the file"


def attach(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`ScanFunction`; raises as that does."""
    return run([ScanFunction()], model)
