"""Intensities of each channel: a window of fixed values, or mean and deviation of what is there.

A normalization is plain JSON, so that a build can repeat it: ``{"kind": ...}`` for all channels,
or ``{"kind": "channels", "channels": [{"kind": ...}, ...]}`` for each its own. The steps are
:func:`bind` (statistics of the whole volume), :func:`to_unit` (slices, before they are framed) and
:func:`standardize` (after).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmaunet.data.user_json import shown
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ABDOMEN_WINDOW_HU = (-125.0, 275.0)
KINDS = {
    "window": "clipped to a window",
    "zscore": "z-score of each slice",
    "zscore_volume": "z-score of each volume",
    "zscore_nonzero": "z-score of each volume's non-zero voxels, zeros kept",
    "rescale": "each volume rescaled to 0..1",
    "none": "values as in the file",
}
CHANNELS = "channels"
SMALLEST_WINDOW = 1e-12
SMALLEST_DEVIATION = 1e-6


def window(low: float, high: float) -> dict[str, Any]:
    """Return the normalization that maps ``[low, high]`` to [0, 1] and clips beyond."""
    return {"kind": "window", "low": float(low), "high": float(high), "mean": 0.0, "std": 1.0}


def zscore(of: str = "slice") -> dict[str, Any]:
    """Return the normalization of each slice, volume or volume's nonzero voxels to deviation 1."""
    return {"kind": "zscore" if of == "slice" else f"zscore_{of}"}


