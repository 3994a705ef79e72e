"""TableActivation: any function of one 8-bit code, as a table of 256 codes for all channels.

The table stands once more for each lane, addressed by the code's bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import look_up, type_bits, type_range
from lmaunet.fpga.operators.common import REGISTER, register, stream
from lmaunet.fpga.operators.operator import FinnAttributes, Operator
from lmaunet.fpga.operators.rtl_module import RtlModule, hex_words

TABLE = "table.dat"
MAX_INPUT_BITS = 12


class TableActivation(Operator):
    """``y = table[x - Low]``: SiLU and every change of scale between two quantized tensors.

    Inputs: the stream ``(*numInputVectors, NumChannels)``; the table, int64 ``(entries,)`` from
    the smallest code ``Low`` upwards. One beat of PE channels a cycle.
    """

    finn_attributes: ClassVar[FinnAttributes] = {
        "NumChannels": ("i", True, 0),
        "PE": ("i", False, 1),
        "numInputVectors": ("ints", True, [1]),
        "inputDataType": ("s", True, ""),
        "outputDataType": ("s", True, ""),
        "Low": ("i", True, 0),
        "Entries": ("i", True, 256),
    }

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return every value's entry."""
        return look_up(inputs[0], inputs[1], self.attributes["Low"]).astype(np.int16)

    def cycles(self) -> int:
        """Return a cycle for each beat."""
        a = self.attributes
        return math.prod(a["numInputVectors"]) * (a["NumChannels"] // a["PE"])

    def resources(self) -> Resources:
        """A ROM of 256 x 1 bit is four LUTs and their F7, F8 multiplexers (*architecture*).

        The ROM's register and the output's: *yosys*, PE 1 and 2.
        """
        bits = self.stream_bits(0, output=True)
        end = register(bits)
        roms = bits * math.ceil(self.attributes["Entries"] / 64)
        return Resources(end.lut + roms, 0, (), end.ff + bits + 1)

    def module(self, constants: Sequence[np.ndarray]) -> RtlModule:
        """Return the RTL.

        Args:
            constants: the table ``(entries,)``, from the code ``Low`` upwards.

        Raises:
            UserError: where PE does not divide the channels, the table has entries for codes that
                the input cannot have, or its values do not fit the output's type.
        """
        a = self.attributes
        self.check()
        pe, low = a["PE"], a["Low"]
        input_type, output_type = a["inputDataType"], a["outputDataType"]
        table = np.asarray(constants[0]).astype(np.int64)
        bits = type_bits(input_type)
        smallest, largest = type_range(input_type)
        if bits > MAX_INPUT_BITS:
            raise UserError(f"TableActivation: {input_type} inputs, expected {MAX_INPUT_BITS} bits")
        if low < smallest or low + len(table) - 1 > largest:
            raise UserError(
                f"TableActivation: {len(table)} entries from {low} on, but {input_type} is "
                f"{smallest} to {largest}"
            )
        least, most = type_range(output_type)
        if table.min() < least or table.max() > most:
            raise UserError(
                f"TableActivation: values {table.min()} to {table.max()}, {output_type}"
            )
        # codes that no entry is for do not occur; they read 0
        words = np.zeros(1 << bits, np.int64)
        words[np.arange(low, low + len(table)) & ((1 << bits) - 1)] = table
        return RtlModule(
            "table_activation",
            (REGISTER, "table_activation.sv"),
            {
                "PE": pe,
                "INPUT_BITS": bits,
                "OUTPUT_BITS": type_bits(output_type),
                "TABLE": TABLE,
            },
            (stream("in0_V", input_type, pe),),
            (stream("out0_V", output_type, pe),),
            {TABLE: hex_words(words, type_bits(output_type))},
        )

    def counts(self) -> dict[str, int]:
        """Return the look-ups of an image and the table's entries."""
        bits = type_bits(self.attributes["outputDataType"])
        return {
            "op_lookup": math.prod(self.shape(0, output=True)),
            f"param_table_{bits}b": self.attributes["Entries"],
        }
