"""The benchmark of accuracy: what it refuses before it trains, and what one seed gives."""

import argparse
import os
from pathlib import Path

import accuracy
import pytest

import lmaunet.cpu.cpu_file
import lmaunet.quant.qat
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.stage import read_json

SILENT = lambda fraction, line: None  # noqa: E731


@pytest.mark.parametrize(
    ("method", "bits", "budget", "scales"),
    [
        ("w8", "8", None, "free"),
        ("3x3w4-pow2", "3x3=4", None, "pow2"),
        ("4.2mb", None, 4.2, "free"),
        ("12mb-pow2", None, 12.0, "pow2"),
        ("w3-folded-distill", "3", None, "free"),
        ("w4-pow2-ptq", "4", None, "pow2"),
    ],
)
def test_a_methods_name_says_what_it_does(method, bits, budget, scales):
    options = accuracy.options_of(method, 2, 1e-4, 8, 0)
    assert (options.bits, options.budget_mb, options.scales) == (bits, budget, scales)
    assert options.keep_norms == ("folded" not in method)
    assert bool(options.distillation) == ("distill" in method)
    options.settings()


@pytest.mark.parametrize(
    "method",
    ["w5", "w8-fast", "", "mb", ".mb", "1.2.3mb", "4.mb", "w8pow2", "w8-pow2-pow2", "w8-ptq-pow2"],
)
def test_an_unknown_method_is_refused(method):
    with pytest.raises(UserError, match="unknown method"):
        accuracy.options_of(method, 2, 1e-4, 8, 0)


def test_methods_are_a_list_of_different_rows():
    text = "w8,4.2mb,w4-ptq,w8-pow2"
    assert accuracy.methods_of(text) == text.split(",")
    for twice in ("w8,w8", "w8,w8-ptq", "w8-ptq,w8", "w8-pow2-folded,w8-folded-pow2", "4mb,4.0mb"):
        with pytest.raises(UserError, match="give the same row"):
            accuracy.methods_of(twice)
    with pytest.raises(UserError, match=r"4\.2mb-ptq: a budget chooses bits for QAT"):
        accuracy.methods_of("w8,4.2mb-ptq")
    with pytest.raises(UserError, match="give a positive size"):
        accuracy.methods_of("w8,0.0mb")


def test_seeds_are_a_list_of_different_numbers():
    assert accuracy.seeds_of("0,2,1") == [0, 2, 1]
    for text in ("", "0,", "a", "0,-1", "1.5"):
        with pytest.raises(UserError, match="give numbers divided by commas"):
            accuracy.seeds_of(text)
    with pytest.raises(UserError, match="names a seed twice"):
        accuracy.seeds_of("0,1,00")


def arguments(tmp_path, **changes):
    given = {
        "data": tmp_path / "x_train.npz", "class_map": None, "input_size": None, "spec": "demo",
        "seeds": "0", "methods": "w8", "ckpt": None, "epochs": 1, "rate": 1e-3, "extra_epochs": 1,
        "extra_rate": 1e-3, "batch": 8, "runs": tmp_path / "runs", "name": None,
        "output": tmp_path / "results",
    }  # fmt: skip
    return argparse.Namespace(**given | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"methods": "w8,1.2.3mb"}, "unknown method '1.2.3mb'"),
        ({"methods": "w8,4mb-ptq"}, "leave out -ptq"),
        ({"seeds": "0,0"}, "names a seed twice"),
        ({"extra_epochs": 0}, "epochs=0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_trains(
    tmp_path, monkeypatch, changes, text
):
    def train(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(accuracy.pipeline, "train", train)
    monkeypatch.setattr(accuracy, "count_classes", lambda source, spec: 9)
    with pytest.raises(UserError, match=text):
        accuracy.main(arguments(tmp_path, **changes))
    with pytest.raises(AssertionError, match="trained"):
        accuracy.main(arguments(tmp_path))


def test_a_checkpoint_of_another_network_is_refused(tmp_path, monkeypatch, tiny_model, tiny_spec):
    save_checkpoint(tmp_path / "model.pt", tiny_spec, tiny_model)
    monkeypatch.setattr(accuracy, "count_classes", lambda source, spec: 9)
    with pytest.raises(UserError, match=r"of spec 'tiny', which differs .* in widths .*") as error:
        accuracy.main(arguments(tmp_path, ckpt=tmp_path / "model.pt", input_size=64))
    said = str(error.value)
    assert "states (2, given 8 by spec demo)" in said
    assert "classes" not in said and "skip" not in said, "only what differs"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_model, tiny_spec):
    path = tmp_path_factory.mktemp("float") / "model.pt"
    save_checkpoint(path, tiny_spec, tiny_model)
    return path


