"""Small QONNX networks, written node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Collects nodes; every method returns the name of the tensor that it adds."""

    def __init__(self, channels: int = 4, size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.shape = (1, channels, *size)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def constant(self, values, dtype=np.float32) -> str:
        name = self.name("constant")
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def op(self, op_type: str, *inputs: str, name: str = "", domain: str = "", **attributes) -> str:
        output = name or self.name(op_type.lower())
        node = helper.make_node(
            op_type, list(inputs), [output], name=f"node_{output}", domain=domain, **attributes
        )
        self.nodes.append(node)
        return output

    def quant(
        self, x: str, scale, bits: int = 8, signed: int = 1, narrow: int = 0,
        zero_point: float = 0.0, name: str = "",
    ) -> str:  # fmt: skip
        inputs = (self.constant(scale), self.constant(zero_point), self.constant(float(bits)))
        return self.op(
            "Quant", x, *inputs, name=name, domain="qonnx.custom_op.general", signed=signed,
            narrow=narrow, rounding_mode="ROUND",
        )  # fmt: skip

    def image(self, scale: float = 0.02) -> str:
        return self.quant("image", scale)

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1), group: int = 1,
        bias: bool = True, pads: list[int] | None = None, strides: tuple[int, int] = (1, 1),
    ) -> str:  # fmt: skip
        fan_in = inputs // group * kernel[0] * kernel[1]
        shape = (outputs, inputs // group, *kernel)
        weights = self.random.normal(size=shape) / np.sqrt(fan_in)
        scale = np.abs(weights).reshape(outputs, -1).max(1).reshape(-1, 1, 1, 1) / 127
        quantized = self.quant(self.constant(weights), scale, narrow=1)
        operands = [x, quantized]
        if bias:
            operands.append(self.constant(self.random.normal(size=outputs) * 0.1))
        same = [kernel[0] // 2, kernel[1] // 2] * 2
        return self.op(
            "Conv", *operands, kernel_shape=list(kernel), group=group, strides=list(strides),
            pads=same if pads is None else pads, dilations=[1, 1],
        )  # fmt: skip

    def save(self, path: Path, output: str) -> Path:
        graph = helper.make_graph(
            self.nodes, "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )  # fmt: skip
        opsets = [
            helper.make_opsetid(domain, version)
            for domain, version in (("", 18), ("qonnx.custom_op.general", 2), ("ai.lmaunet", 1))
        ]
        onnx.save(helper.make_model(graph, opset_imports=opsets), path)
        return path

    def images(self, count: int = 2) -> np.ndarray:
        return self.random.normal(size=(count, *self.shape[1:])).astype(np.float32)


def silu(net: Net, x: str, scale: float = 0.02) -> str:
    return net.quant(net.op("Mul", x, net.op("Sigmoid", x)), scale)


def tokens(net: Net, x: str, channels: int, length: int) -> str:
    flat = net.op("Reshape", x, net.constant([1, channels, length], np.int64))
    return net.op("Transpose", flat, perm=[0, 2, 1])


def mamba(net: Net, local: str, channels: int, states: int, size: tuple[int, int]) -> str:
    """``local`` (1, C, H, W), quantized with 0.03, plus Mamba over its tokens, quantized."""
    length = size[0] * size[1]
    flat = net.op("Reshape", local, net.constant([1, channels, 1, length], np.int64))
    x = net.quant(net.conv(flat, channels, channels, bias=False), 0.02)
    z = net.quant(net.conv(flat, channels, channels, bias=False), 0.02)
    causal = net.conv(x, channels, channels, (1, 4), group=channels, pads=[0, 3, 0, 0])
    x = silu(net, net.quant(causal, 0.02))
    rank = net.quant(net.conv(x, channels, 2, bias=False), 0.02)
    dt = net.quant(net.conv(rank, 2, channels), 0.02)
    b = net.quant(net.conv(x, channels, states, bias=False), 0.02)
    c = net.quant(net.conv(x, channels, states, bias=False), 0.02)
    rates = net.constant(-np.arange(1, states + 1, dtype=np.float32) * np.ones((channels, 1)))
    skip = net.constant(np.ones(channels))
    y = net.op(
        "SelectiveScan", tokens(net, x, channels, length), tokens(net, dt, channels, length),
        rates, tokens(net, b, states, length), tokens(net, c, states, length), skip,
        domain="ai.lmaunet",
    )  # fmt: skip
    y = net.op("Transpose", y, perm=[0, 2, 1])
    y = net.quant(net.op("Reshape", y, net.constant([1, channels, 1, length], np.int64)), 0.01)
    gated = net.quant(net.op("Mul", y, silu(net, z, 0.01)), 0.005)
    out = net.conv(gated, channels, channels, bias=False)
    out = net.op("Reshape", out, net.constant([1, channels, *size], np.int64))
    return net.quant(net.op("Add", local, net.quant(out, 0.03)), 0.04)


def blocks(path: Path) -> Path:
    """Write a network whose channels become blocks of pixels, beside another stream's."""
    net = Net(1, (8, 8))
    x = net.quant(net.conv(net.image(), 1, 4, (3, 3)), 0.0313)
    low = net.quant(net.conv(x, 4, 8, (3, 3), strides=(2, 2)), 0.0207)
    up = net.op("DepthToSpace", low, blocksize=2, mode="CRD")
    joined = net.quant(net.op("Concat", up, x, axis=1), 0.0253)
    return net.save(path, net.conv(joined, 6, 3))


def whole(path: Path) -> tuple[Path, np.ndarray]:
    """Write a network with every pattern of our own networks; return its file and images."""
    net = Net(1, (16, 16))
    shallow = net.quant(net.op("Relu", net.conv(net.image(), 1, 4, (3, 3))), 0.02)
    pooled = net.op("MaxPool", shallow, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
    proj = net.quant(net.conv(pooled, 4, 6), 0.03)
    local = net.quant(net.conv(proj, 6, 6, (7, 7), group=6), 0.03)
    stage = mamba(net, local, 6, 4, (8, 8))
    reduced = net.quant(net.conv(stage, 6, 2), 0.04)
    border = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    once = net.op("MaxPool", reduced, **border)
    bins = net.op("AveragePool", stage, kernel_shape=[4, 8], strides=[4, 8], pads=[0, 0, 0, 0])
    bins = net.quant(net.conv(net.quant(bins, 0.02), 6, 2), 0.04)
    bins = net.op("Resize", bins, "", net.constant([1, 1, 4, 8]), mode="nearest",
                  nearest_mode="floor", coordinate_transformation_mode="asymmetric")  # fmt: skip
    twice = net.op("MaxPool", once, **border)
    joined = net.op("Concat", stage, reduced, once, twice, bins, axis=1)
    out = net.quant(net.op("Relu", net.conv(joined, 14, 6)), 0.03)
    up = net.quant(net.conv(out, 6, 4), 0.02)
    factors = net.constant([1, 1, 2, 2])
    up = net.op("Resize", up, "", factors, mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric")  # fmt: skip
    decoded = net.quant(net.op("Relu", net.op("Add", up, shallow)), 0.03, signed=0)
    decoded = net.quant(net.op("Relu", net.conv(decoded, 4, 4, (3, 3))), 0.02)
    return net.save(path, net.conv(decoded, 4, 3)), net.images(3)
