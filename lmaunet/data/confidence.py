"""Monte Carlo dropout at a network's head: masks, predictive entropy, volumes with an interval.

After Gal and Ghahramani, arXiv 1506.02142: dropout stays on while the network predicts, and the
spread of T predictions says how sure it is. It is on before the head alone, which is linear and
looks at one pixel at a time, so that all before it runs once.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SAMPLES, FEWEST_SAMPLES, MOST_SAMPLES = 8, 2, 64
LARGEST_SEED = 2**32 - 1
TEMPERATURES = tuple(2 ** (k / 16) for k in range(-32, 33))
"""What temperatures are tried: 1/4 to 4, steps of 4.4%."""


@dataclass(frozen=True)
class Dropout:
    """What a network that was trained with dropout before its head says of it.

    Args:
        rate: the probability of a channel to be dropped.
        channels: of the head's input.
        temperature: by which logits are divided before the softmax; it changes no class.
        fitted: how the temperature was found: ``patients``, ``voxels``, ``samples``, ``seed``.
    """

    rate: float
    channels: int
    temperature: float
    fitted: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "dropout": self.rate, "channels": self.channels, "temperature": self.temperature,
            "fitted": dict(self.fitted),
        }  # fmt: skip

    @staticmethod
    def from_json(content: Any) -> Dropout | None:
        """Return what :meth:`to_json` wrote, None for None.

        Raises:
            ValueError: for a rate, a number of channels or a temperature that cannot be; so do
                KeyError and TypeError for other content.
        """
        if content is None:
            return None
        rate, temperature = float(content["dropout"]), float(content["temperature"])
        channels = content["channels"]
        if not (0 < rate < 1 and 0 < temperature < math.inf):
            raise ValueError(f"dropout {rate:g} with temperature {temperature:g}")
        if type(channels) is not int or channels < 1:
            raise ValueError(f"dropout of {channels!r} channels")
        return Dropout(rate, channels, temperature, dict(content["fitted"]))


def draw_masks(samples: int, channels: int, rate: float, seed: int) -> np.ndarray:
    """Return the masks of the samples, float32 ``(samples, channels)``.

    A channel is 0 with probability ``rate`` and else ``1 / (1 - rate)``. The same seed gives the
    same masks on every machine, and the first of more samples are those of fewer: NumPy keeps the
    stream of this generator, a Mersenne twister, as it is.

    Raises:
        UserError: for a number of samples or a seed that cannot be.
    """
    import numpy as np

    check_draw(samples, seed)
    kept = np.random.RandomState(seed).random_sample((samples, channels)) >= rate
    return (kept / (1 - rate)).astype(np.float32)


def check_draw(samples: int, seed: int) -> None:
    """Raise UserError for a number of samples or a seed that cannot be."""
    if not _whole(samples) or not FEWEST_SAMPLES <= samples <= MOST_SAMPLES:
        raise UserError(
            f"samples {samples!r}; expected {FEWEST_SAMPLES} to {MOST_SAMPLES}; {SAMPLES} is usual"
        )
    if not _whole(seed) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed {seed!r}; expected a whole number from 0 to {LARGEST_SEED}")


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def softmax(logits: np.ndarray, temperature: float, axis: int = 1) -> np.ndarray:
    """Return the softmax of ``logits / temperature`` along an axis, of the logits' type."""
    import numpy as np

    found = (logits - logits.max(axis, keepdims=True)) / logits.dtype.type(temperature)
    np.exp(found, out=found)
    found /= found.sum(axis, keepdims=True)
    return found


def predictive_entropy(shares: np.ndarray, axis: int = 1) -> np.ndarray:
    """Return the entropy ``-sum(p log p)`` in nats of probabilities along an axis.

    It is 0 where one class has all, and at most ``log(classes)``.
    """
    import numpy as np

    logs = np.log(np.maximum(shares, np.finfo(shares.dtype).tiny))
    return np.maximum(-(shares * logs).sum(axis), 0)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest of T samples' values.

    Nothing is assumed of their distribution: a further sample lies between them with probability
    (T - 1) / (T + 1), 0.78 for 8. It is a statement on the samples and not on the truth.
    """
    return float(values.min()), float(values.max())


def covered_share(samples: int) -> float:
    """Return the probability of a further sample to lie within :func:`interval`."""
    return (samples - 1) / (samples + 1)
