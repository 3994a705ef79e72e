"""The proof of `demo` catches what its output hides."""

from __future__ import annotations

import functools
import re
import shutil

import numpy as np
import pytest
from bench import needs_verilator

from lmaunet.errors import Disagreement
from lmaunet.fpga.build import build
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER
from lmaunet.fpga.simulation.network import Network

torch = pytest.importorskip("torch")
pytestmark = [needs_verilator, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def demo(tmp_path):
    """Return the QONNX file of `demo` with random weights, quantized, and two images."""
    from lmaunet.export.network import export_qonnx
    from lmaunet.net.network import LMaUNet
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork
    from lmaunet.spec import named_spec

    torch.manual_seed(0)
    spec = named_spec("demo")
    images = torch.randn(4, 1, *spec.input_size)
    model = LMaUNet(spec).train()
    with torch.no_grad():
        model(images)
    quantized = QuantNetwork.from_module(model.eval(), images.shape)
    calibrate(quantized, images.numpy())
    path = tmp_path / "network.qonnx.onnx"
    export_qonnx(quantized, images[:1], path)
    return path, images[:2].numpy().astype(np.float32)


def test_a_truncated_state_fails_the_build_with_the_streams_name(demo, tmp_path, monkeypatch):
    rtl = tmp_path / "rtl"
    shutil.copytree(RTL_FOLDER, rtl)
    lane = rtl / "selective_scan_lane.sv"
    text = lane.read_text()
    for half, nothing in ((".c(INFLOW_HALF)", ".c('0)"), ("| BELOW_HALF", "| '0")):
        assert text.count(half) == 1
        text = text.replace(half, nothing)
    lane.write_text(text)
    monkeypatch.setattr("lmaunet.fpga.build.Network", functools.partial(Network, rtl=rtl))
    folder = tmp_path / "fpga"
    folder.mkdir()
    with pytest.raises(Disagreement) as refused:
        build(*demo, folder, {"simulate": True}, lambda line: None)
    message = (
        r"stream \S+, accumulators differs from the integer executor in image 0 of 1, beat \d+ of "
        r"\d+, lane .*; it is the first in topological order"
    )
    assert re.search(message, str(refused.value))
    assert not (folder / "simulation.json").exists()
