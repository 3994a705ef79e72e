"""The TensorRT target: an engine for NVIDIA GPUs, built without one."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Agreement, Build, Figure, Measurement
from lmaunet.deploy.targets import BuildRequest, Target, Tool
from lmaunet.errors import UserError
from lmaunet.stage import write_json

if TYPE_CHECKING:
    import numpy as np
    import onnx

LOWERING = "two_level"
NETWORK, TABLE = "network.onnx", "precision.json"
CHECKED_IMAGES = 2
# the share of a quantizer's codes that may differ by one; 0 was measured
CODE_SHARE = 0.0001
REBUILD = "run lmaunet-deploy build --target trt"


def probe() -> list[Tool]:
    """Return TensorRT, cuda-bindings and a GPU, found or missing, with what would change it."""
    from trt import adapter
    from trt.runner import Gpu, bindings_place, bindings_version, probe_gpu

    flavour = adapter.find()
    tensorrt = Tool(
        flavour.module if flavour else adapter.RTX.module,
        adapter.PURPOSE,
        flavour.version if flavour else "",
        str(flavour.place) if flavour else "",
        adapter.FIX,
    )
    bindings = Tool(
        "cuda-bindings",
        "runs and times the engine on a GPU",
        bindings_version(),
        str(bindings_place() or ""),
        adapter.FIX,
        required=False,
    )
    gpu = probe_gpu()
    if isinstance(gpu, Gpu):
        device = Tool("a CUDA GPU", "measures latency", gpu.sm, gpu.name, required=False)
    else:
        device = Tool("a CUDA GPU", f"measures latency; {gpu.why}", fix=gpu.fix, required=False)
    return [tensorrt, bindings, device]


def build(request: BuildRequest) -> Build:
    """Build ``engine.plan`` for ``options["sms"]`` and check it against the exported graph.

    Beside it come ``network.onnx``, which the engine was built from, ``layers.json``, the engine's
    layer table, ``precision.json``, what became of each quantized convolution, ``engine.json`` and
    ``engine.log``.
    """
    import onnx

    from export import reference
    from export.convolutions import float_convolutions, prepare, quantized_convolutions
    from export.lower import lower
    from trt import adapter
    from trt.engine import DEFAULT_SMS, build_engine
    from trt.precision import check_int8, constant_bytes, summary

    # what cannot work is said before the slow part
    sms = adapter.check_sms(adapter.require(), request.options.get("sms") or DEFAULT_SMS)
    exported = reference.read_model(request.qcdq)
    images = request.samples[:CHECKED_IMAGES]
    network = lower(prepare(exported), LOWERING)
    path = request.folder / NETWORK
    onnx.save(network, path)

    request.progress(f"trt: comparing the engine's graph on {len(images)} images")
    agreements = _agreements(exported, network, images, request.folder)
    engine = build_engine(path, request.folder, sms, request.progress)
    quantized = quantized_convolutions(network)
    table = check_int8(engine.layers, quantized)
    stored = constant_bytes(engine.layers, quantized)
    write_json(request.folder / TABLE, {"convolutions": [asdict(row) for row in table]})
    plan_bytes = engine.plan.stat().st_size
    reason = _no_gpu(engine.record["sms"])
    detail: dict[str, Any] = {
        "lowering": LOWERING,
        "library": f"{engine.record['module']} {engine.record['version']}",
        "sms": engine.record["sms"],
        "build_seconds": engine.record["build_seconds"],
        **summary(engine.layers, table),
        "float_convolutions": float_convolutions(network),
        "bytes": {
            "weights": stored.weights_total,
            "weights_by_datatype": stored.weights,
            "padding": stored.padding,
            "stored_constants": engine.record.get("weights_memory_bytes"),
            "plan": plan_bytes,
        },
        "runs_here": reason.why if reason else "on the GPU",
    }
    return Build("trt", request.folder, engine.plan, agreements, detail)


def _agreements(
    exported: onnx.ModelProto, network: onnx.ModelProto, images: np.ndarray, folder: Path
) -> tuple[Agreement, ...]:
    """Compare the engine's graph with the exported one, without and with optimization.

    The optimized graph keeps its float biases, as the engine does.
    """
    from export import reference
    from export.segments import check_segments, exported_values

    evidence = reference.evidence_folder(folder)
    agreements: list[Agreement] = []
    values = exported_values(exported, images[:1])
    for optimize, level in ((False, "off"), (True, "full")):
        agreements += check_segments(
            f"trt graph, optimization {level}", network, values, images[:1], evidence,
            share=CODE_SHARE, optimize=optimize, float_biases=True,
        )  # fmt: skip
    session = reference.open_session(network, optimize=True, float_biases=True)
    got = reference.run_images(session, images)
    expected = reference.reference_logits(exported, images)
    agreements.append(reference.compare_classes("trt graph", got, expected, evidence))
    return tuple(agreements)


def _no_gpu(sms: list[str]) -> Any:
    from trt.runner import why_not_here

    return why_not_here(sms)


def _record(build: Build) -> Any:
    from trt.engine import load_build

    return load_build(build.folder)


@functools.lru_cache(maxsize=4)
def _session(path: Path, changed_ns: int) -> Any:
    from export.reference import open_session

    return open_session(path, optimize=True, float_biases=True)


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    The engine computes them where a GPU that it was built for is here; elsewhere its graph does in
    ONNX Runtime on the CPU, with float biases as in the engine.
    """
    from export.reference import run_images
    from trt.runner import infer

    if _no_gpu(_record(build).record["sms"]) is None:
        return infer(build.shipped, images)
    path = build.folder / NETWORK
    if not path.is_file():
        raise UserError(f"{path} does not exist; {REBUILD}")
    return run_images(_session(path, path.stat().st_mtime_ns), images)


def arithmetic(build: Build) -> str:
    """Return what computes the logits on this machine, in words for the report."""
    reason = _no_gpu(_record(build).record["sms"])
    if reason is None:
        return "the engine on this machine's GPU"
    return "not the engine but the graph that it was built from, in ONNX Runtime on the CPU"


def measure(build: Build, images: np.ndarray) -> dict[str, Figure]:
    """Return the plan's size, the size of its weights and the time of one image on the GPU.

    ``build.detail["latency"]`` receives the timing where there is one.
    """
    from export.convolutions import quantized_convolutions
    from export.reference import read_model
    from trt.precision import constant_bytes
    from trt.runner import Latency, latency_figure, time_engine

    engine = _record(build)
    stored = constant_bytes(
        engine.layers, quantized_convolutions(read_model(build.folder / NETWORK))
    )
    latency = time_engine(build.shipped, images, engine.record["sms"])
    if isinstance(latency, Latency):
        build.detail["latency"] = asdict(latency)
    size, weights = build.shipped.stat().st_size / 1e6, stored.weights_total / 1e6
    return {
        "size_mb": Measurement("size_mb", size, "MB", "measured"),
        "weights_mb": Measurement("weights_mb", weights, "MB", "measured"),
        "latency_ms": latency_figure(latency),
    }


TARGET = Target(
    name="trt",
    summary="a TensorRT engine for NVIDIA GPUs",
    probe=probe,
    build=build,
    run=run,
    measure=measure,
    arithmetic=arithmetic,
)
