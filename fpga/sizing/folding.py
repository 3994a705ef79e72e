"""Folding: how many values each node handles a cycle, from all legal divisors, by a target.

FINN+'s SetFolding does not know our operators and ignores upsampling. Here every legal folding of
each node is an option of the integer program of :mod:`fpga.sizing.solver`; a window generator for
depthwise layers and the node behind it are folded together, because they share their parallelism.

The cycle counts are those of FINN+'s ``get_exp_cycles``, written again so that thousands of
foldings can be tried; :func:`fpga.toolchain.assemble.apply_folding` requires both to be equal.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fpga.board.placement import Resources, sum_of
from fpga.graph.executor import Step
from fpga.operators.arithmetic import legal_divisors, type_bits
from fpga.operators.resources import estimate, width_converter
from fpga.operators.scan_node import legal_lanes, scan_cycles, scan_latency
from fpga.operators.sliding_window import window_bits
from fpga.sizing.solver import Option, options_of, undominated
from lmaunet.errors import UserError

Attributes = dict[str, Any]

# Vitis HLS has no integers, hence no streams, above this width.
LARGEST_HLS_BITS = 8191


def cycles(op_type: str, a: Attributes) -> int:
    """Return the cycles that a node needs for one image of many: its interval.

    Raises:
        UserError: where the operator is unknown; it is never taken as 0.
    """
    if op_type in ("FMPadding", "PadWithCode"):
        height, width = a["ImgDim"]
        top, left, bottom, right = a["Padding"]
        pixels = (height + top + bottom) * (width + left + right)
        return pixels * a["NumChannels"] // a["SIMD"]
    if op_type == "ConvolutionInputGenerator":
        return _window_cycles(a)
    if op_type == "MVAU":
        return math.prod(a["numInputVectors"]) * (a["MW"] // a["SIMD"]) * (a["MH"] // a["PE"])
    if op_type == "VVAU":
        taps = math.prod(a["Kernel"])
        return math.prod(a["Dim"]) * (a["Channels"] // a["PE"]) * (taps // a["SIMD"])
    if op_type in ("Requantize", "TableActivation", "DuplicateStreams"):
        return math.prod(a["numInputVectors"]) * (a["NumChannels"] // a["PE"])
    if op_type in ("ElementwiseAdd", "ElementwiseMul", "Reshape"):
        return math.prod(a["out_shape"]) // a["PE"]
    if op_type == "StreamingConcat":
        return math.prod(a["numInputVectors"]) * (sum(a["ChannelsPerStream"]) // a["SIMD"])
    if op_type == "UpsampleNearestNeighbour":
        return a["HO"] * a["WO"] * (a["NumChannels"] // a["SIMD"])
    if op_type == "Pool":
        return math.prod(a["OutImgDims"]) * math.prod(a["KernelSize"]) * (a["Channels"] // a["PE"])
    if op_type == "SelectiveScan":
        return scan_cycles(a["NumChannels"], a["States"], a["Length"], a["PD"], a["PN"])
    raise UserError(f"no cycle count for hardware operator {op_type}")


def pipeline_cycles(op_type: str, a: Attributes) -> int:
    """Return by how many cycles a node's outputs are late, beyond its interval.

    That is the scan's pipeline. The few registers of other operators are not counted.
    """
    return scan_latency(a["States"], a["PN"]) if op_type == "SelectiveScan" else 0


def _window_cycles(a: Attributes) -> int:
    """Cycles of FINN+'s sliding window generator, as ``ConvolutionInputGenerator_rtl`` has them."""
    (kernel_h, kernel_w), (height, width) = a["ConvKernelDim"], a["IFMDim"]
    (out_h, out_w), (stride_h, stride_w) = a["OFMDim"], a["Stride"]
    folds = a["IFMChannels"] // a["SIMD"]
    if (a["parallel_window"] and kernel_h * kernel_w > 1) or kernel_h * kernel_w == 1:
        return height * width * folds + 2
    if height == 1 or width == 1:
        along_width = (width, out_w, kernel_w, stride_w)
        along_height = (height, out_h, kernel_h, stride_h)
        length, out, kernel, stride = along_width if height == 1 else along_height
        if not a["depthwise"]:
            return out * kernel * folds + 2
        produced = out * kernel * folds + (folds - 1) * kernel
        consumed = length * folds + folds * (kernel - 1) * (stride - 1)
        return max(produced, consumed) + 2
    fill = ((kernel_h - 1) * width + kernel_w) * folds
    row = max(out_w * kernel_w * kernel_h * folds, stride_w * width * folds)
    if a["depthwise"]:
        row += out_w * (stride_w - 1) * (folds - 1)
        fill += (stride_h - 1) * width * folds
    return fill + out_h * row


