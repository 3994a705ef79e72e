from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def simulations(tmp_path_factory):
    """Where compiled simulations are kept for the length of a test run."""
    return tmp_path_factory.mktemp("simulations")
