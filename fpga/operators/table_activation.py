"""TableActivation's RTL: the table once more for each lane, addressed by the code's bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides, type_bits, type_range
from fpga.operators.common import REGISTER, stream, text
from fpga.operators.rtl_module import RtlModule, hex_words
from lmaunet.errors import UserError

TABLE = "table.dat"
MAX_INPUT_BITS = 12


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray]) -> RtlModule:
    """Return the RTL of a node.

    Args:
        attributes: of the operator ``TableActivation``.
        constants: the table ``(entries,)``, from the code ``Low`` upwards.

    Raises:
        UserError: where PE does not divide the channels, the table has entries for codes that the
            input cannot have, or its values do not fit the output's type.
    """
    channels, pe, low = attributes["NumChannels"], attributes["PE"], attributes["Low"]
    check_divides("PE", pe, "channels", channels)
    input_type, output_type = text(attributes["inputDataType"]), text(attributes["outputDataType"])
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
        raise UserError(f"TableActivation: values {table.min()} to {table.max()}, {output_type}")
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
