"""Stand-ins for Vivado and Vitis HLS: they run a Tcl script in a real Tcl interpreter.

Commands of the tools are stubs. One that is not in the list here is an error, as are files that do
not exist, so that a script with a typing error, an unclosed brace or a wrong path fails. Reports
and results are made up: nothing here says what the real tools would do with a design.

Run as ``fake_xilinx.py TOOL FOLDER [ARGUMENTS]``; FOLDER holds ``wishes.json``, what a test wants
to happen, and gets ``calls.json``.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path

COMMANDS = """
    add_files apply_bd_automation assign_bd_address close_project connect_bd_intf_net connect_bd_net
    create_bd_cell
    create_bd_design create_clock create_project get_bd_addr_segs get_bd_cells get_bd_intf_nets
    get_bd_intf_pins get_bd_intf_ports get_bd_pins get_bd_ports get_files get_filesets get_ipdefs
    get_param get_ports get_property get_runs current_fileset current_project launch_runs
    make_bd_intf_pins_external make_bd_pins_external make_wrapper open_run opt_design
    phys_opt_design place_design read_verilog read_xdc report_route_status report_timing_summary
    report_utilization route_design save_bd_design set_msg_config set_param set_property
    synth_design update_compile_order update_ip_catalog validate_bd_design wait_on_run
    ipx::add_bus_parameter ipx::create_xgui_files ipx::current_core ipx::find_open_core
    ipx::get_address_spaces ipx::get_bus_interfaces ipx::get_bus_parameters ipx::get_file_groups
    ipx::get_files ipx::package_project ipx::remove_all_file ipx::remove_segment ipx::save_core
    ipx::update_checksums ipx::add_file ipx::add_file_group ipx::remove_file
    open_project set_top open_solution set_part config_compile config_interface config_rtl
    csynth_design export_design
"""

ROUTE = """Design Route Status
                                               :      # nets :
   ------------------------------------------- : ----------- :
   # of logical nets.......................... :        5000 :
       # of nets not needing routing.......... :        1000 :
       # of routable nets..................... :        4000 :
           # of fully routed nets............. :  {routed:>10} :
       # of nets with routing errors.......... :  {wrong:>10} :
   ------------------------------------------- : ----------- :
"""
TIMING = """| Tool Version : Vivado v.2024.2 (lin64)
| Design State : Routed

------------------------------------------------
| Timer Settings
| --------------
------------------------------------------------

------------------------------------------------
| Design Timing Summary
| ---------------------
------------------------------------------------

    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)      THS(ns)  \
THS Failing Endpoints  THS Total Endpoints     WPWS(ns)     TPWS(ns)  TPWS Failing Endpoints  \
TPWS Total Endpoints
    -------      -------  ---------------------  -------------------      -------      -------  \
---------------------  -------------------     --------     --------  ----------------------  \
--------------------
{wns:>11}        0.000                      0                60000{whs:>13}        0.000        \
              0                60000{wpws:>13}        0.000                       0             \
   30000


| Clock Summary
"""
UTILISATION = """| Tool Version : Vivado v.2024.2 (lin64)
| Design State : Routed

1. CLB Logic
------------

+----------------------------+-------+-------+------------+-----------+-------+
|          Site Type         |  Used | Fixed | Prohibited | Available | Util% |
+----------------------------+-------+-------+------------+-----------+-------+
| CLB LUTs                   | 91234 |     0 |          0 |    230400 | 39.60 |
|   LUT as Logic             | 80000 |     0 |          0 |    230400 | 34.72 |
| CLB Registers              | 60123 |     0 |          0 |    460800 | 13.05 |
+----------------------------+-------+-------+------------+-----------+-------+

3. BLOCKRAM
-----------

+-------------------+-------+-------+------------+-----------+-------+
|     Site Type     |  Used | Fixed | Prohibited | Available | Util% |
+-------------------+-------+-------+------------+-----------+-------+
| Block RAM Tile    | 101.5 |     0 |          0 |       312 | 32.53 |
|   RAMB36/FIFO*    |   100 |     0 |          0 |       312 | 32.05 |
|   RAMB18          |     3 |     0 |          0 |       624 |  0.48 |
| URAM              |    12 |     0 |          0 |        96 | 12.50 |
+-------------------+-------+-------+------------+-----------+-------+

4. ARITHMETIC
-------------

+----------------+------+-------+------------+-----------+-------+
|    Site Type   | Used | Fixed | Prohibited | Available | Util% |
+----------------+------+-------+------------+-----------+-------+
| DSPs           |  700 |     0 |          0 |      1728 | 40.51 |
|   DSP48E2 only |  700 |       |            |           |       |
+----------------+------+-------+------------+-----------+-------+

9. Black Boxes
--------------

+----------+------+
| Ref Name | Used |
+----------+------+
{boxes}+----------+------+

