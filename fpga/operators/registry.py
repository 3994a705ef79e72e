"""Which operators have RTL of our own, by the operator's name without the backend's suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators import (
    depthwise_conv,
    duplicate_streams,
    elementwise,
    matrix_vector,
    max_pool,
    pad_with_code,
    requantize,
    selective_scan,
    sliding_window,
    streaming_concat,
    table_activation,
    upsample_nearest,
)
from fpga.operators.rtl_module import RtlModule

Hardware = Callable[[Mapping[str, Any], Sequence[np.ndarray]], RtlModule]

HARDWARE: dict[str, Hardware] = {
    "Requantize": requantize.hardware,
    "TableActivation": table_activation.hardware,
    "ElementwiseAdd": elementwise.add,
    "ElementwiseMul": elementwise.multiply,
    "DuplicateStreams": duplicate_streams.hardware,
    "StreamingConcat": streaming_concat.hardware,
    "UpsampleNearestNeighbour": upsample_nearest.hardware,
    "Pool": max_pool.hardware,
    "PadWithCode": pad_with_code.hardware,
    "FMPadding": pad_with_code.hardware,
    "MVAU": matrix_vector.hardware,
    "VVAU": depthwise_conv.hardware,
    "SelectiveScan": selective_scan.hardware,
    "ConvolutionInputGenerator": sliding_window.hardware,
}
