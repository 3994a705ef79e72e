import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from scan_models import (
    feeds,
    info,
    make_model,
    oracle,
    random_arrays,
    scan_model,
    scan_node,
)

import lmaunet.export.lower
import lmaunet.export.lowerings
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.export.check import check_graph, run_onnx
from lmaunet.export.function import DOMAIN, INPUTS, NAME, attach
from lmaunet.export.lower import (
    LOWERINGS_IN_ONNX_RUNTIME,
    ScanSite,
    all_lowerings,
    count_nodes,
    executable_lowerings,
    get_lowering,
    lower,
    sites,
)
from lmaunet.net.scan import selective_scan as training_scan
from lmaunet.scan.real import selective_scan as golden_scan

LOWERINGS = [entry for entry in all_lowerings().values() if not hasattr(entry, "why")]
EXECUTABLE = LOWERINGS_IN_ONNX_RUNTIME
SHAPES = [
    (1, 1, 1, 1),
    (1, 2, 1, 2),
    (2, 7, 3, 2),
    (1, 16, 2, 1),
    (2, 17, 1, 3),
    (1, 33, 2, 2),
    (2, 48, 1, 1),
    (1, 256, 2, 2),
    (2, 257, 3, 2),
    (1, 523, 2, 5),
    (1, 1024, 24, 8),
]
EXTREMES = {
    "dt -20": {"dt": -20},
    "dt +20": {"dt": 20},
    "A -1000": {"A": -1000},
    "A near 0": {"A": -1e-6},
    "A -1000, dt +20": {"A": -1000, "dt": 20},
    "A near 0, dt +20": {"A": -1e-6, "dt": 20},
}


def test_every_file_of_the_folder_is_a_lowering():
    assert {"opaque", "two_level", "unrolled"} <= set(all_lowerings())
    assert not [entry for entry in all_lowerings().values() if hasattr(entry, "why")]
    assert {"two_level", "unrolled"} <= set(EXECUTABLE) and "opaque" not in EXECUTABLE


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", EXECUTABLE)
def test_lowering_stays_inside_the_rounding_bound(name, shape):
    arrays = random_arrays(*shape)
    y, bound = oracle(arrays)
    model = lower(scan_model(arrays), name)
    onnx.checker.check_model(model, full_check=True)
    assert all(n.op_type != NAME for n in model.graph.node) and not model.functions
    assert all(e.domain != DOMAIN for e in model.opset_import)
    for optimize in (False, True):
        got = run_onnx(model, feeds(arrays), optimize=optimize)[0]
        assert (np.abs(got - y) <= bound).all(), optimize


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", EXECUTABLE)
def test_lowering_survives_extreme_inputs(name, extreme):
    arrays = random_arrays(2, 300, 2, 3)
    arrays |= {k: np.full_like(arrays[k], v) for k, v in EXTREMES[extreme].items()}
    y, bound = oracle(arrays)
    model = lower(scan_model(arrays), name)
    for optimize in (False, True):
        got = run_onnx(model, feeds(arrays), optimize=optimize)[0]
        assert (np.abs(got - y) <= bound).all(), optimize


@pytest.mark.parametrize("name", EXECUTABLE)
def test_lowering_agrees_with_the_golden_scan(name, tmp_path):
    arrays = random_arrays(2, 100, 4, 3, seed=5)
    _, bound = oracle(arrays)
    golden = golden_scan(*(arrays[key].astype(np.float64) for key in INPUTS))
    model = lower(scan_model(arrays), name)
    agreements = check_graph(name, model, feeds(arrays), golden, float(bound.max()), tmp_path)
    assert [a.passed for a in agreements] == [True, True]


@pytest.mark.parametrize("name", EXECUTABLE)
def test_swapped_B_and_C_are_caught(name, tmp_path, monkeypatch):
    arrays = random_arrays(1, 40, 3, 2)
    y, bound = oracle(arrays)
    right = get_lowering(name)
    wrong = dataclasses.replace(
        right, emit=lambda b, site, i: right.emit(b, site, i._replace(B=i.C, C=i.B))
    )
    monkeypatch.setattr(lmaunet.export.lower, "get_lowering", lambda _: wrong)
    with pytest.raises(Disagreement, match=f"^{name}, optimization off: "):
        check_graph(name, lower(scan_model(arrays), name), feeds(arrays), y, bound.max(), tmp_path)


