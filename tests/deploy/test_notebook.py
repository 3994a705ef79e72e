"""The notebook on the demo's CT: its cells run, and what it shows came out of them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import matplotlib as mpl
import pytest
import report_sample
import small_build

import lmaunet
from lmaunet.deploy import report as report_file

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "demo.ipynb"
LARGEST_BYTES = 300_000


@pytest.fixture(scope="module")
def cells():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [
        ("".join(cell["source"]), cell)
        for cell in content["cells"] if cell["cell_type"] == "code"
    ]  # fmt: skip


@pytest.fixture
def examples_folder(tmp_path, tmp_path_factory):
    """A folder beside which lie a run and a CT, as in a checkout after `make demo`."""
    small_build.make(
        tmp_path_factory.mktemp("run"), tmp_path / "runs" / "demo" / "build" / "ort"
    )  # fmt: skip
    content = report_file.assemble(**report_sample.parts())
    (tmp_path / "runs" / "demo" / "report.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "calibration_data").mkdir()
    # its slices go up to the one that is shown
    path = tmp_path / "calibration_data" / "example_ct.nii.gz"
    small_build.write_scan(path, (102, 24, 28), (3.0, 3.0, 3.0))
    (tmp_path / "examples").mkdir()
    return tmp_path / "examples"


def test_every_cell_runs(cells, examples_folder, monkeypatch, capsys):
    monkeypatch.chdir(examples_folder)
    mpl.use("Agg")
    names = {}
    for source, _ in cells:
        exec(compile(source, NOTEBOOK.name, "exec"), names)
    said = capsys.readouterr().out
    assert "voxels that differ from the mask: 0" in said
    assert "(3, 102, 24, 28) float32" in said and "fpga: ships UNKNOWN" in said
    assert "30 runs" in said


def test_what_it_shows_is_whole_and_came_out_of_its_cells(cells):
    assert [cell["execution_count"] for _, cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for _, cell in cells for output in cell["outputs"]]
    assert "error" not in kinds and len(kinds) >= len(cells)
    pictures = [
        output for _, cell in cells for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert len(pictures) == 1
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST_BYTES
    for place in ("/tmp/", "/root/", "/home/", "/work/", "site-packages"):
        assert place not in text


def test_it_uses_every_function_of_the_package_that_needs_no_run(cells):
    used = {
        node.attr
        for source, _ in cells for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "lmaunet"
    }  # fmt: skip
    assert used <= set(lmaunet.__all__)
    assert {"load", "read_report", "bench"} <= used
