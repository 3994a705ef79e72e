import dataclasses
import math

import numpy as np
import pytest

from lmaunet.errors import UserError
from lmaunet.scan.formats import Widths
from lmaunet.scan.vectors import (
    ScanVectors,
    autoregressive,
    corners,
    sqnr_db,
    sqnr_db_per_channel,
    synthetic,
)


def test_sqnr_by_hand():
    # 100 / 1 -> 20 dB; 1 / 0 -> infinite; together 101 / 1.
    reference, got = np.array([[[10.0, 1.0]]]), np.array([[[9.0, 1.0]]])
    assert sqnr_db_per_channel(reference, got).tolist() == [20, math.inf]
    assert sqnr_db(reference, got) == pytest.approx(10 * math.log10(101))
    assert sqnr_db(got * 0, got) == -math.inf


def test_sqnr_of_other_shapes():
    with pytest.raises(UserError, match=r"cannot compare \(4, 1\) with a reference of \(3, 1\)"):
        sqnr_db(np.ones(3), np.ones(4))


def test_a_file_keeps_everything(tmp_path):
    vectors = synthetic(3, 2, 20, batch=2, widths=Widths(state_bits=14))
    vectors.save(tmp_path / "scan.npz")
    loaded = ScanVectors.load(tmp_path / "scan.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]
    assert any(vectors.scan.spec.state_shift)
    assert loaded.scan.spec == vectors.scan.spec
    assert loaded.scan.scales == vectors.scan.scales
    again = loaded.scan.run(*loaded.stimuli)
    for name in ("y", "accumulators", "state"):
        np.testing.assert_array_equal(getattr(again, name), getattr(vectors, name))


def test_a_file_with_another_golden_is_caught(tmp_path):
    vectors = synthetic(3, 2, 20)
    mutant = dataclasses.replace(vectors, accumulators=vectors.accumulators + 1)
    mutant.save(tmp_path / "scan.npz")
    loaded = ScanVectors.load(tmp_path / "scan.npz")
    assert (loaded.scan.run(*loaded.stimuli).accumulators != loaded.accumulators).all()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_file_that_is_none(tmp_path, content):
    path = tmp_path / "scan.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"holds no scan vectors .*; write it with ScanVectors\.save"
    ):
        ScanVectors.load(path)


def test_an_archive_of_something_else(tmp_path):
    np.savez(tmp_path / "scan.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="holds no scan vectors"):
        ScanVectors.load(tmp_path / "scan.npz")


def test_stimuli_use_the_whole_range_and_are_reproducible():
    vectors = synthetic(4, 4, 200, seed=7)
    for stimulus in vectors.stimuli:
        assert np.abs(stimulus).max() == 127
    np.testing.assert_array_equal(synthetic(4, 4, 200, seed=7).accumulators, vectors.accumulators)
    assert (synthetic(4, 4, 200, seed=8).x != vectors.x).any()


def test_noise_has_its_correlation():
    noise = autoregressive(np.random.default_rng(0), (1, 20000, 2), 0.9)[0]
    assert noise.var() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1] == pytest.approx(0.9, abs=0.02)


def test_corners_reach_the_extremes():
    vectors = corners(synthetic(3, 2, 30).scan, 16)
    for stimulus in vectors.stimuli:
        assert stimulus.min() == -128 and stimulus.max() == 127
    state = vectors.scan.spec.formats["state"]
    assert vectors.state.max() == state.high
    assert vectors.y.min() == -128 and vectors.y.max() == 127
