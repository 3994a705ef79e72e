"""The scan in integers, compiled by numba: the results of :meth:`IntegerScan.run`, much faster.

It defines nothing. The decays of all codes of dt come from the integer algebra; the rest is its
arithmetic written out, and the tests hold every code and count to it.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lmaunet.scan.fixed import Codes
from lmaunet.scan.formats import INPUT
from lmaunet.scan.integer import IntegerScan, IntegerScanResult
from lmaunet.scan.recurrence import CUTS


def run_compiled(
    scan: IntegerScan,
    x: npt.ArrayLike,
    dt: npt.ArrayLike,
    b: npt.ArrayLike,
    c: npt.ArrayLike,
    *,
    threads: int = 1,
) -> IntegerScanResult:
    """Run a scan in integers; arguments, result and errors are those of :meth:`IntegerScan.run`.

    Args:
        scan: the scan.
        x, dt: codes, ``(batch, L, channels)``.
        b, c: codes, ``(batch, L, states)``.
        threads: how many images run at a time.
    """
    from lmaunet.scan.integer_kernel import COUNTED, scan_image

    x, dt, b, c = (np.ascontiguousarray(v) for v in scan.codes(x, dt, b, c))
    batch, _, channels = x.shape
    formats = scan.spec.formats
    frac = {name: form.frac for name, form in formats.items()}
    largest_shift = int(scan.shift.max())
    # fractional bits of what is added, and of the sums
    decayed, inflow = frac["decay"] + frac["state"], frac["drive"] + INPUT.frac
    read, skipped = INPUT.frac + frac["state"] + largest_shift, frac["skip"] + INPUT.frac
    state, accumulator = max(decayed, inflow), max(read, skipped)
    sums = {
        "drive": frac["delta"] + INPUT.frac,
        "state": state,
        "accumulator": accumulator,
        "output": frac["gain"] + frac["accumulator"],
    }
    aligned = np.array(
        [state - decayed, state - inflow, accumulator - read, accumulator - skipped], np.int64
    )
    # codes have at most 62 bits: dropping more is dropping all
    rounded = np.array([min(sums[name] - frac[name], 62) for name in COUNTED], np.int64)
    limits = np.array([(formats[name].low, formats[name].high) for name in COUNTED], np.int64)
    table = scan.algebra().decay_table()
    decay = np.ascontiguousarray(table.decay.code.reshape(256, channels, -1))
    constants = (scan.softplus, decay, scan.shift, scan.skip, int(scan.gain))

    y, accumulators = np.empty_like(x), np.empty_like(x)
    states = np.zeros((batch, *decay.shape[1:]), np.int64)
    used = np.zeros((batch, 256, channels), np.int64)
    counts = np.zeros((batch, len(COUNTED)), np.int64)

    def run_image(i: int) -> None:
        scan_image(
            x[i], dt[i], b[i], c[i], *constants, limits, rounded, aligned, largest_shift,
            states[i], y[i], accumulators[i], used[i], counts[i],
        )  # fmt: skip

    if min(threads, batch) < 2:
        for i in range(batch):
            run_image(i)
    else:
        with ThreadPoolExecutor(min(threads, batch)) as pool:
            list(pool.map(run_image, range(batch)))
    saturations = _saturations(scan, used.sum(0), table.saturated)
    saturations.update(dict(zip(COUNTED, counts.sum(0).tolist(), strict=True)))
    return IntegerScanResult(
        y=y,
        accumulators=accumulators,
        accumulator_frac=accumulator,
        state=states,
        saturations={name: saturations[name] for name in CUTS},
    )


def _saturations(scan: IntegerScan, used: Codes, in_table: dict[str, Codes]) -> Counter[str]:
    """Return how often the cuts before the decay saturated, from how often each code was used."""
    delta = scan.spec.formats["delta"]
    unlimited = scan.algebra().softplus
    beyond = (unlimited < delta.low) | (unlimited > delta.high)
    found = Counter({"delta": int(used[beyond].sum())})
    for name, counts in in_table.items():
        found[name] += int((used.reshape(-1) * counts).sum())
    return found
