"""The form ``unrolled`` in OpenVINO, where the last block of tokens has a surplus."""

import numpy as np
import pytest
from onnx import helper, numpy_helper
from scan_models import make_model, oracle, random_arrays, scan_node

from lmaunet.cpu import openvino_runtime
from lmaunet.export.lower import lower

SCALE = np.float32(1 / 32)


def integer_inputs(arrays):
    """A scan whose inputs are dequantized from the integers of values, and these values."""
    values, inputs, nodes, constants = dict(arrays), [], [], []
    for name in ("x", "dt", "B", "C"):
        codes = np.clip(np.rint(arrays[name] / SCALE), -128, 127).astype(np.int8)
        values[name] = codes * SCALE
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
        inputs.append(helper.make_tensor_value_info(f"{name}_in", kind, codes.shape))
        constants += [
            numpy_helper.from_array(np.array(SCALE), f"{name}_scale"),
            numpy_helper.from_array(np.array(0, np.int8), f"{name}_zero"),
        ]
        beside = [f"{name}_scale", f"{name}_zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [f"{name}_in", *beside], [f"{name}_codes"]),
            helper.make_node("DequantizeLinear", [f"{name}_codes", *beside], [name]),
        ]
    constants += [numpy_helper.from_array(arrays[name], name) for name in ("A", "D")]
    kind = inputs[0].type.tensor_type.elem_type
    output = helper.make_tensor_value_info("y", kind, arrays["x"].shape)
    graph = helper.make_graph([*nodes, scan_node()], "scan", inputs, [output], constants)
    return make_model(graph), values


@pytest.mark.parametrize("tokens", [36, 48, 260])
def test_a_surplus_of_tokens_of_integers_is_no_trouble(tokens):
    pytest.importorskip("openvino")
    arrays = random_arrays(1, tokens, 3, 2)
    model, values = integer_inputs(arrays)
    lowered = lower(model, "unrolled")
    # of the network `demo` at 96x96 OpenVINO pads an input's zero point and not the input
    assert "Pad" not in {node.op_type for node in lowered.graph.node}
    compiled = openvino_runtime.compile_model(lowered)
    given = {f"{name}_in": values[name] for name in ("x", "dt", "B", "C")}
    (found,) = compiled(given).values()
    wanted, bound = oracle(values)
    assert (np.abs(found - wanted) <= 4 * bound + 1e-5).all()
