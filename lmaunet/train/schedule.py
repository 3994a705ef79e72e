"""How long and how fast to train. It loads no torch: a command checks its options with it first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from lmaunet.data.modalities import check_drop
from lmaunet.errors import UserError

Progress = Callable[[float, str], None]
"""Called with the fraction done and a line on what is being done."""


def part(progress: Progress, start: float, share: float, title: str = "") -> Progress:
    """Return the progress of a part that covers a share of the whole, its lines after a title."""
    return lambda fraction, line: progress(start + share * fraction, title + line)


WARMUP_FRACTION = 0.1
LARGEST_RATE = 1.0


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: AdamW, linear warm-up, then half a cosine to zero.

    ``drop_modality`` is the probability with which each channel of an image is left out; None is
    what the network was trained with before, 0 of a new one.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 8
    weight_decay: float = 1e-3
    augment: bool = True
    drop_modality: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.learning_rate <= LARGEST_RATE:
            raise UserError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, "
                f"learning_rate={self.learning_rate}; each must be positive, the rate at most "
                f"{LARGEST_RATE:g}"
            )

        if self.drop_modality is not None:
            check_drop(self.drop_modality)

    def dropping(self, before: float) -> Schedule:
        """Return the schedule with the probability of dropping of before where it says none."""
        if self.drop_modality is not None or not before:
            return self
        return replace(self, drop_modality=before)

    def rate(self, fraction: float) -> float:
        """Return the learning rate after a fraction 0..1 of the training."""
        if fraction < WARMUP_FRACTION:
            return self.learning_rate * max(fraction / WARMUP_FRACTION, 0.01)
        cooled = (fraction - WARMUP_FRACTION) / (1 - WARMUP_FRACTION)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(cooled, 1.0)))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; what is dropped only where it is said, as files of before have it."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("drop_modality", None)}
