"""A target that is one folder: the exported network as plain ONNX, run by ONNX Runtime.

The test copies this file into a folder of its own as ``plain/__init__.py``; nothing else of the
program names it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from lmaunet.artifacts import Build, Measurement
from lmaunet.deploy.targets import BuildRequest, Flag, Target, installed
from lmaunet.errors import UserError

FORMS = ("unrolled", "two_level")


def options(
    form: Annotated[str | None, Flag("the scan's form; unrolled if not given.")] = None,
    sections: Annotated[int, Flag("how many sections; one if not given.")] = 1,
) -> dict[str, Any]:
    """Return the options of a build."""
    if form not in (None, *FORMS):
        raise UserError(f"unknown --form {form!r}; use one of: {', '.join(FORMS)}")
    return {"form": form or FORMS[0], "sections": sections}


def build(request: BuildRequest) -> Build:
    """Write ``plain.onnx``, whose classes are those of the exported network."""
    import onnx

    from lmaunet.export import reference
    from lmaunet.export.lower import lower

    exported = reference.read_model(request.qcdq)
    network = lower(exported, request.options["form"])
    shipped = request.folder / "plain.onnx"
    onnx.save(network, shipped)
    session = reference.open_session(shipped, optimize=False)
    classes = reference.compare_classes(
        "plain file", reference.run_images(session, request.samples),
        reference.reference_logits(exported, request.samples),
        reference.evidence_folder(request.folder), lambda: 0.0,
    )  # fmt: skip
    return Build("plain", request.folder, shipped, (classes,), dict(request.options))


@functools.cache
def session_of(path: Path) -> Any:
    """Return the session of a file, opened once."""
    from lmaunet.export import reference

    return reference.open_session(path, optimize=True)


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Return the logits of images."""
    from lmaunet.export import reference

    return reference.run_images(session_of(build.shipped), images)


def measure(build: Build, images: np.ndarray, float32: Path | None = None) -> dict[str, Any]:
    """Return the sizes, and a time of which the report has a limit."""
    from lmaunet.deploy import timing

    times = timing.time_turns({"own": lambda: run(build, images[:1])})
    build.detail["latency"] = {**times["own"], **timing.conditions()}
    size = build.ships_mb()
    return {
        "size_mb": Measurement("size_mb", size, "MB", "measured"),
        "weights_mb": Measurement("weights_mb", size, "MB", "measured"),
        "latency_ms": Measurement("latency_ms", times["own"]["median_ms"], "ms", "measured"),
    }


TARGET = Target(
    name="plain",
    summary="plain ONNX",
    probe=lambda: [installed("onnxruntime", "runs it", "get it", required=True)],
    build=build,
    run=run,
    measure=measure,
    arithmetic=lambda build: "the file in ONNX Runtime",
    options=options,
    gates={"latency_ms": 0.001},
    detail_lines=lambda detail: [("Form of the scan", f"{detail['form']}, by this folder alone")],
)
