"""Drops and their intervals: the same statistic, by hand, and what cannot be made into a table."""

import json

import accuracy_table
import numpy as np
import pytest

from lmaunet.errors import UserError
from lmaunet.train.metrics import score


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


def write(path, networks, seed=0, spec="edge"):
    accuracy_table.write_json(path, {"spec": {"name": spec}, "seed": seed, "networks": networks})
    return path


def result(tmp_path, seed, quantized, name="edge", **changes):
    """A file with a float network, a control and a quantized network of three patients."""
    networks = {
        "float32": {"scores": scores([0.9] * len(quantized))},
        "control": {"scores": scores([0.9, 0.8, 0.7][: len(quantized)])},
        "w8": {"scores": scores(quantized) | changes, "size_bytes": 1000 + seed,
               "weight_bits": {"8": 5}},
    }  # fmt: skip
    return write(tmp_path / f"{name}-s{seed}.json", networks, seed)


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
    row = next(r.row for r in runs if (r.row["method"], r.row["seed"]) == ("w8", 0))
    assert row["drop_by_patient"] == pytest.approx(
        {"patient000": 0.0, "patient001": 0.0, "patient002": 30.0}
    )
    lines = accuracy_table.table(accuracy_table.summarize(runs))
    assert any("edge/w8" in line and "+5.00" in line and "+10.00" in line for line in lines)


CLASSES = ("background", "a", "b", "c")


def volumes(rng):
    """Labels and two predictions of five cases of three patients; classes are missing in some."""
    cases = np.repeat(["p1_frame1", "p1_frame2", "p1_frame3", "p2", "p3"], 2)
    label = rng.integers(0, 4, (10, 8, 8)).astype(np.uint8)
    predictions = []
    for noise in (0.1, 0.3):
        guess = np.where(rng.random(label.shape) < noise, rng.integers(0, 4, label.shape), label)
        predictions.append(guess.astype(np.uint8))
    absent = cases == "p2"
    for array in (label, predictions[0]):
        array[absent] = np.where(array[absent] == 2, 1, array[absent])
    label[cases == "p3"] %= 2  # c is only predicted there, by both
    for array in (label, *predictions):
        array[:4][array[:4] == 3] = 0
    return cases, label, predictions


def pair_of(cases, label, predictions):
    return [score(p, label, cases, CLASSES, (1, 1, 1)) for p in predictions]


def test_the_drop_and_its_interval_are_one_statistic(mutant_of):
    """Drawing every patient once gives the difference of the scores; so does any other set."""
    cases, label, predictions = volumes(np.random.default_rng(3))
    control, own = pair_of(cases, label, predictions)
    assert "b" not in control.per_case["p2"] and own.per_case["p2"]["b"] == 0, "predicted alone"
    pair = control.per_case, own.per_case
    everyone = accuracy_table.drop(*pair, np.ones((1, 3)))[0]
    assert everyone == pytest.approx(100 * (control.dice - own.dice), abs=1e-4)
    # patients 1, 1 and 3: their slices, scored anew
    drawn = [*range(6), *range(6), 8, 9]
    names = np.array([f"{cases[i]}{'x' if k // 6 == 1 else ''}" for k, i in enumerate(drawn)])
    again = pair_of(names, label[drawn], [p[drawn] for p in predictions])
    found = accuracy_table.drop(*pair, np.array([[2, 0, 1]]))[0]
    assert found == pytest.approx(100 * (again[0].dice - again[1].dice), abs=1e-4)
    by_patient = accuracy_table.drop_by_patient(*pair)
    assert by_patient["p3"] == accuracy_table.drop(*pair, np.array([[0, 0, 1]]))[0]
    # what it is not: the mean over patients of the mean over their cases and classes
    assert np.mean(list(by_patient.values())) != pytest.approx(everyone, abs=0.1)
    for right, wrong in (
        ("return 100 * (before - after)", "return 100 * (after - before)"),
        ("by_class.sum(1) / (count > 0).sum(1)", "total.sum(1) / count.sum(1)"),
    ):
        mutant = mutant_of(accuracy_table, right, wrong)
        assert mutant.drop(*pair, np.ones((1, 3)))[0] != pytest.approx(everyone, abs=0.01)


def test_the_interval_lies_around_the_drop():
    rng = np.random.default_rng(0)
    control = {f"p{i}": {"a": 0.9, "b": 0.8} for i in range(40)}
    own = {case: {n: v - rng.normal(0.02, 0.01) for n, v in classes.items()}
           for case, classes in control.items()}  # fmt: skip
    low, high = accuracy_table.interval([(control, own)])
    drop = accuracy_table.drop(control, own, np.ones((1, 40)))[0]
    deviation = np.std(list(accuracy_table.drop_by_patient(control, own).values())) / 40**0.5
    assert (low, high) == pytest.approx((drop - 1.96 * deviation, drop + 1.96 * deviation), abs=0.1)


