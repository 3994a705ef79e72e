"""The selective scan for training: value and gradients, on a CPU or a GPU, at any length.

The recurrence is that of ``lmaunet/scan/recurrence.py``, which the tests hold this file to::

    delta = softplus(dt);  a = exp(delta * A);  h = a * h + delta * B * x;  y = sum_n C * h + D * x

**How it is made fast without a compiler.** The L tokens are cut into K chunks of T, and step t of
every chunk of every image is computed at once, on *lanes*: arrays ``(D, N, K * batch)`` whose
innermost axis is long and contiguous, so that each torch operation is one vectorised loop in
cache. The first pass runs all chunks from h = 0 to learn where each ends. The true start of chunk
k then follows from that of chunk k - 1, because a chunk is linear in its start:
``h_end = h_end_from_zero + exp(A * sum(delta)) * h_start``. The second pass replays the chunks
from their true starts. The backward pass does the same from the last token to the first.

**How it stays small.** The decays ``a`` are recomputed wherever they are needed, which costs less
than to write them to memory and read them back. The forward pass allocates nothing of size
``L * D * N`` and saves for the backward pass its inputs and one state per chunk. The backward pass
allocates one array of that size, the states.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lmaunet.errors import UserError

ONNX_DOMAIN = "ai.lmaunet"

# Elements of one step's array (D, N, K * batch). On a CPU it should stay in the L2 cache; on a GPU
# it should be large enough to fill the machine.
CPU_STEP_ELEMENTS = 1 << 17
CUDA_STEP_ELEMENTS = 1 << 22


def selective_scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
) -> torch.Tensor:
    """Run the selective scan of each image of a batch.

    Uses the kernel of mamba-ssm where that is installed and the tensors are on a GPU in a
    precision that it knows, and :class:`SelectiveScan` elsewhere.

    Args:
        x: input, ``(batch, L, channels)``.
        dt: the time step before softplus, with the bias of ``dt_proj``, ``(batch, L, channels)``.
        A: the negative rates ``-exp(A_log)``, ``(channels, states)``.
        B, C: ``(batch, L, states)``.
        D: the skip, ``(channels,)``.

    Returns:
        y, of the shape and type of x.

    Raises:
        UserError: where the shapes do not fit each other, or there is no token.
    """
    if torch.jit.is_tracing():
        # The chunks depend on the sizes of this one trace, but do not reach the graph: the trace
        # holds one opaque node. So the tracer's warnings about sizes would mislead.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return SelectiveScan.apply(x, dt, A, B, C, D)
    _check_shapes(x, dt, A, B, C, D)
    kernel = _mamba_kernel()
    if kernel is not None and x.is_cuda and x.dtype != torch.float64:
        return _with_mamba(kernel, x, dt, A, B, C, D)
    return SelectiveScan.apply(x, dt, A, B, C, D)


def _check_shapes(*tensors: torch.Tensor) -> None:
    x, _, A = tensors[:3]
    if x.dim() != 3 or A.dim() != 2 or min(x.shape) < 1:
        raise UserError(
            f"selective scan: x is {tuple(x.shape)} and A is {tuple(A.shape)}; "
            "give x as (batch, L, channels) with at least one token and A as (channels, states)"
        )
    (batch, length, channels), states = x.shape, A.shape[1]
    per_token, per_state = (batch, length, channels), (batch, length, states)
    expected = (per_token, per_token, (channels, states), per_state, per_state, (channels,))
    for name, tensor, shape in zip(("x", "dt", "A", "B", "C", "D"), tensors, expected, strict=True):
        if tuple(tensor.shape) != shape:
            raise UserError(
                f"selective scan: {name} is {tuple(tensor.shape)}, expected {shape} "
                f"beside x {tuple(x.shape)} and A {tuple(A.shape)}"
            )


@cache
def _mamba_kernel() -> Callable[..., torch.Tensor] | None:
    """Return mamba-ssm's selective scan, or None where that package is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def _with_mamba(kernel: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Call mamba-ssm, whose sequences are ``(batch, features, L)``."""
    x, dt, A, B, C, D = tensors
    swapped = [v.transpose(1, 2).contiguous() for v in (x, dt, B, C)]
    y = kernel(
        swapped[0], swapped[1], A.float(), swapped[2], swapped[3], D.float(), delta_softplus=True
    )
    return y.transpose(1, 2)


