"""Builds of an elastic network's kernels, of small networks that differ as such kernels do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import images, small_network

from lmaunet.data.inference import Preparation
from lmaunet.deploy import profile_builds
from lmaunet.deploy.deployment import Interface, write_build
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage, write_json

CLASSES = ("background", "one", "other")
SPACING = {5: 4.0, 7: 3.0, 9: 2.0}


def network(kernel: int) -> onnx.ModelProto:
    """A quantized network whose depthwise weights and one activation scale are this kernel's own.

    The depthwise convolution is 7x7 in all of them: only its numbers tell the kernels apart.
    """
    model = small_network()
    rng = np.random.default_rng(kernel)
    for tensor in model.graph.initializer:
        if tensor.name == "/large.codes" and kernel != 7:
            shape = numpy_helper.to_array(tensor).shape
            codes = rng.integers(-127, 128, shape).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
        if tensor.name == "/large.scale" and kernel != 7:
            scale = numpy_helper.to_array(tensor) * np.float32(1 + kernel / 20)
            tensor.CopyFrom(numpy_helper.from_array(scale, tensor.name))
    return model


def interface(kernel: int) -> Interface:
    """What a kernel takes: 32x32 at a spacing of its own."""
    spec = NetSpec(
        "small", (4, 8, 8, 8, 8), states=4, kernels=(kernel,) * 4, input_size=(32, 32), classes=3
    )
    window = {"kind": "window", "low": -125.0, "high": 275.0, "mean": 0.5, "std": 0.25}
    mm = SPACING[kernel]
    return Interface(
        spec, str(kernel) * 64, CLASSES, Preparation((32, 32), window, (mm, mm), False),
        (3.0, mm, mm), {"name": "x", "label_source": "y", "synthetic": False}, {},
    )  # fmt: skip


def export(place: Path, kernels: tuple[int, ...] = (5, 7, 9)) -> Path:
    """Write an export of kernel 7 with those of the others in it."""
    for kernel in kernels:
        folder = place / "export" if kernel == 7 else place / "export" / "profiles" / str(kernel)
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(network(kernel), folder / "network.qcdq.onnx")
        np.savez_compressed(folder / "samples.npz", images=images(seed=kernel))
        write_json(folder / "interface.json", interface(kernel).to_json())
    return place / "export"


def make(place: Path, name: str = "ort", kernels: tuple[int, ...] = (5, 7, 9)) -> Path:
    """Export and build for a target; return the build's folder."""
    exported, target = export(place, kernels), get_target(name)
    options = {"operators": False} if name == "ort" else {}

    def work(folder: Path) -> None:
        request = BuildRequest(
            folder, exported / "network.qcdq.onnx", Path("unused"), images(), options,
            lambda line: None,
        )  # fmt: skip
        built, profiles = target.build(request), None
        if len(kernels) > 1:
            built, profiles = profile_builds.build_profiles(target, built, request, exported)
        write_build(built, interface(7), request.qcdq, profiles)

    inputs = {"qcdq": exported / "network.qcdq.onnx"}
    return Stage(place, f"build/{name}", inputs, {}).write(work)
