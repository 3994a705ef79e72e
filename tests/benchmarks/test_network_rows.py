"""Rows on networks of nnU-Net's kind, from accuracy and times; and the whole way, on a phantom."""

import json

import network_times
import network_zoo
import networks
import numpy as np
import pytest

from lmaunet.data.loaders import load_phantom
from lmaunet.errors import UserError

CASES = {f"patient{i}_frame1": {"lv": 0.9 - 0.01 * i, "rv": 0.8} for i in range(5)}


def scores(change=0.0):
    per_case = {c: {k: v - change * (k == "lv") for k, v in o.items()} for c, o in CASES.items()}
    per_class = {"lv": 0.88 - change, "rv": 0.8}
    return {"dice": 0.84 - change / 2, "per_case": per_case, "per_class": per_class}


def accuracy():
    quantized = {"weight_bits": {"8": 100}}
    return {
        "network": "plain", "params": 100, "macs": 5_000_000, "seed": 0,
        "networks": {
            "float32": {"scores": scores(-0.01)}, "control": {"scores": scores()},
            "w8-ptq": {"scores": scores(0.02), **quantized},
            "w8": {"scores": scores(0.004), **quantized},
        },
    }  # fmt: skip


def timed(threads, ratio):
    row = {"ratio": 0.9, "processor_ratio": ratio, "size_mb": 1.5, "model_mb": 1.2,
           "agreement": {"passed": True}, "scores": scores(0.006)}  # fmt: skip
    return {"rows": {"ort w8": row}, "conditions": {"threads": threads, "load_average": 3.0}}


def test_a_row_says_what_was_lost_and_what_was_won():
    rows = networks.rows_of(accuracy(), {"runs": [timed(1, 0.5), timed(1, 0.4), timed(2, 0.3)]})
    assert [(r["precision"], r["target"]) for r in rows] == [
        ("w8 calibrated", "torch"), ("w8 trained", "ort"), ("w8 trained", "openvino"),
    ]  # fmt: skip
    calibrated, ort, openvino = rows
    assert calibrated["drop_points"] == pytest.approx(1.0)
    assert calibrated["drop_by_class"] == pytest.approx({"lv": 2.0, "rv": 0.0})
    assert ort["interval"] == pytest.approx((0.3, 0.3))
    assert (ort["dice"], ort["dice_in_torch"]) == pytest.approx((83.7, 83.8))
    assert openvino["dice"] == pytest.approx(83.8)
    assert (ort["patients"], ort["gmac"], ort["dice_fp32"]) == (5, 0.005, pytest.approx(84))
    assert ort["dice_fp32_as_trained"] == pytest.approx(84.5)
    assert ort["latency_ratio"] == 0.4  # one thread, the last
    assert ort["latency_ratios"][2] == {"threads": 2, "load": 3.0, "clock": 0.9, "processor": 0.3}
    assert ort["size_mb"] == 1.5 and ort["agreement"]["passed"]
    ort["agreement"]["equal_codes"] = 0.999
    shown = networks.markdown(rows)
    assert shown[3] == (
        "| plain | w8 trained | ort | 84.00 | 83.70 | +0.30 | +0.30 to +0.30 | 1.200 | 0.40 "
        "| 99.9000% |"
    )
    assert shown[4].endswith("| openvino | 84.00 | 83.80 | +0.20 | +0.20 to +0.20 |  |  |  |")
    # what was not measured is no number
    assert openvino["latency_ratio"] is None and openvino["size_mb"] is None


def test_each_file_runs_once_a_round(monkeypatch):
    clock, processor = iter(range(1000)), iter(range(0, 1000, 2))
    monkeypatch.setattr(network_times.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(network_times.time, "process_time", lambda: next(processor))
    seen = []
    works = {name: lambda name=name: seen.append(name) for name in "ab"}
    times = network_times.time_rounds(works, 4)
    assert times == {name: ([1000.0] * 4, [2000.0] * 4) for name in "ab"}
    assert seen == ["a", "b"] * (4 + network_times.WARM_UP_ROUNDS)


def test_what_is_not_there_is_named(tmp_path):
    where = ["--runs", str(tmp_path)]
    given = networks.parse(["measure", "--network", "plain", "--data", "x", *where])
    with pytest.raises(UserError, match=r"plain/train/model\.pt does not exist; run"):
        given.run(given)
    given = networks.parse(["table", *where, "-o", str(tmp_path / "t.json")])
    with pytest.raises(UserError, match="quantize a network first"):
        given.run(given)
    with pytest.raises(UserError, match="unknown method 'w9'"):
        networks.methods_asked("w8,w9")


@pytest.mark.slow
def test_the_whole_way_on_a_phantom(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    data = load_phantom(size=(32, 32))
    for name, part in (("train", data.train), ("val", data.val)):
        image = np.clip(128 + 40 * part.images[:, 0], 0, 255).astype(np.uint8)
        index = np.arange(len(image))
        patient = index // 4 + 1000 * (name == "val")
        np.savez(
            tmp_path / f"phantom_{name}.npz", image=image, label=part.labels.astype(np.uint8),
            patient=patient, frame=0 * index, slice=index,
        )  # fmt: skip
    tiny = lambda channels, classes: network_zoo.MambaUNet(  # noqa: E731
        channels, classes, widths=(8, 8, 12), states=4, windows=2
    )
    monkeypatch.setitem(network_zoo.NETWORKS, "mamba", tiny)
    where = ["--runs", str(tmp_path / "runs")]
    given = ["--network", "mamba", "--data", str(tmp_path / "phantom_train.npz"), *where]
    monkeypatch.setattr("sys.argv", ["networks.py"])
    for words in (
        ["train", *given, "--input-size", "32", "--epochs", "12", "--rate", "1e-2"],
        ["quantize", *given, "--extra-epochs", "1", "--extra-rate", "1e-3"],
        ["measure", *given, "--rounds", "2"],
        ["table", *where, "-o", str(tmp_path / "networks.json")],
    ):
        asked = networks.parse(words)
        assert asked.run(asked) == 0
    rows = json.loads((tmp_path / "networks.json").read_text())["rows"]
    assert len(rows) == 3
    for row in rows[1:]:
        assert row["agreement"]["passed"] and row["agreement"]["equal_codes"] > 0.99
        assert row["latency_ratios"][0]["processor"] > 0 and row["size_mb"] > 0.05