class _Lanes:
    """The split of ``(batch, L, features)`` into T steps of ``(features, K * batch)`` lanes.

    The last chunk is filled up with zeros. A token with delta = 0 leaves the state as it is, and
    its output and gradients are cut off again.
    """

    def __init__(self, x: torch.Tensor, states: int) -> None:
        self.batch, self.length, channels = x.shape
        elements = CUDA_STEP_ELEMENTS if x.is_cuda else CPU_STEP_ELEMENTS
        # More than about sqrt(L) chunks would make the walk over the chunks the longer one.
        chunks = min(elements // (self.batch * channels * states), 2 * math.isqrt(self.length))
        self.steps = -(-self.length // max(1, chunks))
        self.chunks = -(-self.length // self.steps)

    def split(self, v: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, L, features)`` as ``(T, features, K * batch)``."""
        filled = F.pad(v, (0, 0, 0, self.steps * self.chunks - self.length))
        parts = filled.reshape(self.batch, self.chunks, self.steps, -1)
        return parts.permute(2, 3, 1, 0).reshape(self.steps, -1, self.chunks * self.batch)

    def join(self, v: torch.Tensor) -> torch.Tensor:
        """Return ``(T, features, K * batch)`` as ``(batch, L, features)``."""
        parts = v.reshape(self.steps, -1, self.chunks, self.batch).permute(3, 2, 0, 1)
        return parts.reshape(self.batch, self.steps * self.chunks, -1)[:, : self.length]

    def starts(
        self, ends: torch.Tensor, decays: torch.Tensor, order: Sequence[int]
    ) -> torch.Tensor:
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


class _Operands:
    """The scan's operands on lanes, as lists over the T steps.

    ``delta`` and ``drive`` = delta * x are ``(D, 1, M)``; ``B`` and ``C`` are ``(1, N, M)``; the
    rates are ``(D, N, 1)``. Each pair broadcasts to a step's ``(D, N, M)``, M = K * batch.
    """

    def __init__(
        self,
        lanes: _Lanes,
        x: torch.Tensor,
        delta: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
    ) -> None:
        self.rates = A.unsqueeze(2)
        deltas = lanes.split(delta)
        self.delta = deltas.unsqueeze(2).unbind(0)
        self.drive = lanes.split(delta * x).unsqueeze(2).unbind(0)
        self.B = lanes.split(B).unsqueeze(1).unbind(0)
        self.C = lanes.split(C).unsqueeze(1).unbind(0)
        self.chunk_decays = torch.exp(deltas.sum(0).unsqueeze(1) * self.rates)

    def decay(self, t: int, out: torch.Tensor) -> torch.Tensor:
        """Write a = exp(delta * A) of step t into ``out``."""
        return torch.mul(self.delta[t], self.rates, out=out).exp_()

    def advance(
        self, t: int, h: torch.Tensor, a: torch.Tensor, drive: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """Write h' = a * h + drive * B of step t into ``out``; ``a`` and ``drive`` are scratch."""
        self.decay(t, a)
        torch.mul(self.drive[t], self.B[t], out=drive)
        return torch.addcmul(drive, a, h, out=out)


class SelectiveScan(torch.autograd.Function):
    """The selective scan as one differentiable operation, and as one ONNX node.

    Takes x, dt, A, B, C, D as :func:`selective_scan` does. Computes in float32, or in float64
    where x is float64. There is no second derivative.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        """Return y ``(batch, L, channels)``."""
        x, dt, A, B, C, D = (v.to(_precision(inputs[0])) for v in inputs)
        lanes = _Lanes(x, A.shape[1])
        operands = _Operands(lanes, x, F.softplus(dt), A, B, C)
        h = torch.zeros_like(operands.chunk_decays)
        a, product = torch.empty_like(h), torch.empty_like(h)
        if lanes.chunks > 1:
            for t in range(lanes.steps):
                operands.advance(t, h, a, product, out=h)
            h = lanes.starts(h, operands.chunk_decays, range(lanes.chunks))
        ctx.save_for_backward(*inputs, h.clone())
        y = h.new_empty(lanes.steps, h.shape[0], h.shape[2])
        for t, y_t in enumerate(y.unbind(0)):
            operands.advance(t, h, a, product, out=h)
            torch.sum(torch.mul(h, operands.C[t], out=product), 1, out=y_t)
        return torch.addcmul(lanes.join(y), x, D).to(inputs[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the gradients of x, dt, A, B, C and D.

        With g = dL/dy, v = dL/dh and w = v * a * h_before = dL/d(delta * A)::

            v = C * g + a_after * v_after              C' = sum_d g * h      B' = sum_d v * drive
            drive' = sum_n v * B    delta' = sum_n w * A + drive' * x        A' = sum_t w * delta
            x' = drive' * delta + D * g    dt' = delta' * sigmoid(dt)        D' = sum_t g * x
        """
        *inputs, start = ctx.saved_tensors
        x, dt, A, B, C, D = (v.to(start.dtype) for v in inputs)
        grad = grad.to(start.dtype)
        lanes = _Lanes(x, A.shape[1])
        delta = F.softplus(dt)
        operands = _Operands(lanes, x, delta, A, B, C)
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
        grad_delta, grad_drive = (start.new_empty(lanes.steps, channels, width) for _ in range(2))
        grad_A = torch.zeros_like(start)
        for t in reversed(range(lanes.steps)):
            torch.sum(torch.mul(h[t + 1], g[t], out=product), 0, out=grad_C[t])
            v = carried.addcmul_(g[t], operands.C[t])
            torch.sum(torch.mul(v, operands.B[t], out=product), 1, out=grad_drive[t])
            torch.sum(torch.mul(v, operands.drive[t], out=product), 0, out=grad_B[t])
            carried = v.mul_(operands.decay(t, out=a))
            w = torch.mul(carried, h[t], out=product)
            grad_A.addcmul_(w, operands.delta[t])
            torch.sum(w.mul_(operands.rates), 1, out=grad_delta[t])

        by_drive = lanes.join(grad_drive)
        grad_dt = (lanes.join(grad_delta) + by_drive * x) * torch.sigmoid(dt)
        grad_x = torch.addcmul(by_drive * delta, grad, D)
        return (
            grad_x,
            grad_dt,
            grad_A.sum(2),
            lanes.join(grad_B),
            lanes.join(grad_C),
            (grad * x).sum((0, 1)),
        )

    @staticmethod
    def symbolic(g: Any, *inputs: Any) -> Any:
        """Emit one ``ai.lmaunet::SelectiveScan`` node, whose output has the type of x."""
        return g.op(f"{ONNX_DOMAIN}::SelectiveScan", *inputs).setType(inputs[0].type())


def _precision(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
