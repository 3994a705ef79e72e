"""What a report takes from the stages: damage is said of the stage that has it."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from lmaunet.artifacts import Agreement, Build, Measurement
from lmaunet.deploy import measuring, reporting
from lmaunet.deploy.report_record import record_report, recorded_report, report_key
from lmaunet.errors import UserError
from lmaunet.spec import named_spec
from lmaunet.stage import Stage, write_json

RECORDS = {
    "qat": ("qat.json", {"scores": {"ptq": {"dice": 0.5}, "qat": {"dice": None}},
                         "network": {"params": 12, "macs": 345, "graph": "d1"},
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


def test_the_model_is_counted_as_it_was_when_it_was_quantized(run):
    spec = named_spec("demo").replace(in_channels=2, input_size=(32, 48))
    model = reporting._model(run, spec)
    assert model["spec"] == "demo" and model["input"] == [1, 2, 32, 48]
    assert (model["params"], model["macs"]) == (12, 345)
    assert model["export_agreements"] == []


def test_the_gates_of_a_target_without_a_build_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(reporting, "built_targets", lambda run: ["fpga", "ort"])
    reporting.require_builds(tmp_path, ["dice=0.5", "ort.dice=0.5", "fpga.size_mb=3"])
    with pytest.raises(UserError, match=r"^--gate trt...: .* has no trt build; make it with: lmau"):
        reporting.require_builds(tmp_path, ["ort.dice=0.5", "trt.dice=0.5"])


PER_CASE = {f"p{i}_frame01": {"liver": 0.5 + i / 20, "aorta": 0.25} for i in range(6)}


def scored(**changes):
    return {
        "dice": 0.75, "per_class": {"liver": 0.625, "aorta": 0.25}, "hd95_mm": 4.5,
        "per_case": PER_CASE, "false_positives": {"e": {"liver": 7}}, "absent_classes": ["spleen"],
        "empty_cases": ["e"], **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("best", "words"),
    [("float32", "as trained"), ("control", "control: trained on as long as the INT8 network")],
)
def test_the_reference_is_the_better_network_and_says_which(tmp_path, best, words):
    scores = {"float32": scored(dice=0.1), "control": scored(dice=0.2)}
    write_json(tmp_path / "measure.json", {"scores": scores, "best": best})
    np.savez(tmp_path / "predictions.npz", classes=np.arange(6).reshape(1, 2, 3))
    found, predictions = reporting._scores(tmp_path)
    assert found == {**scores[best], "network": words}
    assert list(predictions) == ["FP32"] and predictions["FP32"].tolist() == [
        [[0, 1, 2], [3, 4, 5]]
    ]


@pytest.mark.parametrize(("dice", "hd95"), [(0.75, 4.5), (None, None), (0.0, 0.0)])
def test_the_reference_has_its_figures_or_why_not(dice, hd95):
    data = SimpleNamespace(patient=lambda case: case[:2])
    found = reporting._reference(scored(dice=dice, hd95_mm=hd95, network="n"), data)
    lacks = measuring.no_foreground("dice").to_json()
    assert found["dice"] == {
        "mean": lacks if dice is None else dice, "per_class": {"liver": 0.625, "aorta": 0.25},
    }  # fmt: skip
    assert found["hd95_mm"] == (
        measuring.hd95_figure(None, "measured").to_json() if hd95 is None else hd95
    )
    assert found["per_patient"] == {f"p{i}": pytest.approx(0.375 + i / 40) for i in range(6)}
    assert (found["target"], found["network"]) == ("torch-fp32", "n")
    assert found["per_case"] == PER_CASE and found["false_positives"] == {"e": {"liver": 7}}


def test_what_is_said_of_the_data_is_of_the_held_out_side():
    data = SimpleNamespace(to_json=lambda: {"cases": {"train": ["a"], "val": ["b"]}, "name": "x"})
    assert reporting._data(data, scored()) == {
        "cases": ["b"], "name": "x", "not_scored": {"classes": ["spleen"], "cases": ["e"]},
    }  # fmt: skip


@pytest.mark.parametrize("patients", [4, 6])
def test_a_target_has_its_figures_files_and_patients(monkeypatch, tmp_path, patients):
    folder = tmp_path / "build"
    (folder / "inside").mkdir(parents=True)
    for name, content in (("b.onnx", b"12345"), ("inside/a.so", b"123"), ("empty", b""),
                          ("c.json", b"{}")):  # fmt: skip
        (folder / name).write_bytes(content)
    agreement = Agreement("a", 0.0, 0, 9, 0.5, True)
    build = Build("ort", folder, folder / "b.onnx", (agreement,), beside=(folder / "inside/a.so",))
    monkeypatch.setattr(reporting, "load_build", lambda run, name: build)
    cases = dict(list(PER_CASE.items())[:patients])
    write_json(tmp_path / "measure.json", {
        "scores": scored(dice=0.5, per_class={"liver": 0.5, "aorta": 0.25}, per_case=cases),
        "figures": {}, "provenance": "measured", "arithmetic": "integers", "summary": "s",
        "detail": {"n": 5},
    })  # fmt: skip
    data = SimpleNamespace(patient=lambda case: case[:2])
    found = reporting._target(tmp_path, "ort", tmp_path, scored(), data)
    assert found["dice_drop_points"] == Measurement("dice_drop_points", 25.0, "points", "measured")
    assert found["worst_class"]["class"] == "liver" and found["agreement"] == [agreement]
    digests = [hashlib.sha256(content).hexdigest() for content in (b"12345", b"123")]
    assert found["files"] == [
        {"name": "b.onnx", "bytes": 5, "ships": True, "sha256": digests[0]},
        {"name": "c.json", "bytes": 2, "ships": False},
        {"name": "inside/a.so", "bytes": 3, "ships": True, "sha256": digests[1]},
    ]
    assert (found["arithmetic"], found["summary"], found["detail"]) == ("integers", "s", {"n": 5})
    assert set(found["per_patient"]) == {f"p{i}" for i in range(patients)}
    if patients == 4:
        assert "drop_interval" not in found
    else:
        assert found["drop_interval"] == {"low": 0.0, "high": 0.0, "patients": 6, "level": 0.95}


@pytest.fixture
def keyed(tmp_path, monkeypatch):
    """The key of a report of some stages, and a function that makes a stage again."""
    monkeypatch.undo()

    def make(name, seed=0):
        Stage(tmp_path, name, {}, {}, seed).write(lambda folder: None)

    for name in ("qat", "control", "export", "measure/ort"):
        make(name)
    return make, lambda asked=(): report_key(tmp_path, [tmp_path / "measure" / "ort"], list(asked))


@pytest.mark.parametrize("name", ["qat", "control", "export", "measure/ort"])
def test_a_report_is_another_where_a_stage_or_what_was_asked_is_another(keyed, name):
    make, key = keyed
    before = key()
    assert key() == before != key(["strict"])
    make(name, seed=3)
    assert key() != before


@pytest.mark.parametrize("key", ["k", "j", "l", ""])
def test_a_report_that_is_recorded_is_whole_and_of_its_key(tmp_path, key):
    paths = (tmp_path / "report.json", tmp_path / "report.md")
    assert recorded_report(tmp_path, key) is None
    for path in paths:
        path.write_text("5")
    record_report(tmp_path, "k", paths)
    assert recorded_report(tmp_path, key) == (paths if key == "k" else None)
    for content in ("4", "6"):
        paths[1].write_text(content)
        assert recorded_report(tmp_path, key) is None