def of_channels(normalizations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one normalization from those of the channels, in their order."""
    if len(normalizations) == 1:
        return dict(normalizations[0])
    return {"kind": CHANNELS, CHANNELS: [dict(each) for each in normalizations]}


def channel(normalization: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """Return the normalization of one channel."""
    if normalization["kind"] == CHANNELS:
        return normalization[CHANNELS][index]
    return normalization


def check(normalization: Any, where: str, channels: int | None = None) -> dict[str, Any]:
    """Return a normalization read from a file; raises :class:`UserError` where it is not one.

    Args:
        normalization: one for all channels, or a list of one for each.
        where: the file, for the message.
        channels: how many there are, where that is known.
    """
    if isinstance(normalization, Mapping) and normalization.get("kind") == CHANNELS:
        normalization = normalization.get(CHANNELS)
    if not isinstance(normalization, list):
        return _check_one(normalization, where)
    if not normalization or channels not in (None, len(normalization)):
        raise UserError(
            f"{where}: normalization of {len(normalization)} channel(s); expected one for each of "
            f"the {channels or 'network'} channel(s), or one for all"
        )
    return of_channels([_check_one(each, where) for each in normalization])


def _check_one(normalization: Any, where: str) -> dict[str, Any]:
    try:
        kind = normalization["kind"]
        if kind == "window":
            made = window(_real(normalization["low"]), _real(normalization["high"]))
            widest = max(abs(made["low"]), abs(made["high"]))
            # what float32 can divide by; NaN and infinity are neither
            if made["high"] - made["low"] > SMALLEST_WINDOW and widest < 1 / SMALLEST_WINDOW:
                return made
        elif kind in KINDS:
            return {"kind": kind}
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise UserError(
        f"{where}: normalization {shown(normalization)}; expected "
        '{"kind": "window", "low": -125, "high": 275} or {"kind": KIND} with '
        f"{', '.join(kind for kind in KINDS if kind != 'window')}, or a list of one for each "
        "channel"
    )


def check_trained(normalization: Any, where: str, channels: int) -> dict[str, Any]:
    """Return the normalization of a trained network, with the statistics of its training.

    Raises:
        UserError: where it is none, or of another number of channels; so do KeyError, TypeError
            and ValueError for statistics that are none.
    """
    checked = check(normalization, where, channels)
    if checked["kind"] == CHANNELS:
        pairs = zip(checked[CHANNELS], normalization[CHANNELS], strict=True)
        return {**checked, CHANNELS: [_with_given(*pair) for pair in pairs]}
    return _with_given(checked, normalization)


def _with_given(checked: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if checked["kind"] != "window":
        return checked
    mean, std = float(given["mean"]), float(given["std"])
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"mean {mean}, std {std}")
    return {**checked, "mean": mean, "std": std}


def _real(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def describe(normalization: Mapping[str, Any], channels: Sequence[str]) -> list[str]:
    """Return a line for each channel, or one where all are treated alike."""
    each = [_describe_one(channel(normalization, i)) for i in range(len(channels))]
    if len(set(each)) == 1:
        return [each[0]]
    return [f"{name}: {text}" for name, text in zip(channels, each, strict=True)]


def _describe_one(normalization: Mapping[str, Any]) -> str:
    text = KINDS[normalization["kind"]]
    if normalization["kind"] == "window":
        text += f" of {normalization['low']:g} to {normalization['high']:g}"
    return text


def bind(normalization: Mapping[str, Any], volume: np.ndarray) -> Mapping[str, Any]:
    """Return a channel's normalization with the statistics of a volume that it depends on.

    Args:
        normalization: of one channel.
        volume: the channel ``(z, y, x)`` as read, whole, because slices are taken from it later.
    """
    import numpy as np

    kind = normalization["kind"]
    if kind == "rescale":
        low, high = float(volume.min()), float(volume.max())
        span = high - low
        return {**normalization, "mean": low, "std": span if span > SMALLEST_DEVIATION else 1.0}
    if kind not in ("zscore_volume", "zscore_nonzero"):
        return normalization
    voxels = volume[volume != 0] if kind == "zscore_nonzero" else volume
    if voxels.size == 0:
        return {**normalization, "mean": 0.0, "std": 1.0}
    std = float(voxels.std(dtype=np.float64))
    return {
        **normalization,
        "mean": float(voxels.mean(dtype=np.float64)),
        "std": std if std > SMALLEST_DEVIATION else 1.0,
    }


def to_unit(images: np.ndarray, normalization: Mapping[str, Any]) -> np.ndarray:
    """Return ``(n, H, W)`` float32 images of a channel after the first step, before padding.

    A window gives [0, 1]; a z-score gives each slice mean 0 and deviation 1 (0 where it is flat).
    What depends on the volume must have been through :func:`bind`.
    """
    import numpy as np

    images = images.astype(np.float32)
    kind = normalization["kind"]
    if kind == "window":
        low, high = normalization["low"], normalization["high"]
        return np.clip((images - low) / (high - low), 0.0, 1.0).astype(np.float32)
    if kind == "none":
        return images
    if kind != "zscore":
        unit = ((images - normalization["mean"]) / normalization["std"]).astype(np.float32)
        return np.where(images == 0, np.float32(0), unit) if kind == "zscore_nonzero" else unit
    mean = images.mean((1, 2), keepdims=True)
    std = images.std((1, 2), keepdims=True)
    return ((images - mean) / np.maximum(std, SMALLEST_DEVIATION)).astype(np.float32)


def with_statistics(normalization: Mapping[str, Any], train: np.ndarray) -> dict[str, Any]:
    """Return a normalization whose windows have the mean and deviation of training images.

    They are computed on framed training slices ``(n, channels, H, W)`` only, so that validation
    tells nothing to the network.
    """
    if normalization["kind"] == CHANNELS:
        each = normalization[CHANNELS]
        return of_channels([with_statistics(n, train[:, i]) for i, n in enumerate(each)])
    if normalization["kind"] != "window":
        return dict(normalization)
    std = float(train.std())
    usable = std > SMALLEST_DEVIATION
    return {**normalization, "mean": float(train.mean()), "std": std if usable else 1.0}


def standardize(images: np.ndarray, normalization: Mapping[str, Any]) -> np.ndarray:
    """Return a channel's images after the second step, ``(x - mean) / std`` for a window."""
    import numpy as np

    if normalization["kind"] != "window":
        return images
    return ((images - normalization["mean"]) / normalization["std"]).astype(np.float32)


def fill(units: np.ndarray, normalization: Mapping[str, Any]) -> np.ndarray:
    """Return what padding holds, ``(n, 1, 1)``.

    It is air: 0 for a window, a rescaled volume and a z-score that keeps zeros, else each slice's
    minimum.
    """
    import numpy as np

    if normalization["kind"] in ("window", "rescale", "zscore_nonzero"):
        return np.zeros((len(units), 1, 1), np.float32)
    return units.min((1, 2), keepdims=True)
