"""What the benchmark of FPGA designs says of a build: simulated only where it was simulated."""

import subprocess
from pathlib import Path

import fpga_design as benchmark
import pytest

from lmaunet.errors import UserError

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


VERBOSE = """\
tests/test_proof_mutants.py::test_without_a_fault_every_stream_is_equal PASSED [ 8%]
tests/test_proof_mutants.py::test_a_fault_in_the_rtl_is_named[a truncated state] PASSED
tests/test_proof_mutants.py::test_a_wrong_constant_is_named[one weight] PASSED [99%]
"""


@pytest.mark.parametrize(
    ("status", "text", "caught"), [(0, VERBOSE, 2), (1, VERBOSE, 0), (0, "", 0)]
)
def test_the_faults_that_the_proof_names_are_counted(monkeypatch, status, text, caught):
    """And none where a test failed, or none ran."""

    def run(command, **options):
        assert command[-1].endswith(benchmark.MUTANTS) and Path(command[-1]).exists()
        return subprocess.CompletedProcess(command, status, text, "")

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    if caught:
        assert benchmark.mutants_caught() == caught
    else:
        with pytest.raises(UserError, match="a fault is not named, or the tests do not run"):
            benchmark.mutants_caught()
