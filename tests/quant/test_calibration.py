import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from lmaunet.errors import UserError
from lmaunet.quant.calibration import _intensity, calibrate, check_images, choose_slices, notices
from lmaunet.quant.convolution import quantizer
from lmaunet.quant.network import graph_of


def with_train(data, **changes):
    return dataclasses.replace(data, train=dataclasses.replace(data.train, **changes))


def test_every_class_that_trains_also_calibrates(tiny_data):
    labels = np.zeros_like(tiny_data.train.labels)
    labels[7, 3, 3] = 5  # one pixel, in a slice that the even spread leaves out
    data = with_train(tiny_data, labels=labels)
    chosen = choose_slices(data, 8)
    assert 7 in chosen and len(set(chosen)) == len(chosen) <= 9
    assert 7 not in choose_slices(with_train(tiny_data, labels=labels * 0), 8)


def test_images_that_cannot_calibrate():
    image = np.random.default_rng(0).normal(size=(8, 1, 32, 32)).astype(np.float32)
    check_images(image)
    check_images(image[:4])
    with pytest.raises(UserError, match="3 calibration images; give at least 4"):
        check_images(image[:3])
    with pytest.raises(UserError, match="every calibration pixel is 0"):
        check_images(np.zeros_like(image))
    for bad in (np.nan, np.inf, -np.inf):
        image[2, 0, 5, 5] = bad
        with pytest.raises(UserError, match="NaN or infinity"):
            check_images(image)


def test_nothing_is_noticed_on_the_data_of_the_training(tiny_model, tiny_data):
    graph = graph_of(tiny_model, tiny_data.train.images.shape)
    assert notices(*graph, tiny_data, choose_slices(tiny_data)) == []


@pytest.mark.parametrize(("factor", "shift"), [(8.0, 0.0), (0.05, 0.0), (1.0, 4.0)])
def test_another_range_of_intensities_is_noticed(tiny_model, tiny_data, factor, shift):
    images = (factor * tiny_data.train.images + shift).astype(np.float32)
    data = with_train(tiny_data, images=images)
    graph = graph_of(tiny_model, tiny_data.train.images.shape)
    found = notices(*graph, data, choose_slices(data))
    assert len(found) == 1 and "another range of intensities" in found[0]


def first_layer(weights, mean, variance):
    """A network as far as its first layer, whose channels multiply an image by these weights."""
    conv = nn.Conv2d(1, len(weights), 1, bias=False)
    conv.weight.data[:, 0, 0, 0] = torch.tensor(weights)
    norm = nn.BatchNorm2d(len(weights))
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(variance)
    return nn.Sequential(conv, norm).eval()


def around(mean, deviation):
    """Images of two values, as often one as the other."""
    image = np.full((4, 1, 32, 32), mean + deviation, np.float32)
    image[..., ::2] = mean - deviation
    return image


@pytest.mark.parametrize(
    ("mean", "deviation", "noticed"),
    [
        (10.0, 2.0, None),
        (11.98, 2.0, None),
        (8.02, 2.0, None),
        (12.2, 2.0, "1 times as wide, shifted by 1.1 deviations"),
        (7.8, 2.0, "1 times as wide, shifted by 1.1 deviations"),
        (10.0, 5.98, None),
        (10.0, 6.2, "3.1 times as wide, shifted by 0 deviations"),
        (10.0, 0.67, None),
        (10.0, 0.6, "0.3 times as wide, shifted by 0 deviations"),
    ],
)
def test_a_range_is_another_by_more_than_a_deviation_or_three_times(mean, deviation, noticed):
    """The network recorded 10 and a deviation of 2; the median of its channels counts."""
    image = around(mean, deviation)
    model = first_layer([1.0, 1.0, 50.0], 10.0, 4.0)
    found = _intensity(*graph_of(model, image.shape), image)
    assert len(found) == (noticed is not None)
    if noticed:
        assert f"(the first layer's outputs are {noticed})" in found[0]


def test_a_network_that_recorded_nothing_has_no_range():
    image = around(500.0, 2.0)

    def noticed(model):
        return _intensity(*graph_of(model, image.shape), image)

    model = first_layer([1.0], 10.0, 4.0)
    assert len(noticed(model)) == 1
    assert len(noticed(first_layer([1.0], 0.0, 4.0))) == len(noticed(first_layer([1.0], 1, 1))) == 1
    assert noticed(first_layer([1.0], 0.0, 1.0)) == [], "a norm that was never trained"
    for norm in (nn.Identity(), nn.InstanceNorm2d(1), nn.ReLU()):
        assert noticed(nn.Sequential(model[0], norm).eval()) == []
    later = nn.Sequential(nn.ReLU(), model).eval()  # not of what the images themselves give
    assert noticed(later) == []


