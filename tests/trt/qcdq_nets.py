"""Small QCDQ networks as an export writes them, for the tests of the TensorRT and CPU targets."""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmaunet.export.function import DOMAIN, attach

ACTIVATION_SCALE = 4 / 127


class Network:
    """Collects the nodes and constants of a graph; every method returns a tensor's name."""

    def __init__(self, seed=0):
        self.nodes, self.initializers = [], []
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, op_type, *inputs, name=None, domain="", **attributes):
        self.count += 1
        name = name or f"/{op_type}_{self.count}"
        self.nodes.append(
            helper.make_node(
                op_type, list(inputs), [f"{name}_out"], name=name, domain=domain, **attributes
            )
        )
        return f"{name}_out"

    def quantized(self, x, scale=ACTIVATION_SCALE, dtype=np.int8, zero=0):
        self.count += 1
        prefix = f"/quant_{self.count}"
        grid = [
            self.constant(f"{prefix}/scale", np.float32(scale)),
            self.constant(f"{prefix}/zero_point", dtype(zero)),
        ]
        codes = self.op("QuantizeLinear", x, *grid, name=f"{prefix}/QuantizeLinear")
        return self.op("DequantizeLinear", codes, *grid, name=f"{prefix}/DequantizeLinear")

    def conv(self, name, x, ins, outs, kernel=1, groups=1, quantized=True, clip=False):
        kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        shape = (outs, ins // groups, *kernel)
        codes = self.rng.integers(-127, 128, shape).astype(np.int8)
        scale = np.full(outs, 1 / (73 * math.sqrt(math.prod(shape[1:]))), np.float32)
        if quantized:
            weight = self.constant(f"{name}.codes", codes)
            if clip:
                low, high = np.int8(-127), np.int8(127)
                bounds = [self.constant(f"{name}.low", low), self.constant(f"{name}.high", high)]
                weight = self.op("Clip", weight, *bounds, name=f"{name}/Clip")
            scales = self.constant(f"{name}.scale", scale)
            zero = self.constant(f"{name}.zero_point", np.zeros(outs, np.int8))
            weight = self.op(
                "DequantizeLinear", weight, scales, zero, name=f"{name}/weight", axis=0
            )
        else:
            weight = self.constant(f"{name}.weight", codes * scale.reshape(-1, 1, 1, 1))
        bias = self.constant(f"{name}.bias", self.rng.normal(0, 0.1, outs).astype(np.float32))
        causal = kernel[0] == 1 and kernel[1] > 1
        pads = [0, kernel[1] - 1, 0, 0] if causal else [k // 2 for k in kernel] * 2
        return self.op(
            "Conv", x, weight, bias, name=name, group=groups, kernel_shape=list(kernel), pads=pads
        )

    def scan(self, name, x, dt, b, c, channels, states):
        A = self.constant(
            f"{name}.A", -np.tile(np.arange(1.0, states + 1), (channels, 1)).astype("f")
        )
        D = self.constant(f"{name}.D", np.ones(channels, np.float32))
        return self.op("SelectiveScan", x, dt, A, b, c, D, name=name, domain=DOMAIN)

    def model(self, output, size, classes):
        self.nodes.append(helper.make_node("Identity", [output], ["logits"], name="/output"))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes, size, size])],
            self.initializers,
        )
        imports = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        if any(node.op_type == "SelectiveScan" for node in self.nodes):
            return attach(model)
        onnx.checker.check_model(model)
        return model


SCAN_CONVS = ("/dt", "/b", "/c")
DENSE = ("/stem", "/point", *SCAN_CONVS, "/middle", "/decoder", "/head")
DEPTHWISE = ("/large",)


def small_network(size=32, channels=8, states=4, classes=3, scan=True, float_conv=None, clip=False):
    """A stem, a depthwise 7x7, a scan over the tokens, pooling, upsampling, a skip and a head.

    ``float_conv`` names a convolution that stays without Q/DQ on its weights. Without ``scan`` the
    tokens and the three convolutions that feed it are left out: its engine builds in a tenth of
    the time.
    """
    net = Network()

    def conv(name, x, *args, **more):
        return net.conv(name, x, *args, quantized=name != float_conv, clip=clip, **more)

    x = net.quantized("image")
    x = skip = net.quantized(net.op("Relu", conv("/stem", x, 1, channels, 3)))
    x = net.quantized(conv("/large", x, channels, channels, 7, groups=channels))
    x = net.quantized(conv("/point", x, channels, channels))
    y = net.quantized(_scan_of(net, conv, x, size, channels, states), 0.1) if scan else x
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.quantized(net.op("Relu", conv("/middle", y, channels, channels, 3)))
    scales = net.constant("/twice", np.array([1, 1, 2, 2], np.float32))
    y = net.op(
        "Resize", y, "", scales, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    y = net.op("Concat", y, skip, axis=1)
    y = net.quantized(net.op("Relu", conv("/decoder", y, 2 * channels, channels, 3)))
    return net.model(conv("/head", y, channels, classes), size, classes)


def _scan_of(net, conv, x, size, channels, states):
    """A scan over the pixels of a map in raster order, fed by three convolutions."""
    tokens = net.constant("/tokens", np.array([1, channels, 1, size * size], np.int64))
    grid = net.constant("/grid", np.array([1, channels, size, size], np.int64))
    axis = net.constant("/axis", np.array([2], np.int64))
    x = net.op("Reshape", x, tokens)
    dt = net.quantized(conv("/dt", x, channels, channels))
    b = net.quantized(conv("/b", x, channels, states))
    c = net.quantized(conv("/c", x, channels, states))
    operands = [
        net.op("Transpose", net.op("Squeeze", t, axis), perm=[0, 2, 1]) for t in (x, dt, b, c)
    ]
    y = net.scan("/scan", *operands, channels, states)
    return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1]), grid)


def convolutions_only(size=16, activation=np.int8, zero=0):
    """Two convolutions; ``activation`` and ``zero`` are the code type and zero point."""
    net = Network()
    x = net.quantized("image", dtype=activation, zero=zero)
    x = net.quantized(net.op("Relu", net.conv("/stem", x, 1, 4, 3)), dtype=activation, zero=zero)
    return net.model(net.conv("/head", x, 4, 3), size, 3)


def float_network(size=16, channels=8):
    """Convolutions, one of them depthwise, and a matrix product over the channels."""
    net = Network()
    x = net.op("Relu", net.conv("/stem", "image", 1, channels, 3, quantized=False))
    x = net.conv("/large", x, channels, channels, 5, groups=channels, quantized=False)
    tokens = net.constant("/tokens", np.array([1, channels, size * size], np.int64))
    grid = net.constant("/grid", np.array([1, channels, size, size], np.int64))
    y = net.op("Transpose", net.op("Reshape", x, tokens), perm=[0, 2, 1])
    matrix = net.rng.normal(0, 1 / math.sqrt(channels), (channels, channels)).astype(np.float32)
    y = net.op("MatMul", y, net.constant("/matrix", matrix), name="/linear")
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1]), grid)
    y = net.conv("/head", net.op("Relu", y), channels, 3, quantized=False)
    return net.model(y, size, 3)


def images(count=2, size=32, seed=1):
    """Normalised images ``(count, 1, size, size)``."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (count, 1, size, size)).astype(np.float32)
