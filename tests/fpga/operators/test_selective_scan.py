from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pytest
import scan_cases
from bench import NO_STALLS, STALLS, needs_verilator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_cases import CHANNELS, LENGTH, STATES

from lmaunet.errors import UserError
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, hex_words
from lmaunet.fpga.operators.selective_scan import SelectiveScan, core
from lmaunet.fpga.simulation.compilation import Compiled, compile_module, lint
from lmaunet.fpga.simulation.simulator import SimulationFailed, Stalls
from lmaunet.scan.formats import FULL_SCALE
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.real import softplus
from lmaunet.scan.recurrence import CUTS
from lmaunet.spec import Format

pytestmark = needs_verilator

FOLDINGS = [(1, 1), (3, 1), (1, 4), (2, 2)]


@pytest.fixture(scope="module")
def saturating():
    return scan_cases.saturating(CHANNELS, STATES, LENGTH)


@pytest.fixture(scope="module")
def typical():
    return scan_cases.typical(CHANNELS, STATES, LENGTH)


def test_the_cases_reach_every_saturation(saturating, typical):
    found = saturating.scan.run(*saturating.stimuli).saturations
    assert [name for name in CUTS if not found[name]] == ["mantissa"]
    decays = saturating.scan.algebra().decay_table().decay.code
    assert (decays == 0).any()
    for vectors in (saturating, typical):
        assert len(set(vectors.scan.shift)) > 2


@pytest.mark.parametrize(("pd", "pn"), FOLDINGS)
def test_equals_the_golden_on_typical_and_extreme_frames(simulations, typical, saturating, pd, pn):
    for vectors in (typical, saturating):
        compiled = compile_module(core(vectors.scan, LENGTH, pd, pn, wide=True), simulations)
        for stalls in STALLS:
            got = scan_cases.run(compiled, vectors, stalls)
            y, accumulators = scan_cases.results(compiled, vectors, got)
            assert (accumulators == vectors.accumulators).all()
            assert (y == vectors.y).all()
            if stalls == NO_STALLS:
                check_cycles(got, vectors, pd, pn)


def test_an_operator_tells_its_accumulators(typical):
    """As a proof of a whole network compares them: in the golden's order, none beyond its bits."""
    scan = typical.scan
    node = SelectiveScan(scan_cases.attributes(scan, LENGTH, 2, 2))
    streams = [v[:, None] for v in typical.stimuli]
    ((name, (accumulators, bits)),) = node.inside([*streams, scan.A, scan.D]).items()
    assert (
        name == "accumulators"
        and bits == core(scan, LENGTH, 2, 2).parameters["ACCUMULATOR_IN_BITS"]
    )
    np.testing.assert_array_equal(accumulators, typical.accumulators[:, None])
    assert np.abs(accumulators).max() < 1 << (bits - 1)


def check_cycles(got, vectors, pd: int, pn: int) -> None:
    """Check interval and latency of an undisturbed run."""
    node = scan_cases.attributes(vectors.scan, vectors.x.shape[1], pd, pn)
    interval = SelectiveScan(node).cycles()
    assert interval == vectors.x[0].size * vectors.scan.spec.states // (pd * pn)
    assert set(got.intervals("out0_V", len(vectors.x))) == {interval}
    first = min(taken[0] for port, taken in got.cycles.items() if port != "out0_V")
    frame = len(got.cycles["out0_V"]) // len(vectors.x)
    last = got.cycles["out0_V"][frame - 1]
    assert last - first == interval + SelectiveScan(node).late()


def test_an_operators_core_has_y_only(simulations, saturating):
    scan = saturating.scan
    module = SelectiveScan(scan_cases.attributes(scan, LENGTH, 2, 2)).module((scan.A, scan.D))
    assert module == core(scan, LENGTH, 2, 2)
    compiled = compile_module(module, simulations)
    for stalls in STALLS:
        got = scan_cases.run(compiled, saturating, stalls)
        assert (scan_cases.results(compiled, saturating, got)[0] == saturating.y).all()
        if stalls == NO_STALLS:
            check_cycles(got, saturating, 2, 2)


@pytest.mark.parametrize(("pd", "pn"), FOLDINGS)
def test_lint(typical, pd, pn):
    lint(core(typical.scan, LENGTH, pd, pn))
    lint(core(typical.scan, LENGTH, pd, pn, wide=True))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=scan_cases.cases(), saturates=st.booleans())
