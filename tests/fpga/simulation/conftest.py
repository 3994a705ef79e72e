from __future__ import annotations

from network_case import codes, network  # noqa: F401
