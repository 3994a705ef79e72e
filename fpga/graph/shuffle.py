"""Channels that become blocks of pixels: behind the 1x1 convolution of a transposed one.

The hardware takes a pixel's channels in the order row of the block, column, channel, where torch
has channel, row, column. A convolution's channels can be put out in any order, so the convolution
before a shuffle is looked for, and given the hardware's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lmaunet.fpga.graph.onnx_file import attributes_of

POINTWISE = ("Quant", "Relu", "LeakyRelu", "Sigmoid", "Identity")
"""What may stand between: it treats every channel alike, or by constants of the channel."""
ORDER = [0, 1, 4, 2, 5, 3]
"""Of a transposition of ``(1, C, fh, fw, H, W)``: the rows of a block between the map's."""

Blocks = tuple[int, int]


def blocks_of(model: Any) -> dict[str, Blocks]:
    """Return the blocks that the channels of convolutions become, by the convolution's output.

    Only where nothing else takes them, and where the channels come in torch's order.
    """
    from onnx import numpy_helper

    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}

    def only_user(name: str) -> Any:
        found = users.get(name, [])
        return found[0] if len(found) == 1 and name not in outputs else None

    found: dict[str, Blocks] = {}
    for node in model.graph.node:
        if node.op_type != "Conv" or attributes_of(node).get("group", 1) != 1:
            continue
        user = only_user(node.output[0])
        while user is not None and user.op_type in POINTWISE:
            user = only_user(user.output[0])
        blocks = _shuffle(user, only_user, constants)
        if blocks is not None:
            found[node.output[0]] = blocks
    return found


def _shuffle(node: Any, only_user: Any, constants: dict[str, np.ndarray]) -> Blocks | None:
    """Return the blocks of a shuffle that begins with a node; None where none does."""
    if node is None:
        return None
    attributes = attributes_of(node)
    if node.op_type == "DepthToSpace":
        size = int(attributes["blocksize"])
        return (size, size) if attributes.get("mode", b"DCR") == b"CRD" else None
    if node.op_type != "Reshape" or len(constants.get(node.input[1], ())) != 6:
        return None
    turned = only_user(node.output[0])
    if turned is None or turned.op_type != "Transpose" or attributes_of(turned)["perm"] != ORDER:
        return None
    _, _, tall, wide, *_ = constants[node.input[1]].tolist()
    return int(tall), int(wide)


def block_order(channels: int, blocks: Blocks) -> np.ndarray:
    """Return torch's channel at each place of a pixel in the hardware's order, int64."""
    return np.arange(channels).reshape(-1, blocks[0] * blocks[1]).T.ravel()


def shuffled(layout: np.ndarray, blocks: Blocks, *, columns_last: bool) -> np.ndarray:
    """Return the elements of ``(1, C * fh * fw, H, W)`` as a map ``(1, C, H * fh, W * fw)``.

    Args:
        layout: any array of that shape.
        blocks: fh and fw.
        columns_last: whether the channels are ``(C, fh, fw)``, torch's and ONNX' CRD; else
            ``(fh, fw, C)``.
    """
    (_, channels, height, width), (tall, wide) = layout.shape, blocks
    count = channels // (tall * wide)
    if columns_last:
        split = layout.reshape(count, tall, wide, height, width).transpose(0, 3, 1, 4, 2)
    else:
        split = layout.reshape(tall, wide, count, height, width).transpose(2, 3, 0, 4, 1)
    return split.reshape(1, count, height * tall, width * wide)
