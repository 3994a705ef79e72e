"""A build's head over masks: added with its checks, run by its target, refused where it lacks."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import images, small_network

from lmaunet.artifacts import Build
from lmaunet.data.confidence import Dropout, draw_masks
from lmaunet.deploy import masked_builds
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.errors import Disagreement, UserError
from lmaunet.export import masked_head
from lmaunet.stage import write_json

DROPOUT = Dropout(0.2, 8, 1.0, {})


@pytest.fixture(scope="module")
def qcdq(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "network.qcdq.onnx"
    onnx.save(small_network(scan=False), path)
    return path


@pytest.fixture(scope="module")
def plain(qcdq, tmp_path_factory):
    folder = tmp_path_factory.mktemp("build") / "ort"
    folder.mkdir()
    request = BuildRequest(folder, qcdq, qcdq, images(), {"operators": False}, lambda line: None)
    return get_target("ort").build(request)


def test_the_head_ships_and_is_checked(plain, qcdq):
    target = get_target("ort")
    before = plain.shipped.read_bytes()
    made = masked_builds.add_head(plain, target, DROPOUT, qcdq, images())
    assert plain.shipped.read_bytes() == before
    assert made.ships[-1].name == masked_builds.HEAD_FILE
    assert made.ships[-1].stat().st_size < 4000
    names = [a.name for a in made.agreements[-2:]]
    assert names == ["ort with the head's input as an output, logits",
                     "ort head over masks of ones, logits"]  # fmt: skip
    assert made.agreements[-2].max_abs == 0
    masks = draw_masks(9, 8, 0.2, 0)
    logits, sampled = target.sampled(made, images()[:2], masks)
    np.testing.assert_array_equal(logits, target.run(plain, images()[:2]))
    assert sampled.shape == (2, 9, 3, 32, 32) and np.ptp(sampled, 1).max() > 0.1
    first = target.sampled(made, images()[:1], masks[:3])[1]
    np.testing.assert_array_equal(first, sampled[:1, :3])
    with pytest.raises(UserError, match="cannot be computed"):
        target.sampled(made, images()[:1], masks[:, :5])
    (made.folder / masked_builds.HEAD_FILE).unlink()
    with pytest.raises(UserError, match=r"lacks head\.onnx"):
        target.sampled(made, images()[:1], masks)
    with pytest.raises(UserError, match=r"qat --dropout 0\.2"):
        target.sampled(plain, images()[:1], masks)


def test_what_takes_no_masks_is_left_as_it_is(plain, qcdq):
    assert masked_builds.add_head(plain, get_target("ort"), None, qcdq, images()) is plain
    for target in (get_target("fpga"), dataclasses.replace(get_target("ort"), sampled=None)):
        assert masked_builds.add_head(plain, target, DROPOUT, qcdq, images()) is plain
    half = Build("trt", plain.folder, plain.shipped, (), {"precision": "fp16"})
    assert masked_builds.add_head(half, get_target("trt"), DROPOUT, qcdq, images()) is half


def test_a_head_that_gives_other_logits_stops_the_build(plain, qcdq, monkeypatch):
    """Such as one of another export: its weights are moved by one."""

    def wrong(model, exported):
        head, features = made(model, exported)
        for tensor in head.graph.initializer:
            if tensor.name == "weights":
                moved = numpy_helper.to_array(tensor) + 1
                tensor.CopyFrom(numpy_helper.from_array(moved, "weights"))
        return head, features

    made = masked_head.masked_head
    monkeypatch.setattr(masked_head, "masked_head", wrong)
    with pytest.raises(Disagreement, match="masks of ones"):
        masked_builds.add_head(plain, get_target("ort"), DROPOUT, qcdq, images())


def test_a_run_says_its_dropout_or_none(tmp_path):
    assert masked_builds.dropout_of(tmp_path) is None
    assert masked_builds.dropout_file(tmp_path) == {}
    write_json(tmp_path / "confidence.json", DROPOUT.to_json())
    assert masked_builds.dropout_of(tmp_path) == DROPOUT
    assert masked_builds.dropout_file(tmp_path) == {"confidence": tmp_path / "confidence.json"}
    write_json(tmp_path / "confidence.json", {"dropout": 2})
    with pytest.raises(UserError):
        masked_builds.dropout_of(tmp_path)
