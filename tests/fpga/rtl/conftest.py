from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def simulations(request, tmp_path_factory):
    """Where compiled simulations are kept: from one run to the next, where pytest has a cache."""
    cache = getattr(request.config, "cache", None)
    return cache.mkdir("simulations") if cache else tmp_path_factory.mktemp("simulations")
