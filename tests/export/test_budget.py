"""A budget for the file that ships: from sensitivity to bits to bytes on disk."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from packing_models import weight_model

from lmaunet.cpu.cpu_file import file_bytes
from lmaunet.cpu.packing import pack_weights
from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.quant import budget
from lmaunet.quant.allocation import Allocation, smallest_bits, weight_bytes
from lmaunet.quant.budget import TRIALS, _rounded_up, allocate_for_file
from lmaunet.quant.calibration import MINIMUM_IMAGES, calibrate
from lmaunet.quant.network import QuantNetwork, graph_of
from lmaunet.quant.packed import packed_bytes
from lmaunet.spec import NetSpec

SILENT = lambda fraction, line: None  # noqa: E731


@pytest.fixture(scope="module")
def model():
    """The graph and the weights of a network whose weights take more than the rest of its file."""
    torch.manual_seed(0)
    widths = (8, 24, 24, 32, 48)
    spec = NetSpec("small", widths, states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))
    return graph_of(LMaUNet(spec), (1, 1, 32, 32))


@pytest.fixture(scope="module")
def images(tiny_data):
    return tiny_data.train.images[:8]


@pytest.fixture(scope="module")
def size_of(images):
    return lambda network: file_bytes(network, images)


@pytest.fixture(scope="module")
def smallest(model, images, size_of):
    """The size that a refusal names as the smallest one reachable."""
    with pytest.raises(UserError, match="cannot be reached with this network") as refused:
        allocate_for_file(*model, images, 10_000, "free", size_of, SILENT)
    found = re.search(r"--budget-mb ([0-9.]+) or more", str(refused.value))
    return round(float(found[1]) * 1e6)


@pytest.mark.slow
def test_the_file_keeps_within_the_budget(model, images, size_of, smallest):
    budget = smallest + 4_000
    found = allocate_for_file(*model, images, budget, "free", size_of, SILENT)
    assert found["file_bytes"] <= budget == found["budget_bytes"]
    bits = {row["layer"]: row["bits"] for row in found["layers"]}
    network = QuantNetwork(*model, bits)
    calibrate(network, images)
    assert size_of(network) == pytest.approx(found["file_bytes"], abs=200)
    assert bits["shallow.0.conv"] == bits["head"] == 8
    assert len(set(bits.values())) > 2, "bits differ from layer to layer"
    assert found["rest_bytes"] + found["weight_bytes"] == found["file_bytes"]


@pytest.mark.slow
def test_more_room_gives_more_bits(model, images, size_of, smallest):
    def mean_bits(budget):
        found = allocate_for_file(*model, images, budget, "free", size_of, SILENT)
        weights = sum(row["weights"] for row in found["layers"])
        return sum(row["weights"] * row["bits"] for row in found["layers"]) / weights

    tight, wide = mean_bits(smallest), mean_bits(1_000_000)
    assert tight < 4 and wide == 8


@pytest.mark.slow
def test_the_smallest_size_named_can_be_asked_for(model, images, size_of, smallest):
    found = allocate_for_file(*model, images, smallest, "free", size_of, SILENT)
    assert found["file_bytes"] <= smallest
    assert not found["scans_int8"] and "layers that scans depend on" in found["notices"][0]


@pytest.mark.slow
def test_where_no_choice_fits_the_fewest_bits_are_taken_and_that_is_said(model, images):
    """A file that is larger than the budget by a byte whatever the bits, but for the fewest."""
    limit, least = 60_000, smallest_bits(model[0])
    files, told = [], []

    def stubborn(network):
        files.append(network.bits)
        return limit - 10_000 if network.bits == least else limit + 1

    found = allocate_for_file(
        *model, images, limit, "free", stubborn, lambda fraction, line: told.append(fraction)
    )
    assert files[0] == least and len(files) == 1 + TRIALS
    assert any("kept within the budget after 5 files" in line for line in found["notices"])
    assert told == sorted(told) and told[0] == 0 and 0.9 < told[-1] < 1
    assert sum(0.1 <= fraction < 0.8 for fraction in told) == len(least), "one for each layer"
    assert found["weight_bytes"] == weight_bytes(model[0], least)
    assert found["file_bytes"] == limit - 10_000
    assert any("no choice of bits kept within the budget" in line for line in found["notices"])


@pytest.mark.slow
def test_blank_slices_among_the_images_do_not_matter(model, images, size_of, smallest):
    blank = images.copy()
    blank[:4] = blank[:4].min()
    found = allocate_for_file(*model, blank, smallest, "free", size_of, SILENT)
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
    allocate_for_file(*model, images, 1_000_000, "free", lambda network: 50_000, SILENT)
    fullest = sorted(images, key=lambda image: float(image.std()))[-MINIMUM_IMAGES:]
    assert len(seen) == 2 and all(np.array_equal(given, np.stack(fullest)) for given in seen)


def test_what_is_told_of_an_allocation_is_of_its_own_figures(model):
    """How many of the layers before and after scans have fewer bits, and what the rest takes."""
    graph, least = model[0], smallest_bits(model[0])
    cost = {name: dict.fromkeys((2, 3, 4, 8), 1e-3) for name in least}
    stages = [name for name in least if name.startswith("stages")]
    bits = dict.fromkeys(least, 8) | {stages[0]: 4, stages[3]: 2, "decoder.3.up": 3}
    size = weight_bytes(graph, bits)
    for narrow in (True, False):
        chosen = Allocation(bits, cost, 70_000, size, not narrow)
        content = budget._to_json(chosen, graph, 61_500, size + 1_234)
        said = ["a file of 0.0615 MB leaves no room for all layers that scans depend on in INT8: "
                "2 of them have fewer bits"]  # fmt: skip
        assert content["notices"] == said[: int(narrow)]
        assert content["scans_int8"] is not narrow and content["layers"] == chosen.rows(graph)
        figures = {
            k: content[k] for k in ("budget_bytes", "file_bytes", "weight_bytes", "rest_bytes")
        }
        assert figures == {
            "budget_bytes": 61_500, "file_bytes": size + 1_234, "weight_bytes": size,
            "rest_bytes": 1_234,
        }  # fmt: skip


def test_the_fractions_of_a_budgets_steps(model, images, monkeypatch):
    """Measuring the layers takes from a tenth to eight tenths, each trial a fifth of the rest."""
    told = []

    def measured(graph, weights, given, progress, scales, device):
        assert (graph, weights) == model and device == "cpu"
        assert len(given) == 8 and scales == "pow2"
        for fraction in (0.0, 0.5, 1.0):
            progress(fraction, "a layer")
        return {name: {2: 4e-3, 3: 3e-3, 4: 2e-3, 8: 1e-3} for name in smallest_bits(graph)}

    monkeypatch.setattr(budget, "measure", measured)
    monkeypatch.setattr(budget, "calibrate", lambda network, given: None)
    sizes = iter([50_000, 60_001, 60_001, 60_001, 60_000])
    found = allocate_for_file(
        *model, images, 60_000, "pow2", lambda network: next(sizes),
        lambda *said: told.append(said),
    )  # fmt: skip
    assert [line for _, line in told] == [
        "measuring the smallest file", *["a layer"] * 3,
        *["choosing bits, and measuring the file"] * 4,
    ]  # fmt: skip
    fractions = [fraction for fraction, _ in told]
    assert fractions == pytest.approx([0, 0.1, 0.45, 0.8, 0.8, 0.84, 0.88, 0.92])
    assert found["file_bytes"] == 60_000 == found["budget_bytes"]
    assert found["weight_bytes"] + found["rest_bytes"] == 60_000


def test_a_budget_of_a_byte_less_than_the_smallest_file_is_refused(model, images, monkeypatch):
    monkeypatch.setattr(budget, "calibrate", lambda network, given: None)
    with pytest.raises(
        UserError, match=r"0\.059999 MB .* takes 0\.060 MB .* --budget-mb 0\.060 or"
    ):
        allocate_for_file(*model, images, 59_999, "free", lambda network: 60_000, SILENT)
