"""Quantization-aware training: quantize, calibrate, score, train; and an FP32 control beside it.

The control is the float network trained the same extra steps on the same batches. Without it the
extra training would be counted as quantization's merit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lmaunet.data.dataset import Dataset
from lmaunet.data.modalities import Modalities, check_drop, without
from lmaunet.errors import UserError
from lmaunet.graph.file import topology_digest, topology_json
from lmaunet.graph.graph import Array, Graph, Weights
from lmaunet.graph.head import head_of
from lmaunet.graph.layers import layers
from lmaunet.graph_spec import GraphSpec, NetworkSpec
from lmaunet.net.checkpoint import load_checkpoint, load_state, save_checkpoint
from lmaunet.quant.accuracy_control import Control, control_accuracy, within_budget
from lmaunet.quant.bit_training import BitTraining
from lmaunet.quant.bits import resolve_bits
from lmaunet.quant.budget import allocate_for_file, with_bits
from lmaunet.quant.calibration import (
    check_images,
    choose_slices,
    fix_scales,
    notices,
    spread,
)
from lmaunet.quant.confidence import fit_temperature
from lmaunet.quant.explain import explain
from lmaunet.quant.joins import SCALED, SEPARATE, applied, choose_joins
from lmaunet.quant.network import QuantNetwork, check_quantizable, count_weight_bits, graph_of
from lmaunet.quant.norm_conversion import convert_norms
from lmaunet.quant.of_before_graphs import of_before_graphs
from lmaunet.quant.scan_formats import SiteFormats, choose_for_network, write_formats
from lmaunet.quant.settings import CONFIDENCE_FILE, QatSettings
from lmaunet.sources.checkpoint import NNUNET, graph_in, save_network, spec_of
from lmaunet.spec import NetSpec
from lmaunet.stage import read_json, record_of, write_json
from lmaunet.train.loop import Teacher, fit
from lmaunet.train.metrics import Scores, predict_logits, score_slices
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress, Schedule, part

SCAN_IMAGES, EXPLAIN_IMAGES, JOIN_IMAGES = 8, 8, 8
"""Calibration images from which scans' number formats and joins' scales are chosen, and costs
explained."""

NORM_SHARE = 0.4
"""Of the work, where norms are converted and distilled first."""

FORMS = {"scaled": (SCALED,), "auto": (SEPARATE, SCALED)}

FileBytes = Callable[[QuantNetwork], int]
"""Returns the size of the file that a calibrated network would ship as, in bytes."""


def evaluate(model: Any, data: Dataset) -> Scores:
    """Score a torch network on the validation slices."""
    predicted = predict_logits(model, data.val.images).argmax(1)
    return score_slices(predicted, data)


def modalities_of(model: Any, data: Dataset, schedule: Schedule, scores: Scores) -> dict[str, Any]:
    """Return a note on missing modalities, as JSON, where training left some out; else nothing.

    The network is scored once more for each channel, with it missing.
    """
    drop = schedule.drop_modality or 0.0
    channels = len(data.channels)
    if not check_drop(drop, channels):
        return {}
    dice = [
        found.dice if math.isfinite(found.dice) else None
        for found in (scores, *scores_without_each(model, data))
    ]
    known = Modalities(data.channels, drop, dice[0], tuple(dice[1:]))
    return {"modalities": known.to_json()}


def scores_without_each(model: Any, data: Dataset) -> list[Scores]:
    """Return the scores on the validation slices with each channel missing, in their order."""
    found = []
    for channel in range(len(data.channels)):
        val = dataclasses.replace(data.val, images=without(data.val.images, (channel,)))
        found.append(evaluate(model, dataclasses.replace(data, val=val)))
    return found


def train_control(
    model: nn.Module,
    spec: NetworkSpec,
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
        control, data.train, schedule, classes=spec.classes, seed=seed, folder=folder,
        name="control", processes=processes, progress=progress,
    )  # fmt: skip
    if processes.first:
        scores = {}
        for name, network in (("float32", model), ("control", control)):
            scores[name] = evaluate(network, data)
            known = modalities_of(network, data, schedule, scores[name])
            save_network(folder / f"{name}.pt", spec, network, dice=scores[name].dice,
                         **notes_for(data), **(known if name == "control" else {}))  # fmt: skip
        write_json(
            folder / "control.json",
            {"scores": {k: v.to_json() for k, v in scores.items()}, "history": history, **known},
        )
        (folder / "control.last.pt").unlink()
    processes.wait()


def prepare(
    model: nn.Module, data: Dataset, settings: QatSettings
) -> tuple[Graph, dict[str, Array], np.ndarray, dict[str, int]]:
    """Return a network's graph and weights, the slices that calibrate, and the bits of rules.

    Raises:
        UserError: for what :func:`quantize` refuses before it begins.
    """
    check_drop(settings.schedule.drop_modality or 0.0, len(data.channels))
    chosen = choose_slices(data)
    images = data.train.images[chosen]
    check_images(images)
    graph, weights = graph_of(model, images.shape)
    check_quantizable(graph)
    if settings.dropout:
        if images.ndim == 5:
            raise UserError(
                "--dropout for a network of volumes; how sure a network is is known of slices "
                "only: leave it out"
            )
        head_of(graph)
    return graph, weights, chosen, resolve_bits(graph, settings.bits)


def quantize(
    model: nn.Module,
    spec: NetworkSpec,
    data: Dataset,
    settings: QatSettings,
    *,
    seed: int,
    folder: Path,
    processes: Processes,
    progress: Progress,
    file_bytes: FileBytes | None = None,
    control: Control | None = None,
) -> None:
    """Quantize a trained network, train it so, and write the results into ``folder``.

    Writes ``model.pt`` (the quantized network), ``qat.json`` (its scores before and after the
    training, notices, history), ``scan.json`` (the number formats of its scans in integers),
    ``joins.json``, and where asked for ``allocation.json``, ``explain.json``, ``confidence.json``
    (the dropout and the temperature of its confidence), ``accuracy_control.json`` (the search for
    bits that keep a limit), and the float network with converted norms, ``converted.pt`` and
    ``norms.json``.

    Args:
        model: the trained FP32 network, any that a graph can be captured of.
        spec: what the network is.
        data: training slices calibrate and train; validation slices score, and with dropout the
            temperature of its confidence, on which no class depends, is fitted to them.
        settings: see :class:`QatSettings`.
        seed: of order and augmentation, the same as the control's.
        folder: where to write; checkpoints in it are resumed.
        processes: this process among those that train together; the first one writes.
        progress: told the fraction of the whole, and what is being done.
        file_bytes: measures a shipped file; needed for a budget.
        control: what a drop is measured against; needed for a limit. Its patients are none of
            ``data``.

    Raises:
        UserError: for images that cannot calibrate, a budget that cannot be met, bits of a layer
            that is not there, or a network that can't be quantized.
    """
    graph, weights, chosen, bits = prepare(model, data, settings)
    images = data.train.images[chosen]
    noticed = notices(graph, weights, data, chosen)
    scores: dict[str, Any] = {}
    norms: dict[str, Any] = {}
    if settings.norm == "batch":
        progress, whole = part(progress, NORM_SHARE, 1 - NORM_SHARE), progress
        done = convert_norms(
            model, (graph, weights), spec.name, data, images, settings, seed=seed, folder=folder,
            processes=processes, progress=part(whole, 0.0, NORM_SHARE),
            evaluate=lambda network: evaluate(network, data),
        )  # fmt: skip
        graph, weights, norms = done.graph, done.weights, done.record
        scores, noticed = dict(done.scores), noticed + done.notices
        if isinstance(spec, GraphSpec):  # it names its graph
            spec = spec_of(graph, spec.name)
    joined = _joins(graph, weights, images, spec, settings, folder, processes, progress)
    weights, separate = applied(graph, weights, joined)
    if settings.budget_bytes is not None:
        if file_bytes is None:
            raise ValueError("a budget needs file_bytes")
        allocation = _allocation(
            graph, weights, images, settings, file_bytes, separate, folder, processes, progress
        )
        bits = {row["layer"]: row["bits"] for row in allocation["layers"]}
    teacher = None
    if settings.distillation:
        teacher = Teacher(copy.deepcopy(model).to(processes.device), settings.distillation)
    training = BitTraining(
        graph, weights, separate, images, data, settings, seed, folder, processes, teacher
    )
    name = "QAT"
    if settings.max_drop is not None:
        if control is None:
            raise ValueError("a limit needs control")
        if settings.budget_bytes is not None:
            assert file_bytes is not None
            control = within_budget(control, training, allocation, file_bytes)
        bits, name, size = control_accuracy(
            control, training, bits, settings.max_drop, part(progress, 0.2, 0.65)
        )
        if size is not None and processes.first:
            allocation = with_bits(allocation, graph, bits, size)
            write_json(folder / "allocation.json", allocation)
        progress = part(progress, 0.85, 0.15)
    if settings.budget_bytes is not None:
        noticed += allocation["notices"]
    progress(0.2, f"calibrating on {len(images)} training slices")
    quantized = training.calibrated(bits)
    if processes.first:
        progress(0.22, "scoring PTQ on held-out slices")
        scores["ptq"] = evaluate(quantized, data).to_json()
    history = training.fit(quantized, name, part(progress, 0.25, 0.65))
    if processes.first:
        progress(0.9, "scoring QAT on held-out slices")
        after = evaluate(quantized, data)
        scores["qat"] = after.to_json()
        known = modalities_of(quantized, data, settings.schedule, after)
        formats: list[SiteFormats] = []
        try:
            formats = choose_for_network(
                quantized, spread(images, SCAN_IMAGES), progress=lambda line: progress(0.91, line)
            )
        except UserError as error:
            noticed.append(f"no number formats were chosen for the scans in integers: {error}")
        write_formats(folder / "scan.json", formats)
        if settings.dropout:
            progress(0.92, "fitting the temperature of its confidence on held-out slices")
            found = fit_temperature(quantized, data, settings.dropout)
            write_json(folder / CONFIDENCE_FILE, found)
        if settings.explain:
            rows = explain(quantized, spread(images, EXPLAIN_IMAGES), part(progress, 0.92, 0.08))
            write_json(folder / "explain.json", rows)
        save_checkpoint(
            folder / "model.pt", spec, quantized, kind="quantized", graph=topology_json(graph),
            dice=after.dice, bits=quantized.bits, scales=quantized.scales,
            separate=list(quantized.separate), norm=settings.norm, **notes_for(data), **known,
        )  # fmt: skip
        counts = count_weight_bits(graph, quantized.bits)
        write_json(
            folder / "qat.json",
            {
                "scores": scores,
                "network": described(graph),
                "weight_bits": {str(k): v for k, v in sorted(counts.items())},
                "joins": joined,
                **({"norms": norms} if settings.norm == "batch" else {}),
                "notices": noticed,
                "history": history,
                **known,
                "calibration_slices": [int(i) for i in chosen],
            },
        )
        (folder / f"{name}.last.pt").unlink()
    processes.wait()


def _joins(
    graph: Graph,
    weights: Weights,
    images: np.ndarray,
    spec: NetworkSpec,
    settings: QatSettings,
    folder: Path,
    processes: Processes,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Return how the network's joins are rounded, from ``joins.json``, which is made once."""
    path = folder / "joins.json"
    ways = settings.joins or ("shared" if isinstance(spec, NetSpec) else "auto")
    if processes.first and not path.exists():
        joins = [] if ways == "shared" else choose_joins(
            graph, weights, spread(images, JOIN_IMAGES), part(progress, 0.0, 0.05),
            forms=FORMS[ways], scales=settings.scales, device=processes.device,
        )  # fmt: skip
        write_json(path, [join.to_json() for join in joins])
    processes.wait()
    with record_of(folder):
        found: list[dict[str, Any]] = read_json(path)
    return found


