"""The quantized network of a graph: a named quantizer at every place that rounds.

Each activation tensor is quantized once, where it is made, to INT8 with one scale and zero point 0;
:mod:`lmaunet.graph.rounding` says where, and which tensors share a scale. All linear maps are
convolutions on maps, Mamba's too: every backend has integer kernels for those. What a ReLU gives
is INT8 as well (0 to 127): TensorRT takes no UINT8.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.graph import operators as op
from lmaunet.graph.capture import capture
from lmaunet.graph.graph import Array, Graph, Node, Weights, check_weights
from lmaunet.graph.head import head_of
from lmaunet.graph.integer_form import integer_form
from lmaunet.graph.layers import layer_name, weight_layers
from lmaunet.graph.module import RUN, Context, GraphModule, WatchValue, last_uses, rates_of
from lmaunet.graph.rewrites import fold_norms
from lmaunet.graph.rounding import rounding_of
from lmaunet.net.dropout import ChannelDropout
from lmaunet.quant.convolution import QuantConv, Scales, quantizer
from lmaunet.quant.float_layers import float_layer, is_one_sided

WatchScan = Callable[[str, Sequence[Tensor]], Tensor | None]
"""Is given a scan's name and its x, dt, B and C; what it returns takes the place of the result."""


class QuantNetwork(nn.Module):
    """A network with INT8 tensors between its operators; its scans stay in float here.

    Takes the graph's image ``(B, C, *spatial)`` and returns its output, the logits.

    Args:
        graph: the float network.
        weights: its weights, by name; they are copied.
        bits: weight bits by layer; 8 where absent.
        scales: what every scale may be.
        keep_norms: keep the batch normalizations behind convolutions until :meth:`fold_norms`.
        separate: joins whose inputs keep scales of their own; see
            :func:`lmaunet.graph.rounding.rounding_of`.
        dropout: the rate at which channels are dropped before the head while training, after they
            were rounded; see :func:`lmaunet.graph.head.head_of`.

    Attributes:
        source: the graph that was given.
        graph: the graph that is computed.
        watch_scan: where set, what is called for each scan.
        watch_value: where set, what is called for each node, with its rounded value.

    Raises:
        UserError: for other bits than 2, 3, 4 and 8, a layer that is not there, or an operator
            that can't be quantized.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        bits: Mapping[str, int] | None = None,
        *,
        scales: Scales = "free",
        keep_norms: bool = False,
        separate: Collection[str] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_weights(graph, weights)
        check_quantizable(graph)
        self.source, self.scales = graph, scales
        self.bits = weight_bits(graph, bits or {})
        self.separate = tuple(separate)
        with_norms = integer_form(graph, weights)
        self.graph, arrays = fold_norms(*with_norms)
        self.rounding = rounding_of(self.graph, separate)
        self.watch_scan: WatchScan | None = None
        self.watch_value: WatchValue | None = None
        self._dropped = head_of(self.graph).name if dropout else ""
        self.dropout = ChannelDropout(dropout)
        self.quantizers = nn.ModuleDict(
            {module_key(group): quantizer(scales) for group in self.rounding.names()}
        )
        self.layers, self.steps = nn.ModuleDict(), nn.ModuleDict()
        self.kept = nn.ParameterDict()
        self._layer_of: dict[str, str] = {}
        self._free = last_uses(self.graph)
        made: dict[tuple[str, ...], str] = {}
        for node in self.graph.nodes:
            if isinstance(node.operator, op.Conv):
                key = made.setdefault(tuple(node.weights.values()), module_key(node.name))
                self._layer_of[node.name] = key
                if key not in self.layers:
                    layer = with_norms if keep_norms else (self.graph, arrays)
                    # behind a norm that was folded another one may stand
                    conv, norm = float_layer(*layer, node.name, keep_norms)
                    self.layers[key] = QuantConv(conv, self.bits[layer_name(node)], norm, scales)
            else:
                self.steps[module_key(node.name)] = Step(node.operator)
                for name in node.weights.values():
                    self._keep(name, arrays)

    @staticmethod
    def from_module(
        module: nn.Module,
        shape: Sequence[int],
        bits: Mapping[str, int] | None = None,
        **options: Any,
    ) -> QuantNetwork:
        """Return the quantized network of a torch module, whose scales are still to be calibrated.

        Args:
            module: any that a graph can be captured of.
            shape: of its images, ``(n, channels, *spatial)``.
            bits, options: as for :class:`QuantNetwork`.
        """
        return QuantNetwork(*graph_of(module, shape), bits, **options)

    def _keep(self, name: str, arrays: Weights) -> None:
        learned = self.graph.weights[name].learned
        if module_key(name) not in self.kept:
            tensor = torch.from_numpy(arrays[name].copy())
            self.kept[module_key(name)] = nn.Parameter(tensor, requires_grad=learned)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, C, *spatial)`` to logits ``(B, classes, *spatial)``."""
        graph = self.graph
        context = Context(graph.sizes_for(int(image.shape[0])), self.training)
        (entry,) = graph.inputs
        values = {entry: self._rounded(entry, image)}
        for node in graph.nodes:
            inputs = [values[value] for value in node.inputs]
            values[node.name] = self._rounded(node.name, self._run(node, inputs, context))
            if self.watch_value is not None:
                self.watch_value(node.name, values[node.name])
            for value in self._free[node.name]:
                del values[value]
        return values[graph.outputs[0]]

    def _run(self, node: Node, inputs: list[Tensor], context: Context) -> Tensor:
        operator = node.operator
        if isinstance(operator, op.Conv):
            x = inputs[0]
            if is_one_sided(operator):
                x = F.pad(x, list(itertools.chain(*reversed(operator.padding))))
            if node.name == self._dropped:
                x = self.dropout(x)
            return self.layers[self._layer_of[node.name]](x)
        if isinstance(operator, op.Scan) and self.watch_scan is not None:
            seen = self.watch_scan(node.name, inputs)
            if seen is not None:
                return seen
        weights = {role: self.kept[module_key(name)] for role, name in node.weights.items()}
        return self.steps[module_key(node.name)](inputs, weights, context)

    def scan_weights(self, node: Node) -> tuple[Tensor, Tensor]:
        """Return A ``(channels, states)`` and D ``(channels,)`` of a scan."""
        assert isinstance(node.operator, op.Scan)
        kept = {role: self.kept[module_key(name)] for role, name in node.weights.items()}
        return rates_of(node.operator, kept), kept["skip"]

    def _rounded(self, name: str, value: Tensor) -> Tensor:
        if name not in self.rounding.rounded:
            return value
        return self.quantizer(name)(value)

    def quantizer(self, value: str) -> nn.Module:
        """Return the quantizer of a value that has integers."""
        return self.quantizers[module_key(self.rounding.groups[value])]

    def scale(self, value: str) -> float:
        """Return the scale of a value that has integers."""
        return float(self.quantizer(value).act_quant.scale().detach())

    def convolutions(self) -> dict[str, QuantConv]:
        """Return the convolutions by the name of the node that they first run for."""
        found: dict[str, QuantConv] = {}
        for name, key in self._layer_of.items():
            layer = self.layers[key]
            assert isinstance(layer, QuantConv)
            if key == module_key(name):
                found[name] = layer
        return found

    def modules_of(self) -> dict[str, list[str]]:
        """Return the names in :attr:`layers` of each layer's convolutions; some have several."""
        found: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            if node.name in self._layer_of:
                keys = found.setdefault(layer_name(node), [])
                if self._layer_of[node.name] not in keys:
                    keys.append(self._layer_of[node.name])
        return found

    def fold_norms(self) -> None:
        """Fold every batch normalization that was kept; the network computes the same."""
        for layer in self.convolutions().values():
            layer.fold()


