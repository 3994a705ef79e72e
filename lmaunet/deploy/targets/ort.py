"""The CPU target: an ONNX file for ONNX Runtime, with integer convolutions."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Agreement, Build, Figure, Measurement, require_agreement
from lmaunet.deploy import masked_builds, timing
from lmaunet.deploy.shared_builds import share_onnx
from lmaunet.deploy.targets import BuildRequest, Target, Tool
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.export.operators import LIBRARY as OPERATORS
from lmaunet.packages import install_command

if TYPE_CHECKING:
    import numpy as np
    import onnx

SHIPPED = "model.onnx"
CODE_FUNCTIONS = (
    "NormedConvCodes", "PixelShuffleCodes", "SelectiveScan", "SelectiveScanCodes", "SiluCodes",
)  # fmt: skip
CHECKED_IMAGES = 2
TIMED_LOADS = 5
# The share of a quantizer's codes that may differ by one where both sides have the same biases;
# 0 was measured. A bias that is rounded to an integer of the accumulator may move any code by one:
# where a channel's accumulator has few steps to a code, that is many of them.
CODE_SHARE, ROUNDED_BIAS_SHARE = 0.0001, 1.0
INTEGER_KERNELS = ("QLinearConv", "ConvInteger", "NormedConvCodes")
FLOAT_KERNELS = ("Conv", "FusedConv", "NhwcFusedConv")
# what ONNX Runtime computes in float32, where it is more than moving values
FLOAT_OPERATORS = frozenset(
    {*FLOAT_KERNELS, "Add", "Exp", "MatMul", "Mul", "Scan", "SelectiveScan", "Sigmoid", "Softplus"}
)


def probe() -> list[Tool]:
    """Return ONNX Runtime, found or missing, without loading it."""
    from lmaunet.export import operators

    spec = importlib.util.find_spec("onnxruntime")
    place = str(Path(spec.origin).parent) if spec is not None and spec.origin else ""
    version = importlib.metadata.version("onnxruntime") if place else ""
    runtime = Tool(
        "onnxruntime",
        "runs exported graphs on the CPU",
        version,
        place,
        install_command("onnxruntime"),
    )
    compiler = operators.compiler() or ""
    found = operators.compiler_version(compiler) if compiler else ""
    return [
        runtime,
        Tool("g++", operators.PURPOSE, found, compiler, operators.FIX, required=False),
    ]


def build_options(cpu: str | None = None, operators: bool | None = None) -> dict[str, Any]:
    """Return the options of a build: ``cpu`` any if not given, operators where they can be built.

    Raises:
        UserError: for an unknown ``cpu``.
        ToolNotFound: where operators are asked for and there is no compiler.
    """
    from lmaunet.export.operators import FIX, compiler
    from lmaunet.export.saturation import CPUS

    if cpu is not None and cpu not in CPUS:
        raise UserError(f"unknown --cpu {cpu!r}; use one of: {', '.join(CPUS)}")
    if operators and compiler() is None:
        raise ToolNotFound("g++", "to compile the operators of a CPU's file", FIX)
    wanted = compiler() is not None if operators is None else operators
    return {"cpu": cpu or "any", "operators": wanted}


def build(request: BuildRequest) -> Build:
    """Write ``model.onnx``: UINT8 activation codes, packed weights, functions over codes.

    With the option ``operators`` also ``lmaunet_operators.so``, whose kernels ONNX Runtime takes
    for these functions where a session registers it. Checked on the first samples: segment by
    segment, that codes, layout and functions change nothing, and that integer biases, as ONNX
    Runtime optimizes the graph, move next to no code, both without the operators and with them;
    that packing the weights and dropping names change no bit of the logits and no kernel; and that
    end to end the classes stay.
    """
    import onnx

    from lmaunet.export import reference
    from lmaunet.export.code_functions import fuse_codes
    from lmaunet.export.compact import bytes_by_purpose
    from lmaunet.export.convolutions import quantized_convolutions
    from lmaunet.export.cpu_file import LOWERING, cpu_forms, pack
    from lmaunet.export.operators import cached_library
    from lmaunet.export.packing import weight_bits_of
    from lmaunet.export.segments import check_segments, exported_values

    options = {**build_options(), **request.options}
    exported = reference.read_model(request.qcdq)
    images = request.samples[:CHECKED_IMAGES]
    evidence = reference.evidence_folder(request.folder)
    operators = None
    if options["operators"]:
        request.progress("ort: compiling the operators")
        operators = request.folder / OPERATORS
        shutil.copyfile(cached_library(), operators)
    request.progress("ort: bringing the graph into the CPU's form")
    forms = cpu_forms(exported, options["cpu"])
    model = pack(forms.fused)
    shipped = request.folder / SHIPPED
    onnx.save(model, shipped)

    request.progress(f"ort: comparing with the exported graph on {len(images)} images")
    values = exported_values(exported, images[:1])
    agreements: list[Agreement] = []
    agreements += check_segments(
        "ort codes and functions", fuse_codes(forms.codes), values, images[:1], evidence,
        share=CODE_SHARE, optimize=False,
    )  # fmt: skip
    near, moved, logits = check_segments(
        "ort integer biases", forms.rounded, values, images[:1], evidence,
        share=ROUNDED_BIAS_SHARE, optimize=False,
    )  # fmt: skip
    agreements += [near, logits]
    rounded = exported_values(forms.rounded, images[:1])
    runs = {"ort form": None} | ({"ort operators": operators} if operators else {})
    for name, library in runs.items():
        agreements += check_segments(
            name, forms.fused, rounded, images[:1], evidence,
            share=CODE_SHARE, optimize=True, operators=library,
        )  # fmt: skip
    packing, nodes, got = check_packing(forms.fused, shipped, images, evidence, operators)
    expected = reference.reference_logits(exported, images)
    unsteady = functools.partial(reference.unsteady_share, exported, images)
    agreements += [
        *packing,
        reference.compare_classes("ort file", got, expected, evidence, unsteady),
    ]
    widths = Counter(weight_bits_of(model).values())
    detail = {
        "lowering": LOWERING,
        "cpu": options["cpu"],
        "operators": {
            "built": operators is not None,
            "bytes": operators.stat().st_size if operators else 0,
            "nodes": {name: nodes[name] for name in CODE_FUNCTIONS if nodes[name]},
        },
        "convolutions": {
            "integer_kernels": _count(nodes, INTEGER_KERNELS),
            "float_kernels": _count(nodes, FLOAT_KERNELS),
            "quantized": len(quantized_convolutions(exported)),
        },
        "float_nodes": {name: n for name, n in nodes.most_common() if name in FLOAT_OPERATORS},
        "codes_moved_by_rounded_biases": moved.n_differ / moved.n_total,
        "packing": {
            "weight_bits": {str(bits): widths[bits] for bits in sorted(widths)},
            "unpacked_bytes": bytes_by_purpose(forms.fused)["weights"],
            "packed_bytes": bytes_by_purpose(model)["weights"],
        },
        "optimized_nodes": dict(nodes.most_common()),
        "initializer_bytes": dict(reference.initializer_bytes(model)),
        "bytes_by_purpose": bytes_by_purpose(model),
    }
    beside = (operators,) if operators else ()
    return Build("ort", request.folder, shipped, tuple(agreements), detail, beside)


def check_packing(
    form: onnx.ModelProto,
    shipped: Path,
    images: np.ndarray,
    evidence: Path,
    operators: Path | None = None,
) -> tuple[list[Agreement], Counter[str], np.ndarray]:
    """Require the file to compute what its form with INT8 weights and long names computes.

    ONNX Runtime must choose as many integer and float kernels for both, and the logits must be
    equal bit for bit, with graph optimization off and full.

    Args:
        form: the graph before packing.
        shipped: the file.
        images: ``(n, channels, H, W)``.
        evidence: the folder in which tensors that disagree are saved.
        operators: the library of operators to run both with.

    Returns:
        The agreements, the operators of the optimized file and how many there are of each, and its
        logits.

    Raises:
        Disagreement: where they differ.
    """
    import numpy as np

    from lmaunet.export.reference import open_session, run_images

    counts = [optimized_nodes(source, operators) for source in (form, shipped)]
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
            run_images(open_session(source, optimize=optimize, operators=operators), images)
            for source in (form, shipped)
        )
        name = f"ort packing, logits, {words}"
        agreements.append(require_agreement(name, got, want, 0, evidence=evidence))
    return agreements, counts[1], got


def optimized_nodes(model: onnx.ModelProto | Path, operators: Path | None = None) -> Counter[str]:
    """Return the operators that ONNX Runtime makes of a model, and how many of each."""
    import onnx

    from lmaunet.export.model_messages import all_nodes
    from lmaunet.export.reference import open_session

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, optimize=True, operators=operators, save_optimized=path)
        return Counter(node.op_type for node in all_nodes(list(onnx.load(path).graph.node)))


def _count(nodes: Counter[str], kinds: tuple[str, ...]) -> int:
    return sum(nodes[kind] for kind in kinds)


@functools.lru_cache(maxsize=4)
def _session(path: Path, changed_ns: int, operators: bool, features: str = "") -> Any:
    from lmaunet.export.masked_samples import read_with_output
    from lmaunet.export.model_messages import read_messages
    from lmaunet.export.reference import open_session
    from lmaunet.export.saturation import runtime_adds_without_saturation, signed_weights

    library = path.with_name(OPERATORS) if operators else None
    model: Any = read_with_output(path, features) if features else path
    if runtime_adds_without_saturation():
        shipped = model if features else read_messages(path)
        try:
            model = signed_weights(shipped)
        except UserError:
            raise
        except Exception:
            # a damaged file fails here in many ways: ONNX Runtime says in which
            open_session(path, optimize=True, operators=library)
            raise  # it loads, so that the fault is ours
    return open_session(model, optimize=True, operators=library)


def session_of(build: Build, features: str = "") -> Any:
    """Return the session of a build, opened once in this process while its file stays the same.

    ``features`` is a tensor in it that is a second output, where it is given. On a
    processor that can, INT8 weights stand for UINT8 ones: the same values, faster.
    """
    if not build.shipped.is_file():
        raise UserError(f"{build.shipped} does not exist; run lmaunet-deploy build --target ort")
    changed_ns = build.shipped.stat().st_mtime_ns
    return _session(build.shipped, changed_ns, has_operators(build), features)


@functools.lru_cache(maxsize=4)
def _loads(library: Path, changed_ns: int) -> bool:
    """Tell whether a library works here; one from another processor or system may not."""
    import ctypes

    try:
        ctypes.CDLL(str(library.resolve()))
    except OSError:
        return False
    return True


def has_operators(build: Build) -> bool:
    """Tell whether a build's library of operators is there and can be loaded on this machine."""
    library = build.folder / OPERATORS
    return library.is_file() and _loads(library, library.stat().st_mtime_ns)


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``."""
    from lmaunet.export.reference import run_images

    return run_images(session_of(build), images)


def measure(build: Build, images: np.ndarray, float32: Path | None = None) -> dict[str, Figure]:
    """Return the size of what ships, the size of its weights and the time of one image on this CPU.

    ``build.detail["latency"]`` receives what the time depends on, ``build.detail["float32"]`` how
    the FP32 network in ``float32``, an exported graph, compares with the same operators, and
    ``build.detail["load"]`` how long the file takes to load, and its form with INT8 weights.
    """
    from lmaunet.export.reference import initializer_bytes, read_model

    model: onnx.ModelProto = read_model(build.shipped)
    weights = sum(initializer_bytes(model).values())
    image = images[:1]
    works: dict[str, Callable[[], object]] = {"own": lambda: run(build, image)}
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "float32.onnx"
        if float32 is not None:
            works["float32"] = _float32_work(build, float32, reference, image)
        times = timing.time_turns(works)
        if float32 is not None:
            library = build.folder / OPERATORS
            beside_mb = library.stat().st_size / 1e6 if has_operators(build) else 0.0
            build.detail["float32"] = timing.beside_float32(
                times["own"], times["float32"], build.ships_mb(),
                reference.stat().st_size / 1e6 + beside_mb,
                "FP32 in ONNX Runtime" + (", with the same operators" if beside_mb else ""),
            )  # fmt: skip
    build.detail["latency"] = {**times["own"], **timing.conditions()}
    build.detail["load"] = time_loads(build)
    return {
        "size_mb": Measurement("size_mb", build.ships_mb(), "MB", "measured"),
        "weights_mb": Measurement("weights_mb", weights / 1e6, "MB", "measured"),
        "latency_ms": Measurement("latency_ms", times["own"]["median_ms"], "ms", "measured"),
    }


def _float32_work(
    build: Build, float32: Path, path: Path, image: np.ndarray
) -> Callable[[], object]:
    """Write the FP32 network as a file of this target and return what runs it on an image."""
    import onnx

    from lmaunet.export.code_functions import define_functions
    from lmaunet.export.compact import compact
    from lmaunet.export.reference import open_session, read_model, run_images

    onnx.save(compact(define_functions(read_model(float32))), path)
    library = build.folder / OPERATORS if has_operators(build) else None
    session = open_session(path, optimize=True, operators=library)
    return lambda: run_images(session, image)


def time_loads(build: Build) -> dict[str, float | int]:
    """Return the median times of opening the file and its form with INT8 weights, in ms.

    ``packed_ms``, ``unpacked_ms`` and ``loads``, how often each was opened. The difference is what
    unpacking costs, once for each start of a program.
    """
    import onnx

    from lmaunet.export.packing import unpack_weights
    from lmaunet.export.reference import open_session, read_model

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


def arithmetic(build: Build) -> str:
    """Return what computes the logits on this machine, in words for the report."""
    words = "the shipped file in ONNX Runtime on this CPU, with its integer convolutions"
    return f"{words} and the operators built beside it" if has_operators(build) else words


TARGET = Target(
    name="ort",
    summary="an ONNX file for a CPU, run by ONNX Runtime",
    probe=probe,
    build=build,
    run=run,
    measure=measure,
    arithmetic=arithmetic,
    options=build_options,
    share=share_onnx,
    sampled=functools.partial(masked_builds.run_sessions, session_of),
)
