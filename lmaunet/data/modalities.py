"""A modality that is missing: what stands in for it, and what a network knows of such images.

A channel that is missing is 0 in what the network gets, after normalization. The first convolution
adds nothing for it then, 0 is exact in integers too, and no image has a channel of zeros otherwise
(of a z-score 0 is the mean, of a window it is the mean of the training slices).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ABSENT = 0.0
KIND = "absent"
"""The format of an image that stands in for a missing one."""
MOST_DROPPED = 0.9


@dataclass(frozen=True)
class Modalities:
    """What a network knows of missing modalities.

    Args:
        names: of the channels, in their order.
        drop: with what probability training left each out.
        dice: mean Dice on held-out cases with all, None where nothing was scored.
        missing: the same with each channel missing, in their order.
    """

    names: tuple[str, ...]
    drop: float
    dice: float | None = None
    missing: tuple[float | None, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "names": list(self.names), "drop": self.drop, "absent": ABSENT,
            "dice": {"all": self.dice, "missing": list(self.missing)},
        }  # fmt: skip

    @staticmethod
    def from_json(content: Any, channels: int) -> Modalities | None:
        """Return what :meth:`to_json` wrote, None of None.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        if content is None:
            return None
        names = content["names"]
        dice = [content["dice"]["all"], *content["dice"]["missing"]]
        if not isinstance(names, list) or not all(
            isinstance(name, str) and name.isprintable() for name in names
        ):
            raise TypeError(f"names {names!r:.80}: expected a name for each channel")
        drop = check_drop(content["drop"])
        if len(names) != channels or len(dice) not in (1, channels + 1):
            raise ValueError(f"{len(names)} modalities, {len(dice)} scores for {channels} channels")
        if content["absent"] != ABSENT:
            raise ValueError(f"absent {content['absent']!r}: expected {ABSENT}")
        scores = [None if d is None else float(d) for d in dice]
        if not all(d is None or 0 <= d <= 1 for d in scores):
            raise ValueError(f"Dice {scores}: expected 0 to 1")
        return Modalities(tuple(names), drop, scores[0], tuple(scores[1:]))

    def costs(self, absent: Collection[int]) -> str:
        """Return what it cost on held-out cases that these channels were missing, in words."""
        if len(absent) != 1 or not self.missing:
            return "what that costs was not measured"
        without = self.missing[next(iter(absent))]
        if without is None or self.dice is None:
            return "what that costs is not known: no held-out case could be scored"
        return (
            f"on held-out cases Dice was {100 * without:.1f}% without it and "
            f"{100 * self.dice:.1f}% with all"
        )


def check_drop(value: Any, channels: int | None = None) -> float:
    """Return the probability of dropping a modality; raises UserError for what is none."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not (math.isfinite(value) and 0 <= value <= MOST_DROPPED):
        raise UserError(
            f"--drop-modality {value!s:.20}; expected a probability of 0 to {MOST_DROPPED:g}, such "
            "as 0.2"
        )
    if channels == 1 and value > 0:
        raise UserError(
            f"--drop-modality {value:g} with a network of one channel: nothing would be left; "
            "leave it out"
        )
    return float(value)


def check_droppable(spec: Any, drop: float | None) -> None:
    """Raise UserError where a network's training can't leave modalities out.

    Args:
        spec: the network's.
        drop: the probability.
    """
    other = "an elastic network" if getattr(spec, "elastic", ()) else "a network of volumes"
    if drop and (getattr(spec, "elastic", ()) or len(spec.input_size) > 2):
        raise UserError(
            f"--drop-modality {drop:g} with {other}, whose training leaves no image out; leave the "
            "option out, or train a 2-D network of one kernel"
        )


def dropped(count: int, channels: int, drop: float, rng: np.random.Generator) -> np.ndarray:
    """Return which channels of some images are left out, bool ``(count, channels)``.

    Each is with probability ``drop``; of an image that would lose all, one that is drawn stays.
    """
    import numpy as np

    out = rng.random((count, channels)) < drop
    stays = rng.integers(channels, size=count)  # drawn for all, so that each takes as many draws
    lost = np.flatnonzero(out.all(1))
    out[lost, stays[lost]] = False
    return out


def without(images: np.ndarray, absent: Collection[int]) -> np.ndarray:
    """Return normalised images ``(n, channels, H, W)`` as they are where channels are missing."""
    if not absent:
        return images
    found = images.copy()
    found[:, list(absent)] = ABSENT
    return found


def check_missing(
    absent: Sequence[int], channels: int, known: Modalities | None, network: str
) -> tuple[int, ...]:
    """Return the channels that are missing, in order; ``absent`` counts from 0.

    Raises:
        UserError: where there are no such channels, all are missing, or the network was not
            trained so.
    """
    found = tuple(sorted(absent))
    if len(set(found)) < len(found) or not all(0 <= index < channels for index in found):
        said = ", ".join(str(index + 1) for index in found)
        raise UserError(
            f"missing {said}: the network takes {channels} image(s); give numbers of 1 to "
            f"{channels}, each once"
        )
    if found and len(found) == channels:
        raise UserError("every image is missing; give one or more")
    if found and (known is None or known.drop == 0):
        raise UserError(
            f"an image is missing, and {network} was not trained for that: it would take zeros for "
            f"an image; give all {channels} images, or train it with --drop-modality 0.2"
        )
    return found


def of_notes(content: Mapping[str, Any] | None) -> float:
    """Return the probability of dropping that a checkpoint's notes tell of; 0 where none is."""
    try:
        return check_drop((content or {})["modalities"]["drop"])
    except (KeyError, TypeError, UserError):
        return 0.0
