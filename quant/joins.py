"""How values that are joined are rounded: with one scale, one each, or a producer scaled to it.

An addition or a concatenation of integers needs one scale. That costs little where the values are
about as wide; where one is narrow it keeps few integers, and whatever else takes it loses too.
Which form a network's joins get is chosen by the signal-to-noise ratio of its logits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lmaunet.graph.graph import Array, Graph, Node, Weights
from lmaunet.graph.module import GraphModule
from lmaunet.graph.operators import Add, Concat
from lmaunet.graph.scaled import Scalable, scalable, scaled
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.convolution import Scales
from lmaunet.quant.network import QuantNetwork
from lmaunet.train.schedule import Progress

GAIN_DB = 1.0
"""What another form than one scale must gain: it costs a requantization, or coarser weights."""

SHARED, SEPARATE, SCALED = "shared", "separate", "scaled"


@dataclass(frozen=True)
class Join:
    """The choice for one join.

    Args:
        name: of its node.
        choice: ``shared``, ``separate`` or ``scaled``.
        sqnr_db: of the logits with each form that was tried, all other joins as chosen so far.
        factor: by which the first input that could be was scaled; 1 for other choices.
    """

    name: str
    choice: str
    sqnr_db: dict[str, float]
    factor: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "join": self.name,
            "choice": self.choice,
            "sqnr_db": {name: round(value, 2) for name, value in self.sqnr_db.items()},
            "factor": self.factor,
        }


def choose_joins(
    graph: Graph,
    weights: Weights,
    images: np.ndarray,
    progress: Progress,
    *,
    forms: Collection[str] = (SEPARATE, SCALED),
    scales: Scales = "free",
    device: torch.device | str = "cpu",
) -> list[Join]:
    """Return, for each join of a network, the form that its logits lose least with.

    One join after the other is tried in each form that it can have, with all weights in 8 bits.
    One scale stays unless another form gains :data:`GAIN_DB`.

    Args:
        graph, weights: the float network.
        images: calibration images ``(n, channels, *spatial)``.
        progress: told the fraction done.
        forms: what is tried beside one scale.
        scales: what scales may be.
        device: where it is computed.
    """
    batch = torch.from_numpy(images).to(device)
    with torch.no_grad():
        wanted = GraphModule(graph, weights).eval().to(device)(batch)

    def measured(arrays: Weights, separate: tuple[str, ...]) -> tuple[QuantNetwork, float]:
        network = QuantNetwork(graph, arrays, scales=scales, separate=separate).to(device)
        calibrate(network, images)
        with torch.no_grad():
            noise = (network(batch) - wanted).square().mean()
        return network, 10 * math.log10(float(wanted.square().mean() / noise.clamp_min(1e-30)))

    arrays = dict(weights)
    separate: tuple[str, ...] = ()
    joins = [node for node in graph.nodes if isinstance(node.operator, Add | Concat)]
    best = measured(arrays, separate)[1] if joins else math.inf
    chosen = []
    for index, join in enumerate(joins):
        progress(index / len(joins), f"scales at {join.name}")
        apart, separate_db = measured(arrays, (*separate, join.name))
        found = {SHARED: best, **({SEPARATE: separate_db} if SEPARATE in forms else {})}
        factor, changed = _scaled(graph, arrays, join, apart) if SCALED in forms else (1.0, None)
        if changed is not None:
            found[SCALED] = measured(changed, separate)[1]
        choice = max(found, key=lambda name: found[name])
        if found[choice] < best + GAIN_DB:
            choice = SHARED
        chosen.append(Join(join.name, choice, found, factor if choice == SCALED else 1.0))
        if choice == SCALED and changed is not None:
            arrays = changed
        if choice == SEPARATE:
            separate = (*separate, join.name)
        best = found[choice]
    return chosen


def applied(
    graph: Graph, weights: Weights, rows: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return the weights and the separate joins of choices that were written as JSON."""
    nodes = {node.name: node for node in graph.nodes}
    separate, arrays = [], dict(weights)
    for row in rows:
        if row["choice"] == SEPARATE:
            separate.append(row["join"])
        if row["choice"] == SCALED:
            value = _first_scalable(graph, nodes[row["join"]])
            assert value is not None
            arrays = scaled(arrays, value[1], row["factor"])
    return arrays, tuple(separate)


def _first_scalable(graph: Graph, join: Node) -> tuple[int, Scalable] | None:
    """Return the place of the first input of a join that can be scaled, and what that changes."""
    for place, value in enumerate(join.inputs):
        change = scalable(graph, join, value)
        if change is not None and len(join.inputs) > 1:
            return place, change
    return None


def _scaled(
    graph: Graph, weights: Weights, join: Node, apart: QuantNetwork
) -> tuple[float, dict[str, Array] | None]:
    """Return a power of two for an input of a concatenation, and the weights that do it.

    The input is made as wide as the widest other. None where none can be, or is so already.
    """
    found = _first_scalable(graph, join)
    if found is None:
        return 1.0, None
    place, change = found
    same = next(node for node in apart.graph.nodes if node.name == join.name)
    steps = [apart.scale(value) for value in same.inputs]
    own = steps.pop(place)
    factor = 2.0 ** round(math.log2(max(steps) / own))
    return factor, scaled(weights, change, factor) if factor != 1.0 else None
