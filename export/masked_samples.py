"""What a network gives with dropout: its own file once for an image, its head's once for 8 masks.

It needs no package ``onnx``: :mod:`lmaunet.export.masked_head` made the head's file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError
from lmaunet.export.model_messages import read_messages

if TYPE_CHECKING:
    import numpy as np

    Trunk = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    Head = Callable[[np.ndarray, np.ndarray], np.ndarray]

SAMPLES_PER_CALL = 8
HEAD_FILE = "head.onnx"
"""Beside a build's own file, where its network was trained with dropout."""


def with_output(model: Any, name: str) -> Any:
    """Return a model with one more output, a tensor inside it.

    Args:
        model: messages of :mod:`lmaunet.export.model_messages`, or of ``onnx``; it is changed.
        name: the tensor's.

    Raises:
        UserError: where no node gives that tensor.
    """
    if not any(name in node.output for node in model.graph.node):
        raise UserError(f"the file has no tensor {name!r}; copy the whole build's folder again")
    model.graph.output.add().name = name
    return model


def read_with_output(path: Path, name: str) -> Any:
    """Return the messages of a file with one more output."""
    return with_output(read_messages(path), name)


def masked_samples(
    images: np.ndarray, masks: np.ndarray, trunk: Trunk, head: Head
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of images, and those with each mask.

    Args:
        images: float32 ``(n, channels, H, W)``.
        masks: float32 ``(samples, features)``, any number; the head takes 8 at a time, the last
            time with ones in place of what lacks.
        trunk: an image ``(1, channels, H, W)`` to its logits ``(1, classes, H, W)`` and the
            integers of the head's input ``(1, features, H, W)``; called once for each image.
        head: these and masks ``(8, features)`` to logits ``(8, classes, H, W)``.

    Returns:
        float32 ``(n, classes, H, W)`` and ``(n, samples, classes, H, W)``.
    """
    import numpy as np

    size = SAMPLES_PER_CALL
    count = -(-len(masks) // size) * size
    padded = np.ones((count, masks.shape[1]), np.float32)
    padded[: len(masks)] = masks
    plain, sampled = [], []
    for image in np.ascontiguousarray(images, np.float32):
        logits, features = trunk(image[None])
        parts = [head(features, padded[k : k + size]) for k in range(0, count, size)]
        plain.append(logits)
        sampled.append(np.concatenate(parts)[: len(masks)])
    return np.concatenate(plain), np.stack(sampled)


def session_runs(network: Any, head: Any) -> tuple[Trunk, Head]:
    """Return both parts as ONNX Runtime sessions compute them."""
    (entry,) = (value.name for value in network.get_inputs())
    first, second = (value.name for value in head.get_inputs())

    def trunk(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = network.run(None, {entry: image})
        return logits, features

    def heads(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
        (logits,) = head.run(None, {first: features, second: masks})
        return logits  # type: ignore[no-any-return]

    return trunk, heads


def compiled_runs(network: Any, head: Any) -> tuple[Trunk, Head]:
    """Return both parts as models that OpenVINO compiled compute them."""

    def trunk(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = network([image])
        # the results are views into memory that the next run writes
        return result[0].copy(), result[1].copy()

    def heads(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return head([features, masks])[0].copy()  # type: ignore[no-any-return]

    return trunk, heads
