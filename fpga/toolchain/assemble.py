"""From the lowered nodes to an ONNX model that FINN+ accepts, mapped to backends and folded."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmaunet.errors import Disagreement, UserError
from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.environment import DOMAIN
from lmaunet.fpga.graph.lower import Lowered
from lmaunet.fpga.sizing.design import Design
from lmaunet.fpga.toolchain.registration import load_operators

BACKENDS = (f"{DOMAIN}.rtl", f"{DOMAIN}.hls")


def assemble(lowered: Lowered) -> Any:
    """Return the hardware graph as a qonnx ModelWrapper, every tensor with shape and type."""
    load_operators()
    from onnx import TensorProto, helper, numpy_helper
    from qonnx.core.datatype import DataType
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.basic import qonnx_make_model

    graph, host = lowered.graph, lowered.host

    def info(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.shapes[name])

    initializers = []
    for name, values in graph.constants.items():
        # FINN+ keeps weights as float32; our own operators' constants stay exact
        small = graph.constant_types[name] in ("INT2", "INT3", "INT4", "INT8")
        initializers.append(
            numpy_helper.from_array(values.astype(np.float32) if small else values, name)
        )
    streamed = [n for n in graph.shapes if n not in (host.input_tensor, host.output_tensor)]
    proto = helper.make_graph(
        graph.nodes, "hardware", [info(host.input_tensor)], [info(host.output_tensor)],
        initializers, value_info=[info(name) for name in streamed],
    )  # fmt: skip
    model = ModelWrapper(qonnx_make_model(proto))
    for name, dtype in (*graph.dtypes.items(), *graph.constant_types.items()):
        model.set_tensor_datatype(name, DataType[dtype] if dtype != "FLOAT64" else None)
    return model


def specialize(model: Any, board: Board) -> Any:
    """Map every node to RTL or HLS for a board's part, by FINN+'s own SpecializeLayers.

    Raises:
        UserError: where a node stays unmapped.
    """
    load_operators()
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from qonnx.transformation.general import GiveUniqueNodeNames

    try:
        mapped = model.transform(GiveUniqueNodeNames()).transform(SpecializeLayers(board.part))
    except Exception as error:  # FINN+ raises plain exceptions
        raise UserError(f"FINN+ cannot map a node for {board.part}: {error}") from error
    unmapped = [n for n in mapped.graph.node if n.domain not in BACKENDS]
    if unmapped:
        names = ", ".join(f"{n.op_type} ({n.name})" for n in unmapped)
        raise UserError(f"no hardware backend for: {names}")
    return mapped


def apply_folding(design: Design, model: Any) -> None:
    """Write the folding and the kinds of memories into the nodes of the mapped graph.

    Raises:
        Disagreement: where FINN+'s own cycle count of a node is another one than ours.
    """
    from qonnx.custom_op.registry import getCustomOp

    nodes = {node.output[0]: node for node in model.graph.node}
    for folded in design.nodes:
        operator = getCustomOp(nodes[folded.name])
        for name in folded.operator.folded_by:
            value = folded.attributes[name]
            operator.set_nodeattr(name, value if isinstance(value, str) else int(value))
        if "ram_style" in operator.get_nodeattr_types():
            _place_memory(operator, design.styles[folded.name])
        operator.verify_node()
        expected = int(operator.get_exp_cycles())
        if expected != folded.cycles():
            raise Disagreement(
                f"{folded.op_type} {folded.name}: FINN+ counts {expected} cycles, the folding "
                f"{folded.cycles()}"
            )
        operator.set_nodeattr("cycles_estimate", expected)


def _place_memory(operator: Any, styles: tuple[str, ...]) -> None:
    """Tell FINN+ which kind of memory a node's buffer or weights are in.

    It allows weights in UltraRAM only where they may be written.
    """
    style = styles[0] if styles else "auto"
    operator.set_nodeattr("ram_style", style)
    name = "runtime_writeable_weights"
    if name in operator.get_nodeattr_types():
        writeable = int(style == "ultra")
        if operator.get_nodeattr(name) != writeable:
            operator.set_nodeattr(name, writeable)
