"""The script for Vivado and what is made of its results, with a stand-in for the program.

The stand-in runs the script in a real Tcl interpreter and makes its reports up. The real tool never
ran it.
"""

from __future__ import annotations

import importlib.util

import fake_xilinx
import pytest

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.board.boards import named_board
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.operators.rtl_module import Port, RtlModule, wrapper
from lmaunet.fpga.simulation.proof import write_design
from lmaunet.fpga.toolchain import vivado

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("_tkinter") is None, reason="needs a Tcl interpreter (tkinter)"
)
BOARD = named_board("ZCU104")
NETWORK = 'module network;\n  rom #(.FILE("n0_w.mem"), .T("n0_w.mem2")) a ();\nendmodule\n'
MODULE = RtlModule(
    "network", ("stream_register.sv", "fifo.sv"), {}, (Port("in0_V", 8),), (Port("out0_V", 8),),
    {"n0_w.mem": ["0a", "0b"], "n0_w.mem2": ["1"]}, generated={"network.sv": NETWORK},
)  # fmt: skip
DETAIL = {
    "latency_cycles": 1_000_000, "interval_cycles": 500_000,
    "resources": {"lut": {"used": 99, "available": 230_400}},
}  # fmt: skip


@pytest.fixture
def build(tmp_path):
    folder = tmp_path / "with a space" / "fpga"
    folder.mkdir(parents=True)
    write_design(MODULE, folder / "rtl")
    return folder


@pytest.fixture
def tool(tmp_path, monkeypatch):
    def install(**wishes):
        folder = fake_xilinx.install(tmp_path / "bin", "vivado", **wishes)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder

    return install


def implement(build, clock_mhz=250.0):
    return vivado.implement(build, BOARD, clock_mhz, build.parent / "evidence")


def test_the_script_does_each_step_on_the_proven_sources(build, tool):
    folder = tool()
    implement(build)
    calls = fake_xilinx.calls(folder)
    assert [name for name, *_ in calls] == [
        "set_msg_config", "read_verilog", "read_verilog", "read_verilog", "read_xdc",
        "synth_design", "opt_design", "place_design", "phys_opt_design", "route_design",
        "report_route_status", "report_timing_summary", "report_utilization",
    ]  # fmt: skip
    given = {name: arguments for name, *arguments in calls}
    assert given["set_msg_config"] == ["-id", "Synth 8-4445", "-new_severity", "ERROR"]
    assert given["synth_design"] == [
        "-top", "network", "-part", "xczu7ev-ffvc1156-2-e", "-mode", "out_of_context"
    ]  # fmt: skip
    read = [call[-1] for call in calls if call[0] == "read_verilog"]
    rtl, placed = build / "rtl", build / "vivado" / "network.sv"
    assert read == [str(rtl / "stream_register.sv"), str(rtl / "fifo.sv"), str(placed)]
    # the whole difference to what was simulated: where the memories are
    text = placed.read_text()
    assert f'"{rtl}/n0_w.mem"' in text and f'"{rtl}/n0_w.mem2"' in text
    assert text.replace(f"{rtl}/", "") == NETWORK == (rtl / "network.sv").read_text()
    clock = (build / "vivado" / "clock.xdc").read_text()
    assert clock == "create_clock -name ap_clk -period 4.000 [get_ports ap_clk]\n"


def test_the_script_runs_again_where_the_build_is_moved(build, tool):
    folder = tool()
    implement(build)
    moved = build.rename(build.with_name("moved"))
    vivado.run(moved / "vivado" / "implement.tcl", moved / "vivado" / "vivado.log")
    assert str(moved / "rtl") in (moved / "vivado" / "network.sv").read_text()
    assert len(fake_xilinx.calls(folder)) == 2 * 13


def test_periods_are_whole_picoseconds_and_never_longer():
    assert vivado.period_ns(250) == 4.0 and vivado.period_ns(200) == 5.0
    assert vivado.period_ns(300) == 3.333 and vivado.period_ns(150) == 6.666


def test_a_clock_that_is_met_is_the_one_asked_for(build, tool):
    tool(wns=0.123)
    found = implement(build)
    figures = found.figures(DETAIL)
    assert figures["clock_mhz"] == 250.0 and figures["clock_met"]
    assert figures["clock_status"].startswith("met in the static timing of Vivado 2024.2")
    assert "0.123 ns" in figures["clock_status"]
    assert figures["latency_ms"] == pytest.approx(4.0)
    assert figures["interval_ms"] == pytest.approx(2.0)
    assert figures["resources"]["bram36"] == {"used": 101.5, "available": 312}
    assert list(figures["resources"]) == ["lut", "ff", "dsp", "bram36", "uram"]
    assert figures["resources_provenance"] == "measured" and "2024.2" in figures["resources_source"]
    assert figures["estimated_resources"] == DETAIL["resources"] and figures["fits"]


