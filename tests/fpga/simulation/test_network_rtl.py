"""A network with every mapped pattern as one module, against the executor's integers."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from bench import needs_verilator

from lmaunet.errors import UserError
from lmaunet.fpga.simulation.simulator import Deadlock, Stalls
from lmaunet.fpga.simulation.stitch import streams_of
from lmaunet.fpga.sizing.folding import FoldedNode

pytestmark = needs_verilator


@pytest.fixture(scope="module")
def want(network, codes):
    return network.executor.run(codes)


@pytest.fixture(scope="module")
def roomy(network, codes, simulations):
    return network.run(codes[:1], network.roomy_depths(), simulations)


@pytest.fixture(scope="module")
def tight(network, codes, simulations, roomy):
    return network.run(codes, network.needed_depths(roomy), simulations)


def test_the_network_gives_the_executors_integers(roomy, want):
    np.testing.assert_array_equal(roomy.codes, want[:1])


def test_finite_fifos_change_nothing(network, codes, simulations, roomy):
    alone = network.run(codes[:1], network.needed_depths(roomy), simulations)
    np.testing.assert_array_equal(alone.codes, roomy.codes)
    assert alone.latency == roomy.latency
    assert all(alone.blocked[tensor] == 0 for tensor in network.waiting)


def test_each_tensor_begins_and_ends_where_its_words_are_seen(network, roomy):
    """Against what the harness saw at the borders, and in the order in which data flows."""
    source, sink = network.executor.input, network.executor.output
    assert set(roomy.begins) == set(roomy.ends) == {source, *network.fifos({})}
    assert roomy.begins[source] == 0
    # the output's FIFO is one register: its last word leaves a cycle after it came
    assert roomy.ends[sink] == roomy.latency - 2
    for node in network.nodes:
        # these wait for every input; a border, say, is put out before anything came in
        if node.module.name in ("matrix_vector", "requantize", "elementwise", "selective_scan"):
            for times in (roomy.begins, roomy.ends):
                came = max(times[tensor] for tensor in node.inputs)
                assert all(times[tensor] > came for tensor in node.outputs)
    assert all(0 <= roomy.begins[t] <= roomy.ends[t] < roomy.cycles for t in roomy.begins)


def test_images_that_follow_change_nothing(roomy, tight, want):
    np.testing.assert_array_equal(tight.codes, want)
    assert tight.latency == roomy.latency
    assert len(tight.intervals) == len(want) - 1 and max(tight.intervals) < tight.latency


@pytest.mark.parametrize("seed", [1, 2])
def test_stalls_change_no_integer(network, codes, simulations, roomy, want, seed):
    stalls = Stalls(0.3, 0.3, seed=seed)
    stalled = network.run(codes, network.needed_depths(roomy), simulations, stalls)
    np.testing.assert_array_equal(stalled.codes, want)


def test_a_fifo_that_is_one_entry_too_small_is_caught(network, codes, simulations, roomy):
    """In the deepest one, a skip: a word is refused, or nothing moves any more."""
    depths = network.needed_depths(roomy)
    deepest = max(depths, key=lambda tensor: depths[tensor])
    assert depths[deepest] > 5
    short = network.run(codes[:1], depths | {deepest: depths[deepest] - 1}, simulations)
    assert short.blocked[deepest] > 0


def test_a_skip_without_room_is_a_deadlock(network, codes, simulations, roomy):
    depths = network.needed_depths(roomy)
    deepest = max(depths, key=lambda tensor: depths[tensor])
    with pytest.raises(Deadlock, match="nothing moved for"):
        network.run(codes, depths | {deepest: 2}, simulations)


def test_a_wrong_weight_is_caught(network, codes, simulations, roomy, want):
    """The mutant: one weight of one node differs."""
    wrong = copy.copy(network)
    wrong.nodes = list(network.nodes)
    place = next(i for i, n in enumerate(wrong.nodes) if n.module.name == "matrix_vector")
    module = wrong.nodes[place].module
    ((name, words),) = module.memories.items()
    flipped = f"{int(words[0], 16) ^ 4:0{len(words[0])}x}"
    changed = dataclasses.replace(module, memories={name: [flipped, *words[1:]]})
    wrong.nodes[place] = dataclasses.replace(wrong.nodes[place], module=changed)
    got = wrong.run(codes, network.needed_depths(roomy), simulations)
    assert (got.codes != want).any()


def test_a_node_without_rtl_is_named(network):
    node = FoldedNode(dataclasses.replace(network.executor.steps[0], op_type="Lookup"))
    with pytest.raises(UserError, match="unknown hardware operator Lookup; known are: BinSum"):
        node.operator.module([])


def test_streams_that_do_not_fit_are_named(network):
    ends = network.executor.input, network.executor.output
    first, *others = network.nodes
    with pytest.raises(UserError, match="nothing makes its input"):
        streams_of([dataclasses.replace(first, outputs=("other",)), *others], *ends)
    with pytest.raises(UserError, match="has 2 consumers, expected 1"):
        twice = dataclasses.replace(network.nodes[-1], outputs=("again",))
        streams_of([*network.nodes, twice], *ends)