def stream_bits(op_type: str, a: Attributes, index: int, *, output: bool) -> int:
    """Return the bits of a beat of an input or output stream of a node."""
    if op_type == "SelectiveScan":
        return 8 * (a["PD"] if output or index < 2 else a["PN"])
    if op_type == "ConvolutionInputGenerator":
        return window_bits(a, output=output)
    if op_type == "MVAU":
        if output:
            return type_bits(a["outputDataType"]) * a["PE"]
        return type_bits(a["inputDataType"]) * a["SIMD"]
    if op_type == "VVAU":
        if output:
            return type_bits(a["outputDataType"]) * a["PE"]
        return type_bits(a["inputDataType"]) * a["PE"] * a["SIMD"]
    if op_type in ("ElementwiseAdd", "ElementwiseMul"):
        side = "out_dtype" if output else ("lhs_dtype", "rhs_dtype")[index]
        return type_bits(a[side]) * a["PE"]
    if op_type == "StreamingConcat":
        return type_bits(a["inputDataTypes"][0]) * a["SIMD"]
    if op_type in ("Reshape", "Pool"):
        return type_bits(a["dtype" if op_type == "Reshape" else "InputDataType"]) * a["PE"]
    parallel = a["PE"] if "PE" in a else a["SIMD"]
    kind = "outputDataType" if output and "outputDataType" in a else "inputDataType"
    return type_bits(a[kind]) * parallel


@dataclass
class FoldedNode:
    """A node of the hardware graph and its attributes, whose folding is being chosen."""

    step: Step
    attributes: Attributes = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.attributes:
            return
        decoded: Attributes = {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in self.step.attributes.items()
        }
        if self.step.op_type == "StreamingConcat":
            decoded["inputDataTypes"] = [v.decode() for v in decoded["inputDataTypes"]]
        self.attributes = decoded

    @property
    def name(self) -> str:
        """The node's first output, which names it in every stage."""
        return self.step.outputs[0]

    @property
    def op_type(self) -> str:
        """The operator without its backend's suffix."""
        return self.step.op_type

    def cycles(self) -> int:
        """Cycles for one image."""
        return cycles(self.op_type, self.attributes)

    def pipeline_cycles(self) -> int:
        """Cycles by which the outputs are late."""
        return pipeline_cycles(self.op_type, self.attributes)

    def resources(self) -> Resources:
        """Estimated resources."""
        return estimate(self.op_type, self.attributes)


Choice = tuple[Attributes, ...]


