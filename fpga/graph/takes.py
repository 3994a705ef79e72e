"""Which operators of a network's graph the lowering takes, before anything is trained or exported.

The lowering walks a QONNX file, which is there only once a network is quantized. Here the same is
asked of the float network's graph: what it holds that has no hardware, how often, why, and what to
do about it. Every operator of :mod:`lmaunet.graph` has its entry in :data:`CHECKS`. What is not
asked here is whether the design fits a board; that is for the sizing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lmaunet.artifacts import Refusal
from lmaunet.fpga.graph.places import Places
from lmaunet.graph import operators as op
from lmaunet.graph import relayouts as move
from lmaunet.graph import resampling as grid
from lmaunet.graph.base_operator import Operator
from lmaunet.graph.graph import Graph, Node
from lmaunet.graph.integer_form import integer_form
from lmaunet.graph.rewrites import fold_norms
from lmaunet.graph.rounding import Rounding, rounding_of

CODE_BITS = 8
MBIT = 1 << 20


@dataclass(frozen=True)
class _Reason:
    """Why one node is refused; ``bits`` are summed over the nodes into the text's ``{mbit}``."""

    operator: str
    why: str
    remedy: str
    bits: int = 0


class _Form:
    """A graph in the form in which it is quantized, and what it says of its values."""

    def __init__(self, graph: Graph) -> None:
        zeros = {name: np.zeros(w.shape, np.float32) for name, w in graph.weights.items()}
        self.graph = fold_norms(*integer_form(graph, zeros))[0]
        self.nodes: Mapping[str, Node] = {node.name: node for node in self.graph.nodes}

    @cached_property
    def rounding(self) -> Rounding:
        """Where it is rounded, with one scale at each join."""
        return rounding_of(self.graph)

    @cached_property
    def places(self) -> Places:
        """Where the elements of its values are in their streams."""
        return Places(self.graph)

    def shape(self, node: Node, place: int = 0) -> tuple[int, ...]:
        """Return the shape of a node's input."""
        return self.graph.shape(node.inputs[place])

    def operator(self, value: str) -> Operator | None:
        """Return what made a value; None for the image."""
        return self.nodes[value].operator if value in self.nodes else None

    def bits(self, node: Node) -> int:
        """Return the bits of a node's whole input, 8 for an element."""
        return CODE_BITS * math.prod(self.shape(node))

    def shuffled_conv(self, node: Node) -> bool:
        """Return whether a shuffle's channels are those of one convolution and nothing else."""
        value = node.inputs[0]
        while value in self.nodes and len(self.graph.users(value)) == 1:
            operator = self.nodes[value].operator
            if isinstance(operator, op.Conv):
                return operator.groups == 1
            if not isinstance(operator, op.Activation):
                return False
            value = self.nodes[value].inputs[0]
        return False


def refusals(graph: Graph) -> list[Refusal]:
    """Return what of a network the lowering refuses; nothing where it takes all of it.

    Args:
        graph: the float network's, as it was captured.

    Returns:
        one entry for each kind of operator and reason, in the order in which they first run.
    """
    spatial = {len(layout) - 2 for layout in graph.inputs.values()}
    if spatial - {2}:
        return [
            Refusal(
                "image", len(graph.inputs),
                f"images with {max(spatial)} spatial axes; a design streams the pixels of an image "
                "row by row",
                "train a 2d configuration",
            )
        ]  # fmt: skip
    form = _Form(graph)
    found: dict[tuple[str, str, str], list[int]] = {}
    for node in form.graph.nodes:
        for reason in (CHECKS[type(node.operator)](form, node), _order(form, node)):
            if reason is not None:
                key = reason.operator, reason.why, reason.remedy
                found.setdefault(key, []).append(reason.bits)
                break
    last = _output(form)
    if last is not None:
        found.setdefault((last.operator, last.why, last.remedy), []).append(0)
    height, width = graph.shape(next(iter(graph.inputs)))[2:]
    return [
        Refusal(
            name, len(bits),
            why.format(mbit=f"{sum(bits) / MBIT:.3g} Mbit at {height}x{width}"), remedy,
        )
        for (name, why, remedy), bits in found.items()
    ]  # fmt: skip


