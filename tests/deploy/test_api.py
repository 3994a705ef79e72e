"""The names that the package offers, their examples, and what importing them costs."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import docstring_examples
import pytest
import report_sample
import small_build

import lmaunet
from lmaunet.deploy import report as report_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a build and a report, as the examples name them."""
    place = tmp_path_factory.mktemp("examples")
    small_build.make(tmp_path_factory.mktemp("run"), place / "build" / "ort")
    content = report_file.assemble(**report_sample.parts())
    (place / "report.json").write_text(json.dumps(content), encoding="utf-8")
    return place


def test_the_examples_are_true(folder, monkeypatch):
    """Those of build are run where there is a run, in test_finished_stages."""
    monkeypatch.chdir(folder)
    things = (lmaunet.load, lmaunet.Segmenter.__call__, lmaunet.bench, lmaunet.read_report)
    assert docstring_examples.run(*things) == 19


def test_an_example_that_is_wrong_is_noticed():
    def wrong():
        """Say so.

        >>> len(lmaunet.__all__)
        0
        """

    with pytest.raises(AssertionError, match="Expected"):
        docstring_examples.run(wrong)


def names_for_checkers():
    """Return what the package imports for type checkers alone, by name."""
    tree = ast.parse(Path(lmaunet.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module
        for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip


def test_every_name_is_there_and_a_checker_sees_the_same():
    seen = names_for_checkers()
    assert sorted(seen) == lmaunet.__all__ == sorted(lmaunet.__all__)
    for name, home in seen.items():
        assert getattr(lmaunet, name) is getattr(sys.modules[home], name)
        assert name in dir(lmaunet)
    with pytest.raises(AttributeError, match="module 'lmaunet' has no attribute 'loads'"):
        lmaunet.loads  # noqa: B018


def test_importing_the_package_loads_nothing():
    code = (
        "import sys; before = set(sys.modules); import lmaunet; dir(lmaunet)\n"
        "print(sorted(m for m in set(sys.modules) - before if m.startswith('lmaunet')))\n"
        "lmaunet.UserError; lmaunet.Measurement; lmaunet.load; lmaunet.read_report; lmaunet.bench\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'monai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['lmaunet']", "[]"]


def test_a_report_has_all_that_its_file_has(folder):
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report = lmaunet.read_report(folder)
    assert report.path == folder / "report.json" and report.created == "2030-01-02"
    assert report.tools == {"torch": "9.9"} and report.baseline is None
    assert (report.model.params, report.model.input) == (487_654, (1, 1, 256, 256))
    assert report.model.weight_bits == {"8": 481_200}
    assert report.model.dice == {"ptq": 0.853, "qat": 0.874, "control": 0.894}
    assert report.data.cases == ("ct",) and report.data.slices == {"training": 36, "test": 14}
    assert list(report.targets) == list(content["targets"])
    for name, row in report.targets.items():
        target = content["targets"][name]
        for key in report_file.UNITS:
            figure = getattr(row, key)
            assert figure.quantity == key and figure.to_json() == target[key]
        assert row.worst_class.name == "aorta" and row.per_class == target["per_class"]
        assert [agreement.to_json() for agreement in row.agreement] == target["agreement"]
        assert row.files[0].bytes == 1_200_456 and row.files[0].ships
        assert row.detail == target["detail"] and row.arithmetic == "integers of the graph"
    assert [
        (g.name, g.target, g.limit, g.state, g.figure.to_json()) for g in report.gates
    ] == [
        (g["name"], g["target"], g["limit"], g["state"],
         {k: g[k] for k in ("value", "unit", "provenance") if k in g}
         or {"unavailable": g["unavailable"]})
        for g in content["gates"]
    ]  # fmt: skip
    for row in content["verdict"]:
        assert report.verdict[row["target"]].reasons == tuple(row["reasons"])
        assert report.ships(row["target"]) == (row["ship"] == "yes")
    assert not report.ships("absent")
    assert pickle.loads(pickle.dumps(report)) == report


def test_regressions_and_unavailable_scores_are_typed_too(folder, tmp_path):
    parts = report_sample.parts()
    before = report_file.assemble(**parts)
    parts["targets"]["ort"]["size_mb"] = report_sample.measured("size_mb", 2.5)
    none = lmaunet.Unavailable("dice", "labels", "none", "give some")
    parts["reference"]["dice"]["mean"] = none.to_json()
    now = report_file.with_baseline(report_file.assemble(**parts), before, "old.json")
    (tmp_path / "report.json").write_text(json.dumps(now), encoding="utf-8")
    report = lmaunet.read_report(tmp_path / "report.json")
    assert report.baseline == "old.json" and report.reference.dice == none
    (worse,) = [row for row in report.regressions if row.kind == "worse"]
    assert (worse.target, worse.figure) == ("ort", "size_mb")
    assert (worse.before.value, worse.now.value) == (1.23, 2.5)
    assert not report.ships("ort") and "size_mb" in report.verdict["ort"].reasons[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("model"), "report.model is missing"),
        (lambda c: c["targets"]["ort"].pop("dice"), "targets.ort.dice is missing"),
        (lambda c: c.update(schema=7), "report.schema is 7, expected 1"),
        (lambda c: c["gates"][0].update(state="passed", value=0.1), "gates"),
    ],
)
def test_a_report_that_is_damaged_is_refused(folder, tmp_path, change, text):
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "report.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(lmaunet.UserError, match=text):
        lmaunet.read_report(tmp_path)


def test_what_is_no_report_is_refused(folder, tmp_path):
    with pytest.raises(lmaunet.UserError, match="cannot be read"):
        lmaunet.read_report(tmp_path)
    shutil.copy(folder / "build" / "ort" / "model.onnx", tmp_path / "a")
    with pytest.raises(lmaunet.UserError, match="is not JSON"):
        lmaunet.read_report(tmp_path / "a")
