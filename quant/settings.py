"""What quantization may be told. It loads no torch: a command checks its options with it first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lmaunet.errors import UserError
from lmaunet.train.schedule import Schedule

WEIGHT_BITS = (2, 3, 4, 8)

Scales = Literal["free", "pow2"]
"""What scales may be: any positive number, or powers of two only."""

SCALES: tuple[Scales, ...] = ("free", "pow2")

JOINS = ("shared", "scaled", "auto")
"""How the scales at additions and concatenations may be chosen."""


@dataclass(frozen=True)
class QatSettings:
    """What QAT does.

    Args:
        schedule: of the extra training.
        bits: rules that choose weight bits, pairs of pattern and bits; see
            :func:`lmaunet.quant.bits.resolve_bits`.
        budget_bytes: size of the shipped file for which bits are chosen instead.
        scales: what scales may be: ``free`` or ``pow2``.
        distillation: weight of the divergence from the float network's classes in the loss.
        keep_norms: keep the batch normalizations while training and fold them afterwards.
        explain: measure what each quantizer costs.
        joins: how values that are joined are rounded: ``shared``, with one scale; ``scaled``, or
            with a producer scaled to it; ``auto``, or with a scale each, which an FPGA can't take;
            empty for ``shared`` in an LMa-UNet and ``auto`` in any other network.
    """

    schedule: Schedule
    bits: tuple[tuple[str, int], ...] = ()
    budget_bytes: int | None = None
    scales: Scales = "free"
    distillation: float = 0.0
    keep_norms: bool = True
    explain: bool = False
    joins: str = ""

    def __post_init__(self) -> None:
        if self.bits and self.budget_bytes is not None:
            raise UserError("--bits and --budget-mb exclude each other; give one")
        if self.budget_bytes is not None and self.budget_bytes <= 0:
            raise UserError(
                f"a budget of {self.budget_bytes / 1e6:g} MB; give a positive size, such as 4.2"
            )
        if self.scales not in SCALES:
            raise UserError(f"scales {self.scales!r}; use one of: {', '.join(SCALES)}")
        if self.joins not in ("", *JOINS):
            raise UserError(f"joins {self.joins!r}; use one of: {', '.join(JOINS)}")
        if not 0 <= self.distillation < float("inf"):
            raise UserError(f"distillation {self.distillation}; give 0 or a positive weight")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "schedule": self.schedule.to_json(),
            "bits": [list(rule) for rule in self.bits],
            "budget_bytes": self.budget_bytes,
            "scales": self.scales,
            "distillation": self.distillation,
            "keep_norms": self.keep_norms,
            "explain": self.explain,
            "joins": self.joins,
        }
