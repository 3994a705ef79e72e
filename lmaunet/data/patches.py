"""Volumes as samples: so many neighbouring slices of a case at a time, from a data set's slices.

Slices are prepared as for a network of slices: resampled and framed in their plane, normalised.
Their distance is taken as it is. A volume of fewer slices than a patch has repeats its last one, in
training and where an image is segmented (:func:`lmaunet.data.windows.cover_volume`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from lmaunet.data.chosen import check_memory
from lmaunet.data.dataset import REPEATED, Dataset, SliceSet
from lmaunet.data.source import Source
from lmaunet.data.windows import window_starts
from lmaunet.errors import UserError

OVERLAP = 0.5
"""The share of a patch's slices that its neighbour has too, where patches train."""


def whole_cases(source: Source) -> Source:
    """Return a source whose volumes keep every slice, so that their neighbours are there too."""
    volumes = [dataclasses.replace(volume, keep_all=True) for volume in source.volumes]
    return dataclasses.replace(source, volumes=volumes)


def in_patches(data: Dataset, depth: int) -> Dataset:
    """Return a data set of patches ``(channels, depth, H, W)`` in place of its slices.

    A patch is of slices that follow each other in one case. Training patches overlap by half; those
    that validate do not but for the last one, so that :meth:`SliceSet.by_slice` has each slice
    once.

    Args:
        data: slices.
        depth: slices of a patch.

    Raises:
        UserError: where nnU-Net's recipe prepared the slices, or they do not fit into memory.
    """
    if data.recipe is not None:
        raise UserError(
            f"{data.name} is prepared by nnU-Net's recipe, which gives slices here; give a network "
            "of slices, or train one of volumes with this program"
        )
    train, val = _patches(data.train, depth, OVERLAP), _patches(data.val, depth, 0.0)
    height, width = data.train.images.shape[2:]
    count = (len(train) + len(val)) * depth
    check_memory(count, data.train.images.shape[1], (height, width), data.name)
    sides = [_stack(side, rows) for side, rows in ((data.train, train), (data.val, val))]
    repeated = sum(int((side.z == REPEATED).any(1).sum()) for side in sides)
    notes = list(data.notes)
    if repeated:
        notes.append(
            f"{repeated} patch(es) have fewer than {depth} slices and repeat the last one; no "
            "score counts it twice"
        )
    split = f"{data.split} Samples are patches of {depth} neighbouring slices."
    return dataclasses.replace(
        data, train=sides[0], val=sides[1], split=split.strip(), notes=tuple(notes)
    )


def _runs(slices: SliceSet, depth: int) -> Iterator[np.ndarray]:
    """Yield the positions of slices that follow each other in a case.

    Where a case has longer ones, those of less than half the depth are left out: next to a block
    that validates, single slices are kept as examples without a label.
    """
    for case in dict.fromkeys(slices.cases.tolist()):
        mine = np.flatnonzero(slices.cases == case)
        mine = mine[np.argsort(slices.z[mine], kind="stable")]
        breaks = np.flatnonzero(np.diff(slices.z[mine]) != 1) + 1
        runs = np.split(mine, breaks)
        longest = max(map(len, runs))
        yield from (run for run in runs if len(run) >= min(longest, depth / 2))


def _patches(slices: SliceSet, depth: int, overlap: float) -> np.ndarray:
    """Return the positions of each patch's slices ``(n, depth)``; -1 - i repeats that of i."""
    rows = []
    for run in _runs(slices, depth):
        if len(run) < depth:
            missing = np.full(depth - len(run), -1 - run[-1])
            rows.append(np.concatenate([run, missing]))
            continue
        rows += [run[start : start + depth] for start in window_starts(len(run), depth, overlap)]
    return np.array(rows, np.int64).reshape(-1, depth)


def _stack(slices: SliceSet, rows: np.ndarray) -> SliceSet:
    repeats = rows < 0
    rows = np.where(repeats, -1 - rows, rows)
    return SliceSet(
        np.ascontiguousarray(slices.images[rows].swapaxes(1, 2)),
        slices.labels[rows],
        slices.cases[rows[:, 0]],
        np.where(repeats, REPEATED, slices.z[rows]),
    )
