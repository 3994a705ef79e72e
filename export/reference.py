"""What an exported graph computes, image by image, and how a target's form of it is compared.

The reference is the QCDQ file in ONNX Runtime without graph optimization: float32 arithmetic on
the dequantized codes, the scan as the function in the file defines it.

Two forms that are equal in exact arithmetic may still differ: a float rounding can move a value
across the border between two codes, and the scan carries a code that moved through the rest of the
map. So logits are compared in the unit of one code at the input of the last convolution, a stated
share of them may differ by more, and the class of nearly every pixel must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.convolutions import Graph
from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx

# what two forms of equal arithmetic may differ by: measured is 0.0001 of the logits and no class
LOGIT_SHARE, CLASS_SHARE = 0.01, 0.001
# float32 biases instead of integer ones; the name is ONNX Runtime's
BIAS_ROUNDING = "WeightBiasQuantization"


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model of an ONNX file; raises :class:`UserError` where there is none."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise UserError(f"{path} does not exist; export the network first (lmaunet-deploy export)")
    try:
        return onnx.load(path)
    except (DecodeError, ValueError) as error:
        raise UserError(f"{path} is no ONNX model ({error}); export the network again") from error


def open_session(
    model: onnx.ModelProto | Path,
    *,
    optimize: bool,
    float_biases: bool = False,
    save_optimized: Path | None = None,
) -> Any:
    """Return an ONNX Runtime session on the CPU, one thread for each core it may use.

    Args:
        model: a model or the path of its file.
        optimize: whether ONNX Runtime may rewrite the graph, fully or not at all.
        float_biases: whether an optimized graph keeps the biases as they are; ONNX Runtime rounds
            them to integers otherwise.
        save_optimized: where the rewritten graph is saved.

    Raises:
        UserError: where ONNX Runtime cannot load the model.
    """
    import onnxruntime

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


def thread_count() -> int:
    """Return how many cores this process may use."""
    import os

    return len(os.sched_getaffinity(0))


def run_images(session: Any, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    The graph has one input and one output, and takes one image at a time.

    Raises:
        UserError: where the images do not fit the graph.
    """
    import numpy as np

    entry = session.get_inputs()[0]
    expected = list(entry.shape)
    if images.ndim != 4 or not len(images) or list(images.shape[1:]) != expected[1:]:
        raise UserError(
            f"images of shape {list(images.shape)}; expected {['n', *expected[1:]]}; "
            "resize them to the size that the network was exported for"
        )
    feeds = np.ascontiguousarray(images, np.float32)
    return np.concatenate([session.run(None, {entry.name: image[None]})[0] for image in feeds])


def reference_logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Return what an exported graph computes without optimization; shapes as in run_images."""
    return run_images(open_session(model, optimize=False), images)


def logit_step(model: onnx.ModelProto) -> float:
    """Return how far one code at the last convolution's input moves a logit, at most.

    It is the input's scale times the largest magnitude of the convolution's weights.

    Raises:
        UserError: where the graph's output is not that of a quantized convolution.
    """
    import numpy as np

    graph = Graph(model)
    output = model.graph.output[0].name
    node = graph.producers.get(output)
    while node is not None and node.op_type == "Identity":
        node = graph.producers.get(node.input[0])
    weight = graph.weight(node.input[1]) if node is not None and node.op_type == "Conv" else None
    source = graph.dequantize(node.input[0]) if node is not None and weight is not None else None
    if node is None or weight is None or source is None:
        raise UserError(
            f"the output {output!r} is not that of a quantized convolution but of "
            f"{'nothing' if node is None else node.op_type}; expected the network's head in INT8"
        )
    scales = graph.constant(graph.producers[node.input[1]].input[1])
    codes = np.abs(weight[1].astype(np.float64)).reshape(len(weight[1]), -1).max(1)
    scale = graph.constant(source.input[1])
    assert scale is not None and scales is not None
    return float(np.asarray(scale).reshape(-1)[0] * (codes * scales.reshape(-1)).max())


def compare_logits(
    name: str,
    got: np.ndarray,
    expected: np.ndarray,
    step: float,
    evidence: Path,
    *,
    logit_share: float = LOGIT_SHARE,
    class_share: float = CLASS_SHARE,
) -> tuple[Agreement, Agreement]:
    """Require two tensors of logits ``(n, classes, H, W)`` to agree.

    Args:
        name: what is compared with what.
        got, expected: logits.
        step: the largest difference of a logit that counts as equal, from :func:`logit_step`.
        evidence: the folder in which tensors that disagree are saved.
        logit_share, class_share: the shares of logits and of pixels' classes that may differ.

    Raises:
        Disagreement: where more differ.
    """
    logits = require_agreement(
        f"{name}, logits", got, expected, step,
        evidence=evidence, allowed=int(logit_share * expected.size),
    )  # fmt: skip
    classes = expected.argmax(1)
    labels = require_agreement(
        f"{name}, classes", got.argmax(1), classes, 0,
        evidence=evidence, allowed=int(class_share * classes.size),
    )  # fmt: skip
    return logits, labels


def evidence_folder(build_folder: Path) -> Path:
    """Return where tensors that disagree are saved: beside the build's folder.

    The build's own folder is removed when the build fails.
    """
    return build_folder.parent / "disagreement"


def initializer_bytes(model: onnx.ModelProto) -> Mapping[str, int]:
    """Return the bytes of a model's initializers by data type, as ``int8``."""
    from onnx import numpy_helper

    totals: dict[str, int] = {}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        totals[array.dtype.name] = totals.get(array.dtype.name, 0) + array.nbytes
    return totals
