"""The proof of a network some of whose weights are loaded at the start."""

from __future__ import annotations

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
from bench import needs_verilator

from lmaunet.errors import Disagreement, UserError
from lmaunet.fpga.operators.rtl_module import LOAD, load_beats
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.proof import (
    LOADED,
    LOADED_INDEX,
    RTL,
    SIMULATION,
    prove,
    write_design,
)
from lmaunet.fpga.simulation.simulator import Stalls
from lmaunet.fpga.simulation.stitch import NodeRtl
from lmaunet.fpga.sizing.folding import FoldedNode
from lmaunet.fpga.toolchain.bitstream import one_node

MATRIX = "matrix_vector"


class Changed(Network):
    """A network in which a bit of one loaded word is wrong, or whose images wait differently."""

    beat, bit = -1, 0
    wait: int | None = None

    def _stitched(self, layouts, name):
        made = super()._stitched(layouts, name)
        if self.beat < 0:
            return made
        load = list(made.load)
        load[self.beat] = f"{int(load[self.beat], 16) ^ 1 << self.bit:018x}"
        return dataclasses.replace(made, load=load)

    def first_image(self):
        return super().first_image() if self.wait is None else self.wait


def with_loaded(network: Network, every: int) -> Changed:
    """Return a network that loads the weights of each so manieth of its matrices."""
    found = Changed(network.executor, network.shapes)
    places = [i for i, node in enumerate(found.nodes) if node.module.name == MATRIX]
    for i in places[::every]:
        node, step = found.nodes[i], network.executor.steps[i]
        folded = FoldedNode(step, {**step.attributes, "ram_style": "ultra"})
        constants = [network.executor.constants[n] for n in step.inputs[1:]]
        module = folded.operator.module(constants)
        found.nodes[i] = NodeRtl(node.name, module, node.inputs, node.outputs)
    return found


@pytest.fixture(scope="module")
def loaded(network):
    return with_loaded(network, 2)


@pytest.fixture(scope="module")
def plain(network, codes, simulations):
    """Return a run without loaded weights, after the time in which they would be loaded."""
    waiting = Changed(network.executor, network.shapes)
    waiting.wait = with_loaded(network, 2).first_image()
    return waiting.run(codes, network.roomy_depths(), simulations)


@needs_verilator
def test_the_proof_holds_with_loaded_weights(loaded, plain, codes, simulations, tmp_path):
    """Every stream of all runs; and the cycles are those of weights that are there."""
    found = prove(loaded, codes, tmp_path, tmp_path, print, simulations)
    assert len(loaded.loaded) >= 3
    assert found.alone.latency == plain.latency
    stored = json.loads((tmp_path / SIMULATION).read_text())
    beats = sum(len(node.module.load) for node in loaded.loaded)
    assert stored["load"] == {"nodes": len(loaded.loaded), "beats": beats, "beat_bytes": 9}
    assert min(times["begin"] for times in stored["streams"].values()) == 0


@needs_verilator
@pytest.mark.parametrize("stalls", [None, Stalls(0.2, 0.2, seed=3), Stalls(ports={"load0_V": 0.9})])
def test_images_that_come_before_the_weights_wait(loaded, plain, codes, simulations, stalls):
    early = copy.copy(loaded)
    early.wait = 0
    expected = early.expected(codes)
    found = early.run(codes, early.roomy_depths(), simulations, stalls, expected)
    np.testing.assert_array_equal(found.codes, plain.codes)
    assert found.checksums == expected.checksums
    # the first image has waited for the weights
    assert found.latency > plain.latency


@needs_verilator
@pytest.mark.parametrize("which", [0, -1])
def test_a_wrong_bit_of_a_loaded_word_is_named(loaded, codes, simulations, tmp_path, which):
    """The lowest weight of the first word of the first node of the chain, and of the last one."""
    wrong = copy.copy(loaded)
    node = wrong.loaded[which]
    before = wrong.loaded if which else []
    wrong.beat = sum(len(n.module.load) for n in before[:-1])
    wrong.bit = 2
    message = rf"stream {node.outputs[0]} differs from the integer executor in image 0 of 1"
    with pytest.raises(Disagreement) as refused:
        prove(wrong, codes, tmp_path, tmp_path / "evidence", lambda line: None, simulations)
    assert re.search(message, str(refused.value))


def test_what_is_written_is_what_the_stream_takes(loaded, network, tmp_path):
    module = loaded.module({})
    write_design(module, tmp_path / RTL)
    index = json.loads((tmp_path / RTL / LOADED_INDEX).read_text())
    data = np.fromfile(tmp_path / RTL / LOADED, np.uint8).reshape(index["beats"], 9)
    assert (data == load_beats(module)).all() and index["beat_bytes"] == LOAD.bytes == 9
    assert index["port"] == LOAD.name
    in_order = [word for node in loaded.nodes for word in node.module.load]
    assert [beat.tobytes()[::-1].hex() for beat in data] == in_order
    # each unit's file is gone, and the others' are there
    for i, node in enumerate(loaded.nodes):
        if node.module.name.startswith(MATRIX):
            file = tmp_path / RTL / f"n{i}_weights.mem"
            assert file.exists() == (node.module.name == MATRIX)
    write_design(network.module({}), tmp_path / "without")
    assert not list((tmp_path / "without").glob("load*"))
    assert LOAD.name not in (tmp_path / "without" / "network.sv").read_text()


def test_a_bitstream_refuses_loaded_weights(loaded, tmp_path):
    with pytest.raises(UserError, match="no bitstream of a network whose weights are loaded"):
        one_node(loaded.module({}), None, tmp_path)
