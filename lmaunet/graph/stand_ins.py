"""Stands in for mamba_ssm and causal_conv1d while a network that was written for them is imported.

mamba_ssm needs a GPU, and its kernels can't be traced. What stands in computes the same by the
project's scan, under the same names of parameters, so that a trained network's weights load.
Parameters and signatures are those of mamba_ssm 2.2: ``Mamba`` of ``mamba_simple.py`` and
``selective_scan_fn`` of ``selective_scan_interface.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.net import mamba, scan
from lmaunet.net.scan import selective_scan

IGNORED = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path",
           "layer_idx")  # fmt: skip
"""Arguments of Mamba that say how it starts to learn, or how it computes."""


class Mamba(mamba.Mamba):
    """mamba_ssm's one-way Mamba over tokens ``(B, L, d_model)``.

    Raises:
        UserError: for an argument that mamba_ssm's own does not have, as those of its variants.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        **others: Any,
    ) -> None:
        d_model = int(d_model)
        inner = int(expand * d_model)
        super().__init__(d_model, inner, d_state)
        unknown = [f"{key}={value!r}" for key, value in others.items() if key not in IGNORED]
        if dt_rank not in ("auto", self.rank):
            unknown.append(f"dt_rank={dt_rank!r}")
        if unknown:
            raise UserError(
                f"Mamba has {', '.join(unknown)}; expected the arguments of mamba_ssm's Mamba with "
                f"dt_rank={self.rank}; write a variant in torch, around selective_scan_fn"
            )
        self.conv1d = nn.Conv1d(
            inner, inner, d_conv, groups=inner, padding=d_conv - 1, bias=conv_bias
        )
        if bias:
            self.in_proj = nn.Linear(d_model, 2 * inner)
            self.out_proj = nn.Linear(inner, d_model)
        self.to(device=device, dtype=dtype)

    def forward(self, hidden_states: Tensor, inference_params: None = None) -> Tensor:
        """Map tokens ``(B, L, d_model)`` to tokens of the same shape."""
        if inference_params is not None:
            raise UserError("Mamba: inference_params are for text, token by token; leave them out")
        return super().forward(hidden_states)


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor:
    """Run the selective scan as mamba_ssm's function does.

    Args:
        u, delta, z: ``(B, D, L)``; the result is gated by ``silu(z)``.
        A: ``(D, N)``.
        B, C: ``(B, N, L)``, or ``(B, G, N, L)`` with one for each of G groups of channels.
        D, delta_bias: ``(D,)``.
        delta_softplus: must be true: the scan has softplus in it.
        return_last_state: must be false.

    Raises:
        UserError: for any other form.
    """
    forms = {B.dim(), C.dim()}
    if not delta_softplus or return_last_state or forms not in ({3}, {4}) or A.is_complex():
        raise UserError(
            f"selective_scan_fn: delta_softplus={delta_softplus}, return_last_state="
            f"{return_last_state}, B {tuple(B.shape)}, C {tuple(C.shape)}, A of {A.dtype}; "
            "expected delta_softplus=True, no last state, real A, and B and C of each token"
        )
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if D is None:
        D = torch.zeros(A.shape[0])
    if B.dim() == 3:
        B, C = B[:, None], C[:, None]
    channels = u.shape[1] // B.shape[1]
    parts = []
    for group in range(B.shape[1]):
        mine = slice(group * channels, (group + 1) * channels)
        tokens = (v.transpose(1, 2) for v in (u[:, mine], delta[:, mine], B[:, group], C[:, group]))
        x, dt, b, c = tokens
        parts.append(selective_scan(x, dt, A[mine], b, c, D[mine]).transpose(1, 2))
    y = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return y if z is None else y * F.silu(z)


def causal_conv1d_fn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Convolve each channel of ``(B, D, L)`` with its past, as causal_conv1d's function does.

    Args:
        x: ``(B, D, L)``.
        weight: ``(D, taps)``, the last for the present.
        bias: ``(D,)``.
        activation: ``silu`` or ``swish``, which are one, or None.

    Raises:
        UserError: for another activation.
    """
    if activation not in (None, "silu", "swish"):
        raise UserError(f"causal_conv1d_fn: activation={activation!r}; expected silu or None")
    taps, length = weight.shape[1], x.shape[2]
    y = F.conv1d(x, weight[:, None], bias, padding=taps - 1, groups=weight.shape[0])[..., :length]
    return y if activation is None else F.silu(y)


CONTENTS: dict[str, dict[str, Any]] = {
    "mamba_ssm": {"Mamba": Mamba, "selective_scan_fn": selective_scan_fn},
    "mamba_ssm.modules": {},
    "mamba_ssm.modules.mamba_simple": {"Mamba": Mamba},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": {
        "selective_scan_fn": selective_scan_fn,
        "selective_scan_ref": selective_scan_fn,
    },
    "causal_conv1d": {"causal_conv1d_fn": causal_conv1d_fn},
}
"""The modules that stand in, and what is in each."""


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let ``import mamba_ssm`` and ``causal_conv1d`` give what stands in, until the context ends.

    Code that was imported meanwhile keeps it. A mamba_ssm that is installed is untouched.
    """
    scan._mamba_kernel()  # looks for the real one, once, before another is in its place
    before = {name: sys.modules.get(name) for name in CONTENTS}
    for name, content in CONTENTS.items():
        module = ModuleType(name)
        module.__dict__.update(content, __spec__=ModuleSpec(name, None), __path__=[])
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
    try:
        yield
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
