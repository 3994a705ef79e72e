"""Quantization-aware training: quantize, calibrate, score, train; and an FP32 control beside it.

The control is the float network trained the same extra steps on the same batches. Without it the
extra training would be counted as quantization's merit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.data.dataset import Dataset
from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, load_state, save_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.quant.budget import allocate_for_file
from lmaunet.quant.calibration import (
    calibrate,
    check_images,
    choose_slices,
    fix_scales,
    notices,
    spread,
)
from lmaunet.quant.explain import explain
from lmaunet.quant.network import QuantLMaUNet, count_weight_bits
from lmaunet.quant.scan_formats import SiteFormats, choose_for_network, write_formats
from lmaunet.quant.settings import QatSettings
from lmaunet.stage import read_json, record_of, write_json
from lmaunet.train.loop import Teacher, fit
from lmaunet.train.metrics import Scores, predict_logits, score
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress, Schedule

SCAN_IMAGES, EXPLAIN_IMAGES = 8, 8
"""Calibration images from which the scans' number formats are chosen, and costs explained."""

FileBytes = Callable[[QuantLMaUNet], int]
"""Returns the size of the file that a calibrated network would ship as, in bytes."""


def evaluate(model: Any, data: Dataset) -> Scores:
    """Score a torch network on the validation slices."""
    predicted = predict_logits(model, data.val.images).argmax(1)
    return score(predicted, data.val.labels, data.val.cases, data.classes, data.case_spacing_mm)


def train_control(
    model: LMaUNet,
    data: Dataset,
    schedule: Schedule,
    *,
    seed: int,
    folder: Path,
    processes: Processes,
    progress: Progress,
) -> None:
    """Train the float network the same extra steps as QAT will, and score it before and after.

    Writes ``float32.pt`` (the network as it came), ``control.pt`` and ``control.json``. Arguments
    are as for :func:`quantize`.
    """
    control = copy.deepcopy(model)
    history = fit(
        control, data.train, schedule, classes=model.spec.classes, seed=seed, folder=folder,
        name="control", processes=processes, progress=progress,
    )  # fmt: skip
    if processes.first:
        scores = {}
        for name, network in (("float32", model), ("control", control)):
            scores[name] = evaluate(network, data)
            save_checkpoint(
                folder / f"{name}.pt", model.spec, network, dice=scores[name].dice, **_notes(data)
            )
        write_json(
            folder / "control.json",
            {"scores": {k: v.to_json() for k, v in scores.items()}, "history": history},
        )
        (folder / "control.last.pt").unlink()
    processes.wait()


def quantize(
    model: LMaUNet,
    data: Dataset,
    settings: QatSettings,
    *,
    seed: int,
    folder: Path,
    processes: Processes,
    progress: Progress,
    file_bytes: FileBytes | None = None,
) -> None:
    """Quantize a trained network, train it so, and write the results into ``folder``.

    Writes ``model.pt`` (the quantized network), ``qat.json`` (its scores before and after the
    training, notices, history), ``scan.json`` (the number formats of its scans in integers), and
    where asked for ``allocation.json`` and ``explain.json``.

    Args:
        model: the trained FP32 network.
        data: training slices calibrate and train; validation slices only score.
        settings: see :class:`QatSettings`.
        seed: of order and augmentation, the same as the control's.
        folder: where to write; checkpoints in it are resumed.
        processes: this process among those that train together; the first one writes.
        progress: told the fraction of the whole, and what is being done.
        file_bytes: measures a shipped file; needed for a budget.

    Raises:
        UserError: for images that cannot calibrate, or a budget that cannot be met.
    """
    chosen = choose_slices(data)
    images = data.train.images[chosen]
    check_images(images)
    noticed = notices(model, data, chosen)
    bits = dict(settings.bits)
    if settings.budget_bytes is not None:
        if file_bytes is None:
            raise ValueError("a budget needs file_bytes")
        path = folder / "allocation.json"
        if processes.first and not path.exists():
            allocation = allocate_for_file(
                model, images, settings.budget_bytes, settings.scales, file_bytes,
                part(progress, 0.0, 0.2),
            )  # fmt: skip
            write_json(path, allocation)
        processes.wait()
        with record_of(folder):
            allocation = read_json(path)
            noticed += allocation["notices"]
            bits = {row["layer"]: row["bits"] for row in allocation["layers"]}
    quantized = QuantLMaUNet(model, bits, scales=settings.scales, keep_norms=settings.keep_norms)
    progress(0.2, f"calibrating on {len(images)} training slices")
    calibrate(quantized, images)
    scores: dict[str, Scores] = {}
    if processes.first:
        progress(0.22, "scoring PTQ on held-out slices")
        scores["ptq"] = evaluate(quantized, data)
    teacher = None
    if settings.distillation:
        teacher = Teacher(copy.deepcopy(model).to(processes.device), settings.distillation)
    history = fit(
        quantized, data.train, settings.schedule, classes=model.spec.classes, seed=seed,
        folder=folder, name="QAT", processes=processes, progress=part(progress, 0.25, 0.65),
        teacher=teacher,
    )  # fmt: skip
    quantized.fold_norms()
    if processes.first:
        progress(0.9, "scoring QAT on held-out slices")
        scores["qat"] = evaluate(quantized, data)
        formats: list[SiteFormats] = []
        try:
            formats = choose_for_network(
                quantized, spread(images, SCAN_IMAGES), progress=lambda line: progress(0.91, line)
            )
        except UserError as error:
            noticed.append(f"no number formats were chosen for the scans in integers: {error}")
        write_formats(folder / "scan.json", formats)
        if settings.explain:
            rows = explain(quantized, spread(images, EXPLAIN_IMAGES), part(progress, 0.92, 0.08))
            write_json(folder / "explain.json", rows)
        save_checkpoint(
            folder / "model.pt", model.spec, quantized, kind="quantized",
            dice=scores["qat"].dice, bits=quantized.bits, scales=quantized.scales, **_notes(data),
        )  # fmt: skip
        counts = count_weight_bits(model.spec, quantized.bits)
        write_json(
            folder / "qat.json",
            {
                "scores": {name: value.to_json() for name, value in scores.items()},
                "weight_bits": {str(k): v for k, v in sorted(counts.items())},
                "notices": noticed,
                "history": history,
                "calibration_slices": [int(i) for i in chosen],
            },
        )
        (folder / "QAT.last.pt").unlink()
    processes.wait()


def load_quantized(path: Path) -> QuantLMaUNet:
    """Return the quantized network of a checkpoint, in evaluation mode.

    Raises:
        UserError: where the file is not a quantized checkpoint.
    """
    loaded = load_checkpoint(path)
    if loaded.kind != "quantized":
        raise UserError(f"{path} is a {loaded.kind} checkpoint; run qat on it first")
    notes = loaded.notes
    model = QuantLMaUNet(
        LMaUNet(loaded.spec), notes.get("bits", {}), scales=notes.get("scales", "free")
    )
    fix_scales(model)
    load_state(model, loaded.state, path)
    return model.eval()


def calibration_images(data: Dataset) -> np.ndarray:
    """Return the training images ``(n, channels, H, W)`` that :func:`quantize` calibrates with."""
    return data.train.images[choose_slices(data)]


def part(progress: Progress, start: float, share: float) -> Progress:
    """Return the progress of a part that covers a share of the whole."""
    return lambda fraction, line: progress(start + share * fraction, line)


def _notes(data: Dataset) -> dict[str, Any]:
    return {"classes": list(data.classes), "normalization": dict(data.normalization)}
