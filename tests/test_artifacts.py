import numpy as np
import pytest

from lmaunet.artifacts import Measurement, Unavailable, compare, require_agreement
from lmaunet.errors import Disagreement


def test_figures_say_where_they_come_from():
    assert Measurement("latency_ms", 3.5, "ms", "measured").to_json() == {
        "value": 3.5, "unit": "ms", "provenance": "measured",
    }  # fmt: skip
    for provenance in ("emulated", "simulated", "estimated"):
        assert Measurement("dice", 0.5, "1", provenance).to_json()["provenance"] == provenance
    with pytest.raises(ValueError, match="provenance 'guessed'"):
        Measurement("latency_ms", 3.5, "ms", "guessed")
    missing = Unavailable("latency_ms", "GPU", "there is none", "use one").to_json()
    assert missing == {"unavailable": {"tool": "GPU", "why": "there is none", "fix": "use one"}}


def test_compare_counts_what_differs():
    got = compare("x", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.2, 3.05]), 0.1)
    assert (got.n_differ, got.n_total, got.passed) == (1, 3, False)
    assert got.max_abs == pytest.approx(0.2)
    assert compare("x", np.zeros(3), np.array([0, 0, 1]), 0, allowed=1).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_agrees(bad):
    assert not compare("x", np.array([bad, 1.0]), np.array([bad, 1.0]), 1e9).passed


def test_nothing_never_agrees():
    assert not compare("x", np.zeros(0), np.zeros(0), 0).passed


def test_disagreement_names_the_first_index_and_keeps_both(tmp_path):
    got, want = np.zeros((2, 3)), np.zeros((2, 3))
    got[1, 2] = 5
    with pytest.raises(Disagreement, match=r"1 of 6 .* first at index \(1, 2\): got 5.0"):
        require_agreement("a/b: c", got, want, 0.5, evidence=tmp_path / "out")
    saved = np.load(tmp_path / "out" / "a_b_c.npz")
    assert np.array_equal(saved["got"], got) and np.array_equal(saved["expected"], want)
    with pytest.raises(Disagreement, match=r"shape \(2,\), expected \(3,\)"):
        require_agreement("x", np.zeros(2), np.zeros(3), 0, evidence=tmp_path)
