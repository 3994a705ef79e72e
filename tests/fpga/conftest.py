from __future__ import annotations

from network_case import simulations, whole  # noqa: F401
