"""Intensities: a window of fixed values for CT, or each slice by its own mean for MRI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ABDOMEN_WINDOW_HU = (-125.0, 275.0)
KINDS = ("window", "zscore")
SMALLEST_WINDOW = 1e-12


def window(low: float, high: float) -> dict[str, Any]:
    """Return the normalization that maps ``[low, high]`` to [0, 1] and clips beyond."""
    return {"kind": "window", "low": float(low), "high": float(high), "mean": 0.0, "std": 1.0}


def zscore() -> dict[str, Any]:
    """Return the normalization of each slice to mean 0 and deviation 1."""
    return {"kind": "zscore"}


def check(normalization: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a normalization read from a file; raises :class:`UserError` where it is not one."""
    try:
        if normalization["kind"] == "window":
            made = window(normalization["low"], normalization["high"])
            widest = max(abs(made["low"]), abs(made["high"]))
            # what float32 can divide by; NaN and infinity are neither
            if made["high"] - made["low"] > SMALLEST_WINDOW and widest < 1 / SMALLEST_WINDOW:
                return made
        elif normalization["kind"] == "zscore":
            return zscore()
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(
        f"{where}: normalization {normalization!r}; expected "
        '{"kind": "window", "low": -125, "high": 275} or {"kind": "zscore"}'
    )


def to_unit(images: np.ndarray, normalization: Mapping[str, Any]) -> np.ndarray:
    """Return ``(n, H, W)`` float32 images after the first step, before padding.

    A window gives [0, 1]; a z-score gives each slice mean 0 and deviation 1 (0 where it is flat).
    """
    import numpy as np

    images = images.astype(np.float32)
    if normalization["kind"] == "window":
        low, high = normalization["low"], normalization["high"]
        return np.clip((images - low) / (high - low), 0.0, 1.0).astype(np.float32)
    mean = images.mean((1, 2), keepdims=True)
    std = images.std((1, 2), keepdims=True)
    return ((images - mean) / np.maximum(std, 1e-6)).astype(np.float32)


def with_statistics(normalization: Mapping[str, Any], train: np.ndarray) -> dict[str, Any]:
    """Return a window normalization with the mean and deviation of the framed training images.

    They are computed on training slices only, so that validation tells nothing to the network.
    """
    if normalization["kind"] != "window":
        return dict(normalization)
    std = float(train.std())
    return {**normalization, "mean": float(train.mean()), "std": std if std > 1e-6 else 1.0}


def standardize(images: np.ndarray, normalization: Mapping[str, Any]) -> np.ndarray:
    """Return images after the second step, ``(x - mean) / std`` for a window; float32."""
    import numpy as np

    if normalization["kind"] != "window":
        return images
    return ((images - normalization["mean"]) / normalization["std"]).astype(np.float32)


def fill(units: np.ndarray, normalization: Mapping[str, Any]) -> np.ndarray:
    """Return what padding holds, ``(n, 1, 1)``: air for a window, else each slice's minimum."""
    import numpy as np

    if normalization["kind"] == "window":
        return np.zeros((len(units), 1, 1), np.float32)
    return units.min((1, 2), keepdims=True)
