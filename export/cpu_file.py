"""The file that ships for a CPU: from a QCDQ graph, and its size for a network not exported yet."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import onnx
    from torch import nn

LOWERING = "unrolled"
"""The form of the scan in the file's own functions."""
CPUS = ("any", "vnni")
"""What a file may count on: ``any`` processor, or one that has VNNI, which adds products of UINT8
and INT8 without saturation (:func:`lmaunet.export.cpu_form.unsigned_weights`)."""


@dataclass(frozen=True)
class CpuForms:
    """A quantized network on its way to the file of a CPU.

    Args:
        codes: UINT8 activations, laid out for integer kernels; every value as exported.
        rounded: the same with biases rounded to integers of the accumulators.
        fused: the same with SiLU and scans as functions from codes to codes.
    """

    codes: onnx.ModelProto
    rounded: onnx.ModelProto
    fused: onnx.ModelProto


def cpu_forms(exported: onnx.ModelProto, cpu: str = "any") -> CpuForms:
    """Return the forms of a QCDQ graph; raises UserError for an unknown ``cpu``."""
    from lmaunet.export.code_functions import fuse_codes
    from lmaunet.export.convolutions import prepare
    from lmaunet.export.cpu_form import (
        integer_biases,
        unsigned_activations,
        unsigned_weights,
        widen_codes,
    )
    from lmaunet.export.cpu_layout import channels_last_reshapes, requantize_moves

    if cpu not in CPUS:
        raise UserError(f"unknown --cpu {cpu!r}; use one of: {', '.join(CPUS)}")
    laid_out = channels_last_reshapes(requantize_moves(prepare(exported)))
    codes = widen_codes(unsigned_activations(laid_out))
    rounded = integer_biases(codes)
    return CpuForms(
        codes, rounded, fuse_codes(rounded if cpu == "vnni" else unsigned_weights(rounded))
    )


def pack(form: onnx.ModelProto) -> onnx.ModelProto:
    """Return a form as it ships: weights packed, and nothing in it that computing does not need."""
    from lmaunet.export.compact import compact
    from lmaunet.export.packing import pack_weights

    return compact(pack_weights(form))


def cpu_file(exported: onnx.ModelProto, cpu: str = "any") -> onnx.ModelProto:
    """Return the file of a QCDQ graph for a CPU."""
    return pack(cpu_forms(exported, cpu).fused)


def file_bytes(model: nn.Module, images: np.ndarray) -> int:
    """Return the bytes that a calibrated quantized network takes as a file.

    Args:
        model: the network, in evaluation mode.
        images: ``(n, channels, H, W)``; the first one's shape is that of the file's input.
    """
    import onnx
    import torch

    from lmaunet.export.network import export_qcdq

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_qcdq(model, torch.from_numpy(images[:1]), path)
        return cpu_file(onnx.load(path)).ByteSize()
