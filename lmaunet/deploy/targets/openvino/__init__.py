"""The OpenVINO target: an ONNX file for CPUs, whose quantized convolutions run on integers.

``import openvino`` means the library here as anywhere: imports are absolute.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Agreement, Build, Figure, Measurement, require_agreement
from lmaunet.deploy import masked_builds, timing
from lmaunet.deploy.shared_builds import share_onnx
from lmaunet.deploy.targets import BuildRequest, Target, Tool
from lmaunet.deploy.targets.openvino.detail import lines as detail_lines
from lmaunet.errors import UserError
from lmaunet.stage import write_json

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from lmaunet.cpu.openvino_runtime import Layer

SHIPPED, LAYERS = "model.onnx", "layers.json"
CHECKED_IMAGES = 2
TIMED_LOADS = 5
# The share of a quantizer's codes that may differ by one, from float sums in another order: 3 of
# 65,536 was the largest that was measured, on an untrained network.
CODE_SHARE = 0.0005
HEAVY = ("Convolution", "FullyConnected", "MatMul", "TensorIterator", "Loop")
REBUILD = "run lmaunet-deploy build --target openvino"


def probe() -> list[Tool]:
    """Return OpenVINO, found or missing, without loading it."""
    from lmaunet.cpu import openvino_runtime as runtime

    return [
        Tool("openvino", runtime.PURPOSE, runtime.version(), runtime.place(), runtime.FIX),
    ]


def build_options() -> dict[str, Any]:
    """Return no options; raises ToolNotFound where OpenVINO is not installed."""
    from lmaunet.cpu import openvino_runtime as runtime

    if not runtime.place():
        runtime.require()
    return {}


def build(request: BuildRequest) -> Build:
    """Write ``model.onnx`` and ``layers.json``, what OpenVINO executes for it on this machine.

    Three things are checked on the first samples, all in OpenVINO: segment by segment, that its
    integer kernels compute what the exported graph does; that the file computes, bit for bit, what
    its form with long names and INT8 weights does, with as many integer kernels; and that end to
    end the classes stay.
    """
    import onnx

    from lmaunet.cpu import openvino_runtime as runtime
    from lmaunet.cpu.openvino_file import (
        LOWERING,
        openvino_file,
        openvino_form,
        saturating_convolutions,
    )
    from lmaunet.export import reference
    from lmaunet.export.convolutions import float_convolutions, quantized_convolutions
    from lmaunet.export.segments import check_segments_in, exported_values

    runtime.require()
    exported = reference.read_model(request.qcdq)
    images = request.samples[:CHECKED_IMAGES]
    evidence = reference.evidence_folder(request.folder)
    vnni = runtime.has_vnni()
    request.progress("openvino: bringing the graph into OpenVINO's form")
    form = openvino_form(exported, vnni=vnni)
    model = openvino_file(form)
    shipped = request.folder / SHIPPED
    onnx.save(model, shipped)

    request.progress(f"openvino: comparing with the exported graph on {len(images)} images")
    segments = check_segments_in(
        lambda cut, feeds, outputs: runtime.run_once(runtime.compile_model(cut), feeds, outputs),
        "openvino kernels", form, exported_values(exported, images[:1]), images[:1], evidence,
        share=CODE_SHARE,
    )  # fmt: skip
    found, packing, got = check_file(form, shipped, images, evidence)
    expected = reference.reference_logits(exported, images)
    unsteady = functools.partial(reference.unsteady_share, exported, images)
    classes = reference.compare_classes("openvino file", got, expected, evidence, unsteady)

    write_json(request.folder / LAYERS, {"layers": [asdict(layer) for layer in found]})
    quantized = [convolution.node for convolution in quantized_convolutions(exported)]
    detail: dict[str, Any] = {
        "lowering": LOWERING,
        "library": f"openvino {runtime.version()}",
        **summary(found),
        "quantized_convolutions": len(quantized),
        "float_convolutions_of_the_export": float_convolutions(exported),
        "saturate_without_vnni": len(saturating_convolutions(form)),
        "packing": {
            "unpacked_bytes": _code_bytes(form),
            "packed_bytes": _code_bytes(model),
        },
        "initializer_bytes": dict(reference.initializer_bytes(model)),
    }
    return Build("openvino", request.folder, shipped, (*segments, *packing, classes), detail)


def _code_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of the weights' codes; a zero point counts with them, one byte each."""
    from lmaunet.export.reference import initializer_bytes

    stored = initializer_bytes(model)
    return sum(stored.get(kind, 0) for kind in ("int8", "uint8", "int4"))


def summary(found: list[Layer]) -> dict[str, Any]:
    """Return how many layers run in which precision, and which of the costly ones run in float."""
    convolutions = [layer for layer in found if layer.kind == "Convolution"]
    integer = sum(layer.integer for layer in convolutions)
    return {
        "convolutions": {
            "integer_kernels": integer,
            "float_kernels": len(convolutions) - integer,
        },
        "precisions": dict(Counter(layer.precision for layer in found).most_common()),
        "kinds": dict(Counter(f"{layer.kind} {layer.precision}" for layer in found).most_common()),
        "costly_float_layers": [
            f"{layer.kind} {layer.name} ({layer.kernel})"
            for layer in found
            if layer.kind in HEAVY and not layer.integer
        ],
    }


