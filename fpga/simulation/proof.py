"""Simulates a whole design to the last cycle: its integers, latency, interval and FIFOs."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.errors import Disagreement
from lmaunet.fpga.operators.dram_fifo import STYLE
from lmaunet.fpga.operators.fifo import Layout
from lmaunet.fpga.operators.rtl_module import (
    LOAD,
    RtlModule,
    load_beats,
    write_memories,
    write_sources,
)
from lmaunet.fpga.simulation.compare import run_and_compare
from lmaunet.fpga.simulation.network import Network, NetworkRun
from lmaunet.fpga.simulation.simulator import Stalls
from lmaunet.fpga.sizing.design import Fifo
from lmaunet.stage import write_json

IMAGES, STALLED_IMAGES = 8, 3
STALLS = Stalls(0.2, 0.2, seed=1)
RTL, SIMULATION = "rtl", "simulation.json"
LOADED, LOADED_INDEX = "load.bin", "load.json"
PLACINGS = 3
"""How often FIFOs are measured with others in DRAM, which changes when words come to them."""
COMPARED_WITH = "the integer executor, by a checksum of every stream and image"


@dataclass(frozen=True)
class Proof:
    """What the simulations showed.

    ``alone``, ``tight``: the runs of one and of 8 images with finite FIFOs and without stalls.
    ``fifos``, ``layouts``: of each stream, what it needs and how it is built. ``streams``: how many
    streams were compared, accumulators of scans among them. ``dram``: what the model of the DRAM
    is and did; empty where no FIFO is in it. ``load``: how many nodes have weights that are loaded
    at the start, with how many beats; empty where none has.
    """

    alone: NetworkRun
    tight: NetworkRun
    fifos: Mapping[str, Fifo]
    layouts: Mapping[str, Layout]
    agreements: tuple[Agreement, ...]
    streams: int
    dram: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, int] = field(default_factory=dict)

    @property
    def fifo_bits(self) -> int:
        """Bits of all FIFOs."""
        return sum(found.bits * found.depth for found in self.fifos.values())

    def to_json(self) -> dict[str, Any]:
        """Return the figures in plain JSON."""
        return {
            "provenance": "simulated",
            "images": IMAGES,
            "proof": {
                "streams_compared": self.streams,
                "images": IMAGES,
                "images_with_stalls": STALLED_IMAGES,
                "compared_with": COMPARED_WITH,
            },
            "bit_exact": all(agreement.passed for agreement in self.agreements),
            "latency_cycles": self.tight.latency,
            "interval_cycles": max(self.tight.intervals),
            "intervals": list(self.tight.intervals),
            "cycles": self.tight.cycles,
            "fifo_bits": self.fifo_bits,
            "fifos": {
                t: dataclasses.asdict(found) | {"depth": self.fifos[t].depth}
                for t, found in self.layouts.items()
            },
            # of one image, by stream, in cycles from its first beat in
            "streams": {
                t: {"begin": begin, "end": self.alone.ends[t]}
                for t, begin in self.alone.begins.items()
            },
            "stalls": {"inputs": STALLS.inputs, "outputs": STALLS.outputs},
            "agreements": [agreement.to_json() for agreement in self.agreements],
        } | {
            key: dict(told) for key, told in (("dram", self.dram), ("load", self.load)) if told
        }  # fmt: skip


def prove(
    network: Network,
    codes: np.ndarray,
    folder: Path,
    evidence: Path,
    progress: Callable[[str], None],
    simulations: Path | None = None,
    place: Callable[[Mapping[str, Fifo]], Mapping[str, str]] | None = None,
) -> Proof:
    """Simulate an image with roomy and with finite FIFOs, then 8 and at once 3 with stalls.

    In every run every stream is compared, and what scans show beside theirs. Writes
    ``folder/simulation.json``.

    Args:
        network: the folded graph's RTL.
        codes: of at least one image, ``(n, H, W, C)``; see :func:`eight_images`.
        folder: an existing folder.
        evidence: where both tensors are saved when the integers differ.
        progress: called with a line on what is being done.
        simulations: where compiled simulations are kept; a temporary folder where absent.
        place: returns each FIFO's ``ram_style``, when it is known how deep they are; where absent
            each has exactly the rows that it needs. Where it puts some into DRAM, the first run is
            made again with these there.

    Raises:
        Disagreement: where a stream or a value of the output differs, with the first stream in
            topological order, its image and its beat; where something deadlocks, a FIFO of a join
            refuses a word, what should not change the latency does, or the interval changes, with
            FIFOs in DRAM by more than a burst takes through it at most; or where it stays open
            which FIFOs are in DRAM.
        ToolNotFound: without Verilator or a C++ compiler.
    """
    images = eight_images(codes)
    progress("executing what every stream of the RTL must carry")
    expected = network.expected(images)
    with tempfile.TemporaryDirectory() as name:

        def run(how: str, count: int, depths: Mapping[str, int], stalls: Stalls | None = None):
            return run_and_compare(
                built, f"RTL{how}", images[:count], expected.first(count), depths,
                simulations or Path(name), evidence, stalls,
            )  # fmt: skip

        built = network
        for _ in range(PLACINGS):
            where = ", some in DRAM" if built.in_dram else ""
            progress(f"simulating the RTL: how deep its FIFOs must be{where}")
            roomy = run(f" with roomy FIFOs{where}", 1, network.roomy_depths())
            depths = network.needed_depths(roomy)
            fifos = network.fifos(depths)
            placed = network.placed(place(fifos)) if place else network
            if placed.in_dram == built.in_dram:
                break
            built = network.placed(dict.fromkeys(placed.in_dram, STYLE))
        else:
            raise Disagreement(
                f"which FIFOs go into DRAM changed {PLACINGS} times, because each changes how deep "
                "the others must be"
            )
        built = placed
        progress("simulating the RTL with finite FIFOs")
        alone = run(", one image", 1, depths)
        _require_no_waiting(built, roomy, alone, built.chain_delay(depths))
        progress(
            f"simulating the RTL with finite FIFOs: {IMAGES} images, and beside them "
            f"{STALLED_IMAGES} with stalls at both ends"
        )
        with ThreadPoolExecutor(2) as pool:  # each is a process of its own
            beside = pool.submit(run, " with stalls", STALLED_IMAGES, depths, STALLS)
            tight = run("", IMAGES, depths)
            _require_steady(alone, tight, built.spread)
            stalled = beside.result()
    agreements = tuple(
        require_agreement(
            f"RTL{how}, {len(found.codes)} images, against the integer executor", found.codes,
            expected.output[: len(found.codes)], 0.0, evidence=evidence,
        )
        for how, found in (("", tight), (" with stalls", stalled))
    )  # fmt: skip
    streams = len(expected.streams)
    inside = Agreement(
        f"streams inside the RTL, {IMAGES} images, {STALLED_IMAGES} with stalls, against the "
        "integer executor, by checksum",
        0.0, 0, streams * (1 + 1 + IMAGES + STALLED_IMAGES), 0.0, True,
    )  # fmt: skip
    layouts = {tensor: built.layout(tensor, queue.depth) for tensor, queue in fifos.items()}
    proof = Proof(
        alone, tight, fifos, layouts, (*agreements, inside), streams, _dram(built, tight),
        _load(built),
    )  # fmt: skip
    write_json(folder / SIMULATION, proof.to_json())
    return proof


def eight_images(codes: np.ndarray) -> np.ndarray:
    """Return 8 images: the given ones, then these mirrored, upside down, and both.

    What one image leaves for the next shows only where the next is another one.

    Args:
        codes: of at least one image, ``(n, H, W, C)``.
    """
    kinds = [codes, codes[:, :, ::-1], codes[:, ::-1], codes[:, ::-1, ::-1]]
    turned = np.concatenate(kinds)
    return turned[np.arange(IMAGES) % len(turned)]


def _dram(network: Network, run: NetworkRun) -> dict[str, Any]:
    """Return what the model of the DRAM is, and what it did in a run of several images."""
    if not network.in_dram:
        return {}
    return {
        "fifos": list(network.in_dram),
        "model": "random latencies, in order, at most one beat of 8 bytes a cycle for all together",
        "latency_cycles": {"write": network.dram.write, "read": network.dram.read},
        "bytes_an_image": round(8 * run.dram_beats / len(run.codes)),
        "interval_cycles": {"least": min(run.intervals), "most": max(run.intervals)},
        "spread_allowed": network.spread,
    }


def _load(network: Network) -> dict[str, int]:
    """Return how many nodes have weights that are loaded, and how many beats these are."""
    found = network.loaded
    beats = sum(len(node.module.load) for node in found)
    return {"nodes": len(found), "beats": beats, "beat_bytes": LOAD.bytes} if found else {}


def _require_steady(alone: NetworkRun, tight: NetworkRun, spread: int) -> None:
    """Raise :class:`Disagreement` where images that follow change the latency or the interval.

    The interval between the first two is of a pipeline that fills: FIFOs that hold more than an
    image needs are empty before it. ``spread``: cycles by which latency and interval may change.
    """
    within = f" to within {spread}" if spread else ""
    if abs(tight.latency - alone.latency) > spread:
        raise Disagreement(
            f"an image that follows changes the latency of the first: {tight.latency} cycles, "
            f"expected {alone.latency}{within}"
        )
    _, *steady = tight.intervals
    if max(steady) - min(steady) > spread:
        raise Disagreement(
            f"the interval changes: {', '.join(map(str, tight.intervals))} cycles between "
            f"{len(tight.intervals) + 1} images, expected the same from the second on{within}"
        )


def _require_no_waiting(
    network: Network, roomy: NetworkRun, tight: NetworkRun, chains: int
) -> None:
    """Raise :class:`Disagreement` where the finite FIFOs are not as good as the roomy ones.

    ``chains``: cycles that their chains of memories may add to the latency.
    """
    for tensor in sorted(network.waiting):
        if tight.blocked[tensor]:
            raise Disagreement(
                f"the FIFO of {tensor} refused a word in {tight.blocked[tensor]} cycles, expected "
                "in none: its depth is too small"
            )
    least, most = roomy.latency - network.spread, roomy.latency + chains + network.spread
    if not least <= tight.latency <= most:
        raise Disagreement(
            f"finite FIFOs change the latency: {tight.latency} cycles, expected {least}"
            + (f" to {most}" if most > least else "")
        )


def write_design(module: RtlModule, folder: Path) -> None:
    """Write a module's sources, memories and ``sources.txt``, the order in which to read them.

    Where weights are loaded, ``load.bin`` is all that the stream takes, and ``load.json`` says how.
    """
    folder.mkdir()
    paths = write_sources(module, folder)
    write_memories(module, folder)
    (folder / "sources.txt").write_text(
        "".join(f"{path.name}\n" for path in paths), encoding="utf-8"
    )
    if module.load:
        beats = load_beats(module)
        beats.tofile(folder / LOADED)
        write_json(
            folder / LOADED_INDEX,
            {
                "file": LOADED,
                "port": LOAD.name,
                "beats": len(beats),
                "beat_bytes": LOAD.bytes,
                "note": "after a reset, once: every beat in this order, before any image, its "
                "low byte first; it is taken in every cycle in which tvalid is high",
            },
        )
