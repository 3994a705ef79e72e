from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import scan_cases
from hls_scan import (
    HEADERS_FIX,
    HLS_FOLDER,
    OUTPUTS,
    SCRIPT,
    SOURCES,
    STIMULI,
    check_vectors,
    compile_kernel,
    headers_place,
    hls_kernel,
    kernels_of_build,
    simulate_kernel,
    write_kernel,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_cases import CHANNELS, LENGTH, STATES

from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.operators.selective_scan import STATE_LOOP, core
from lmaunet.fpga.simulation.compilation import compiler_place
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.vectors import ScanVectors


def why_no_simulation() -> str:
    """Return why no kernel can be simulated here, or an empty string."""
    try:
        headers_place()
        compiler_place()
    except ToolNotFound as error:
        return str(error)
    return ""


needs_headers = pytest.mark.skipif(bool(why_no_simulation()), reason=why_no_simulation())
BOARD = BOARDS["ZCU104"]


def finer(v: ScanVectors, **bits: int) -> ScanVectors:
    """Return the vectors of a scan some of whose cuts keep more fractional bits, or fewer."""
    formats = dict(v.scan.spec.formats)
    for name, more in bits.items():
        old = formats[name]
        formats[name] = dataclasses.replace(old, bits=old.bits + more, frac=old.frac + more)
    spec = dataclasses.replace(v.scan.spec, formats=formats)
    scan = IntegerScan.from_real(spec, v.scan.scales, v.scan.A, v.scan.D)
    return ScanVectors.record(scan, *v.stimuli)


@pytest.fixture(scope="module")
def vectors():
    """The vectors of the RTL's test, and two with other sizes and formats."""
    narrow = scan_cases.typical(
        7, 2, 9, delta_bits=9, rate_bits=7, exponent_frac=9, decay_frac=9, drive_bits=11,
        state_bits=11, skip_bits=5, accumulator_bits=11, gain_bits=7, exp_segments=2,
    )  # fmt: skip
    return {
        "typical": scan_cases.typical(CHANNELS, STATES, LENGTH),
        "saturating": scan_cases.saturating(CHANNELS, STATES, LENGTH),
        # beats of more than 64 bits; a decay finer than its table
        "many lanes": finer(scan_cases.typical(12, 8, 5), decay=2),
        # cuts that append zeros; a decay coarser than its table
        "appended": finer(narrow, exponent=8, drive=7, accumulator=7, decay=-2),
    }


@needs_headers
@pytest.mark.parametrize(
    ("case", "pd", "pn"),
    [
        ("saturating", 3, 1),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("typical", 2, 2), ("many lanes", 12, 1), ("appended", 1, 2))
        ],
    ],
)
def test_equals_the_golden(simulations, vectors, case, pd, pn):
    v = vectors[case]
    simulation = compile_kernel(hls_kernel(v.scan, v.x.shape[1], pd, pn), simulations)
    got = simulate_kernel(simulation, *v.stimuli)
    assert (got.accumulators == v.accumulators).all()
    assert (got.y == v.y).all()
    # a frame starts from no state, whatever came before it
    other = simulate_kernel(simulation, *(codes[::-1] for codes in v.stimuli))
    assert (other.accumulators == v.accumulators[::-1]).all()


@needs_headers
@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=scan_cases.cases(), saturates=st.booleans())
def test_equals_the_golden_for_any_folding_and_formats(simulations, case, saturates):
    channels, states, length, (pd, pn), widths, seed = case
    if saturates:
        v = scan_cases.saturating(channels, states, length, seed)
    else:
        v = scan_cases.typical(channels, states, length, seed, **widths)
    simulation = compile_kernel(hls_kernel(v.scan, length, pd, pn), simulations)
    got = simulate_kernel(simulation, *v.stimuli)
    assert (got.accumulators == v.accumulators).all()
    assert (got.y == v.y).all()


