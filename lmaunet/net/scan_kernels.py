"""The kernels of :mod:`lmaunet.net.scan_compiled`, in the Python that numba compiles.

To import this module imports numba; the kernels are compiled when they are first called, once a
machine, and kept on disk beside this file or in the user's cache folder.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from lmaunet.scan.jit import compiled

CHUNK = 64  # tokens whose states the backward pass keeps at once
BLOCK = 64  # channels; at 16 states that is 256 KiB of states and as much of decays, for an L2

# Sums may be taken in any order, as vectors; NaN and infinity keep their meaning.
FAST_MATH = frozenset({"contract", "reassoc", "nsz"})

# 2**f for f in [-0.5, 0.5], from the constant on: relative error 2.0e-09 before rounding.
_FACTORS = (1.0, 0.6931472029, 0.2402264791, 0.05550332447, 0.009618437297, 0.001339888188,
            0.0001535339255)  # fmt: skip
EXP2 = tuple(np.float32(c) for c in _FACTORS)
LEAST, MOST = np.float32(-126), np.float32(128)
BIAS, MANTISSA = np.int32(127), np.int32(23)


@numba.njit(inline="always", fastmath=set(FAST_MATH))
def _exp2(v: Any) -> Any:
    """Return 2**v, at least 2**-126, and infinity from 2**128 on."""
    v = LEAST if v < LEAST else v  # in this order NaN stays NaN
    v = MOST if v > MOST else v
    whole = np.float32(np.rint(v))
    f = v - whole
    c0, c1, c2, c3, c4, c5, c6 = EXP2
    p = (((((c6 * f + c5) * f + c4) * f + c3) * f + c2) * f + c1) * f + c0
    return p * np.int32((np.int32(whole) + BIAS) << MANTISSA).view(np.float32)


@compiled(FAST_MATH)
def forward(x, delta, rates, B, C, starts, y, b, low, high):  # type: ignore[no-untyped-def]
    """Write y and the states before every CHUNK tokens of channels low to high of image b."""
    states, width = rates.shape[0], high - low
    h = np.zeros((states, width), np.float32)
    out = np.empty(width, np.float32)
    for t in range(x.shape[1]):
        if t % CHUNK == 0:
            starts[b, t // CHUNK, :, low:high] = h
        delta_t, x_t = delta[b, t, low:high], x[b, t, low:high]
        out[:] = 0
        for n in range(states):
            B_tn, C_tn, rate, h_n = B[b, t, n], C[b, t, n], rates[n, low:high], h[n]
            for d in range(width):
                v = _exp2(delta_t[d] * rate[d]) * h_n[d] + delta_t[d] * x_t[d] * B_tn
                h_n[d] = v
                out[d] += C_tn * v
        y[b, t, low:high] = out


@compiled(FAST_MATH)
def backward(  # type: ignore[no-untyped-def]
    x, delta, rates, B, C, grad, starts,
    by_delta, by_drive, grad_A, grad_B, grad_C, b, low, high,
):  # fmt: skip
    """Write the sums and gradients of channels low to high of image b; see scan_compiled."""
    length, states, width = x.shape[1], rates.shape[0], high - low
    a = np.empty((CHUNK, states, width), np.float32)
    h = np.empty((CHUNK + 1, states, width), np.float32)
    carried = np.zeros((states, width), np.float32)
    chunk_A = np.empty((states, width), np.float32)
    sum_delta, sum_drive = np.empty(width, np.float32), np.empty(width, np.float32)
    for k in range(starts.shape[1] - 1, -1, -1):
        first = k * CHUNK
        steps = min(CHUNK, length - first)
        h[0] = starts[b, k, :, low:high]
        for i in range(steps):
            t = first + i
            delta_t, x_t = delta[b, t, low:high], x[b, t, low:high]
            for n in range(states):
                B_tn, rate = B[b, t, n], rates[n, low:high]
                a_n, before, after = a[i, n], h[i, n], h[i + 1, n]
                for d in range(width):
                    decay = _exp2(delta_t[d] * rate[d])
                    a_n[d] = decay
                    after[d] = decay * before[d] + delta_t[d] * x_t[d] * B_tn
        chunk_A[:] = 0
        for i in range(steps - 1, -1, -1):
            t = first + i
            delta_t, x_t, g = delta[b, t, low:high], x[b, t, low:high], grad[b, t, low:high]
            sum_delta[:] = 0
            sum_drive[:] = 0
            for n in range(states):
                B_tn, C_tn, rate = B[b, t, n], C[b, t, n], rates[n, low:high]
                a_n, before, after = a[i, n], h[i, n], h[i + 1, n]
                carried_n, chunk_An = carried[n], chunk_A[n]
                sum_B, sum_C = np.float32(0), np.float32(0)
                for d in range(width):
                    v = carried_n[d] + g[d] * C_tn
                    sum_C += g[d] * after[d]
                    sum_B += v * delta_t[d] * x_t[d]
                    sum_drive[d] += v * B_tn
                    v *= a_n[d]
                    carried_n[d] = v
                    w = v * before[d]
                    chunk_An[d] += w * delta_t[d]
                    sum_delta[d] += w * rate[d]
                grad_B[low // BLOCK, b, t, n] = sum_B
                grad_C[low // BLOCK, b, t, n] = sum_C
            by_delta[b, t, low:high] = sum_delta
            by_drive[b, t, low:high] = sum_drive
        grad_A[b, :, low:high] += chunk_A
