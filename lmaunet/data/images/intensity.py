"""Whether an image's values are like those of training: a shift, 8 bits, another modality.

A network answers for any values. What training images had is kept as a few shares and quantiles,
and an image that is unlike is told with a note. The limits are wide, so that a CT of another
scanner, or cut to the inside of a body, is not told (see docs/infer.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lmaunet.data import normalization as norm

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.data.source import Source

SAMPLE = 1 << 20
QUANTILES = {"q001": 0.001, "q050": 0.05, "q500": 0.5, "q950": 0.95, "q999": 0.999}
DARK = 0.25  # of the window: what is below this is air and fat where the window is the abdomen's
LEAST_DARK, LEAST_DARK_IN_TRAINING = 1e-3, 1e-2
LEAST_INSIDE, OF_TRAINING = 0.02, 0.1
MOST_BRIGHT, BEYOND_TRAINING = 0.5, 0.3
NEGATIVE, LEAST_NEGATIVE = -200.0, 0.01  # no MRI has such values, and the air of every CT has
SPREAD = 5.0  # times as wide or as narrow as in training, where values are taken as they are
UNKNOWN_INSIDE, UNKNOWN_BRIGHT = 0.1, 0.1  # for builds without a record of their training images


def measure(image: np.ndarray, kind: Mapping[str, Any]) -> dict[str, float]:
    """Return quantiles of an image, and the shares of it by the window of its normalization.

    ``dark`` is in the window's lowest quarter or below, ``inside`` between its ends, ``bright``
    above; ``negative`` is below -200. Every n-th pixel is looked at, about a million.
    """
    import numpy as np

    flat = np.asarray(image).ravel()
    # an odd step meets all columns
    sample = flat[:: max(1, flat.size // SAMPLE) | 1].astype(np.float64)
    seen = dict(zip(QUANTILES, np.quantile(sample, list(QUANTILES.values())).tolist(), strict=True))
    seen |= {"lowest": float(flat.min()), "highest": float(flat.max())}
    seen["negative"] = float((sample < NEGATIVE).mean())
    if kind["kind"] == "window":
        low, high = kind["low"], kind["high"]
        seen["dark"] = float((sample <= low + DARK * (high - low)).mean())
        seen["inside"] = float(((sample > low) & (sample < high)).mean())
        seen["bright"] = float((sample > high).mean())
    return seen


def combine(measured: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the least and the largest of each figure over the training volumes of a channel."""
    return {
        key: [min(m[key] for m in measured), max(m[key] for m in measured)] for key in measured[0]
    }


@dataclass
class Recorder:
    """Measures the slices that train while they are read for another purpose, channel by channel.

    ``measured`` has the figures of each training volume so far, by channel.
    """

    normalization: Mapping[str, Any]
    measured: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def watch(self, source: Source, train: Sequence[np.ndarray]) -> Source:
        """Return a source whose images are measured when they are read.

        Args:
            source: the volumes.
            train: the slices of each that train, by their positions.
        """
        volumes = [
            dataclasses.replace(
                volume,
                channels=tuple(
                    self._watched(read, picked, index) for index, read in enumerate(volume.channels)
                ),
            )
            for volume, picked in zip(source.volumes, train, strict=True)
        ]
        return dataclasses.replace(source, volumes=volumes)

    def _watched(self, read: Any, picked: np.ndarray, channel: int) -> Any:
        def measured() -> np.ndarray:
            image: np.ndarray = read()
            if len(picked):
                self.add(channel, image[picked])
            return image

        return measured

    def add(self, channel: int, values: np.ndarray) -> None:
        """Measure what trains of one volume of a channel."""
        kind = norm.channel(self.normalization, channel)
        self.measured.setdefault(channel, []).append(measure(values, kind))

    def record(self) -> tuple[dict[str, list[float]], ...]:
        """Return what is kept of each channel."""
        return tuple(combine(self.measured[channel]) for channel in sorted(self.measured))


def check_record(content: Any) -> tuple[dict[str, list[float]], ...]:
    """Return a record that was read from a file; raises ValueError or TypeError for another."""
    record = tuple(
        {str(k): [float(v) for v in pair] for k, pair in channel.items()} for channel in content
    )
    if not all(len(v) == 2 and all(map(math.isfinite, v)) for c in record for v in c.values()):
        raise ValueError("intensity: expected the least and the largest of each figure")
    return record


