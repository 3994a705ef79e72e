"""The loop of :mod:`lmaunet.scan.compiled`, in the Python that numba compiles."""

from __future__ import annotations

import numba
import numpy as np

from lmaunet.scan.jit import compiled

# What the loop counts, in the order of its array of counts.
COUNTED = ("drive", "state", "accumulator", "output")


@numba.njit(inline="always")
def _round_half_up(code, bits):  # type: ignore[no-untyped-def]
    """Return ``code / 2 ** bits`` rounded half up; a negative ``bits`` shifts left, exactly."""
    if bits <= 0:
        return code << -bits
    return (code + (np.int64(1) << (bits - 1))) >> bits


@numba.njit(inline="always")
def _saturate(code, limits, counts, index):  # type: ignore[no-untyped-def]
    """Return a code within limits[index], and count it where it was not."""
    low, high = limits[index, 0], limits[index, 1]
    if code < low:
        counts[index] += 1
        return low
    if code > high:
        counts[index] += 1
        return high
    return code


@compiled()
def scan_image(  # type: ignore[no-untyped-def]
    x, dt, b, c, delta, decay, shift, skip, gain, limits, rounded, aligned, largest_shift,
    h, y, accumulators, used, counts,
):  # fmt: skip
    """Run one image's scan; all are int64 arrays or integers.

    Args:
        x, dt: codes ``(L, channels)``; ``b``, ``c``: ``(L, states)``.
        delta: delta's code for each code of dt, ``(256,)``.
        decay: the decay's code for each code of dt, ``(256, channels, states)``.
        shift, skip: ``(channels,)``; ``gain`` and ``largest_shift``: integers.
        limits: the least and the largest code of each cut of COUNTED, ``(4, 2)``.
        rounded: how many bits each of them drops, ``(4,)``.
        aligned: the shifts left of decay * h, inflow, C * h and skip * x before they are added.
        h: the state, zero at first, ``(channels, states)``.
        y, accumulators: are written, ``(L, channels)``.
        used: counts how often each code of dt is used, ``(256, channels)``.
        counts: counts the numbers that each cut of COUNTED saturates.
    """
    length, channels = x.shape
    states = b.shape[1]
    decayed, flowing, summed, skipped = aligned[0], aligned[1], aligned[2], aligned[3]
    low, high, dropped = limits[1, 0], limits[1, 1], rounded[1]
    for t in range(length):
        for d in range(channels):
            row = dt[t, d] + 128
            used[row, d] += 1
            drive = _round_half_up((delta[row] * x[t, d]) << shift[d], rounded[0])
            drive = _saturate(drive, limits, counts, 0)
            decay_row, h_d = decay[row, d], h[d]
            total, saturated = np.int64(0), np.int64(0)
            for n in range(states):
                value = (decay_row[n] * h_d[n] << decayed) + (drive * b[t, n] << flowing)
                value = _round_half_up(value, dropped)
                within = min(max(value, low), high)
                saturated += within != value
                h_d[n] = within
                total += c[t, n] * within
            counts[1] += saturated
            total = (total << (largest_shift - shift[d]) << summed) + (skip[d] * x[t, d] << skipped)
            accumulators[t, d] = total
            narrow = _saturate(_round_half_up(total, rounded[2]), limits, counts, 2)
            y[t, d] = _saturate(_round_half_up(gain * narrow, rounded[3]), limits, counts, 3)
