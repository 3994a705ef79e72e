"""Networks of nnU-Net's structure with batch norms, from torch to integers and to RTL."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bench import needs_verilator
from nnunet_nets import UNet, settled

from lmaunet.errors import Disagreement
from lmaunet.export.network import export_qonnx
from lmaunet.fpga.build import HARDWARE, Built, build
from lmaunet.fpga.graph.lower import RULES
from lmaunet.fpga.graph.takes import refusals
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork, graph_of

NETWORKS = {
    "plain": ({"strides": ((1, 2), 2)}, ()),
    "residual": ({"strides": (2, 2), "residual": True}, ()),
    "residual, a scale for each input": (
        {"strides": (2, 2), "residual": True}, ("add", "concat"),
    ),
}  # fmt: skip


def exported(name: str, folder: Path) -> tuple[Path, np.ndarray]:
    """A network with random weights, quantized by calibration alone; its QONNX file and images."""
    options, separate = NETWORKS[name]
    torch.manual_seed(3)
    images = np.random.default_rng(3).normal(size=(4, 1, 16, 16)).astype(np.float32)
    network = settled(UNet((8, 8, 12), **options), torch.from_numpy(images))
    graph, weights = graph_of(network, images.shape)
    assert refusals(graph) == []
    apart = [node.name for node in graph.nodes if node.operator.name in separate]
    quantized = QuantNetwork(graph, weights, separate=apart)
    calibrate(quantized, images)
    path = folder / "network.qonnx.onnx"
    export_qonnx(quantized.eval(), torch.from_numpy(images[:1]), path)
    return path, images[:2]


def built(name: str, folder: Path, **options) -> tuple[Built, Counter[str]]:
    path, images = exported(name, folder)
    made = folder / "build"
    made.mkdir()
    found = build(path, images, made, options, lambda line: None)
    kinds = (node.op_type for node in onnx.load(made / HARDWARE).graph.node)
    return found, Counter(kind.removesuffix("_rtl").removesuffix("_hls") for kind in kinds)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_nnunet_is_built_and_equals_its_qonnx_model(tmp_path, name):
    """Every node's codes, but for ties, and the classes where they are decided."""
    found, kinds = built(name, tmp_path)
    assert all(agreement.passed for agreement in found.agreements)
    rounded = next(a for a in found.agreements if a.name.startswith("rounded codes"))
    assert rounded.n_differ <= rounded.n_total / 500
    assert found.detail["network"]["logits_sqnr_db"] > 25
    # a block of one row by two columns needs no memory
    assert kinds["DepthToSpace"] == (1 if name == "plain" else 2)
    assert kinds["StreamingConcat"] == 2
    assert kinds["ElementwiseAdd"] == {"plain": 0, "residual": 3}.get(name, 6)
    assert kinds["BinSum"] == (0 if name == "plain" else 2)


def test_a_wrong_slope_is_caught(tmp_path, monkeypatch):
    """The mutant: a LeakyReLU of 0.2 in the hardware, where the network has 0.01."""
    rule = RULES["LeakyRelu"]
    monkeypatch.setitem(RULES, "LeakyRelu", lambda w, n, a, i: rule(w, n, a | {"alpha": 0.2}, i))
    with pytest.raises(Disagreement, match="hardware node for"):
        built("plain", tmp_path)


@needs_verilator
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_its_rtl_computes_the_same_integers(tmp_path, name):
    found, kinds = built(name, tmp_path, simulate=True, target_ms=0.02)
    simulation = found.detail["simulation"]
    assert simulation["bit_exact"] and simulation["images"] == 8
    assert simulation["proof"]["streams_compared"] > kinds.total()
    assert found.detail["latency_ms_provenance"] == "simulated"
