"""What ``performance.py`` compares: a row is a file and the runtime that runs it.

A further row is one more entry of :func:`rows`, and for a further runtime one more entry of
``performance_worker.OPENERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from peer_tools import ToolFailed, quantize_with_modelopt
from resized import resized

from lmaunet.cpu import cpu_form, saturation
from lmaunet.cpu.code_functions import define_functions
from lmaunet.cpu.compact import compact
from lmaunet.cpu.cpu_file import LOWERING, cpu_file
from lmaunet.cpu.openvino_file import openvino_file, openvino_form
from lmaunet.cpu.openvino_runtime import FIX, has_vnni, place
from lmaunet.cpu.operators import FIX as COMPILER_FIX
from lmaunet.cpu.operators import compiler
from lmaunet.cpu.packing import pack_weights
from lmaunet.data.loaders import load_phantom
from lmaunet.export.convolutions import prepare
from lmaunet.export.lower import LOWERINGS_IN_ONNX_RUNTIME, lower
from lmaunet.export.network import FLOAT32, INPUT, QCDQ, export_float32, export_qcdq
from lmaunet.net.checkpoint import load_checkpoint, restore, save_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.spec import NetSpec

CALIBRATION_IMAGES = 4
CALIBRATION_SIZE = 128
"""At the least; the scales and the normalizations' statistics do not depend on the size."""
SETTLING_PASSES = 2
MODELOPT_IMAGES = 2


OPERATORS = "operators"
"""The form whose functions are computed by :mod:`lmaunet.cpu.operators`."""


class Missing(Exception):
    """A tool that a row needs is not here."""

    def __init__(self, tool: str, why: str, fix: str) -> None:
        super().__init__(why)
        self.tool, self.why, self.fix = tool, why, fix


@dataclass(frozen=True)
class Networks:
    """One network at one size, in torch and in ONNX, in a folder.

    ``images`` have the network's size, ``(n, channels, H, W)``.
    """

    folder: Path
    spec: NetSpec
    checkpoint: Path
    float32: onnx.ModelProto
    qcdq: onnx.ModelProto
    images: np.ndarray
    modelopt_python: Path | None

    @property
    def inputs(self) -> Path:
        """The archive with the image that everything runs on."""
        return self.folder / "inputs.npz"


@dataclass(frozen=True)
class Row:
    """One row to come. ``make`` writes the file; ``opener`` says which runtime takes it."""

    name: str
    backend: str
    precision: str
    lowering: str
    opener: str
    make: Callable[[Networks, Path], None]


