"""Weights of 2, 3 and 4 bits in a file: bit planes, which the runtime unpacks when it loads them.

ONNX has no type of 3 bits, and its types of 2 and 4 need newer operator sets than the rest of the
file, which runtimes quantize less well. So the codes are cut into bit planes of UINT8, for which
operator set 18 has every operator, and a function in the file makes INT8 of them. Its inputs are
constants, so a runtime that folds constants runs it once, at load, and finds the same INT8 weight
under DequantizeLinear as before: the same integer kernels, the same outputs.

The layout, for n codes q[0], q[1], ... (the weight in C order), which are 2**s times numbers of b
bits in two's complement, with one s for all:

    planes: UINT8 (ceil(n / 8), b), C order; bit k of planes[i, p] is bit p + s of q[8 * i + k]
    places: INT8 (b, 1): 2**s, 2**(s + 1), ... and last, for the sign, -2**(s + b - 1)
    shape:  INT64, the weight's dimensions
    q[8 * i + k] = sum over p of ((planes[i, p] >> k) & 1) * places[p]

Codes after the n-th are 0. ``places`` and ``shape`` are stored once for all weights that have them
in common. The weight's tensor keeps its name; its planes are called ``NAME/planes``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from lmaunet.cpu.normed_convolutions import reads_weight
from lmaunet.errors import UserError
from lmaunet.export.function import DOMAIN, OPSET, define
from lmaunet.export.passes import (
    Pass,
    UnreadConstants,
    add_constant,
    array_of,
    label,
    new_node,
    read,
    replace,
    run,
)
from lmaunet.quant.packed import PACKED_BITS, packed_bytes

NAME = "UnpackCodes"
UNPACKED_BITS = 8

# The products are summed by MatMulInteger: UINT8 by INT8, exact in INT32. The last Slice drops
# what fills the last group of eight.
_BODY = """
<opset_import: ["" : %d], domain: "ai.lmaunet">
UnpackCodes (planes, places, shape) => (codes)
{
    first = Constant <value = int64[1] {0}> ()
    middle = Constant <value = int64[1] {1}> ()
    rest = Constant <value = int64[1] {-1}> ()
    one = Constant <value = uint8 {1}> ()
    positions = Constant <value = uint8[8, 1] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    rows = Unsqueeze (planes, middle)
    shifted = BitShift <direction = "RIGHT"> (rows, positions)
    bits = BitwiseAnd (shifted, one)
    width = Shape <start = 1> (planes)
    table_shape = Concat <axis = 0> (rest, width)
    table = Reshape (bits, table_shape)
    sums = MatMulInteger (table, places)
    count = ReduceProd (shape)
    kept = Slice (sums, first, count, first)
    narrow = Cast <to = 3> (kept)
    codes = Reshape (narrow, shape)
}
"""


def smallest_bits(codes: np.ndarray) -> int:
    """Return the fewest of 2, 3, 4 or 8 bits that hold INT8 codes.

    That is in two's complement, without the zeros that all codes end with.
    """
    low, high = (int(v) >> common_shift(codes) for v in (codes.min(), codes.max()))
    fits = (b for b in PACKED_BITS if -(1 << (b - 1)) <= low and high < 1 << (b - 1))
    return next(fits, UNPACKED_BITS)


def common_shift(codes: np.ndarray) -> int:
    """Return how many zeros all INT8 codes end with in binary; 0 where every code is 0."""
    bits = int(np.bitwise_or.reduce(codes.reshape(-1).view(np.uint8)))
    return (bits & -bits).bit_length() - 1 if bits else 0


def pack_codes(codes: np.ndarray, bits: int, shift: int = 0) -> np.ndarray:
    """Return the planes ``(ceil(n / 8), bits)`` of n INT8 codes; inverse: :func:`unpack_codes`.

    The codes are ``2**shift`` times numbers of ``bits`` bits in two's complement.
    """
    flat = codes.astype(np.int8).reshape(-1)
    groups = np.pad(flat, (0, -flat.size % 8)).reshape(-1, 8, 1)
    table = (groups >> np.arange(shift, shift + bits, dtype=np.int8)) & 1
    return np.packbits(table.astype(np.uint8), axis=1, bitorder="little")[:, 0]


def unpack_codes(planes: np.ndarray, places: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the INT8 codes of a shape from planes ``(ceil(n / 8), bits)`` and places."""
    table = np.unpackbits(planes[:, None], axis=1, bitorder="little")
    codes = table.astype(np.int64) @ places.astype(np.int64)
    return codes.reshape(-1)[: math.prod(shape)].reshape(shape).astype(np.int8)


