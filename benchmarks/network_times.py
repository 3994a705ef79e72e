"""Builds of quantized networks, and their times beside the FP32 network's, in the same turns."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.deploy import timing
from lmaunet.deploy.pipeline import samples_of
from lmaunet.deploy.runs import DataSource
from lmaunet.deploy.targets import BuildRequest
from lmaunet.deploy.targets.openvino import TARGET as OPENVINO
from lmaunet.deploy.targets.ort import TARGET as ORT

WARM_UP_ROUNDS = 3
REFERENCE = "ort fp32"

Works = Mapping[str, Callable[[], object]]


def measure_builds(
    run: Path, methods: Sequence[str], source: DataSource, rounds: int
) -> dict[str, Any]:
    """Return the times of a network's files on one image, and of each build what its checks found.

    Args:
        run: has ``control`` and, for each method, ``METHOD/qat``.
        methods: names of methods.
        source: the data, whose training images the builds are checked on.
        rounds: how often each file runs; in a round each runs once, one after the other.

    Returns:
        ``rows`` by ``TARGET PRECISION``: median time, the median over the rounds of the ratio to
        ONNX Runtime's FP32 within a round, size, agreement; and the ``conditions``.
    """
    import onnx
    import torch

    from lmaunet.export import network
    from lmaunet.export.code_functions import define_functions
    from lmaunet.export.compact import compact
    from lmaunet.export.lower import lower
    from lmaunet.export.openvino_runtime import compile_model
    from lmaunet.export.operators import cached_library
    from lmaunet.export.reference import open_session, read_model
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.quant.qat import load_quantized
    from lmaunet.sources.checkpoint import restore

    loaded = load_checkpoint(run / "control" / "control.pt")
    samples = samples_of(source.load(loaded.spec))
    image = samples[:1]
    works: dict[str, Callable[[], object]] = {}
    builds: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        float32 = folder / network.FLOAT32
        control = restore(loaded, run / "control" / "control.pt")
        network.export_float32(control, torch.from_numpy(image), float32)
        exported = read_model(float32)
        plain = folder / "plain.onnx"
        onnx.save(compact(define_functions(exported)), plain)
        lowered = lower(exported, "unrolled")
        sessions = {
            REFERENCE: open_session(plain, optimize=True),
            "ort fp32 operators": open_session(plain, optimize=True, operators=cached_library()),
        }
        compiled = compile_model(lowered)
        works |= {name: _session_work(session, image) for name, session in sessions.items()}
        works["openvino fp32"] = lambda: compiled([image])
        for method in methods:
            qcdq = folder / f"{method}.onnx"
            quantized = load_quantized(run / method / "qat" / "model.pt")
            network.export_qcdq(quantized, torch.from_numpy(image), qcdq)
            for target in (ORT, OPENVINO):
                place = run / method / "build" / target.name
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                options = target.options()
                request = BuildRequest(place, qcdq, qcdq, samples, options, lambda line: None)
                build = target.build(request)
                name = f"{target.name} {method}"
                works[name] = lambda target=target, build=build: target.run(build, image)
                builds[name] = {
                    "size_mb": build.ships_mb(),
                    "model_mb": build.shipped.stat().st_size / 1e6,
                    "agreement": _agreement(build),
                    "kernels": build.detail["convolutions"],
                    "float_nodes": build.detail.get("float_nodes"),
                    "operators": build.detail.get("operators"),
                }
        times = time_rounds(works, rounds)
    rows = {
        name: {
            **timing.summary(times[name]),
            "ratio": statistics.median(
                own / other for own, other in zip(times[name], times[REFERENCE], strict=True)
            ),
            **builds.get(name, {}),
        }
        for name in works
    }
    return {"rows": rows, "conditions": timing.conditions(), "rounds": rounds}


def _session_work(session: Any, image: np.ndarray) -> Callable[[], object]:
    from lmaunet.export.reference import run_images

    return lambda: run_images(session, image)


def time_rounds(works: Works, rounds: int) -> dict[str, list[float]]:
    """Return each work's times in ms, one for each round; all run once in a round, in turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for place in range(WARM_UP_ROUNDS + rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if place >= WARM_UP_ROUNDS:
                times[name].append(1e3 * (time.perf_counter() - started))
    return times


def _agreement(build: Any) -> dict[str, Any]:
    """Return the share of equal codes and of equal classes, and the worst difference of logits."""
    codes = [a for a in build.agreements if a.name.endswith(", codes")]
    classes = [a for a in build.agreements if a.name.endswith(", classes")]
    differ, total = (sum(getattr(a, key) for a in codes) for key in ("n_differ", "n_total"))
    return {
        "passed": all(a.passed for a in build.agreements),
        "equal_codes": 1 - differ / total,
        "equal_classes": min((1 - a.n_differ / a.n_total for a in classes), default=None),
    }
