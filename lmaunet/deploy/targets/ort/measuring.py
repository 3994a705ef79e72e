"""The size of a CPU's file, and its times beside those of the float network."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.artifacts import Build, Figure, Measurement
from lmaunet.cpu.operators import LIBRARY as OPERATORS
from lmaunet.deploy import timing
from lmaunet.deploy.targets.ort.sessions import has_operators, run

if TYPE_CHECKING:
    import numpy as np
    import onnx


TIMED_LOADS = 5


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

    from lmaunet.cpu.code_functions import define_functions
    from lmaunet.cpu.compact import compact
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

    from lmaunet.cpu.packing import unpack_weights
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
