"""Our estimates against what yosys counts of the operators' RTL."""

from __future__ import annotations

import sys

import cases
import numpy as np
import pytest
from network_synthesis import Synthesiser
from test_synthesis import needs_yosys

from lmaunet.fpga.board.placement import Resources, usually_placed
from lmaunet.fpga.operators import dram_fifo, fifo, width_converter
from lmaunet.fpga.operators.matrix_vector import MVAU

pytestmark = [needs_yosys, pytest.mark.slow, pytest.mark.timeout(1800)]

FACTOR = 1.3
"""How far an estimate may be off, up or down; an operator's next folding is a factor 2 away."""
# Weights of 256 words are in block RAM. In LUTs the estimate has what UltraScale+ holds, two tables
# of 32 words in one LUT, which yosys leaves apart: 16 words of 288 bits are 144 there, 288 here.
MATRIX = {
    "MW": 144, "MH": 64, "SIMD": 9, "PE": 4, "inputDataType": "INT8", "weightDataType": "INT8",
    "outputDataType": "INT20",
}  # fmt: skip
NODES = (
    cases.elementwise(multiply=False, channels=8, pe=4, right="INT8"),
    cases.elementwise(channels=8, pe=4, right="INT8"),
    cases.duplicate_streams(outputs=2, channels=8, pe=4, dtype="INT8"),
    cases.streaming_concat(channels=(8, 4, 8), simd=4),
    cases.max_pool(channels=8, pe=4),
    cases.depthwise_conv(channels=8, pe=4),
)


def matrix():
    weights = np.random.default_rng(0).integers(-127, 128, (MATRIX["MW"], MATRIX["MH"]))
    return MVAU(MATRIX).module([weights])


def modules():
    """Return each module with a function that returns its estimate."""
    found = {node.op_type: (node.module(), node.operator.resources) for node in NODES}
    found["MVAU"] = matrix(), MVAU(MATRIX).resources
    for bits, depth in ((24, 2), (32, 40), (40, 700)):
        layout = fifo.layout(bits, depth)
        queue = fifo.module(layout), lambda b=bits, d=depth: fifo.resources(b, d)
        found[f"FIFO of {depth}"] = queue
    for bits in (8, 24, 64):
        outside = dram_fifo.layout(bits, 300_000, 1 << 20)
        queue = dram_fifo.module(outside, 100), lambda o=outside: dram_fifo.resources_of(o)
        found[f"FIFO of {bits} bits in DRAM"] = queue
    for clients in (1, 3, 8):
        port = dram_fifo.port_module(clients), lambda n=clients: dram_fifo.port_resources(n)
        found[f"port of {clients}"] = port
    found["converter"] = width_converter.module(24, 32), lambda: width_converter.resources(24, 32)
    return found


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    synthesiser = Synthesiser(tmp_path_factory.mktemp("counts"))
    synthesiser.run([module for module, _ in modules().values()], "xcup")
    return {name: synthesiser.filled(module)[0] for name, (module, _) in modules().items()}


def wrong(counted) -> list[str]:
    """Return what is estimated further off than the factor, or with other DSPs or block RAM."""
    own = {name: usually_placed(of()) for name, (_, of) in modules().items()}
    found = []
    for name, got in counted.items():
        for count, mine, its in (("LUT", own[name].lut, got.lut), ("FF", own[name].ff, got.ff)):
            if not its / FACTOR <= mine <= its * FACTOR:
                found.append(f"{name}: {count} estimated {mine}, synthesised {its}")
        if (own[name].dsp, 2 * own[name].bram36) != (got.dsp, got.bram18):
            found.append(f"{name}: {own[name]}, synthesised {got}")
    return found


def test_estimates_are_within_a_factor_of_what_yosys_counts(counted):
    assert wrong(counted) == []


def test_an_estimate_without_the_output_registers_would_be_seen(counted, monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("lmaunet.fpga.operators.") and hasattr(module, "register"):
            monkeypatch.setattr(module, "register", lambda bits: Resources(3, 0, (), 2))
    seen = {line.split(":")[0] for line in wrong(counted)}
    assert {"ElementwiseAdd", "DuplicateStreams", "StreamingConcat", "Pool", "FIFO of 2"} <= seen
