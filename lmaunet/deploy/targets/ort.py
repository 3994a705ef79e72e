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

from lmaunet.artifacts import Agreement, Build, Figure, Measurement, require_agreement
from lmaunet.deploy.targets import BuildRequest, Target, Tool
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx

SHIPPED = "model.onnx"
CHECKED_IMAGES = 2
WARM_UP_RUNS, TIMED_RUNS = 5, 30
TIMED_LOADS = 5
# The share of a quantizer's codes that may differ by one where both sides have the same biases;
# 0 was measured. A bias that is rounded to an integer of the accumulator may move any code by one:
# where a channel's accumulator has few steps to a code, that is many of them.
CODE_SHARE, ROUNDED_BIAS_SHARE = 0.0001, 1.0
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
    """Write ``model.onnx``: UINT8 activation codes, packed weights, the scan ``unrolled``.

    Four things are checked on the first samples: segment by segment, that the change of codes and
    the lowering of the scan change nothing, and that integer biases, as ONNX Runtime optimizes the
    graph, move next to no code; that packing the weights and dropping names change no bit of the
    logits and no kernel; and that end to end the classes stay.
    """
    import onnx

    from export import reference
    from export.compact import bytes_by_purpose
    from export.convolutions import prepare, quantized_convolutions
    from export.cpu_file import LOWERING, cpu_file
    from export.cpu_form import (
        integer_biases,
        unsigned_activations,
        unsigned_weights,
        widen_codes,
    )
    from export.lower import lower
    from export.packing import weight_bits_of
    from export.segments import check_segments, exported_values

    exported = reference.read_model(request.qcdq)
    images = request.samples[:CHECKED_IMAGES]
    evidence = reference.evidence_folder(request.folder)
    request.progress("ort: bringing the graph into the CPU's form")
    codes = widen_codes(unsigned_activations(prepare(exported)))
    rounded = integer_biases(codes)
    form = lower(unsigned_weights(rounded), LOWERING)
    model = cpu_file(exported)
    shipped = request.folder / SHIPPED
    onnx.save(model, shipped)

    request.progress(f"ort: comparing with the exported graph on {len(images)} images")
    values = exported_values(exported, images[:1])
    recoded = check_segments(
        "ort codes and lowering", lower(codes, LOWERING), values, images[:1], evidence,
        share=CODE_SHARE, optimize=False,
    )  # fmt: skip
    near, moved, logits = check_segments(
        "ort integer biases", rounded, values, images[:1], evidence,
        share=ROUNDED_BIAS_SHARE, optimize=False,
    )  # fmt: skip
    kernels = check_segments(
        "ort form", form, exported_values(rounded, images[:1]), images[:1], evidence,
        share=CODE_SHARE, optimize=True,
    )  # fmt: skip
    agreements = [*recoded, near, logits, *kernels]
    packing, nodes, got = check_packing(form, shipped, images, evidence)
    expected = reference.reference_logits(exported, images)
    agreements += [*packing, reference.compare_classes("ort file", got, expected, evidence)]
    widths = Counter(weight_bits_of(model).values())
    detail = {
        "lowering": LOWERING,
        "convolutions": {
            "integer_kernels": _count(nodes, INTEGER_KERNELS),
            "float_kernels": _count(nodes, FLOAT_KERNELS),
            "quantized": len(quantized_convolutions(exported)),
        },
        "codes_moved_by_rounded_biases": moved.n_differ / moved.n_total,
        "packing": {
            "weight_bits": {str(bits): widths[bits] for bits in sorted(widths)},
            "unpacked_bytes": bytes_by_purpose(form)["weights"],
            "packed_bytes": bytes_by_purpose(model)["weights"],
        },
        "optimized_nodes": dict(nodes.most_common()),
        "initializer_bytes": dict(reference.initializer_bytes(model)),
        "bytes_by_purpose": bytes_by_purpose(model),
    }
    return Build("ort", request.folder, shipped, tuple(agreements), detail)


def check_packing(
    form: onnx.ModelProto, shipped: Path, images: np.ndarray, evidence: Path
) -> tuple[list[Agreement], Counter[str], np.ndarray]:
    """Require the file to compute what its form with INT8 weights and long names computes.

    ONNX Runtime must choose as many integer and float kernels for both, and the logits must be
    equal bit for bit, with graph optimization off and full.

    Args:
        form: the graph before packing.
        shipped: the file.
        images: ``(n, channels, H, W)``.
        evidence: the folder in which tensors that disagree are saved.

    Returns:
        The agreements, the operators of the optimized file and how many there are of each, and its
        logits.

    Raises:
        Disagreement: where they differ.
    """
    import numpy as np

    from export.reference import open_session, run_images

    counts = [optimized_nodes(source) for source in (form, shipped)]
    kernels = [
        np.array([_count(nodes, kinds) for kinds in (INTEGER_KERNELS, FLOAT_KERNELS)])
        for nodes in counts
    ]
    agreements = [
        require_agreement(
            "ort packing, integer and float kernels", kernels[1], kernels[0], 0, evidence=evidence
        )
    ]
    for words, optimize in (("optimization off", False), ("optimization full", True)):
        want, got = (
            run_images(open_session(source, optimize=optimize), images)
            for source in (form, shipped)
        )
        name = f"ort packing, logits, {words}"
        agreements.append(require_agreement(name, got, want, 0, evidence=evidence))
    return agreements, counts[1], got


def optimized_nodes(model: onnx.ModelProto | Path) -> Counter[str]:
    """Return the operators that ONNX Runtime makes of a model, and how many of each."""
    import onnx

    from export.reference import open_session

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, optimize=True, save_optimized=path)
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def _count(nodes: Counter[str], kinds: tuple[str, ...]) -> int:
    return sum(nodes[kind] for kind in kinds)


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

    ``build.detail["latency"]`` receives what the time depends on, and ``build.detail["load"]`` how
    long the file takes to load, and its form with INT8 weights.
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
    build.detail["load"] = time_loads(build)
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


def time_loads(build: Build) -> dict[str, float | int]:
    """Return the median times of opening the file and its form with INT8 weights, in ms.

    ``packed_ms``, ``unpacked_ms`` and ``loads``, how often each was opened. The difference is what
    unpacking costs, once for each start of a program.
    """
    import onnx

    from export.packing import unpack_weights
    from export.reference import open_session, read_model

    times: dict[str, list[float]] = {"packed_ms": [], "unpacked_ms": []}
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "unpacked.onnx"
        onnx.save(unpack_weights(read_model(build.shipped)), unpacked)
        # one after the other, so that a busy machine slows both
        for _ in range(TIMED_LOADS):
            for key, path in (("packed_ms", build.shipped), ("unpacked_ms", unpacked)):
                started = time.perf_counter()
                open_session(path, optimize=True)
                times[key].append(1e3 * (time.perf_counter() - started))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {**medians, "loads": TIMED_LOADS}


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