def test_a_bias_before_the_norm_is_in_what_the_norm_recorded():
    image = around(10.0, 2.0)
    bare, norm = first_layer([1.0, 2.0], 0.0, 1.0)
    biased = nn.Conv2d(1, 2, 1)
    biased.weight.data.copy_(bare.weight)
    biased.bias.data.copy_(torch.tensor([300.0, -50.0]))
    seen = biased(torch.from_numpy(image))
    norm.running_var.copy_(seen.var((0, 2, 3)))
    norm.running_mean.copy_(seen.mean((0, 2, 3)))
    model = nn.Sequential(biased, norm).eval()
    assert _intensity(*graph_of(model, image.shape), image) == []
    norm.running_mean.sub_(biased.bias.data)
    (said,) = _intensity(*graph_of(model, image.shape), image)
    assert "1 times as wide" in said


@pytest.mark.parametrize(("count", "few"), [(15, True), (16, False)])
def test_fewer_than_16_slices_are_few(tiny_model, tiny_data, count, few):
    graph = graph_of(tiny_model, tiny_data.train.images.shape)
    found = notices(*graph, tiny_data, choose_slices(tiny_data)[:count])
    assert any(line.startswith(f"only {count} calibration slices") for line in found) == few


def test_the_slice_with_most_of_a_class_is_brought(tiny_data):
    labels = np.zeros_like(tiny_data.train.labels)
    spread = set(choose_slices(with_train(tiny_data, labels=labels), 8).tolist())
    first, second = [i for i in range(len(labels)) if i not in spread][:2]
    for most, less in ((first, second), (second, first)):
        shown = labels.copy()
        shown[most, :2, :2] = 3
        shown[less, 5, 5] = 3
        shown[less, 9, 9] = 6  # and no other slice
        chosen = choose_slices(with_train(tiny_data, labels=shown), 8)
        assert set(chosen.tolist()) == spread | {first, second}
        shown[most, 9, 9] = 6  # what the slice with most of class 3 shows too needs no other
        chosen = choose_slices(with_train(tiny_data, labels=shown), 8)
        assert set(chosen.tolist()) == spread | {most}
        shown[min(spread), 9, 9] = 3  # and what the even spread shows needs none
        shown[min(spread), 9, 8] = 6
        chosen = choose_slices(with_train(tiny_data, labels=shown), 8)
        assert set(chosen.tolist()) == spread


def test_few_slices_and_a_missing_class_are_noticed(tiny_model, tiny_data):
    labels = np.where(tiny_data.train.labels == 2, 0, tiny_data.train.labels)
    data = with_train(tiny_data, labels=labels)
    graph = graph_of(tiny_model, tiny_data.train.images.shape)
    found = notices(*graph, data, choose_slices(data)[:6])
    assert "only 6 calibration slices" in found[0]
    assert data.classes[2] in found[1] and "no training slice shows" in found[1]


def test_calibration_slices_reach_from_the_first_patients_to_the_last(tiny_data):
    many = np.zeros((574, 32, 32), np.uint8)
    images = many[:, None].astype(np.float32)
    cases, z = np.full(574, "a"), np.arange(574)
    data = with_train(tiny_data, images=images, labels=many, cases=cases, z=z)
    chosen = choose_slices(data, 32)
    assert len(chosen) == 32
    assert chosen[0] == 8 and chosen[-1] == 565, "the middles of the first and the last part"
    assert set(np.diff(chosen)) == {17, 18}


class TwoTensors(nn.Module):
    """One quantizer for two tensors, the second 16 times as wide."""

    def __init__(self):
        super().__init__()
        self.shared = quantizer()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.shared(x) + self.shared(16 * x)


def test_of_tensors_that_share_a_quantizer_the_widest_counts():
    images = np.random.default_rng(0).uniform(-1, 1, (8, 1, 16, 16)).astype(np.float32)
    model = TwoTensors()
    calibrate(model, images, batch=4)
    by_batch = [16 * np.abs(images[i : i + 4]).max() for i in (0, 4)]
    threshold = 127 * float(model.shared.act_quant.scale())
    # Brevitas' mean over all calls would be 8.5
    assert threshold == pytest.approx(np.mean(by_batch), rel=0.01)
