"""A network with InstanceNorm, converted and distilled, and what qat says of it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from lmaunet.data.loaders import load_phantom
from lmaunet.errors import UserError
from lmaunet.graph.batch_norms import as_batch_norms, norm_counts
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule, execute
from lmaunet.graph.operators import Norm
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.quant import norm_conversion
from lmaunet.quant.norm_conversion import batch_statistics, channel_statistics, images_that_fit
from lmaunet.quant.qat import evaluate, load_quantized, quantize
from lmaunet.quant.settings import QatSettings
from lmaunet.sources.checkpoint import restore, spec_of
from lmaunet.stage import read_json
from lmaunet.train.processes import join_processes
from lmaunet.train.schedule import Schedule

SIZE = 32


def block(channels, out, norm):
    return nn.Sequential(nn.Conv2d(channels, out, 3, 1, 1), norm, nn.LeakyReLU(0.01))


class Small(nn.Module):
    """InstanceNorm, GroupNorm and a LayerNorm."""

    def __init__(self, classes=9):
        super().__init__()
        self.first = block(1, 8, nn.InstanceNorm2d(8, affine=True))
        self.second = block(8, 8, nn.GroupNorm(2, 8))
        self.layer, self.head = nn.LayerNorm(8), nn.Conv2d(8, classes, 1)

    def forward(self, image):
        x = self.second(self.first(image))
        return self.head(self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def data():
    whole = load_phantom(size=(SIZE, SIZE), seed=0)
    return dataclasses.replace(whole, train=whole.train.take(slice(None, None, 4)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return capture(Small().eval(), (1, 1, SIZE, SIZE))


def hooked(model, images):
    """What goes into each norm of a torch model, in order."""
    seen = []
    kinds = nn.InstanceNorm2d, nn.GroupNorm, nn.BatchNorm2d
    handles = [
        module.register_forward_pre_hook(lambda _, given: seen.append(given[0].double()))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        model(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    return seen


def test_each_norm_has_the_statistics_of_the_network_converted_before_it(network, data):
    """The first by torch; the second behind torch's own batch norm in place of the first."""
    images = data.train.images[:6]
    found = list(batch_statistics(*network, images).values())
    torch.manual_seed(0)
    model = Small().eval()
    first = hooked(model, images)[0]
    np.testing.assert_allclose(found[0].mean, first.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        found[0].variance, first.var((0, 2, 3), correction=0), rtol=1e-6, atol=1e-9
    )
    batch = nn.BatchNorm2d(8).eval()
    batch.running_mean.copy_(first.mean((0, 2, 3)))
    batch.running_var.copy_(first.var((0, 2, 3), correction=0))
    unconverted = hooked(model, images)[1]
    model.first[1] = batch
    second = hooked(model, images)[1]
    np.testing.assert_allclose(found[1].mean, second.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found[1].variance, second.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-7
    )
    # the mutant: all at once, of the network as it came, is something else
    other = unconverted.var((0, 2, 3), correction=0).numpy()
    assert np.abs(found[1].variance / other - 1).max() > 1e-3


def test_statistics_are_of_the_population_and_in_float64():
    value = 1e4 + torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = channel_statistics(value)
    wide = value.double()
    np.testing.assert_allclose(found.mean, wide.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.variance, wide.var((0, 2, 3), correction=0), rtol=1e-9)


def test_as_many_images_are_taken_as_fit(network, monkeypatch):
    graph, _ = network
    assert images_that_fit(graph, 32) == 32
    each = 4 * (8 + 9) * SIZE * SIZE  # what the head takes and gives
    monkeypatch.setattr(norm_conversion, "LARGEST_BYTES", 20 * each)
    assert images_that_fit(graph, 32) == 20 and images_that_fit(graph, 12) == 12
    monkeypatch.setattr(norm_conversion, "LARGEST_BYTES", 1)
    assert images_that_fit(graph, 32) == 8 and images_that_fit(graph, 5) == 5


def run(folder, network, data, progress=lambda fraction, line: None, **settings):
    folder.mkdir(exist_ok=True)
    graph, weights = network
    module = GraphModule(graph, weights).eval()
    chosen = QatSettings(Schedule(1, 1e-3), **{"norm": "batch", "norm_epochs": 2, **settings})
    quantize(
        module, spec_of(graph, "small"), data, chosen, seed=0, folder=folder,
        processes=join_processes(), progress=progress,
    )  # fmt: skip
    return read_json(folder / "qat.json")


