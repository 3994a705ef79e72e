"""PadWithCode: a border of one given code around a map; FMPadding, whose code is 0.

A max pooling of signed codes needs the smallest code in its border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import type_bits, type_range
from lmaunet.fpga.operators.common import REGISTER, count_bits, register, stream
from lmaunet.fpga.operators.operator import FinnAttributes, Operator, Rows
from lmaunet.fpga.operators.rtl_module import RtlModule


class FMPadding(Operator):
    """``(n, H, W, C)`` to ``(n, top + H + bottom, left + W + right, C)``, filled with ``Code``.

    One beat of SIMD channels a cycle. ``ImgDim`` is ``(H, W)``, ``Padding`` top, left, bottom,
    right; without ``Code`` the border is 0.
    """

    folded_by = ("SIMD",)
    moves_only = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the map in its border."""
        top, left, bottom, right = self.attributes["Padding"]
        border = ((0, 0), (top, bottom), (left, right), (0, 0))
        return np.pad(inputs[0], border, constant_values=self.attributes.get("Code", 0))

    def _padded(self) -> tuple[int, int]:
        (height, width), (top, left, bottom, right) = (
            self.attributes[name] for name in ("ImgDim", "Padding")
        )
        return height + top + bottom, width + left + right

    def cycles(self) -> int:
        """Return a cycle for each beat that is put out."""
        return math.prod(self._padded()) * self.attributes["NumChannels"] // self.attributes["SIMD"]

    def rows(self) -> Rows:
        """Return that the border above needs nothing; the rows of a line are one."""
        a = self.attributes
        return Rows("border", a["Padding"][0]) if a["ImgDim"][0] > 1 else Rows()

    def map_size(self, shape: Sequence[int]) -> int:
        """Return the pixels of what the border is put on."""
        return math.prod(self.attributes["ImgDim"])

    def shape(self, index: int, *, output: bool) -> tuple[int, ...]:
        """Return the map's shape, with or without its border."""
        size = self._padded() if output else tuple(self.attributes["ImgDim"])
        return (1, *size, self.channels())

    def resources(self) -> Resources:
        """The register and three counters, of beats, columns and rows (*yosys*, 8 to 24 bits)."""
        end = register(self.stream_bits(0, output=False))
        beats = self.attributes["NumChannels"] // self.attributes["SIMD"]
        counters = sum(count_bits(n) for n in (beats, *self._padded()))
        return Resources(end.lut + counters, 0, (), end.ff + counters)

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL.

        Raises:
            UserError: where SIMD does not divide the channels, a border is negative, or the code
                does not fit the type.
        """
        a = self.attributes
        self.check()
        dtype, code, simd = a["inputDataType"], a.get("Code", 0), a["SIMD"]
        low, high = type_range(dtype)
        if not low <= code <= high:
            raise UserError(f"PadWithCode: Code={code}, expected {low} to {high} ({dtype})")
        top, left, bottom, right = a["Padding"]
        if min(top, left, bottom, right) < 0:
            raise UserError(f"PadWithCode: Padding={list(a['Padding'])}, expected 0 or more")
        height, width = a["ImgDim"]
        return RtlModule(
            "pad_with_code",
            (REGISTER, "pad_with_code.sv"),
            {
                "SIMD": simd,
                "BITS": type_bits(dtype),
                "BEATS": a["NumChannels"] // simd,
                "HEIGHT": height,
                "WIDTH": width,
                "TOP": top,
                "LEFT": left,
                "BOTTOM": bottom,
                "RIGHT": right,
                "CODE": code,
            },
            (stream("in0_V", dtype, simd),),
            (stream("out0_V", dtype, simd),),
        )


class PadWithCode(FMPadding):
    """:class:`FMPadding` with a border of any code, which FINN+ does not have."""

    finn_attributes: ClassVar[FinnAttributes] = {
        "ImgDim": ("ints", True, []),
        "Padding": ("ints", True, [1, 1, 1, 1]),
        "NumChannels": ("i", True, 0),
        "SIMD": ("i", False, 1),
        "inputDataType": ("s", True, ""),
        "Code": ("i", True, 0),
    }
