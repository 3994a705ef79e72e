"""ElementwiseAdd and ElementwiseMul: two integer streams of equal shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.common import REGISTER, is_signed, register, stream
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.rtl_module import RtlModule


class _Elementwise(Operator):
    """One beat of PE channels a cycle, when both inputs offer one."""

    joins = True
    multiply: ClassVar[bool]

    def channels(self) -> int:
        """Return the channels."""
        return int(self.attributes["out_shape"][-1])

    def cycles(self) -> int:
        """Return a cycle for each beat."""
        return math.prod(self.attributes["out_shape"]) // self.attributes["PE"]

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the type of the output, of the left or of the right input."""
        return str(self.attributes["out_dtype" if output else ("lhs_dtype", "rhs_dtype")[index]])

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL.

        Raises:
            UserError: where PE does not divide the channels, the shapes differ, an operand is a
                constant, or signed inputs have an unsigned output.
        """
        a = self.attributes
        pe, shape = a["PE"], tuple(a["out_shape"])
        self.check()
        if constants or not tuple(a["lhs_shape"]) == tuple(a["rhs_shape"]) == shape:
            raise UserError(
                f"{self.name()}: operands of shapes {list(a['lhs_shape'])} and "
                f"{list(a['rhs_shape'])}, {len(constants)} of them constant; expected two "
                f"streams of shape {list(shape)}"
            )
        left, right, out = (a[f"{side}_dtype"] for side in ("lhs", "rhs", "out"))
        if is_signed(left) and is_signed(right) and not is_signed(out):
            raise UserError(
                f"{self.name()}: {left} and {right} give negative results, got {out} for them"
            )
        return RtlModule(
            "elementwise",
            (REGISTER, "elementwise.sv"),
            {
                "PE": pe,
                "MULTIPLY": int(self.multiply),
                "LEFT_BITS": type_bits(left),
                "LEFT_SIGNED": is_signed(left),
                "RIGHT_BITS": type_bits(right),
                "RIGHT_SIGNED": is_signed(right),
                "OUTPUT_BITS": type_bits(out),
            },
            (stream("in0_V", left, pe), stream("in1_V", right, pe)),
            (stream("out0_V", out, pe),),
        )


class ElementwiseAdd(_Elementwise):
    """The sum of two streams of codes with one scale."""

    multiply = False

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the sum, int64."""
        return inputs[0].astype(np.int64) + inputs[1]

    def resources(self) -> Resources:
        """An adder, registers before and behind it and the output's (*yosys*, PE 1 and 2)."""
        a, end = self.attributes, register(self.stream_bits(0, output=True))
        left, right, out = (type_bits(a[name]) for name in ("lhs_dtype", "rhs_dtype", "out_dtype"))
        return Resources(
            end.lut + 3 + a["PE"] * max(left, right), 0, (),
            end.ff + 2 + a["PE"] * (left + right + out),
        )  # fmt: skip


class ElementwiseMul(_Elementwise):
    """The product of two streams of codes."""

    multiply = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the product, int64."""
        return inputs[0].astype(np.int64) * inputs[1]

    def resources(self) -> Resources:
        """An int8 product is one DSP, its operands and itself inside (*yosys*: exact)."""
        end = register(self.stream_bits(0, output=True))
        return Resources(end.lut + 3, self.attributes["PE"], (), end.ff + 3)
