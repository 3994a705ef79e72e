import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.net.network import LMaUNet
from lmaunet.quant.network import QuantNetwork
from lmaunet.train import metrics
from lmaunet.train.loop import (
    Schedule,
    Teacher,
    batch_dice,
    class_weights,
    fit,
)
from lmaunet.train.optimization import (
    CLIP_NORM,
    Optimization,
    memory_format,
    parameter_groups,
)
from lmaunet.train.processes import join_processes

SCHEDULE = Schedule(3, 1e-2, augment=False)


def train(spec, data, schedule=SCHEDULE, folder=None, stop_after=None, seed=0):
    torch.manual_seed(0)
    model = LMaUNet(spec)

    def progress(fraction, line):
        if stop_after is not None and fraction >= stop_after:
            raise KeyboardInterrupt

    history = fit(
        model, data, schedule, classes=9, seed=seed, folder=folder, processes=join_processes(),
        progress=progress,
    )  # fmt: skip
    return model, history


def test_training_learns(tiny_spec, tiny_data):
    _, history = train(tiny_spec, tiny_data.train, Schedule(6, 2e-2, augment=False))
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


def test_an_interrupted_training_ends_as_if_it_was_not(tiny_spec, tiny_data, tmp_path):
    whole, history = train(tiny_spec, tiny_data.train)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_spec, tiny_data.train, folder=tmp_path, stop_after=0.5)
    last = tmp_path / "training.last.pt"
    kept = last.read_bytes()
    last.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(UserError, match=r"damaged or truncated.* or delete it, to train from"):
        train(tiny_spec, tiny_data.train, folder=tmp_path)
    last.write_bytes(kept)
    resumed, again = train(tiny_spec, tiny_data.train, folder=tmp_path)
    assert again == history
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_loss_that_diverges_is_said(tiny_spec, tiny_data):
    with pytest.raises(UserError, match=r"the loss is nan in epoch 1; lower the learning rate"):
        broken = type(tiny_data.train)(
            tiny_data.train.images * np.float32("nan"), tiny_data.train.labels,
            tiny_data.train.cases, tiny_data.train.z,
        )  # fmt: skip
        train(tiny_spec, broken)


def test_a_loss_that_diverges_beside_variances_of_zero_names_them(tiny_spec, tiny_data):
    """Another learning rate would not help."""
    model = LMaUNet(tiny_spec)
    model.shallow[1].norm.running_var[2] = 0
    broken = type(tiny_data.train)(
        tiny_data.train.images * np.float32("nan"), tiny_data.train.labels,
        tiny_data.train.cases, tiny_data.train.z,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"were 0 in shallow\.1\.norm \(channel 2\).*update_bn"):
        fit(
            model, broken, SCHEDULE, classes=9, seed=0, folder=None, processes=join_processes(),
            progress=lambda fraction, line: None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "rate", "batch"),
    [(0, 1e-3, 8), (1, 0.0, 8), (1, 1e-3, 0), (1, float("inf"), 8), (1, float("nan"), 8)],
)
def test_bad_schedules(epochs, rate, batch):
    with pytest.raises(UserError, match=rf"epochs={epochs}, .* each must be positive"):
        Schedule(epochs, rate, batch)


def test_the_rate_warms_up_and_cools_down():
    schedule = Schedule(10, 1.0)
    assert schedule.rate(0.05) == pytest.approx(0.5)
    assert schedule.rate(0.1) == pytest.approx(1.0)
    assert schedule.rate(0.55) == pytest.approx(0.5)
    assert schedule.rate(1.0) == pytest.approx(0.0)


def test_class_weights_are_the_inverse_root_of_the_share():
    labels = np.zeros((1, 10, 10), np.uint8)
    labels[0, 0, :4] = 1
    weights = class_weights(labels, 2)
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx((0.96 / 0.04) ** 0.5)


def test_batch_dice_by_hand():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0] = 1  # predicts class 1 in the upper row
    labels = torch.tensor([[[1, 0], [0, 0]]])
    assert batch_dice(logits, labels) == pytest.approx(2 / 3)


def test_divergence_by_hand(mutant_of):
    """Two pixels, two classes: of the second both networks say the same."""
    p, q = np.array([0.9, 0.1]), np.array([0.6, 0.4])
    expected = (p * np.log(p / q)).sum() / 2
    shape = (1, 2, 1, 2)
    reference = torch.tensor([[p[0], 0.5], [p[1], 0.5]]).log().reshape(shape)
    logits = torch.tensor([[q[0], 0.5], [q[1], 0.5]]).log().reshape(shape) + 3  # softmax has no +3
    assert float(metrics.divergence(logits, reference)) == pytest.approx(expected)
    assert float(metrics.divergence(reference, reference)) == 0
    for right, wrong in (
        ("own.exp() * (own - other)", "other.exp() * (other - own)"),
        ("(own - other)).sum(1).mean()", "(own - other)).mean()"),
    ):
        mutant = mutant_of(metrics, right, wrong)
        assert float(mutant.divergence(logits, reference)) != pytest.approx(expected, rel=0.05)


