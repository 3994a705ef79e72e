"""A build of a network that looks at one pixel at a time, in a folder like any other build's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.artifacts import Build
from lmaunet.data.inference import Preparation
from lmaunet.deploy.deployment import Interface, write_build
from lmaunet.deploy.targets import Target
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage

WINDOW = {"kind": "window", "low": -125.0, "high": 275.0, "mean": 0.5, "std": 0.25}


def interface(**changes: Any) -> Interface:
    """A network of 32x32 and two classes: fat and what is denser."""
    channels = changes.pop("channels", 1)
    spec = NetSpec(
        "pixels", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32),
        classes=2, in_channels=channels,
    )  # fmt: skip
    ready = Preparation(
        (32, 32), changes.pop("normalization", WINDOW), changes.pop("mm", (3.0, 3.0)),
        changes.pop("fit", False),
    )  # fmt: skip
    data = {"name": "x", "label_source": "y", "synthetic": False}
    spacing = changes.pop("spacing", (3.0, 3.0, None))
    return Interface(spec, "d1", ("background", "organ"), ready, spacing, data,
                     {"checkpoint": "ab"})  # fmt: skip


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Class 1 where the first channel is above 75 HU, the middle of the window."""
    assert images.shape[2:] == (32, 32) and images.dtype == np.float32
    return np.stack([np.zeros_like(images[:, 0]), images[:, 0]], 1)


def target(**changes: Any) -> Target:
    """The target of such a build."""
    given = {
        "name": "pixels", "summary": "", "probe": list, "build": None, "run": run,
        "measure": None, "arithmetic": lambda build: "one pixel at a time",
    }  # fmt: skip
    return Target(**{**given, **changes})


def make(place: Path, **changes: Any) -> Path:
    """Write the build into ``place/build/pixels``; arguments as for :func:`interface`."""
    qcdq = place / "network.qcdq.onnx"
    place.mkdir(parents=True, exist_ok=True)
    qcdq.write_bytes(b"exported")

    def work(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"weights")
        build = Build("pixels", folder, folder / "model.bin", ())
        write_build(build, interface(**changes), qcdq)

    return Stage(place, "build/pixels", {"qcdq": qcdq}, {}).write(work)