def test_shifted_carry_of_two_level_is_caught(tmp_path, monkeypatch):
    from lmaunet.export.lowerings import two_level

    arrays = random_arrays(1, 60, 3, 2)
    y, bound = oracle(arrays)
    check_graph("carry", lower(scan_model(arrays), "two_level"), feeds(arrays), y, bound.max(),
                tmp_path)  # fmt: skip
    right = two_level._ends

    def shifted(builder, a, b, count):
        ends = right(builder, a, b, count)
        parts = [builder.cut(ends, 1, count, 1), builder.cut(ends, 0, 1, 1)]
        return builder.concat(parts, 1)

    monkeypatch.setattr(two_level, "_ends", shifted)
    with pytest.raises(Disagreement, match=r"first at index \(0, 16, "):
        check_graph("carry", lower(scan_model(arrays), "two_level"), feeds(arrays), y, bound.max(),
                    tmp_path)  # fmt: skip


def test_state_lost_between_blocks_of_unrolled_is_caught(tmp_path, monkeypatch):
    arrays = random_arrays(1, 600, 1, 1)
    y, bound = oracle(arrays)
    model = lower(scan_model(arrays), "unrolled")
    check_graph("state", model, feeds(arrays), y, bound.max(), tmp_path)
    scan = next(n for n in model.graph.node if n.op_type == "Scan")
    body = next(a.g for a in scan.attribute if a.name == "body")
    last_chunk = next(n for n in body.node if n.output[0] == body.output[0].name)
    starts = next(i for i in body.initializer if i.name == last_chunk.input[1])
    first = helper.make_tensor(starts.name + "_first", starts.data_type, [1], [0])
    second = helper.make_tensor(starts.name + "_second", starts.data_type, [1], [1])
    body.initializer.extend([first, second])
    last_chunk.input[1], last_chunk.input[2] = first.name, second.name
    with pytest.raises(Disagreement, match=r"first at index \(0, 2\d\d, 0\)"):
        check_graph("state", model, feeds(arrays), y, bound.max(), tmp_path)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 4096, 64, 16), (1, 65536, 24, 8)], ids=str)
@pytest.mark.parametrize("lowering", LOWERINGS, ids=lambda entry: entry.name)
def test_node_count_is_the_number_of_nodes(lowering, shape):
    batch, tokens, channels, states = shape
    arrays = random_arrays(1, 1, channels, states)
    arrays |= {k: np.broadcast_to(arrays[k], (batch, tokens, arrays[k].shape[2]))
               for k in ("x", "dt", "B", "C")}  # fmt: skip
    model = scan_model(arrays)
    (site,) = sites(model)
    assert site == ScanSite("scan", *shape)
    assert lowering.accepts(site) is None
    assert lowering.node_count(site) == count_nodes(lower(model, lowering.name))


