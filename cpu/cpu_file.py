"""The file that ships for a CPU: from a QCDQ graph, and its size for a network not exported yet."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from lmaunet.cpu import compact
from lmaunet.cpu.code_functions import CodeFunctions, FunctionDefinitions
from lmaunet.cpu.cpu_form import IntegerBiases, UnsignedActivations, UnsignedWeights, WideCodes
from lmaunet.cpu.cpu_layout import ChannelsLast, MoveQuantizers
from lmaunet.cpu.normed_convolutions import NormedConvolutions
from lmaunet.cpu.packing import WeightPacking
from lmaunet.cpu.pixel_shuffles import PixelShuffles
from lmaunet.cpu.saturation import CPUS
from lmaunet.errors import UserError
from lmaunet.export.convolutions import preparation
from lmaunet.export.passes import Pass, UnreadConstants, run

if TYPE_CHECKING:
    from torch import nn

LOWERING = "unrolled"
"""The form of the scan in the file's own functions."""


@dataclass(frozen=True)
class CpuForms:
    """A quantized network on its way to the file of a CPU.

    Args:
        codes: UINT8 activations, laid out for integer kernels; every value as exported.
        rounded: the same with biases rounded to integers of the accumulators.
        fused: the same with normed convolutions, pixel shuffles, SiLU and
            scans as functions from codes to codes.
    """

    codes: onnx.ModelProto
    rounded: onnx.ModelProto
    fused: onnx.ModelProto


CODES: tuple[Pass, ...] = (
    *preparation(),
    MoveQuantizers(),
    ChannelsLast(),
    UnsignedActivations(),
    WideCodes(),
    UnreadConstants(),
)
ROUNDED: tuple[Pass, ...] = (IntegerBiases(), UnreadConstants())
FUSED: dict[str, tuple[Pass, ...]] = {
    "any": (
        PixelShuffles(),
        NormedConvolutions(),
        UnsignedWeights(),
        UnreadConstants(),
        CodeFunctions(),
        FunctionDefinitions(),
    ),
    "vnni": (
        PixelShuffles(),
        NormedConvolutions(),
        UnreadConstants(),
        CodeFunctions(),
        FunctionDefinitions(),
    ),
}
FILE: tuple[Pass, ...] = (WeightPacking(), *compact.PASSES)
"""From a QCDQ graph to the file, in four parts; between them the build compares segments."""


def cpu_forms(exported: onnx.ModelProto, cpu: str = "any") -> CpuForms:
    """Return the forms of a QCDQ graph; raises UserError for an unknown ``cpu``."""
    if cpu not in CPUS:
        raise UserError(f"unknown --cpu {cpu!r}; use one of: {', '.join(CPUS)}")
    codes = run(CODES, exported)
    rounded = run(ROUNDED, codes)
    return CpuForms(codes, rounded, run(FUSED[cpu], rounded))


def pack(form: onnx.ModelProto) -> onnx.ModelProto:
    """Return a form as it ships: weights packed, and nothing in it that computing does not need."""
    return run(FILE, form)


def cpu_file(exported: onnx.ModelProto, cpu: str = "any") -> onnx.ModelProto:
    """Return the file of a QCDQ graph for a CPU."""
    return pack(cpu_forms(exported, cpu).fused)


def file_bytes(model: nn.Module, images: np.ndarray) -> int:
    """Return the bytes that a calibrated quantized network takes as a file.

    Args:
        model: the network, in evaluation mode.
        images: ``(n, channels, H, W)``; the first one's shape is that of the file's input.
    """
    import torch

    from lmaunet.export.network import export_qcdq

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_qcdq(model, torch.from_numpy(images[:1]), path)
        return cpu_file(onnx.load(path)).ByteSize()
