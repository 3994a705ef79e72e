"""A QCDQ graph in the form for which ONNX Runtime has integer kernels on a CPU.

Two things keep a network with INT8 activations of zero point 0 mostly in float on x86. ONNX
Runtime's integer convolutions want UINT8 activations there, and it drops a ReLU into one only
where the code 0 is the smallest; :func:`unsigned_activations` gives the same values such codes.
And an integer convolution adds an integer bias; :func:`integer_biases` writes into the file the
rounding that ONNX Runtime would do when it loads it, so that the file computes the same with its
graph optimization and without. The fewer bits weights have, the coarser that rounding is, which
:func:`widen_codes` puts right first. :func:`unsigned_weights` comes last.
"""

from __future__ import annotations

import functools
import platform
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError
from lmaunet.export.convolutions import (
    MOVES,
    Graph,
    copy_node,
    quantized_convolutions,
    remove_unused,
)

if TYPE_CHECKING:
    import onnx

SHIFT = 128
LARGEST_RELU_CODE = 127
LARGEST_WIDE_CODE = 64
"""Two products of an activation code up to 255 and a weight code up to 64 fit INT16, in which x86
processors without VNNI add them; larger ones would saturate there, see :func:`unsigned_weights`."""
INT16_MAX = 32_767


def unsigned_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a prepared QCDQ model whose activations have UINT8 codes.

    The model is one that :func:`lmaunet.export.convolutions.prepare` returned: every quantizer is
    INT8 with zero point 0. A quantizer gets the zero point 128. Where it follows a ReLU that
    nothing else reads, the ReLU goes, the quantizer gets the zero point 0, and a Clip keeps its
    codes at 127 and below, where the INT8 quantizer saturates. One that repeats such a quantizer
    behind operators that only move values has the zero point 0 too, so that these move codes.
    Constants under DequantizeLinear (weights) stay INT8. Every DequantizeLinear puts out the same
    values, bit for bit.

    Raises:
        UserError: where another operator than DequantizeLinear reads a quantizer's codes.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    readers = Counter(name for node in graph.nodes for name in node.input)
    readers.update(output.name for output in result.graph.output)
    zero, shift, largest = (
        f"unsigned/{name}" for name in ("zero_point_0", "zero_point_128", "largest_relu_code")
    )
    dropped: set[str] = set()
    # the zero point of each tensor of codes
    zero_points: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for original in graph.nodes:
        node = copy_node(original)
        if node.op_type == "QuantizeLinear":
            source = graph.producers.get(node.input[0])
            relu = source is not None and source.op_type == "Relu" and readers[node.input[0]] == 1
            moved = _points_moved(graph, node.input[0], zero_points) == {zero}
            point = zero if relu or moved else shift
            codes = node.output[0]
            inputs = [node.input[0], node.input[1], point]
            if relu and source is not None:
                dropped.add(source.name)
                inputs[0] = source.input[0]
                node.output[0] = f"{codes}/unclipped"
            node.input[:] = inputs
            nodes.append(node)
            if relu:
                nodes.append(
                    helper.make_node(
                        "Clip", [node.output[0], "", largest], [codes], name=f"{node.name}/Clip"
                    )
                )
            zero_points[codes] = point
            continue
        strays = [name for name in node.input if name in zero_points]
        if strays and node.op_type != "DequantizeLinear":
            raise UserError(
                f"{node.op_type} {node.name} computes with the codes {strays[0]!r}; expected only "
                "DequantizeLinear to read codes; export activations without narrow range"
            )
        if node.op_type == "DequantizeLinear" and node.input[0] in zero_points:
            node.input[:] = [node.input[0], node.input[1], zero_points[node.input[0]]]
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(node for node in nodes if node.name not in dropped)
    for name, value in ((zero, 0), (shift, SHIFT), (largest, LARGEST_RELU_CODE)):
        result.graph.initializer.append(numpy_helper.from_array(np.array(value, np.uint8), name))
    remove_unused(result)
    return result


def _points_moved(graph: Graph, name: str, zero_points: dict[str, str]) -> set[str]:
    """Return the zero points of the codes that a tensor's values are moved from, "" for others."""
    node = graph.producers.get(name)
    if node is None:
        return {""}
    if node.op_type == "DequantizeLinear":
        return {zero_points.get(node.input[0], "")}
    if node.op_type not in MOVES or node.op_type == "Relu" or graph.dequantize(name) is None:
        return {""}
    inputs = node.input if node.op_type == "Concat" else node.input[:1]
    return set().union(*(_points_moved(graph, source, zero_points) for source in inputs))


