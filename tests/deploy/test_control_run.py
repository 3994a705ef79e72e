"""`qat --max-drop` from a checkpoint to the report's gate, on drawn patients."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lmaunet.data.kept_patients import keep_patients
from lmaunet.deploy import controlled
from lmaunet.deploy.gate_limits import chosen_limits
from lmaunet.deploy.outcome import matching_control
from lmaunet.deploy.quantizing import QatOptions, qat
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.quant import accuracy_control
from lmaunet.spec import NetSpec
from lmaunet.stage import read_json, read_manifest

SPEC = NetSpec(
    "tiny", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32), classes=2
)


def write_patients(folder, side, count, first):
    """Discs in noise, four slices of each patient."""
    rng = np.random.default_rng(first)
    y, x = np.mgrid[:32, :32]
    labels = np.stack([
        np.hypot(y - cy, x - cx) < 7 for cy, cx in rng.uniform(12, 20, (count, 2)) for _ in range(4)
    ]).astype(np.uint8)  # fmt: skip
    images = (60 + 90 * labels + rng.normal(0, 20, labels.shape)).clip(0, 255).astype(np.uint8)
    patients = np.repeat(np.arange(first, first + count), 4).astype(np.int16)
    np.savez(
        folder / f"drawn_{side}.npz", image=images, label=labels, patient=patients,
        frame=np.ones_like(patients), slice=np.tile(np.arange(4), count).astype(np.int16),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    write_patients(folder, "train", 10, 1)
    write_patients(folder, "val", 5, 50)
    source = DataSource(folder / "drawn_train.npz")
    data = source.load(SPEC)
    torch.manual_seed(0)
    checkpoint = folder / "model.pt"
    save_checkpoint(
        checkpoint, SPEC, LMaUNet(SPEC), dice=0.0, classes=list(data.classes),
        normalization=dict(data.normalization),
    )  # fmt: skip
    return folder, checkpoint, source, data


def settle(**changes):
    return QatOptions(epochs=1, learning_rate=0.02, bits="2", **changes)


@pytest.mark.slow
def test_a_search_from_a_checkpoint_to_the_gate_of_its_report(made, monkeypatch):
    folder, checkpoint, source, data = made
    run = folder / "run"
    content, lines, status = qat(run, checkpoint, source, None, settle(max_drop=100.0))
    found = content["accuracy_control"]
    kept = keep_patients(data)
    assert status == 0 and found["patients"] == list(kept.patients)
    assert found["state"] == found["held_out"]["state"] == "passed" and "next" not in found
    assert any(
        line.startswith("accuracy control: drop of at most 100 points KEPT") for line in lines
    )
    assert matching_control(run) == run / "control"
    assert read_manifest(run / "control")["options"][controlled.KEPT] is True
    assert not list((run / "qat").glob("*.last.pt"))
    # what goes along with an export was seen by the training
    options = read_manifest(run / "qat")["options"]
    assert controlled.trained_on(data, options).train.cases.tolist() == (
        kept.rest.train.cases.tolist()
    )
    assert controlled.limits_of(run)[""]["dice_drop_points"].value == 100.0
    assert chosen_limits([], controlled.limits_of(run))[""]["dice_drop_points"].value == 100.0
    own = chosen_limits(["dice_drop_points=2"], controlled.limits_of(run))
    assert own[""]["dice_drop_points"].value == 2.0, "what is typed comes before the run's"
    (note,) = controlled.note_of(run)
    assert "kept (" in note and "NOT" not in note
    again = qat(run, checkpoint, source, None, settle(max_drop=100.0))
    assert again[0] == content and "was there already" in again[1][-1]
    # another limit keeps the control and is a search of its own
    monkeypatch.setattr(accuracy_control, "ROUNDS", 2)  # a network of noise may never keep 0
    before = (run / "control" / "manifest.json").stat().st_mtime_ns
    content, lines, status = qat(run, checkpoint, source, None, settle(max_drop=0.0))
    assert (run / "control" / "manifest.json").stat().st_mtime_ns == before
    record = read_json(run / "qat" / "accuracy_control.json")
    failed = "failed" in (record["state"], record["held_out"]["state"])
    assert status == failed and record["limit_points"] == 0.0
    assert all(entry["state"] == "failed" for entry in record["rounds"][:-1])
    # without a limit all patients train, and no control of another choice of patients is taken
    qat(run, checkpoint, source, None, settle())
    assert controlled.limits_of(run) == {} and controlled.note_of(run) == []
    assert controlled.KEPT not in read_manifest(run / "control")["options"]


@pytest.mark.slow
def test_what_a_search_cannot_have_is_refused_before_anything_is_trained(made, tmp_path):
    _, checkpoint, source, _ = made
    with pytest.raises(UserError, match="--bits: 'nothing' is no layer"):
        qat(tmp_path / "r", checkpoint, source, None, dataclasses.replace(
            settle(max_drop=1.0), bits="nothing=4"
        ))  # fmt: skip
    assert not (tmp_path / "r" / "control").exists() and not (tmp_path / "r" / "qat").exists()
    nine = SPEC.replace(classes=9)
    other = tmp_path / "nine.pt"
    save_checkpoint(other, nine, LMaUNet(nine), dice=0.0)
    with pytest.raises(UserError, match=r"1 patient\(s\) with labels train in phantom"):
        qat(tmp_path / "p", other, DataSource(None), None, settle(max_drop=1.0))
    assert not (tmp_path / "p" / "control").exists()


def test_a_control_of_other_patients_is_not_compared_with(monkeypatch):
    from lmaunet.deploy import outcome

    common = {"inputs": {"checkpoint": {"sha256": "c"}}, "seed": 0}
    settings = {"schedule": {}, "max_drop": 0.3}
    qat_stage = {**common, "options": {"data_sha256": "d", "settings": settings}}
    control = {**common, "options": {"data_sha256": "d", "schedule": {}}}
    monkeypatch.setattr(
        outcome, "read_stage", lambda path: qat_stage if path.name == "qat" else control
    )
    with pytest.raises(UserError, match="another choice of patients"):
        matching_control(Path("r"))
    control["options"][controlled.KEPT] = True
    assert matching_control(Path("r")).name == "control"
