"""How much each layer's weights can be rounded before the network says something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from lmaunet.graph.graph import Graph, Weights
from lmaunet.graph.layers import layer_name
from lmaunet.graph.module import GraphModule
from lmaunet.graph.operators import Conv
from lmaunet.graph.rewrites import fold_norms
from lmaunet.quant.convolution import round_weight
from lmaunet.quant.settings import WEIGHT_BITS, Scales
from lmaunet.train.metrics import divergence
from lmaunet.train.schedule import Progress

Sensitivity = Mapping[str, Mapping[int, float]]
"""By layer and weight bits, the mean divergence of a pixel's classes, in nats."""


@torch.no_grad()
def measure(
    graph: Graph,
    weights: Weights,
    images: np.ndarray,
    progress: Progress,
    scales: Scales = "free",
    device: torch.device | str = "cpu",
) -> dict[str, dict[int, float]]:
    """Return every layer's sensitivity to 2, 3, 4 and 8 bits, with all others left in float.

    What is rounded is the weight that ships, with its normalization folded in: powers of two for
    scales fit it differently than the weight before.

    Args:
        graph, weights: the trained float network.
        images: calibration images ``(n, channels, *spatial)``.
        progress: told the fraction done.
        scales: what the weights' scales may be.
        device: where it is computed.
    """
    graph, weights = fold_norms(graph, weights)
    model = GraphModule(graph, weights).eval().to(device)
    batch = torch.from_numpy(images).to(device)
    reference = model(batch)
    names = weights_by_layer(graph)
    found: dict[str, dict[int, float]] = {}
    for index, (layer, mine) in enumerate(names.items()):
        progress(index / len(names), f"sensitivity of {layer}")
        found[layer] = {}
        for bits in WEIGHT_BITS:
            with contextlib.ExitStack() as stack:
                for name in mine:
                    weight = model.weight(name)
                    rounded = round_weight(weight, bits, scales)
                    stack.enter_context(_replaced(weight, rounded))
                found[layer][bits] = float(divergence(model(batch), reference))
    return found


def weights_by_layer(graph: Graph) -> dict[str, list[str]]:
    """Return the names of the convolutions' weights, without biases, by layer."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if isinstance(node.operator, Conv):
            names = found.setdefault(layer_name(node), [])
            if node.weights["weight"] not in names:
                names.append(node.weights["weight"])
    return found


@contextmanager
def _replaced(weight: Tensor, other: Tensor) -> Iterator[None]:
    kept = weight.detach().clone()
    weight.data.copy_(other)
    try:
        yield
    finally:
        weight.data.copy_(kept)
