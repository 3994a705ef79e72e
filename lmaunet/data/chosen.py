"""Which slices of a volume are taken, and whether they fit in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from lmaunet.data.source import Volume
from lmaunet.data.split import split_by_blocks, useful_slices
from lmaunet.errors import UserError


@dataclass(frozen=True, eq=False)
class Chosen:
    """Positions of a volume's slices that train and that validate; ``sentence`` says how."""

    train: np.ndarray
    val: np.ndarray
    sentence: str = ""


def choose(volume: Volume, labels: np.ndarray) -> Chosen:
    """Return which slices of a volume train and which validate.

    Args:
        volume: says the role of its slices.
        labels: its labels ``(n, H, W)``, or those of slices in another direction.

    Raises:
        UserError: where it is to be divided and has too few slices with labels.
    """
    nothing = np.zeros(0, np.int64)
    pixels = np.stack([np.bincount(s.ravel(), minlength=256) for s in labels])
    if volume.role == "blocks":
        try:
            split = split_by_blocks(pixels)
        except UserError as error:
            raise UserError(f"{volume.case}: {error}") from error
        return Chosen(split.train, split.val, f"{volume.case}: {split.sentence}.")
    kept = np.arange(len(pixels)) if volume.keep_all else useful_slices(pixels)
    return Chosen(kept, nothing) if volume.role == "train" else Chosen(nothing, kept)


def check_memory(slices: int, channels: int, size: tuple[int, int], name: str) -> None:
    """Raise UserError where the slices alone would not fit into the machine's memory."""
    needed = slices * channels * size[0] * size[1] * np.dtype(np.float32).itemsize
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if needed > there:
        raise UserError(
            f"{name}: {slices} slices of {channels}x{size[0]}x{size[1]} would run out of memory "
            f"({needed / 2**30:.1f} GiB, the machine has {there / 2**30:.1f}); give fewer cases or "
            "a network of a smaller --input-size"
        )