def _taken(form: _Form, node: Node) -> _Reason | None:
    return None


def _conv(form: _Form, node: Node) -> _Reason | None:
    operator, channels = node.operator, form.shape(node)[1]
    assert isinstance(operator, op.Conv)
    if set(operator.dilation) != {1}:
        return _Reason(
            "conv (dilated)", "the window generator has no dilation", "use a kernel without holes"
        )
    outputs = form.graph.shape(node.name)[1]
    if operator.groups > 1 and not operator.groups == channels == outputs:
        return _Reason(
            "conv (grouped)",
            "matrix units are dense, vector units depthwise with as many outputs as inputs",
            "use groups=1, or as many groups as channels",
        )
    return None


_BATCH_NORMS = "qat --norm batch, which folds its statistics into the convolution"
_TRAINED_ANEW = "train it with batch normalization"
_NORMS = {
    "instance": ("every channel's whole map must be there before its first output: {mbit}",
                 _BATCH_NORMS),
    "group": ("every group's whole map must be there before its first output: {mbit}",
              _BATCH_NORMS),
    "layer": ("the mean and the deviation of each position need a square root and a division",
              _TRAINED_ANEW),
    "batch": ("it is folded into the convolution whose result it alone takes, and there is none",
              "put it straight behind a convolution"),
}  # fmt: skip


REMEDIES = {
    "InstanceNormalization": _BATCH_NORMS,  # which torch exports a group's as, too
    "GroupNormalization": _BATCH_NORMS,
    "LayerNormalization": _TRAINED_ANEW,
    "BatchNormalization": _NORMS["batch"][1],
}
"""What to do about operators of a file that the lowering refuses, by ONNX' name."""


def _norm(form: _Form, node: Node) -> _Reason | None:
    assert isinstance(node.operator, op.Norm)
    kind = node.operator.kind
    return _Reason(f"norm ({kind})", *_NORMS[kind], bits=form.bits(node))


def _affine(form: _Form, node: Node) -> _Reason | None:
    if not node.weights and node.inputs[0] in form.rounding.groups:
        return None  # a table
    return _Reason(
        "affine", "a scale and a shift are no operator of their own",
        "fold them into the convolution before them",
    )  # fmt: skip


def _activation(form: _Form, node: Node) -> _Reason | None:
    operator, value = node.operator, node.inputs[0]
    assert isinstance(operator, op.Activation)
    refused = isinstance(form.operator(value), op.Norm)  # in its own name
    if value in form.rounding.groups or operator.function == "relu" or refused:
        return None
    if operator.function == "leaky_relu" and operator.slope > 0:
        return None
    return _Reason(
        f"activation ({operator.function})",
        "a table takes codes of 8 bits, a requantization of more a positive slope",
        "use relu, or put a convolution between",
    )  # fmt: skip


def _join(form: _Form, node: Node) -> _Reason | None:
    name = node.operator.name
    if form.shape(node) != form.shape(node, 1):
        return _Reason(
            f"{name} (broadcast)",
            "one value a channel or a position would have to be kept for the others",
            f"give both values of the {name} one shape",
        )
    left, right = (form.places.of(value) for value in node.inputs)
    if left is right or np.array_equal(left, right):
        return None
    return _Reason(name, "its values are streamed in different orders", "use one order for both")


def _concat(form: _Form, node: Node) -> _Reason | None:
    assert isinstance(node.operator, op.Concat)
    if node.operator.axis == 1 and len(form.shape(node)) == 4:
        return None
    return _Reason(
        "concat", "streams are joined along the channels only", "concatenate along the channels"
    )


