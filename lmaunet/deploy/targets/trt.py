"""The TensorRT target: an engine for NVIDIA GPUs, built without one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Agreement, Build, Figure, Measurement, Provenance
from lmaunet.deploy import masked_builds, timing
from lmaunet.deploy.defaults import PRECISIONS, SMS
from lmaunet.deploy.targets import BuildRequest, Target, Tool
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.stage import write_json
from lmaunet.trt.graph_run import graph_session, run_graph

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from lmaunet.trt.layer_table import EngineLayer
    from lmaunet.trt.loaded_engine import Latency
    from lmaunet.trt.precision import ConstantBytes

LOWERING = "two_level"
NETWORK, TABLE = "network.onnx", "precision.json"
CHECKED_IMAGES = 2
# the share of a quantizer's codes that may differ by one; 0 was measured
CODE_SHARE = 0.0001


def probe() -> list[Tool]:
    """Return TensorRT, cuda-bindings and a GPU, found or missing, with what would change it."""
    from lmaunet.trt import adapter
    from lmaunet.trt.gpu import Gpu, bindings_place, bindings_version, probe_gpu

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


def build_options(sm: Sequence[str] | None = None, precision: str | None = None) -> dict[str, Any]:
    """Return the options of a build: INT8 for the default GPUs if not given.

    Raises:
        UserError: for an unknown precision, or a GPU that it is not built for.
        ToolNotFound: where TensorRT is not installed.
    """
    from lmaunet.trt import adapter

    chosen = PRECISIONS[0] if precision is None else precision
    if chosen not in PRECISIONS:
        raise UserError(f"--precision {chosen} is unknown; use one of {', '.join(PRECISIONS)}")
    flavour = adapter.require()
    checked = adapter.check_sms(flavour, list(sm or SMS))
    if chosen == PRECISIONS[0]:
        adapter.check_int8_sms(flavour, checked)
    return {"sms": list(sm or SMS), "precision": chosen}


def build(request: BuildRequest) -> Build:
    """Build an engine for ``options["sms"]`` in ``options["precision"]``, and check it.

    ``engine.plan.xz`` ships. Beside it come ``engine.plan``, the same unpacked, ``network.onnx``,
    which the engine was built from, ``layers.json``, the engine's layer table, ``precision.json``,
    what became of each convolution, ``engine.json`` and ``engine.log``.
    """
    import onnx

    from lmaunet.trt import adapter
    from lmaunet.trt.engine import DEFAULT_SMS, build_engine

    # what cannot work is said before the slow part
    precision = request.options.get("precision") or PRECISIONS[0]
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision} is unknown; use one of {', '.join(PRECISIONS)}")
    sms = adapter.check_sms(adapter.require(), request.options.get("sms") or DEFAULT_SMS)
    if precision == PRECISIONS[0]:
        adapter.check_int8_sms(adapter.require(), sms)
    request.progress(f"trt: comparing the engine's graph, {precision}, with the exported one")
    form = _int8_form(request) if precision == PRECISIONS[0] else _float_form(request, precision)
    path = request.folder / NETWORK
    onnx.save(form.network, path)
    engine = build_engine(path, request.folder, sms, request.progress)
    checked = form.check(engine.layers)
    counted = checked.detail["layer_precisions"]
    write_json(request.folder / TABLE, {"convolutions": checked.rows, "layers": counted})
    bytes_of = engine.record["bytes"]
    reason = _no_gpu(engine.record["sms"])
    detail: dict[str, Any] = {
        "precision": precision,
        "lowering": LOWERING,
        "library": f"{engine.record['module']} {engine.record['version']}",
        "sms": engine.record["sms"],
        "build_seconds": engine.record["build_seconds"],
        "activation_bytes": engine.record.get("activation_memory_bytes"),
        **checked.detail,
        "bytes": {
            "weights": checked.stored.weights_total,
            "weights_by_datatype": checked.stored.weights,
            "padding": checked.stored.padding,
            **bytes_of,
        },
        "runs_here": reason.why if reason else "on the GPU",
    }
    return Build("trt", request.folder, engine.packed, form.agreements, detail)


@dataclass(frozen=True)
class Checked:
    """What the layer table says: rows of ``precision.json``, detail, and the constants' bytes."""

    rows: list[dict[str, Any]]
    detail: dict[str, Any]
    stored: ConstantBytes


@dataclass(frozen=True)
class Form:
    """The graph that an engine is built from, its agreements, and the check of the engine."""

    network: onnx.ModelProto
    agreements: tuple[Agreement, ...]
    check: Callable[[Sequence[EngineLayer]], Checked]


