"""Levels and loads of netlists written by hand, each worked out on paper."""

from __future__ import annotations

import json

import pytest

from lmaunet.errors import UserError
from lmaunet.fpga.toolchain import netlist_levels
from lmaunet.fpga.toolchain.netlist_levels import Limits, Netlist, exceeded, read_netlist

OUT = {"O", "CO", "Q", "P", "DOA", "DOB", "DOBDO"}


def cell(kind, parameters=None, **ports):
    """A cell; each port's nets are numbers, or text for a constant."""
    nets = {port: bits if isinstance(bits, list) else [bits] for port, bits in ports.items()}
    directions = {port: "output" if port in OUT else "input" for port in ports}
    return {"type": kind, "parameters": parameters or {}, "port_directions": directions,
            "connections": nets}  # fmt: skip


def module(cells, **names):
    nets = {name: {"hide_name": 0, "bits": [bit]} for name, bit in names.items()}
    return {"cells": cells, "netnames": nets, "ports": {}}


def ff(d, q, ce="1", r="0"):
    return cell("FDRE", C=1, D=d, Q=q, CE=ce, R=r)


def chain(luts):
    """A flip-flop, so many LUTs one after the other, a flip-flop."""
    cells = {"first": ff("0", 10), "last": ff(10 + luts, 99)}
    for i in range(luts):
        cells[f"lut{i}"] = cell("LUT2", I0=10 + i, I1=10, O=11 + i)
    return module(cells, start=10, end=99)


@pytest.mark.parametrize("luts", [0, 1, 6, 7])
def test_luts_between_registers_are_counted(luts):
    path = Netlist(chain(luts)).paths(1)[0]
    assert (path.luts, path.carries, path.levels) == (luts, 0, luts)
    assert (path.start, path.end) == ("FDRE.Q start", "FDRE.D end")


def adder(blocks):
    """A LUT before the lowest sum bit's S, a chain of CARRY8 blocks, a flip-flop at the top."""
    cells = {"a": ff("0", 10), "lut": cell("LUT2", I0=10, I1="0", O=20)}
    carry = "0"
    for i in range(blocks):
        base = 100 * (i + 1)
        cells[f"carry{i}"] = cell(
            "CARRY8", CI=carry, S=[20 if i == 0 else "0"] + ["0"] * 7, DI=["0"] * 8,
            O=list(range(base, base + 8)), CO=list(range(base + 8, base + 16)),
        )  # fmt: skip
        carry = base + 15
    cells["sum"] = ff(100 * blocks + 7, 98)
    return module(cells, sum=98)


@pytest.mark.parametrize(("blocks", "levels"), [(1, 2), (4, 2), (5, 3), (6, 3)])
def test_carries_are_a_level_each_32_bits(blocks, levels):
    path = Netlist(adder(blocks)).paths(1)[0]
    assert (path.luts, path.carries, path.levels) == (1, blocks, levels)


def test_a_place_of_a_carry_chain_does_not_reach_below():
    cells = {
        "a": ff("0", 10), "lut": cell("LUT2", I0=10, I1="0", O=20),
        "carry": cell("CARRY4", CI="0", S=["0", "0", 20, "0"], DI=["0", "0", 10, "0"],
                      O=[30, 31, 32, 33], CO=[40, 41, 42, 43]),
        "low": ff(31, 90), "own": ff(32, 91), "above": ff(33, 92), "carried": ff(42, 93),
    }  # fmt: skip
    paths = {p.end: p for p in Netlist(module(cells, low=90, own=91, up=92, out=93)).paths()}
    assert paths["FDRE.D low"].start == "constant"
    for end in ("own", "up", "out"):
        assert (paths[f"FDRE.D {end}"].luts, paths[f"FDRE.D {end}"].carries) == (1, 1)


def test_inversions_and_wide_multiplexers_are_free():
    cells = {
        "a": ff("0", 10), "inv": cell("INV", I=10, O=11), "lut": cell("LUT6", I0=11, O=12),
        "mux": cell("MUXF7", I0=12, I1=10, S=10, O=13), "b": ff(13, 14),
    }  # fmt: skip
    assert Netlist(module(cells)).paths(1)[0].levels == 1


def test_a_memory_of_luts_is_read_in_a_level_and_written_at_a_clock():
    cells = {
        "a": ff("0", 10), "lut": cell("LUT2", I0=10, I1="0", O=11),
        "ram": cell("RAM32M", ADDRA=[11], ADDRB=[10], DIA=[11], WE=10, WCLK=1, DOA=[20], DOB=[21]),
        "b": ff(20, 30), "c": ff(21, 31),
    }  # fmt: skip
    netlist = Netlist(module(cells, b=30, c=31, out=20))
    paths = {p.end: p.levels for p in netlist.paths()}
    assert paths["FDRE.D b"] == 2 and paths["FDRE.D c"] == 1
    assert paths["RAM32M.DIA out"] == 1
    assert [(n.role, n.loads) for n in netlist.nets("enable")] == [("enable", 1)]


@pytest.mark.parametrize(("register", "levels"), [("0", 3), ("1", 1)])
def test_a_block_ram_without_a_register_takes_time(register, levels):
    cells = {
        "ram": cell("RAMB18E2", {"DOB_REG": register}, CLKBWRCLK=1, DOBDO=[10]),
        "lut": cell("LUT2", I0=10, I1="0", O=11), "b": ff(11, 12),
    }  # fmt: skip
    assert Netlist(module(cells)).paths(1)[0].levels == levels


