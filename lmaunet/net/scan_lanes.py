"""The selective scan in torch operations: value and gradients on any device, in any precision.

The recurrence is that of ``lmaunet/net/scan.py``, without its skip. Used on a GPU that has no
mamba-ssm, and in float64; :mod:`lmaunet.net.scan_compiled` is faster on a CPU.

**How it is made fast without a compiler.** The L tokens are cut into K chunks of T, and step t of
every chunk of every image is computed at once, on *lanes*: arrays ``(D, N, K * batch)`` whose
innermost axis is long and contiguous, so that each torch operation is one vectorised loop in
cache. The first pass runs all chunks from h = 0 to learn where each ends. The true start of chunk
k then follows from that of chunk k - 1, because a chunk is linear in its start:
``h_end = h_end_from_zero + exp(A * sum(delta)) * h_start``. The second pass replays the chunks
from their true starts. The backward pass does the same from the last token to the first.

**How it stays small.** The decays ``a`` are recomputed wherever they are needed, which costs less
than to write them to memory and read them back. The forward pass allocates nothing of size
``L * D * N`` and saves one state per chunk for the backward pass, which allocates one array of
that size, the states.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of one step's array (D, N, K * batch). On a CPU it should stay in the L2 cache; on a GPU
# it should be large enough to fill the machine.
CPU_STEP_ELEMENTS = 1 << 17
CUDA_STEP_ELEMENTS = 1 << 22


class Lanes:
    """The split of ``(batch, L, features)`` into T steps of ``(features, K * batch)`` lanes.

    The last chunk is filled up with zeros. A token with delta = 0 leaves the state as it is, and
    its output and gradients are cut off again.
    """

    def __init__(self, x: Tensor, states: int) -> None:
        self.batch, self.length, channels = x.shape
        elements = CUDA_STEP_ELEMENTS if x.is_cuda else CPU_STEP_ELEMENTS
        # More than about sqrt(L) chunks would make the walk over the chunks the longer one.
        chunks = min(elements // (self.batch * channels * states), 2 * math.isqrt(self.length))
        self.steps = -(-self.length // max(1, chunks))
        self.chunks = -(-self.length // self.steps)

    def split(self, v: Tensor) -> Tensor:
        """Return ``(batch, L, features)`` as ``(T, features, K * batch)``."""
        filled = F.pad(v, (0, 0, 0, self.steps * self.chunks - self.length))
        parts = filled.reshape(self.batch, self.chunks, self.steps, -1)
        return parts.permute(2, 3, 1, 0).reshape(self.steps, -1, self.chunks * self.batch)

    def join(self, v: Tensor) -> Tensor:
        """Return ``(T, features, K * batch)`` as ``(batch, L, features)``."""
        parts = v.reshape(self.steps, -1, self.chunks, self.batch).permute(3, 2, 0, 1)
        return parts.reshape(self.batch, self.steps * self.chunks, -1)[:, : self.length]

    def starts(self, ends: Tensor, decays: Tensor, order: Sequence[int]) -> Tensor:
        """Return the value with which each chunk starts, all ``(D, N, K * batch)``.

        Args:
            ends: where each chunk ends when it starts from zero.
            decays: what each chunk multiplies its start by.
            order: the chunks in the direction of the walk; the first one starts from zero.
        """
        shape = (*ends.shape[:2], self.chunks, self.batch)
        end, decay = (v.reshape(shape).permute(2, 0, 1, 3).contiguous() for v in (ends, decays))
        start = torch.zeros_like(end)
        for before, k in itertools.pairwise(order):
            torch.addcmul(end[before], decay[before], start[before], out=start[k])
        return start.permute(1, 2, 0, 3).reshape(ends.shape)


class Operands:
    """The scan's operands on lanes, as lists over the T steps.

    ``delta`` and ``drive`` = delta * x are ``(D, 1, M)``; ``B`` and ``C`` are ``(1, N, M)``; the
    rates are ``(D, N, 1)``. Each pair broadcasts to a step's ``(D, N, M)``, M = K * batch.
    """

    def __init__(
        self,
        lanes: Lanes,
        x: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
    ) -> None:
        self.rates = A.unsqueeze(2)
        deltas = lanes.split(delta)
        self.delta = deltas.unsqueeze(2).unbind(0)
        self.drive = lanes.split(delta * x).unsqueeze(2).unbind(0)
        self.B = lanes.split(B).unsqueeze(1).unbind(0)
        self.C = lanes.split(C).unsqueeze(1).unbind(0)
        self.chunk_decays = torch.exp(deltas.sum(0).unsqueeze(1) * self.rates)

    def decay(self, t: int, out: Tensor) -> Tensor:
        """Write a = exp(delta * A) of step t into ``out``."""
        return torch.mul(self.delta[t], self.rates, out=out).exp_()

    def advance(self, t: int, h: Tensor, a: Tensor, drive: Tensor, out: Tensor) -> Tensor:
        """Write h' = a * h + drive * B of step t into ``out``; ``a`` and ``drive`` are scratch."""
        self.decay(t, a)
        torch.mul(self.drive[t], self.B[t], out=drive)
        return torch.addcmul(drive, a, h, out=out)


