"""A few of many: which items stand for all."""

from __future__ import annotations

import numpy as np


def evenly_spread(length: int, count: int) -> np.ndarray:
    """Return the indices ``(min(count, length),)`` of items that stand for ``range(length)``.

    They are the middles of that many equal parts. A volume's first and last slice, which show the
    least, are taken only where all are.
    """
    count = min(count, length)
    return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(int)


def labelled_first(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices ``(min(count, n),)`` of slices to score, in order.

    Those with foreground are preferred, evenly spread; a score of slices without any says nothing.

    Args:
        labels: class indices ``(n, H, W)``, 0 is background.
        count: how many are wanted.
    """
    has = (labels > 0).any((1, 2))
    labelled, rest = np.flatnonzero(has), np.flatnonzero(~has)
    chosen = labelled[evenly_spread(len(labelled), count)]
    filled = rest[evenly_spread(len(rest), count - len(chosen))]
    return np.sort(np.concatenate([chosen, filled]))