@pytest.fixture(scope="module")
def seed(tmp_path_factory, checkpoint, tiny_spec):
    """One seed's result, and the folder that its parts are kept in."""
    run = tmp_path_factory.mktemp("runs") / "tiny-s3"
    given = arguments(run, ckpt=checkpoint, methods="w8,w2-ptq")
    result = accuracy.measure_seed(run, tiny_spec, DataSource(None), 3, given, SILENT)
    return result, run


@pytest.mark.slow
def test_a_seed_scores_every_network_on_the_same_cases(seed, tiny_data):
    result, run = seed
    assert list(result["networks"]) == ["float32", "control", "w8-ptq", "w8", "w2-ptq"]
    assert result["seed"] == 3 and result["float_seed"] == "given"
    assert result["schedule"]["float"] is None and result["schedule"]["extra"]["epochs"] == 1
    for network in result["networks"].values():
        assert set(network["scores"]["per_case"]) == set(map(str, tiny_data.val.cases))
    rows = result["networks"]
    assert rows["w8"]["scores"] == read_json(run / "w8" / "qat" / "qat.json")["scores"]["qat"]
    assert rows["w2-ptq"]["size_bytes"] < rows["w8"]["size_bytes"]
    assert set(rows["w8"]["weight_bits"]) == {"8"}
    assert set(rows["w2-ptq"]["weight_bits"]) == {"2", "8"}
    dice = {name: row["scores"]["dice"] for name, row in rows.items()}
    assert abs(dice["w8-ptq"] - dice["float32"]) < abs(dice["w2-ptq"] - dice["float32"])


@pytest.mark.slow
def test_calibration_alone_is_what_qat_starts_from(seed, checkpoint, tiny_spec, monkeypatch):

    def calibrated():
        source = DataSource(None)
        return accuracy._calibrated("w8-ptq", checkpoint, source, tiny_spec, SILENT)

    found = seed[0]["networks"]["w8-ptq"]
    alone = calibrated()
    assert alone["scores"] == found["scores"] and alone["weight_bits"] == found["weight_bits"]
    monkeypatch.setattr(
        lmaunet.quant.qat, "calibration_images", lambda data: 0.2 * data.train.images[:4]
    )
    assert calibrated()["scores"] != found["scores"], "other images calibrate to other scores"


def test_a_files_size_is_kept_for_the_network_that_it_is_of(tmp_path, monkeypatch, tiny_spec):

    folder = tmp_path / "qat"
    folder.mkdir()
    monkeypatch.setattr(lmaunet.quant.qat, "load_quantized", lambda path: path)
    monkeypatch.setattr(
        lmaunet.cpu.cpu_file, "file_bytes", lambda path, image: int(Path(path).read_text())
    )
    model = folder / "model.pt"
    model.write_text("100")
    assert accuracy._file_bytes(folder, tiny_spec) == 100
    monkeypatch.setattr(lmaunet.cpu.cpu_file, "file_bytes", lambda *_: 1 / 0)
    assert accuracy._file_bytes(folder, tiny_spec) == 100
    monkeypatch.undo()
    monkeypatch.setattr(lmaunet.quant.qat, "load_quantized", lambda path: path)
    monkeypatch.setattr(lmaunet.cpu.cpu_file, "file_bytes", lambda *_: 200)
    model.write_text("200")
    os.utime(model, (1, 1))  # another network, and a file that looks older than what was noted
    assert accuracy._file_bytes(folder, tiny_spec) == 200


def test_a_command_is_shown_without_this_machines_folders():
    words = ["/a/benchmarks/x.py", "--data", "../some/where/acdc_train.npz",
             "--data=/some/where/acdc_val.npz", "--runs", "/home/me/runs/accuracy", "--ckpt",
             "/home/me/model.pt", "-o", "/home/me/results/x.json", "--methods=w8,4.2mb",
             "--run", "runs/acdc", "--class-map=/etc/map.json"]  # fmt: skip
    assert accuracy.neutral("benchmarks/x.py", words) == (
        "python benchmarks/x.py --data DATA/acdc_train.npz --data=DATA/acdc_val.npz --runs "
        "runs/accuracy --ckpt model.pt -o results/x.json --methods=w8,4.2mb --run runs/acdc "
        "--class-map=map.json"
    )
