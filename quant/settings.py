"""What quantization may be told. It loads no torch: a command checks its options with it first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lmaunet.errors import UserError
from lmaunet.train.schedule import Schedule

WEIGHT_BITS = (2, 3, 4, 8)

CONFIDENCE_FILE = "confidence.json"
"""What a network that was trained with dropout says of its confidence."""
MOST_DROPOUT = 0.9
"""The largest rate of dropout."""

LARGEST_DROP = 100.0
"""The largest drop of Dice in points that a limit may be."""

Scales = Literal["free", "pow2"]
"""What scales may be: any positive number, or powers of two only."""

SCALES: tuple[Scales, ...] = ("free", "pow2")

JOINS = ("shared", "scaled", "auto")
"""How the scales at additions and concatenations may be chosen."""

NORMS = ("keep", "batch")
"""What becomes of norms whose statistics come from each image."""
NORM_EPOCHS, NORM_RATE, MOST_NORM_EPOCHS = 8, 1e-3, 10_000
"""Passes over the training slices in which a network with converted norms is distilled, and their
peak learning rate: ten times that of QAT, for every norm's statistics have changed."""


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
            with a producer scaled to it; ``auto``, or with a scale each; empty
            for ``shared`` in an LMa-UNet and ``auto`` in any other network.
        norm: ``keep``; or ``batch``, InstanceNorm and GroupNorm become batch normalization first.
        norm_epochs: passes of the distillation after that; 0 for none.
        dropout: the rate at which channels are dropped before the network's head while training;
            0 for none.
        max_drop: the drop of Dice in points up to which weights get more bits; None for no limit.
            See :mod:`lmaunet.quant.accuracy_control`.
    """

    schedule: Schedule
    bits: tuple[tuple[str, int], ...] = ()
    budget_bytes: int | None = None
    scales: Scales = "free"
    distillation: float = 0.0
    keep_norms: bool = True
    explain: bool = False
    joins: str = ""
    norm: str = "keep"
    norm_epochs: int = NORM_EPOCHS
    dropout: float = 0.0
    max_drop: float | None = None

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
        if self.norm not in NORMS:
            raise UserError(f"norm {self.norm!r}; use one of: {', '.join(NORMS)}")
        if not 0 <= self.norm_epochs <= MOST_NORM_EPOCHS:
            raise UserError(
                f"norm_epochs {self.norm_epochs}; give 0 (no distillation) to {MOST_NORM_EPOCHS:,}"
            )
        if not 0 <= self.dropout <= MOST_DROPOUT:
            raise UserError(
                f"dropout {self.dropout:g}; give 0 (none) to {MOST_DROPOUT:g}, such as 0.2"
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= LARGEST_DROP:
            raise UserError(
                f"--max-drop {self.max_drop:g}; give the points of Dice that may be lost, 0 to "
                f"{LARGEST_DROP:g}, such as 0.3"
            )
        if not 0 <= self.distillation < float("inf"):
            raise UserError(f"distillation {self.distillation}; give 0 or a positive weight")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; norms, dropout and limit are there only where they are asked for."""
        norms = {"norm": self.norm, "norm_epochs": self.norm_epochs}
        return {
            "schedule": self.schedule.to_json(),
            "bits": [list(rule) for rule in self.bits],
            "budget_bytes": self.budget_bytes,
            "scales": self.scales,
            "distillation": self.distillation,
            "keep_norms": self.keep_norms,
            "explain": self.explain,
            "joins": self.joins,
            **(norms if self.norm != "keep" else {}),
            **({"dropout": self.dropout} if self.dropout else {}),
            **({} if self.max_drop is None else {"max_drop": self.max_drop}),
        }
