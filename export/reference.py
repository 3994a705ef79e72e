"""What an exported graph computes, image by image, in ONNX Runtime on the CPU.

The reference is the QCDQ file without graph optimization: float32 arithmetic on the dequantized
codes, the scan as the function in the file defines it. :mod:`lmaunet.export.segments` compares
forms of it closely; here only their class maps are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.errors import UserError
from lmaunet.kernel_profiles import PROFILES

if TYPE_CHECKING:
    import numpy as np
    import onnx

CLASS_SHARE = 0.01
"""Share of the pixels whose class may differ, end to end: 0.005 was measured on an untrained
network, whose classes lie close together."""
OF_CHANCE = 0.8
"""The largest share where the exported graph itself is unsteady, of that of unrelated maps."""
MOVED_PIXELS = 1000

LEAST_IN_WINDOWS = {"pads": 0, "kernel_shape": 1, "strides": 1, "dilations": 1}

# float32 biases instead of integer ones; the name is ONNX Runtime's
BIAS_ROUNDING = "WeightBiasQuantization"


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model of an ONNX file; raises :class:`UserError` where there is none."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.checker import ValidationError

    if not path.is_file():
        raise UserError(f"{path} does not exist; export the network first (lmaunet-deploy export)")
    try:
        return onnx.load(path)
    # the last two: weights in another file, which no file of ours has
    except (DecodeError, ValueError, OSError, ValidationError) as error:
        raise UserError(f"{path} is no ONNX model ({error}); export the network again") from error


def check_windows(model: Any, label: str) -> None:
    """Check the windows of convolutions and pools, which ONNX Runtime takes unseen.

    A border below 0 makes it read outside the image: it computes with other memory, or crashes.

    Args:
        model: an ``onnx.ModelProto``, or what :func:`lmaunet.export.model_messages.read_messages`
            returned.
        label: what the model is called in messages.

    Raises:
        UserError: for a border below 0, or a kernel, stride or dilation below 1.
    """
    from lmaunet.export.model_messages import all_nodes

    for node in all_nodes([*model.graph.node, *(n for f in model.functions for n in f.node)]):
        for attribute in node.attribute:
            least = LEAST_IN_WINDOWS.get(attribute.name)
            if node.op_type == "Pad" or least is None:
                continue
            if min(attribute.ints, default=least) < least:
                raise UserError(
                    f"{label}: {node.op_type} {node.name or node.output[0]!r} has "
                    f"{attribute.name} {list(attribute.ints)}; expected {least} or more; build it "
                    "again"
                )


def open_session(
    model: Any,
    *,
    optimize: bool,
    float_biases: bool = False,
    operators: Path | None = None,
    save_optimized: Path | None = None,
) -> Any:
    """Return an ONNX Runtime session on the CPU, one thread for each core it may use.

    Args:
        model: an ``onnx.ModelProto``, messages of :mod:`lmaunet.export.model_messages`, or the path
            of a file. None of these but the first needs the package ``onnx``.
        optimize: whether ONNX Runtime may rewrite the graph, fully or not at all.
        float_biases: whether an optimized graph keeps the biases as they are; ONNX Runtime rounds
            them to integers otherwise.
        operators: the library of :mod:`lmaunet.cpu.operators`, whose kernels stand for the
            functions of ``ai.lmaunet``; the functions are computed as the model defines them
            otherwise.
        save_optimized: where the rewritten graph is saved.

    Raises:
        UserError: where ONNX Runtime cannot load the model or the library, or must not.
    """
    import onnxruntime

    from lmaunet.export.model_messages import read_messages

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = thread_count()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if save_optimized is not None:
        options.optimized_model_filepath = str(save_optimized)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    label = str(model) if isinstance(model, Path) else f"the model {model.graph.name!r}"
    if isinstance(model, Path) and not model.is_file():
        raise UserError(f"{model} does not exist; build it again")
    check_windows(read_messages(model) if isinstance(model, Path) else model, label)
    if operators is not None:
        _register(options, operators)
    try:
        return onnxruntime.InferenceSession(
            source,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[BIAS_ROUNDING] if float_biases else None,
        )
    # ONNX Runtime's exceptions have no common class that its package exports
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"ONNX Runtime cannot load {label}: {reason}; build it again") from error


def _register(options: Any, library: Path) -> None:
    try:
        options.register_custom_ops_library(str(library.resolve()))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"ONNX Runtime cannot load the operators {library}: {reason}; build the target again "
            "on this machine"
        ) from error


def thread_count() -> int:
    """Return how many cores this process may use."""
    import os

    return len(os.sched_getaffinity(0))


def run_images(session: Any, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    The graph has one input and one output, and takes one image at a time.

    Raises:
        UserError: where the images do not fit the graph, or ONNX Runtime cannot compute it.
    """
    import numpy as np

    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UserError(f"the graph has {len(inputs)} inputs; expected 1; build it again")
    entry = inputs[0]
    expected = list(entry.shape)
    if images.ndim != len(expected) or not len(images) or list(images.shape[1:]) != expected[1:]:
        raise UserError(
            f"images of shape {list(images.shape)}; expected {['n', *expected[1:]]}; "
            "resize them to the size that the network was exported for"
        )
    feeds = np.ascontiguousarray(images, np.float32)
    try:
        return np.concatenate([session.run(None, {entry.name: image[None]})[0] for image in feeds])
    except MemoryError:
        raise
    # as where a session is opened; what loads may still fail where it is computed
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"ONNX Runtime cannot compute the graph: {reason}; build it again"
        ) from error


