"""In which precision the layers of an engine compute, and how many of them normalize.

Norms whose statistics come from the map (instance, group, layer) are never INT8: a network of the
nnU-Net kind has one behind nearly every convolution.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmaunet.errors import Disagreement
from lmaunet.trt.layer_table import EngineLayer
from lmaunet.trt.precision import CONVOLVES, NAMED

if TYPE_CHECKING:
    import onnx

INT8, FP16, FP32, OTHER = "INT8", "FP16", "FP32", "other"
PRECISIONS = (INT8, FP16, FP32, OTHER)
NAMES = {"Int8": INT8, "Half": FP16, "BFloat16": FP16, "Float": FP32}
WIDEST_FIRST = ("Float", "Half", "BFloat16", "Int8")


def precision_of_layer(layer: EngineLayer) -> str:
    """Return in which precision a layer computes: ``INT8``, ``FP16``, ``FP32`` or ``other``.

    A convolution of the library computes in the type that it multiplies, though it may put out
    another. Any other layer computes in the widest type that it takes, holds or gives: the one that
    rounds float values to codes is float. ``other`` are layers of integers as numbers, and those
    that only order streams.
    """
    operands = [*layer.inputs, *layer.constants, *layer.outputs]
    if CONVOLVES.search(layer.type) and layer.inputs:
        operands = [layer.inputs[0]]
    kinds = {tensor.datatype for tensor in operands}
    return next((NAMES[kind] for kind in WIDEST_FIRST if kind in kinds), OTHER)


def norm_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the ONNX nodes that normalize by statistics of their input.

    A GroupNorm is exported as an InstanceNormalization of reshaped groups.
    """
    return frozenset(
        node.name
        for node in model.graph.node
        if node.op_type.endswith("Normalization") and node.op_type != "BatchNormalization"
    )


@dataclass(frozen=True)
class LayerPrecisions:
    """Counts of an engine's layers by precision, and of those among them that hold a norm.

    ``norm_nodes`` is the number of norms in the network that the engine was built from; a layer
    may hold several, or a part of one.
    """

    layers: dict[str, int]
    norms: dict[str, int]
    norm_nodes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON: by precision, layers and layers that hold a norm."""
        return {
            "by_precision": {
                name: {"layers": count, "norms": self.norms.get(name, 0)}
                for name, count in self.layers.items()
            },
            "norms_in_the_network": self.norm_nodes,
        }


def layer_precisions(layers: Sequence[EngineLayer], norms: Collection[str]) -> LayerPrecisions:
    """Return the counts of an engine's layers by precision, those that occur.

    Args:
        layers: the engine's layer table.
        norms: of :func:`norm_nodes`.
    """
    found = [(precision_of_layer(layer), _norms_in(layer, norms)) for layer in layers]
    return LayerPrecisions(
        {p: n for p in PRECISIONS if (n := sum(kind == p for kind, _ in found))},
        {
            p: n
            for p in PRECISIONS
            if (n := sum(kind == p and bool(inner) for kind, inner in found))
        },
        len(norms),
    )


def _norms_in(layer: EngineLayer, norms: Collection[str]) -> list[str]:
    return [node for node in layer.onnx_nodes if node in norms]


def check_norms(layers: Sequence[EngineLayer], norms: Collection[str]) -> LayerPrecisions:
    """Return the counts; raise Disagreement where the engine lacks a norm or has one in FP16.

    The sum of a map's squares leaves FP16's range where no single value does: a norm of zeros and
    infinities gives a mask of background.
    """
    missing = sorted(set(norms) - {node for layer in layers for node in layer.onnx_nodes})
    if missing:
        raise Disagreement(
            f"{len(missing)} of {len(norms)} norms are in no layer of the engine: "
            f"{', '.join(missing[:NAMED])}; report this network"
        )
    half = [
        (_norms_in(layer, norms)[0], layer.name)
        for layer in layers
        if precision_of_layer(layer) == FP16 and _norms_in(layer, norms)
    ]
    if half:
        rows = "; ".join(f"{node} in layer {name}" for node, name in half[:NAMED])
        raise Disagreement(
            f"{len(half)} norms are computed in FP16, in which sums of squares overflow: {rows}; "
            "build with --precision int8 or fp32"
        )
    return layer_precisions(layers, norms)