def test_a_clock_that_is_missed_is_never_used(build, tool):
    tool(wns=-1.0)
    found = implement(build)
    figures = found.figures(DETAIL)
    assert figures["clock_mhz"] == pytest.approx(200.0) and not figures["clock_met"]
    assert figures["clock_asked_mhz"] == 250.0
    assert "250 MHz is missed: worst slack -1 ns" in figures["clock_status"]
    assert figures["latency_ms"] == pytest.approx(5.0)
    assert figures["interval_ms"] == pytest.approx(2.5)
    assert found.to_json()["slack_ns"]["setup"] == -1.0


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"status": 1}, r"ended with status 1; it said last:\n.*ERROR: \[Synth 8-1\]"),
        ({"signal": 9}, r"was killed by SIGKILL \(often for want of memory\).*said nothing"),
        ({"skip": ["report_timing_summary"]}, r"wrote no timing\.rpt"),
        ({"routed": 3000, "wrong": 1000}, "routed 3000 of 4000 nets"),
        ({"whs": -0.1}, "violates a hold time"),
        ({"wns": "NA"}, "timing summary report is not laid out as expected"),
        ({"utilisation": "nothing"}, "is not laid out as expected"),
        (
            {"say": "CRITICAL WARNING: [Synth 8-4445] could not open $readmem data file 'x.mem'"},
            "did not read the file of a memory: CRITICAL WARNING",
        ),
        ({"say": "WARNING: [Synth 8-2898] ignoring malformed $readmem task"}, "did not read"),
    ],
)
def test_what_went_wrong_is_said_and_its_log_kept(build, tool, wishes, message):
    tool(**wishes)
    with pytest.raises(UserError, match=f"(?s){message}") as caught:
        implement(build)
    evidence = build.parent / "evidence" / "vivado"
    assert str(evidence) in str(caught.value) and (evidence / "vivado.log").exists()


def test_a_memory_that_was_read_is_no_error():
    vivado.require_memories("INFO: [Synth 8-3876] $readmem data file 'x' is read successfully\n")


def test_a_memory_that_the_network_does_not_name_is_refused(build, tool):
    tool()
    (build / "rtl" / "n7_other.mem").write_text("0\n")
    with pytest.raises(UserError, match=r"network\.sv names no memory n7_other\.mem"):
        implement(build)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("$rtl $name]\n}", "$rtl $name]\n", "is not complete"),
        ("place_design", "palce_design", 'invalid command name "palce_design"'),
        ("[string map $places $network]", "$network", "could not open \\$readmem data file n0_w"),
        ("[file join $rtl $name]", "$name", "read_verilog: no file stream_register.sv"),
        ("-top $top", "-top $topp", 'can\'t read "topp": no such variable'),
    ],
)  # fmt: skip
def test_a_fault_in_the_script_is_caught(build, tool, tmp_path, monkeypatch, right, wrong, message):
    tool()
    mutant = tmp_path / "implement.tcl"
    text = vivado.SCRIPT.read_text()
    assert right in text
    mutant.write_text(text.replace(right, wrong))
    monkeypatch.setattr(vivado, "SCRIPT", mutant)
    with pytest.raises(UserError, match=message):
        implement(build)


def test_without_vivado_it_is_said_what_to_install(build, monkeypatch):
    monkeypatch.setattr(vivado, "vivado_place", lambda: "")
    with pytest.raises(ToolNotFound, match=r"vivado is missing.*install AMD Vivado"):
        implement(build)


@pytest.mark.vivado
def test_the_real_tool_routes_a_fifo(tmp_path):
    """The smallest design to try the script on, where the tool itself is installed."""
    queue = fifo.module(fifo.layout(8, 16))
    text = wrapper(queue, "network")
    module = RtlModule(
        "network", queue.sources, {}, queue.inputs, queue.outputs, generated={"network.sv": text}
    )
    write_design(module, tmp_path / "rtl")
    found = vivado.implement(tmp_path, BOARD, 250.0, tmp_path / "evidence")
    assert found.uses["ff"].used > 0 and found.timing.met
