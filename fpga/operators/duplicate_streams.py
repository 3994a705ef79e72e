"""DuplicateStreams' RTL: one stream to several consumers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides
from fpga.operators.common import REGISTER, require_positive, stream, text
from fpga.operators.rtl_module import RtlModule


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray] = ()) -> RtlModule:
    """Return the RTL of a ``DuplicateStreams`` node; raises :class:`UserError` for a bad PE."""
    pe, outputs = attributes["PE"], attributes["NumOutputStreams"]
    check_divides("PE", pe, "channels", attributes["NumChannels"])
    require_positive("DuplicateStreams", NumOutputStreams=outputs)
    dtype = text(attributes["inputDataType"])
    port = stream("in0_V", dtype, pe)
    return RtlModule(
        "duplicate_streams",
        (REGISTER, "duplicate_streams.sv"),
        {"OUTPUTS": outputs, "BITS": port.bits},
        (port,),
        tuple(stream(f"out{i}_V", dtype, pe) for i in range(outputs)),
        bundled="out",
    )