class Step(nn.Module):
    """One operator that is no convolution; a module of its own, so that exports name its nodes."""

    def __init__(self, operator: op.Operator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, inputs: list[Tensor], weights: dict[str, Tensor], context: Context) -> Tensor:
        """Return the result, of inputs of the operator's order and weights by role."""
        return RUN[type(self.operator)](self.operator, inputs, weights, context)


def graph_of(module: nn.Module, shape: Sequence[int]) -> tuple[Graph, dict[str, Array]]:
    """Return a network's graph for images ``(n, channels, *spatial)``, and its weights."""
    if isinstance(module, GraphModule):
        return module.graph, module.weights()
    return capture(module, (1, *shape[1:]))


def module_key(name: str) -> str:
    """Return the name of a module or a parameter for a name of a graph; no dot may be in it."""
    return "/" + name.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def check_quantizable(graph: Graph) -> None:
    """Raise UserError where a graph has what no quantized network can have."""
    if len(graph.inputs) != 1:
        raise UserError(f"a network with the inputs {', '.join(graph.inputs)}; give it one image")
    if len(graph.outputs) != 1:
        raise UserError(
            f"a network with {len(graph.outputs)} outputs; let it return the logits alone (without "
            "deep supervision)"
        )
    (layout,) = graph.inputs.values()
    if len(layout) not in (4, 5):
        raise UserError(
            f"images with {len(layout) - 2} spatial axis can't be quantized; give (N, C, H, W) or "
            "(N, C, D, H, W)"
        )


def weight_bits(graph: Graph, chosen: Mapping[str, int]) -> dict[str, int]:
    """Return the weight bits of every layer of a graph, by its name; 8 where not chosen."""
    names = [layer.name for layer in weight_layers(graph)]
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        raise UserError(f"no layer {unknown[:3]} in the network; names are such as {names[:3]}")
    return {name: chosen.get(name, 8) for name in names}


def count_weight_bits(graph: Graph, bits: Mapping[str, int]) -> dict[int, int]:
    """Return how many weights (without biases, A and D) have how many bits."""
    counts: dict[int, int] = {}
    for layer in weight_layers(graph):
        counts[bits[layer.name]] = counts.get(bits[layer.name], 0) + layer.weights
    return counts