def test_a_set_without_any_class_is_left_out():
    control = {"p1": {"a": 0.9}, "p2": {}}
    own = {"p1": {"a": 0.8}, "p2": {}}
    assert accuracy_table.drop_by_patient(control, own) == {"p1": pytest.approx(10)}
    assert accuracy_table.interval([(control, own)]) == pytest.approx((10, 10))


def test_one_patient_gives_no_interval(tmp_path):
    summary = accuracy_table.summarize(accuracy_table.read_runs([result(tmp_path, 0, [0.8])]))
    assert summary["edge/w8"]["drop_points_interval"] is None
    line = next(line for line in accuracy_table.table(summary) if "edge/w8" in line)
    assert line.split("|")[6].strip() == ""
    assert line.split("|")[4].strip() == "+10.00"


def test_a_seed_that_two_files_hold_is_refused(tmp_path):
    paths = [result(tmp_path, 0, [0.8, 0.8], name) for name in ("one", "other")]
    with pytest.raises(
        UserError, match=r"one-s0\.json and .*other-s0\.json both hold edge/float32"
    ):
        accuracy_table.read_runs(paths)


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([(0.0, None), (1.0, None)], (0.5, "mm")),
        ([(None, 0.0), (None, 0.0)], (0.0, "pixels")),
        ([(None, 2.0), (3.0, None)], (None, None)),
        ([(None, None), (3.0, None)], (None, None)),
    ],
)
def test_distances_of_one_unit_are_averaged(tmp_path, distances, expected):
    paths = [
        result(tmp_path, seed, [0.8, 0.8], hd95_mm=mm, hd95_pixels=pixels)
        for seed, (mm, pixels) in enumerate(distances)
    ]
    summary = accuracy_table.summarize(accuracy_table.read_runs(paths))
    found = summary["edge/w8"]
    assert (found["hd95"], found["hd95_unit"]) == expected
    line = next(line for line in accuracy_table.table(summary) if "edge/w8" in line)
    shown = "" if expected[0] is None else f"{expected[0]:.2f} {expected[1]}"
    assert line.split("|")[8].strip() == shown


def test_each_list_of_classes_has_its_own_header(tmp_path):
    first = result(tmp_path, 0, [0.8, 0.8])
    hearts = scores([0.9, 0.9]) | {"per_class": {"RV": 0.9, "MYO": 0.8}}
    networks = {"float32": {"scores": hearts}, "control": {"scores": hearts}}
    other = write(tmp_path / "heart.json", networks, spec="base")
    lines = accuracy_table.table(accuracy_table.summarize(accuracy_table.read_runs([first, other])))
    headers = [i for i, line in enumerate(lines) if "by class" in line]
    assert [lines[i].split("|")[9].strip() for i in headers] == [
        "by class (organ)", "by class (RV / MYO)",
    ]  # fmt: skip
    assert all("edge/" in line for line in lines[2 : headers[1] - 1])
    assert all("base/" in line and "90.0 / 80.0" in line for line in lines[headers[1] + 2 :])


def broken(content):
    def without(*path):
        inner = json.loads(json.dumps(content))
        place = inner
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        return json.dumps(inner)

    return {
        "damaged": (json.dumps(content)[:-20], "cannot be read"),
        "empty": ("{}", r"no result of benchmarks/accuracy\.py"),
        "a list": ("[1]", r"no result of benchmarks/accuracy\.py"),
        "no control": (without("networks", "control"), r"no result of .*'control'"),
        "no cases": (without("networks", "w8", "scores", "per_case"), r"no result of .*'per_case'"),
        "other cases": (
            without("networks", "w8", "scores", "per_case", "patient000_frame01"),
            "w8 was scored on other cases than control",
        ),
    }


@pytest.mark.parametrize(
    "kind", ["damaged", "empty", "a list", "no control", "no cases", "other cases"]
)
def test_a_file_that_is_no_result_is_named(tmp_path, kind):
    content = json.loads(result(tmp_path, 0, [0.8, 0.8]).read_text())
    text, said = broken(content)[kind]
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"other\.json.*{said}"):
        accuracy_table.read_runs([path])


def test_seeds_of_different_data_are_refused(tmp_path):
    paths = [result(tmp_path, 0, [0.8, 0.8]), result(tmp_path, 1, [0.8, 0.8, 0.8])]
    with pytest.raises(UserError, match=r"edge-s0\.json and edge-s1\.json scored .* on different"):
        accuracy_table.summarize(accuracy_table.read_runs(paths))
