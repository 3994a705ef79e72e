"""Quantization-aware training: quantize, calibrate, score, train, and train an FP32 control.

The control is the float network trained the same extra steps on the same batches. Without it the
extra training would be counted as quantization's merit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmaunet.data.dataset import Dataset
from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, load_state, save_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.stage import write_json
from lmaunet.train.loop import Progress, Schedule, fit
from lmaunet.train.metrics import Scores, predict_logits, score
from lmaunet.train.processes import Processes
from quant.calibration import calibrate, fix_scales
from quant.network import QuantLMaUNet, count_weight_bits

CALIBRATION_IMAGES = 32


@dataclass(frozen=True)
class QatSettings:
    """What QAT does: the schedule of the extra training and the weight bits of each layer."""

    schedule: Schedule
    bits: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"schedule": self.schedule.to_json(), "bits": dict(self.bits)}


def evaluate(model: Any, data: Dataset) -> Scores:
    """Score a torch network on the validation slices."""
    predicted = predict_logits(model, data.val.images).argmax(1)
    return score(predicted, data.val.labels, data.val.cases, data.classes, data.spacing_mm)


def quantize(
    model: LMaUNet,
    data: Dataset,
    settings: QatSettings,
    *,
    seed: int,
    folder: Path,
    processes: Processes,
    progress: Progress,
) -> None:
    """Quantize a trained network and write the results into ``folder``.

    Writes ``model.pt`` (the quantized network), ``float32.pt`` (the network as it came),
    ``control.pt`` (it, trained the same extra steps) and ``qat.json`` (the scores of all four).

    Args:
        model: the trained FP32 network.
        data: training slices calibrate and train; validation slices only score.
        settings: schedule and bits.
        seed: of order and augmentation, the same for QAT and control.
        folder: where to write; checkpoints in it are resumed.
        processes: this process among those that train together; the first one writes.
        progress: told the fraction of the whole, and what is being done.
    """
    before = copy.deepcopy(model)
    quantized = QuantLMaUNet(model, settings.bits)
    step = max(1, len(data.train.images) // CALIBRATION_IMAGES)
    progress(0.0, "calibrating on training slices")
    calibrate(quantized, data.train.images[::step][:CALIBRATION_IMAGES])
    scores: dict[str, Scores] = {}
    if processes.first:
        progress(0.02, "scoring FP32 and PTQ on held-out slices")
        scores["float32"] = evaluate(before, data)
        scores["ptq"] = evaluate(quantized, data)
    history = {}
    for start, name, network in ((0.05, "QAT", quantized), (0.55, "control", model)):
        history[name] = fit(
            network, data.train, settings.schedule, classes=model.spec.classes, seed=seed,
            folder=folder, name=name, processes=processes, progress=_part(progress, start, 0.45),
        )  # fmt: skip
    if processes.first:
        scores["qat"] = evaluate(quantized, data)
        scores["control"] = evaluate(model, data)
        notes: dict[str, Any] = {
            "classes": list(data.classes), "normalization": dict(data.normalization),
        }  # fmt: skip
        for name, network in (("float32", before), ("control", model)):
            dice = scores[name].dice
            save_checkpoint(folder / f"{name}.pt", model.spec, network, dice=dice, **notes)
        save_checkpoint(
            folder / "model.pt", model.spec, quantized, kind="quantized",
            dice=scores["qat"].dice, bits=quantized.bits, **notes,
        )  # fmt: skip
        weight_bits = count_weight_bits(model.spec, quantized.bits)
        write_json(
            folder / "qat.json",
            {
                "scores": {name: value.to_json() for name, value in scores.items()},
                "weight_bits": {str(k): v for k, v in sorted(weight_bits.items())},
                "history": history,
                "calibration_images": len(data.train.images[::step][:CALIBRATION_IMAGES]),
            },
        )
        for name in history:
            (folder / f"{name}.last.pt").unlink()
    processes.wait()


def load_quantized(path: Path) -> QuantLMaUNet:
    """Return the quantized network of a checkpoint, in evaluation mode.

    Raises:
        UserError: where the file is not a quantized checkpoint.
    """
    loaded = load_checkpoint(path)
    if loaded.kind != "quantized":
        raise UserError(f"{path} is a {loaded.kind} checkpoint; run qat on it first")
    model = QuantLMaUNet(LMaUNet(loaded.spec), loaded.notes.get("bits", {}))
    fix_scales(model)
    load_state(model, loaded.state, path)
    return model.eval()


def _part(progress: Progress, start: float, share: float) -> Progress:
    return lambda fraction, line: progress(start + share * fraction, line)
