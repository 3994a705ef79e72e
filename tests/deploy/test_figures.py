"""How numbers are written in a report."""

from __future__ import annotations

import pytest

from lmaunet.deploy import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"), (1.0, "1.00"), (0.999, "1.00"), (0.5, "0.50"), (0.1, "0.10"),
        (0.0999, "0.100"), (0.01234, "0.012"), (0.000123, "0.00012"), (1e-9, "0.000000"),
        (99.994, "99.99"), (99.999, "100.00"), (100.0, "100.0"), (999.94, "999.9"),
        (1000.0, "1,000"), (-1000.4, "\u22121,000"),
        (-0.05, "\u22120.050"), (-100.0, "\u2212100.0"),
    ],
)  # fmt: skip
def test_a_number_has_the_decimals_of_its_size(value, text):
    assert figures.number_text("latency_ms", value) == text


@pytest.mark.parametrize(
    ("figure", "value", "limit", "text"),
    [
        ("dice", 0.69999999999, 0.7, "0.69999999999"), ("dice", 0.7, 0.7, "0.700"),
        ("dice", 0.70001, 0.7, "0.700"), ("dice_drop_points", 1.000001, 1.0, "1.000001"),
        ("dice_drop_points", 0.999999, 1.0, "1.00"), ("hd95_mm", 1.005, None, "1.00"),
        ("dice_drop_points", 1 + 1e-15, 1.0, "1.000000000000"),
    ],
)  # fmt: skip
def test_a_number_beside_its_limit_has_as_many_as_it_needs(figure, value, limit, text):
    assert figures.number_text(figure, value, limit) == text