def test_a_teacher_pulls_the_student_to_its_classes():
    """The loss is the weighted KL(teacher || student); only the student has gradients of it."""
    torch.manual_seed(0)
    teacher, student = torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(1, 3, 3)
    images = torch.randn(2, 1, 6, 6)
    logits = student(images)
    loss = Teacher(teacher, 0.5).loss(images, logits)
    with torch.no_grad():
        wanted, said = teacher(images).softmax(1), logits.softmax(1)
    by_torch = torch.nn.functional.kl_div(said.log(), wanted, reduction="sum") / (2 * 4 * 4)
    assert float(loss) == pytest.approx(0.5 * float(by_torch))
    turned = torch.nn.functional.kl_div(wanted.log(), said, reduction="sum") / (2 * 4 * 4)
    assert float(loss) != pytest.approx(0.5 * float(turned), rel=0.01)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    # d KL / d logits = (student - teacher) / pixels
    slope = 0.5 * (said - wanted).sum((0, 2, 3)) / (2 * 4 * 4)
    assert torch.allclose(student.bias.grad, slope, atol=1e-6)
    same = Teacher(teacher, 0.5).loss(images, teacher(images))
    assert float(same.detach()) == pytest.approx(0, abs=1e-7)


def test_a_teacher_is_in_evaluation_mode():
    teacher = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 2, 1)).train()
    Teacher(teacher, 1.0).loss(torch.randn(2, 2, 3, 3) + 5, torch.zeros(2, 2, 3, 3))
    assert not teacher.training and not teacher[0].running_mean.any()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_gradient_is_cut_to_its_largest_norm(factor):
    model = torch.nn.Conv2d(1, 2, 1)
    work = Optimization(model, Schedule(1, 1e-3), join_processes(), None, "x")
    work.step(factor * model(torch.ones(1, 1, 4, 4)).square().sum())
    norm = float(torch.stack([p.grad.norm() for p in model.parameters()]).norm())
    assert (norm < CLIP_NORM) if factor < 1 else norm == pytest.approx(CLIP_NORM, rel=1e-4)


def test_only_weights_decay(tiny_model, tiny_quantized):
    layers = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
    for model, kept_too in ((tiny_model, "norm.weight"), (tiny_quantized, "scaling_impl.value")):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        decayed, kept = parameter_groups(model, 0.1)
        assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0)
        groups = [[names[id(p)] for p in group["params"]] for group in (decayed, kept)]
        assert sorted(groups[0] + groups[1]) == sorted(names.values())
        weights = [names[id(m.weight)] for m in model.modules() if isinstance(m, layers)]
        assert sorted(groups[0]) == sorted(weights)
        for part in ("A_log", "D", "bias", kept_too):
            assert any(name.endswith(part) for name in groups[1]), part


TWO_PROCESSES = """
import sys, torch
from lmaunet.data.loaders import load_phantom
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.net.network import LMaUNet
from lmaunet.quant.network import QuantNetwork
from lmaunet.spec import NetSpec
from lmaunet.train.loop import Schedule, fit
from lmaunet.train.processes import join_processes
processes = join_processes()
spec = NetSpec("tiny", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))
data = load_phantom(size=(32, 32), seed=0)
torch.manual_seed(processes.rank)
model = LMaUNet(spec)
if sys.argv[-1] == "qat":
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork
    model = QuantNetwork.from_module(model, (1, 1, 32, 32))
    calibrate(model, data.train.images[:8])
fit(model, data.train, Schedule(1, 1e-2), classes=9, seed=0, folder=None, processes=processes,
    progress=lambda fraction, line: None)
total = sum(p.double().sum().item() for p in model.parameters())
print(f"RESULT {processes.rank}/{processes.world} {total:.12g}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "qat"])
def test_two_processes_train_one_network(tmp_path, kind):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), kind],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    # the two write to one pipe: their lines may run into each other
    results = sorted(re.findall(r"RESULT (\d/\d) (-?[0-9.e+-]+?)(?=RESULT|\s)", done.stdout))
    assert [r[0] for r in results] == ["0/2", "1/2"]
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize(
    ("kernel", "stride", "wanted"),
    [(1, 2, torch.contiguous_format), (1, 1, torch.channels_last), (3, 2, torch.channels_last)],
)
def test_strided_convolutions_of_one_pixel_keep_their_maps_contiguous(kernel, stride, wanted):
    """torch crashes in their backward pass otherwise, or writes beyond its memory."""
    network = torch.nn.Conv2d(1, 2, kernel, stride, kernel // 2)
    graph, weights = capture(network, (1, 1, 8, 8))
    assert memory_format(GraphModule(graph, weights)) == wanted
    assert memory_format(QuantNetwork(graph, weights)) == wanted