def test_loads_are_counted_by_role_without_clocks():
    cells = {f"f{i}": ff(20, 30 + i, ce=21, r=22 if i < 2 else "0") for i in range(5)}
    cells["lut"] = cell("LUT2", I0=21, I1=22, O=20)
    netlist = Netlist(module(cells, d=20, enable=21, reset=22, f0=30, f1=31))
    assert [(n.name, n.loads, n.driver) for n in netlist.nets("enable")] == [("enable", 5, "port")]
    reset = netlist.nets("reset")[0]
    assert (reset.name, reset.loads, set(reset.loaded)) == ("reset", 2, {"f0", "f1"})
    data = [(n.name, n.loads) for n in netlist.nets("data")]
    assert data == [("d", 5), ("enable", 1), ("reset", 1)]
    assert "1" not in {n.name for n in netlist.nets()}, "the clock"


def test_a_loop_is_refused():
    cells = {"a": cell("LUT1", I0=10, O=11), "b": cell("LUT1", I0=11, O=10), "f": ff(10, 12)}
    with pytest.raises(UserError, match="a loop without a register at x"):
        Netlist(module(cells, x=10, y=11)).paths()


def test_an_unknown_cell_is_refused():
    cells = {"a": cell("MYSTERY", I=10, O=11), "f": ff(11, 12)}
    with pytest.raises(UserError, match="cells MYSTERY"):
        Netlist(module(cells)).paths()


def test_limits_at_their_edge():
    limits = Limits(enable_loads=5, loads=5)
    assert limits.levels == 6
    assert Limits(clock_ns=3.9).levels == 6 and Limits(clock_ns=3.89).levels == 5
    assert exceeded(Netlist(chain(6)), Limits(loads=9)) == []
    assert exceeded(Netlist(chain(7), "n"), Limits(loads=9)) == [
        "n: 7 levels (7 LUTs, 0 carry cells) from FDRE.Q start to FDRE.D end, at most 6"
    ]
    five = {f"f{i}": ff(20, 30 + i, ce=21) for i in range(5)}
    assert exceeded(Netlist(module(five)), limits) == []
    six = five | {"f5": ff(20, 35, ce=21)}
    assert exceeded(Netlist(module(six, ce=21, d=20), "n"), limits) == [
        "n: ce (enable) has 6 loads, at most 5", "n: d (data) has 6 loads, at most 5"
    ]  # fmt: skip
    dsp = {"d": cell("DSP48E2", {"PREG": "0" * 32}, CLK=1, P=[10])}
    assert exceeded(Netlist(module(dsp), "n"), limits) == [
        "n: 1 DSPs without a register of their result"
    ]


def test_a_file_with_its_library_is_read(tmp_path):
    path = tmp_path / "netlist.json"
    library = {"attributes": {"blackbox": "1"}, "cells": {}, "netnames": {}}
    path.write_text(json.dumps({"modules": {"LUT2": library, "top": chain(2)}}))
    assert read_netlist(path).paths(1)[0].levels == 2
    assert read_netlist(path, "top").name == "top"
    with pytest.raises(UserError, match="0 modules , expected one"):
        read_netlist(path, "other")


MUTANTS = {
    "a limit off by one": ("/ self.level_ns + 1e-9)", "/ self.level_ns + 1 + 1e-9)"),
    "a level more is let through": (
        "self.levels > limits.levels", "self.levels > limits.levels + 1"
    ),
    "a load more is let through": ("if loads > most", "if loads > most + 1"),
    "carries are ignored": ('{"CARRY4": 1, "CARRY8": 2}', '{"CARRY4": 0, "CARRY8": 0}'),
    "carries reach below": (') > place:', ') > 99:'),
    "levels are rounded down": ("math.ceil(self.units / UNITS)", "self.units // UNITS"),
    "block RAM is as quick as a flip-flop": ("= 2 * UNITS", "= 0"),
    "a memory of LUTs is not read through": ('re.match(r"RAM\\d", kind)', 're.match(r"x", kind)'),
    "clocks are loads": ('if _is_register(found["type"]) and CLOCK.fullmatch', "if not str"),
    "the shortest path": ("(new.units, new.luts) > (best", "(new.units, new.luts) < (best"),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant, mutant_of, monkeypatch, tmp_path):
    wrong = mutant_of(netlist_levels, *MUTANTS[mutant])
    for name in ("Limits", "Netlist", "exceeded", "read_netlist"):
        monkeypatch.setitem(globals(), name, getattr(wrong, name))
    with pytest.raises(AssertionError):
        for luts in (0, 1, 6, 7):
            test_luts_between_registers_are_counted(luts)
        for blocks, levels in ((1, 2), (4, 2), (5, 3), (6, 3)):
            test_carries_are_a_level_each_32_bits(blocks, levels)
        test_a_place_of_a_carry_chain_does_not_reach_below()
        test_a_memory_of_luts_is_read_in_a_level_and_written_at_a_clock()
        test_a_block_ram_without_a_register_takes_time("0", 3)
        test_loads_are_counted_by_role_without_clocks()
        test_limits_at_their_edge()