10. Instantiated Netlists
-------------------------
"""
WISHES = {
    "wns": 0.123, "whs": 0.01, "wpws": 1.5, "routed": 4000, "wrong": 0, "boxes": "", "say": "",
    "status": 0, "signal": 0, "shell_wns": 0.2, "shell_say": "", "skip": [],
    "utilisation": UTILISATION,
}  # fmt: skip


def install(folder: Path, *tools: str, **wishes: object) -> Path:
    """Write programs of these names into a folder; return it, for PATH."""
    folder.mkdir(exist_ok=True)
    (folder / "wishes.json").write_text(json.dumps(WISHES | wishes))
    for tool in tools:
        path = folder / tool
        path.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {tool} "{folder}" '
            '"$@"\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def calls(folder: Path) -> list[list[str]]:
    """Return every command of the tools that was called, with its arguments."""
    return [json.loads(line) for line in (folder / "calls.json").read_text().splitlines()]


class Tool:
    """The state of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wrong = folder, ""
        self.wishes = json.loads((folder / "wishes.json").read_text())

    def call(self, name: str, *arguments: str) -> str:
        """Do what a command of the tools would leave behind."""
        with (self.folder / "calls.json").open("a") as log:
            log.write(json.dumps([name, *arguments]) + "\n")
        if name in self.wishes["skip"]:
            return ""
        files = [a for a in arguments if not a.startswith("-")]
        if name in ("read_verilog", "read_xdc", "add_files"):
            missing = [file for file in files if not Path(file).is_file()]
            if missing:
                self.refuse(f"{name}: no file {missing[0]}")
        # the operators' own sources name default files, which the network replaces
        if name in ("read_verilog", "add_files") and files[0].endswith("/network.sv"):
            self.require_memories(Path(files[0]).read_text())
        if name == "synth_design" and self.wishes["say"]:
            print(self.wishes["say"])
        if name.startswith("report_") and "-file" in arguments:
            file = Path(arguments[arguments.index("-file") + 1])
            file.write_text(self.report(name, self.wishes["wns"]))
        if name == "launch_runs" and "impl_1" in arguments:
            self.implement()
        if name == "export_design":
            next(Path.cwd().glob("project_*")).joinpath("sol1/impl/ip").mkdir(parents=True)
        if name == "open_project":
            Path(files[0]).mkdir()
        if name in ("get_files", "get_bd_intf_pins"):
            return files[0]
        if name == "make_wrapper" and "-import" not in arguments:
            design = Path(files[0])
            (design.parent / "hdl").mkdir(parents=True)
            (design.parent / "hdl" / f"{design.stem}_wrapper.v").touch()
        return "12" if name == "get_property" and "CONFIG.ADDR_WIDTH" in arguments else ""

    def require_memories(self, text: str) -> None:
        """Refuse a memory's file that is named and not there."""
        for file in re.findall(r'"([^"]+\.(?:mem|dat|hex))"', text):
            if not Path(file).is_absolute() or not Path(file).is_file():
                self.refuse(f"could not open $readmem data file {file}")

    def refuse(self, why: str) -> None:
        """End the script with an error; tkinter does not carry an exception's text."""
        self.wrong = why
        raise ValueError(why)

    def report(self, name: str, wns: float) -> str:
        """Return a made-up report."""
        w = self.wishes
        if name == "report_route_status":
            return ROUTE.format(**w)
        if name == "report_timing_summary":
            return TIMING.format(**(w | {"wns": wns}))
        return w["utilisation"].format(**w)

    def implement(self) -> None:
        """Leave what a run of FINN+'s shell project leaves."""
        run = Path("finn_zynq_link.runs/impl_1")
        run.mkdir(parents=True)
        (run / "top_wrapper.bit").write_bytes(bytes(1_500_000))
        (run / "top_wrapper_timing_summary_routed.rpt").write_text(
            self.report("report_timing_summary", self.wishes["shell_wns"])
        )
        (run / "runme.log").write_text(self.wishes["shell_say"])
        handoff = Path("finn_zynq_link.gen/sources_1/bd/top/hw_handoff")
        handoff.mkdir(parents=True)
        (handoff / "top.hwh").write_text("<EDKSYSTEM/>")


def main(tool: str, folder: Path, arguments: list[str]) -> int:
    """Run a script; the status is the tool's."""
    import tkinter

    state = Tool(folder)
    if state.wishes["signal"]:
        os.kill(os.getpid(), state.wishes["signal"])
    if state.wishes["status"]:
        print("INFO: starting\nERROR: [Synth 8-1] something is wrong")
        return int(state.wishes["status"])
    script = next(a for a in arguments if a.endswith(".tcl"))
    tcl = tkinter.Tcl()
    if not tcl.getboolean(tcl.call("info", "complete", Path(script).read_text())):
        print(f"ERROR: {script} is not complete")
        return 1
    tcl.eval("namespace eval ipx {}")
    # tkinter takes Tcl's own command away
    tcl.eval("proc exit {{status 0}} {set ::left $status; error left}")
    for name in COMMANDS.split():
        tcl.createcommand(name, lambda *given, name=name: state.call(name, *map(str, given)))
    try:
        tcl.call("source", script)
    except tkinter.TclError as error:
        if tcl.getboolean(tcl.eval("info exists ::left")):
            return int(tcl.eval("set ::left"))
        print(f"ERROR: {state.wrong or error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
