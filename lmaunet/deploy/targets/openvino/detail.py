"""What the report shows of OpenVINO's network: the keys of its detail that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.deploy.detail import kernels, precisions


def lines(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield which convolutions run on integers, and the layers by precision."""
    yield from kernels(detail)
    yield from precisions(detail)
