"""What the report shows of a CPU's file: the keys of its detail that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.deploy.detail import counts, kernels


def lines(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield which convolutions run on integers, and how far packed weights shrink the file."""
    yield from kernels(detail)
    packing = detail.get("packing")
    if isinstance(packing, Mapping) and counts(
        packing.get("packed_bytes"), packing.get("unpacked_bytes")
    ):
        packed, unpacked = packing["packed_bytes"], packing["unpacked_bytes"]
        if packed < unpacked:
            yield "Weights", f"{packed / 1e6:.3f} MB packed, {unpacked / 1e6:.3f} MB as INT8"
