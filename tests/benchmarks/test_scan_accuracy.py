"""The benchmark of the scan in integers: its leaning network leans, its table tells formats."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.scan.formats import Widths
from lmaunet.stage import write_json
from lmaunet.train.metrics import predict_logits
from quant.integer_network import replaced_scans, scan_sites

ROOT = Path(__file__).parents[2]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


leaning, benchmark = script("scan_leaning"), script("scan_accuracy")


@pytest.fixture(scope="module")
def leaning_network(tiny_model, tiny_data):
    import copy

    model = leaning.train_leaning(
        copy.deepcopy(tiny_model), tiny_data.train, 9, 1, 0, lambda fraction, line: None
    )
    return model, leaning.quantize_leaning(model, tiny_data.train.images[:8])


def test_int8_leans_as_float_does(leaning_network, tiny_data):
    model, quantized = leaning_network
    images = tiny_data.val.images[:4]
    want, got = predict_logits(model, images), predict_logits(quantized, images)
    assert np.square(got - want).mean() / np.square(want).mean() < 0.03
    assert all(not stage.mamba.D.any() for stage in model.stages)


@pytest.mark.parametrize("leans", [True, False])
def test_without_its_scans_a_stage_puts_out_nothing(
    leaning_network, tiny_quantized, tiny_data, leans
):
    """The usual network is the mutant: what goes around its scans still comes out."""
    network = leaning_network[1] if leans else tiny_quantized
    seen = []
    handles = [
        stage.quant_out.register_forward_hook(lambda m, a, o: seen.append(float(o.abs().max())))
        for stage in network.stages
    ]
    with replaced_scans(scan_sites(network), lambda index, codes: np.zeros(codes.x.shape)):
        predict_logits(network, tiny_data.val.images[:2])
    for handle in handles:
        handle.remove()
    # the stages come first; the decoder shares their quantizers
    assert (max(seen[:4]) == 0) == leans


def test_an_infinite_ratio_is_null():
    row = {"formats": "a", "sqnr_db": [float("inf"), 3.0], "worst_channel_db": [1.0, 2.0]}
    assert benchmark.plain(row) == row | {"sqnr_db": [None, 3.0]}
    assert benchmark.plain({"formats": "y = 0"}) == {"formats": "y = 0"}


def test_the_command_writes_a_table(
    tmp_path, monkeypatch, capsys, tiny_model, tiny_spec, tiny_data
):
    train = tmp_path / "run" / "train"
    train.mkdir(parents=True)
    save_checkpoint(train / "model.pt", tiny_spec, tiny_model)
    source = {"path": None, "class_map": None, "seed": 0}
    write_json(train / "manifest.json", {"schema": 1, "options": {"data": source}})
    cases = {"wide": Widths(), "narrow": Widths(state_bits=4, per_channel=False)}
    monkeypatch.setattr(benchmark, "CASES", cases)
    monkeypatch.setattr(
        sys, "argv", ["scan_accuracy", "--run", str(tmp_path / "run"), "--images", "4", "--epochs",
                      "1", "--target-db", "36", "-o", str(tmp_path / "table.json")]
    )  # fmt: skip
    torch.manual_seed(0)
    benchmark.main()
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["synthetic"] and len(content["networks"]) == 2
    for network in content["networks"]:
        rows = {row["formats"]: row for row in network["rows"]}
        assert list(rows) == [
            "float scan", "float64", "y = D * x", "y = 0", "chosen", "wide", "narrow",
        ]  # fmt: skip
        assert rows["float scan"]["pixels"] == 1
        assert rows["narrow"]["pixels"] < rows["wide"]["pixels"] <= 1
        assert all(a > b for a, b in zip(rows["wide"]["sqnr_db"], rows["narrow"]["sqnr_db"],
                                         strict=True))  # fmt: skip
        assert len(network["chosen"]) == 4
    printed = capsys.readouterr().out
    assert "quantized after training" in printed and "chosen" in printed
