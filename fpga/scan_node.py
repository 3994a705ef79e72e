"""What the scan operator, the executor and the folding share, without FINN+."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmaunet.spec import ScanSpec

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.scan.integer import IntegerScan

# Cycles until a state can be used again (measured in simulation of a first core).
STATE_LOOP = 6
# Cycles from the first input to the first output, pipeline and output FIFO: 22 more than the ideal
# count in simulation of a first core with 64 lanes.
SCAN_LATENCY = 22


def legal_lanes(channels: int, states: int, pd: int, pn: int) -> bool:
    """Tell whether each lane has enough states to hide the latency of the state loop."""
    return (channels // pd) * (states // pn) >= STATE_LOOP


def integer_scan(
    spec: str, scales: Sequence[float], rates: np.ndarray, skip: np.ndarray
) -> IntegerScan:
    """Return the integer golden of a scan node from its attributes and constants."""
    from lmaunet.scan.formats import ScanScales
    from lmaunet.scan.integer import IntegerScan

    return IntegerScan.from_real(
        ScanSpec.from_json(json.loads(spec)), ScanScales(*scales), rates, skip
    )