def _allocation(
    graph: Graph,
    weights: Weights,
    images: np.ndarray,
    settings: QatSettings,
    file_bytes: FileBytes,
    separate: tuple[str, ...],
    folder: Path,
    processes: Processes,
    progress: Progress,
) -> dict[str, Any]:
    """Return the bits for a budget, from ``allocation.json``, which is made once."""
    path = folder / "allocation.json"
    assert settings.budget_bytes is not None
    if processes.first and not path.exists():
        allocation = allocate_for_file(
            graph, weights, images, settings.budget_bytes, settings.scales, file_bytes,
            part(progress, 0.05, 0.15), processes.device, separate,
        )  # fmt: skip
        write_json(path, allocation)
    processes.wait()
    with record_of(folder):
        found: dict[str, Any] = read_json(path)
    return found


def load_quantized(path: Path) -> QuantNetwork:
    """Return the quantized network of a checkpoint, in evaluation mode.

    Raises:
        UserError: where the file is not a quantized checkpoint.
    """
    loaded = load_checkpoint(path)
    if loaded.kind != "quantized":
        raise UserError(f"{path} is a {loaded.kind} checkpoint; run qat on it first")
    notes, state = loaded.notes, loaded.state
    bits: Any = notes.get("bits", {})
    graph = graph_in(loaded, path)
    if graph is None:
        assert isinstance(loaded.spec, NetSpec)
        graph, bits, state = of_before_graphs(loaded.spec, bits, state)
    zeros = {name: np.zeros(weight.shape, np.float32) for name, weight in graph.weights.items()}
    with record_of(path.parent):
        model = QuantNetwork(
            graph, zeros, bits, scales=notes.get("scales", "free"),
            separate=notes.get("separate", ()),
        )  # fmt: skip
    fix_scales(model)
    load_state(model, state, path)
    return model.eval()


def described(graph: Graph) -> dict[str, Any]:
    """Return what a report says of a graph: parameters, MACs of one image, its digest."""
    found = layers(graph)
    return {
        "params": sum(layer.params for layer in found),
        "macs": sum(layer.macs for layer in found),
        "graph": topology_digest(graph),
    }


def calibration_images(data: Dataset) -> np.ndarray:
    """Return the training images ``(n, channels, H, W)`` that :func:`quantize` calibrates with."""
    return data.train.images[choose_slices(data)]


def notes_for(data: Dataset) -> dict[str, Any]:
    """Return what a checkpoint notes of the data that it was trained on."""
    made = {} if data.recipe is None else {NNUNET: {"recipe": data.recipe.to_json()}}
    return {"classes": list(data.classes), "normalization": dict(data.normalization), **made}
