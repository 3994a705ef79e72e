"""Run ONNX graphs in OpenVINO on the CPU, and read what each layer is computed in.

Models are read with ``Core.read_model``. The package's ``convert_model`` is not used: it sends
usage statistics.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.packages import install_extra

if TYPE_CHECKING:
    import numpy as np
    import onnx

FIX = install_extra("openvino")
PURPOSE = "runs ONNX graphs on the CPU, with integer convolutions"
HIDDEN = frozenset({"Const", "Input", "Output", "Parameter", "Result"})
INTEGER_ENDINGS = ("i8", "u8")


@dataclass(frozen=True)
class Layer:
    """One layer of the graph that OpenVINO executes.

    Args:
        name: its name in OpenVINO.
        kind: ``Convolution``, ``TensorIterator`` (a loop), ``Subgraph`` (fused element by
            element) ...
        kernel: the code that runs it, such as ``brgconv_avx512_1x1_I8``; what stands after the
            last underscore is the type that it computes in.
        nodes: the names of the nodes of the given graph that it stands for, with others.
    """

    name: str
    kind: str
    kernel: str
    nodes: tuple[str, ...]

    @property
    def precision(self) -> str:
        """The type that the kernel computes in, in lower case: ``i8``, ``f32``, ``bf16`` ..."""
        return self.kernel.rpartition("_")[2].lower()

    @property
    def integer(self) -> bool:
        """Whether the kernel computes with 8-bit integers."""
        return self.precision in INTEGER_ENDINGS


def place() -> str:
    """Return the folder of the installed package, "" where there is none; loads nothing."""
    spec = importlib.util.find_spec("openvino")
    return str(Path(spec.origin).parent) if spec is not None and spec.origin else ""


def version() -> str:
    """Return the installed version, "" where there is none."""
    return importlib.metadata.version("openvino") if place() else ""


def require() -> Any:
    """Return the package; raises :class:`ToolNotFound` where it is not installed."""
    if not place():
        raise ToolNotFound("openvino", "to run networks in OpenVINO", FIX)
    import openvino

    return openvino


def has_vnni() -> bool:
    """Tell whether this processor adds products of 8-bit codes in 32 bits, without saturating."""
    from lmaunet.cpu.saturation import adds_without_saturation

    return adds_without_saturation()


@functools.cache
def _core() -> Any:
    """Return the one Core of this process.

    Its CPU plugin sets an alternate stack for signals and puts the one before it back when it
    ends. Of two that end in the order in which they began, the second puts back the first one's,
    which is freed by then, and the next signal that Python handles ends the process.
    """
    return require().Core()


def compile_model(
    model: onnx.ModelProto | Path, *, precision: str = "f32", threads: int | None = None
) -> Any:
    """Return a model compiled for the CPU, for the least time of one image.

    Args:
        model: a model or the path of its file.
        precision: what is not quantized is computed in: ``f32``, or ``bf16``, which OpenVINO would
            choose by itself on processors that have it.
        threads: how many; one for each core that the process may use where None.

    Raises:
        ToolNotFound: where OpenVINO is not installed.
        UserError: where it cannot read or compile the model, or must not.
    """
    from lmaunet.export.model_messages import read_messages
    from lmaunet.export.reference import check_windows, thread_count

    core = _core()
    label = str(model) if isinstance(model, Path) else f"the model {model.graph.name!r}"
    if isinstance(model, Path) and not model.is_file():
        raise UserError(f"{model} does not exist; build it again")
    check_windows(read_messages(model) if isinstance(model, Path) else model, label)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads or thread_count(),
    }
    try:
        return core.compile_model(core.read_model(source), "CPU", options)
    except RuntimeError as error:
        raise UserError(
            f"OpenVINO cannot load {label}: {_reason(error)}; build it again"
        ) from error


def _reason(error: RuntimeError) -> str:
    """Return what OpenVINO's error says, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    summary = [line[3:] for line in lines if line.startswith(("-- No conv", "-- Conversion is"))]
    rest = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return "; ".join(summary or rest[:1]) or type(error).__name__


def run_once(compiled: Any, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
    """Return the outputs of a compiled model, by the names of its tensors."""
    result = compiled(feeds)
    # the results are views into memory that the next run writes
    return [result[compiled.output(name)].copy() for name in outputs]


def run_images(compiled: Any, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    Raises:
        UserError: where the images do not fit the model.
    """
    import numpy as np

    expected = list(compiled.inputs[0].shape)
    if images.ndim != len(expected) or not len(images) or list(images.shape[1:]) != expected[1:]:
        raise UserError(
            f"images of shape {list(images.shape)}; expected {['n', *expected[1:]]}; "
            "resize them to the size that the network was exported for"
        )
    feeds = np.ascontiguousarray(images, np.float32)
    return np.concatenate([compiled([image[None]])[0].copy() for image in feeds])


def layers(compiled: Any) -> list[Layer]:
    """Return the layers that OpenVINO executes, without constants, inputs and outputs."""
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()

        def text(key: str, info: Any = info) -> str:
            return str(info[key].astype(str)) if key in info else ""

        kind = text("layerType")
        if kind in HIDDEN:
            continue
        names = tuple(name for name in text("originalLayersNames").split(",") if name)
        found.append(Layer(node.get_friendly_name(), kind, text("primitiveType"), names))
    return found