def widen_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which weights of few bits use the larger codes, with a finer scale.

    A convolution's bias is rounded to a unit of ``input scale * weight scale``. Codes of 3 bits
    have a scale 32 times as coarse as those of 8, and half a unit may be much of an output's step.
    Codes are multiplied by the largest power of two that keeps them within
    :data:`LARGEST_WIDE_CODE`, and their scale is divided by it: the values stay as they are, bit
    for bit. A weight is an INT8 initializer under a DequantizeLinear without zero point, or with
    zeros.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear" or node.input[0] not in graph.initializers:
            continue
        codes, scale = (graph.constant(name) for name in node.input[:2])
        zero = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
        if codes is None or codes.dtype != np.int8 or scale is None or zero is None or zero.any():
            continue
        largest = int(np.abs(codes.astype(np.int16)).max(initial=0))
        shift = (LARGEST_WIDE_CODE // largest).bit_length() - 1 if largest else 0
        if shift <= 0:
            continue
        wide = (codes << shift).astype(np.int8)
        finer = (scale * np.float32(2.0**-shift)).astype(np.float32)
        names = [f"{node.name}/wide_codes", f"{node.name}/finer_scale"]
        for name, array in zip(names, (wide, finer), strict=True):
            result.graph.initializer.append(numpy_helper.from_array(array, name))
        node.input[:2] = names
    remove_unused(result)
    return result


def unsigned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which weights that could saturate on a CPU have UINT8 codes.

    x86 processors without VNNI multiply UINT8 by INT8 in pairs and add each pair in INT16, which
    saturates: wrong sums, without a word. ONNX Runtime multiplies UINT8 by UINT8 in wider numbers.
    So where two products of the largest codes of a convolution's input and weights exceed INT16,
    the weights' codes and zero points become larger by 128; the values stay as they are, bit for
    bit. A model is one that :func:`unsigned_activations` returned.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    quantized = {convolution.node for convolution in quantized_convolutions(result)}
    made: set[str] = set()
    for node in graph.nodes:
        if node.op_type != "Conv" or node.name not in quantized:
            continue
        source, weight = graph.dequantize(node.input[0]), graph.producers[node.input[1]]
        codes, scale = (graph.constant(name) for name in weight.input[:2])
        if source is None or codes is None or scale is None or codes.dtype != np.int8:
            continue
        zero = graph.constant(source.input[2])
        largest = LARGEST_RELU_CODE if zero is not None and not zero.any() else 255
        if 2 * largest * int(np.abs(codes.astype(np.int16)).max(initial=0)) <= INT16_MAX:
            continue
        names = f"{weight.input[0]}/unsigned", f"unsigned/zero_points_{scale.size}x{scale.ndim}"
        for name, array in (
            (names[0], (codes.astype(np.int16) + SHIFT).astype(np.uint8)),
            (names[1], np.full(scale.shape, SHIFT, np.uint8)),
        ):
            if name not in made:
                result.graph.initializer.append(numpy_helper.from_array(array, name))
                made.add(name)
        weight.input[:] = [names[0], weight.input[1], names[1]]
    remove_unused(result)
    return result


def signed_weights(model: Any) -> Any:
    """Return a copy with INT8 codes where :func:`unsigned_weights` made UINT8 ones; its inverse.

    Processors with VNNI add products of UINT8 and INT8 in INT32, so that nothing saturates, and
    ONNX Runtime convolves UINT8 by INT8 about twice as fast there as UINT8 by UINT8.

    A model is an ``onnx.ModelProto`` or what
    :func:`lmaunet.export.model_messages.read_messages` returned; the copy is of the same kind, and
    the package ``onnx`` is not needed.
    """
    from lmaunet.export.model_messages import INT8, UINT8

    result = type(model)()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    made: set[str] = set()
    for node in result.graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        tensor, zero = constants.get(node.input[0]), constants.get(node.input[2])
        if tensor is None or zero is None or {tensor.data_type, zero.data_type} != {UINT8}:
            continue
        if set(_bytes_of(zero)) != {SHIFT}:
            continue
        name = f"{tensor.name}/signed"
        if name not in made:
            # a code less 128, in two's complement, is the code with its first bit turned
            signed = bytes(_bytes_of(tensor)).translate(_TURNED)
            result.graph.initializer.add(
                name=name, data_type=INT8, dims=tensor.dims, raw_data=signed
            )
            made.add(name)
        node.input[0] = name
        del node.input[2]
    remove_unused(result)
    return result


_TURNED = bytes(code ^ SHIFT for code in range(256))


def _bytes_of(tensor: Any) -> bytes:
    """Return the codes of a tensor of UINT8."""
    return tensor.raw_data if tensor.HasField("raw_data") else bytes(tensor.int32_data)


@functools.cache
def runtime_adds_without_saturation() -> bool:
    """Tell whether ONNX Runtime, on this processor, adds products of UINT8 and INT8 in INT32.

    The processor must say that it can, and a convolution whose products are the largest there are
    must come out right: an emulated or virtual processor may have other instructions than the
    system lists, and a library may not use those that there are.
    """
    return adds_without_saturation() and _largest_sum() == EXACT_SUM


EXACT_SUM = 100
"""What :func:`_largest_sum` is where nothing saturates."""


def _largest_sum() -> int:
    """Return a code that ONNX Runtime computes from the largest products, 100 if it is right."""
    import numpy as np

    from lmaunet.export.model_messages import INT8, UINT8, message
    from lmaunet.export.reference import open_session

    channels, float32 = 32, 1
    weights = np.full((channels, channels, 1, 1), 127, np.int8)
    step = channels * 255 * 127 / EXACT_SUM
    constants: dict[str, tuple[int, Any]] = {
        "one": (float32, np.float32(1)), "zero": (UINT8, np.uint8(0)), "weights": (INT8, weights),
        "no_offset": (INT8, np.int8(0)), "step": (float32, np.float32(step)),
    }  # fmt: skip
    model = message("Model")(ir_version=8)
    model.opset_import.add(domain="", version=17)
    model.graph.name = "largest sum"
    inputs = ["image", "one", "zero", "weights", "one", "no_offset", "step", "zero"]
    model.graph.node.add(op_type="QLinearConv", input=inputs, output=["codes"])
    for name, (kind, value) in constants.items():
        model.graph.initializer.add(
            name=name, data_type=kind, dims=value.shape, raw_data=value.tobytes()
        )
    for values, name in ((model.graph.input, "image"), (model.graph.output, "codes")):
        tensor = values.add(name=name).type.tensor_type
        tensor.elem_type = UINT8
        for side in (1, channels, 8, 8):
            tensor.shape.dim.add(dim_value=side)
    image = np.full((1, channels, 8, 8), 255, np.uint8)
    codes = open_session(model, optimize=True).run(None, {"image": image})[0]
    return int(codes.min())


def adds_without_saturation() -> bool:
    """Tell whether this processor says that it adds products of UINT8 and INT8 in INT32.

    On x86 that is VNNI. Where the system does not tell, the answer is no.
    """
    information = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine() in ("aarch64", "arm64")
    if not information.is_file():
        return False
    flags = set(information.read_text(encoding="utf-8", errors="replace").split())
    return not flags.isdisjoint({"avx512_vnni", "avx_vnni"})


def integer_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which the bias of each quantized convolution is an accumulator value.

    A convolution of codes accumulates in units of ``input scale * weight scale[channel]``. Each
    bias is rounded to the nearest multiple of that unit, half to even, so that it changes by half
    a unit at most. It stays a float32 tensor.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    quantized = {convolution.node for convolution in quantized_convolutions(result)}
    for node in graph.nodes:
        if node.op_type != "Conv" or node.name not in quantized or len(node.input) < 3:
            continue
        bias = graph.constant(node.input[2])
        source, weight = graph.dequantize(node.input[0]), graph.producers[node.input[1]]
        scales = [graph.constant(n.input[1]) for n in (source, weight) if n is not None]
        if bias is None or any(scale is None for scale in scales):
            continue
        unit = np.ones(1)
        for scale in scales:
            unit = unit * np.asarray(scale, np.float64).reshape(-1)
        rounded = (np.rint(bias / unit) * unit).astype(np.float32)
        name = f"{node.name}/integer_bias"
        result.graph.initializer.append(numpy_helper.from_array(rounded, name))
        node.input[2] = name
    remove_unused(result)
    return result
