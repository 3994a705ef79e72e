"""This process as it was before it ran somebody's code."""

import sys

import pytest

from lmaunet.sources import absent

THEIRS = ("nnunetv2", "theirs", "their_networks", "broken_networks")
"""The packages that tests write as somebody's code."""


@pytest.fixture
def here(monkeypatch):
    """Let this process be as it was before it ran somebody's code."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    for name, module in list(sys.modules.items()):
        stands_in = isinstance(getattr(module, "__loader__", None), absent.Finder)
        if stands_in or name.partition(".")[0] in THEIRS:
            del sys.modules[name]
