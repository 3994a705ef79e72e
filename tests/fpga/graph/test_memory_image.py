from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmaunet.fpga.graph.memory_image import pack, unpack, write_image
from lmaunet.stage import read_json


@given(st.integers(1, 48), st.booleans(), st.integers(0, 1 << 20), st.integers(1, 50))
def test_packing_is_undone(bits, signed, seed, count):
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    values = np.random.default_rng(seed).integers(low, high, count)
    data = pack(values, bits)
    assert len(data) == -(-bits * count // 8)
    assert np.array_equal(unpack(data, bits, count, signed), values)


def test_hand_packed():
    # 3 bits each, least significant first: 001 111 010 -> 10111001, 00000000
    assert pack(np.array([1, -1, 2]), 3) == bytes([0b10111001, 0b0])


@pytest.fixture(scope="module")
def image(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    written = write_image(whole.executor, whole.lowered.graph.constant_types, folder)
    return folder, written


def test_the_image_holds_every_weight(whole, image):
    folder, written = image
    data = (folder / "weights.bin").read_bytes()
    index = read_json(folder / "weights.json")
    assert len(data) == written["image"] == sum(entry["bytes"] for entry in index)
    for entry in index:
        if entry["purpose"] != "weights":
            continue
        part = data[entry["offset"] : entry["offset"] + entry["bytes"]]
        stored = unpack(part, entry["bits"], int(np.prod(entry["shape"])), entry["signed"])
        assert np.array_equal(
            stored.reshape(entry["shape"]), whole.executor.constants[entry["name"]]
        )


def test_weights_are_a_byte_each(whole, image):
    weights = sum(
        whole.executor.constants[step.inputs[1]].size
        for step in whole.executor.steps
        if step.op_type in ("MVAU", "VVAU")
    )
    assert image[1]["weights"] == weights
    assert {e["purpose"] for e in read_json(image[0] / "weights.json")} == {
        "weights", "Requantize", "TableActivation", "SelectiveScan",
    }  # fmt: skip
