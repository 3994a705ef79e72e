"""Builds of quantized networks, and their times beside the FP32 network's, in the same turns."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.artifacts import Build
from lmaunet.data.dataset import Dataset
from lmaunet.deploy import timing
from lmaunet.deploy.export_images import samples_of
from lmaunet.deploy.runs import DataSource
from lmaunet.deploy.targets import BuildRequest, Target
from lmaunet.deploy.targets.openvino import TARGET as OPENVINO
from lmaunet.deploy.targets.ort import TARGET as ORT
from lmaunet.stage import read_json, sha256, write_json
from lmaunet.train.metrics import score

WARM_UP_ROUNDS = 3
REFERENCE = "ort fp32"
SAID = "build_row.json"

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
        ONNX Runtime's FP32 within a round, the same in processor time, size, agreement; and the
        ``conditions``.
    """
    import onnx
    import torch

    from lmaunet.cpu.code_functions import define_functions
    from lmaunet.cpu.compact import compact
    from lmaunet.cpu.openvino_runtime import compile_model
    from lmaunet.cpu.operators import cached_library
    from lmaunet.export import network
    from lmaunet.export.lower import lower
    from lmaunet.export.reference import open_session, read_model
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.sources.checkpoint import restore

    loaded = load_checkpoint(run / "control" / "control.pt")
    data = source.load(loaded.spec)
    samples = samples_of(data)
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
            for target in (ORT, OPENVINO):
                name = f"{target.name} {method}"
                build, builds[name] = built(run / method, target, data, folder)
                works[name] = partial(target.run, build, image)
        times = time_rounds(works, rounds)
    rows = {
        name: {
            **timing.summary(wall),
            "processor_ms": statistics.median(processor),
            "ratio": ratio(wall, times[REFERENCE][0]),
            "processor_ratio": ratio(processor, times[REFERENCE][1]),
            **builds.get(name, {}),
        }
        for name, (wall, processor) in times.items()
    }
    return {"rows": rows, "conditions": timing.conditions(), "rounds": rounds}


def built(
    run: Path, target: Target, data: Dataset, temporary: Path
) -> tuple[Build, dict[str, Any]]:
    """Return a method's build for a target and what is said of it; one that is there is kept.

    Its Dice is that of the shipped file in its own runtime.

    Args:
        run: has ``qat``; the build goes into ``build/TARGET``.
        target: what to build for.
        data: the build is checked on training images, and scored on those held out.
        temporary: where its export goes.
    """
    import torch

    from lmaunet.export.network import export_qcdq
    from lmaunet.quant.qat import load_quantized

    place, checkpoint = run / "build" / target.name, run / "qat" / "model.pt"
    said, digest = place / SAID, sha256(checkpoint)
    row = read_json(said) if said.exists() else {}
    if row.get("checkpoint") == digest:
        return Build(target.name, place, place / row["file"], ()), row
    samples = samples_of(data)
    qcdq = temporary / f"{run.name}.onnx"
    if not qcdq.exists():
        export_qcdq(load_quantized(checkpoint), torch.from_numpy(samples[:1]), qcdq)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    request = BuildRequest(place, qcdq, qcdq, samples, target.options(), lambda line: None)
    build = target.build(request)
    logits = target.run(build, data.val.images)
    scores = score(
        logits.argmax(1), data.val.labels, data.val.cases, data.classes, data.case_spacing_mm
    )
    row = {
        "checkpoint": digest,
        "scores": scores.to_json(),
        "file": build.shipped.name,
        "size_mb": build.ships_mb(),
        "model_mb": build.shipped.stat().st_size / 1e6,
        "agreement": _agreement(build),
        "kernels": build.detail["convolutions"],
        "float_nodes": build.detail.get("float_nodes"),
        "operators": build.detail.get("operators"),
    }
    write_json(said, row)
    return build, row


def ratio(own: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(own, reference, strict=True))


def _session_work(session: Any, image: np.ndarray) -> Callable[[], object]:
    from lmaunet.export.reference import run_images

    return lambda: run_images(session, image)


def time_rounds(works: Works, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return each work's times in ms, one for each round; all run once in a round, in turn.

    First those of the clock, then those of the processor, of all of this process's threads: with
    one thread on a busy machine these are what the work took, without what others did meanwhile.
    """
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in works}
    for place in range(WARM_UP_ROUNDS + rounds):
        for name, work in works.items():
            started, used = time.perf_counter(), time.process_time()
            work()
            used, ended = time.process_time() - used, time.perf_counter()
            if place >= WARM_UP_ROUNDS:
                for kept, spent in zip(times[name], (ended - started, used), strict=True):
                    kept.append(1e3 * spent)
    return times


def _agreement(build: Any) -> dict[str, Any]:
    """Return the share of equal codes and of equal classes, and the worst difference of logits."""
    codes = [a for a in build.agreements if a.name.endswith(", codes")]
    classes = [a for a in build.agreements if ", classes" in a.name]
    differ, total = (sum(getattr(a, key) for a in codes) for key in ("n_differ", "n_total"))
    return {
        "passed": all(a.passed for a in build.agreements),
        "equal_codes": 1 - differ / total,
        "equal_classes": min((1 - a.n_differ / a.n_total for a in classes), default=None),
    }
