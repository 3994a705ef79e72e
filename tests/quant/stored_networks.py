"""Two quantized networks as revision 905563d wrote and computed them, and how they were made.

Run by that revision, ``python stored_networks.py FOLDER`` writes ``local.npz`` and ``bins.npz``.
What both revisions compute in the same way is here too, for the test that compares them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from lmaunet.export.network import export_qcdq, export_qonnx
from lmaunet.fpga.agreement.reference import Reference
from lmaunet.fpga.board.boards import named_board
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import lower
from lmaunet.fpga.sizing.search import Sizing

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "local": ("free", dict(
        widths=(4, 6, 7, 9, 10), strides=(1, 2, 2, 2), kernels=(3, 5, 7, 3), skip="add",
        decoder_widths=(5, 6, 8, 9), pyramid_width=11, decoder_convs=2, input_size=(24, 16),
        classes=3,
    )),
    "bins": ("pow2", dict(
        widths=(5, 4, 8, 6, 9), strides=(2, 1, 2, 2), kernels=(5, 3, 3, 5), skip="concat",
        pyramid="bins", pyramid_bins=(1, 2), expand=2, input_size=(16, 32), in_channels=3,
        classes=2,
    )),
}  # fmt: skip
"""By name what every scale may be, and the choices of the spec."""

BITS = (2, 3, 4, 8)
"""One layer after the other has these."""

CYCLES, CLOCK_MHZ = 20_000, 250.0
"""What the hardware is sized for, on a ZCU104."""


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return the logits of images ``(n, C, H, W)``, all computed in float64."""
    with torch.no_grad():
        return model.double().eval()(torch.from_numpy(images).double()).numpy()


def qcdq_numbers(model: nn.Module, images: np.ndarray) -> list[str]:
    """Return every array of the QCDQ file by what it holds: INT8 weights, scales, biases."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_qcdq(model.eval(), torch.from_numpy(images[:1]), path)
        return numbers(onnx.load(path))


def numbers(model: onnx.ModelProto) -> list[str]:
    """Return what the codes and scales of a QCDQ model are, and its convolutions' biases, sorted.

    An array counts once for each place that takes it, whatever its name.
    """
    found = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    taken = []
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Conv", "SelectiveScan"):
            arrays = [(k, found[name]) for k, name in enumerate(node.input) if name in found]
            taken += [f"{node.op_type} {k} {_named(array)}" for k, array in arrays]
    return sorted(taken)


def _named(array: np.ndarray) -> str:
    """Return an array's type, size and content; its shape may be written with ones or without."""
    sizes = "x".join(str(n) for n in array.shape if n != 1)
    return f"{array.dtype} {sizes} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def hardware(model: nn.Module, images: np.ndarray) -> tuple[list[str], int]:
    """Return constants and attributes of the hardware graph, sorted, and its latency in cycles."""
    from lmaunet.fpga.toolchain.assemble import assemble

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_qonnx(model.eval(), torch.from_numpy(images[:1]), path)
        reference = Reference(path)
        lowered = lower(path, reference.run(images, reference.scan_inputs()))
    parts = [_named(array) for array in lowered.graph.constants.values()]
    parts += [
        f"{node.op_type} {attribute.name} {helper.get_attribute_value(attribute)}"
        for node in lowered.graph.nodes
        for attribute in node.attribute
    ]
    host = dataclasses.asdict(lowered.host)
    parts += [f"{key} {_named(np.asarray(v))}" for key, v in host.items() if not isinstance(v, str)]
    executor = Executor(assemble(lowered).model)
    design = Sizing(executor, lowered.graph.shapes).design(CYCLES, named_board("ZCU104"), CLOCK_MHZ)
    return sorted(parts), round(design.schedule.latency)


def make(folder: Path) -> None:
    """Write both networks; by revision 905563d."""
    from lmaunet.net.checkpoint import save_checkpoint
    from lmaunet.net.network import LMaUNet
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantLMaUNet
    from lmaunet.spec import NetSpec

    for name, (scales, choices) in NETWORKS.items():
        torch.manual_seed(3)
        spec = NetSpec(name, states=3, **choices)
        model = LMaUNet(spec)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.1)
        shape = (8, spec.in_channels, *spec.input_size)
        steps = np.random.default_rng(7).integers(-50, 51, shape).astype(np.int8)
        images = (steps / 16).astype(np.float32)
        layers = [layer.path for layer in spec.layers() if layer.weights]
        bits = {layer: BITS[i % 4] for i, layer in enumerate(layers)}
        quantized = QuantLMaUNet(model.eval(), bits, scales=scales, keep_norms=True)
        calibrate(quantized, images)
        quantized.fold_norms()
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "model.pt"
            save_checkpoint(
                path, spec, quantized, kind="quantized", dice=0.5, bits=quantized.bits,
                scales=quantized.scales, classes=[f"c{i}" for i in range(spec.classes)],
                normalization={},
            )  # fmt: skip
            checkpoint = np.frombuffer(path.read_bytes(), np.uint8)
        qcdq = qcdq_numbers(quantized, images)
        parts, cycles = hardware(quantized, images)
        np.savez_compressed(
            folder / f"{name}.npz", checkpoint=checkpoint, steps=steps,
            logits=logits_of(quantized, images[:2]),
            integers=json.dumps({"qcdq": qcdq, "hardware": parts, "cycles": cycles}),
        )  # fmt: skip


if __name__ == "__main__":
    make(Path(sys.argv[1]))
