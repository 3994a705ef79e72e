"""Which slices train and which validate: by subject, or by blocks of z in a single volume.

Neighbouring slices of one volume are nearly equal, so a random choice among them would validate
on what was trained. Contiguous blocks with slices dropped between them do not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

GAP = 2
VAL_SLICES = 16
MARGIN = 4
MIN_TRAIN_BLOCK = 3
EMPTY_EVERY = 8
VAL_SHARE, TRAIN_SHARE = 0.25, 0.5


@dataclass(frozen=True, eq=False)
class BlockSplit:
    """Slices of one volume: ``train`` and ``val`` are int arrays of z; ``sentence`` says how."""

    train: np.ndarray
    val: np.ndarray
    sentence: str


def check_gap(train_z: np.ndarray, val_z: np.ndarray, gap: int) -> None:
    """Raise ValueError unless at least ``gap`` slices lie between any train and any val slice."""
    import numpy as np

    if len(train_z) and len(val_z):
        nearest = int(np.abs(train_z[:, None] - val_z[None, :]).min())
        if nearest <= gap:
            raise ValueError(f"train and val slices are {nearest} apart; expected more than {gap}")


def split_by_blocks(
    pixels: np.ndarray, *, val_slices: int = VAL_SLICES, gap: int = GAP
) -> BlockSplit:
    """Split one volume by contiguous blocks of z, every class on both sides where it can be.

    The slices with labels and a margin around them are divided into one to three validation
    blocks, with ``gap`` slices dropped on each side, and training slices between. Among all such
    divisions the one is taken whose worst class is best: a class scores
    ``min(val share / 0.25, train share / 0.5, 1)`` of its pixels. The rest of the volume gives
    every eighth slice to training, as examples without a label.

    Args:
        pixels: ``(n, classes)`` labelled pixels per slice and class, the background first.
        val_slices: validation slices to aim for; at most a third of the slices are taken.
        gap: slices dropped between a training and a validation slice.

    Raises:
        UserError: where the volume has too few labelled slices for a train and a val block.
    """
    import numpy as np

    labelled = np.flatnonzero(pixels[:, 1:].sum(1))
    if len(labelled) == 0:
        raise UserError("the labels hold nothing but background; give labels with organs")
    first = max(0, int(labelled[0]) - MARGIN)
    end = min(len(pixels), int(labelled[-1]) + 1 + MARGIN)
    best: tuple[tuple[float, int], tuple[int, ...], int] | None = None
    wanted = max(1, min(val_slices, (end - first) // 3))
    while best is None and wanted > 0:
        for blocks in (1, 2, 3):
            found = _best_blocks(pixels[first:end], blocks, max(1, round(wanted / blocks)), gap)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        wanted -= 1
    if best is None:
        raise UserError(
            f"{end - first} slices are too few to split one volume; give "
            f"{MIN_TRAIN_BLOCK + gap + 1} or more slices with labels, or several cases"
        )
    _, starts, length = best
    z = np.arange(len(pixels))
    val = np.concatenate([first + s + np.arange(length) for s in starts])
    near = np.abs(z[:, None] - val[None, :]).min(1) <= gap
    inside = (z >= first) & (z < end)
    outside = ~inside & (z % EMPTY_EVERY == 0)
    train = z[(inside | outside) & ~near]
    check_gap(train, val, gap)
    blocks_text = ", ".join(f"{first + s}-{first + s + length - 1}" for s in starts)
    return BlockSplit(
        train,
        val,
        f"one volume split by contiguous blocks of z: {len(val)} slices validate (z {blocks_text}),"
        f" {len(train)} train, at least {gap} slices dropped between them",
    )


def _best_blocks(
    pixels: np.ndarray, blocks: int, length: int, gap: int
) -> tuple[tuple[float, int], tuple[int, ...], int] | None:
    """Return ((score, train slices), starts, length) of the best placement of equal blocks."""
    import numpy as np

    n = len(pixels)
    apart = length + 2 * gap + MIN_TRAIN_BLOCK
    step = max(1, n // 64)
    starts = np.array(
        [
            chosen
            for chosen in itertools.combinations(range(0, n - length + 1, step), blocks)
            if all(b - a >= apart for a, b in itertools.pairwise(chosen))
        ]
    )
    if len(starts) == 0:
        return None
    cumulated = np.concatenate([np.zeros((1, pixels.shape[1]), np.int64), pixels.cumsum(0)])
    low, high = np.maximum(starts - gap, 0), np.minimum(starts + length + gap, n)
    val = (cumulated[starts + length] - cumulated[starts]).sum(1)[:, 1:]
    train = (cumulated[-1] - (cumulated[high] - cumulated[low]).sum(1))[:, 1:]
    total = cumulated[-1][1:]
    here = total > 0
    shares = np.minimum(
        val[:, here] / (VAL_SHARE * total[here]), train[:, here] / (TRAIN_SHARE * total[here])
    )
    score = np.minimum(shares.min(1), 1.0)
    remaining = n - (high - low).sum(1)
    score = np.where(remaining >= MIN_TRAIN_BLOCK, score, -1.0)
    order = np.lexsort((-remaining, -score))
    pick = int(order[0])
    if score[pick] < 0:
        return None
    return (
        (float(score[pick]), int(remaining[pick])),
        tuple(int(s) for s in starts[pick]),
        length,
    )


def split_subjects(subjects: Sequence[str], seed: int, val_share: float = 0.2) -> list[str]:
    """Return the subjects that validate: a fifth of them, at least one, drawn by ``seed``."""
    names = drawn(subjects, seed)
    return names[: max(1, round(val_share * len(names)))]


def drawn(subjects: Sequence[str], seed: int) -> list[str]:
    """Return the subjects, each once, in an order drawn by ``seed``."""
    import numpy as np

    names = sorted(set(subjects))
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def useful_slices(pixels: np.ndarray) -> np.ndarray:
    """Return the z of slices with a label, and of every eighth slice without one."""
    import numpy as np

    z = np.arange(len(pixels))
    return z[(pixels[:, 1:].sum(1) > 0) | (z % EMPTY_EVERY == 0)]
