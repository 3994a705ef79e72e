"""Runs an engine on a GPU and times it; without one the answer is the reason, never a figure.

The engine runs in a process of its own (:mod:`lmaunet.trt.inference_worker`): what the vendor's
library does with a damaged engine, or one of another version, must not take the command down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.trt import adapter, gpu, processes
from lmaunet.trt.gpu import NoGpu
from lmaunet.trt.loaded_engine import Latency, read_plan

if TYPE_CHECKING:
    import numpy as np

WARM_UP_RUNS = 50
TIMED_RUNS = 500
ADVICE = (
    "the engine is damaged or of another version of the library; copy it again, or build it again "
    "on this machine with lmaunet-deploy build --target trt"
)


def worker_command(*arguments: str) -> list[str]:
    """Return the command line of the process that runs an engine."""
    return processes.worker_command("lmaunet.trt.inference_worker", *arguments)


def _run(plan: Path, images: np.ndarray, action: str, *more: str) -> tuple[dict[str, Any], Any]:
    """Run the worker on some images and return its answer and the array that it wrote, if any."""
    import numpy as np

    adapter.require()
    found = gpu.probe_gpu()
    if isinstance(found, NoGpu):
        raise ToolNotFound("a CUDA GPU", f"to run {plan.name}: {found.why}", found.fix)
    read_plan(plan)  # what is plainly damaged is said without a process
    with tempfile.TemporaryDirectory(prefix="lmaunet-trt-") as name:
        folder = Path(name)
        np.save(folder / "images.npy", np.ascontiguousarray(images, np.float32))
        answer = processes.run_worker(
            worker_command(
                action, str(plan.resolve()), str(folder / "images.npy"),
                str(folder / "logits.npy"), *more,
            ),
            name=f"run of {plan.name}",
            logs=(folder / "stderr",),
            advice=ADVICE,
        )  # fmt: skip
        output = folder / "logits.npy"
        return answer, np.load(output) if output.is_file() else None


def infer(plan: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    ``plan`` is ``engine.plan`` or ``engine.plan.xz``.

    Raises:
        ToolNotFound: where TensorRT or cuda-bindings are not installed, or there is no GPU.
        UserError: where the engine is missing, damaged or not for this GPU or library, where it
            crashes, or takes images of another shape.
    """
    _, logits = _run(plan, images, "run")
    if logits is None or len(logits) != len(images):
        raise UserError(f"the run of {plan.name} left no logits; run the command again")
    return logits  # type: ignore[no-any-return]


def time_engine(
    plan: Path,
    images: np.ndarray,
    sms: Sequence[str],
    *,
    warm_up: int = WARM_UP_RUNS,
    runs: int = TIMED_RUNS,
) -> Latency | NoGpu:
    """Time an engine that was built for ``sms`` on the first of some images.

    Returns the reason instead where no GPU is here that it was built for. Raises as :func:`infer`.
    """
    reason = gpu.why_not_here(sms)
    if reason is not None:
        return reason
    answer, _ = _run(plan, images[:1], "time", str(warm_up), str(runs))
    return Latency(**answer["latency"])


def measure_latency(
    plan: Path, images: np.ndarray, sms: Sequence[str] = ()
) -> Measurement | Unavailable:
    """Return the median time of one image on the GPU in milliseconds, or why there is none."""
    return latency_figure(time_engine(plan, images, sms))


def latency_figure(latency: Latency | NoGpu) -> Measurement | Unavailable:
    """Return the report's figure of a timing, or of the reason why there is none."""
    if isinstance(latency, NoGpu):
        return Unavailable("latency_ms", "a CUDA GPU", latency.why, latency.fix)
    return Measurement("latency_ms", latency.median_ms, "ms", "measured")
