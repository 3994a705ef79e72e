"""Quantized checkpoints of before networks were graphs: other names of the same tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from lmaunet.graph.capture import capture
from lmaunet.graph.graph import Graph
from lmaunet.graph.layers import weight_layers
from lmaunet.net.network import LMaUNet
from lmaunet.quant.network import QuantNetwork, module_key
from lmaunet.spec import NetSpec

_LAYERS = (
    (r"shallow\.(\d+)", r"shallow.\1.conv"),
    (r"stages\.(\d+)\.mamba\.in_(x|z)", r"stages.\1.mamba.in_proj.\2"),
    (r"stages\.(\d+)\.mamba\.x_(dt|b|c)", r"stages.\1.mamba.x_proj.\2"),
    (r"pyramid\.out", "pyramid.out.conv"),
    (r"decoder\.(\d+)\.convs\.(\d+)", r"decoder.\1.convs.\2.conv"),
)
"""The convolutions whose names are others, as patterns of the old name; parts by their letter."""

_PARTS = {"x": "0", "z": "1", "dt": "0", "b": "1", "c": "2"}

_QUANTIZERS = (
    (r"quant_image", "image"),
    (r"quant_shallow\.(\d+)", r"shallow.\1.relu"),
    (r"stages\.(\d+)\.quant_proj", r"stages.\1.proj"),
    (r"stages\.(\d+)\.quant_local", r"stages.\1.local"),
    (r"stages\.(\d+)\.quant_out", r"stages.\1.add"),
    (r"stages\.(\d+)\.mamba\.quant_(x|z)", r"stages.\1.mamba.in_proj.\2"),
    (r"stages\.(\d+)\.mamba\.quant_conv1d", r"stages.\1.mamba.conv1d"),
    (r"stages\.(\d+)\.mamba\.quant_silu_x", r"stages.\1.mamba.silu"),
    (r"stages\.(\d+)\.mamba\.quant_silu_z", r"stages.\1.mamba.silu#2"),
    (r"stages\.(\d+)\.mamba\.quant_rank", r"stages.\1.mamba.x_proj.dt"),
    (r"stages\.(\d+)\.mamba\.quant_(b|c)", r"stages.\1.mamba.x_proj.\2"),
    (r"stages\.(\d+)\.mamba\.quant_dt", r"stages.\1.mamba.dt_proj"),
    (r"stages\.(\d+)\.mamba\.quant_y", r"stages.\1.mamba.scan"),
    (r"stages\.(\d+)\.mamba\.quant_gate", r"stages.\1.mamba.mul"),
    (r"pyramid\.quant_pool\.0", "pyramid.pool"),
    (r"pyramid\.quant_pool\.(\d+)", r"pyramid.pool#\1+1"),
    (r"pyramid\.quant_out", "pyramid.out.relu"),
    (r"decoder\.(\d+)\.quant_join", r"decoder.\1.add"),
    (r"decoder\.(\d+)\.quant_convs\.(\d+)", r"decoder.\1.convs.\2.relu"),
)
"""The old names of quantizers, as patterns, and a value of the graph that each one rounded."""


def of_before_graphs(
    spec: NetSpec, bits: Mapping[str, int], state: Mapping[str, Tensor]
) -> tuple[Graph, dict[str, int], dict[str, Tensor]]:
    """Return the graph, the bits and the state of a checkpoint that has no graph.

    Tensors with names that are none of its own keep them, and are then refused by name.

    Args:
        spec: the network.
        bits: weight bits in the order of the layers, by their old names.
        state: by old names.
    """
    graph, weights = capture(LMaUNet(spec), (1, spec.in_channels, *spec.input_size))
    names = [layer.name for layer in weight_layers(graph)]
    new_bits = dict(zip(names, bits.values(), strict=False))
    network = QuantNetwork(graph, weights)
    groups = network.rounding.groups
    renamed = {_renamed(name, groups): tensor for name, tensor in state.items()}
    # a skip that has a convolution had the scale of what that one takes
    for node in network.graph.nodes:
        if re.fullmatch(r"decoder\.\d+\.skip", node.name):
            own, taken = (_quantizer(groups[value]) for value in (node.name, *node.inputs))
            copies = {name: name.removeprefix(taken) for name in renamed if name.startswith(taken)}
            renamed |= {f"{own}{rest}": renamed[name] for name, rest in copies.items()}
    return graph, new_bits, renamed


def _renamed(name: str, groups: Mapping[str, str]) -> str:
    """Return the new name of a tensor."""
    path, marker, rest = name.partition(".act_quant.")
    if marker:
        value = _translated(path, _QUANTIZERS)
        return f"{_quantizer(groups[value])}{rest}" if value in groups else name
    if re.fullmatch(r"stages\.\d+\.mamba\.(A_log|D)", name):
        return f"kept.{module_key(name)}"
    path, marker, rest = name.partition(".conv.")
    return f"layers.{module_key(_translated(path, _LAYERS) or path)}{marker}{rest}"


def _quantizer(group: str) -> str:
    """Return what the names of a group's tensors begin with."""
    return f"quantizers.{module_key(group)}.act_quant."


def _translated(path: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in table:
        if re.fullmatch(pattern, path):
            made = re.sub(pattern, new, path)
            made = re.sub(r"(?<=_proj\.)(x|z|dt|b|c)$", lambda part: _PARTS[part[0]], made)
            return re.sub(r"#(\d+)\+1$", lambda part: f"#{int(part[1]) + 1}", made)
    return ""