REFUSALS = {
    "two_level": (
        ScanSite("deep/scan", 1, 1 << 20, 64, 16),
        "two_level refuses scan deep/scan (batch=1, tokens=1048576, channels=64, states=16): the "
        "states of all tokens are 1073741824 elements, at most 536870912 are accepted; "
        "use the lowering unrolled, or a smaller image",
    ),
    "unrolled": (
        ScanSite("deep/scan", 64, 4096, 1024, 16),
        "unrolled refuses scan deep/scan (batch=64, tokens=4096, channels=1024, states=16): the "
        "states of a block of 256 tokens take 1024 MiB, at most 256 MiB are accepted; use a "
        "smaller batch, or keep the function ai.lmaunet::SelectiveScan (no lowering)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_too_large_a_scan_is_refused(name, monkeypatch):
    site, message = REFUSALS[name]
    model = scan_model(random_arrays(1, 4, 2, 2))
    monkeypatch.setattr(lmaunet.export.lower, "sites", lambda _: [site])
    with pytest.raises(UserError) as error:
        lower(model, name)
    assert str(error.value) == message


@pytest.mark.parametrize("name", EXECUTABLE)
def test_every_executable_lowering_has_a_limit_and_names_an_alternative(name):
    site = ScanSite("huge", 4096, 1 << 20, 4096, 256)
    reason = get_lowering(name).accepts(site)
    assert reason.startswith(f"{name} refuses scan huge (batch=4096, ")
    assert "; use " in reason


def test_opaque_is_the_node_alone():
    arrays = random_arrays(1, 20, 2, 2)
    plain = scan_model(arrays)
    lowered = lower(attach(plain), "opaque")
    assert not lowered.functions
    assert lowered.graph == plain.graph
    assert list(lowered.opset_import) == list(plain.opset_import)


@pytest.mark.parametrize("name", EXECUTABLE)
def test_network_around_the_scans_stays_as_it_is(name):
    arrays = random_arrays(2, 20, 3, 2)
    nodes = [
        helper.make_node("Neg", ["rate"], ["A"], name="Neg"),
        # a tensor whose name a lowering would give to one of its own
        helper.make_node("Tanh", ["image"], ["scan/Softplus_0"], name="scan/Tanh"),
        helper.make_node("Mul", ["scan/Softplus_0", "two"], ["x"], name="Mul"),
        scan_node(name="scan"),
        scan_node(("y", "dt", "A", "C", "B", "D"), "y2", name="scan_"),
        scan_node(("y2", "dt", "A", "B", "C", "D"), "out", name=""),
    ]
    constants = {"rate": -arrays["A"], "D": arrays["D"], "two": np.float32([2])}
    inputs = [info("image", 2, 20, 3), info("dt", 2, 20, 3)]
    inputs += [info("B", 2, 20, 2), info("C", 2, 20, 2)]
    model = attach(make_model(helper.make_graph(
        nodes, "three", inputs, [info("out", 2, 20, 3)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )))  # fmt: skip
    before = model.SerializeToString()
    lowered = lower(model, name)
    assert model.SerializeToString() == before
    onnx.checker.check_model(lowered, full_check=True)
    mine = [n.SerializeToString() for n in lowered.graph.node]
    assert mine[:3] == [n.SerializeToString() for n in nodes[:3]]
    assert list(lowered.graph.initializer)[:3] == list(model.graph.initializer)
    assert lowered.graph.input == model.graph.input
    assert [s.name for s in sites(model)] == ["scan", "scan_", "out"]
    names = [n.name for n in lowered.graph.node]
    assert len(names) == len(set(names))
    given = {"image": arrays["x"], **{k: arrays[k] for k in ("dt", "B", "C")}}
    want = run_onnx(model, given, optimize=False)[0]
    # Both are float32 evaluations of one formula; three scans in a row amplify their rounding.
    tolerance = 1e-5 * np.abs(want).max()
    assert np.abs(run_onnx(lowered, given, optimize=True)[0] - want).max() < tolerance


def test_new_file_is_a_lowering(tmp_path, monkeypatch):
    (tmp_path / "steps_of_one.py").write_text(
        "import dataclasses\n"
        "from lmaunet.export.lowerings.opaque import LOWERING\n"
        "LOWERING = dataclasses.replace(LOWERING, name='steps_of_one')\n"
    )
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    monkeypatch.setattr(
        lmaunet.export.lowerings, "__path__", [*lmaunet.export.lowerings.__path__, str(tmp_path)]
    )
    try:
        found = all_lowerings()
        assert found["steps_of_one"].name == "steps_of_one"
        assert found["needs_more"] == lmaunet.export.lowerings.Missing(
            "needs_more", "ModuleNotFoundError: No module named 'no_such_package'"
        )
        assert "needs_more" not in executable_lowerings()
        with pytest.raises(ToolNotFound) as error:
            get_lowering("needs_more")
        assert str(error.value) == (
            "the Python package no_such_package is missing: it is needed by this command; "
            "python -m pip install no_such_package"
        )
    finally:
        for module in ("steps_of_one", "needs_more"):
            sys.modules.pop(f"lmaunet.export.lowerings.{module}", None)


def test_unknown_lowering():
    with pytest.raises(UserError) as error:
        lower(scan_model(random_arrays(1, 4, 2, 2)), "fast")
    assert str(error.value) == ("unknown lowering 'fast'; use one of: opaque, two_level, unrolled")


def test_sites_need_static_shapes():
    with pytest.raises(UserError) as error:
        sites(scan_model(random_arrays(1, 4, 2, 3), batch="n"))
    assert str(error.value) == (
        "scan scan: the shapes are not static: x (n, 4, 2), dt (n, 4, 2), A (2, 3), B (n, 4, 3), "
        "C (n, 4, 3), D (2); expected numbers everywhere; "
        "export the network for a fixed batch and image size"
    )


def test_sites_need_shapes_that_fit():
    arrays = random_arrays(1, 4, 2, 3)
    arrays["B"] = arrays["B"][..., :2]
    with pytest.raises(UserError) as error:
        sites(scan_model(arrays))
    assert str(error.value) == (
        "scan scan: the shapes do not fit each other: x (1, 4, 2), dt (1, 4, 2), A (2, 3), "
        "B (1, 4, 2), C (1, 4, 3), D (2); expected x and dt (batch, L, channels), A (channels, "
        "states), B and C (batch, L, states), D (channels); export the network again"
    )


def test_sites_need_a_constant_A():
    model = scan_model(random_arrays(1, 4, 2, 2))
    model.graph.initializer.remove(next(i for i in model.graph.initializer if i.name == "A"))
    model.graph.input.append(info("A", 2, 2))
    with pytest.raises(UserError) as error:
        sites(model)
    assert str(error.value) == (
        "scan scan: its A, 'A', depends on the model's input; expected a constant; "
        "export A as a parameter of the network"
    )


def test_sites_are_found_behind_quant_nodes():
    arrays = random_arrays(1, 6, 2, 3)
    model = scan_model(arrays)
    quant = helper.make_node(
        "Quant", ["x", "scale", "zero", "bits"], ["xq"], domain="qonnx.custom_op.general", signed=1
    )
    model.graph.node.insert(0, quant)
    model.graph.node[1].input[0] = "xq"
    for name in ("scale", "zero", "bits"):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1), name))
    assert sites(model) == [ScanSite("scan", 1, 6, 2, 3)]
    assert lower(model, "opaque").graph == model.graph


