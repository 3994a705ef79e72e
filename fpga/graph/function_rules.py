"""The rules of functions: of one tensor, which the next quantizer makes a table of, or of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph import pointwise
from lmaunet.fpga.graph.rules import Walk, rule
from lmaunet.fpga.graph.values import Codes, Function, Value

Real = Callable[[np.ndarray], np.ndarray]


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * v))


def _softplus(v: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, v)


_FUNCTIONS: dict[str, Real] = {
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "Softplus": _softplus,
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
}
_OF_TWO: dict[str, Callable[[Any, Any], np.ndarray]] = {
    "Mul": np.multiply, "Add": np.add, "Sub": np.subtract, "Div": np.divide, "Pow": np.power,
}  # fmt: skip


@rule("Relu")
def _relu(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    return pointwise.relu(walk.graph, inputs[0], node.output[0])


@rule(*_FUNCTIONS)
def _function(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    return pointwise.unary(walk.graph, inputs[0], _FUNCTIONS[node.op_type], node.output[0])


@rule("LeakyRelu")
def _leaky_relu(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    slope = attributes.get("alpha", 0.01)  # ONNX' default
    return pointwise.leaky_relu(walk.graph, inputs[0], float(slope), node.output[0])


@rule(*_OF_TWO)
def _of_two(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    """A function of a tensor and a number, or the product or sum of two tensors."""
    constants = [isinstance(value, np.ndarray) for value in inputs]
    if any(constants):
        place = constants.index(False)
        value, number = inputs[place], inputs[1 - place]
        if number.size == 1 and isinstance(value, Codes | Function):
            operation, scalar = _OF_TWO[node.op_type], float(number.reshape(-1)[0])
            return pointwise.unary(
                walk.graph, value,
                lambda v: operation(v, scalar) if place == 0 else operation(scalar, v),
                node.output[0],
            )  # fmt: skip
        raise UserError(
            f"{walk.graph.current}: {node.op_type} with a constant; fold it into a convolution "
            "or a quantizer before the export"
        )
    if node.op_type not in ("Mul", "Add"):
        raise UserError(
            f"{walk.graph.current}: {node.op_type} of two tensors; only Mul and Add are mapped"
        )
    return pointwise.binary(walk.graph, node.op_type, inputs[0], inputs[1], node.output[0])
