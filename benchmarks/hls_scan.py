"""The selective scan as a C++ kernel for Vitis HLS, and its C simulation.

The kernel is ``benchmarks/hls/selective_scan.hpp``. Here every width and table of it is printed
from the integer scan, as :mod:`lmaunet.fpga.operators.selective_scan` prints them for the RTL. C
simulation compiles it with any C++ compiler and the headers ``ap_int.h`` and ``hls_stream.h`` of
the package hls4ml. It shows the integers; what the pragmas do, cycles and resources, only Vitis can
tell.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.operators.rtl_module import pack, unpack
from lmaunet.fpga.operators.selective_scan import STATE_LOOP, core, integer_scan, tables
from lmaunet.fpga.simulation.compilation import compiler_place
from lmaunet.packages import install_command
from lmaunet.scan.compiled import run_compiled
from lmaunet.scan.fixed import Codes
from lmaunet.scan.formats import INPUT, OUTPUT
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.tables import DT
from lmaunet.scan.vectors import ScanVectors
from lmaunet.stage import read_json

HLS_FOLDER = Path(__file__).parent / "hls"
SOURCES = ("selective_scan.hpp", "selective_scan.cpp", "selective_scan_test.cpp")
CONFIG, SCRIPT = "selective_scan_config.hpp", "run_hls.tcl"
STIMULI = ("in0.bin", "in1.bin", "in2.bin", "in3.bin")
OUTPUTS = ("y.bin", "accumulators.bin")
HEADERS_FIX = install_command("hls4ml")
# C++14 is what Vitis compiles by default; without inlining the headers' templates are slow.
COMPILER_OPTIONS = ("-std=c++14", "-O1", "-w")


@dataclass(frozen=True)
class Kernel:
    """The kernel of one scan: what the generated files say.

    ``numbers`` are the parameters of the RTL core of the same scan and folding.
    """

    scan: IntegerScan
    length: int
    pd: int
    pn: int
    numbers: Mapping[str, int]

    @property
    def config(self) -> str:
        """The text of the header with every number."""
        updates = self.scan.spec.channels * self.scan.spec.states // (self.pd * self.pn)
        lines = [f"constexpr {_c_type(v)} {name} = {v};" for name, v in self.numbers.items()]
        return "\n".join(
            [
                "// Generated from an integer scan; see benchmarks/hls_scan.py.",
                "#ifndef SELECTIVE_SCAN_CONFIG_HPP",
                "#define SELECTIVE_SCAN_CONFIG_HPP",
                "// of a token in each lane; a literal because a pragma needs it",
                f"#define SELECTIVE_SCAN_UPDATES {updates}",
                "namespace selective_scan_core {",
                *lines,
                f"constexpr int STATE_LOOP = {STATE_LOOP};",
                "}",
                "#endif\n",
            ]
        )

    @property
    def files(self) -> dict[str, str]:
        """The generated sources by file name: the numbers, and a file of each table."""
        codes = tables(self.scan, self.pd, self.pn).items()
        parts = {f"selective_scan_{name}.inc": _initializer(values) for name, values in codes}
        return {CONFIG: self.config, **parts}


@dataclass(frozen=True)
class CSimulation:
    """A compiled C simulation of a kernel."""

    kernel: Kernel
    program: Path


@dataclass(frozen=True)
class CResult:
    """What came out, int64 ``(batch, L, channels)``.

    ``y`` is the kernel's; ``accumulators``, before any rounding, come from the same code.
    """

    y: Codes
    accumulators: Codes


def hls_kernel(scan: IntegerScan, length: int, pd: int, pn: int) -> Kernel:
    """Return the kernel of an integer scan; the arguments and errors are those of the RTL's core.

    Args:
        scan: the arithmetic.
        length: tokens of a frame.
        pd, pn: channels and states that are updated in an iteration.

    Raises:
        UserError: where the folding is not legal, or a format is one that the core does not have.
    """
    parameters = core(scan, length, pd, pn).parameters
    # WIDE_OUTPUT is a template's argument here; texts name the RTL's files and styles
    numbers = {k: v for k, v in parameters.items() if isinstance(v, int) and k != "WIDE_OUTPUT"}
    return Kernel(scan, length, pd, pn, numbers)


def kernels_of_build(folder: Path) -> tuple[dict[str, Kernel], Board]:
    """Return the kernel of each scan of a build for the FPGA, by the node's name, and the board.

    Args:
        folder: of the build, with ``hardware.onnx`` and ``resources.json``.

    Raises:
        UserError: where it is no such build, or the network has no scan.
    """
    from onnx import numpy_helper

    from lmaunet.fpga.build import HARDWARE, RESOURCES
    from lmaunet.fpga.graph.onnx_file import load, plain_attributes

    path = folder / RESOURCES
    try:
        board = Board(**read_json(path)["board"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}); give the folder of a build for the FPGA"
        ) from error
    graph = load(folder / HARDWARE).graph
    constants = {i.name: i for i in graph.initializer}
    kernels = {}
    for node in graph.node:
        if node.op_type.removesuffix("_rtl") == "SelectiveScan":
            a = plain_attributes(node)
            rates, skip = (numpy_helper.to_array(constants[name]) for name in node.input[4:])
            scan = integer_scan(a["Spec"], a["Scales"], rates, skip)
            kernels[node.name] = hls_kernel(scan, a["Length"], a["PD"], a["PN"])
    if not kernels:
        raise UserError(f"{folder / HARDWARE} has no SelectiveScan; its network has no Mamba")
    return kernels, board


def check_vectors(kernel: Kernel, seed: int = 0) -> ScanVectors:
    """Return two frames and what the golden makes of them: any codes, and extreme ones only."""
    rng = np.random.default_rng(seed)
    extremes = (DT.low, -1, 0, 1, DT.high)

    def frames(size: int) -> Codes:
        shape = (kernel.length, size)
        return np.stack([rng.integers(DT.low, DT.high + 1, shape), rng.choice(extremes, shape)])

    channels, states = kernel.scan.spec.channels, kernel.scan.spec.states
    x, dt, b, c = frames(channels), frames(channels), frames(states), frames(states)
    golden = run_compiled(kernel.scan, x, dt, b, c)
    return ScanVectors(kernel.scan, x, dt, b, c, golden.y, golden.accumulators, golden.state)


def write_kernel(
    kernel: Kernel, vectors: ScanVectors, folder: Path, board: Board, clock_mhz: float
) -> None:
    """Write everything that Vitis HLS needs into a folder: sources, a test with vectors, a script.

    Args:
        kernel: the kernel.
        vectors: of the same scan; the test bench compares y and the accumulators with them.
        folder: an existing folder.
        board: gives the part.
        clock_mhz: the clock that Vitis schedules for.

    Raises:
        UserError: where a frame of the vectors has not the kernel's length, or for a bad clock.
    """
    if vectors.x.shape[1] != kernel.length:
        raise UserError(
            f"vectors of {vectors.x.shape[1]} tokens for a kernel of {kernel.length}; give vectors "
            "of the same length"
        )
    if not 0 < clock_mhz < np.inf:
        raise UserError(f"clock_mhz={clock_mhz}; give a positive number")
    _write_sources(kernel, folder, HLS_FOLDER)
    _write_stimuli(kernel, vectors.stimuli, folder)
    outputs = zip(OUTPUTS, (vectors.y, vectors.accumulators), _output_bits(kernel), strict=True)
    for name, codes, bits in outputs:
        pack(codes.reshape(-1, kernel.pd), bits).tofile(folder / name)
    (folder / SCRIPT).write_text(run_script(board, clock_mhz), encoding="utf-8")


def run_script(board: Board, clock_mhz: float) -> str:
    """Return the Tcl script that simulates, synthesises and exports the kernel in Vitis HLS."""
    return f"""\