class Unit:
    """Nodes that are folded together: one, or a depthwise window and the node behind it."""

    def __init__(self, nodes: list[FoldedNode]) -> None:
        self.nodes = nodes
        self.foldings = sorted(
            ((self._cycles(choice), self._options(choice)) for choice in self.choices()),
            key=lambda folding: folding[0],
        )
        self.steps = sorted({cycles for cycles, _ in self.foldings})
        self._best: dict[int, list[Option]] = {}

    @property
    def fastest(self) -> int:
        """Cycles of the fastest folding."""
        return self.steps[0]

    def limit(self, target: int) -> int:
        """Return the cycles of the slowest folding that meets a target, or of the fastest."""
        return self.steps[max(0, bisect.bisect_right(self.steps, target) - 1)]

    def options(self, target: int) -> list[Option]:
        """Return every folding that meets a target, or the fastest, with places for its memories.

        An option's ``choice`` is the folding.
        """
        limit = self.limit(target)
        within = itertools.takewhile(lambda folding: folding[0] <= limit, self.foldings)
        return [option for _, options in within for option in options]

    def best_options(self, target: int) -> list[Option]:
        """Return the options that no other one betters in every kind of resource."""
        limit = self.limit(target)
        if limit not in self._best:
            self._best[limit] = undominated(self.options(limit))
        return self._best[limit]

    def take(self, choice: Choice) -> None:
        """Give the nodes a folding."""
        for node, change in zip(self.nodes, choice, strict=True):
            node.attributes.update(change)

    def _cycles(self, choice: Choice) -> int:
        return max(
            cycles(node.op_type, node.attributes | change)
            for node, change in zip(self.nodes, choice, strict=True)
        )

    def _options(self, choice: Choice) -> list[Option]:
        resources = sum_of(
            estimate(node.op_type, node.attributes | change)
            for node, change in zip(self.nodes, choice, strict=True)
        )
        return options_of(resources, choice)

    def choices(self) -> Iterator[Choice]:
        """Yield every legal folding."""
        a, op_type = self.nodes[-1].attributes, self.nodes[-1].op_type
        if op_type == "MVAU":
            for pe in legal_divisors(a["MH"]):
                for simd in legal_divisors(a["MW"]):
                    yield ({"PE": pe, "SIMD": simd},)
        elif op_type == "VVAU":
            for pe in legal_divisors(a["Channels"]):
                for simd in legal_divisors(math.prod(a["Kernel"])):
                    if pe * simd * 8 > LARGEST_HLS_BITS:
                        continue
                    window = {"SIMD": pe, "parallel_window": int(simd > 1)}
                    yield (window, {"PE": pe, "SIMD": simd})[-len(self.nodes) :]
        elif op_type == "Pool":
            for pe in legal_divisors(a["Channels"]):
                yield ({"SIMD": pe}, {"PE": pe})
        elif op_type == "ConvolutionInputGenerator":
            for simd in legal_divisors(a["IFMChannels"]):
                yield ({"SIMD": simd, "parallel_window": 0},)
            if math.prod(a["ConvKernelDim"]) > 1:
                yield ({"SIMD": a["IFMChannels"], "parallel_window": 1},)
        elif op_type == "SelectiveScan":
            channels, states = a["NumChannels"], a["States"]
            for pd in legal_divisors(channels):
                for pn in legal_divisors(states):
                    if legal_lanes(channels, states, pd, pn):
                        yield ({"PD": pd, "PN": pn},)
        elif op_type == "StreamingConcat":
            for simd in legal_divisors(math.gcd(*a["ChannelsPerStream"])):
                yield ({"SIMD": simd},)
        else:
            name = "PE" if "PE" in a else "SIMD"
            channels = a["NumChannels"] if "NumChannels" in a else a["out_shape"][-1]
            for parallel in legal_divisors(channels):
                yield ({name: parallel},)


class Neighbours:
    """The streams between the nodes, and what their width converters cost."""

    def __init__(self, nodes: list[FoldedNode]) -> None:
        producers = {name: (n, i) for n in nodes for i, name in enumerate(n.step.outputs)}
        self.streams: dict[str, list[tuple[FoldedNode, int, FoldedNode, int]]] = {}
        for node in nodes:
            for place_in, name in enumerate(node.step.inputs):
                if name in producers:
                    source, place_out = producers[name]
                    stream = (source, place_out, node, place_in)
                    self.streams.setdefault(source.name, []).append(stream)
                    self.streams.setdefault(node.name, []).append(stream)

    def converters(self, unit: Unit, choice: Choice) -> float:
        """Return the LUTs of the converters on all streams of a unit for one of its foldings."""
        changed = {n.name: n.attributes | c for n, c in zip(unit.nodes, choice, strict=True)}
        luts = 0
        for node in unit.nodes:
            for source, place_out, user, place_in in self.streams.get(node.name, ()):
                out = stream_bits(
                    source.op_type, changed.get(source.name, source.attributes), place_out,
                    output=True,
                )  # fmt: skip
                into = stream_bits(
                    user.op_type, changed.get(user.name, user.attributes), place_in, output=False
                )
                luts += width_converter(out, into).lut
        return luts


def units_of(nodes: list[FoldedNode]) -> list[Unit]:
    """Group the nodes: each depthwise window with the one node that it feeds."""
    producers = {name: node for node in nodes for name in node.step.outputs}
    units: list[list[FoldedNode]] = []
    taken: set[str] = set()
    for node in nodes:
        if node.op_type in ("VVAU", "Pool"):
            window = producers.get(node.step.inputs[0])
            pair = [node]
            if window is not None and window.op_type == "ConvolutionInputGenerator":
                pair = [window, node]
            units.append(pair)
            taken.update(n.name for n in pair)
    units.extend([node] for node in nodes if node.name not in taken)
    return [Unit(group) for group in units]
