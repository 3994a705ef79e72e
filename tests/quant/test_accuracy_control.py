"""The search for bits that keep a limit, on networks whose losses are known."""

import dataclasses
import types

import numpy as np
import pytest
import torch

from lmaunet.data import kept_patients
from lmaunet.data.dataset import Dataset, SliceSet
from lmaunet.data.kept_patients import keep_patients
from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.quant import accuracy_control, budget
from lmaunet.quant.accuracy_control import ROUNDS, Control, Measure
from lmaunet.quant.allocation import smallest_bits, weight_bytes
from lmaunet.quant.bit_choice import Trial
from lmaunet.quant.calibration import calibrate, choose_slices
from lmaunet.quant.network import QuantNetwork, graph_of
from lmaunet.quant.settings import WEIGHT_BITS, QatSettings
from lmaunet.quant.widths import at_bits
from lmaunet.spec import NetSpec
from lmaunet.stage import read_json
from lmaunet.train.metrics import predict_logits
from lmaunet.train.processes import join_processes
from lmaunet.train.schedule import Schedule

SILENT = lambda fraction, line: None  # noqa: E731
PATIENTS = 10


def patients_data(count=PATIENTS, validating=3, slices=4):
    """Slices whose pixels are the number of their patient; all show both classes."""
    rows = range(count + validating)
    images = np.repeat(np.arange(len(rows), dtype=np.float32), slices)
    images = np.tile(images[:, None, None, None], (1, 1, 16, 16))
    labels = np.zeros((len(images), 16, 16), np.uint8)
    labels[:, 4:8], labels[:, 8:12] = 1, 2
    cases = np.array([f"patient{p:03}_frame01" for p in rows for _ in range(slices)])
    whole = SliceSet(images, labels, cases, np.tile(np.arange(slices), len(rows)))
    split = count * slices
    return Dataset(
        "drawn, synthetic", "drawn, synthetic", ("background", "one", "two"),
        (np.nan, np.nan, np.nan), whole.take(np.arange(split)),
        whole.take(np.arange(split, len(images))), "by patient", True, {},
        patients={case: case[:10] for case in cases},
    )  # fmt: skip


