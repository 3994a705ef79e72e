"""The same strokes on builds of several targets: the same corrected mask, up to a tolerance.

Targets round differently, so that a probability differs a little, and a voxel on the edge of a cut
may fall to the other side: at most one in a hundred (docs/correction.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_build
from small_build import images, small_network

import lmaunet
from lmaunet.data.inference import Preparation
from lmaunet.deploy.correction import CutOptions
from lmaunet.deploy.deployment import Interface, write_build
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage

TOLERATED = 0.01
SPACING = (3.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def ort(tmp_path_factory):
    return small_build.make(tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("a") / "ort")


@pytest.fixture(scope="module")
def other(request, tmp_path_factory):
    """A build of another target, of the same exported network."""
    place = tmp_path_factory.mktemp(request.param)
    onnx.save(small_network(), place / "network.qcdq.onnx")
    spec = NetSpec(
        "small", (4, 8, 8, 8, 8), states=4, kernels=(3, 3, 3, 3), input_size=(32, 32), classes=3
    )
    window = {"kind": "window", "low": -125.0, "high": 275.0, "mean": 0.5, "std": 0.25}
    interface = Interface(
        spec, "5" * 64, small_build.CLASSES, Preparation((32, 32), window, (3.0, 3.0), False),
        (3.0, 3.0, 3.0), {"name": "x", "label_source": "y", "synthetic": False}, {},
    )  # fmt: skip

    def work(folder: Path) -> None:
        asked = BuildRequest(
            folder, place / "network.qcdq.onnx", Path("unused"), images(), {}, lambda line: None
        )
        write_build(get_target(request.param).build(asked), interface, asked.qcdq)

    name = f"build/{request.param}"
    made = Stage(place, name, {"qcdq": place / "network.qcdq.onnx"}, {}).write(work)
    return Path(shutil.copytree(made, place / "alone"))


def corrected(build):
    rng = np.random.default_rng(0)
    image = rng.normal(75, 150, (3, 32, 32)).astype(np.float32)
    mask = lmaunet.load(build)(image, spacing=SPACING)
    strokes = np.zeros(mask.shape, np.uint8)
    strokes[1, 6:26, 10], strokes[1, 16, 14:28], strokes[0, 20, 4:12] = 1, 255, 2
    return mask, lmaunet.refine(image, mask, strokes, build=build, spacing=SPACING)


def differing(first, second):
    return np.count_nonzero(first != second) / first.size


@pytest.mark.parametrize("other", ["openvino", "trt"], indirect=True)
def test_a_correction_is_that_of_another_target(ort, other):
    before, one = corrected(ort)
    _, two = corrected(other)
    assert differing(before, one) > 0.05  # something was corrected
    assert differing(one, two) <= TOLERATED


def test_probabilities_that_are_too_far_off_are_noticed():
    """The tolerance is no licence: shares moved by 0.6 give another mask."""
    from lmaunet.deploy.correction import NO_STROKE, correct

    rng = np.random.default_rng(0)
    shares = np.moveaxis(rng.dirichlet(np.ones(3), (3, 32, 32)), -1, 0)
    image = rng.normal(size=(1, 3, 32, 32)).astype(np.float32)
    mask = np.argmax(shares, 0).astype(np.uint8)
    strokes = np.full(mask.shape, NO_STROKE, np.int32)
    strokes[1, 6:26, 10] = 1
    options = CutOptions(strength_mm=1.0, trust=1.0)
    masks = []
    for noise in (0.0, 1e-4, 0.6):
        moved = np.abs(shares + noise * rng.normal(size=shares.shape))
        masks.append(correct(image, mask, strokes, SPACING, moved / moved.sum(0), options).mask)
    assert differing(masks[0], masks[1]) <= TOLERATED < differing(masks[0], masks[2])