def make_networks(
    spec: NetSpec, folder: Path, *, seed: int, checkpoint: Path | None, modelopt: Path | None
) -> Networks:
    """Return a network of a spec, its weights random or from a checkpoint, quantized and exported.

    The images are of a synthetic abdomen. The time of a run does not depend on weights or images.
    """
    torch.manual_seed(seed)
    step = spec.size_multiple
    small = -(-min(CALIBRATION_SIZE, *spec.input_size) // step) * step
    images = load_phantom(size=(small, small), seed=seed).train.images[:CALIBRATION_IMAGES]
    model = LMaUNet(spec)
    if checkpoint is None:
        # normalizations that have seen images keep the values of an untrained network moderate
        with torch.no_grad():
            for _ in range(SETTLING_PASSES):
                model.train()(torch.from_numpy(images))
    else:
        model.load_state_dict(restore(load_checkpoint(checkpoint), checkpoint).state_dict())
    model.eval()
    large = images[:MODELOPT_IMAGES]
    if spec.input_size != (small, small):
        large = load_phantom(size=spec.input_size, seed=seed).train.images[:MODELOPT_IMAGES]
    image = torch.from_numpy(large[:1])
    save_checkpoint(folder / "model.pt", spec, model)
    export_float32(model, image, folder / FLOAT32)
    quantized = QuantNetwork.from_module(model, images.shape)
    with torch.no_grad():
        calibrate(quantized, images)
    if image.shape[2:] != images.shape[2:]:
        quantized = resized(quantized, spec)
    export_qcdq(quantized.eval(), image, folder / QCDQ)
    networks = Networks(
        folder, spec, folder / "model.pt", onnx.load(folder / FLOAT32), onnx.load(folder / QCDQ),
        large, modelopt,
    )  # fmt: skip
    inputs: dict[str, Any] = {INPUT: large[:1]}
    np.savez(networks.inputs, **inputs)
    return networks


def _copy_checkpoint(networks: Networks, path: Path) -> None:
    path.write_bytes(networks.checkpoint.read_bytes())


def _float32(lowering: str) -> Callable[[Networks, Path], None]:
    return lambda networks, path: onnx.save(lower(networks.float32, lowering), path)


def _integers(lowering: str) -> Callable[[Networks, Path], None]:
    """Return what writes the CPU's file, with a lowering that may be another than its own."""

    def make(networks: Networks, path: Path) -> None:
        if lowering == LOWERING:
            onnx.save(as_opened(cpu_file(networks.qcdq)), path)
            return
        codes = cpu_form.unsigned_activations(prepare(networks.qcdq))
        codes = cpu_form.integer_biases(cpu_form.widen_codes(codes))
        form = lower(cpu_form.unsigned_weights(codes), lowering)
        onnx.save(as_opened(compact(pack_weights(form))), path)

    return make


def as_opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a file of the CPU as the target ``ort`` opens it on this processor."""
    signed = saturation.runtime_adds_without_saturation()
    return saturation.signed_weights(model) if signed else model


def _with_operators(
    write: Callable[[Networks], onnx.ModelProto],
) -> Callable[[Networks, Path], None]:
    def make(networks: Networks, path: Path) -> None:
        if compiler() is None:
            raise Missing("g++", "there is no C++ compiler", COMPILER_FIX)
        onnx.save(write(networks), path)

    return make


def _openvino(write: Callable[[Networks], onnx.ModelProto]) -> Callable[[Networks, Path], None]:
    def make(networks: Networks, path: Path) -> None:
        if not place():
            raise Missing("openvino", "not installed", FIX)
        onnx.save(write(networks), path)

    return make


def _modelopt(networks: Networks, path: Path) -> None:
    # from so few images the file is less exact, not slower
    try:
        quantize_with_modelopt(
            lower(networks.float32, "unrolled"), networks.images, path, calibration="max",
            python=networks.modelopt_python,
        )  # fmt: skip
    except ToolFailed as error:
        why, _, fix = str(error).partition(": ")
        raise Missing("modelopt", why, fix or "see benchmarks/peers.py") from error


def rows() -> list[Row]:
    """Return the rows to come."""
    found = [
        Row("torch eager", "torch", "fp32", "", "torch", _copy_checkpoint),
        Row("torch.compile", "torch", "fp32", "", "torch.compile", _copy_checkpoint),
    ]
    for precision, make in (("fp32", _float32), ("int8", _integers)):
        for lowering in LOWERINGS_IN_ONNX_RUNTIME:
            found.append(
                Row(f"ONNX Runtime {precision}", "onnxruntime", precision, lowering, "onnxruntime",
                    make(lowering))
            )  # fmt: skip
    native_float32 = _with_operators(lambda networks: define_functions(networks.float32))
    native_integers = _with_operators(lambda networks: as_opened(cpu_file(networks.qcdq)))
    found += [
        Row("ONNX Runtime fp32", "onnxruntime", "fp32", OPERATORS, "onnxruntime operators",
            native_float32),
        Row("ONNX Runtime int8", "onnxruntime", "int8", "unrolled, UINT8 weights", "onnxruntime",
            lambda networks, path: onnx.save(cpu_file(networks.qcdq), path)),
        Row("ONNX Runtime int8", "onnxruntime", "int8", OPERATORS, "onnxruntime operators",
            native_integers),
    ]  # fmt: skip
    float32 = _openvino(lambda networks: lower(networks.float32, "unrolled"))
    integers = _openvino(
        lambda networks: openvino_file(openvino_form(networks.qcdq, vnni=has_vnni()))
    )
    found += [
        Row("OpenVINO fp32", "openvino", "fp32", "unrolled", "openvino f32", float32),
        Row("OpenVINO bf16", "openvino", "bf16", "unrolled", "openvino bf16", float32),
        Row("OpenVINO int8", "openvino", "int8", "unrolled", "openvino f32", integers),
        Row("ModelOpt PTQ int8", "onnxruntime", "int8", "unrolled", "onnxruntime", _modelopt),
    ]
    return found
