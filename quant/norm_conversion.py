"""A trained network with InstanceNorm or GroupNorm, as one with batch normalization.

The statistics come from training images, layer by layer: each norm's are those of its input in the
network whose norms before it are converted already. Then the converted network is trained to give
the classes that the one before gave, and the labels (distillation).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmaunet.data.dataset import Dataset
from lmaunet.graph.batch_norms import (
    ChannelStatistics,
    as_batch_norms,
    batch_norm_of,
    map_norm,
    norm_counts,
    unfolded_norms,
)
from lmaunet.graph.graph import Array, Graph, Node, Weights
from lmaunet.graph.integer_form import integer_form
from lmaunet.graph.module import RUN, Context, GraphModule, last_uses
from lmaunet.graph.operators import Norm
from lmaunet.graph.rewrites import Network
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.quant.settings import NORM_RATE, QatSettings
from lmaunet.sources.checkpoint import restore, save_network, spec_of
from lmaunet.stage import read_json, record_of, write_json
from lmaunet.train.loop import Teacher, fit
from lmaunet.train.metrics import Scores
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress, Schedule

CONVERTED, RECORD = "converted.pt", "norms.json"
LARGEST_BYTES = 2 << 30
"""What the values of all images may take together while statistics are computed."""
CHUNK, LEAST_IMAGES = 8, 8
KINDS = {"instance": "InstanceNorm", "group": "GroupNorm", "layer": "LayerNorm"}


@torch.no_grad()
def batch_statistics(
    graph: Graph, weights: Weights, images: np.ndarray, device: torch.device | str = "cpu"
) -> dict[str, ChannelStatistics]:
    """Return the statistics of the input of each InstanceNorm and GroupNorm, by its node's name.

    Each is of the network whose norms before it use the statistics that were found for them. The
    images are held at each node all at once, of which only as many are taken as fit into
    :data:`LARGEST_BYTES`.

    Args:
        graph, weights: the network.
        images: float32 ``(n, channels, *spatial)``.
        device: where it is computed.
    """
    (entry,) = graph.inputs
    kept = images[: images_that_fit(graph, len(images))]
    values = {entry: torch.from_numpy(np.ascontiguousarray(kept, np.float32))}
    free, found = last_uses(graph), {}
    for node in graph.nodes:
        inputs, arrays = [values[name] for name in node.inputs], _by_role(node, weights)
        operator, norm = node.operator, map_norm(node)
        if norm is not None:
            found[node.name] = channel_statistics(inputs[0])
            arrays = batch_norm_of(norm, arrays, found[node.name])
            operator = Norm("batch", 1, norm.epsilon)
        given = {role: torch.from_numpy(array).to(device) for role, array in arrays.items()}
        chunks = []
        for start in range(0, len(kept), CHUNK):
            parts = [value[start : start + CHUNK].to(device) for value in inputs]
            context = Context(graph.sizes_for(len(parts[0])), False)
            chunks.append(RUN[type(operator)](operator, parts, given, context).cpu())
        values[node.name] = torch.cat(chunks)
        del inputs
        for name in free[node.name]:
            del values[name]
    return found


def _by_role(node: Node, weights: Weights) -> dict[str, Array]:
    return {role: weights[name] for role, name in node.weights.items()}


def channel_statistics(value: Tensor) -> ChannelStatistics:
    """Return mean and variance of the channels of ``(N, C, *spatial)``, computed in float64."""
    axes = (0, *range(2, value.dim()))
    count = value.numel() // value.shape[1]
    mean = value.sum(axes, dtype=torch.float64) / count
    shape = (1, -1, *[1] * (value.dim() - 2))
    squares = torch.zeros_like(mean)
    for part in value.split(1):
        squares += (part.double() - mean.reshape(shape)).square().sum(axes)
    return ChannelStatistics(mean.numpy(), (squares / count).numpy())


def images_that_fit(graph: Graph, count: int) -> int:
    """Return of how many images the values fit into :data:`LARGEST_BYTES`, 8 at least."""
    live, most = {name: _elements(graph, name) for name in graph.inputs}, 0
    free = last_uses(graph)
    for node in graph.nodes:
        live[node.name] = _elements(graph, node.name)
        most = max(most, sum(live.values()))
        for name in free[node.name]:
            del live[name]
    return min(count, max(LEAST_IMAGES, LARGEST_BYTES // (4 * most)))


def _elements(graph: Graph, value: str) -> int:
    return int(np.prod(graph.shape(value)))


@dataclass(frozen=True)
class Converted:
    """A network whose norms were converted: it, its scores by name, and what to know of it."""

    graph: Graph
    weights: dict[str, Array]
    scores: dict[str, Any]
    notices: list[str]
    record: dict[str, Any]


def convert_norms(
    model: nn.Module,
    network: Network,
    name: str,
    data: Dataset,
    images: np.ndarray,
    settings: QatSettings,
    *,
    seed: int,
    folder: Path,
    processes: Processes,
    progress: Progress,
    evaluate: Callable[[nn.Module], Scores],
) -> Converted:
    """Convert a network's InstanceNorms and GroupNorms and distil it; what was done is resumed.

    Writes ``converted.pt``, the float network after the distillation, and ``norms.json``.

    Args:
        model: the network as it came, the teacher.
        network: its graph and weights.
        name: of the network.
        data: training slices to distil on.
        images: of them those that give statistics.
        settings: ``norm_epochs`` of them, and the batch size of the schedule.
        seed, folder, processes, progress: as for :func:`lmaunet.quant.qat.quantize`.
        evaluate: scores a network on the held-out slices.
    """
    graph, weights = network
    counts = norm_counts(graph)
    if not counts["instance"] + counts["group"]:
        nothing = "--norm batch converted nothing: the network has no InstanceNorm and no GroupNorm"
        return Converted(graph, dict(weights), {}, [nothing, *_kept(counts)], {"converted": {}})
    path = folder / CONVERTED
    if not path.exists():
        progress(0.0, f"statistics of {counts['instance'] + counts['group']} norms")
        found = batch_statistics(graph, weights, images, processes.device)
        student = GraphModule(*as_batch_norms(graph, weights, found)).eval()
        scores = {}
        if processes.first:
            progress(0.1, "scoring the converted network on held-out slices")
            scores["converted"] = evaluate(student).to_json()
        history: list[dict[str, float]] = []
        if settings.norm_epochs:
            own = settings.schedule
            schedule = Schedule(
                settings.norm_epochs, NORM_RATE, own.batch_size, drop_modality=own.drop_modality
            )
            history = fit(
                student, data.train, schedule, classes=len(data.classes), seed=seed, folder=folder,
                name="norms", processes=processes,
                progress=lambda fraction, line: progress(0.15 + 0.8 * fraction, line),
                teacher=Teacher(copy.deepcopy(model).to(processes.device), 1.0),
            )  # fmt: skip
        if processes.first:
            student.eval()
            if settings.norm_epochs:
                progress(0.96, "scoring the distilled network on held-out slices")
                scores["distilled"] = evaluate(student).to_json()
            record = {
                "converted": {KINDS[kind]: counts[kind] for kind in ("instance", "group")},
                "epochs": settings.norm_epochs, "learning_rate": NORM_RATE, "scores": scores,
                "history": history,
            }  # fmt: skip
            write_json(folder / RECORD, record)
            student.cpu()
            save_network(path, spec_of(student.graph, name), student)
            (folder / "norms.last.pt").unlink(missing_ok=True)
    processes.wait()
    loaded = restore(load_checkpoint(path), path)
    assert isinstance(loaded, GraphModule)
    with record_of(folder):
        record = read_json(folder / RECORD)
    notices = _kept(counts)
    # a norm behind a pixel shuffle moves before it, to the convolution
    ready, _ = integer_form(loaded.graph, loaded.weights())
    if left := unfolded_norms(ready):
        notices.append(
            f"{len(left)} batch normalizations are not behind a convolution that they alone take "
            f"and can't be folded: {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}"
        )
    return Converted(loaded.graph, loaded.weights(), record["scores"], notices, record)


def _kept(counts: Mapping[str, int]) -> list[str]:
    if not counts["layer"]:
        return []
    return [
        f"{counts['layer']} LayerNorms stay as they are: they normalize the channels of each "
        "position, and need no statistics of the map"
    ]