@pytest.fixture(scope="module")
def done(network, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("norms")
    seen = []
    content = run(folder, network, data, lambda fraction, line: seen.append(fraction))
    return folder, content, seen


def test_the_quantized_network_has_no_norm_of_the_map_left(done):
    folder, content, _ = done
    quantized = load_quantized(folder / "model.pt")
    kinds = {n.operator.kind for n in quantized.graph.nodes if isinstance(n.operator, Norm)}
    assert kinds == {"layer"}
    assert norm_counts(quantized.source) == {"batch": 2, "layer": 1}
    loaded = load_checkpoint(folder / "model.pt")
    assert loaded.notes["norm"] == "batch" and loaded.spec == spec_of(quantized.source, "small")
    assert content["network"]["graph"] == loaded.spec.graph


def test_every_score_is_that_of_a_network_that_is_there(done, network, data):
    folder, content, _ = done
    assert list(content["scores"]) == ["converted", "distilled", "ptq", "qat"]
    float32 = restore(load_checkpoint(folder / "converted.pt"), folder / "converted.pt")
    assert evaluate(float32, data).dice == pytest.approx(content["scores"]["distilled"]["dice"])
    images = data.train.images[content["calibration_slices"]]
    alone = GraphModule(*as_batch_norms(*network, batch_statistics(*network, images))).eval()
    assert evaluate(alone, data).dice == pytest.approx(content["scores"]["converted"]["dice"])
    quantized = load_quantized(folder / "model.pt")
    assert evaluate(quantized, data).dice == pytest.approx(content["scores"]["qat"]["dice"])


def test_the_distillation_follows_the_network_as_it_came(done, network, data):
    """Closer to its classes than the conversion alone."""
    folder, content, _ = done
    images = torch.from_numpy(data.val.images[:8])
    wanted = execute(*network, images).log_softmax(1)
    far = {}
    float32 = restore(load_checkpoint(folder / "converted.pt"), folder / "converted.pt")
    chosen = data.train.images[content["calibration_slices"]]
    alone = GraphModule(*as_batch_norms(*network, batch_statistics(*network, chosen))).eval()
    for name, module in (("alone", alone), ("distilled", float32)):
        with torch.no_grad():
            found = module(images).log_softmax(1)
        far[name] = float((wanted.exp() * (wanted - found)).sum(1).mean())
    assert content["norms"]["history"][0]["loss"] > content["norms"]["history"][1]["loss"]
    assert len(content["norms"]["history"]) == 2 and np.isfinite(list(far.values())).all()


def test_what_was_done_is_said(done):
    _, content, seen = done
    assert content["norms"]["converted"] == {"InstanceNorm": 1, "GroupNorm": 1}
    assert (content["norms"]["epochs"], content["norms"]["learning_rate"]) == (2, 1e-3)
    assert any(notice.startswith("1 LayerNorms stay as they are") for notice in content["notices"])
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] < 1


@pytest.mark.slow
def test_an_interrupted_conversion_goes_on_and_gives_the_same(done, network, data, tmp_path):
    class Killed(Exception):
        pass

    def stop_in(words):
        def progress(fraction, line):
            if words in line:
                raise Killed

        return progress

    _, whole, _ = done
    place = tmp_path / "stopped"
    with pytest.raises(Killed):
        run(place, network, data, stop_in("norms: epoch 2/2"))
    assert (place / "norms.last.pt").exists() and not (place / "converted.pt").exists()
    with pytest.raises(Killed):
        run(place, network, data, stop_in("QAT: epoch 1/1"))
    assert (place / "converted.pt").exists() and not (place / "norms.last.pt").exists()
    written = (place / "converted.pt").stat().st_mtime_ns
    assert run(place, network, data)["scores"] == whole["scores"]
    assert (place / "converted.pt").stat().st_mtime_ns == written, "it is not made a second time"


def test_without_epochs_it_is_the_conversion_alone(network, data, tmp_path):
    content = run(tmp_path, network, data, norm_epochs=0)
    assert list(content["scores"]) == ["converted", "ptq", "qat"]
    assert content["norms"]["history"] == [] and content["norms"]["epochs"] == 0


def test_a_network_without_such_norms_is_quantized_as_it_is(data, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 9, 1))
    content = run(tmp_path, capture(model.eval(), (1, 1, SIZE, SIZE)), data)
    assert list(content["scores"]) == ["ptq", "qat"] and content["norms"] == {"converted": {}}
    assert content["notices"][-1] == (
        "--norm batch converted nothing: the network has no InstanceNorm and no GroupNorm"
    )
    assert not (tmp_path / "converted.pt").exists()


def test_the_option_is_part_of_the_settings_that_name_a_result():
    plain = QatSettings(Schedule(1, 1e-3))
    # results of before the option are still current
    assert "norm" not in plain.to_json()
    batch = dataclasses.replace(plain, norm="batch")
    assert batch.to_json() == {**plain.to_json(), "norm": "batch", "norm_epochs": 8}
    assert dataclasses.replace(batch, norm_epochs=3).to_json() != batch.to_json()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "layer"}, "norm 'layer'; use one of: keep, batch"),
        ({"norm_epochs": -1}, "norm_epochs -1; give 0 (no distillation) to 10,000"),
        ({"norm_epochs": 10_001}, "norm_epochs 10001; give 0 (no distillation) to 10,000"),
    ],
)
def test_what_can_t_be_is_refused(settings, message):
    with pytest.raises(UserError) as error:
        QatSettings(Schedule(1, 1e-3), **settings)
    assert str(error.value) == message