def reference_logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Return what an exported graph computes without optimization; shapes as in run_images."""
    return run_images(open_session(model, optimize=False), images)


def compare_classes(
    name: str,
    got: np.ndarray,
    expected: np.ndarray,
    evidence: Path,
    unsteady: Callable[[], float] = lambda: 0.0,
) -> Agreement:
    """Require two tensors of logits ``(n, classes, H, W)`` to give the same class maps.

    :data:`CLASS_SHARE` of the pixels may differ. In a network that is not trained one step of a
    code may change more than that, in the exported graph itself: then twice its ``unsteady`` share
    may, and at most :data:`OF_CHANCE` of what chance leaves; the agreement's name says so. That
    each part computes what it should, from the same codes, :mod:`lmaunet.export.segments` holds.

    Args:
        name: what is compared.
        got, expected: the logits.
        evidence: where both are saved when they disagree.
        unsteady: returns the share of its own classes that the network changes, as
            :func:`unsteady_share` does; only called where CLASS_SHARE is passed.

    Raises:
        Disagreement: where more differ, or a logit is not finite.
    """
    import numpy as np

    finite = np.isfinite(got).all(1)
    classes, found = expected.argmax(1), np.where(finite, got.argmax(1), -1)
    share, own = CLASS_SHARE, 0.0
    if finite.all() and (found != classes).mean() > share:
        own = unsteady()
        share = max(share, min(2 * own, OF_CHANCE * _by_chance(found, classes)))
    agreement = require_agreement(
        f"{name}, classes", found, classes, 0, evidence=evidence,
        allowed=int(share * classes.size),
    )  # fmt: skip
    if share == CLASS_SHARE:
        return agreement
    steps = f"where a step of a few pixels changes {own:.1%} of them in the exported graph itself"
    return dataclasses.replace(agreement, name=f"{name}, classes, {steps}")


def _by_chance(found: np.ndarray, classes: np.ndarray) -> float:
    """Return the share of pixels that would differ if one map told nothing of the other."""
    import numpy as np

    labels = range(int(max(found.max(), classes.max())) + 1)
    return 1 - sum(float(np.mean(found == c) * np.mean(classes == c)) for c in labels)


def unsteady_share(model: onnx.ModelProto, images: np.ndarray) -> float:
    """Return the share of pixels whose class an exported graph changes for a step of few pixels.

    One pixel in :data:`MOVED_PIXELS` of each image is moved by one step of the image's quantizer;
    without a quantizer the share is 0.
    """
    import numpy as np
    from onnx import numpy_helper

    (entry,) = (value.name for value in model.graph.input)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    steps = [
        float(numpy_helper.to_array(stored[node.input[1]]).max())
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == entry and node.input[1] in stored
    ]
    if not steps:
        return 0.0
    chance = np.random.default_rng(0)
    moved = chance.random(images.shape) < 1 / MOVED_PIXELS
    signs = chance.choice([-1.0, 1.0], images.shape)
    other = (images + steps[0] * moved * signs).astype(np.float32)
    before, after = (reference_logits(model, each).argmax(1) for each in (images, other))
    return float((before != after).mean())


def evidence_folder(build_folder: Path) -> Path:
    """Return where tensors that disagree are saved: beside the build's folder.

    The build's own folder is removed when the build fails, and with it that of a kernel in it.
    """
    if build_folder.parent.name == PROFILES:
        build_folder = build_folder.parent.parent
    return build_folder.parent / "disagreement"


def initializer_bytes(model: onnx.ModelProto) -> Mapping[str, int]:
    """Return the bytes that a model's initializers take in its file by data type, as ``int8``.

    Types of less than a byte share bytes: five values of ``int4`` take three.
    """
    import math

    from onnx import TensorProto, helper

    narrow = {
        TensorProto.INT2: 2, TensorProto.UINT2: 2, TensorProto.INT4: 4, TensorProto.UINT4: 4,
        TensorProto.FLOAT4E2M1: 4,
    }  # fmt: skip
    totals: dict[str, int] = {}
    for tensor in model.graph.initializer:
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        bits = narrow.get(tensor.data_type, 8 * kind.itemsize)
        size = -(-math.prod(tensor.dims) * bits // 8)
        totals[kind.name] = totals.get(kind.name, 0) + size
    return totals
