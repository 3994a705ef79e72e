"""From the lowered nodes to an ONNX model that FINN+ accepts, and its mapping to backends."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpga.boards import Board
from fpga.environment import DOMAIN, load_finn
from fpga.lowering.walk import Lowered
from lmaunet.errors import UserError

BACKENDS = (f"{DOMAIN}.rtl", f"{DOMAIN}.hls")


def assemble(lowered: Lowered) -> Any:
    """Return the hardware graph as a qonnx ModelWrapper, every tensor with shape and type."""
    load_finn()
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
    load_finn()
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