class Recording(torch.nn.Module):
    """A network that gives the labels of the data above, and notes whose images it sees."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), set()

    def forward(self, images):
        self.seen |= {int(value) for value in images[:, 0, 0, 0]}
        logits = torch.zeros(len(images), 3, 16, 16)
        logits[:, 0], logits[:, 1, 4:8], logits[:, 2, 8:12] = 0.5, 1.0, 1.0
        return logits


def check_patients(control=accuracy_control, kept=kept_patients):
    """What steers the search are patients that neither train, calibrate nor validate."""
    data = patients_data()
    found = kept.keep_patients(data)
    model = Recording()
    measure = control.Measure(Control(model, found))
    measure.divergence(model)
    measure.scored(model)
    steering = {f"patient{number:03}" for number in model.seen}
    assert steering == set(found.patients) and len(steering) == PATIENTS // 5
    calibrating = found.rest.train.cases[choose_slices(found.rest)]
    assert not steering & {case[:10] for case in calibrating}
    assert not steering & set(found.rest.patients_of("train"))
    assert not steering & set(data.patients_of("val"))


def test_the_search_sees_patients_that_nothing_else_sees(mutant_of):
    check_patients()
    held_out = mutant_of(accuracy_control, "= control.kept.control", "= control.kept.rest")
    with pytest.raises(AssertionError):
        check_patients(control=held_out)
    mutant = mutant_of(
        kept_patients, "val=side.take(np.flatnonzero(kept))", "val=side.take(np.flatnonzero(~kept))"
    )
    with pytest.raises((AssertionError, ValueError)):
        check_patients(kept=mutant)
    trained = mutant_of(kept_patients, "data, train=train)", "data, train=side)")
    with pytest.raises(AssertionError):
        check_patients(kept=trained)


def test_the_same_patients_are_kept_whatever_trains():
    first, again = keep_patients(patients_data()), keep_patients(patients_data())
    assert first.patients == again.patients and first.others == PATIENTS - len(first.patients)
    assert len(first.rest.train) + len(first.control.val) == len(patients_data().train)
    assert first.rest.val is not first.control.val


def test_a_class_that_one_patient_shows_is_left_to_the_training():
    data = patients_data()
    labels = data.train.labels.copy()
    kept = keep_patients(data).patients
    labels[labels == 2] = 0
    only = np.array([case[:10] == kept[0] for case in data.train.cases])
    labels[only] = data.train.labels[only]
    other = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=labels))
    found = keep_patients(other)
    assert found.patients, "and someone is kept all the same"


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_patients_are_refused(count):
    data = patients_data()
    labels = data.train.labels.copy()
    labels[count * 4 :] = 0
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=labels))
    with pytest.raises(UserError, match=rf"{count} patient\(s\) with labels train in drawn"):
        keep_patients(data)


@pytest.fixture(scope="module")
def network(tiny_model, tiny_data):
    graph, weights = graph_of(tiny_model, tiny_data.train.images.shape)
    made = QuantNetwork(graph, weights, dict.fromkeys(["stages.0.proj"], 4), keep_norms=False)
    calibrate(made, tiny_data.train.images[:8])
    return made.eval()


def test_other_bits_are_those_of_a_network_made_with_them(network, tiny_model, tiny_data):
    """Widened and narrowed for the block alone: the weights rounded anew, activations as before."""
    images = tiny_data.val.images[:2]
    before = predict_logits(network, images)
    parts = network.modules_of()
    assert set(parts) == set(network.bits)
    changes = {"stages.0.proj": 8, "decoder.0.up": 2}
    with at_bits(network, changes):
        inside = predict_logits(network, images)
        widths = {name: {network.layers[k].bits for k in parts[name]} for name in changes}
        assert widths == {"stages.0.proj": {8}, "decoder.0.up": {2}}
    assert (predict_logits(network, images) == before).all() and (inside != before).any()
    graph, weights = graph_of(tiny_model, images.shape)
    other = QuantNetwork(graph, weights, changes, keep_norms=False)
    calibrate(other, tiny_data.train.images[:8])
    for key, layer in other.layers.items():  # weights of its own, activations of the first
        network_layer = network.layers[key].at_bits(layer.bits)
        assert torch.equal(network_layer.conv.quant_weight().value, layer.conv.quant_weight().value)


def test_a_layer_whose_norm_is_not_folded_is_not_widened(tiny_model, tiny_data):
    graph, weights = graph_of(tiny_model, tiny_data.train.images.shape)
    kept = QuantNetwork(graph, weights, keep_norms=True)
    with pytest.raises(ValueError, match="not folded"), at_bits(kept, {"shallow.1.conv": 4}):
        pass


class Training:
    """Stands for a training: a network is its bits, and a file says that it was trained."""

    def __init__(self, graph, folder, stop=""):
        self.graph, self.folder, self.stop = graph, folder, stop
        self.processes, self.fitted = join_processes(), []
        self.data = self.images = self.weights = None
        self.settings, self.separate = QatSettings(Schedule(1, 1e-3)), ()

    def calibrated(self, bits):
        return types.SimpleNamespace(bits=dict(bits))

    def fit(self, network, name, progress):
        if name == self.stop:
            raise KeyboardInterrupt
        self.fitted.append(name)
        (self.folder / f"{name}.last.pt").write_text("trained")


def losses(bits):
    """Points that bits lose: a point for each layer of 2, a half of 3, a quarter of 4 bits."""
    return sum({2: 1.0, 3: 0.5, 4: 0.25, 8: 0.0}[width] for width in bits.values())


@pytest.fixture
def search(monkeypatch, tmp_path, tiny_model, tiny_data):
    """A function that searches from 2 bits everywhere; a trained network loses ``drop(bits)``."""
    graph, _ = graph_of(tiny_model, tiny_data.train.images.shape)
    data = patients_data()

    def run(limit, drop=losses, *, module=accuracy_control, stop="", refit=None, name="search"):
        class Known:
            def __init__(self, control, device):
                self.scores = types.SimpleNamespace(dice=0.9, per_case={})
                self.data = control.kept.control

            def scored(self, model):
                return drop(model.bits), {}

            def trial(self, model):
                own = lambda changes: drop({**model.bits, **changes})  # noqa: E731
                return Trial(model.bits, own, lambda changes: own(changes) / 100)

        monkeypatch.setattr(module, "Measure", Known)
        left = {"float_weights_points": 1.0, "float_activations_points": 0.5, "activations": []}
        monkeypatch.setattr(module, "left_over", lambda measure, model: left)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        training = Training(graph, folder, stop)
        control = Control(torch.nn.Identity(), keep_patients(data), refit, 9 if refit else None)
        bits = {**dict.fromkeys(smallest_bits(graph), 2)}
        try:
            found = module.control_accuracy(control, training, bits, limit, SILENT)
        except KeyboardInterrupt:
            return None, training, folder
        return found, training, folder

    return run


def check_limit_that_fails(search, module=accuracy_control):
    """It fails first, then holds: the record says each, and the bits are the last round's."""
    (bits, name, size), training, folder = search(5.0, module=module)
    record = read_json(folder / accuracy_control.RECORD)
    states = [entry["state"] for entry in record["rounds"]]
    assert states == ["failed"] * (len(states) - 1) + ["passed"] and len(states) > 1
    assert record["state"] == "passed" and losses(bits) <= 5.0
    assert record["rounds"][-1]["bits"] == bits and name == f"QAT-{len(states) - 1}"
    assert training.fitted == ["QAT", *(f"QAT-{n}" for n in range(1, len(states)))]
    assert size is None and record["next"] is None
    for before, after in zip(record["rounds"], record["rounds"][1:], strict=False):
        assert after["weight_bytes"] >= before["weight_bytes"]
        assert all(after["bits"][layer] >= before["bits"][layer] for layer in bits)
        assert before["ranking"] and before["measured_without_training"]
    assert [path.name for path in folder.glob("*.last.pt")] == [f"{name}.last.pt"]


