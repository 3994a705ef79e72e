"""Rows about networks from elsewhere, from what their runs hold."""

from __future__ import annotations

import json
from argparse import Namespace

import other_networks
import pytest

from lmaunet.errors import UserError


def agreement(name, differ, total, passed=True):
    return {"name": name, "n_differ": differ, "n_total": total, "allowed": 9, "passed": passed}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "small"
    (folder / "build" / "ort").mkdir(parents=True)
    (folder / "import.json").write_text(json.dumps({
        "architecture": "Net", "network": {"input_size": [8, 12]}, "params": 5, "macs": 7,
        "agreement": {"max_abs": 1e-6},
        "targets": {"ort": {"takes": True, "reasons": []},
                    "fpga": {"takes": False, "reasons": [{"operator": "flip", "count": 2}]}},
    }))  # fmt: skip
    (folder / "build" / "ort" / "build.json").write_text(json.dumps({"agreements": [
        agreement("ort form, codes within one", 0, 50), agreement("ort form, codes", 3, 50),
        agreement("ort form 2, codes", 4, 60), agreement("ort file, classes", 2, 100),
    ]}))  # fmt: skip
    return folder


def test_a_row_says_what_the_builds_agreements_say(run, tmp_path, capsys):
    output = tmp_path / "rows.json"
    output.write_text(json.dumps({"networks": {"older": {}}}))
    assert other_networks.main(Namespace(runs=[run], source="theirs", output=output)) == 0
    rows = json.loads(output.read_text())["networks"]
    assert set(rows) == {"older", "small"}
    row = rows["small"]
    assert row["targets"] == {"ort": True, "fpga": False} and row["refused"] == {
        "fpga": [["flip", 2]]
    }
    assert row["builds"]["ort"] == {
        "passed": True, "codes_differ": 4, "codes": 60, "classes_differ": 2, "pixels": 100,
        "classes_allowed": 9, "compared": "ort file, classes",
    }  # fmt: skip
    assert capsys.readouterr().out == "small: 5 parameters; ort passed\n"


def test_a_run_that_lacks_something_is_refused(run, tmp_path):
    (run / "build" / "ort" / "build.json").unlink()
    with pytest.raises(UserError, match="has no build; lmaunet-deploy build"):
        other_networks.row_of(run)
    with pytest.raises(UserError, match=r"import.json is not there; keep what lmaunet-deploy"):
        other_networks.row_of(tmp_path)
