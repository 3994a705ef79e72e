"""A budget for the file that ships: from sensitivity to bits to bytes on disk."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from packing_models import weight_model

from export.cpu_file import file_bytes
from export.packing import pack_weights
from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec
from quant import budget
from quant.allocation import smallest_bits, weight_bytes
from quant.budget import TRIALS, _rounded_up, allocate_for_file
from quant.calibration import MINIMUM_IMAGES, calibrate
from quant.network import QuantLMaUNet
from quant.packed import packed_bytes

SILENT = lambda fraction, line: None  # noqa: E731


@pytest.fixture(scope="module")
def model():
    """A network with more weights than the rest of its file takes."""
    torch.manual_seed(0)
    widths = (8, 24, 24, 32, 48)
    return LMaUNet(NetSpec("small", widths, states=2, kernels=(3, 3, 3, 3), input_size=(32, 32)))


@pytest.fixture(scope="module")
def images(tiny_data):
    return tiny_data.train.images[:8]


@pytest.fixture(scope="module")
def size_of(images):
    return lambda network: file_bytes(network, images)


@pytest.fixture(scope="module")
def smallest(model, images, size_of):
    """The size that a refusal names as the smallest one reachable."""
    with pytest.raises(UserError, match="cannot be reached with spec small") as refused:
        allocate_for_file(model, images, 10_000, "free", size_of, SILENT)
    found = re.search(r"--budget-mb ([0-9.]+) or more", str(refused.value))
    return round(float(found[1]) * 1e6)


def test_the_file_keeps_within_the_budget(model, images, size_of, smallest):
    budget = smallest + 4_000
    found = allocate_for_file(model, images, budget, "free", size_of, SILENT)
    assert found["file_bytes"] <= budget == found["budget_bytes"]
    bits = {row["layer"]: row["bits"] for row in found["layers"]}
    network = QuantLMaUNet(model, bits)
    calibrate(network, images)
    assert size_of(network) == pytest.approx(found["file_bytes"], abs=200)
    assert bits["shallow.0"] == bits["head.head"] == 8
    assert len(set(bits.values())) > 2, "bits differ from layer to layer"
    assert found["rest_bytes"] + found["weight_bytes"] == found["file_bytes"]


def test_more_room_gives_more_bits(model, images, size_of, smallest):
    def mean_bits(budget):
        found = allocate_for_file(model, images, budget, "free", size_of, SILENT)
        weights = sum(row["weights"] for row in found["layers"])
        return sum(row["weights"] * row["bits"] for row in found["layers"]) / weights

    tight, wide = mean_bits(smallest), mean_bits(1_000_000)
    assert tight < 4 and wide == 8


def test_the_smallest_size_named_can_be_asked_for(model, images, size_of, smallest):
    found = allocate_for_file(model, images, smallest, "free", size_of, SILENT)
    assert found["file_bytes"] <= smallest
    assert not found["lkm_int8"] and "large-kernel Mamba" in found["notices"][0]


def test_where_no_choice_fits_the_fewest_bits_are_taken_and_that_is_said(model, images):
    """A file that is larger than the budget by a byte whatever the bits, but for the fewest."""
    limit, least = 60_000, smallest_bits(model.spec)
    files, told = [], []

    def stubborn(network):
        files.append(network.bits)
        return limit - 10_000 if network.bits == least else limit + 1

    found = allocate_for_file(
        model, images, limit, "free", stubborn, lambda fraction, line: told.append(fraction)
    )
    assert files[0] == least and len(files) == 1 + TRIALS
    assert any("kept within the budget after 5 files" in line for line in found["notices"])
    assert told == sorted(told) and told[0] == 0 and 0.9 < told[-1] < 1
    assert sum(0.1 <= fraction < 0.8 for fraction in told) == len(least), "one for each layer"
    assert found["weight_bytes"] == weight_bytes(model.spec, least)
    assert found["file_bytes"] == limit - 10_000
    assert any("no choice of bits kept within the budget" in line for line in found["notices"])


def test_blank_slices_among_the_images_do_not_matter(model, images, size_of, smallest):
    blank = images.copy()
    blank[:4] = blank[:4].min()
    found = allocate_for_file(model, blank, smallest, "free", size_of, SILENT)
    assert found["file_bytes"] <= smallest


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bytes_are_counted_as_they_are_stored(bits):
    for count in (1, 255, 256, 257, 1000, 4099):
        codes = np.zeros((1, count), np.int8)
        codes[0, 0], codes[0, -1] = -1, -(1 << (bits - 1))
        (stored,) = (
            tensor
            for tensor in pack_weights(weight_model(codes)).graph.initializer
            if tensor.name in ("weight", "weight/planes")
        )
        assert len(stored.raw_data) == packed_bytes(count, bits)


def test_a_size_is_rounded_up_to_what_can_be_asked_for():
    found = [_rounded_up(size) for size in (1, 1000, 1001, 4_200_000, 4_200_001)]
    assert found == ["0.001", "0.001", "0.002", "4.200", "4.201"]


def test_the_images_with_most_content_give_the_scales(model, tiny_data, monkeypatch):
    images, seen = tiny_data.train.images[:12], []
    monkeypatch.setattr(budget, "calibrate", lambda network, given: seen.append(given))
    allocate_for_file(model, images, 1_000_000, "free", lambda network: 50_000, SILENT)
    fullest = sorted(images, key=lambda image: float(image.std()))[-MINIMUM_IMAGES:]
    assert len(seen) == 2 and all(np.array_equal(given, np.stack(fullest)) for given in seen)