def test_a_limit_that_fails_first_and_then_holds(search):
    check_limit_that_fails(search)


def check_limit_that_cannot_hold(search, module=accuracy_control):
    drop = lambda bits: 1.0 + losses(bits)  # noqa: E731
    (bits, name, _), _, folder = search(0.5, drop, module=module, name="cannot")
    record = read_json(folder / accuracy_control.RECORD)
    assert record["state"] == "failed" and record["why"] == "every layer has 8 bits"
    assert {entry["state"] for entry in record["rounds"]} == {"failed"}
    assert set(bits.values()) == {8} and drop(bits) == 1.0
    assert len(record["rounds"]) <= ROUNDS and record["left"]["round"] == len(record["rounds"])
    assert name == f"QAT-{record['best']}"


def test_a_limit_that_cannot_hold_is_said_to_fail(search, mutant_of):
    check_limit_that_cannot_hold(search)
    mutant = mutant_of(
        accuracy_control, '"state": PASSED if holds else FAILED if choice.bits is None else ""',
        '"state": PASSED if choice.bits is None else ""',
    )  # fmt: skip
    with pytest.raises(AssertionError):
        check_limit_that_cannot_hold(lambda *a, **k: search(*a, **{**k, "name": "m"}), mutant)
    wrong = "holds = drop <= limit or bool(rounds)"
    lenient = mutant_of(accuracy_control, "holds = drop <= limit", wrong)
    with pytest.raises(AssertionError):
        check_limit_that_cannot_hold(lambda *a, **k: search(*a, **{**k, "name": "l"}), lenient)


def test_a_limit_that_holds_at_once_changes_nothing(search):
    (bits, name, _), training, folder = search(1000.0)
    record = read_json(folder / accuracy_control.RECORD)
    assert set(bits.values()) == {2} and name == "QAT" == training.fitted[0]
    assert (record["state"], len(record["rounds"])) == ("passed", 1)


