"""How long an export takes, stage by stage, for a network of many quantizers.

    python benchmarks/export_speed.py --decoder-convs 60 --width 4

The network is one of few channels and random weights, on an image of 32x32; each convolution of
its decoder has a quantizer of weights and one behind it. Wall-clock and processor seconds of the
calls that a stage consists of; what is indented is a part of the next line that is not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import unittest.mock
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from brevitas.export.onnx.standard.qcdq.manager import StdQCDQONNXManager
from brevitas.nn import QuantConv2d, QuantIdentity
from torch.onnx._internal.torchscript_exporter import utils

from lmaunet.cpu.cpu_file import cpu_file
from lmaunet.data.loaders import load_phantom
from lmaunet.export import network
from lmaunet.export.passes import Pass
from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.spec import NetSpec

Seconds = dict[str, np.ndarray]


def quantized_network(decoder_convs: int, width: int) -> tuple[torch.nn.Module, np.ndarray]:
    """Return a calibrated network of random weights and one image ``(1, 1, 32, 32)``."""
    torch.manual_seed(0)
    double = 2 * width
    widths = (width, double, double, double, double)
    spec = NetSpec("many quantizers", widths, states=2, kernels=(3, 3, 3, 3), input_size=(32, 32),
                   decoder_convs=decoder_convs)  # fmt: skip
    images = load_phantom(size=spec.input_size, seed=0).train.images[:16]
    quantized = QuantNetwork.from_module(LMaUNet(spec).eval(), images.shape)
    calibrate(quantized, images)
    return quantized.eval(), images[:1]


@contextmanager
def measured(seconds: Seconds) -> Iterator[None]:
    """Add up the wall-clock and processor seconds of each stage of an export."""

    def timed(name: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            start = np.array([time.perf_counter(), time.process_time()])
            try:
                return function(*given, **named)
            finally:
                end = np.array([time.perf_counter(), time.process_time()])
                seconds[name(*given)] += end - start

        return call

    places: list[tuple[Any, str, Callable[..., str]]] = [
        (StdQCDQONNXManager, "set_export_mode", lambda *_: "weights as integers (Brevitas)"),
        (utils, "_export", lambda *_: "TorchScript to ONNX (torch)"),
        (utils, "_create_jit_graph", lambda *_: "  trace"),
        (utils, "_optimize_graph", lambda *_: "  torch's passes"),
        (network, "run", lambda *_: "passes of this program"),
        (Pass, "__call__", lambda step, *_: f"  {step.name}"),
    ]
    with ExitStack() as stack:
        for owner, name, label in places:
            function = timed(label, getattr(owner, name))
            if owner is StdQCDQONNXManager:
                function = staticmethod(function)
            stack.enter_context(unittest.mock.patch.object(owner, name, function))
        yield


def time_export(model: torch.nn.Module, image: np.ndarray) -> tuple[Seconds, onnx.ModelProto]:
    """Return the seconds of each stage of an export to QCDQ, and the graph."""
    seconds: Seconds = defaultdict(lambda: np.zeros(2))
    with tempfile.TemporaryDirectory() as folder, measured(seconds):
        path = Path(folder) / "network.onnx"
        start = np.array([time.perf_counter(), time.process_time()])
        network.export_qcdq(model, torch.from_numpy(image), path)
        seconds["export"] += np.array([time.perf_counter(), time.process_time()]) - start
        return seconds, onnx.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder-convs", type=int, default=60, help="in each of 4 levels")
    parser.add_argument("--width", type=int, default=4, help="channels; twice as many below")
    options = parser.parse_args()
    model, image = quantized_network(options.decoder_convs, options.width)
    counts = [
        sum(isinstance(m, kind) for m in model.modules()) for kind in (QuantIdentity, QuantConv2d)
    ]
    seconds, exported = time_export(model, image)
    start = np.array([time.perf_counter(), time.process_time()])
    cpu_file(exported)
    seconds["file for a CPU"] += np.array([time.perf_counter(), time.process_time()]) - start
    print(f"{counts[0]} quantizers of activations, {counts[1]} of weights")
    print(f"{'stage':40} {'wall':>8} {'CPU':>8}")
    for name, (wall, cpu) in seconds.items():
        print(f"{name:40} {wall:8.2f} {cpu:8.2f}")


if __name__ == "__main__":
    main()
