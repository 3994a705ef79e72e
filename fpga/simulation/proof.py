"""Simulates a whole design to the last cycle: its integers, latency, interval and FIFOs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpga.operators.rtl_module import RtlModule, write_memories, write_sources
from fpga.simulation.network import Network, NetworkRun
from fpga.simulation.simulator import Stalls
from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.errors import Disagreement
from lmaunet.stage import write_json

IMAGES = 2
STALLS = Stalls(0.2, 0.2, seed=1)
RTL, SIMULATION = "rtl", "simulation.json"


@dataclass(frozen=True)
class Proof:
    """What the simulations showed.

    ``alone``, ``tight``: the runs of one and of two images with finite FIFOs and without stalls.
    ``fifos``: of each stream the bits of a word and the depth.
    """

    alone: NetworkRun
    tight: NetworkRun
    fifos: Mapping[str, tuple[int, int]]
    agreements: tuple[Agreement, ...]

    @property
    def fifo_bits(self) -> int:
        """Bits of all FIFOs."""
        return sum(bits * depth for bits, depth in self.fifos.values())

    def to_json(self) -> dict[str, Any]:
        """Return the figures in plain JSON."""
        return {
            "provenance": "simulated",
            "images": IMAGES,
            "bit_exact": all(agreement.passed for agreement in self.agreements),
            "latency_cycles": self.tight.latency,
            "interval_cycles": max(self.tight.intervals),
            "cycles": self.tight.cycles,
            "fifo_bits": self.fifo_bits,
            "fifos": {t: {"bits": b, "depth": d} for t, (b, d) in self.fifos.items()},
            # of one image, by stream, in cycles from its first beat in
            "streams": {
                t: {"begin": begin, "end": self.alone.ends[t]}
                for t, begin in self.alone.begins.items()
            },
            "stalls": {"inputs": STALLS.inputs, "outputs": STALLS.outputs},
            "agreements": [agreement.to_json() for agreement in self.agreements],
        }


def prove(
    network: Network,
    codes: np.ndarray,
    folder: Path,
    evidence: Path,
    progress: Callable[[str], None],
) -> Proof:
    """Simulate an image with roomy and with finite FIFOs, then two, then two with stalls.

    Writes ``folder/simulation.json``.

    Args:
        network: the folded graph's RTL.
        codes: of at least one image, ``(n, H, W, C)``; the first two are simulated.
        folder: an existing folder.
        evidence: where both tensors are saved when the integers differ.
        progress: called with a line on what is being done.

    Raises:
        Disagreement: where a value of the output differs, something deadlocks, a FIFO of a join
            refuses a word, or what should not change the latency does.
        ToolNotFound: without Verilator or a C++ compiler.
    """
    images = codes[np.arange(IMAGES) % len(codes)]
    want = network.executor.run(images)
    with tempfile.TemporaryDirectory() as name:
        simulations = Path(name)
        progress("simulating the RTL: how deep its FIFOs must be")
        roomy = network.run(images[:1], network.roomy_depths(), simulations)
        depths = network.needed_depths(roomy)
        progress("simulating the RTL with finite FIFOs")
        alone = network.run(images[:1], depths, simulations)
        _require_no_waiting(network, roomy, alone)
        progress("simulating the RTL with finite FIFOs: two images")
        tight = network.run(images, depths, simulations)
        progress("simulating the RTL with finite FIFOs and stalls at both ends: two images")
        stalled = network.run(images, depths, simulations, STALLS)
    if tight.latency != roomy.latency:
        raise Disagreement(
            f"an image that follows changes the latency of the first: {tight.latency} cycles, "
            f"expected {roomy.latency}"
        )
    agreements = tuple(
        require_agreement(
            f"RTL{how}, two images, against the integer executor", run.codes, want, 0.0,
            evidence=evidence,
        )
        for how, run in (("", tight), (" with stalls", stalled))
    )  # fmt: skip
    proof = Proof(alone, tight, network.fifo_words(depths), agreements)
    write_json(folder / SIMULATION, proof.to_json())
    return proof


def _require_no_waiting(network: Network, roomy: NetworkRun, tight: NetworkRun) -> None:
    """Raise :class:`Disagreement` where the finite FIFOs are not as good as the roomy ones."""
    for tensor in sorted(network.waiting):
        if tight.blocked[tensor]:
            raise Disagreement(
                f"the FIFO of {tensor} refused a word in {tight.blocked[tensor]} cycles, expected "
                "in none: its depth is too small"
            )
    if tight.latency != roomy.latency:
        raise Disagreement(
            f"finite FIFOs change the latency: {tight.latency} cycles, expected {roomy.latency}"
        )


def write_design(module: RtlModule, folder: Path) -> None:
    """Write a module's sources, memories and ``sources.txt``, the order in which to read them."""
    folder.mkdir()
    paths = write_sources(module, folder)
    write_memories(module, folder)
    (folder / "sources.txt").write_text(
        "".join(f"{path.name}\n" for path in paths), encoding="utf-8"
    )
