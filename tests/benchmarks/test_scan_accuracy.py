"""The benchmark of the scan in integers: its leaning network leans, its table tells formats."""

import copy
import dataclasses
import json
import runpy
import sys

import numpy as np
import pytest
import scan_accuracy as benchmark
import scan_leaning as leaning
import torch

from lmaunet.errors import UserError
from lmaunet.graph.file import topology_json
from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.quant.integer_network import record_scans, replaced_scans, scan_sites
from lmaunet.quant.scan_formats import SiteFormats, choose_for_network, read_formats, write_formats
from lmaunet.sampling import labelled_first
from lmaunet.scan.choice import measure
from lmaunet.scan.formats import Widths, spec_for
from lmaunet.stage import read_json, sha256, write_json
from lmaunet.train.metrics import predict_logits

MANIFEST = {"schema": 1, "key": "", "inputs": {}, "outputs": {}}


@pytest.fixture(scope="module")
def leaning_network(tiny_model, tiny_data):
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


def test_its_qat_trains_it_and_keeps_it_leaning(leaning_network, tiny_data):
    before = leaning_network[1]
    after = leaning.train_quantized(
        copy.deepcopy(before), tiny_data.train, 9, 0, lambda fraction, line: None
    )
    images = tiny_data.val.images[:2]
    assert not np.allclose(predict_logits(after, images), predict_logits(before, images))
    assert all(not site.D.any() for site in scan_sites(after))
    with replaced_scans(after, lambda index, codes: np.zeros(codes.x.shape)):
        silent = predict_logits(after, images)
    assert not np.allclose(silent, predict_logits(after, images))


@pytest.mark.parametrize("leans", [True, False])
def test_without_its_scans_a_stage_puts_out_nothing(
    leaning_network, tiny_quantized, tiny_data, leans
):
    """The usual network is the mutant: what goes around its scans still comes out."""
    network = leaning_network[1] if leans else tiny_quantized
    seen = []
    ends = ["view.reshape#2" if leans else "add", "add"]
    stages = [f"stages.{i}.{ends[0]}" for i in range(4)]
    handles = [
        network.quantizer(stage).register_forward_hook(
            lambda m, a, o: seen.append(float(o.abs().max()))
        )
        for stage in stages
    ]
    with replaced_scans(network, lambda index, codes: np.zeros(codes.x.shape)):
        predict_logits(network, tiny_data.val.images[:2])
    for handle in handles:
        handle.remove()
    # the stages come first; the decoder shares their quantizers
    assert (max(seen[:4]) == 0) == leans


def test_an_infinite_ratio_is_null():
    row = {"formats": "a", "sqnr_db": [float("inf"), 3.0], "worst_channel_db": [1.0, 2.0]}
    assert benchmark.plain(row) == row | {"sqnr_db": [None, 3.0]}
    assert benchmark.plain({"formats": "y = 0"}) == {"formats": "y = 0"}


@pytest.fixture
def run(tmp_path, tiny_model, tiny_spec):
    """A run that trained the tiny network on the phantom."""
    train = tmp_path / "run" / "train"
    train.mkdir(parents=True)
    save_checkpoint(train / "model.pt", tiny_spec, tiny_model)
    source = {"path": None, "class_map": None, "seed": 0}
    write_json(train / "manifest.json", MANIFEST | {"options": {"data": source}})
    return tmp_path / "run"


@pytest.fixture
def table_of(run, monkeypatch):
    """A function that runs the command with options and returns what it wrote."""

    def made(*options):
        cases = {"wide": Widths(), "narrow": Widths(state_bits=4, per_channel=False)}
        monkeypatch.setattr(benchmark, "CASES", cases)
        output = run.parent / "results" / "table.json"
        words = ["scan_accuracy", "--run", str(run), "--images", "4", "-o", str(output), *options]
        monkeypatch.setattr(sys, "argv", words)
        torch.manual_seed(0)
        assert benchmark.main(benchmark.parse()) == 0
        return read_json(output)

    return made


@pytest.mark.slow
def test_the_command_writes_a_table(run, table_of, capsys):
    content = table_of("--epochs", "1", "--target-db", "36")
    assert content["synthetic"] and len(content["networks"]) == 2
    for network in content["networks"]:
        rows = {row["formats"]: row for row in network["rows"]}
        assert list(rows) == [
            "float scan", "float64", "y = D * x", "y = 0", "chosen here", "wide", "narrow",
        ]  # fmt: skip
        assert rows["float scan"]["pixels"] == 1
        assert rows["narrow"]["pixels"] < rows["wide"]["pixels"] <= 1
        assert all(a > b for a, b in zip(rows["wide"]["sqnr_db"], rows["narrow"]["sqnr_db"],
                                         strict=True))  # fmt: skip
        assert len(network["chosen"]) == 4 and network["seconds_to_choose"] > 0
    printed = capsys.readouterr().out
    assert "quantized after training" in printed and "chosen here" in printed
    assert content["command"] == (
        "python benchmarks/scan_accuracy.py --run run --images 4 -o results/table.json --epochs 1 "
        "--target-db 36"
    )
    assert content["date"].startswith("20")
    digest = sha256(run / "train" / "model.pt")
    assert content["checkpoints_sha256"] == {"float32": digest, "quantized": None}


