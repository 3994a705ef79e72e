"""A network that came from elsewhere, written as a checkpoint of this program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.artifacts import Agreement
from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph, Weights
from lmaunet.graph.module import GraphModule
from lmaunet.graph_spec import GraphSpec
from lmaunet.sources.checkpoint import save_network, spec_of

SHOWN = 6


@dataclass(frozen=True)
class Imported:
    """A network that was captured and written.

    Args:
        path: the checkpoint.
        spec: what the program needs to know of it.
        graph: its graph.
        weights: by name.
        agreement: the graph's output beside that of the network as its maker has it.
        network: the name of its class.
        notices: what a user should know.
    """

    path: Path
    spec: GraphSpec
    graph: Graph
    weights: Weights
    agreement: Agreement
    network: str
    notices: tuple[str, ...] = ()


def described(graph: Graph, name: str, classes: Sequence[str] | None) -> GraphSpec:
    """Return what the program needs to know of a network, held to the names of its classes.

    Raises:
        UserError: where it has several outputs, one class, no logits of its images' size, or
            another number of classes than there are names.
    """
    if len(graph.outputs) != 1:
        raise UserError(
            f"network {name} gives {len(graph.outputs)} outputs; expected the logits alone: switch "
            "deep supervision off, and let it return one tensor"
        )
    if graph.shape(graph.outputs[0])[1:2] == (1,):
        raise UserError(
            f"network {name} gives one output, as for a sigmoid; expected logits of two classes or "
            "more, the background first: train it with two outputs and a softmax"
        )
    spec = spec_of(graph, name)
    if classes is not None and len(classes) != spec.classes:
        raise UserError(
            f"network {name} gives {spec.classes} outputs, and there are {len(classes)} names of "
            f"classes, {', '.join(classes[:SHOWN])}; give one for each output, the background first"
        )
    return spec


def write(
    graph: Graph,
    weights: Weights,
    agreement: Agreement,
    network: str,
    path: Path,
    *,
    name: str,
    classes: Sequence[str] | None,
    notices: Sequence[str] = (),
    **notes: Any,
) -> Imported:
    """Write a captured network as a checkpoint; ``notes`` are more of its notes.

    Raises:
        UserError: as :func:`described` does.
    """
    spec = described(graph, name, classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {} if classes is None else {"classes": list(classes)}
    save_network(path, spec, GraphModule(graph, weights).eval(), **known, **notes)
    return Imported(path, spec, graph, weights, agreement, network, tuple(notices))
