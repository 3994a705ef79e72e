"""What the scan operator, the executor and the folding share, without FINN+."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmaunet.spec import ScanSpec

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.scan.integer import IntegerScan

# Cycles from reading a state to reading what was written there (fpga/operators/selective_scan.sv).
STATE_LOOP = 6
# Cycles of an update in the pipeline, the tree over PN states apart: of these 19 to the products
# with C and 10 from their sum to y; then 2 in the output FIFO.
PIPELINE = 19 + 10 + 2


def scan_latency(states: int, pn: int) -> int:
    """Return how many cycles beyond the interval pass from a frame's first beat to its last output.

    First B and C of a token are filled in, N / PN beats; then the last beat goes through the
    pipeline. A frame that follows another one does not wait: the frames' interval has none of it.
    """
    return states // pn - 1 + PIPELINE + (pn - 1).bit_length()


def legal_lanes(channels: int, states: int, pd: int, pn: int) -> bool:
    """Tell whether each lane has enough states to hide the latency of the state loop."""
    return (channels // pd) * (states // pn) >= STATE_LOOP


def scan_cycles(channels: int, states: int, length: int, pd: int, pn: int) -> int:
    """Return the interval of a frame: cycles between the outputs of frames that follow closely."""
    return length * (channels // pd) * (states // pn)


def integer_scan(
    spec: str, scales: Sequence[float], rates: np.ndarray, skip: np.ndarray
) -> IntegerScan:
    """Return the integer golden of a scan node from its attributes and constants."""
    from lmaunet.scan.formats import ScanScales
    from lmaunet.scan.integer import IntegerScan

    return IntegerScan.from_real(
        ScanSpec.from_json(json.loads(spec)), ScanScales(*scales), rates, skip
    )