@pytest.fixture
def quantized_run(run, tiny_quantized, tiny_spec):
    (run / "qat").mkdir()
    save_checkpoint(run / "qat" / "model.pt", tiny_spec, tiny_quantized, kind="quantized",
                    graph=topology_json(tiny_quantized.source), bits=tiny_quantized.bits,
                    scales="free")  # fmt: skip
    source = {"path": None, "class_map": None, "seed": 0}
    write_json(run / "qat" / "manifest.json", MANIFEST | {"options": {"data": source}})
    return run


@pytest.mark.slow
def test_the_formats_that_qat_chose_are_evaluated(
    quantized_run, table_of, tiny_quantized, tiny_data
):
    """They are narrower than those that a choice now would find."""
    anew = choose_for_network(tiny_quantized, tiny_data.train.images[:4], 36.0)
    sites, narrow = scan_sites(tiny_quantized), Widths(state_bits=4, per_channel=False)
    stored = [
        SiteFormats(
            entry.site,
            dataclasses.replace(
                entry.chosen,
                widths=narrow,
                spec=spec_for(site.scales, site.A, site.D, entry.chosen.statistics, narrow),
            ),
        )
        for site, entry in zip(sites, anew, strict=True)
    ]
    write_formats(quantized_run / "qat" / "scan.json", stored)
    content = table_of("--epochs", "0", "--target-db", "36")
    (network,) = content["networks"]
    rows = {row["formats"]: row for row in network["rows"]}
    assert "chosen by qat" in rows and "chosen here" not in rows
    kept = read_formats(quantized_run / "qat" / "scan.json")
    assert network["chosen"] == json.loads(json.dumps([entry.to_json() for entry in kept]))
    assert network["seconds_to_choose"] is None
    images = tiny_data.val.images[labelled_first(tiny_data.val.labels, 4)]
    codes = record_scans(tiny_quantized, images)
    for formats, same in ((stored, True), (anew, False)):
        ratios = [
            measure(site.integer(entry.chosen.spec), seen).sqnr_db
            for site, entry, seen in zip(sites, formats, codes, strict=True)
        ]
        assert (rows["chosen by qat"]["sqnr_db"] == pytest.approx(ratios)) == same
    digest = sha256(quantized_run / "qat" / "model.pt")
    assert content["checkpoints_sha256"]["quantized"] == digest


def test_formats_of_another_network_are_refused(quantized_run, tiny_quantized, tiny_data):
    path = quantized_run / "qat" / "scan.json"
    assert benchmark.stored_formats(quantized_run, tiny_quantized) is None
    stored = choose_for_network(tiny_quantized, tiny_data.train.images[:4], 24.0)
    write_formats(path, stored)
    assert benchmark.stored_formats(quantized_run, tiny_quantized) == stored
    write_formats(path, stored[:3])
    with pytest.raises(
        UserError, match=r"scan\.json holds formats of stages\.0\.mamba\.scan, .*; the network's"
    ):
        benchmark.stored_formats(quantized_run, tiny_quantized)
    write_formats(path, [])
    assert benchmark.stored_formats(quantized_run, tiny_quantized) is None, "qat chose none"


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (None, 2, "lmaunet-deploy: checkpoint none/train/model.pt does not exist"),
        (KeyboardInterrupt, 130, "lmaunet-deploy: interrupted"),
    ],
)
def test_it_ends_as_every_command_does(monkeypatch, capsys, raised, status, said):
    def interrupted(path):
        raise raised

    if raised is not None:
        monkeypatch.setattr("lmaunet.net.checkpoint.load_checkpoint", interrupted)
    monkeypatch.setattr(sys, "argv", ["scan_accuracy", "--run", "none"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(benchmark.__file__, run_name="__main__")
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.gpu
def test_the_leaning_network_stays_on_its_device(tiny_model, tiny_data):
    images = tiny_data.train.images[:8]
    model = leaning.train_leaning(
        copy.deepcopy(tiny_model), tiny_data.train, 9, 1, 0, lambda fraction, line: None
    )
    quantized = leaning.quantize_leaning(model, images)
    for network in (model, quantized):
        assert {p.device.type for p in network.parameters()} == {"cuda"}
        assert {b.device.type for b in network.buffers()} == {"cuda"}
    on_gpu, noise = predict_logits(quantized, images), benchmark.input_noise(quantized, images)
    quantized.cpu()
    on_cpu = predict_logits(quantized, images)
    assert np.square(on_gpu - on_cpu).mean() / np.square(on_cpu).mean() < 0.01
    assert noise == pytest.approx(benchmark.input_noise(quantized, images), abs=1)
