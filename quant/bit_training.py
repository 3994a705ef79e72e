"""Networks quantized and trained at given bits, all else alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmaunet.data.dataset import Dataset
from lmaunet.graph.graph import Graph, Weights
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.quant.settings import QatSettings
from lmaunet.train.loop import Teacher, fit
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress


@dataclass(frozen=True)
class BitTraining:
    """How one float network is quantized and trained, but for its bits.

    Args:
        graph, weights: the float network.
        separate: joins whose inputs keep scales of their own.
        images: what calibrates, ``(n, channels, *spatial)``.
        data: its training side trains.
        settings: of scales, norms, dropout and the schedule.
        seed: of order and augmentation.
        folder: for the checkpoints.
        processes: this process among those that train together.
        teacher: the float network whose classes are kept to, where that is asked for.
    """

    graph: Graph
    weights: Weights
    separate: tuple[str, ...]
    images: np.ndarray
    data: Dataset
    settings: QatSettings
    seed: int
    folder: Path
    processes: Processes
    teacher: Teacher | None = None

    def calibrated(self, bits: Mapping[str, int]) -> QuantNetwork:
        """Return the network at these bits, calibrated and not trained."""
        network = QuantNetwork(
            self.graph, self.weights, bits, scales=self.settings.scales,
            keep_norms=self.settings.keep_norms, separate=self.separate,
            dropout=self.settings.dropout,
        )  # fmt: skip
        calibrate(network, self.images)
        return network

    def fit(self, network: QuantNetwork, name: str, progress: Progress) -> list[dict[str, float]]:
        """Train what :meth:`calibrated` gave, and fold its norms; return the history.

        It goes on from ``NAME.last.pt`` where that is there.
        """
        history = fit(
            network, self.data.train, self.settings.schedule, classes=len(self.data.classes),
            seed=self.seed, folder=self.folder, name=name, processes=self.processes,
            progress=progress, teacher=self.teacher,
        )  # fmt: skip
        network.fold_norms()
        return history
