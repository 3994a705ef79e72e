"""What the report shows of a target's ``detail``: the keys that it knows; the rest is skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.deploy.figures import WORDS, Shown, number_text
from lmaunet.deploy.gates import latency_conditions
from lmaunet.deploy.timing import SPREAD

NAMED = 3
"""How many layers a line names."""


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
    if counts(detail.get("clock_mhz")):
        status = detail.get("clock_status")
        yield "Clock", f"{detail['clock_mhz']:g} MHz" + (f", {status}" if status else "")
    if counts(detail.get("interval_ms")):
        number = number_text("latency_ms", detail["interval_ms"])
        provenance = provenance_of(detail, "interval_ms")
        yield "Between two images", Shown("latency_ms", number, "ms", provenance)
    if isinstance(detail.get("limits"), str) and detail["limits"]:
        yield "What limits it", detail["limits"]
    for key, label in (("library", "Library"), ("lowering", "Scan lowering")):
        if isinstance(detail.get(key), str):
            yield label, detail[key]
    if isinstance(detail.get("sms"), list) and detail["sms"]:
        yield "Built for", ", ".join(f"SM{sm}".replace("SMSM", "SM") for sm in detail["sms"])
    yield from _convolutions(detail)
    yield from _packing(detail)
    yield from _plan(detail)
    precisions = detail.get("precisions")
    if isinstance(precisions, Mapping) and precisions:
        yield "Layers by precision", ", ".join(f"{n} {name}" for name, n in precisions.items())
    yield from _engine_layers(detail)
    yield from _half_range(detail)


def _engine_layers(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield how many layers of an engine compute in each precision, and how many normalize."""
    found = detail.get("layer_precisions")
    rows = found.get("by_precision") if isinstance(found, Mapping) else None
    if not isinstance(rows, Mapping) or not rows:
        return
    if all(isinstance(row, Mapping) and {"layers", "norms"} <= set(row) for row in rows.values()):
        said = [
            f"{row['layers']} {name}" + (f" ({row['norms']} with a norm)" if row["norms"] else "")
            for name, row in rows.items()
        ]
        yield "Layers of the engine", ", ".join(said)


def _half_range(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield which products of an FP16 engine stay FP32 because their values would not fit."""
    found = detail.get("half_range")
    if not isinstance(found, Mapping) or not isinstance(found.get("in_fp32"), list):
        return
    kept = [str(row["node"]) for row in found["in_fp32"] if isinstance(row, Mapping)]
    said = f"all {found.get('products')} products fit"
    if kept:
        more = f" and {len(kept) - NAMED} more" if len(kept) > NAMED else ""
        said = (
            f"{len(kept)} of {found.get('products')} products stay FP32, their values come near "
            f"65504: {', '.join(kept[:NAMED])}{more}"
        )
    yield f"FP16 range, {found.get('images')} training images", said


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


def _convolutions(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield how many of the quantized convolutions run on integers."""
    engine = detail.get("int8_convolutions")
    if isinstance(engine, Mapping):
        kinds = {"": engine} if "int8" in engine else engine
        for kind, count in kinds.items():
            if isinstance(count, Mapping) and {"int8", "quantized"} <= set(count):
                yield (
                    f"INT8 convolutions{f', {kind}' if kind else ''}",
                    f"{count['int8']} of {count['quantized']}",
                )
    stored = detail.get("weight_only_convolutions")
    if isinstance(stored, Mapping) and counts(stored.get("int8"), stored.get("quantized")):
        yield "Convolutions with INT8 weights only", f"{stored['int8']} of {stored['quantized']}"
    kernels = detail.get("convolutions")
    if isinstance(kernels, Mapping) and {"integer_kernels", "float_kernels"} <= set(kernels):
        yield (
            "Convolutions",
            f"{kernels['integer_kernels']} in integer kernels, {kernels['float_kernels']} in float",
        )
    count = detail.get("integer_convolutions")
    if isinstance(count, int):
        yield "Integer convolutions", str(count)


def _plan(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield what an engine is once it is unpacked."""
    parts = detail.get("bytes")
    if not isinstance(parts, Mapping):
        return
    keys = ("plan", "constants", "kernels", "kernel_count", "rest")
    if counts(*(parts.get(key) for key in keys)):
        plan, constants, kernels, number, rest = (parts[key] for key in keys)
        yield (
            "Engine, unpacked",
            f"{plan / 1e6:.2f} MB: {constants / 1e6:.2f} constants, {kernels / 1e6:.2f} source of "
            f"{number} generated kernels, {rest / 1e6:.2f} the rest",
        )


def _packing(detail: Mapping[str, Any]) -> Iterable[tuple[str, str | Shown]]:
    """Yield how far weights below 8 bits shrink the file, and how long it takes to load."""
    packing = detail.get("packing")
    if isinstance(packing, Mapping) and counts(
        packing.get("packed_bytes"), packing.get("unpacked_bytes")
    ):
        packed, unpacked = packing["packed_bytes"], packing["unpacked_bytes"]
        if packed < unpacked:
            yield "Weights", f"{packed / 1e6:.3f} MB packed, {unpacked / 1e6:.3f} MB as INT8"
    load = detail.get("load")
    if isinstance(load, Mapping):
        loaded = load.get("packed_ms", load.get("load_ms"))
        if counts(loaded):
            yield "Load time", Shown("load_ms", f"{loaded:.0f}", "ms", "measured")


def provenance_of(detail: Mapping[str, Any], key: str) -> str:
    """Return how a number of the detail was obtained: what is not said counts as estimated."""
    stated = detail.get(f"{key}_provenance")
    return stated if stated in WORDS else "estimated"


def counts(*values: Any) -> bool:
    """Whether all are numbers above 0; detail is not checked by the schema."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values)
