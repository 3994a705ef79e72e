"""What the benchmark of FPGA designs says of a build: simulated only where it was simulated."""

import fpga_design as benchmark
import pytest

DETAIL = {
    "board": "ZCU104", "part": "xczu7ev", "clock_mhz": 250.0, "clock_status": "assumed",
    "latency_cycles": 9, "interval_cycles": 5, "latency_ms": 0.1, "interval_ms": 0.05,
    "resources": {"lut": {"used": 1, "available": 2}}, "resources_provenance": "estimated",
    "usable": {"lut": 1.4}, "fits": False, "nodes": 3, "slowest": [],
    "largest": [], "memories": {"depths_provenance": "estimated"},
    "pipeline": {"provenance": "estimated"}, "limits": "DSP", "dsp_bound_interval_cycles": 4,
    "network": {"logits_sqnr_db": 30.0},
    "simulation": {"bit_exact": True, "images": 8, "proof": {"images": 8}, "fifo_bits": 17},
}  # fmt: skip


@pytest.mark.parametrize("simulated", [True, False])
def test_figures_say_how_they_were_obtained(simulated):
    found = benchmark.figures(DETAIL, simulated)
    assert found["provenance"] == ("simulated" if simulated else "estimated")
    shown = ("bit_exact", "proof", "fifo_bits")
    assert [key in found for key in shown] == [simulated] * 3
    assert found["resources"]["lut"] == {"used": 1, "available": 2, "provenance": "estimated"}
    assert found["pipeline"] == {"provenance": "estimated"}
    assert found["fits"] is False and found["limits"] == "DSP"