def _pool(form: _Form, node: Node) -> _Reason | None:
    pool, size = node.operator, form.shape(node)[2:]
    assert isinstance(pool, grid.Pool)
    bins = pool.kernel == pool.stride and not any(pool.padding)
    whole = all(side % taps == 0 for side, taps in zip(size, pool.kernel, strict=True))
    if pool.kind == "max" or (bins and whole):
        return None
    return _Reason(
        "pool (average)", "averages are of bins that divide the map, without a border",
        "use a stride that equals the kernel, and a size that it divides",
    )  # fmt: skip


def _upsample(form: _Form, node: Node) -> _Reason | None:
    operator, size = node.operator, form.shape(node)[2:]
    assert isinstance(operator, grid.Upsample)
    remedy = "use nearest upsampling by a whole factor, or a transposed convolution"
    if operator.mode != "nearest":
        return _Reason(f"upsample ({operator.mode})", "nothing weighs neighbouring pixels", remedy)
    if any(new % old for new, old in zip(operator.size, size, strict=True)):
        return _Reason("upsample (nearest)", "rows are repeated a whole number of times", remedy)
    return None


def _reduce(form: _Form, node: Node) -> _Reason | None:
    return _Reason(
        "reduce", "what is weighed by it would have to be kept until the map is complete: {mbit}",
        "leave out the gate that it feeds, or use average pooling with fixed bins",
        form.bits(node),
    )  # fmt: skip


def _flip(form: _Form, node: Node) -> _Reason | None:
    return _Reason(
        "flip",
        "the last element comes first, so that all of them must be there: {mbit} (scans in both "
        "directions flip twice)",
        "scan in one direction",
        form.bits(node),
    )


def _slice(form: _Form, node: Node) -> _Reason | None:
    return _Reason(
        "slice", "a part is only taken of a convolution's channels, each by one user",
        "use a convolution for each part",
    )  # fmt: skip


def _pixel_shuffle(form: _Form, node: Node) -> _Reason | None:
    if form.shuffled_conv(node):
        return None
    return _Reason(
        "pixel_shuffle", "its channels come in the order of the convolution before it, and "
        "something stands between, or takes them too",
        "put it straight behind a convolution, or its activation",
    )  # fmt: skip


Check = Callable[[_Form, Node], _Reason | None]
CHECKS: Mapping[type[Operator], Check] = {
    op.Conv: _conv,
    op.TransposedConv: _taken,  # in this form it is a convolution and a pixel shuffle
    op.Scan: _taken,
    op.Add: _join,
    op.Mul: _join,
    op.Concat: _concat,
    op.Activation: _activation,
    op.Norm: _norm,
    op.Affine: _affine,
    grid.Pool: _pool,
    grid.Upsample: _upsample,
    grid.Reduce: _reduce,
    move.Reshape: _taken,
    move.Permute: _taken,
    move.Flip: _flip,
    move.Slice: _slice,
    move.PixelShuffle: _pixel_shuffle,
}
"""Why a node is refused, by its operator; None where it is taken."""

_ANY_ORDER = (op.Activation, op.Add, op.Mul, op.Affine, op.Norm, move.Reshape, move.Permute)


def _order(form: _Form, node: Node) -> _Reason | None:
    """Return the reason where an input does not come pixel by pixel, the channels innermost."""
    if isinstance(node.operator, _ANY_ORDER) or all(map(form.places.in_order, node.inputs)):
        return None
    name: Any = node.operator.name
    return _Reason(
        f"permute (before {name})",
        "the elements would have to come in another order, for which whole maps are kept",
        "leave out the transposition",
    )


def _output(form: _Form) -> _Reason | None:
    """Return the reason where the network does not end with a convolution's accumulators."""
    (output, *more) = form.graph.outputs
    source = form.operator(output)
    if more:
        return _Reason(
            "output", f"{1 + len(more)} outputs", "return the logits alone, without deep "
            "supervision",
        )  # fmt: skip
    if isinstance(source, op.Conv) and output not in form.rounding.rounded:
        return None
    name = "the image" if source is None else source.name
    return _Reason(
        "output", f"it comes from {name}; the host takes a convolution's accumulators",
        "end the network with a convolution, and let the host do what follows",
    )  # fmt: skip