@needs_headers
def test_a_state_that_is_not_rounded_is_caught_by_the_accumulators(simulations, vectors, tmp_path):
    v = vectors["typical"]
    shutil.copytree(HLS_FOLDER, tmp_path / "hls")
    source = tmp_path / "hls" / SOURCES[0]
    right, wrong = "rounded<STATE_DROP>(sum)", "rounded<0>(Sum(sum >> STATE_DROP))"
    assert source.read_text().count(right) == 1
    source.write_text(source.read_text().replace(right, wrong))
    kernel = hls_kernel(v.scan, LENGTH, 2, 2)
    got = simulate_kernel(compile_kernel(kernel, simulations, source.parent), *v.stimuli)
    # y alone would hardly show it
    assert (got.accumulators != v.accumulators).mean() > 0.5
    assert (got.y != v.y).mean() < 0.1


@needs_headers
def test_the_written_test_bench_compares_with_its_vectors(simulations, vectors, tmp_path):
    kernel = hls_kernel(vectors["typical"].scan, LENGTH, 2, 2)
    write_kernel(kernel, check_vectors(kernel), tmp_path, BOARD, 250.0)
    program = compile_kernel(kernel, simulations).program

    def status() -> int:
        return subprocess.run([program], cwd=tmp_path, check=False, capture_output=True).returncode

    assert status() == 0
    for name in OUTPUTS:
        right = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        assert status() == 1
        (tmp_path / name).write_bytes(right[:-1])
        assert status() == 2
        (tmp_path / name).write_bytes(right)
    (tmp_path / STIMULI[2]).write_bytes((tmp_path / STIMULI[2]).read_bytes()[1:])
    assert status() == 2


@needs_headers
def test_a_kernel_that_reads_too_much_is_refused(vectors, simulations, tmp_path):
    v = vectors["typical"]
    shutil.copytree(HLS_FOLDER, tmp_path / "hls")
    source = tmp_path / "hls" / SOURCES[0]
    right, wrong = "if (channel_fold == 0) {", "if (channel_fold <= 1) {"
    assert source.read_text().count(right) == 1
    source.write_text(source.read_text().replace(right, wrong))
    kernel = hls_kernel(v.scan, LENGTH, 2, 2)
    with pytest.raises(Disagreement, match="is read while empty"):
        simulate_kernel(compile_kernel(kernel, simulations, source.parent), *v.stimuli)


def test_the_cases_drop_bits_and_append_zeros(vectors):
    numbers = {case: hls_kernel(v.scan, 1, 1, 1).numbers for case, v in vectors.items()}
    for cut in ("EXPONENT", "DECAY", "DRIVE", "ACCUMULATOR"):
        drops = [found[f"{cut}_DROP"] for found in numbers.values()]
        assert min(drops) < 0 < max(drops)


def test_the_numbers_are_those_of_the_rtl(vectors):
    for v in vectors.values():
        channels, states, length = v.scan.spec.channels, v.scan.spec.states, v.x.shape[1]
        kernel = hls_kernel(v.scan, length, 1, 1)
        found = {
            n: int(x) for n, x in re.findall(r"^constexpr .* (\w+) = (-?\d+);", kernel.config, re.M)
        }
        parameters = core(v.scan, length, 1, 1).parameters
        expected = {name: value for name, value in parameters.items() if isinstance(value, int)}
        assert expected.pop("WIDE_OUTPUT") == 0
        assert found == expected | {"STATE_LOOP": STATE_LOOP}
        assert f"#define SELECTIVE_SCAN_UPDATES {channels * states}\n" in kernel.config
        rates = re.findall(r"\d+", kernel.files["selective_scan_rate.inc"])
        assert (np.array(rates, int).reshape(channels, states) == v.scan.rate).all()


def test_the_script_is_tcl_and_names_what_was_written(vectors, tmp_path):
    tkinter = pytest.importorskip("tkinter", reason="python has no tkinter, whose Tcl runs it")
    kernel = hls_kernel(vectors["typical"].scan, LENGTH, 2, 2)
    write_kernel(kernel, check_vectors(kernel), tmp_path, BOARDS["KV260"], 200.0)
    tcl = tkinter.Tcl()
    calls: list[tuple[str, ...]] = []
    for name in ("open_project", "set_top", "add_files", "open_solution", "set_part",
                 "create_clock", "csim_design", "csynth_design", "cosim_design",
                 "export_design", "exit"):  # fmt: skip
        tcl.createcommand(name, lambda *words, name=name: calls.append((name, *words)) or "")
    for cosim in ("0", "1"):
        calls.clear()
        tcl.eval(f"set ::env(COSIM) {cosim}; set ::here [pwd]")
        tcl.eval(f"source {{{tmp_path / SCRIPT}}}; cd $::here")
        assert (("cosim_design",) in calls) == (cosim == "1")
    added = {call[-1]: "-tb" in call for call in calls if call[0] == "add_files"}
    assert added == {SOURCES[1]: False} | dict.fromkeys((SOURCES[2], *STIMULI, *OUTPUTS), True)
    assert set(added) < {path.name for path in tmp_path.iterdir()}
    assert ("set_part", BOARDS["KV260"].part) in calls
    assert ("create_clock", "-period", "5.000", "-name", "default") in calls
    named = [call[0] for call in calls if call[0] != "add_files"]
    assert named.index("csim_design") < named.index("csynth_design") < named.index("export_design")


