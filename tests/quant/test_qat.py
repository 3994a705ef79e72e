import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, restore
from lmaunet.stage import read_json
from lmaunet.train.loop import Schedule
from lmaunet.train.metrics import predict_logits
from lmaunet.train.processes import join_processes
from quant.qat import QatSettings, evaluate, load_quantized, quantize, train_control


@pytest.fixture(scope="module")
def result(tiny_model, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qat")
    common = {
        "seed": 0, "folder": folder, "processes": join_processes(),
        "progress": lambda fraction, line: None,
    }  # fmt: skip
    train_control(tiny_model, tiny_data, Schedule(1, 1e-3), **common)
    quantize(tiny_model, tiny_data, QatSettings(Schedule(1, 1e-3)), **common)
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


def test_a_float_checkpoint_is_not_quantized(result):
    with pytest.raises(UserError, match="is a float32 checkpoint; run qat on it first"):
        load_quantized(result / "float32.pt")
    with pytest.raises(UserError, match="is a quantized checkpoint; give the FP32 checkpoint"):
        restore(load_checkpoint(result / "model.pt"), result / "model.pt")
