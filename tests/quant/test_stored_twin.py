"""The quantized network of a graph is the one that revision 905563d wrote by hand.

``stored/*.npz`` were made by revision 905563d, with ``python tests/quant/stored_networks.py
tests/quant/stored`` (that file, run in a checkout of it): two of its quantized checkpoints, what it
computed with them in float64, and the integers of its exports.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from stored_networks import BITS, NETWORKS, hardware, logits_of, qcdq_numbers

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.quant import of_before_graphs
from lmaunet.quant.network import module_key
from lmaunet.quant.qat import load_quantized

STORED = Path(__file__).parent / "stored"
BOUND = 1e-12
"""Of the largest logit: another processor may sum in another order."""


@pytest.fixture(params=["local", pytest.param("bins", marks=pytest.mark.slow)])
def stored(request, tmp_path):
    """What is stored of a network, its checkpoint as a file."""
    with np.load(STORED / f"{request.param}.npz") as content:
        path = tmp_path / "model.pt"
        path.write_bytes(content["checkpoint"].tobytes())
        images = (content["steps"] / 16).astype(np.float32)
        integers = json.loads(str(content["integers"]))
        return SimpleNamespace(
            name=request.param, path=path, images=images, logits=content["logits"], **integers
        )


def far(stored):
    """Return how far the logits are from the stored ones, of the largest of them."""
    got = logits_of(load_quantized(stored.path), stored.images[:2])
    assert got.dtype == stored.logits.dtype == np.float64 and got.shape == stored.logits.shape
    return float(np.abs(got - stored.logits).max() / np.abs(stored.logits).max())


def test_a_checkpoint_of_before_graphs_has_its_bits_and_scales(stored):
    network = load_quantized(stored.path)
    scales, choices = NETWORKS[stored.name]
    assert network.scales == scales and not network.training
    assert list(network.bits.values()) == [BITS[i % 4] for i in range(len(network.bits))]
    spec = load_checkpoint(stored.path).spec
    assert spec.name == stored.name and spec.input_size == choices["input_size"]
    taken = {quantizer.act_quant.scale().item() for quantizer in network.quantizers.values()}
    assert len(taken) > (5 if scales == "pow2" else 50)


def test_it_computes_what_it_did(stored):
    assert far(stored) <= BOUND


def test_its_qcdq_file_has_the_same_integers_scales_and_biases(stored):
    assert qcdq_numbers(load_quantized(stored.path), stored.images) == stored.qcdq


@pytest.mark.slow
def test_its_hardware_has_the_same_integers_and_takes_as_many_cycles(stored):
    parts, cycles = hardware(load_quantized(stored.path), stored.images)
    assert parts == stored.hardware
    assert cycles == stored.cycles


def swapped(table, left, right):
    """Return a table of names with what two of its names became exchanged."""
    new = dict(table)
    new[left], new[right] = new[right], new[left]
    return tuple(new.items())


QUANTIZERS = [
    (r"stages\.(\d+)\.quant_proj", r"stages\.(\d+)\.quant_local"),
    (r"stages\.(\d+)\.mamba\.quant_silu_x", r"stages\.(\d+)\.mamba\.quant_silu_z"),
    (r"stages\.(\d+)\.mamba\.quant_dt", r"stages\.(\d+)\.mamba\.quant_y"),
]


@pytest.mark.parametrize("names", QUANTIZERS)
def test_a_scale_that_is_taken_for_another_is_seen(stored, monkeypatch, names):
    """The mutants: two quantizers' names are exchanged."""
    table = of_before_graphs._QUANTIZERS
    monkeypatch.setattr(of_before_graphs, "_QUANTIZERS", swapped(table, *names))
    assert far(stored) > 1e6 * BOUND


def test_halves_of_a_projection_that_are_exchanged_are_seen(stored, monkeypatch):
    """The mutant: in_proj's part that is scanned is taken for the one that gates."""
    parts = of_before_graphs._PARTS
    monkeypatch.setattr(of_before_graphs, "_PARTS", parts | {"x": parts["z"], "z": parts["x"]})
    assert far(stored) > 1e6 * BOUND


@pytest.mark.parametrize("gone", ["_LAYERS", "_QUANTIZERS"])
def test_a_name_that_is_not_known_is_refused_by_name(stored, monkeypatch, gone):
    table = getattr(of_before_graphs, gone)
    monkeypatch.setattr(of_before_graphs, gone, table[1:])
    with pytest.raises(UserError, match=rf"^{re.escape(str(stored.path))}.*(quant_image|shallow)"):
        load_quantized(stored.path)


def test_every_tensor_has_a_new_name(stored):
    loaded = load_checkpoint(stored.path)
    _, bits, state = of_before_graphs.of_before_graphs(
        loaded.spec, loaded.notes["bits"], loaded.state
    )
    network = load_quantized(stored.path)
    assert set(state) == set(network.state_dict())
    # a skip that has a convolution had no scale of its own
    skips = sum(name.endswith("/skip.conv.weight") for name in state)
    assert len(state) == len(loaded.state) + skips and (skips > 0) == (stored.name == "local")
    assert bits == network.bits
    assert f"kept.{module_key('stages.2.mamba.A_log')}" in state