def check_file(
    form: onnx.ModelProto, shipped: Path, images: np.ndarray, evidence: Path
) -> tuple[list[Layer], list[Agreement], np.ndarray]:
    """Require the file to compute what its form with INT8 weights and long names computes.

    OpenVINO must choose as many integer and float convolutions for both, and the logits must be
    equal bit for bit.

    Args:
        form: the graph before names were shortened and weights stored as INT4.
        shipped: the file.
        images: ``(n, channels, H, W)``.
        evidence: the folder in which tensors that disagree are saved.

    Returns:
        The layers that OpenVINO executes for the form, the agreements, and the file's logits.

    Raises:
        Disagreement: where they differ.
    """
    import numpy as np

    from lmaunet.cpu import openvino_runtime as runtime

    tables, logits = [], []
    for source in (form, shipped):
        compiled = runtime.compile_model(source)
        tables.append(runtime.layers(compiled))
        logits.append(runtime.run_images(compiled, images))
    kernels = [np.array(list(summary(table)["convolutions"].values())) for table in tables]
    name = "openvino file and its form"
    agreements = [
        require_agreement(
            f"{name}, integer and float convolutions", kernels[1], kernels[0], 0, evidence=evidence
        ),
        require_agreement(f"{name}, logits", logits[1], logits[0], 0, evidence=evidence),
    ]
    return tables[0], agreements, logits[1]


@functools.lru_cache(maxsize=4)
def _compiled(path: Path, changed_ns: int, features: str) -> Any:
    from lmaunet.cpu.openvino_runtime import compile_model
    from lmaunet.export.masked_samples import read_with_output

    return compile_model(read_with_output(path, features) if features else path)


def compiled_of(build: Build, features: str = "") -> Any:
    """Return a build's model, compiled once in this process while its file stays the same.

    ``features`` is a tensor in it that is a second output, where it is given.

    Raises:
        UserError: where the file is missing, or its sums would saturate on this processor.
    """
    from lmaunet.cpu.openvino_runtime import has_vnni

    if not build.shipped.is_file():
        raise UserError(f"{build.shipped} does not exist; {REBUILD}")
    saturating = build.detail.get("saturate_without_vnni", 0)
    if saturating and not has_vnni():
        raise UserError(
            f"{build.shipped} was built for processors with VNNI, and this one has none: the sums "
            f"of {saturating} convolutions could saturate at 16 bits; {REBUILD} on this "
            "machine, or use the target ort, whose file runs on any CPU"
        )
    return _compiled(build.shipped, build.shipped.stat().st_mtime_ns, features)


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``."""
    from lmaunet.cpu.openvino_runtime import run_images

    return run_images(compiled_of(build), images)


def measure(build: Build, images: np.ndarray, float32: Path | None = None) -> dict[str, Figure]:
    """Return the file's size, the size of its weights and the time of one image on this CPU.

    ``build.detail["latency"]`` receives what the time depends on, ``build.detail["float32"]`` how
    the FP32 network in ``float32``, an exported graph, compares in OpenVINO, and
    ``build.detail["load"]`` how long the file takes to load.
    """
    import onnx

    from lmaunet.cpu.compact import compact
    from lmaunet.cpu.openvino_file import LOWERING
    from lmaunet.cpu.openvino_runtime import compile_model, run_images
    from lmaunet.export.lower import lower
    from lmaunet.export.reference import initializer_bytes, read_model

    compiled = compiled_of(build)
    weights = sum(initializer_bytes(read_model(build.shipped)).values())
    image = images[:1]
    works: dict[str, Callable[[], object]] = {"own": lambda: run_images(compiled, image)}
    float32_mb = 0.0
    if float32 is not None:
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "float32.onnx"
            onnx.save(compact(lower(read_model(float32), LOWERING)), reference)
            float32_mb = reference.stat().st_size / 1e6
            other = compile_model(reference)
        works["float32"] = lambda: run_images(other, image)
    times = timing.time_turns(works)
    if float32 is not None:
        build.detail["float32"] = timing.beside_float32(
            times["own"], times["float32"], build.ships_mb(), float32_mb, "FP32 in OpenVINO"
        )
    loads = [_milliseconds(lambda: compile_model(build.shipped)) for _ in range(TIMED_LOADS)]
    build.detail["latency"] = {**times["own"], **timing.conditions()}
    build.detail["load"] = {"load_ms": statistics.median(loads), "loads": len(loads)}
    latency = times["own"]["median_ms"]
    return {
        "size_mb": Measurement("size_mb", build.ships_mb(), "MB", "measured"),
        "weights_mb": Measurement("weights_mb", weights / 1e6, "MB", "measured"),
        "latency_ms": Measurement("latency_ms", latency, "ms", "measured"),
    }


def _milliseconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


TARGET = Target(
    name="openvino",
    summary="an ONNX file for a CPU, run by OpenVINO",
    probe=probe,
    build=build,
    run=run,
    measure=measure,
    arithmetic=lambda build: (
        "the shipped file in OpenVINO on this CPU, with its integer convolutions and FP32 scans"
    ),
    options=build_options,
    share=share_onnx,
    sampled=functools.partial(masked_builds.run_compiled, compiled_of),
    detail_lines=detail_lines,
)
