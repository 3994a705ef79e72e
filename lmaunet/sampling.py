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
