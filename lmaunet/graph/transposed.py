"""Transposed convolutions as convolutions and pixel shuffles, which integer kernels are there for.

A transposed convolution of stride s gives, at positions ``q * s + r``, a convolution of its own for
each remainder r (a phase), whose kernel is every s-th tap of its kernel. All phases together are
one convolution at the input's resolution with s times the channels, per axis, whose taps beyond a
phase's own are 0; a pixel shuffle puts the phases beside each other. This is the sub-pixel
convolution of Shi et al., arXiv 1609.05158, and its equality with the transposed one is shown in
arXiv 1609.07009.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from lmaunet.errors import UserError
from lmaunet.graph import operators as op
from lmaunet.graph import relayouts as move
from lmaunet.graph.graph import Array, Graph, Node, Weights
from lmaunet.graph.layouts import Layout
from lmaunet.graph.rewrites import Network, Rewrite


@dataclass(frozen=True)
class Phases:
    """One axis of a transposed convolution as a convolution of the same input.

    Args:
        taps: for each phase and each tap of the new kernel the tap of the old one, -1 for none.
        padding: zeros before and after the input.
        size: of the result, which may be less than the phases together have.
    """

    taps: tuple[tuple[int, ...], ...]
    padding: tuple[int, int]
    size: int

    @staticmethod
    def of(
        have: int, size: int, *, kernel: int, stride: int, padding: int, dilation: int
    ) -> Phases | None:
        """Return the phases of an axis from ``have`` positions to ``size``.

        Output o sums ``x[i] * w[k]`` over ``i * stride = o + padding - k * dilation``: for
        ``o = q * stride + r`` that is ``i = q + offset``, one offset for each tap that r has. None
        where positions would have to be cut off the input's ends.
        """
        offsets = [
            {
                (phase + padding - tap * dilation) // stride: tap
                for tap in range(kernel)
                if (phase + padding - tap * dilation) % stride == 0
            }
            for phase in range(stride)
        ]
        reached = [offset for phase in offsets for offset in phase]
        first, last = min(reached), max(reached)
        blocks = math.ceil(size / stride)
        around = -first, blocks + last - have
        if min(around) < 0:
            return None
        taps = tuple(
            tuple(phase.get(offset, -1) for offset in range(first, last + 1)) for phase in offsets
        )
        return Phases(taps, around, size)


def shuffle_transposed(graph: Graph, weights: Weights) -> Network:
    """Write each transposed convolution as a convolution, a pixel shuffle and what is cut off.

    Raises:
        UserError: for one whose padding is so large that the input's ends play no part.
    """
    new = Rewrite(graph)
    sizes = dict(graph.sizes)
    for node in graph.nodes:
        arrays = {role: weights[name] for role, name in node.weights.items()}
        if not isinstance(node.operator, op.TransposedConv):
            new.add(node, arrays)
            continue
        axes = _phases(graph, node, arrays["weight"])
        stride = tuple(len(axis.taps) for axis in axes)
        # a size that is new gets a symbol of its own
        wide, full = _layouts(graph, node, axes, sizes)
        padding = tuple(axis.padding for axis in axes)
        ones = (1,) * len(axes)
        conv = op.Conv(ones, padding, ones, node.operator.groups)
        arrays["weight"] = _kernel(arrays["weight"], axes, node.operator.groups)
        if "bias" in arrays:
            arrays["bias"] = arrays["bias"].repeat(math.prod(stride))
        taps = tuple(axis.taps for axis in axes)
        new.add(replace(node, operator=conv, layout=wide), arrays, variant=taps)
        last, layout = node.name, full
        if math.prod(stride) > 1:
            last = f"{node.name}.shuffle"
            new.add(Node(last, move.PixelShuffle(stride), (node.name,), {}, full), {})
        for place, axis in enumerate(axes, start=2):
            if layout[place] != node.layout[place]:
                layout = (*layout[:place], node.layout[place], *layout[place + 1 :])
                cut = move.Slice(place, 0, axis.size, 1)
                name = f"{node.name}.cut{place - 2}"
                new.add(Node(name, cut, (last,), {}, layout), {})
                last = name
        if last != node.name:
            new.renamed[node.name] = last
    return new.network(sizes)


def norms_before_shuffles(graph: Graph, weights: Weights) -> Network:
    """Move each batch normalization that alone takes a pixel shuffle, or a cut of it, before it.

    A norm works on channels, and each pixel of a channel comes from one of several: they all have
    its numbers. There it folds into the convolution, which the shuffle has come between.
    """
    new = Rewrite(graph)
    norms = {}
    for node in graph.nodes:
        if isinstance(node.operator, op.Norm) and node.operator.kind == "batch":
            shuffle = _shuffle_before(graph, node.inputs[0])
            if shuffle is not None:
                norms[shuffle.name] = node
    moved = {norm.name for norm in norms.values()}
    for node in graph.nodes:
        if node.name in moved:
            # values keep their order: what was before the norm stands for what it gave
            new.renamed[node.name] = new.renamed.get(node.inputs[0], node.inputs[0])
            continue
        norm = norms.get(node.name)
        if norm is not None:
            assert isinstance(node.operator, move.PixelShuffle)
            times = math.prod(node.operator.factors)
            arrays = {r: weights[name].repeat(times) for r, name in norm.weights.items()}
            layout = graph.layout(node.inputs[0])
            new.add(replace(norm, inputs=node.inputs, layout=layout), arrays, variant=times)
            node = replace(node, inputs=(norm.name,))
        new.add(node, {role: weights[name] for role, name in node.weights.items()})
    return new.network()


def _shuffle_before(graph: Graph, value: str) -> Node | None:
    """Return the pixel shuffle that a value comes from through cuts that nothing else takes."""
    made = {node.name: node for node in graph.nodes}
    while value in made and value not in graph.outputs and len(graph.users(value)) == 1:
        node = made[value]
        if isinstance(node.operator, move.PixelShuffle):
            return node
        if not isinstance(node.operator, move.Slice) or node.operator.axis < 2:
            return None
        value = node.inputs[0]
    return None


def _phases(graph: Graph, node: Node, weight: Array) -> list[Phases]:
    operator = node.operator
    assert isinstance(operator, op.TransposedConv)
    have, size = graph.shape(node.inputs[0])[2:], graph.shape(node.name)[2:]
    found = [
        Phases.of(*sides, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
        for sides, kernel, stride, padding, dilation in zip(
            zip(have, size, strict=True), weight.shape[2:], operator.stride, operator.padding,
            operator.dilation, strict=True,
        )
    ]  # fmt: skip
    axes = [axis for axis in found if axis is not None]
    if len(axes) < len(found):
        raise UserError(
            f"{node.name}: a transposed convolution with kernel {weight.shape[2:]}, stride "
            f"{operator.stride} and padding {operator.padding} can't be quantized: the input's "
            "ends play no part in it; use less padding, or upsampling and a convolution"
        )
    return axes


def _layouts(
    graph: Graph, node: Node, axes: list[Phases], sizes: dict[str, int]
) -> tuple[Layout, Layout]:
    """Return the layouts of what the convolution and the pixel shuffle give; add their symbols."""
    before = graph.layout(node.inputs[0])
    blocks = [math.ceil(axis.size / len(axis.taps)) for axis in axes]
    phases = math.prod(len(axis.taps) for axis in axes)
    if phases == 1:  # what the convolution gives is the result
        return node.layout, node.layout
    wide = [before[0], _symbol(sizes, "C", graph.shape(node.name)[1] * phases)]
    full = [node.layout[0], node.layout[1]]
    have = graph.shape(node.inputs[0])[2:]
    for place, (axis, count) in enumerate(zip(axes, blocks, strict=True), start=2):
        same = count == have[place - 2]
        wide.append(before[place] if same else _symbol(sizes, "L", count))
        whole = count * len(axis.taps)
        full.append(node.layout[place] if whole == axis.size else _symbol(sizes, "L", whole))
    return tuple(wide), tuple(full)


def _symbol(sizes: dict[str, int], letter: str, size: int) -> tuple[str, ...]:
    """Return an axis of a new symbol of a size, none for the size 1."""
    if size == 1:
        return ()
    name = next(n for i in itertools.count() if (n := f"{letter}.{i}") not in sizes)
    sizes[name] = size
    return (name,)


def _kernel(weight: Array, axes: list[Phases], groups: int) -> Array:
    """Return the convolution's weight ``(out * phases, in / groups, *taps)``.

    Args:
        weight: ``(in, out / groups, *kernel)``.
        axes: its spatial axes.
        groups: of the input's channels.
    """
    entered, each = weight.shape[:2]
    rank = len(axes)
    # (groups * out / groups, in / groups, *kernel)
    turned = weight.reshape(groups, entered // groups, each, *weight.shape[2:]).swapaxes(1, 2)
    turned = turned.reshape(groups * each, entered // groups, *weight.shape[2:])
    for place, axis in enumerate(axes):
        # a kernel axis becomes two: the phase, which comes to stand before what is left, and taps
        at = 2 + 2 * place
        chosen = np.array(axis.taps)
        taken = np.take(turned, chosen.clip(0), at)
        shown = (chosen >= 0).reshape(*chosen.shape, *[1] * (rank - 1 - place))
        turned = np.where(shown, taken, np.float32(0))
    phases, taps = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    turned = turned.transpose(0, *phases, 1, *taps)
    shape = turned.shape
    return np.ascontiguousarray(turned.reshape(math.prod(shape[: 1 + rank]), *shape[1 + rank :]))
