from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, mutated, needs_verilator

import lmaunet.fpga.simulation.compilation as simulation
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.operators.rtl_module import Port, RtlModule, pack, unpack
from lmaunet.fpga.simulation.compilation import compile_module, lint
from lmaunet.fpga.simulation.simulator import BrokenRule, Deadlock, simulate

pytestmark = needs_verilator


def register(bits: int) -> RtlModule:
    return RtlModule(
        "stream_register", ("stream_register.sv",), {"BITS": bits},
        (Port("in0_V", bits),), (Port("out0_V", bits),),
    )  # fmt: skip


@pytest.mark.parametrize("bits", [12, 70, 300, 513])
def test_passes_every_word_on(simulations, bits):
    compiled = compile_module(register(bits), simulations)
    words = np.random.default_rng(bits).integers(0, 2, (300, bits))
    for stalls in STALLS:
        got = simulate(compiled, {"in0_V": pack(words, 1)}, {"out0_V": 300}, stalls)
        assert (unpack(got.outputs["out0_V"], 1, bits, signed=False) == words).all()
        if stalls == NO_STALLS:
            assert (np.diff(got.cycles["out0_V"]) == 1).all()
            assert got.cycles["out0_V"][0] == got.cycles["in0_V"][0] + 1


def test_lint(simulations):
    lint(register(12))


def test_a_bad_parameter_is_refused(simulations):
    module = dataclasses.replace(register(8), parameters={"BITS": 0})
    with pytest.raises(UserError, match="BITS=0, expected 1 or more"):
        compile_module(module, simulations)


FAULTS = {
    "forgets the spare word": (
        "in0_V_tvalid || !accepts", "in0_V_tvalid && accepts",
        Deadlock, r"nothing moved for .*; out0_V \d+ of 300 beats",
    ),
    "never empties the spare word": (
        "!accepts;\n                accepts <= 1'b1;", "!accepts;",
        BrokenRule, "out0_V: more than the expected 300 beats",
    ),
    "changes what waits": (
        "if (!offers || out0_V_tready) front", "front",
        BrokenRule, "out0_V: tdata changed in cycle",
    ),
    "a path from ready": (
        "PORT_BITS'(front)", "PORT_BITS'(front) ^ PORT_BITS'(out0_V_tready)",
        BrokenRule, "out0_V: a combinational path from a tready",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(simulations, tmp_path, fault):
    old, new, error, message = FAULTS[fault]
    words = np.random.default_rng(0).integers(0, 256, (300, 1))
    compiled = mutated(register(8), simulations, "stream_register.sv", old, new, tmp_path)
    with pytest.raises(error, match=message):
        simulate(compiled, {"in0_V": pack(words, 8)}, {"out0_V": 300}, STALLS[3])


def test_a_missing_beat_is_a_deadlock(simulations):
    compiled = compile_module(register(12), simulations)
    with pytest.raises(Deadlock, match=r"nothing moved for 50 .* out0_V 3 of 4 beats"):
        simulate(compiled, {"in0_V": np.zeros((3, 2), np.uint8)}, {"out0_V": 4}, limit=50)


def test_too_many_beats_are_an_error(simulations):
    compiled = compile_module(register(12), simulations)
    with pytest.raises(BrokenRule, match="more than the expected 2 beats"):
        simulate(compiled, {"in0_V": np.zeros((3, 2), np.uint8)}, {"out0_V": 2})


def test_arrays_that_do_not_fit_are_refused(simulations):
    compiled = compile_module(register(12), simulations)
    with pytest.raises(
        UserError, match=r"got uint8 of shape \(3, 1\), expected uint8 \(beats, 2\)"
    ):
        simulate(compiled, {"in0_V": np.zeros((3, 1), np.uint8)}, {"out0_V": 3})
    with pytest.raises(UserError, match=r"got inputs .*'in1_V'"):
        simulate(compiled, {"in1_V": np.zeros((3, 2), np.uint8)}, {"out0_V": 3})


def test_a_compiled_simulation_is_found_again(simulations, monkeypatch):
    first = compile_module(register(12), simulations)
    monkeypatch.setattr(simulation, "_verilator", None)
    assert compile_module(register(12), simulations) == first


def test_a_missing_tool_names_its_fix(monkeypatch):
    monkeypatch.setattr(simulation.shutil, "which", lambda name: None)
    with pytest.raises(ToolNotFound, match=r"g\+\+ is missing: .*apt install"):
        simulation.compiler_place.__wrapped__()


@pytest.mark.parametrize(("bits", "lanes"), [(1, 1), (3, 5), (8, 4), (17, 3), (48, 2), (64, 1)])
def test_packing_is_reversible(bits, lanes):
    codes = np.random.default_rng(bits).integers(-(1 << (bits - 1)), 1 << (bits - 1), (20, lanes))
    beats = pack(codes, bits)
    assert beats.shape == (20, -(-bits * lanes // 8))
    assert (unpack(beats, bits, lanes) == codes).all()
    first = sum((int(v) & ((1 << bits) - 1)) << (bits * i) for i, v in enumerate(codes[0]))
    assert int.from_bytes(beats[0].tobytes(), "little") == first
