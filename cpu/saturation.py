"""Whether a processor adds the products of codes without saturation, and a file for one that does.

x86 processors without VNNI multiply UINT8 by INT8 in pairs and add each pair in INT16, which
saturates. What ships has UINT8 weights where that would matter
(:class:`lmaunet.cpu.cpu_form.UnsignedWeights`); with VNNI INT8 ones are faster. Whoever opens a
build needs this: no package ``onnx``.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

from lmaunet.export.model_messages import INT8, UINT8, all_nodes, message

SHIFT = 128
CPUS = ("any", "vnni")
"""What a file may count on: ``any`` processor, or one that has VNNI, which adds products of UINT8
and INT8 without saturation (:class:`lmaunet.cpu.cpu_form.UnsignedWeights`)."""


def signed_weights(model: Any) -> Any:
    """Return a copy with INT8 codes where ``UnsignedWeights`` made UINT8 ones; its inverse.

    Processors with VNNI add products of UINT8 and INT8 in INT32, so that nothing saturates, and
    ONNX Runtime convolves UINT8 by INT8 about twice as fast there as UINT8 by UINT8.

    A model is an ``onnx.ModelProto`` or what
    :func:`lmaunet.export.model_messages.read_messages` returned; the copy is of the same kind, and
    the package ``onnx`` is not needed.
    """
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
    read = {name for node in all_nodes(result.graph.node) for name in node.input}
    read.update(output.name for output in result.graph.output)
    kept = [tensor for tensor in result.graph.initializer if tensor.name in read]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
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