@pytest.mark.parametrize("installed", [False, True])
def test_missing_headers_are_named_with_the_fix(monkeypatch, tmp_path, installed):
    spec = importlib.machinery.ModuleSpec("hls4ml", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if installed else None)
    with pytest.raises(ToolNotFound, match=f"hls4ml is missing.*; {HEADERS_FIX}"):
        headers_place()


def test_bad_foldings_lengths_and_clocks_are_refused(vectors, tmp_path):
    v = vectors["typical"]
    with pytest.raises(UserError, match="PD=4 does not divide channels=6; use 1, 2, 3 or 6"):
        hls_kernel(v.scan, LENGTH, 4, 1)
    with pytest.raises(UserError, match="PD=3, PN=2: 4 states for each lane, expected 6 or more"):
        hls_kernel(v.scan, LENGTH, 3, 2)
    kernel = hls_kernel(v.scan, LENGTH + 1, 1, 1)
    with pytest.raises(UserError, match="vectors of 12 tokens for a kernel of 13"):
        write_kernel(kernel, v, tmp_path, BOARD, 250.0)
    kernel = hls_kernel(v.scan, LENGTH, 1, 1)
    for clock in (0.0, float("nan")):
        with pytest.raises(UserError, match=r"clock_mhz=.*; give a positive number"):
            write_kernel(kernel, v, tmp_path, BOARD, clock)
    assert not list(tmp_path.iterdir())


@needs_headers
def test_sources_that_do_not_compile_are_refused(vectors, tmp_path):
    shutil.copytree(HLS_FOLDER, tmp_path / "hls")
    (tmp_path / "hls" / SOURCES[0]).write_text("#error no kernel\n")
    kernel = hls_kernel(vectors["typical"].scan, LENGTH, 2, 2)
    with pytest.raises(UserError, match=r"refuses the HLS kernel:(.|\n)*no kernel"):
        compile_kernel(kernel, tmp_path / "simulations", tmp_path / "hls")
    assert not list((tmp_path / "simulations").iterdir())


@needs_headers
def test_frames_of_another_length_are_refused(simulations, vectors):
    v = vectors["typical"]
    simulation = compile_kernel(hls_kernel(v.scan, LENGTH, 2, 2), simulations)
    with pytest.raises(UserError, match="frames of 11 tokens; the kernel's have 12"):
        simulate_kernel(simulation, *(codes[:, 1:] for codes in v.stimuli))


def test_the_scans_of_a_build(vectors, tmp_path):
    scan_cases.save_build(tmp_path, vectors["typical"].scan, pd=2, pn=2)
    kernels, board = kernels_of_build(tmp_path)
    assert board == BOARD
    expected = hls_kernel(vectors["typical"].scan, LENGTH, 2, 2)
    assert {name: k.files for name, k in kernels.items()} == {"scan_1": expected.files}


def test_a_folder_that_is_no_build_with_a_scan_is_refused(tmp_path, vectors):
    with pytest.raises(UserError, match=r"resources.json is missing .* a build for the FPGA"):
        kernels_of_build(tmp_path)
    scan_cases.save_build(tmp_path, vectors["typical"].scan, pd=2, pn=2, op_type="FMPadding_rtl")
    with pytest.raises(UserError, match=r"hardware.onnx has no SelectiveScan"):
        kernels_of_build(tmp_path)
    (tmp_path / "resources.json").write_text(json.dumps({"board": {"name": "ZCU104"}}))
    with pytest.raises(UserError, match=r"resources.json is missing or damaged"):
        kernels_of_build(tmp_path)
