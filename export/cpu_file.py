"""The file that ships for a CPU: from a QCDQ graph, and its size for a network not exported yet."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import nn

LOWERING = "unrolled"


def cpu_file(exported: onnx.ModelProto) -> onnx.ModelProto:
    """Return the file of a QCDQ graph: UINT8 activations, packed weights, the scan ``unrolled``."""
    from export.compact import compact
    from export.convolutions import prepare
    from export.cpu_form import (
        integer_biases,
        unsigned_activations,
        unsigned_weights,
        widen_codes,
    )
    from export.lower import lower
    from export.packing import pack_weights

    codes = integer_biases(widen_codes(unsigned_activations(prepare(exported))))
    return compact(pack_weights(lower(unsigned_weights(codes), LOWERING)))


def file_bytes(model: nn.Module, images: np.ndarray) -> int:
    """Return the bytes that a calibrated quantized network takes as a file.

    Args:
        model: the network, in evaluation mode.
        images: ``(n, channels, H, W)``; the first one's shape is that of the file's input.
    """
    import onnx
    import torch

    from export.network import export_qcdq

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_qcdq(model, torch.from_numpy(images[:1]), path)
        return cpu_file(onnx.load(path)).ByteSize()
