"""Mamba's selective state space block, with the parameter names and shapes of mamba-ssm.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
(arXiv 2312.00752), section 3.4 and algorithm 2. Weights trained with mamba-ssm load as they are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.net.scan import selective_scan
from lmaunet.spec import CONV1D_TAPS, NetSpec

TIME_STEP_MIN, TIME_STEP_MAX = 1e-3, 1e-1


class Mamba(nn.Module):
    """One-way (causal) Mamba over tokens ``(B, L, model)``.

    Args:
        model: d_model, channels in and out.
        inner: d_inner, channels of the scan.
        states: N, states per channel.
    """

    def __init__(self, model: int, inner: int, states: int) -> None:
        super().__init__()
        self.inner, self.states, self.rank = inner, states, NetSpec.dt_rank(model)
        self.in_proj = nn.Linear(model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(
            inner, inner, CONV1D_TAPS, groups=inner, padding=CONV1D_TAPS - 1, bias=True
        )
        self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner, bias=True)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, model, bias=False)
        self._reset_time_step()

    @torch.no_grad()
    def _reset_time_step(self) -> None:
        # softplus(bias) is log-uniform in [TIME_STEP_MIN, TIME_STEP_MAX], as in the article
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        low, high = math.log(TIME_STEP_MIN), math.log(TIME_STEP_MAX)
        step = torch.exp(torch.rand(self.inner) * (high - low) + low)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(B, L, model)`` to tokens of the same shape."""
        length = int(tokens.shape[1])
        x, z = self.in_proj(tokens).split([self.inner, self.inner], dim=-1)
        x = self.conv1d(x.transpose(1, 2))[..., :length].transpose(1, 2)
        x = F.silu(x)
        dt, B, C = self.x_proj(x).split([self.rank, self.states, self.states], dim=-1)
        y = selective_scan(x, self.dt_proj(dt), -torch.exp(self.A_log), B, C, self.D)
        return self.out_proj(y * F.silu(z))
