"""Networks of nnU-Net's kind: scans in windows and in both directions reach every target's form."""

import network_zoo
import numpy as np
import onnx
import pytest
import torch

from lmaunet.cpu.cpu_file import cpu_file, cpu_forms
from lmaunet.cpu.openvino_file import openvino_form
from lmaunet.cpu.operators import cached_library
from lmaunet.deploy.targets.ort.building import optimized_nodes
from lmaunet.errors import Disagreement
from lmaunet.export.function import scan_nodes
from lmaunet.export.lower import lower
from lmaunet.export.network import export_qcdq
from lmaunet.export.passes import run
from lmaunet.export.reference import open_session, reference_logits, run_images
from lmaunet.export.segments import check_segments, check_segments_in, exported_values
from lmaunet.graph.capture import capture
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork

SIZE, CLASSES = (32, 32), 4
# two directions of windows, of their means and of the map below
SCANS = {(4, 64): 2, (1, 16): 2, (1, 64): 2}
"""How many there are of each batch (a window is one) and length."""
NORMED = 8
"""Convolutions with InstanceNorm behind them."""
SHARE = 1e-3
"""Of the codes that may differ by one: a small map has few."""


def tiny():
    torch.manual_seed(0)
    return network_zoo.MambaUNet(1, CLASSES, widths=(8, 8, 12), states=4, windows=2).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    images = np.random.default_rng(0).normal(size=(4, 1, *SIZE)).astype(np.float32)
    network = QuantNetwork(*capture(tiny(), (1, 1, *SIZE)))
    calibrate(network, images)
    path = tmp_path_factory.mktemp("zoo") / "network.onnx"
    export_qcdq(network, torch.from_numpy(images[:1]), path)
    return onnx.load(path), images[:1]


@pytest.mark.parametrize("name", network_zoo.NETWORKS)
def test_each_network_is_of_nnunets_kind(name):
    if name != "mamba":
        pytest.importorskip("dynamic_network_architectures")
    torch.manual_seed(0)
    network = network_zoo.build(name).eval()
    kinds = [type(module) for module in network.modules()]
    for kind in (torch.nn.InstanceNorm2d, torch.nn.LeakyReLU, torch.nn.ConvTranspose2d):
        assert kind in kinds
    assert (torch.nn.LayerNorm in kinds) == (name == "mamba")
    with torch.no_grad():
        logits = network(torch.randn(2, 1, 64, 48))
    assert logits.shape == (2, 4, 64, 48)
    assert 3e5 < sum(p.numel() for p in network.parameters()) < 2e6


def test_windows_hear_nothing_of_each_other_but_by_their_means():
    scan = network_zoo.WindowScan(8, 4, windows=2, pool=4).eval()
    x = torch.randn(1, 8, 16, 16)
    other = x.clone()
    other[..., 3, 2] = torch.randn(8)
    with torch.no_grad():
        far = [scan(v)[..., 8:, 8:] for v in (x, other)]
        assert not torch.equal(*far)
        scan.scan_of_means.forward = lambda tokens: torch.zeros_like(tokens)
        outside = [scan(v)[..., 8:, 8:] for v in (x, other)]
        inside = [scan(v)[..., :8, :8] for v in (x, other)]
    assert torch.equal(*outside)
    # before the pixel that changed by the backward scan, after it by the other
    changed = (inside[0] != inside[1]).any(1)[0].flatten().nonzero()
    assert changed.min() < 3 * 8 + 2 < changed.max()


def test_a_backward_scan_is_one_of_flipped_tokens():
    scan = network_zoo.TwoWayMamba(8, 4).eval()
    tokens = torch.randn(1, 20, 8)
    with torch.no_grad():
        want = scan(tokens)
        scan.onward, scan.backward_ = scan.backward_, scan.onward
        torch.testing.assert_close(scan(tokens.flip(1)).flip(1), want)


def sizes_of(model):
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in onnx.shape_inference.infer_shapes(model).graph.value_info}  # fmt: skip
    found = {}
    for node in scan_nodes(model):
        size = tuple(shapes[node.input[0]][:2])
        found[size] = found.get(size, 0) + 1
    return found


def test_the_export_holds_each_scan_once(exported):
    model, _ = exported
    assert sizes_of(model) == SCANS


def test_onnx_runtime_takes_the_operators_for_all_of_them(exported, tmp_path):
    model, image = exported
    nodes = optimized_nodes(cpu_file(model), cached_library())
    assert nodes["SelectiveScanCodes"] == sum(SCANS.values())
    assert nodes["NormedConvCodes"] == NORMED
    assert nodes["PixelShuffleCodes"] == 2
    assert not nodes["Scan"] and not nodes["InstanceNormalization"] and not nodes["LeakyRelu"]
    assert nodes["Conv"] == 1  # the head, whose logits have no quantizer
    forms = cpu_forms(model)
    check_segments(
        "ort", forms.fused, exported_values(forms.rounded, image), image, tmp_path, share=SHARE,
        optimize=True, operators=cached_library(),
    )  # fmt: skip


def test_openvino_loops_over_all_of_them(exported, tmp_path):
    pytest.importorskip("openvino")
    from lmaunet.cpu.openvino_runtime import compile_model, layers, run_once

    model, image = exported
    form = openvino_form(model, vnni=True)
    kinds = [layer.kind for layer in layers(compile_model(form))]
    assert kinds.count("TensorIterator") == sum(SCANS.values())
    check_segments_in(
        lambda cut, feeds, outputs: run_once(compile_model(cut), feeds, outputs), "openvino", form,
        exported_values(model, image), image, tmp_path, share=SHARE,
    )  # fmt: skip


def test_means_that_openvino_rounds_are_a_disagreement(exported, tmp_path):
    """The mutant: its form without the pass that keeps them exact."""
    pytest.importorskip("openvino")
    from lmaunet.cpu.averages import ExactAverages
    from lmaunet.cpu.openvino_file import form_passes
    from lmaunet.cpu.openvino_runtime import compile_model, run_once

    model, image = exported
    form = run([p for p in form_passes(vnni=True) if not isinstance(p, ExactAverages)], model)
    with pytest.raises(Disagreement, match="scan_of_means/norm"):
        check_segments_in(
            lambda cut, feeds, outputs: run_once(compile_model(cut), feeds, outputs), "openvino",
            form, exported_values(model, image), image, tmp_path, share=SHARE,
        )  # fmt: skip


def test_tensorrts_form_of_all_of_them_computes_the_same(exported):
    model, image = exported
    lowered = lower(model, "two_level")
    assert not scan_nodes(lowered)
    # a softplus is the first step of each
    before, after = (
        sum(node.op_type == "Softplus" for node in m.graph.node) for m in (model, lowered)
    )
    assert after - before == sum(SCANS.values())
    want = reference_logits(model, image)
    got = run_images(open_session(lowered, optimize=False), image)
    assert np.mean(got.argmax(1) == want.argmax(1)) > 0.999


def test_a_scan_that_loses_its_direction_is_a_disagreement(exported):
    """The mutant: what a backward scan gives stays flipped."""
    model, image = exported
    mutant = onnx.ModelProto()
    mutant.CopyFrom(model)
    flips = [n for n in mutant.graph.node if n.op_type == "Slice"]
    assert flips
    flip = flips[-1]
    for node in mutant.graph.node:
        node.input[:] = [flip.input[0] if i == flip.output[0] else i for i in node.input]
    got, want = (reference_logits(m, image) for m in (mutant, model))
    assert np.abs(got - want).max() > 0.01 * np.abs(want).max()
