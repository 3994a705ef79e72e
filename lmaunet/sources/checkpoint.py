"""The float network of a checkpoint: an LMa-UNet, or whatever its graph says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmaunet.data.nnunet_training import NnunetTraining
from lmaunet.errors import UserError
from lmaunet.graph.file import topology_digest, topology_json, topology_of
from lmaunet.graph.graph import Graph
from lmaunet.graph.module import GraphModule
from lmaunet.graph_spec import GraphSpec, NetworkSpec
from lmaunet.net import checkpoint
from lmaunet.net.checkpoint import LoadedCheckpoint, load_state, save_checkpoint

NNUNET = "nnunet"
"""The note of a checkpoint that says how nnU-Net prepared images for it."""


def graph_in(loaded: LoadedCheckpoint, path: Path) -> Graph | None:
    """Return the graph that a checkpoint holds, None where it holds none.

    Raises:
        UserError: where it holds no graph though it needs one, or one that was altered or is not
            that of the network it names.
    """
    if loaded.graph is None and not isinstance(loaded.spec, GraphSpec):
        return None
    graph = topology_of(loaded.graph, f"{path}: its graph")
    spec = loaded.spec
    if isinstance(spec, GraphSpec) and spec != spec_of(graph, spec.name):
        raise UserError(
            f"{path}: it names network {spec.name}, {spec.graph[:12]}, its graph is another; give "
            "the file as it was written"
        )
    return graph


def restore(loaded: LoadedCheckpoint, path: Path) -> nn.Module:
    """Return the FP32 network with the checkpoint's weights, in evaluation mode.

    Raises:
        UserError: as :func:`lmaunet.net.checkpoint.restore` does, and where its graph is damaged.
    """
    if not isinstance(loaded.spec, GraphSpec):
        return checkpoint.restore(loaded, path)
    if loaded.kind != "float32":
        raise UserError(
            f"{path} is a {loaded.kind} checkpoint; give the FP32 checkpoint that it came from"
        )
    graph = graph_in(loaded, path)
    assert graph is not None
    module = GraphModule.without_numbers(graph)
    load_state(module, loaded.state, path)
    return module.eval()


def spec_of(graph: Graph, name: str) -> GraphSpec:
    """Return what the program needs to know of a network that segments 2-D images.

    Raises:
        UserError: where the graph is for other images, or does not give logits of their size.
    """
    (entry,), (output,) = graph.inputs, graph.outputs
    taken, given = graph.shape(entry), graph.shape(output)
    if len(taken) != 4 or given[2:] != taken[2:]:
        raise UserError(
            f"network {name}: it maps {taken} to {given}; expected images (N, C, H, W) to logits "
            "(N, classes, H, W)"
        )
    return GraphSpec(name, taken[1], given[1], (taken[2], taken[3]), topology_digest(graph))


def training_of(loaded: LoadedCheckpoint, path: Path) -> NnunetTraining | None:
    """Return what nnU-Net did for a checkpoint's network; None where nnU-Net did not train it.

    Raises:
        UserError: for a note that is none, or that is of another network.
    """
    if NNUNET not in loaded.notes:
        return None
    try:
        training = NnunetTraining.from_json(loaded.notes[NNUNET])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    recipe, spec = training.recipe, loaded.spec
    said = (recipe.patch_size, len(recipe.channels))
    if said != (spec.input_size, spec.in_channels):
        raise UserError(
            f"{path}: its recipe is for {said[0]} and {said[1]} channel(s), its network takes "
            f"{spec.input_size} and {spec.in_channels}; give the file as it was written"
        )
    return training


def notes_of(loaded: LoadedCheckpoint, classes: Sequence[str]) -> list[str]:
    """Return what to know of a checkpoint that is quantized with data of some classes."""
    notes = list(loaded.origin.notes)
    if loaded.notes.get("classes") is None:
        notes.append(
            "the checkpoint names no classes: its outputs are taken in the order of the data's, "
            + ", ".join(classes)
        )
    if NNUNET not in loaded.notes and not loaded.origin.ours:
        notes.append(
            "the checkpoint does not say how its images were normalized: they are normalized as "
            "this program does for training"
        )
    return notes


def save_network(
    path: Path, spec: NetworkSpec, module: nn.Module, graph: Graph | None = None, **notes: Any
) -> None:
    """Write a float network as a checkpoint; one that is none of our own specs with its graph."""
    if isinstance(module, GraphModule):
        graph = module.graph
    content = None if graph is None else topology_json(graph)
    with torch.no_grad():
        save_checkpoint(path, spec, module, graph=content, **notes)