def unlike(
    seen: Mapping[str, float],
    trained: Mapping[str, Sequence[float]] | None,
    kind: Mapping[str, Any],
    modality: str = "",
) -> list[str]:
    """Return in what an image's values are not those of training; empty where they may be.

    Args:
        seen: what :func:`measure` returned for the image.
        trained: what :func:`combine` returned for training; None for a build without a record.
        kind: the network's normalization.
        modality: the image's, where its file says it.
    """
    if seen["lowest"] == seen["highest"]:
        return [f"every pixel is {seen['lowest'] + 0.0:g}"]  # no -0
    if kind["kind"] != "window":
        positive = trained is None or trained["lowest"][0] >= 0
        if positive and seen["negative"] >= LEAST_NEGATIVE:
            return [
                f"{100 * seen['negative']:.0f}% of the pixels are below {NEGATIVE:g}, as the air "
                "of a CT is"
                + ("; training had none below 0" if trained else "; such a network is for MRI")
            ]
        return _unscaled(seen, trained) if kind["kind"] == "none" and trained else []
    found = []
    low, high = kind["low"], kind["high"]
    dark = low + DARK * (high - low)
    has_dark = trained["dark"][0] >= LEAST_DARK_IN_TRAINING if trained else low < 0
    if has_dark and seen["dark"] < LEAST_DARK:
        share = f"{100 * trained['dark'][0]:.0f}% or more of" if trained else "air and fat in"
        found.append(
            f"hardly a pixel is below {dark:g} (the lowest is {seen['lowest']:g}), as {share} each "
            f"training image {'was' if trained else 'are'}"
        )
    inside = trained["inside"][0] if trained else UNKNOWN_INSIDE
    if seen["inside"] < min(LEAST_INSIDE, OF_TRAINING * inside):
        found.append(
            f"{100 * seen['inside']:.2g}% of the pixels are between {low:g} and {high:g}, the "
            f"network's window; in training {100 * inside:.0f}% or more were"
        )
    bright = trained["bright"][1] if trained else UNKNOWN_BRIGHT
    if seen["bright"] > max(MOST_BRIGHT, bright + BEYOND_TRAINING):
        found.append(
            f"{100 * seen['bright']:.0f}% of the pixels are above {high:g}; in training "
            f"{100 * bright:.0f}% at most were"
        )
    if low < 0 and modality not in ("", "CT"):
        found.append(f"the file's modality is {modality}, and the network's window is of a CT")
    return found


def _unscaled(seen: Mapping[str, float], trained: Mapping[str, Sequence[float]]) -> list[str]:
    """Return in what values that a network takes as they are lie elsewhere than in training."""
    found = []
    low, high = trained["q001"][0], trained["q999"][1]
    if not low <= seen["q500"] <= high:
        found.append(
            f"the median is {seen['q500']:.4g}; the pixels of training were {low:.4g} to {high:.4g}"
        )
    spread = seen["q950"] - seen["q050"]
    widest = trained["q950"][1] - trained["q050"][0]
    narrowest = trained["q950"][0] - trained["q050"][1]
    if spread > SPREAD * widest or spread < narrowest / SPREAD:
        found.append(
            f"90% of the pixels span {spread:.4g}; in training they spanned about {widest:.4g}"
        )
    return found


def compare(
    channels: Sequence[np.ndarray],
    trained: Sequence[Mapping[str, Sequence[float]]],
    normalization: Mapping[str, Any],
    modalities: Sequence[str],
    absent: Collection[int] = (),
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return what was seen and expected of each channel, as JSON, and notes on what is unlike.

    Channels that are ``absent`` are not looked at.
    """
    content: list[dict[str, Any]] = []
    notes: list[str] = []
    for index, image in enumerate(channels):
        kind = norm.channel(normalization, index)
        expected = trained[index] if index < len(trained) else None
        if index in absent:
            content.append({"seen": None, "expected": expected, "unlike": []})
            continue
        seen = measure(image, kind)
        reasons = unlike(seen, expected, kind, modalities[index])
        content.append({"seen": seen, "expected": expected, "unlike": reasons})
        if reasons:
            which = f" of channel {index + 1}" if len(channels) > 1 else ""
            remedy = (
                "a CT must be in Hounsfield units (air -1000, water 0), neither shifted nor scaled "
                "to 8 bits"
                if kind["kind"] == "window" and kind["low"] < 0
                else "give images like those of its training"
            )
            notes.append(
                f"the intensities{which} are not those of training, and the mask is likely to be "
                f"wrong: {'; '.join(reasons)}; {remedy}"
            )
    return content, tuple(notes)
