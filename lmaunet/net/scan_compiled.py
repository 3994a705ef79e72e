"""The selective scan on a CPU, compiled by numba: value and gradients in float32.

The recurrence, and the names of the gradients, are those of ``lmaunet/net/scan.py``. Here one pass
over the tokens keeps the states of a block of channels in cache, ``(states, channels)`` with the
channels innermost, so that every loop over them is one of vector instructions.
``benchmarks/scan.py`` compares it with torch operations.

Work is split into images and blocks of channels, which need nothing of each other; what they give
to B and C is summed at the end, in a fixed order, so that the number of threads changes no bit. The
forward pass keeps the states at the start of every ``CHUNK`` tokens, from which the backward pass
computes the others again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor


def forward(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``y = sum_n C * h``, ``(batch, L, channels)``, and the states that backward wants.

    Those are the states before every CHUNK tokens, ``(batch, chunks, states, channels)``.

    Args:
        x, delta: ``(batch, L, channels)``, float32 on the CPU, as all of them.
        A: ``(channels, states)``.
        B, C: ``(batch, L, states)``.
    """
    from lmaunet.net import scan_kernels as kernels

    inputs = _arrays(x, delta, _rates(A), B, C)
    batch, length, channels = (int(size) for size in x.shape)
    y = torch.empty(x.shape)
    start = torch.empty(batch, -(-length // kernels.CHUNK), A.shape[1], channels)
    outputs = _arrays(start, y)
    _in_blocks(lambda *b: kernels.forward(*inputs, *outputs, *b), batch, channels, kernels.BLOCK)
    return y, start


def backward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, grad: Tensor, start: Tensor
) -> tuple[Tensor, ...]:
    """Return ``sum_n w * A``, ``sum_n v * B`` and the gradients of A, B and C.

    Args:
        x, delta, A, B, C: as in :func:`forward`.
        grad: of y, ``(batch, L, channels)``.
        start: from :func:`forward`.
    """
    from lmaunet.net import scan_kernels as kernels

    rates = _rates(A)
    inputs = _arrays(x, delta, rates, B, C, grad, start)
    batch, _, channels = (int(size) for size in x.shape)
    by_delta, by_drive = torch.empty(x.shape), torch.empty(x.shape)
    grad_A = torch.zeros(batch, *rates.shape, dtype=torch.float64)
    grad_B, grad_C = (torch.empty(-(-channels // kernels.BLOCK), *B.shape) for _ in range(2))
    outputs = _arrays(by_delta, by_drive, grad_A, grad_B, grad_C)
    _in_blocks(lambda *b: kernels.backward(*inputs, *outputs, *b), batch, channels, kernels.BLOCK)
    summed_A = grad_A.sum(0).T.float()
    return by_delta * math.log(2), by_drive, summed_A, grad_B.sum(0), grad_C.sum(0)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Return the tensors as arrays that share their memory, if they are contiguous."""
    return [v.detach().contiguous().numpy() for v in tensors]


def _rates(A: Tensor) -> Tensor:
    """Return the rates of 2**, ``(states, channels)``."""
    return (A.T / math.log(2)).contiguous()


def _in_blocks(work: Callable[[int, int, int], Any], batch: int, channels: int, size: int) -> None:
    """Call ``work(image, first channel, end)`` for every block, on torch's number of threads."""
    tasks = [
        (b, low, min(low + size, channels))
        for b, low in itertools.product(range(batch), range(0, channels, size))
    ]
    threads = min(torch.get_num_threads(), len(tasks))
    if threads < 2:
        for task in tasks:
            work(*task)
        return
    with ThreadPoolExecutor(threads) as pool:  # the kernels release Python's lock
        for _ in pool.map(lambda task: work(*task), tasks):
            pass
