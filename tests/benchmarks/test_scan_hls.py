"""The command that writes a build's scans as HLS kernels."""

import argparse

import pytest
import scan_hls as benchmark
from hls_scan import hls_kernel

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.board.boards import BOARDS
from lmaunet.scan.vectors import synthetic


@pytest.fixture
def options(monkeypatch, tmp_path):
    """The command's options for a build with one scan."""
    kernel = hls_kernel(synthetic(6, 4, 12).scan, 12, 2, 2)
    found = {"scan_1": kernel}, BOARDS["KV260"]
    monkeypatch.setattr(benchmark, "kernels_of_build", lambda folder: found)
    return argparse.Namespace(
        build=tmp_path, output=tmp_path / "kernels", clock_mhz=250.0, simulate=False
    )


def test_each_scan_gets_a_folder_of_its_own(options, capsys):
    assert benchmark.main(options) == 0
    assert BOARDS["KV260"].part in (options.output / "scan_1" / "run_hls.tcl").read_text()
    told = capsys.readouterr().out
    assert "CHANNELS 6, STATES 4, LENGTH 12, PD 2, PN 2" in told
    assert "simulated" not in told
    with pytest.raises(UserError, match="exists; give a folder that does not"):
        benchmark.main(options)


def test_it_says_what_was_simulated(options, capsys):
    try:
        benchmark.headers_place()
        benchmark.compiler_place()
    except ToolNotFound as error:
        pytest.skip(str(error))
    options.simulate = True
    assert benchmark.main(options) == 0
    assert "simulated: 144 y and accumulators as the integer scan's" in capsys.readouterr().out


def test_a_bad_clock_stops_it_before_anything_is_written(options):
    options.clock_mhz = -1.0
    with pytest.raises(UserError, match=r"clock_mhz=-1\.0; give a positive number"):
        benchmark.main(options)
    assert not options.output.exists()


def test_missing_headers_stop_it_before_anything_is_written(options, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options.simulate = True
    with pytest.raises(ToolNotFound, match="hls4ml is missing"):
        benchmark.main(options)
    assert not options.output.exists()