# Vitis 2023.2 or newer: vitis-run --mode hls --tcl {SCRIPT}
# Vitis HLS before that: vitis_hls -f {SCRIPT}
# C simulation, synthesis for {board.name} at {clock_mhz:g} MHz, an IP for Vivado.
# With COSIM=1 in the environment the synthesised RTL is simulated with the same vectors.
cd [file dirname [file normalize [info script]]]
open_project -reset vitis
set_top selective_scan
# headers and tables are found beside it
add_files {SOURCES[1]}
foreach name {{{" ".join((SOURCES[2], *STIMULI, *OUTPUTS))}}} {{
    add_files -tb $name
}}
open_solution -reset -flow_target vivado solution
set_part {board.part}
create_clock -period {1000 / clock_mhz:.3f} -name default
csim_design
csynth_design
if {{[info exists ::env(COSIM)] && $::env(COSIM) == 1}} {{
    cosim_design
}}
export_design -format ip_catalog
exit
"""


def headers_place() -> Path:
    """Return the folder of ``ap_int.h`` and ``hls_stream.h`` in hls4ml, which is not imported.

    Raises:
        ToolNotFound: where it is not installed.
    """
    found = importlib.util.find_spec("hls4ml")
    for place in (found and found.submodule_search_locations) or ():
        folder = Path(place) / "templates" / "vivado" / "ap_types"
        if all((folder / name).exists() for name in ("ap_int.h", "hls_stream.h")):
            return folder
    raise ToolNotFound("hls4ml", "for the headers of an HLS kernel's C simulation", HEADERS_FIX)


def compile_kernel(kernel: Kernel, folder: Path, sources: Path = HLS_FOLDER) -> CSimulation:
    """Compile the C simulation of a kernel, or find the one that was compiled before.

    Args:
        kernel: the kernel.
        folder: where compiled simulations are kept, by the digest of what they depend on.
        sources: the folder of the kernel's sources.

    Raises:
        ToolNotFound: without the headers or a C++ compiler.
        UserError: where the compiler refuses the sources.
    """
    headers, compiler = headers_place(), compiler_place()
    content = [
        [(sources / name).read_text(encoding="utf-8") for name in SOURCES],
        kernel.files,
        COMPILER_OPTIONS,
    ]
    digest = hashlib.sha256(json.dumps([*content, str(headers), compiler]).encode()).hexdigest()
    place = folder / f"hls-selective-scan-{digest[:24]}"
    program = place / "simulation"
    if program.exists():
        return CSimulation(kernel, program)
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".hls-", dir=folder))
    try:
        _write_sources(kernel, work, sources)
        # one unit: the headers' templates take most of the time
        command = [compiler, *COMPILER_OPTIONS, "-isystem", str(headers), "-include", *SOURCES[1:]]
        result = subprocess.run(
            [*command, "-o", program.name],
            cwd=work,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if result.returncode:
            raise UserError(f"the C++ compiler refuses the HLS kernel:\n{result.stderr[:2000]}")
        if not place.exists():
            work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return CSimulation(kernel, program)


def simulate_kernel(simulation: CSimulation, x: Codes, dt: Codes, b: Codes, c: Codes) -> CResult:
    """Run frames, one behind the other, through a kernel.

    Args:
        simulation: from :func:`compile_kernel`.
        x, dt: codes from -128 to 127, ``(batch, L, channels)``.
        b, c: codes from -128 to 127, ``(batch, L, states)``.

    Raises:
        UserError: for other shapes or codes.
        Disagreement: where the kernel takes or puts out another number of beats than its frames
            have.
    """
    kernel = simulation.kernel
    x, dt, b, c = kernel.scan.codes(x, dt, b, c)
    if x.shape[1] != kernel.length:
        raise UserError(f"frames of {x.shape[1]} tokens; the kernel's have {kernel.length}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_stimuli(kernel, (x, dt, b, c), folder)
        result = subprocess.run(
            [str(simulation.program.resolve()), "record"],
            cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
        # the headers warn of a stream that is read while it is empty, and go on
        if result.returncode or "WARNING" in result.stdout:
            told = (result.stdout + result.stderr).strip()[-2000:]
            raise Disagreement(f"the HLS kernel's C simulation fails: {told}")
        beats = [np.fromfile(folder / name, np.uint8) for name in OUTPUTS]
    y, accumulators = (
        unpack(part.reshape(x.size // kernel.pd, -1), bits, kernel.pd).reshape(x.shape)
        for part, bits in zip(beats, _output_bits(kernel), strict=True)
    )
    return CResult(y, accumulators)


def _c_type(value: int) -> str:
    return "int" if value < 1 << 31 else "unsigned long long"


def _initializer(values: np.ndarray) -> str:
    """Return the C initialiser of an array without its outer braces, a row a line."""
    rows = values if values.ndim == 2 else values[:, None]
    lines = [", ".join(str(int(v)) for v in row) for row in rows]
    return "".join(f"{{{line}}},\n" if values.ndim == 2 else f"{line},\n" for line in lines)


def _write_sources(kernel: Kernel, folder: Path, sources: Path) -> None:
    for name in SOURCES:
        shutil.copy(sources / name, folder / name)
    for name, content in kernel.files.items():
        (folder / name).write_text(content, encoding="utf-8")


def _write_stimuli(kernel: Kernel, stimuli: tuple[Codes, ...], folder: Path) -> None:
    lanes = (kernel.pd, kernel.pd, kernel.pn, kernel.pn)
    for name, codes, parallel in zip(STIMULI, stimuli, lanes, strict=True):
        pack(codes.reshape(-1, parallel), INPUT.bits).tofile(folder / name)


def _output_bits(kernel: Kernel) -> tuple[int, int]:
    """Return the bits of a lane in each of ``OUTPUTS``."""
    return OUTPUT.bits, kernel.numbers["ACCUMULATOR_IN_BITS"]
