"""What a report takes from the stages: damage is said of the stage that has it."""

import pytest

from lmaunet.deploy import reporting
from lmaunet.errors import UserError
from lmaunet.spec import named_spec
from lmaunet.stage import write_json

RECORDS = {
    "qat": ("qat.json", {"scores": {"ptq": {"dice": 0.5}, "qat": {"dice": None}},
                         "weight_bits": {"8": 9}}),
    "control": ("control.json", {"scores": {"control": {"dice": 0.6}, "float32": {"dice": 0.7}}}),
    "export": ("export.json", {"agreements": []}),
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    for stage, (name, content) in RECORDS.items():
        (tmp_path / stage).mkdir()
        write_json(tmp_path / stage / name, content)
    monkeypatch.setattr(reporting, "matching_control", lambda run: run / "control")
    monkeypatch.setattr(reporting, "read_manifest", lambda folder: {"seed": 3})
    return tmp_path


def test_the_model_has_the_scores_of_every_network_that_was_scored(run):
    model = reporting._model(run, named_spec("demo"))
    assert {k: model.get(k) for k in ("ptq", "qat", "control", "float32", "seed")} == {
        "ptq": 0.5, "qat": None, "control": 0.6, "float32": 0.7, "seed": 3,
    }  # fmt: skip
    assert "qat" not in model and model["weight_bits"] == {"8": 9}


@pytest.mark.parametrize("stage", RECORDS)
def test_damage_is_said_of_the_stage_that_has_it(run, stage):
    write_json(run / stage / RECORDS[stage][0], {"scores": []})
    with pytest.raises(UserError) as raised:
        reporting._model(run, named_spec("demo"))
    assert str(raised.value).startswith(f"{run / stage} is damaged: its records are not")