def forward(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``y = sum_n C * h``, ``(batch, L, channels)``, and the states that backward wants.

    Args:
        x, delta: ``(batch, L, channels)``, all of one type.
        A: ``(channels, states)``.
        B, C: ``(batch, L, states)``.
    """
    lanes = Lanes(x, A.shape[1])
    operands = Operands(lanes, x, delta, A, B, C)
    h = torch.zeros_like(operands.chunk_decays)
    a, product = torch.empty_like(h), torch.empty_like(h)
    if lanes.chunks > 1:
        for t in range(lanes.steps):
            operands.advance(t, h, a, product, out=h)
        h = lanes.starts(h, operands.chunk_decays, range(lanes.chunks))
    start = h.clone()
    y = h.new_empty(lanes.steps, h.shape[0], h.shape[2])
    for t, y_t in enumerate(y.unbind(0)):
        operands.advance(t, h, a, product, out=h)
        torch.sum(torch.mul(h, operands.C[t], out=product), 1, out=y_t)
    return lanes.join(y), start


def backward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, grad: Tensor, start: Tensor
) -> tuple[Tensor, ...]:
    """Return ``sum_n w * A``, ``sum_n v * B`` and the gradients of A, B and C.

    Args:
        x, delta, A, B, C: as in :func:`forward`.
        grad: of y, ``(batch, L, channels)``.
        start: from :func:`forward`.
    """
    lanes = Lanes(x, A.shape[1])
    operands = Operands(lanes, x, delta, A, B, C)
    g = lanes.split(grad).unsqueeze(2).unbind(0)
    a, product = torch.empty_like(start), torch.empty_like(start)

    h = [start, *start.new_empty(lanes.steps, *start.shape).unbind(0)]
    for t in range(lanes.steps):
        operands.advance(t, h[t], a, product, out=h[t + 1])

    # `carried` is a * v of the token after, which is what a token hands to the one before it.
    carried = torch.zeros_like(start)
    if lanes.chunks > 1:
        for t in reversed(range(lanes.steps)):
            carried.addcmul_(g[t], operands.C[t]).mul_(operands.decay(t, out=a))
        backwards = range(lanes.chunks - 1, -1, -1)
        carried = lanes.starts(carried, operands.chunk_decays, backwards)

    channels, states, width = start.shape
    grad_C, grad_B = (start.new_empty(lanes.steps, states, width) for _ in range(2))
    by_delta, by_drive = (start.new_empty(lanes.steps, channels, width) for _ in range(2))
    grad_A = torch.zeros_like(start)
    for t in reversed(range(lanes.steps)):
        torch.sum(torch.mul(h[t + 1], g[t], out=product), 0, out=grad_C[t])
        v = carried.addcmul_(g[t], operands.C[t])
        torch.sum(torch.mul(v, operands.B[t], out=product), 1, out=by_drive[t])
        torch.sum(torch.mul(v, operands.drive[t], out=product), 0, out=grad_B[t])
        carried = v.mul_(operands.decay(t, out=a))
        w = torch.mul(carried, h[t], out=product)
        grad_A.addcmul_(w, operands.delta[t])
        torch.sum(w.mul_(operands.rates), 1, out=by_delta[t])
    joined = (lanes.join(v) for v in (by_delta, by_drive, grad_B, grad_C))
    by_delta, by_drive, grad_B, grad_C = joined
    return by_delta, by_drive, grad_A.sum(2), grad_B, grad_C
