"""Matrix units whose weights are loaded at the start, in one chain."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, corners, mutated, needs_verilator
from test_matrix_vector import FRAMES, attributes_of, codes, matrix

from lmaunet.errors import UserError
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.matrix_vector import MVAU
from lmaunet.fpga.operators.rtl_module import (
    LOAD,
    RtlModule,
    lane_words,
    load_beats,
    load_words,
    pack,
    unpack,
)
from lmaunet.fpga.simulation.compilation import compile_module, lint
from lmaunet.fpga.simulation.simulator import SimulationFailed, Stalls, simulate
from lmaunet.fpga.simulation.stitch import NodeRtl, stitch

ULTRA = {"ram_style": "ultra"}


def chain(*units) -> RtlModule:
    """Return units, each with its attributes and weights, one behind the other as one module."""
    nodes = [
        NodeRtl(f"unit{i}", MVAU(attributes).module([weights]), (f"t{i}",), (f"t{i + 1}",))
        for i, (attributes, weights) in enumerate(units)
    ]
    return stitch("network", nodes, "t0", f"t{len(units)}", {})


def check(units, module, compiled, stalls=STALLS, wait=0) -> None:
    """Compare frames back to back with the executor's sums; ``wait``: cycles until they begin."""
    attributes = units[0][0]
    x = codes(attributes)
    want = x
    for each, weights in units:
        want = MVAU(each).execute([want, weights])
    pe = units[-1][0]["PE"]
    bits = type_bits(attributes["inputDataType"])
    beats = {"in0_V": pack(x.reshape(-1, attributes["SIMD"]), bits), LOAD.name: load_beats(module)}
    count = want.size // pe
    for each in stalls:
        got = simulate(compiled, beats, {"out0_V": count}, each, starts={"in0_V": wait})
        port = module.outputs[0]
        assert (unpack(got.outputs["out0_V"], port.bits // pe, pe) == want.reshape(-1, pe)).all()
        if each == NO_STALLS and wait:
            cycles = max(MVAU(unit).cycles() for unit, _ in units)
            assert (got.intervals("out0_V", FRAMES) == cycles).all()


def loaded(*sizes):
    attributes, weights = matrix(*sizes)
    return attributes | ULTRA, weights


# columns, rows of a memory: one and two and many, full and part of a beat
SIZES = [
    (18, 6, 3, 2, 8, "INT8"),  # a part of one
    (18, 6, 9, 1, 8, "INT8"),  # one, full
    (18, 6, 9, 2, 8, "INT8"),  # two, full
    (18, 6, 18, 6, 4, "INT8"),  # six; one row
    (14, 4, 7, 2, 8, "UINT8"),  # the second is short
    (8, 9, 4, 3, 3, "INT8"),
]


@needs_verilator
@pytest.mark.parametrize("sizes", SIZES)
def test_vectors_that_come_early_wait_for_the_weights(simulations, sizes):
    """From the first cycle on, whatever pauses; and when the weights are there, none is lost."""
    units = [loaded(*sizes)]
    module = chain(*units)
    assert not module.memories
    compiled = compile_module(module, simulations)
    check(units, module, compiled)
    check(units, module, compiled, STALLS[:1], wait=len(module.load) + 8)


def two_units():
    """Return two units that are loaded, and between them one that is not."""
    first, one = loaded(8, 6, 4, 3, 2, "INT4")
    bits = type_bits(first["outputDataType"])
    random = np.random.default_rng(5)
    units = [(first, one)]
    for mh, simd, pe, style in ((4, 3, 2, {}), (3, 4, 3, ULTRA)):
        weights = corners(random, -7, 7, (units[-1][1].shape[1], mh))
        attributes = attributes_of(weights, simd, pe, 4, f"INT{bits}")
        units.append((attributes | style, weights))
        bits = type_bits(attributes["outputDataType"])
    return units


@needs_verilator
def test_a_chain_gives_each_unit_its_own(simulations):
    units = two_units()
    module = chain(*units)
    assert [port.name for port in module.inputs] == ["in0_V", LOAD.name]
    text = module.generated["network.sv"]
    assert text.count(".load_data(load0_V_tdata)") == text.count(".load_data(n0_pass_tdata)") == 1
    lint(module)
    compiled = compile_module(module, simulations)
    # with a source of the load that nearly stands still, too
    check(units, module, compiled, (*STALLS[:2], Stalls(seed=7, ports={LOAD.name: 0.9})))
    check(units, module, compiled, STALLS[:1], wait=len(module.load) + 8)
    plain = [({**attributes, "ram_style": "auto"}, weights) for attributes, weights in units]
    without = chain(*plain)
    assert not without.load and "load" not in without.generated["network.sv"]


def test_words_are_cut_into_beats():
    beats = load_words(["123456789abcdef0123456", "1"], 86)
    assert beats == ["56789abcdef0123456", "1234".zfill(18), "1".zfill(18), "0".zfill(18)]
    module = dataclasses.replace(chain(loaded(18, 6, 3, 2, 8, "INT8")), load=beats)
    assert load_beats(module)[0].tobytes()[::-1].hex() == beats[0]


def test_deep_weights_are_refused():
    attributes, weights = matrix(130, 64, 1, 2)
    with pytest.raises(UserError, match="4160 words of weights in UltraRAM, expected at most 4096"):
        MVAU(attributes | ULTRA).module([weights])


def test_all_weights_are_in_the_load():
    attributes, weights = loaded(18, 6, 9, 2, 8, "INT8")
    rows = weights.T.reshape(3, 2, 2, 9).transpose(0, 2, 1, 3).reshape(-1, 18)
    assert MVAU(attributes).module([weights]).load == load_words(lane_words(rows, 8), 144)


MEMORY, CORE = "loaded_weights.sv", "matrix_vector_core.sv"
ONE_ROW, WIDE = (18, 6, 18, 6, 4, "INT8"), (18, 6, 9, 2, 8, "INT8")
FAULTS = {
    "vectors do not wait": (CORE, "loaded && (!first || credit);", "!first || credit;"),
    "loaded one beat too early": (MEMORY, "(DEPTH - 1);", "(DEPTH - 2);"),
    "read before the last beat is written": (
        MEMORY, "loaded <= whole;",
        "loaded <= whole || (take && last_column && row == ADDRESS_BITS'(DEPTH - 1));", ONE_ROW,
    ),
    "its own is passed on": (MEMORY, "load_valid && whole;", "load_valid;"),
    "what is passed on is written": (MEMORY, "load_valid && !whole;", "load_valid;"),
    "a column for a row": (MEMORY, "if (last_column) begin", "begin", WIDE),
    "the columns are one": (MEMORY, "take ? column : '0;", "take ? '1 : '0;", WIDE),
    "a row too late": (MEMORY, "memory[written_row]", "memory[row]"),
    "nothing is passed on": (
        MEMORY, "pass_data <= load_data;", "if (!whole) pass_data <= load_data;"
    ),
    "a word a cycle too early": (MEMORY, "word[FROM+:OWN] = late;", "word[FROM+:OWN] = early;"),
}  # fmt: skip


@needs_verilator
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(simulations, tmp_path, fault):
    source, old, new, *sizes = FAULTS[fault]
    units = [loaded(*sizes[0])] if sizes else two_units()
    module = chain(*units)
    compiled = mutated(module, simulations, source, old, new, tmp_path)
    with pytest.raises((AssertionError, SimulationFailed)):
        check(units, module, compiled)