def _int8_form(request: BuildRequest) -> Form:
    """Return the quantized network in the form of the policy."""
    from lmaunet.export import reference
    from lmaunet.export.convolutions import float_convolutions
    from lmaunet.export.lower import lower
    from lmaunet.trt import policy
    from lmaunet.trt.layer_precision import check_norms, norm_nodes
    from lmaunet.trt.precision import check_policy, constant_bytes, summary

    exported = reference.read_model(request.qcdq)
    prepared, planned = policy.apply(exported)
    network = lower(prepared, LOWERING)
    images = request.samples[:CHECKED_IMAGES]

    def check(layers: Sequence[EngineLayer]) -> Checked:
        table = check_policy(layers, planned)
        detail = {
            **summary(layers, table),
            "layer_precisions": check_norms(layers, norm_nodes(network)).to_json(),
            "float_convolutions": float_convolutions(exported),
            "policy": [asdict(rule) for rule in policy.RULES],
        }
        return Checked([asdict(row) for row in table], detail, constant_bytes(layers, planned))

    return Form(network, _agreements(exported, network, images, request.folder), check)


def _float_form(request: BuildRequest, precision: str) -> Form:
    """Return the FP32 control in another precision, with the scan and the norms in FP32."""
    import numpy as np

    from lmaunet.export import reference
    from lmaunet.export.lower import lower
    from lmaunet.trt import float_checks, float_forms, half_emulation, half_range
    from lmaunet.trt.layer_precision import check_norms, norm_nodes
    from lmaunet.trt.precision import constant_bytes

    if request.float32 is None:
        raise UserError(
            f"--precision {precision} needs the float network, and there is none; "
            "run lmaunet-deploy export"
        )
    exported = reference.read_model(request.float32)
    model = float_forms.copy_named(lower(exported, LOWERING))
    found = float_forms.products(model)
    images = request.samples[:CHECKED_IMAGES]
    evidence = reference.evidence_folder(request.folder)
    agreements: tuple[Agreement, ...]
    in_float: tuple[str, ...] = ()
    extra: dict[str, Any] = {}
    if precision == "fp16":
        tried = request.samples if request.calibration is None else request.calibration
        ranges = half_range.half_ranges(model, found, tried)
        in_float = tuple(entry.node for entry in half_range.kept_in_float(ranges))
        extra = {"half_range": half_range.range_detail(ranges, len(tried))}
        network = float_forms.in_half(model, in_float)
        agreements = (float_checks.check_half(network, model, images[:1], evidence, in_float),)
    elif precision == "int4-weights":
        network, same = float_forms.in_int4(model)
        agreements = float_checks.check_int4(network, same, images, evidence)
    else:
        network = model
        agreements = (float_checks.check_float(network, exported, images, evidence),)
    classes = reference.reference_logits(exported, images).argmax(1)
    session = reference.open_session(half_emulation.emulated(network), optimize=True)
    logits = reference.run_images(session, images)
    if not np.isfinite(logits).all():
        raise Disagreement(
            f"the engine's graph in {precision} computes NaN or infinity where the float network "
            "does not; build with --precision int8 or fp32"
        )
    differing = float((logits.argmax(1) != classes).mean())

    def check(layers: Sequence[EngineLayer]) -> Checked:
        rows = float_checks.check_products(layers, found, precision, in_float)
        stored = Counter(str(row["weights"]) for row in rows)
        detail = {
            "precisions": {f"{name} weights": count for name, count in stored.items()},
            "pixels_that_fp32_classifies_otherwise": differing,
            "layer_precisions": check_norms(layers, norm_nodes(network)).to_json(),
            **extra,
        }
        return Checked([dict(row) for row in rows], detail, constant_bytes(layers, ()))

    return Form(network, agreements, check)


def _agreements(
    exported: onnx.ModelProto, network: onnx.ModelProto, images: np.ndarray, folder: Path
) -> tuple[Agreement, ...]:
    """Compare the engine's graph with the exported one, without and with optimization.

    The optimized graph keeps its float biases, as the engine does.
    """
    from lmaunet.export import reference
    from lmaunet.export.segments import check_segments, exported_values

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
    unsteady = functools.partial(reference.unsteady_share, exported, images)
    agreements.append(reference.compare_classes("trt graph", got, expected, evidence, unsteady))
    return tuple(agreements)


def _no_gpu(sms: list[str]) -> Any:
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
    return _no_gpu(_record(build).record["sms"]) is None


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


TARGET = Target(
    name="trt",
    summary="a TensorRT engine for NVIDIA GPUs",
    probe=probe,
    build=build,
    run=run,
    measure=measure,
    arithmetic=arithmetic,
    options=build_options,
    provenance=provenance,
    time=time_image,
    share=lambda built, alone, kernel: alone,
    sampled=sampled,
    trunk=trunk,
)
