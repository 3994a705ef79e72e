"""What the report shows of a design: the keys of its detail that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.deploy.detail import counts, provenance_of
from lmaunet.deploy.figures import Shown, number_text


def lines(detail: Mapping[str, Any]) -> Iterable[tuple[str, str | Shown]]:
    """Yield the clock, the time between two images, and what limits the design."""
    if counts(detail.get("clock_mhz")):
        status = detail.get("clock_status")
        yield "Clock", f"{detail['clock_mhz']:g} MHz" + (f", {status}" if status else "")
    if counts(detail.get("interval_ms")):
        number = number_text("latency_ms", detail["interval_ms"])
        provenance = provenance_of(detail, "interval_ms")
        yield "Between two images", Shown("latency_ms", number, "ms", provenance)
    if isinstance(detail.get("limits"), str) and detail["limits"]:
        yield "What limits it", detail["limits"]
