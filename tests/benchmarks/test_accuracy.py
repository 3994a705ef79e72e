import importlib.util
import sys
from pathlib import Path

import pytest

from lmaunet.errors import UserError
from lmaunet.spec import SPECS

ROOT = Path(__file__).parents[2]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


accuracy, accuracy_table = script("accuracy"), script("accuracy_table")


@pytest.mark.parametrize(
    ("method", "bits", "budget", "scales"),
    [
        ("w8", "8", None, "free"),
        ("3x3w4-pow2", "3x3=4", None, "pow2"),
        ("4.2mb", None, 4.2, "free"),
        ("w3-folded-distill", "3", None, "free"),
    ],
)
def test_a_methods_name_says_what_it_does(method, bits, budget, scales):
    options = accuracy.options_of(method, 2, 1e-4, 8, 0)
    assert (options.bits, options.budget_mb, options.scales) == (bits, budget, scales)
    assert options.keep_norms == ("folded" not in method)
    assert bool(options.distillation) == ("distill" in method)
    options.settings(SPECS["edge"])


@pytest.mark.parametrize("method", ["w5", "w8-fast", "", "mb", "w8pow2"])
def test_an_unknown_method_is_refused(method):
    with pytest.raises(UserError, match="unknown method"):
        accuracy.options_of(method, 2, 1e-4, 8, 0)


def scores(values):
    """Scores of one class in the cases of three patients, two frames each."""
    cases = {
        f"patient{p:03d}_frame{f:02d}": {"organ": value}
        for p, value in enumerate(values)
        for f in (1, 2)
    }
    mean = sum(values) / len(values)
    return {"dice": mean, "per_class": {"organ": mean}, "hd95_mm": None, "hd95_pixels": 2.0,
            "per_case": cases}  # fmt: skip


def result(tmp_path, seed, quantized):
    networks = {
        "float32": {"scores": scores([0.9, 0.9, 0.9])},
        "control": {"scores": scores([0.9, 0.8, 0.7])},
        "w8": {"scores": scores(quantized), "size_bytes": 1000 + seed, "weight_bits": {"8": 5}},
    }
    path = tmp_path / f"edge-s{seed}.json"
    accuracy_table.write_json(path, {"spec": {"name": "edge"}, "seed": seed, "networks": networks})
    return path


def test_drops_are_paired_by_patient_and_averaged_over_seeds(tmp_path):
    paths = [result(tmp_path, 0, [0.9, 0.8, 0.4]), result(tmp_path, 1, [0.9, 0.8, 0.7])]
    runs = accuracy_table.read_runs(paths)
    found = accuracy_table.summarize(runs)["edge/w8"]
    assert found["seeds"] == [0, 1] and found["patients"] == 3
    assert found["drop_points_mean"] == pytest.approx(5.0)
    assert found["drop_points_worst_seed"] == pytest.approx(10.0)
    assert found["size_bytes"] == 1001
    assert found["per_class"] == {"organ": pytest.approx(75.0)}
    assert found["drop_points_better_float"] == pytest.approx(15.0)
    # one patient of three lost 15 points over the seeds: none, one ... three draws of it
    low, high = found["drop_points_interval"]
    assert low == pytest.approx(0.0) and high == pytest.approx(15.0)
    run = next(r for r in runs if (r["method"], r["seed"]) == ("w8", 0))
    assert run["drop_by_patient"] == pytest.approx(
        {"patient000": 0.0, "patient001": 0.0, "patient002": 30.0}
    )
    lines = accuracy_table.table(accuracy_table.summarize(runs))
    assert any("edge/w8" in line and "+5.00" in line and "+10.00" in line for line in lines)


def test_a_file_that_is_no_result_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"no result of benchmarks/accuracy\.py"):
        accuracy_table.read_runs([path])
