"""Norms whose statistics come from each image, as batch normalization by statistics of many.

InstanceNorm and GroupNorm need a whole map before they can give its first pixel, and stay float.
Batch normalization folds into the convolution before it. The two compute the same for images that
all have the statistics of the many; for others they do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lmaunet.graph.graph import Array, Graph, Node, Weights
from lmaunet.graph.operators import Norm
from lmaunet.graph.rewrites import Network, Rewrite, norm_of

MAP_NORMS = ("instance", "group")


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and variance (of the population) of each channel, float64 ``(C,)`` each."""

    mean: np.ndarray
    variance: np.ndarray


def map_norm(node: Node) -> Norm | None:
    """Return the operator of a node that is an InstanceNorm or a GroupNorm; None of others."""
    operator = node.operator
    return operator if isinstance(operator, Norm) and operator.kind in MAP_NORMS else None


def norm_counts(graph: Graph) -> Counter[str]:
    """Return how many norms of each kind a graph has."""
    return Counter(node.operator.kind for node in graph.nodes if isinstance(node.operator, Norm))


def unfolded_norms(graph: Graph) -> list[str]:
    """Return the batch normalizations that are not behind a convolution which they alone take."""
    folded = {norm.name for node in graph.nodes if (norm := norm_of(graph, node)) is not None}
    return [
        node.name
        for node in graph.nodes
        if isinstance(node.operator, Norm)
        and node.operator.kind == "batch"
        and node.name not in folded
    ]


def batch_norm_of(
    operator: Norm, role: Mapping[str, Array], found: ChannelStatistics
) -> dict[str, Array]:
    """Return the weights by role of the batch normalization that takes a norm's place.

    ``y = scale * (x - mean) / sqrt(variance + epsilon) + shift`` with the channels' own mean and
    variance m and v. An InstanceNorm keeps its scale and shift. A GroupNorm normalizes by the mean
    M and the variance V of a group, which follow from its channels', ``M = mean m`` and
    ``V = mean (v + m^2) - M^2``, so that its scale and shift change to
    ``scale * sqrt((v + epsilon) / (V + epsilon))`` and
    ``shift + scale * (m - M) / sqrt(V + epsilon)``.

    Args:
        operator: an InstanceNorm or a GroupNorm.
        role: its scale and shift, where it has them.
        found: the statistics of its input.
    """
    mean, variance = found.mean, found.variance
    arrays = {key: np.asarray(array, np.float64) for key, array in role.items()}
    if operator.kind == "group":
        grouped = (operator.groups, -1)
        middle = mean.reshape(grouped).mean(1, keepdims=True)
        squares = (variance + mean**2).reshape(grouped).mean(1, keepdims=True)
        width = np.sqrt(np.maximum(squares - middle**2, 0) + operator.epsilon)
        scale = arrays.get("scale", np.ones_like(mean))
        spread = np.sqrt(variance + operator.epsilon).reshape(grouped) / width
        moved = (mean.reshape(grouped) - middle) / width
        arrays["shift"] = arrays.get("shift", np.zeros_like(mean)) + scale * moved.reshape(-1)
        arrays["scale"] = scale * spread.reshape(-1)
    arrays |= {"mean": mean, "variance": variance}
    return {key: array.astype(np.float32) for key, array in arrays.items()}


def as_batch_norms(
    graph: Graph, weights: Weights, statistics: Mapping[str, ChannelStatistics]
) -> Network:
    """Turn InstanceNorms and GroupNorms into batch normalizations; every other node stays.

    Args:
        graph, weights: the network.
        statistics: of the input of each norm that is turned, by its node's name.
    """
    new = Rewrite(graph)
    for node in graph.nodes:
        operator, arrays = map_norm(node), {role: weights[n] for role, n in node.weights.items()}
        if operator is None or node.name not in statistics:
            new.add(node, arrays)
            continue
        arrays = batch_norm_of(operator, arrays, statistics[node.name])
        names = {role: f"{node.name}.{role}" for role in arrays}
        # a norm that runs twice has one scale and shift, and statistics of each of its places
        kept = dict(node.weights) if operator.kind == "instance" else {}
        made = replace(
            node, operator=Norm("batch", 1, operator.epsilon), weights={**names, **kept}
        )  # fmt: skip
        new.add(made, arrays)
    return new.network()
