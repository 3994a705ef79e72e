"""Slices that are larger than the network's input, covered by overlapping windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

OVERLAP = 0.5
LARGEST_OVERLAP = 0.9


def check_overlap(overlap: float) -> float:
    """Return the share of a window that its neighbour covers too; raises UserError beyond 0.9."""
    if not 0 <= overlap <= LARGEST_OVERLAP:
        raise UserError(
            f"overlap {overlap:g}; expected 0 to {LARGEST_OVERLAP:g} of a window's side; "
            f"{OVERLAP:g} is usual"
        )
    return overlap


def load_windows() -> None:
    """Import torch and MONAI, which takes seconds, so that the first windows need not wait."""
    import monai.inferers.utils  # noqa: F401


def cover(
    images: np.ndarray,
    size: tuple[int, int],
    run: Callable[[np.ndarray], np.ndarray],
    *,
    overlap: float = OVERLAP,
    batch: int = 4,
) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of images of any size not below the network's.

    Images of exactly the network's size go through as they are. Larger ones are covered by windows
    whose logits are averaged, with a Gaussian weight that is largest in a window's middle (MONAI's
    sliding windows; its standard deviation is an eighth of the side).

    Args:
        images: float32 ``(n, channels, H, W)``.
        size: height and width that the network takes.
        run: the network, ``(m, channels, *size)`` to float32 ``(m, classes, *size)``.
        overlap: the share of a window's side that its neighbour covers too.
        batch: windows in a call of ``run``.
    """
    if tuple(images.shape[2:]) == tuple(size):
        return run(images)
    import torch
    from monai.inferers.utils import sliding_window_inference

    def predict(windows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(run(windows.numpy()))

    blended = sliding_window_inference(
        torch.from_numpy(images), size, batch, predict, overlap=overlap, mode="gaussian"
    )
    return blended.numpy()  # type: ignore[union-attr]
