"""How much two images tell of each other: mutual information, of all and within both bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

VALUES = 24
QUANTILES = (0.005, 0.995)
FEW = 200


class Judge:
    """Mutual information of two images after a transform, in nats: of all, and within the bodies.

    Bodies are what is above Otsu's threshold. The bias of a histogram of few values is taken off
    (Moddemeijer, Signal Processing 16, 1989), so that of noise it is 0 in the mean.
    """

    def __init__(self, fixed: Any, moving: Any) -> None:
        import SimpleITK

        self.fixed, self.moving = fixed, moving
        self.values = SimpleITK.GetArrayFromImage(fixed)
        self.body = SimpleITK.GetArrayFromImage(SimpleITK.OtsuThreshold(fixed, 0, 1)) > 0
        self.moving_body = SimpleITK.OtsuThreshold(moving, 0, 1)
        self.everywhere = moving * 0 + 1

    def __call__(self, transform: Any) -> tuple[float, float]:
        """Return both for a transform."""
        import SimpleITK

        def moved(image: Any, how: int) -> np.ndarray:
            return SimpleITK.GetArrayFromImage(
                SimpleITK.Resample(image, self.fixed, transform, how, 0.0)
            )

        values = moved(self.moving, SimpleITK.sitkLinear)
        there = moved(self.everywhere, SimpleITK.sitkNearestNeighbor) > 0
        both = there & self.body & (moved(self.moving_body, SimpleITK.sitkNearestNeighbor) > 0)
        return (
            mutual_information(self.values[there], values[there]),
            mutual_information(self.values[both], values[both]),
        )


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mutual information of pairs of values in nats, without its bias; 0 of few."""
    import numpy as np

    if len(first) < FEW:
        return 0.0

    def binned(values: np.ndarray) -> np.ndarray:
        low, high = np.quantile(values, QUANTILES)
        unit = (values - low) / max(float(high - low), 1e-12)
        return np.clip(unit * VALUES, 0, VALUES - 1).astype(np.int64)

    counts = np.bincount(binned(first) * VALUES + binned(second), minlength=VALUES**2)
    joint = counts.reshape(VALUES, VALUES) / counts.sum()
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    seen = joint > 0
    found = float((joint[seen] * np.log(joint[seen] / (rows * columns)[seen])).sum())
    bias = (np.count_nonzero(rows) - 1) * (np.count_nonzero(columns) - 1) / (2 * counts.sum())
    return found - float(bias)