def test_equals_the_golden_for_any_folding_and_formats(simulations, case, saturates):
    channels, states, length, (pd, pn), widths, seed = case
    if saturates:
        vectors = scan_cases.saturating(channels, states, length, seed)
    else:
        vectors = scan_cases.typical(channels, states, length, seed, **widths)
    compiled = compile_module(core(vectors.scan, length, pd, pn, wide=True), simulations)
    for stalls in (NO_STALLS, Stalls(0.3, 0.3, seed=seed)):
        got = scan_cases.run(compiled, vectors, stalls)
        assert scan_cases.agrees(compiled, vectors, got)
        if stalls == NO_STALLS:
            check_cycles(got, vectors, pd, pn)


# Each fault: its edits, (source, text that occurs once, what replaces it where FAULT).
ROUNDINGS = {
    "exponent": [("decay", ".c(EXPONENT_HALF)", ".c(FAULT ? '0 : EXPONENT_HALF)")],
    "mantissa": [("decay", "value, MANTISSA_HALF}", "value, FAULT ? '0 : MANTISSA_HALF}")],
    "decay": [("decay", "+ DECAY_HALF", "+ (FAULT ? '0 : DECAY_HALF)")],
    "drive": [("drive", ".c(DRIVE_HALF)", ".c(FAULT ? '0 : DRIVE_HALF)")],
    "state": [
        ("lane", ".c(INFLOW_HALF)", ".c(FAULT ? '0 : INFLOW_HALF)"),
        ("lane", "| BELOW_HALF", "| (FAULT ? '0 : BELOW_HALF)"),
    ],
    "accumulator": [("readout", "+ ACCUMULATOR_HALF;", "+ (FAULT ? '0 : ACCUMULATOR_HALF);")],
    "output": [("readout", ".c(OUTPUT_HALF)", ".c(FAULT ? '0 : OUTPUT_HALF)")],
}
SATURATED = {
    "exponent": "decay", "decay": "decay", "drive": "drive", "state": "lane",
    "accumulator": "readout", "output": "readout",
}  # fmt: skip
FAULTS = {
    **{f"{cut}: no rounding": edits for cut, edits in ROUNDINGS.items()},
    **{
        f"{cut}: no saturation": [(file, f") {cut}_cut (", f", .WRAPS(NUMBER)) {cut}_cut (")]
        for cut, file in SATURATED.items()
    },
    "states of the frame before": [("lane", ".clear(first_12)", ".clear(first_12 && !FAULT)")],
    "drive's shift of another channel": [
        ("", ".address(channel_fold_4)", ".address(FAULT ? channel_fold_0 : channel_fold_4)")
    ],
    "skip and shift of another channel": [
        ("", ".address(channel_fold_read)", ".address(FAULT ? channel_fold_0 : channel_fold_read)")
    ],
    "rate of another channel": [
        ("", ".address(address_0),", ".address(FAULT ? address_11 : address_0),")
    ],
    "state written elsewhere": [("", "states[address_16]", "states[FAULT ? 0 : address_16]")],
    "state written where none was issued": [("", "if (issued[15])", "if (issued[15] || FAULT)")],
    "no new sum for a channel": [("readout", "restart_0 ?", "(restart_0 && !FAULT) ?")],
    "half of the tree": [("sum", "+ node[2*i+1]", "+ (FAULT ? '0 : node[2*i+1])")],
    "nothing is delayed": [
        ("delay", "assign later = line[", "assign later = FAULT ? word : line[")
    ],
    "a product of another pair": [("multiply", "b_held <= b;", "b_held <= FAULT ? b_held : b;")],
    "one constant for all": [("rom", "memory[address];", "memory[FAULT ? '0 : address];")],
    "no credit needed": [("issue", "|| credit);", "|| credit || FAULT);")],
    "B and C not awaited": [("token", "complete = full[", "complete = FAULT || full[")],
    "frames of another length": [("issue", "LENGTH - 1)", "LENGTH - 1) - TOKEN_BITS'(FAULT)")],
    "a word taken twice": [
        ("credit_queue.sv", "read <= reading;", "read <= FAULT && push ? read : reading;")
    ],
}


@pytest.fixture(scope="module")
def faulty(simulations, tmp_path_factory, saturating):
    """A simulation with every fault built in, chosen by the number in a memory's file."""
    rtl = tmp_path_factory.mktemp("faulty") / "rtl"
    shutil.copytree(RTL_FOLDER, rtl)
    sources: dict[str, str] = {}
    for number, edits in enumerate(FAULTS.values(), 1):
        for part, old, new in edits:
            own = "_".join(["selective_scan", *part.split()]) + ".sv"
            name = part if part.endswith(".sv") else own
            text = sources.get(name) or (rtl / name).read_text()
            assert text.count(old) == 1, f"{name}: {old!r} occurs {text.count(old)} times"
            condition = f"(chosen[0] == 8'd{number})"
            new = new.replace("FAULT", condition).replace("NUMBER", str(number))
            sources[name] = text.replace(old, new)
    name = "selective_scan_cut.sv"
    text = (rtl / name).read_text().replace("bit SIGNED = 1", "bit SIGNED = 1, int WRAPS = 0")
    sources[name], places = re.subn(
        "<= exceeds", "<= exceeds && (WRAPS == 0 || chosen[0] != 8'(WRAPS))", text
    )
    assert places == 2
    chosen = '\n);\n    logic [7:0] chosen[1];\n    initial $readmemh("fault.hex", chosen);\n'
    for name, text in sources.items():
        (rtl / name).write_text(text.replace("\n);\n", chosen, 1))
    module = core(saturating.scan, LENGTH, 2, 2, wide=True)
    memories = {**module.memories, "fault.hex": ["00"]}
    return compile_module(dataclasses.replace(module, memories=memories), simulations, rtl)


