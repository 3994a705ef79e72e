"""An ort build of a network that is not trained, in a folder that was copied away from its run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import SimpleITK

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import images, small_network

from lmaunet.data.inference import Preparation
from lmaunet.data.preparation import ImagePreparation
from lmaunet.deploy.deployment import Interface, write_build
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage

CLASSES = ("background", "one", "other")


def make(place: Path, alone: Path, ready: ImagePreparation | None = None) -> Path:
    """Build it by way of ``place``, which is removed, into the folder ``alone``; return that.

    Its images are prepared as ``ready`` says, by a window at 3 mm where it is not given.
    """
    onnx.save(small_network(), place / "network.qcdq.onnx")
    spec = NetSpec(
        "small", (4, 8, 8, 8, 8), states=4, kernels=(3, 3, 3, 3), input_size=(32, 32), classes=3
    )
    window = {"kind": "window", "low": -125.0, "high": 275.0, "mean": 0.5, "std": 0.25}
    interface = Interface(
        spec, "5" * 64, CLASSES, ready or Preparation((32, 32), window, (3.0, 3.0), False),
        (3.0, 3.0, 3.0), {"name": "x", "label_source": "y", "synthetic": False}, {},
    )  # fmt: skip

    def work(folder: Path) -> None:
        request = BuildRequest(
            folder, place / "network.qcdq.onnx", Path("unused"), images(), {}, lambda line: None
        )
        write_build(get_target("ort").build(request), interface, request.qcdq)

    made = Stage(place, "build/ort", {"qcdq": place / "network.qcdq.onnx"}, {}).write(work)
    shutil.copytree(made, alone)
    shutil.rmtree(place)
    return alone


def write_scan(
    path: Path, shape: tuple[int, ...] = (3, 32, 40), spacing: tuple[float, ...] = (3.0, 3.0, 4.0)
) -> Path:
    """Write a scan in HU, in noise that gives every class some pixels; return its path."""
    noise = np.random.default_rng(0).normal(75, 150, shape)
    image = SimpleITK.GetImageFromArray(noise.astype(np.int16))
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(path))
    return path