def test_trainings_that_gain_nothing_end_with_all_layers_widened(search):
    """Where a network loses the same however trained, the last training has 8 bits everywhere."""
    calls = []

    def stubborn(bits):
        calls.append(dict(bits))
        return 7.0 + min(losses(bits), 1e-3)

    _, training, folder = search(0.1, stubborn)
    record = read_json(folder / accuracy_control.RECORD)
    assert len(training.fitted) <= ROUNDS and record["state"] == "failed"
    assert set(record["rounds"][-1]["bits"].values()) == {8}


@pytest.mark.parametrize("stop", ["QAT", "QAT-1"])
def test_an_interrupted_search_goes_on_where_it_was(search, stop):
    wanted, whole, _ = search(5.0, name="whole")
    none, stopped, _ = search(5.0, stop=stop, name="stopped")
    assert none is None
    found, rest, folder = search(5.0, name="stopped")
    assert found == wanted and stopped.fitted + rest.fitted == whole.fitted
    assert read_json(folder / "accuracy_control.json") == read_json(
        folder.parent / "whole" / "accuracy_control.json"
    )


def check_budget(module, graph):
    """The file keeps within the budget though it holds more beside the weights than was known."""
    table = {name: {2: 4.0, 3: 3.0, 4: 2.0, 8: 0.0} for name in smallest_bits(graph)}
    least = smallest_bits(graph)
    size_with = lambda bits: weight_bytes(graph, bits) + 300 + sum(bits.values())  # noqa: E731
    limit = size_with(least) + 500
    chosen, size = module.fit(graph, table, limit, 300, size_with, SILENT)
    assert chosen is not None and size_with(chosen.bits) == size <= limit
    assert set(chosen.bits) == set(least) and set(chosen.bits.values()) <= set(WEIGHT_BITS)


def test_bits_move_within_the_budget_of_the_file(mutant_of):
    spec = NetSpec("w", (8, 24, 24, 32, 48), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))
    graph, _ = graph_of(LMaUNet(spec), (1, 1, 32, 32))
    check_budget(budget, graph)
    mutant = mutant_of(budget, "if size <= budget_bytes:", "if size:")
    with pytest.raises(AssertionError):
        check_budget(mutant, graph)


def test_under_a_budget_the_search_tries_what_is_refitted_and_says_when_nothing_is_left(search):
    given = []

    def refit(table):
        given.append(table)
        return {**dict.fromkeys(table, 2), "shallow.1.conv": 8 if len(given) == 1 else 4}, 11

    (bits, _, size), training, folder = search(1.0, refit=refit)
    record = read_json(folder / accuracy_control.RECORD)
    assert record["state"] == "failed" and "fits the budget" in record["why"]
    assert [entry["file_bytes"] for entry in record["rounds"]] == [9, 11, 11]
    assert losses(bits) == min(losses(entry["bits"]) for entry in record["rounds"])
    assert size == 11 and len(training.fitted) == 3
    assert all(min(min(row.values()) for row in table.values()) == 0 for table in given)


def test_a_control_without_labels_is_refused():
    data = patients_data()
    kept = keep_patients(data)
    blank = dataclasses.replace(kept.control.val, labels=np.zeros_like(kept.control.val.labels))
    kept = dataclasses.replace(kept, control=dataclasses.replace(kept.control, val=blank))
    with pytest.raises(UserError, match="no label of the control patients"):
        Measure(Control(Recording(), kept))


@pytest.mark.slow
def test_what_is_left_is_measured_and_the_costliest_named(network, tiny_model, tiny_data):
    few = tiny_data.val.take(np.arange(4))
    tiny_data = dataclasses.replace(tiny_data, val=few)
    kept = types.SimpleNamespace(control=tiny_data, patients=("p",))
    measure = Measure(Control(tiny_model, kept))
    drop, per_case = measure.scored(network)
    assert set(per_case) == set(measure.scores.per_case)
    left = accuracy_control.left_over(measure, network)
    assert len(left["activations"]) == accuracy_control.NAMED
    gains = [row["gain"] for row in left["activations"]]
    assert gains == sorted(gains, reverse=True)
    assert {"float_weights_points", "float_activations_points"} < set(left)
    assert measure.scored(network)[0] == drop, "all quantizers are on again"
    assert measure.divergence(tiny_model) == pytest.approx(0, abs=1e-6)