def caught(compiled: Compiled, vectors) -> bool:
    """Tell whether a comparison with the golden, or the handshake's rules, fail a simulation."""
    try:
        return not all(
            scan_cases.agrees(compiled, vectors, scan_cases.run(compiled, vectors, stalls))
            for stalls in STALLS
        )
    except SimulationFailed:
        return True


def with_memory(compiled: Compiled, name: str, words: list[str]) -> Compiled:
    """Return a compiled simulation that reads other words from a memory's file."""
    memories = compiled.module.memories
    assert name in memories
    module = dataclasses.replace(compiled.module, memories={**memories, name: words})
    return dataclasses.replace(compiled, module=module)


def test_the_simulation_with_faults_is_right_without_one(faulty, saturating):
    assert not caught(faulty, saturating)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(faulty, saturating, fault):
    number = list(FAULTS).index(fault) + 1
    assert caught(with_memory(faulty, "fault.hex", [f"{number:02x}"]), saturating)


def test_a_delta_that_is_not_rounded_is_caught(faulty, saturating):
    scan = saturating.scan
    form = scan.spec.formats["delta"]
    real = np.ldexp(softplus(np.arange(-128, 128) * scan.scales.dt), form.frac)
    words = hex_words(np.roll(np.clip(np.floor(real), 0, form.high), 128).astype(int), form.bits)
    name = faulty.module.parameters["SOFTPLUS_FILE"]
    assert words != list(faulty.module.memories[name])
    assert caught(with_memory(faulty, name, words), saturating)


BAD = {
    "PD=4 of CHANNELS=6": {"PD": 4},
    "PN=3 of STATES=4": {"PN": 3},
    "4 states a lane, expected 6 or more": {"PD": 3, "PN": 2},
    "LENGTH=0, expected 1 or more": {"LENGTH": 0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_parameters_are_refused_at_elaboration(simulations, typical, message):
    module = core(typical.scan, LENGTH, 1, 1)
    bad = dataclasses.replace(module, parameters={**module.parameters, **BAD[message]})
    with pytest.raises(UserError, match=message):
        compile_module(bad, simulations)


def test_bad_foldings_and_formats_are_refused_by_python(typical):
    scan = typical.scan
    with pytest.raises(UserError, match="PD=4 does not divide channels=6; use 1, 2, 3 or 6"):
        core(scan, LENGTH, 4, 1)
    with pytest.raises(UserError, match="PD=3, PN=2: 4 states for each lane, expected 6 or more"):
        core(scan, LENGTH, 3, 2)
    with pytest.raises(UserError, match="a scan of 0 tokens; give 1 or more"):
        core(scan, 0, 1, 1)

    def changed(**formats: Format) -> IntegerScan:
        spec = dataclasses.replace(scan.spec, formats={**scan.spec.formats, **formats})
        return IntegerScan.from_real(spec, scan.scales, scan.A, scan.D)

    with pytest.raises(UserError, match=r"delta has the format .*; the core's is unsigned"):
        core(changed(delta=Format(17, 16)), LENGTH, 1, 1)
    with pytest.raises(UserError, match="got 32 segments and 5 bits"):
        core(changed(exponent=Format(10, 5, signed=False)), LENGTH, 1, 1)


def test_the_widths_are_those_of_the_golden(typical):
    module = core(typical.scan, LENGTH, 2, 2)
    formats, before = typical.scan.spec.formats, typical.scan.ranges
    numbers = module.parameters
    assert numbers["STATE_BITS"] == formats["state"].bits
    assert numbers["DRIVE_SUM_BITS"] == before["drive"].bits + 1
    assert 1 << (formats["delta"].frac + 7 - formats["drive"].frac) == 1 << numbers["DRIVE_DROP"]
    assert 1 << (numbers["INPUT_BITS"] - 1) == FULL_SCALE
    assert [len(words) for words in module.memories.values()] == [256, 6, 3, 3, 32]
