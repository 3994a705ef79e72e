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
from typing import TYPE_CHECKING

from lmaunet.errors import UserError
from lmaunet.export.convolutions import copy_node, remove_unused
from lmaunet.export.function import DOMAIN, DOMAIN_VERSION, MINIMUM_IR_VERSION, OPSET, main_opset
from lmaunet.quant.packed import PACKED_BITS, packed_bytes

if TYPE_CHECKING:
    import numpy as np
    import onnx

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
    import numpy as np

    bits = int(np.bitwise_or.reduce(codes.reshape(-1).view(np.uint8)))
    return (bits & -bits).bit_length() - 1 if bits else 0


def pack_codes(codes: np.ndarray, bits: int, shift: int = 0) -> np.ndarray:
    """Return the planes ``(ceil(n / 8), bits)`` of n INT8 codes; inverse: :func:`unpack_codes`.

    The codes are ``2**shift`` times numbers of ``bits`` bits in two's complement.
    """
    import numpy as np

    flat = codes.astype(np.int8).reshape(-1)
    groups = np.pad(flat, (0, -flat.size % 8)).reshape(-1, 8, 1)
    table = (groups >> np.arange(shift, shift + bits, dtype=np.int8)) & 1
    return np.packbits(table.astype(np.uint8), axis=1, bitorder="little")[:, 0]


def unpack_codes(planes: np.ndarray, places: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the INT8 codes of a shape from planes ``(ceil(n / 8), bits)`` and places."""
    import numpy as np

    table = np.unpackbits(planes[:, None], axis=1, bitorder="little")
    codes = table.astype(np.int64) @ places.astype(np.int64)
    return codes.reshape(-1)[: math.prod(shape)].reshape(shape).astype(np.int8)


def _places(bits: int, shift: int) -> np.ndarray:
    """Return the value of each plane's bits, ``(bits, 1)``."""
    import numpy as np

    values = 1 << np.arange(shift, shift + bits)
    values[-1] = -values[-1]
    return values.astype(np.int8).reshape(-1, 1)


def unpack_function(opset: int = OPSET) -> onnx.FunctionProto:
    """Return the function ``ai.lmaunet::UnpackCodes``: planes, places, shape to INT8 codes.

    Args:
        opset: the version of the main operator set that its body is written in, 18 or more.
    """
    import onnx.parser

    return onnx.parser.parse_function(_BODY % opset)


def is_unpack(node: onnx.NodeProto) -> bool:
    """Tell whether a node unpacks a weight."""
    return node.op_type == NAME and node.domain == DOMAIN


def pack_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which each weight is stored in the fewest bits that hold its codes.

    A weight is an INT8 initializer that a DequantizeLinear of the main graph reads. What needs more
    than 4 bits, has fewer than :data:`FEWEST_PACKED` codes or is an input of the graph as well
    (which a caller may replace) stays as it is. Every tensor keeps its name and its values.

    Raises:
        UserError: where a weight can be packed and the model is of an older operator set than 18.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    replaceable = {value.name for value in graph.input}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []

    def store(name: str, array: np.ndarray) -> str:
        if name not in constants:
            constants[name] = numpy_helper.from_array(array, name)
        return name

    for tensor in _weights(model):
        codes = numpy_helper.to_array(tensor)
        # codes of UINT8 are those that need all of 8 bits
        narrow = codes.size and codes.dtype == np.int8
        bits = smallest_bits(codes) if narrow else UNPACKED_BITS
        if packed_bytes(codes.size, bits) == codes.size or tensor.name in replaceable:
            continue
        del constants[tensor.name]
        shift = common_shift(codes)
        inputs = [
            store(f"{tensor.name}/planes", pack_codes(codes, bits, shift)),
            store(f"{NAME}/places_{bits}_shifted_{shift}", _places(bits, shift)),
            store(f"{NAME}/shape_{'x'.join(map(str, codes.shape))}", np.array(codes.shape)),
        ]
        nodes.append(
            helper.make_node(
                NAME, inputs, [tensor.name], name=f"{tensor.name}/{NAME}", domain=DOMAIN
            )
        )
    if not nodes:
        return result
    opset = main_opset(model)
    if opset < OPSET:
        raise UserError(
            f"the model is of operator set {opset}; expected {OPSET} or more, which has the "
            f"operators that unpack weights; export with opset_version={OPSET}"
        )
    nodes += [copy_node(node) for node in graph.node]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants.values())
    _attach(result, opset)
    return result


def _attach(model: onnx.ModelProto, opset: int) -> None:
    """Give a model the function and its domain, in place, where it lacks them."""
    from onnx import helper

    if not any((f.domain, f.name) == (DOMAIN, NAME) for f in model.functions):
        model.functions.append(unpack_function(opset))
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    model.ir_version = max(model.ir_version, MINIMUM_IR_VERSION)


def unpack_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which each packed weight is an INT8 initializer again.

    It is what a runtime makes of the file when it loads it.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for name, planes, places, shape in _packed(model):
        codes = unpack_codes(planes, places, shape.tolist())
        graph.initializer.append(numpy_helper.from_array(codes, name))
    nodes = [copy_node(node) for node in graph.node if not is_unpack(node)]
    del graph.node[:]
    graph.node.extend(nodes)
    functions = [f for f in result.functions if (f.domain, f.name) != (DOMAIN, NAME)]
    del result.functions[:]
    result.functions.extend(functions)
    remove_unused(result)
    return result


def weight_bits_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the bits that a file stores each weight's codes in, by the weight's tensor.

    8 for weights that are not packed. A weight has the same name packed and unpacked.
    """
    packed = {name: int(planes.shape[1]) for name, planes, *_ in _packed(model)}
    return packed | {tensor.name: UNPACKED_BITS for tensor in _weights(model)}


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the INT8 and UINT8 initializers that a DequantizeLinear of the main graph reads."""
    import onnx

    read = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    kinds = onnx.TensorProto.INT8, onnx.TensorProto.UINT8
    return [t for t in model.graph.initializer if t.name in read and t.data_type in kinds]


def _packed(model: onnx.ModelProto) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the name of each packed weight, and its planes, places and shape."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if is_unpack(node):
            planes, places, shape = (numpy_helper.to_array(constants[name]) for name in node.input)
            yield node.output[0], planes, places, shape
