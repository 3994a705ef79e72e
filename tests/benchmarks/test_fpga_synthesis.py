"""What the benchmark of synthesised designs writes, with yosys and the design stood in for."""

import dataclasses
import json
import sys

import fpga_synthesis as benchmark
import pytest
from network_synthesis import NO_ESTIMATE, Part
from synthesis import Synthesised

from lmaunet.errors import UserError
from lmaunet.fpga.operators import dram_fifo, fifo


@pytest.fixture
def build(tmp_path, monkeypatch):
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "hardware.onnx").write_bytes(b"graph")
    (folder / "resources.json").write_text(json.dumps({"board": {"name": "ZCU104"}}))
    asked = []

    def parts_of(network, model, part, depths):
        asked.append((part, depths))
        return [
            Part(
                str(bits),
                "FIFO",
                fifo.module(fifo.layout(bits, 2)),
                fifo.resources(bits, 2),
                NO_ESTIMATE,
            )
            for bits in (8, 8, 400)
        ]

    monkeypatch.setattr(benchmark, "load_network", lambda folder: (None, None))
    monkeypatch.setattr(benchmark, "parts_of", parts_of)
    counts = Synthesised.of({"LUT3": 11, "FDRE": 18})
    monkeypatch.setattr(
        benchmark, "synthesize_all", lambda modules, family, **options: [counts] * len(modules)
    )
    return folder, asked


def run(monkeypatch, folder, *options):
    words = ["fpga_synthesis.py", "--build", str(folder), "--cache", str(folder / "cache")]
    monkeypatch.setattr(sys, "argv", [*words, "-o", str(folder / "found.json"), *options])
    assert benchmark.main(benchmark.parse()) == 0
    return json.loads((folder / "found.json").read_text())


def test_sums_say_what_they_hold(build, monkeypatch, capsys):
    folder, asked = build
    found = run(monkeypatch, folder, "--nodes", str(folder / "nodes.json"))
    assert found["operators"]["FIFO"]["yosys"]["lut"] == found["network"]["yosys"]["lut"] == 33
    assert found["network"]["finn"]["lut"] is None
    assert found["left_out"]["rows"] == {}
    assert found["provenance"]["yosys"] == "synthesised"
    assert found["fifos"].startswith("not simulated")
    assert asked == [("xczu7ev-ffvc1156-2-e", None)]
    assert len(json.loads((folder / "nodes.json").read_text())["nodes"]) == 3
    assert "| sum | 3, 2 | 33 / 428 / none |" in capsys.readouterr().out


def test_an_unfinished_run_says_what_is_left_out(build, monkeypatch):
    folder, _ = build
    cached = benchmark.Synthesiser(folder / "cache", benchmark.synthesize_all)
    cached.run([fifo.module(fifo.layout(8, 2))], "xcup")
    found = run(monkeypatch, folder, "--only-cached")
    assert found["network"]["rows"] == 2
    assert found["left_out"]["rows"] == {"FIFO": 1}
    assert found["left_out"]["estimated"]["lut"] == fifo.resources(400, 2).lut


def test_fifos_are_as_deep_as_simulated(build, monkeypatch):
    folder, asked = build
    layout = fifo.layout(8, 77, "block", 4)
    outside = dram_fifo.layout(8, 77, 1024)
    fifos = {"a": layout, "b": outside}
    simulated = {t: dataclasses.asdict(found) | {"depth": 77} for t, found in fifos.items()}
    (folder / "simulation.json").write_text(json.dumps({"fifos": simulated}))
    assert run(monkeypatch, folder)["fifos"] == "as simulated"
    assert asked == [("xczu7ev-ffvc1156-2-e", fifos)]


def test_a_folder_without_a_build_is_refused(tmp_path):
    with pytest.raises(UserError, match="no build for the FPGA target"):
        benchmark.board_of(tmp_path)
