"""What every rule of the lowering is given, and where the rules are found by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph.builder import HardwareGraph
from lmaunet.fpga.graph.values import Codes


@dataclass
class Walk:
    """The state of the one walk over a QONNX graph.

    ``values``: what each tensor is so far. ``calibration``: what enters the scans on sample images.
    ``blocks``: for each convolution whose channels become blocks of pixels, rows and columns of
    a block, by the convolution's output.
    """

    graph: HardwareGraph
    values: dict[str, Any]
    calibration: Mapping[str, np.ndarray]
    blocks: Mapping[str, tuple[int, int]]
    input_name: str = ""
    quantized_input: Codes | None = None


Rule = Callable[[Walk, Any, dict[str, Any], list[Any]], Any]
RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Return what makes a function the rule of ONNX or QONNX operators."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            RULES[op_type] = function
        return function

    return register


def constant(walk: Walk, value: Any, what: str) -> np.ndarray:
    """Return a value that must be a constant; raises :class:`UserError` where it is not."""
    if not isinstance(value, np.ndarray):
        raise UserError(f"{walk.graph.current}: {what} is not a constant")
    return value
