"""What a proof of a design refuses, on a stand-in whose simulations say what a test wants."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fpga.operators.rtl_module import RtlModule
from fpga.simulation.network import NetworkRun
from fpga.simulation.proof import prove
from lmaunet.errors import Disagreement

RIGHT = np.arange(2 * 2 * 2 * 3).reshape(2, 2, 2, 3)
ROOMY, ALONE, TIGHT, STALLED = range(4)


class StandIn:
    """A network of one join; ``changes`` are what a run, by its number, does otherwise."""

    waiting = frozenset({"skip"})

    def __init__(self, changes):
        self.executor, self.changes, self.runs = self, changes, 0

    def run(self, codes, depths=None, simulations=None, stalls=None):
        if depths is None:
            return RIGHT
        found = NetworkRun(RIGHT[: len(codes)], 50, (40,) * (len(codes) - 1), {"skip": 9},
                           {"skip": 0}, {"skip": 3}, {"skip": 30}, 90)  # fmt: skip
        self.runs += 1
        return dataclasses.replace(found, **self.changes.get(self.runs - 1, {}))

    def roomy_depths(self):
        return {"skip": 100}

    def needed_depths(self, run):
        return run.needed

    def fifo_words(self, depths):
        return {"skip": (8, depths["skip"]), "other": (16, 2)}

    def module(self, depths):
        return RtlModule("network", (), {}, (), (), generated={"network.sv": "module"})


def proved(folder, changes):
    codes = np.zeros((1, 2, 2, 1), int)
    return prove(StandIn(changes), codes, folder, folder / "evidence", lambda line: None)


def test_a_design_that_is_right_is_proved(tmp_path):
    found = proved(tmp_path, {TIGHT: {"begins": {"skip": 4}, "ends": {"skip": 70}}})
    assert found.fifo_bits == 8 * 9 + 16 * 2
    assert found.to_json()["bit_exact"] and found.to_json()["interval_cycles"] == 40
    assert found.to_json()["streams"] == {"skip": {"begin": 3, "end": 30}}
    assert (tmp_path / "simulation.json").exists()


@pytest.mark.parametrize(
    ("run", "change", "message"),
    [
        (TIGHT, {"codes": RIGHT + (RIGHT == 7)}, "RTL, two images.*: 1 of 24 elements differ"),
        (STALLED, {"codes": RIGHT + (RIGHT == 7)}, "RTL with stalls.*: 1 of 24 elements differ"),
        (ALONE, {"blocked": {"skip": 1}}, "the FIFO of skip refused a word in 1 cycles"),
        (ALONE, {"latency": 51}, "finite FIFOs change the latency: 51 cycles, expected 50"),
        (TIGHT, {"latency": 51}, "changes the latency of the first: 51 cycles, expected 50"),
    ],
)
def test_a_design_that_is_wrong_is_refused(tmp_path, run, change, message):
    with pytest.raises(Disagreement, match=message):
        proved(tmp_path, {run: change})
    assert not (tmp_path / "simulation.json").exists()
