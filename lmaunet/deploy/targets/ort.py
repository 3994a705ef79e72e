"""The CPU target: an ONNX file for ONNX Runtime, with integer convolutions."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Build, Figure, Measurement
from lmaunet.deploy.targets import BuildRequest, Target, Tool
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx

LOWERING = "unrolled"
SHIPPED = "model.onnx"
CHECKED_IMAGES = 2
WARM_UP_RUNS, TIMED_RUNS = 5, 30
# the shares of a quantizer's codes that may differ by one: 0 was measured for the change of codes
# and the scan's lowering, 0.0016 for biases that are rounded to integers
RECODED_SHARE, SHIPPED_SHARE = 0.0001, 0.01
INTEGER_KERNELS = ("QLinearConv", "ConvInteger")
FLOAT_KERNELS = ("Conv", "FusedConv", "NhwcFusedConv")


def probe() -> list[Tool]:
    """Return ONNX Runtime, found or missing, without loading it."""
    spec = importlib.util.find_spec("onnxruntime")
    place = str(Path(spec.origin).parent) if spec is not None and spec.origin else ""
    version = importlib.metadata.version("onnxruntime") if place else ""
    return [
        Tool(
            "onnxruntime",
            "runs exported graphs on the CPU",
            version,
            place,
            "pip install lmaunet-deploy",
        )
    ]


def build(request: BuildRequest) -> Build:
    """Write ``model.onnx``: UINT8 activation codes, INT8 weights, the scan ``unrolled``.

    Three things are checked on the first samples: segment by segment, that the change of codes and
    the lowering of the scan change nothing, and that the file with its integer biases, as ONNX
    Runtime optimizes it, moves next to no code; and that end to end the classes stay.
    """
    import onnx

    from export import reference
    from export.convolutions import prepare, quantized_convolutions
    from export.cpu_form import integer_biases, unsigned_activations
    from export.lower import lower
    from export.segments import check_segments, exported_values

    exported = reference.read_model(request.qcdq)
    images = request.samples[:CHECKED_IMAGES]
    evidence = reference.evidence_folder(request.folder)
    request.progress("ort: bringing the graph into the CPU's form")
    codes = unsigned_activations(prepare(exported))
    model = lower(integer_biases(codes), LOWERING)
    shipped = request.folder / SHIPPED
    onnx.save(model, shipped)

    request.progress(f"ort: comparing with the exported graph on {len(images)} images")
    values = exported_values(exported, images[:1])
    agreements = [
        *check_segments(
            "ort codes and lowering", lower(codes, LOWERING), values, images[:1], evidence,
            share=RECODED_SHARE, optimize=False,
        ),
        *check_segments(
            "ort file", model, values, images[:1], evidence, share=SHIPPED_SHARE, optimize=True
        ),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        optimized_path = Path(folder) / "optimized.onnx"
        session = reference.open_session(shipped, optimize=True, save_optimized=optimized_path)
        nodes = Counter(node.op_type for node in onnx.load(optimized_path).graph.node)
    got = reference.run_images(session, images)
    expected = reference.reference_logits(exported, images)
    agreements.append(reference.compare_classes("ort file", got, expected, evidence))
    quantized = quantized_convolutions(exported)
    detail = {
        "lowering": LOWERING,
        "convolutions": {
            "integer_kernels": sum(nodes[kernel] for kernel in INTEGER_KERNELS),
            "float_kernels": sum(nodes[kernel] for kernel in FLOAT_KERNELS),
            "quantized": len(quantized),
        },
        "optimized_nodes": dict(nodes.most_common()),
        "initializer_bytes": dict(reference.initializer_bytes(model)),
    }
    return Build("ort", request.folder, shipped, tuple(agreements), detail)


@functools.lru_cache(maxsize=4)
def _session(path: Path, changed_ns: int) -> Any:
    from export.reference import open_session

    return open_session(path, optimize=True)


def session_of(build: Build) -> Any:
    """Return the session of a build, opened once in this process while its file stays the same."""
    if not build.shipped.is_file():
        raise UserError(f"{build.shipped} does not exist; run lmaunet-deploy build --target ort")
    return _session(build.shipped, build.shipped.stat().st_mtime_ns)


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``."""
    from export.reference import run_images

    return run_images(session_of(build), images)


def measure(build: Build, images: np.ndarray) -> dict[str, Figure]:
    """Return the file's size, the size of its weights and the time of one image on this CPU.

    ``build.detail["latency"]`` receives what the time depends on.
    """
    from export.reference import initializer_bytes, read_model, thread_count

    model: onnx.ModelProto = read_model(build.shipped)
    weights = sum(initializer_bytes(model).values())
    times = time_runs(build, images[:1])
    median, p90 = statistics.median(times), statistics.quantiles(times, n=10)[-1]
    build.detail["latency"] = {
        "p90_ms": p90,
        "runs": len(times),
        "threads": thread_count(),
        "cpu": cpu_model(),
    }
    return {
        "size_mb": Measurement("size_mb", build.shipped.stat().st_size / 1e6, "MB", "measured"),
        "weights_mb": Measurement("weights_mb", weights / 1e6, "MB", "measured"),
        "latency_ms": Measurement("latency_ms", median, "ms", "measured"),
    }


def time_runs(build: Build, image: np.ndarray) -> list[float]:
    """Return the wall times of runs on one image ``(1, channels, H, W)``, in milliseconds."""
    for _ in range(WARM_UP_RUNS):
        run(build, image)
    times = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        run(build, image)
        times.append(1e3 * (time.perf_counter() - started))
    return times


def cpu_model() -> str:
    """Return the CPU's name as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


TARGET = Target(
    name="ort",
    summary="an ONNX file for a CPU, run by ONNX Runtime",
    probe=probe,
    build=build,
    run=run,
    measure=measure,
    arithmetic=lambda build: (
        "the shipped file in ONNX Runtime on this CPU, with its integer convolutions"
    ),
)
