"""The check of a scan node: strict where the bound holds, by noise alone where it does not."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scan_cases import typical

from lmaunet.errors import Disagreement
from lmaunet.fpga.agreement.scan import HARMLESS, ScanCheck
from lmaunet.scan.integer import IntegerScan, calibrate
from lmaunet.scan.recurrence import CUTS

INPUTS = ["x", "dt", "b", "c", "A", "D"]


def narrower(scan, name, bits):
    """The scan with so many bits less in one format, so that it saturates."""
    form = scan.spec.formats[name]
    formats = {**scan.spec.formats, name: dataclasses.replace(form, bits=form.bits - bits)}
    spec = dataclasses.replace(scan.spec, formats=formats)
    return IntegerScan.from_real(spec, scan.scales, scan.A, scan.D)


def long_steps(vectors):
    """The scan and its codes with time steps so long that decays vanish."""
    dt = np.clip(vectors.dt + 100, -128, 127)
    scan = calibrate(vectors.scan.scales, 40 * vectors.scan.A, vectors.scan.D, vectors.x, dt,
                     vectors.b)  # fmt: skip
    return scan, (vectors.x, dt, vectors.b, vectors.c)


def loud(vectors):
    """The scan with an output that is too small for its accumulators."""
    scales = dataclasses.replace(vectors.scan.scales, y=vectors.scan.scales.y / 3)
    scan = calibrate(scales, vectors.scan.A, vectors.scan.D, *vectors.stimuli[:3])
    return scan, vectors.stimuli


VECTORS = typical(6, 4, 60)
CASES = {
    "nothing": (VECTORS.scan, VECTORS.stimuli),
    "exponent": long_steps(VECTORS),
    "accumulator": loud(VECTORS),
    "output": loud(VECTORS),
    **{name: (narrower(VECTORS.scan, name, bits), VECTORS.stimuli)
       for name, bits in (("delta", 2), ("drive", 2), ("state", 2),
                          ("decay", 2))},
}  # fmt: skip


def checked(scan, streams, change=0, tmp_path=None, at=(0, 0, 40, 3)):
    """Run the check on the scan's own codes, one of which is changed."""
    attributes = {"Spec": json.dumps(scan.spec.to_json()).encode(),
                  "Scales": scan.scales.to_json()}  # fmt: skip
    constants = {"A": scan.A, "D": scan.D}
    check = ScanCheck(
        SimpleNamespace(inputs=INPUTS, attributes=attributes), SimpleNamespace(constants=constants)
    )
    for name, values in zip(INPUTS, streams, strict=False):
        check.note(name, values[:, None])
    y = scan.run(*streams).y
    real = scan.run_real(*streams).output.swapaxes(0, 1)
    want = np.rint(np.clip(real, -128, 127)).astype(np.int64)[:, None]
    got = y[:, None].copy()
    got[at] += change
    return check, check.add("hardware node for y", got, want, tmp_path)


def test_every_cut_has_its_case():
    # the points of the table are cut when it is built, so that no mantissa leaves its format
    assert set(CASES) == {"nothing", *CUTS} - {"mantissa"}
    for name, (scan, streams) in CASES.items():
        counts = scan.run(*streams).saturations
        assert name == "nothing" or counts[name] > 0
        harmful = {cut for cut, n in counts.items() if n and cut not in HARMLESS}
        assert harmful == (set() if name in ("nothing", *HARMLESS) else {name})


@pytest.mark.parametrize("name", ["nothing", "exponent", "accumulator", "output"])
def test_where_the_bound_holds_a_code_may_not_be_off(name, tmp_path):
    check, near = checked(*CASES[name])
    assert check.saturated == 0
    assert 0 < check.largest_bound < 1.2
    assert 0 < near.mean() < 0.3, "only codes near a tie may differ"
    assert not check.inputs
    with pytest.raises(Disagreement, match="y beyond half a code and the derived bound: 1 of"):
        checked(*CASES[name], change=4, tmp_path=tmp_path)


@pytest.mark.parametrize("name", ["nothing", "exponent", "accumulator"])
def test_the_code_next_to_a_tie_may_be_either_and_the_one_behind_it_not(name, tmp_path):
    scan, streams = CASES[name]
    _, near = checked(scan, streams)
    real = np.clip(scan.run_real(*streams).output.swapaxes(0, 1), -128, 127)[:, None]
    y = scan.run(*streams).y[:, None]
    inside = (np.abs(real) < 120) & (y == np.rint(real))
    tie = np.abs(real - np.floor(real) - 0.5)
    other = np.where(real > y, 1, -1)  # to the second nearest code
    closest = np.unravel_index(np.where(inside & near, tie, 9).argmin(), tie.shape)
    checked(scan, streams, change=other[closest], at=closest)
    behind = np.unravel_index(np.where(inside & ~near, tie, 9).argmin(), tie.shape)
    with pytest.raises(Disagreement, match="beyond half a code and the derived bound: 1 of"):
        checked(scan, streams, change=other[behind], at=behind, tmp_path=tmp_path)


@pytest.mark.parametrize("name", ["delta", "drive", "state", "decay"])
def test_where_a_number_left_its_format_only_the_noise_is_judged(name):
    scan, streams = CASES[name]
    check, near = checked(scan, streams, change=4)
    assert check.saturated == scan.run(*streams).saturations[name]
    assert near.all() and check.largest_bound == 0
    assert check.noise > check.ideal_noise > 0


def test_the_noise_is_that_of_the_codes():
    scan, streams = CASES["accumulator"]
    check, _ = checked(scan, streams)
    real = scan.run_real(*streams).output.swapaxes(0, 1)
    clipped = np.clip(real, -128, 127)
    assert check.signal == pytest.approx((real**2).sum())
    assert check.noise == pytest.approx(((scan.run(*streams).y - clipped) ** 2).sum())
    assert check.ideal_noise == pytest.approx(((np.rint(clipped) - clipped) ** 2).sum())