@pytest.fixture(scope="module")
def torch_block():
    """A convolution, a scan over its pixels and a convolution, exported; with torch's result."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Conv2d(2, 4 + 4 + 3 + 3, 3, padding=1)
            self.outer = torch.nn.Conv2d(4, 2, 1)
            self.A_log = torch.nn.Parameter(torch.log(torch.arange(1.0, 4.0)).repeat(4, 1))
            self.D = torch.nn.Parameter(torch.ones(4))

        def forward(self, image):
            tokens = self.inner(image).flatten(2).transpose(1, 2)
            x, dt, B, C = tokens.split([4, 4, 3, 3], 2)
            y = training_scan(x, dt, -torch.exp(self.A_log), B, C, self.D)
            return self.outer(y.transpose(1, 2).reshape(image.shape[0], 4, *image.shape[2:]))

    torch.manual_seed(1)
    torch.set_num_threads(1)
    block, image = Block().eval(), torch.randn(2, 2, 9, 11)
    with torch.no_grad():
        want = block(image).numpy()
    return SimpleNamespace(block=block, image=image, want=want)


@pytest.mark.parametrize("name", ["function", *EXECUTABLE])
def test_exported_torch_block(name, torch_block, tmp_path):
    path = tmp_path / "block.onnx"
    torch.onnx.export(
        torch_block.block, (torch_block.image,), str(path), opset_version=18, dynamo=False,
        input_names=["image"], output_names=["out"], custom_opsets={DOMAIN: 1},
    )  # fmt: skip
    model = attach(onnx.load(path))
    assert [dataclasses.astuple(s)[1:] for s in sites(model)] == [(2, 99, 4, 3)]
    if name != "function":
        model = lower(model, name)
    # float32 on both sides, values of order 1, sums of at most 18 products and 99 steps
    agreements = check_graph(
        name, model, {"image": torch_block.image.numpy()}, torch_block.want, 5e-6, tmp_path
    )
    assert all(a.passed for a in agreements)
