"""What the benchmark of whole volumes makes of its runs."""

import infer_volume as benchmark
import numpy as np
import pytest

from lmaunet.data.images.volumes import read_image
from lmaunet.deploy.segmenter import PHASES


def a_run(total, infer, wall, peak):
    return {
        "build": {"target": "ort", "network": "edge", "arithmetic": "x", "sha256": "ab"},
        "geometry": {"size": [512, 512, 64], "spacing_mm": [0.7200000001, 0.72, 3.0]},
        "slices": {"count": 64, "windows_per_slice": 4, "window": [256, 256]},
        "first_call_images": 4, "wall_ms": wall, "peak_mb": peak,
        "times_ms": {**dict.fromkeys(PHASES, 1.0), "infer": infer, "total": total},
    }  # fmt: skip


def test_medians_of_runs_and_the_time_of_a_window():
    runs = [a_run(*each) for each in ((900, 252, 1100, 300), (1000, 504, 1200, 310),
                                      (5000, 4000, 9000, 305))]  # fmt: skip
    row = benchmark.summarise(runs)
    assert row["times_ms"]["total"] == 1000 and row["total_ms_range"] == [900, 5000]
    assert row["window_ms"] == 504 / (4 * 64 - 4)
    assert (row["process_ms"], row["peak_mb"]) == (1200, 310)
    head, _, line = benchmark.shown([{**row, "trained": False}])
    assert "edge (untrained)" in line and "4 of 256" in line and "1.00" in line
    assert head.split()[-3:] == ["total", "process", "MB"]


def test_the_volume_has_the_size_that_is_timed(tmp_path):
    array, geometry = read_image(benchmark.write_volume(tmp_path / "v.nii.gz", 0.72))
    assert array.shape == (64, 512, 512)
    assert np.allclose(geometry.spacing_mm, (3.0, 0.72, 0.72))
    assert array.min() < -900 and np.median(array[:, 200:300, 200:300]) > -150


def test_nothing_to_time_is_said(monkeypatch):
    monkeypatch.setattr("sys.argv", ["infer_volume.py"])
    with pytest.raises(benchmark.UserError, match="nothing to time; give --build DIR"):
        benchmark.main(benchmark.parse())
