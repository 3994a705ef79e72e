"""Models of what is between two roundings of nnU-Net's networks, for the tests of passes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

X_ZERO, Y_ZERO = 128, 120
# batch, channels in and out, kernel, stride, padding, height and width, groups
DENSE = (1, 16, 32, (3, 3), (1, 1), (1, 1, 1, 1), (21, 19), 1)
CASES = {
    "dense": DENSE,
    "one channel in, odd channels out": (1, 1, 13, (3, 3), (1, 1), (1, 1, 1, 1), (9, 30), 1),
    "strided": (1, 6, 48, (3, 3), (2, 2), (1, 1, 1, 1), (20, 33), 1),
    "1x1": (1, 7, 16, (1, 1), (1, 1), (0, 0, 0, 0), (5, 6), 1),
    "two images": (2, 5, 40, (3, 3), (1, 1), (1, 1, 1, 1), (17, 9), 1),
    "one border": (1, 4, 16, (3, 1), (1, 2), (2, 0, 0, 1), (12, 11), 1),
    "depthwise": (1, 11, 11, (7, 7), (1, 1), (3, 3, 3, 3), (13, 18), 11),
    "depthwise strided": (1, 16, 16, (3, 5), (2, 1), (1, 2, 1, 2), (14, 15), 16),
}


def arrays_of(case, seed=0, offset=0):
    batch, channels, out, kernel, _, _, size, group = case
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.5, 2, out).astype(np.float32) * rng.choice([-1, 1], out)
    return {
        "x": rng.integers(0, 256, (batch, channels, *size), np.uint8),
        "W": np.clip(rng.integers(-127, 128, (out, channels // group, *kernel)) + offset,
                     -127, 127).astype(np.int8),
        "W_scale": rng.uniform(1e-4, 2e-2, out).astype(np.float32),
        "bias": rng.normal(size=out).astype(np.float32),
        "scale": scale.astype(np.float32),
        "shift": rng.normal(size=out).astype(np.float32),
    }  # fmt: skip


def chain(case, arrays, slope=0.01, epsilon=1e-5, more=(), **conv):
    """Codes, convolution, InstanceNorm, LeakyReLU (where slope is not None) and codes."""
    _, _, _, _, strides, pads, _, group = case
    node = helper.make_node
    active = "normed" if slope is None else "active"
    nodes = [
        node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["image"], name="image"),
        node("DequantizeLinear", ["W", "W_scale"], ["kernel"], name="kernel", axis=0),
        node("Conv", ["image", "kernel", "bias"], ["sums"], name="/block/conv/Conv", group=group,
             strides=strides, pads=pads, **conv),
        node("InstanceNormalization", ["sums", "scale", "shift"], ["normed"], name="norm",
             epsilon=epsilon),
        *([] if slope is None else [node("LeakyRelu", ["normed"], ["active"], alpha=slope)]),
        node("QuantizeLinear", [active, "y_scale", "y_zero"], ["y"], name="y"),
        *more,
    ]  # fmt: skip
    constants = {name: array for name, array in arrays.items() if name != "x"} | {
        "x_scale": np.float32(0.03), "x_zero": np.uint8(X_ZERO), "y_scale": np.float32(0.04),
        "y_zero": np.uint8(Y_ZERO),
    }  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, None)]
    outputs += [helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, None) for n in more]
    graph = helper.make_graph(
        nodes, "chain",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, arrays["x"].shape)], outputs,
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def shuffle_model(shape, size, mode="CRD", scale_behind=0.1):
    batch, channels, height, width = shape
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["values"]),
        helper.make_node("DepthToSpace", ["values"], ["shuffled"], name="up", blocksize=size,
                         mode=mode),
        helper.make_node("QuantizeLinear", ["shuffled", "scale_behind", "zero"], ["y"], name="y"),
    ]  # fmt: skip
    constants = {"scale": np.float32(0.1), "scale_behind": np.float32(scale_behind),
                 "zero": np.uint8(128)}  # fmt: skip
    after = [batch, channels // size**2, height * size, width * size]
    graph = helper.make_graph(
        nodes, "shuffle", [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, after)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
