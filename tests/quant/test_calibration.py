import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from lmaunet.errors import UserError
from quant.calibration import calibrate, check_images, choose_slices, notices
from quant.convolution import quantizer


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
    with pytest.raises(UserError, match="3 calibration images; give at least 4"):
        check_images(image[:3])
    with pytest.raises(UserError, match="every calibration pixel is 0"):
        check_images(np.zeros_like(image))
    image[2, 0, 5, 5] = np.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        check_images(image)


def test_nothing_is_noticed_on_the_data_of_the_training(tiny_model, tiny_data):
    assert notices(tiny_model, tiny_data, choose_slices(tiny_data)) == []


@pytest.mark.parametrize(("factor", "shift"), [(8.0, 0.0), (0.05, 0.0), (1.0, 4.0)])
def test_another_range_of_intensities_is_noticed(tiny_model, tiny_data, factor, shift):
    images = (factor * tiny_data.train.images + shift).astype(np.float32)
    data = with_train(tiny_data, images=images)
    found = notices(tiny_model, data, choose_slices(data))
    assert len(found) == 1 and "another range of intensities" in found[0]


def test_few_slices_and_a_missing_class_are_noticed(tiny_model, tiny_data):
    labels = np.where(tiny_data.train.labels == 2, 0, tiny_data.train.labels)
    data = with_train(tiny_data, labels=labels)
    found = notices(tiny_model, data, choose_slices(data)[:6])
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
