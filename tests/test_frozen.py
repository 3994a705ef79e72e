"""Results, options and specifications are values: nobody changes them once they are made."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("lmaunet", "lmaunet/*", "lmaunet/*/*", "quant", "export", "cpu", "fpga", "trt")
MODULES = sorted(
    {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in FOLDERS
        for path in ROOT.glob(f"{folder}/*.py")
        if path.name != "__init__.py"
    }
)
COLLECT = {
    "lmaunet.fpga.agreement.nodes._Count", "lmaunet.fpga.sizing.folding.FoldedNode",
    "lmaunet.fpga.agreement.scan.ScanCheck",
    "lmaunet.data.calibration_scores.Reliability", "lmaunet.data.calibration_scores.ErrorRanking",
    "lmaunet.deploy.confident.Samples", "lmaunet.deploy.correction._Part",
    "lmaunet.data.dicom.pixels._Padding", "lmaunet.data.images.intensity.Recorder",
    "lmaunet.deploy.network_calls.Network", "lmaunet.deploy.phase_times.Timer",
    "lmaunet.deploy.run_data.RunData", "lmaunet.scan.integer_algebra.IntegerAlgebra",
    "lmaunet.scan.widths.RangeAlgebra",
}  # fmt: skip
"""What counts, or gathers, while something runs."""


@pytest.mark.parametrize("name", MODULES)
def test_a_value_cannot_be_changed(name):
    module = importlib.import_module(name)
    for one in vars(module).values():
        # asked of the class itself: Brevitas' classes answer any other question with an error
        made_here = isinstance(one, type) and "__dataclass_params__" in vars(one)
        if made_here and one.__module__ == name and f"{name}.{one.__name__}" not in COLLECT:
            assert one.__dataclass_params__.frozen, one
