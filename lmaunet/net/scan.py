"""The selective scan for training: value and gradients, on a CPU or a GPU, at any length.

The recurrence is that of ``lmaunet/scan/recurrence.py``, which the tests hold this file to::

    delta = softplus(dt);  a = exp(delta * A);  h = a * h + delta * B * x;  y = sum_n C * h + D * x

The formula is in three forms: :mod:`lmaunet.net.scan_compiled` on a CPU, the kernel of mamba-ssm on
a GPU where that package is installed, and :mod:`lmaunet.net.scan_lanes`, torch operations,
elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lmaunet.errors import UserError
from lmaunet.net import scan_compiled, scan_lanes

ONNX_DOMAIN = "ai.lmaunet"


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
    if torch.compiler.is_exporting():
        return scan_op(x, dt, A, B, C, D)
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


class SelectiveScan(torch.autograd.Function):
    """The selective scan as one differentiable operation, and as one ONNX node.

    Takes x, dt, A, B, C, D as :func:`selective_scan` does. Computes in float32, or in float64
    where x is float64. There is no second derivative.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        """Return y ``(batch, L, channels)``."""
        x, dt, A, B, C, D = (v.to(_precision(inputs[0])) for v in inputs)
        y, start = _form(x).forward(x, F.softplus(dt), A, B, C)
        ctx.save_for_backward(*inputs, start)
        return torch.addcmul(y, x, D).to(inputs[0].dtype)

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
        delta = F.softplus(dt)
        found = _form(x).backward(x, delta, A, B, C, grad, start)
        by_delta, by_drive, grad_A, grad_B, grad_C = found
        grad_dt = (by_delta + by_drive * x) * torch.sigmoid(dt)
        grad_x = torch.addcmul(by_drive * delta, grad, D)
        return grad_x, grad_dt, grad_A, grad_B, grad_C, (grad * x).sum((0, 1))

    @staticmethod
    def symbolic(g: Any, *inputs: Any) -> Any:
        """Emit one ``ai.lmaunet::SelectiveScan`` node, whose output has the type of x."""
        return g.op(f"{ONNX_DOMAIN}::SelectiveScan", *inputs).setType(inputs[0].type())


@torch.library.custom_op("lmaunet::selective_scan", mutates_args=())
def scan_op(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
) -> torch.Tensor:
    """Run :class:`SelectiveScan` as one operator of torch, which ``torch.export`` keeps whole.

    Takes and returns what :func:`selective_scan` does, which calls it while a network is exported.
    """
    return SelectiveScan.apply(x, dt, A, B, C, D).contiguous()


@scan_op.register_fake
def _fake_scan(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    """Return an empty y."""
    return x.new_empty(x.shape)


def _save_inputs(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _scan_gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the gradients of :func:`scan_op`, which keeps no states: the scan runs again."""
    with torch.enable_grad():
        inputs = [v.detach().requires_grad_() for v in ctx.saved_tensors]
        y = SelectiveScan.apply(*inputs)
    return torch.autograd.grad(y, inputs, grad)


scan_op.register_autograd(_scan_gradients, setup_context=_save_inputs)


def _precision(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _form(x: torch.Tensor) -> ModuleType:
    """Return the module that computes the scan best where x is."""
    compiles = x.device.type == "cpu" and x.dtype == torch.float32
    return scan_compiled if compiles else scan_lanes
