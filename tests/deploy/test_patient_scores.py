import pytest

from lmaunet.deploy import score_tables
from lmaunet.deploy.patients import by_patient, drop_interval


def test_the_frames_of_a_patient_are_one_patient():
    cases = {
        "p1_frame01": {"liver": 0.9, "aorta": 0.7},
        "p1_frame12": {"liver": 0.6},
        "p2_frame01": {"liver": 0.5},
        "p3": {},
    }
    assert by_patient(cases) == pytest.approx({"p1": 0.7, "p2": 0.5})


def test_patients_that_names_do_not_tell_are_those_that_are_known():
    cases = {"a": {"liver": 0.9}, "b": {"liver": 0.5}, "c": {"liver": 0.4}}
    known = {"a": "p", "b": "p", "c": "q"}
    assert by_patient(cases, known.__getitem__) == pytest.approx({"p": 0.7, "q": 0.4})


def test_an_interval_needs_patients():
    few = {f"p{i}": 0.8 for i in range(4)}
    assert drop_interval(few, few) is None
    many = {f"p{i}": 0.8 for i in range(5)}
    assert drop_interval(many, many) == {"low": 0.0, "high": 0.0, "patients": 5, "level": 0.95}
    # only patients that both were scored on
    assert drop_interval(many | {"q": 1.0}, many)["patients"] == 5


def test_an_interval_holds_the_mean_and_narrows_with_more_patients():
    drops = [0.00, 0.01, 0.02, 0.03, 0.04]
    widths = []
    for repeat in (1, 10):
        reference = {f"p{i}": 0.9 for i in range(5 * repeat)}
        own = {f"p{i}": 0.9 - drops[i % 5] for i in range(5 * repeat)}
        found = drop_interval(reference, own)
        assert found["low"] < 2.0 < found["high"]
        widths.append(found["high"] - found["low"])
    # the standard error of 5 such drops is 0.63 points
    assert widths[0] == pytest.approx(2 * 1.96 * 0.632, rel=0.15)
    assert widths[1] == pytest.approx(widths[0] / 10**0.5, rel=0.15)


def test_the_interval_of_a_drop_is_that_of_its_seed():
    """A report is the same when it is made again."""
    import numpy as np

    drops = [-1.0, 0.0, 0.5, 2.0, 3.5, 7.0]
    reference = {f"p{i}": 0.9 for i in range(6)}
    own = {f"p{i}": 0.9 - drop / 100 for i, drop in enumerate(drops)}
    drawn = np.random.default_rng(0).integers(6, size=(5000, 6))
    means = np.sort(np.array(drops)[drawn].mean(1))
    found = drop_interval(reference, own)
    assert found["low"] == pytest.approx(np.percentile(means, 2.5))
    assert found["high"] == pytest.approx(np.percentile(means, 97.5))


@pytest.mark.parametrize(("count", "more"), [(12, ""), (13, " and 1 more"), (20, " and 8 more")])
def test_a_dozen_names_are_listed(count, more):
    names = [f"c{i}" for i in range(count)]
    assert score_tables._list(names) == ", ".join(names[:12]) + more
