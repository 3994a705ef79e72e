"""What the report shows of every target's ``detail``: what ran, when, where and how fast.

What else a target's detail has, the target shows itself, by its ``detail_lines``. Keys that neither
knows are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.deploy.figures import WORDS, Shown, number_text
from lmaunet.deploy.gates import latency_conditions
from lmaunet.deploy.timing import SPREAD


def detail_lines(target: Mapping[str, Any]) -> Iterable[tuple[str, str | Shown]]:
    """Yield a line for each entry of a target's detail that this module knows."""
    detail = target["detail"]
    timing = latency_conditions(detail)
    for key, label in (("cpu", "CPU"), ("gpu", "GPU"), ("threads", "Threads"), ("board", "Board")):
        if isinstance(timing.get(key), str | int):
            yield label, str(timing[key])
    if "provenance" in target["latency_ms"]:
        for key, label in (
            ("min_ms", "Latency, minimum"),
            ("p90_ms", "Latency, 90th percentile"),
            ("p99_ms", "99th percentile"),
        ):
            if counts(timing.get(key)):
                number = number_text("latency_ms", timing[key])
                yield label, Shown("latency_ms", number, "ms", target["latency_ms"]["provenance"])
        yield from _steadiness(timing)
    yield from _float32(detail)
    for key, label in (("library", "Library"), ("lowering", "Scan lowering")):
        if isinstance(detail.get(key), str):
            yield label, detail[key]
    load = detail.get("load")
    if isinstance(load, Mapping):
        loaded = load.get("packed_ms", load.get("load_ms"))
        if counts(loaded):
            yield "Load time", Shown("load_ms", f"{loaded:.0f}", "ms", "measured")


def kernels(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield how many convolutions run in integer kernels and how many in float ones."""
    found = detail.get("convolutions")
    if isinstance(found, Mapping) and {"integer_kernels", "float_kernels"} <= set(found):
        yield (
            "Convolutions",
            f"{found['integer_kernels']} in integer kernels, {found['float_kernels']} in float",
        )


def precisions(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield how many layers run in which precision."""
    found = detail.get("precisions")
    if isinstance(found, Mapping) and found:
        yield "Layers by precision", ", ".join(f"{n} {name}" for name, n in found.items())


def _steadiness(timing: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield how often was timed beside which load, and how far the times are apart."""
    if counts(timing.get("runs")):
        load = timing.get("load_average")
        beside = f", load average {load:g}" if isinstance(load, int | float) else ""
        yield "Timed", f"{timing['runs']} runs{beside}"
    if counts(timing.get("spread")):
        said = f"{timing['spread']:.2f}"
        if timing.get("unsteady") is True:
            said += (
                f", above {SPREAD:g}: UNSTEADY, something else ran on the machine; measure again "
                "when it is idle"
            )
        yield "90th percentile to minimum", said


def _float32(detail: Mapping[str, Any]) -> Iterable[tuple[str, str | Shown]]:
    """Yield time and size of the FP32 network, timed in turns with the target."""
    beside = detail.get("float32")
    if not isinstance(beside, Mapping):
        return
    keys = ("median_ms", "size_mb", "speed_up", "compression")
    if counts(*(beside.get(key) for key in keys)) and isinstance(beside.get("form"), str):
        mark = "unsteady" if beside.get("unsteady") is True else ""
        number = number_text("latency_ms", beside["median_ms"])
        yield (
            f"{beside['form']}, in the same turns",
            Shown("latency_ms", number, "ms", "measured", mark=mark),
        )
        size = number_text("size_mb", beside["size_mb"])
        yield "Size of all that ships in FP32", Shown("size_mb", size, "MB", "measured")
        yield (
            "Against FP32",
            f"{beside['speed_up']:.2f} times as fast, {beside['compression']:.1f} times as small",
        )


def provenance_of(detail: Mapping[str, Any], key: str) -> str:
    """Return how a number of the detail was obtained: what is not said counts as estimated."""
    stated = detail.get(f"{key}_provenance")
    return stated if stated in WORDS else "estimated"


def counts(*values: Any) -> bool:
    """Whether all are numbers above 0; detail is not checked by the schema."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values)
