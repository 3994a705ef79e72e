"""Compares every stream of a simulated network with the executor; names the first that differs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lmaunet.errors import Disagreement
from lmaunet.fpga.simulation.network import Network, NetworkRun
from lmaunet.fpga.simulation.simulator import Stalls
from lmaunet.fpga.simulation.streams import Expected, Inside


def run_and_compare(
    network: Network,
    name: str,
    images: np.ndarray,
    expected: Expected,
    depths: Mapping[str, int],
    simulations: Path,
    evidence: Path,
    stalls: Stalls | None = None,
) -> NetworkRun:
    """Simulate images and compare every stream with what it must carry.

    Where one differs, the same run is made again with the words of that stream kept.

    Args:
        network: the folded graph's RTL.
        name: of the run, for the text of what is raised.
        images: codes ``(n, H, W, C)``.
        expected: what exactly these images must give.
        depths, simulations, stalls: see :meth:`lmaunet.fpga.simulation.network.Network.run`.
        evidence: the folder in which a stream that differs is saved.

    Raises:
        Disagreement: with the first stream in topological order that differs, its first image and
            beat, and the place of both streams.
        Deadlock, BrokenRule: see :func:`lmaunet.fpga.simulation.simulator.simulate`.
    """
    found = network.run(images, depths, simulations, stalls, expected)
    wrong = [
        (stream, image)
        for stream in expected.streams
        if (image := _differs(found.checksums[stream.name], expected.checksums[stream.name]))
        is not None
    ]
    if not wrong:
        return found
    stream, image = wrong[0]
    again = network.run(images, depths, simulations, stalls, expected, stream.name)
    want = network.expected_words(images[image], stream.name)
    where = _place(stream, image, again.kept, want, evidence)
    raise Disagreement(
        f"{name}: stream {stream.name} differs from the integer executor in image {image} of "
        f"{len(images)}, {where}; it is the first in topological order of {len(wrong)} that "
        f"differ, {len(expected.streams)} were compared"
    )


def _differs(got: tuple[int, ...], want: tuple[int, ...]) -> int | None:
    """Return the first image whose checksum is missing or another one; None where all agree."""
    for image, checksum in enumerate(want):
        if image >= len(got) or got[image] != checksum:
            return image
    return None


def _place(
    stream: Inside, image: int, kept: np.ndarray | None, want: np.ndarray, evidence: Path
) -> str:
    """Return at which beat a stream differs in an image, and save both."""
    assert kept is not None
    got = kept[image * want.size : (image + 1) * want.size]
    got = got[: len(got) // want.shape[1] * want.shape[1]].reshape(-1, want.shape[1])
    evidence.mkdir(parents=True, exist_ok=True)
    saved = evidence / f"stream_{re.sub(r'[^A-Za-z0-9.]+', '_', stream.name)}.npz"
    mine, theirs = stream.beats.integers(got), stream.beats.integers(want)
    np.savez_compressed(saved, got=mine, expected=theirs)
    unequal = np.flatnonzero((got != want[: len(got)]).any(1))
    if not len(unequal):
        return f"where {len(got)} of {len(want)} beats came, all right; they are in {saved}"
    beat = int(unequal[0])
    lane = int(np.flatnonzero(mine[beat] != theirs[beat])[0])
    return (
        f"beat {beat} of {len(want)}, lane {lane} of {stream.beats.lanes}: got {mine[beat, lane]}, "
        f"expected {theirs[beat, lane]}; {len(unequal)} beats differ, both are in {saved}"
    )
