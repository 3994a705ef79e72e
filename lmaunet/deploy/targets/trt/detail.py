"""What the report shows of an engine: the keys of its detail that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.deploy.detail import counts, precisions

NAMED = 3
"""How many layers a line names."""


def lines(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield a line for each entry of an engine's detail that this module knows."""
    if isinstance(detail.get("sms"), list) and detail["sms"]:
        yield "Built for", ", ".join(f"SM{sm}".replace("SMSM", "SM") for sm in detail["sms"])
    yield from _convolutions(detail)
    yield from _plan(detail)
    yield from precisions(detail)
    yield from _engine_layers(detail)
    yield from _half_range(detail)


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
