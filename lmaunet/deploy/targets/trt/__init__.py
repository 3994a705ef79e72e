"""The TensorRT target: an engine for NVIDIA GPUs, built without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from lmaunet.artifacts import Build
from lmaunet.deploy.defaults import PRECISIONS, SMS
from lmaunet.deploy.targets import BuildRequest, Flag, Target, Tool
from lmaunet.deploy.targets.trt.detail import lines as detail_lines
from lmaunet.deploy.targets.trt.forms import LOWERING, float_form, int8_form
from lmaunet.deploy.targets.trt.running import (
    NETWORK,
    TABLE,
    arithmetic,
    measure,
    no_gpu,
    provenance,
    run,
    sampled,
    time_image,
    trunk,
)
from lmaunet.errors import UserError
from lmaunet.stage import write_json


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


def build_options(
    sm: Annotated[
        Sequence[str] | None, Flag("compute capability, such as SM86; repeatable.")
    ] = None,
    precision: Annotated[str | None, Flag(
        f"int8, or of the FP32 control fp16, fp32 or int4-weights; {PRECISIONS[0]} if not given."
    )] = None,
) -> dict[str, Any]:  # fmt: skip
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
    form = int8_form(request) if precision == PRECISIONS[0] else float_form(request, precision)
    path = request.folder / NETWORK
    onnx.save(form.network, path)
    engine = build_engine(path, request.folder, sms, request.progress)
    checked = form.check(engine.layers)
    counted = checked.detail["layer_precisions"]
    write_json(request.folder / TABLE, {"convolutions": checked.rows, "layers": counted})
    bytes_of = engine.record["bytes"]
    reason = no_gpu(engine.record["sms"])
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
    in_demo=True,
    # an engine also holds compiled kernels: its weights are gated, its size is shown beside them
    gates={"size_mb": False, "weights_mb": 4.2},
    detail_lines=detail_lines,
)
