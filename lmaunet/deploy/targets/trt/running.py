"""Running and timing an engine: on a GPU, or its graph in ONNX Runtime where there is none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Build, Figure, Measurement, Provenance
from lmaunet.deploy import masked_builds, timing
from lmaunet.deploy.defaults import PRECISIONS
from lmaunet.deploy.targets.trt.forms import CHECKED_IMAGES
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.trt.graph_run import graph_session, run_graph

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.trt.loaded_engine import Latency


NETWORK, TABLE = "network.onnx", "precision.json"


def no_gpu(sms: list[str]) -> Any:
    """Return why no GPU here runs an engine for these, None where one does."""
    from lmaunet.trt.gpu import why_not_here

    return why_not_here(sms)


def _record(build: Build) -> Any:
    from lmaunet.trt.engine import load_build

    return load_build(build.folder)


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    The engine computes them where a GPU that it was built for is here; elsewhere its graph does in
    ONNX Runtime on the CPU, with float biases as in the engine.

    Raises:
        UserError: where an FP16 engine gives NaN or infinity: the image is unlike those whose range
            its build looked at.
    """
    import numpy as np

    from lmaunet.trt.runner import infer

    graph = build.folder / NETWORK
    logits = infer(build.shipped, images) if _is_here(build) else run_graph(graph, images)
    if build.detail.get("precision") == "fp16" and not np.isfinite(logits).all():
        raise UserError(
            f"{build.shipped}: this image takes the engine beyond FP16's range, 65504; compare its "
            "intensities with those of training, or build with --precision int8 or fp32"
        )
    return logits


def _is_here(build: Build) -> bool:
    """Tell whether a GPU is here that the engine was built for."""
    return no_gpu(_record(build).record["sms"]) is None


def sampled(build: Build, images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of :func:`run`, and those with each mask: of the graph, on the CPU."""
    return masked_builds.run_sessions(
        lambda build, features: graph_session(build.folder / NETWORK, features),
        build, images, masks, run if _is_here(build) else lambda build, images: None,
    )  # fmt: skip


def trunk(build: Build) -> Path | None:
    """Return the engine's graph; None where it is not the quantized network's."""
    return build.folder / NETWORK if build.detail["precision"] == PRECISIONS[0] else None


def arithmetic(build: Build) -> str:
    """Return what computes the logits on this machine, in words for the report."""
    if _is_here(build):
        return "the engine on this machine's GPU"
    return "not the engine but the graph that it was built from, in ONNX Runtime on the CPU"


def provenance(build: Build) -> Provenance:
    """Return ``measured`` where the engine itself computes the logits, ``emulated`` elsewhere."""
    return "measured" if _is_here(build) else "emulated"


def measure(build: Build, images: np.ndarray, float32: Path | None = None) -> dict[str, Figure]:
    """Return the size of what ships, the size of the weights and the time of one image on the GPU.

    On a GPU ``build.detail["latency"]`` receives the timing, and ``build.detail["parity"]`` how far
    the engine's logits are from those of its graph in ONNX Runtime.
    """
    from lmaunet.trt.loaded_engine import Latency
    from lmaunet.trt.runner import latency_figure, time_engine

    latency = time_engine(build.shipped, images, _record(build).record["sms"])
    if isinstance(latency, Latency):
        build.detail["latency"] = _timing(latency)
        build.detail["parity"] = _parity(build, images[:CHECKED_IMAGES])
    weights = build.detail["bytes"]["weights"] / 1e6
    return {
        "size_mb": Measurement("size_mb", build.ships_mb(), "MB", "measured"),
        "weights_mb": Measurement("weights_mb", weights, "MB", "measured"),
        "latency_ms": latency_figure(latency),
    }


def _timing(latency: Latency) -> dict[str, Any]:
    found = asdict(latency)
    if latency.min_ms is not None:
        found |= timing.spread(latency.min_ms, latency.p90_ms)
    return found


def time_image(build: Build, images: np.ndarray) -> dict[str, Any]:
    """Return the times of the first image on the GPU; raises ToolNotFound where there is none."""
    from lmaunet.trt.loaded_engine import Latency
    from lmaunet.trt.runner import time_engine

    latency = time_engine(build.shipped, images, _record(build).record["sms"])
    if not isinstance(latency, Latency):
        raise ToolNotFound("a CUDA GPU", f"to time this engine ({latency.why})", latency.fix)
    return _timing(latency)


def _parity(build: Build, images: np.ndarray) -> dict[str, Any]:
    """Return how the engine's logits compare with its graph's in ONNX Runtime."""
    import numpy as np

    from lmaunet.trt.runner import infer

    got, expected = infer(build.shipped, images), run_graph(build.folder / NETWORK, images)
    return {
        "images": len(images),
        "max_abs": float(np.abs(got - expected).max()),
        "largest_logit": float(np.abs(expected).max()),
        "classes_differ": int((got.argmax(1) != expected.argmax(1)).sum()),
        "pixels": int(got.argmax(1).size),
    }
