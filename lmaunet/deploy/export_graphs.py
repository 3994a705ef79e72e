"""The ONNX files of a run's networks, as an export writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lmaunet.train.schedule import Progress


def write_graphs(
    out: Path, float32: Any, quantized: Any, images: np.ndarray, progress: Progress
) -> None:
    """Write the three ONNX files and the samples into a folder."""
    import torch

    from lmaunet.export import network

    image = torch.from_numpy(images[:1])
    for fraction, name, write, model in (
        (0.0, network.FLOAT32, network.export_float32, float32),
        (0.2, network.QCDQ, network.export_qcdq, quantized),
        (0.4, network.QONNX, network.export_qonnx, quantized),
    ):
        progress(fraction, f"exporting {name}")
        write(model, image, out / name)
    np.savez_compressed(out / "samples.npz", images=images)
