"""ElementwiseAdd's and ElementwiseMul's RTL: two integer streams of equal shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides, type_bits
from fpga.operators.common import REGISTER, is_signed, stream, text
from fpga.operators.rtl_module import RtlModule
from lmaunet.errors import UserError


def add(attributes: Mapping[str, Any], constants: Sequence[np.ndarray]) -> RtlModule:
    """Return the RTL of an ``ElementwiseAdd``; see :func:`hardware`."""
    return hardware(attributes, constants, multiply=False)


def multiply(attributes: Mapping[str, Any], constants: Sequence[np.ndarray]) -> RtlModule:
    """Return the RTL of an ``ElementwiseMul``; see :func:`hardware`."""
    return hardware(attributes, constants, multiply=True)


def hardware(
    attributes: Mapping[str, Any], constants: Sequence[np.ndarray], *, multiply: bool
) -> RtlModule:
    """Return the RTL of a node.

    Args:
        attributes: of the operator.
        constants: must be empty, both operands are streams.
        multiply: whether it is the product, else the sum.

    Raises:
        UserError: where PE does not divide the channels, the shapes differ, an operand is a
            constant, or signed inputs have an unsigned output.
    """
    pe, shape = attributes["PE"], tuple(attributes["out_shape"])
    name = f"Elementwise{'Mul' if multiply else 'Add'}"
    check_divides("PE", pe, "channels", shape[-1])
    if constants or not tuple(attributes["lhs_shape"]) == tuple(attributes["rhs_shape"]) == shape:
        raise UserError(
            f"{name}: operands of shapes {list(attributes['lhs_shape'])} and "
            f"{list(attributes['rhs_shape'])}, {len(constants)} of them constant; expected two "
            f"streams of shape {list(shape)}"
        )
    left, right, out = (text(attributes[f"{side}_dtype"]) for side in ("lhs", "rhs", "out"))
    if is_signed(left) and is_signed(right) and not is_signed(out):
        raise UserError(f"{name}: {left} and {right} give negative results, got {out} for them")
    return RtlModule(
        "elementwise",
        (REGISTER, "elementwise.sv"),
        {
            "PE": pe,
            "MULTIPLY": int(multiply),
            "LEFT_BITS": type_bits(left),
            "LEFT_SIGNED": is_signed(left),
            "RIGHT_BITS": type_bits(right),
            "RIGHT_SIGNED": is_signed(right),
            "OUTPUT_BITS": type_bits(out),
        },
        (stream("in0_V", left, pe), stream("in1_V", right, pe)),
        (stream("out0_V", out, pe),),
    )
