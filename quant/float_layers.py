"""The torch layers of a convolution of a graph, from which a quantized one is made."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from lmaunet.graph import operators as op
from lmaunet.graph.graph import Graph, Node, Weights
from lmaunet.graph.rewrites import norm_of

Conv: TypeAlias = nn.Conv2d | nn.Conv3d
BatchNorm: TypeAlias = nn.BatchNorm2d | nn.BatchNorm3d

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def float_layer(
    graph: Graph, weights: Weights, name: str, with_norm: bool = True
) -> tuple[Conv, BatchNorm | None]:
    """Return a convolution of a graph and the batch normalization that alone takes its result.

    Without ``with_norm`` that is left out. Padding that differs between two sides is left out too;
    it is done before. In front of a normalization a convolution has no bias: that only moves the
    mean which the norm takes off.
    """
    node = next(node for node in graph.nodes if node.name == name)
    operator, norm = node.operator, norm_of(graph, node) if with_norm else None
    assert isinstance(operator, op.Conv)
    weight = _tensor(weights, node, "weight")
    bias = _tensor(weights, node, "bias") if "bias" in node.weights else None
    rank = weight.dim() - 2
    one_sided = is_one_sided(operator)
    conv = _CONV[rank](
        weight.shape[1] * operator.groups, weight.shape[0], tuple(weight.shape[2:]),
        operator.stride, tuple(0 if one_sided else before for before, _ in operator.padding),
        operator.dilation, operator.groups, bias=bias is not None and norm is None,
    )  # fmt: skip
    conv.weight.data.copy_(weight)
    if bias is not None and conv.bias is not None:
        conv.bias.data.copy_(bias)
    return conv, None if norm is None else _batch_norm(norm, weights, bias, rank)


def is_one_sided(operator: op.Conv) -> bool:
    """Return whether a convolution has other padding before than after, as a causal one has."""
    return any(before != after for before, after in operator.padding)


def _batch_norm(node: Node, weights: Weights, bias: Tensor | None, rank: int) -> BatchNorm:
    operator = node.operator
    assert isinstance(operator, op.Norm)
    mean = _tensor(weights, node, "mean")
    norm = _NORM[rank](len(mean), eps=operator.epsilon)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean if bias is None else mean - bias)
    norm.running_var.copy_(_tensor(weights, node, "variance"))
    if "scale" in node.weights:
        norm.weight.data.copy_(_tensor(weights, node, "scale"))
    if "shift" in node.weights:
        norm.bias.data.copy_(_tensor(weights, node, "shift"))
    return norm.eval()


def _tensor(weights: Weights, node: Node, role: str) -> Tensor:
    return torch.from_numpy(weights[node.weights[role]])
