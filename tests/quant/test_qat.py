import dataclasses

import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.graph.file import topology_digest
from lmaunet.graph.layers import layers
from lmaunet.net.checkpoint import load_checkpoint, restore
from lmaunet.quant.calibration import choose_slices
from lmaunet.quant.network import graph_of
from lmaunet.quant.qat import QatSettings, evaluate, load_quantized, quantize, train_control
from lmaunet.stage import read_json
from lmaunet.train.loop import Schedule
from lmaunet.train.metrics import predict_logits
from lmaunet.train.processes import join_processes
from lmaunet.train.schedule import part


@pytest.fixture(scope="module")
def result(tiny_model, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qat")
    common = {
        "seed": 0, "folder": folder, "processes": join_processes(),
        "progress": lambda fraction, line: None,
    }  # fmt: skip
    given = (tiny_model, tiny_model.spec, tiny_data)
    train_control(*given, Schedule(1, 1e-3), **common)
    quantize(*given, QatSettings(Schedule(1, 1e-3)), **common)
    return folder


def test_the_scores_are_those_of_the_saved_networks(result, tiny_data):
    scores = {
        **read_json(result / "control.json")["scores"], **read_json(result / "qat.json")["scores"]
    }  # fmt: skip
    assert set(scores) == {"float32", "ptq", "qat", "control"}
    quantized = load_quantized(result / "model.pt")
    assert evaluate(quantized, tiny_data).dice == pytest.approx(scores["qat"]["dice"])
    for name in ("float32", "control"):
        path = result / f"{name}.pt"
        found = evaluate(restore(load_checkpoint(path), path), tiny_data)
        assert found.dice == pytest.approx(scores[name]["dice"])


def test_float32_is_untouched_and_the_control_trained(result, tiny_model):
    path = result / "float32.pt"
    before = restore(load_checkpoint(path), path)
    assert torch.equal(before.head.weight, tiny_model.head.weight)
    path = result / "control.pt"
    control = restore(load_checkpoint(path), path)
    assert not torch.equal(control.head.weight, tiny_model.head.weight)
    assert not list(result.glob("*.last.pt"))


def test_a_loaded_network_computes_the_same_again(result, tiny_data):
    images = tiny_data.val.images[:2]
    first, second = (predict_logits(load_quantized(result / "model.pt"), images) for _ in range(2))
    assert (first == second).all()


@pytest.fixture
def killed_in_the_second_epoch():
    class Killed(Exception):
        pass

    def progress(fraction, line):
        if "QAT: epoch 2/2" in line:
            raise Killed

    return Killed, progress


@pytest.mark.slow
def test_an_interrupted_qat_goes_on_with_its_budget(
    tiny_model, tiny_data, tmp_path, killed_in_the_second_epoch
):
    """Bits, epoch and result are those of a run that nobody stopped."""
    killed, stop = killed_in_the_second_epoch
    data = dataclasses.replace(tiny_data, train=tiny_data.train.take(slice(None, None, 4)))
    settings = QatSettings(Schedule(2, 1e-3), budget_bytes=30_000, distillation=0.5)
    measured = []

    def size_of(network):
        measured.append(network.bits)
        return 20_000 + sum(network.bits.values())

    def run(folder, progress):
        folder.mkdir(exist_ok=True)
        quantize(
            tiny_model, tiny_model.spec, data, settings, seed=0, folder=folder,
            processes=join_processes(), progress=progress, file_bytes=size_of,
        )  # fmt: skip

    with pytest.raises(killed):
        run(tmp_path / "stopped", stop)
    assert (tmp_path / "stopped" / "QAT.last.pt").exists()
    assert not (tmp_path / "stopped" / "model.pt").exists()
    before = len(measured)
    run(tmp_path / "stopped", lambda fraction, line: None)
    assert len(measured) == before, "the allocation is not made a second time"
    run(tmp_path / "whole", lambda fraction, line: None)
    networks = [load_quantized(tmp_path / name / "model.pt") for name in ("stopped", "whole")]
    assert networks[0].bits == networks[1].bits
    for key, value in networks[1].state_dict().items():
        assert torch.equal(value, networks[0].state_dict()[key]), key
    stopped, whole = (read_json(tmp_path / name / "qat.json") for name in ("stopped", "whole"))
    assert stopped["scores"] == whole["scores"] and len(stopped["history"]) == 2


def test_a_part_of_the_progress_covers_its_share():
    seen = []
    told = part(lambda fraction, line: seen.append((fraction, line)), 0.25, 0.5)
    for fraction in (0.0, 0.5, 1.0):
        told(fraction, f"{fraction}")
    assert seen == [(0.25, "0.0"), (0.5, "0.5"), (0.75, "1.0")]


def test_progress_only_rises_and_all_results_are_written(tiny_model, tiny_data, tmp_path):
    seen = []
    data = dataclasses.replace(tiny_data, train=tiny_data.train.take(slice(None, None, 8)))
    settings = QatSettings(Schedule(1, 1e-3), budget_bytes=30_000, explain=True)
    quantize(
        tiny_model, tiny_model.spec, data, settings, seed=0, folder=tmp_path,
        processes=join_processes(), progress=lambda fraction, line: seen.append((fraction, line)),
        file_bytes=lambda network: 20_000 + sum(network.bits.values()),
    )  # fmt: skip
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and 0 <= fractions[0] < 0.1 and 0.9 < fractions[-1] < 1
    at = {line.split(" ")[0]: fraction for fraction, line in reversed(seen)}
    # the first of each: measuring for the budget, then calibrating, scoring, training, scoring ...
    assert at["calibrating"] == 0.2 and at["scoring"] == 0.22
    assert at["choosing"] < 0.2 and 0.25 <= at["QAT:"] <= 0.9
    assert at["what"] == pytest.approx(0.92)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {
        "allocation.json", "explain.json", "joins.json", "model.pt", "qat.json", "scan.json",
    }  # fmt: skip
    content = read_json(tmp_path / "qat.json")
    assert content["calibration_slices"] == choose_slices(data).tolist()
    graph, _ = graph_of(tiny_model, data.train.images.shape)
    found = layers(graph)
    assert sum(content["weight_bits"].values()) == sum(layer.weights for layer in found)
    assert content["network"] == {
        "params": sum(parameter.numel() for parameter in tiny_model.parameters()),
        "macs": sum(layer.macs for layer in found), "graph": topology_digest(graph),
    }  # fmt: skip
    rows = read_json(tmp_path / "explain.json")
    quantizers = [(row["quantizer"], row["kind"]) for row in rows]
    assert quantizers[-1] == ("all", "all") and len(set(quantizers)) == len(quantizers) > 50


def test_a_float_checkpoint_is_not_quantized(result):
    with pytest.raises(UserError, match="is a float32 checkpoint; run qat on it first"):
        load_quantized(result / "float32.pt")
    with pytest.raises(UserError, match="is a quantized checkpoint; give the FP32 checkpoint"):
        restore(load_checkpoint(result / "model.pt"), result / "model.pt")
