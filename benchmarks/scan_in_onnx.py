"""Time the forms of the selective scan in ONNX Runtime: ``python benchmarks/scan_in_onnx.py``.

Prints, for each size, the median and the least time in milliseconds of the local function (a Scan
over single steps) and of each executable lowering, nodes, bytes of the file, and the largest
difference from the function. ``unrolled-1`` is ``unrolled`` without chunks side by side: a Scan
over 16 steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

sys.path[:0] = [str(Path(__file__).parents[1] / "tests/export"), str(Path(__file__).parents[1])]

from scan_models import feeds, random_arrays, scan_model  # noqa: E402

from export.function import attach  # noqa: E402
from export.lower import LOWERINGS_IN_ONNX_RUNTIME, count_nodes, lower  # noqa: E402
from export.lowerings import unrolled  # noqa: E402

SIZES = ((1, 4096, 24, 8), (1, 4096, 64, 16), (1, 16384, 48, 16))


def session_of(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def measure(
    models: dict[str, onnx.ModelProto], given: dict[str, np.ndarray], threads: int, repeats: int
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Run the models in turns, so that other work on the machine slows all of them alike."""
    sessions = {name: session_of(model, threads) for name, model in models.items()}
    outputs = {name: session.run(None, given)[0] for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, given)
            times[name].append(1e3 * (time.perf_counter() - start))
    return outputs, times


def without_chunks(model: onnx.ModelProto) -> onnx.ModelProto:
    chunks, unrolled.CHUNKS = unrolled.CHUNKS, 1
    try:
        return lower(model, "unrolled")
    finally:
        unrolled.CHUNKS = chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    forms: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
        "function": attach,
        "unrolled-1": without_chunks,
        **{name: lambda m, name=name: lower(m, name) for name in LOWERINGS_IN_ONNX_RUNTIME},
    }
    print(
        f"{'batch, L, channels, states':28s}{'form':12s}  median    min  nodes   bytes  difference"
    )
    for size in SIZES:
        arrays = random_arrays(*size)
        models = {name: form(scan_model(arrays)) for name, form in forms.items()}
        outputs, times = measure(models, feeds(arrays), arguments.threads, arguments.repeats)
        for name, model in models.items():
            difference = np.abs(outputs[name] - outputs["function"]).max()
            print(
                f"{size!s:28s}{name:12s}{statistics.median(times[name]):8.1f}"
                f"{min(times[name]):7.1f}{count_nodes(model):7d}{model.ByteSize():8d}"
                f"{difference:12.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