def _places(bits: int, shift: int) -> np.ndarray:
    """Return the value of each plane's bits, ``(bits, 1)``."""
    values = 1 << np.arange(shift, shift + bits)
    values[-1] = -values[-1]
    return values.astype(np.int8).reshape(-1, 1)


def is_unpack(node: ir.Node) -> bool:
    """Tell whether a node unpacks a weight."""
    return node.op_type == NAME and node.domain == DOMAIN


class WeightPacking(Pass):
    """Store each weight in the fewest bits that hold its codes.

    A weight is an INT8 initializer that a DequantizeLinear of the main graph reads, or a call of
    :mod:`lmaunet.cpu.normed_convolutions`. What needs more
    than 4 bits, is so small that packing saves nothing or is an input of the graph as well (which a
    caller may replace) stays as it is. Every tensor keeps its name and its values.
    """

    name = "weight packing"

    def rewrite(self, model: ir.Model) -> int:
        """Pack them; raises :class:`UserError` for an older operator set than 18."""
        graph = model.graph
        found = list(_packable(graph))
        opset = model.opset_imports.get("", 0)
        if found and opset < OPSET:
            raise UserError(
                f"the model is of operator set {opset}; expected {OPSET} or more, which has the "
                f"operators that unpack weights; export with opset_version={OPSET}"
            )
        nodes = []
        for value, codes, bits in found:
            shift = common_shift(codes)
            shape = "x".join(map(str, codes.shape))
            inputs = [
                add_constant(graph, f"{value.name}/planes", pack_codes(codes, bits, shift)),
                add_constant(graph, f"{NAME}/places_{bits}_shifted_{shift}", _places(bits, shift)),
                add_constant(graph, f"{NAME}/shape_{shape}", np.array(codes.shape)),
            ]
            name = f"{value.name}/{NAME}"
            nodes.append(new_node(NAME, inputs, value.name, name=name, domain=DOMAIN))
            del graph.initializers[value.name]
            value.replace_all_uses_with(nodes[-1].outputs[0])
        if found:
            graph.insert_before(graph[0], nodes)
            define(model, onnx.parser.parse_function(_BODY % opset))
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each weight that is left in more bits than it needs."""
        yield from (
            f"the weight {v.name!r} fits {bits} bits" for v, _, bits in _packable(model.graph)
        )


def _packable(graph: ir.Graph) -> Iterator[tuple[ir.Value, np.ndarray, int]]:
    """Yield each weight that packing makes smaller, its codes and their bits."""
    for value in _weights(graph):
        codes = array_of(value)
        # codes of UINT8 are those that need all of 8 bits
        narrow = codes.size and codes.dtype == np.int8
        bits = smallest_bits(codes) if narrow else UNPACKED_BITS
        if narrow and packed_bytes(codes.size, bits) < codes.size and not value.is_graph_input():
            yield value, codes, bits


class WeightUnpacking(Pass):
    """Make each packed weight an INT8 initializer again, as a runtime does at load."""

    name = "weight unpacking"

    def rewrite(self, model: ir.Model) -> int:
        """Unpack them."""
        graph = model.graph
        found = [node for node in graph if is_unpack(node)]
        for node in found:
            planes, places, shape = (array_of(value) for value in node.inputs)
            codes = unpack_codes(planes, places, shape.tolist())
            output = node.outputs[0]
            value = ir.Value(const_value=ir.tensor(codes, name=output.name))
            replace(output, value)
            graph.register_initializer(value)
        model.functions.pop((DOMAIN, NAME, ""), None)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        yield from (f"{label(node)} is left" for node in model.graph if is_unpack(node))


def pack_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`WeightPacking`; raises as that does."""
    return run([WeightPacking()], model)


def unpack_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which each packed weight is an INT8 initializer again."""
    return run([WeightUnpacking(), UnreadConstants()], model)


def weight_bits_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the bits that a file stores each weight's codes in, by the weight's tensor.

    8 for weights that are not packed. A weight has the same name packed and unpacked.
    """
    graph = read(model).graph
    packed = {
        node.outputs[0].name: int(array_of(node.inputs[0]).shape[1])
        for node in graph
        if is_unpack(node)
    }
    return packed | {value.name: UNPACKED_BITS for value in _weights(graph)}


def _weights(graph: ir.Graph) -> list[ir.Value]:
    """Return the INT8 and UINT8 initializers that the main graph reads as the codes of weights."""
    kinds = ir.DataType.INT8, ir.DataType.UINT8
    return [
        value
        for value in graph.initializers.values()
        if value.const_value.dtype in kinds and any(reads_weight(use) for use in value.uses())
    ]
