"""Which layers get more bits after a training that lost too much, by what restoring each gives.

After NNCF's quantization with accuracy control: layers are ranked by what restoring each alone
gives, then restored in that order and the loss is measured again after each. Here restoring is the
next wider width, and what it gives is divided by the bytes that it takes. Under a budget bits move
instead: an integer program chooses anew among all widths by the same measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmaunet.quant.packed import packed_bytes
from lmaunet.quant.settings import WEIGHT_BITS
from lmaunet.quant.widths import wider

Bits = Mapping[str, int]
"""Weight bits by layer."""


@dataclass(frozen=True)
class Trial:
    """A trained network, of which some layers may be measured at other bits than its own.

    Args:
        bits: its own, by layer.
        drop_points: the drop of Dice on the control patients, with these layers at other bits.
        divergence: the mean divergence of a pixel's classes from the float network's in nats, with
            these layers at other bits.
    """

    bits: Bits
    drop_points: Callable[[Bits], float]
    divergence: Callable[[Bits], float]


@dataclass(frozen=True)
class Choice:
    """The bits of the next training.

    Args:
        bits: by layer; None where there is no other choice.
        ranking: what was measured of each layer, in the order in which bits are given.
        measured: drops in points without training, with so many layers at more bits.
        why: where there is no choice, the reason.
    """

    bits: dict[str, int] | None
    ranking: list[dict[str, Any]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    why: str = ""


def rank(trial: Trial, weights: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return what the next width of each layer gives, the most for its bytes first.

    Args:
        trial: the network.
        weights: how many weights each layer has.
    """
    before = trial.divergence({})
    rows = []
    for layer, bits in trial.bits.items():
        count = weights[layer]
        to = _next_width(count, bits)
        if to is None:
            continue
        more = packed_bytes(count, to) - packed_bytes(count, bits)
        gain = before - trial.divergence({layer: to})
        rows.append({"layer": layer, "bits": bits, "to": to, "gain": gain, "more_bytes": more})
    return sorted(rows, key=_gain_per_byte, reverse=True)


def _next_width(count: int, bits: int) -> int | None:
    """Return the next width of a layer, or the widest that takes no byte more than that."""
    to = wider(bits)
    while to is not None and (after := wider(to)) is not None:
        if packed_bytes(count, after) > packed_bytes(count, to):
            break
        to = after
    return to


def _gain_per_byte(row: Mapping[str, Any]) -> float:
    """Return a row's gain per byte; layers that take no byte more first, losses as they are."""
    gain = float(row["gain"])
    return gain / max(row["more_bytes"], 1) if gain > 0 else gain


def widen(trial: Trial, weights: Mapping[str, int], limit: float, least: int) -> Choice:
    """Return the network's bits with the first layers of the ranking widened.

    They are the fewest whose drop, measured without training, keeps the limit, found by doubling
    and halving; at least ``least``. Where no number of them does, those with the least drop.

    Args:
        trial: what lost too much.
        weights: how many weights each layer has.
        limit: in points.
        least: layers that are widened at least.
    """
    ranking = rank(trial, weights)
    if not ranking:
        return Choice(None, why="every layer has 8 bits")
    order = [(row["layer"], row["to"]) for row in ranking]
    drops: dict[int, float] = {}

    def holds(count: int) -> bool:
        drops[count] = trial.drop_points(dict(order[:count]))
        return drops[count] <= limit

    low, high = min(least, len(order)) - 1, min(least, len(order))
    while not holds(high) and high < len(order):
        low, high = high, min(2 * high, len(order))
    if drops[high] <= limit:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        count = high
    else:
        count = min(drops, key=lambda number: drops[number])
    measured = [{"layers": number, "drop_points": drops[number]} for number in drops]
    return Choice({**trial.bits, **dict(order[:count])}, ranking, measured)


def move(
    trial: Trial,
    free: Sequence[str],
    allocate: Callable[[Mapping[str, Mapping[int, float]]], Bits | None],
    tried: Sequence[Bits],
) -> Choice:
    """Return other bits within the same budget.

    Args:
        trial: what lost too much.
        free: layers whose bits may change.
        allocate: chooses the bits by the sensitivity of every layer at every width; None where
            nothing fits.
        tried: bits that were trained already.
    """
    before = trial.divergence({})
    table: dict[str, dict[int, float]] = {}
    for layer, own in trial.bits.items():
        # of a layer whose bits are fixed nothing is measured
        table[layer] = dict.fromkeys(WEIGHT_BITS, before)
        if layer in free:
            others = [bits for bits in WEIGHT_BITS if bits != own]
            table[layer] |= {bits: trial.divergence({layer: bits}) for bits in others}
    lowest = min(min(row.values()) for row in table.values())
    chosen = allocate({k: {b: v - lowest for b, v in row.items()} for k, row in table.items()})
    ranking = [
        {"layer": layer, "bits": own, "gain": {str(b): before - v for b, v in row.items()}}
        for layer, own in trial.bits.items() if layer in free
        for row in (table[layer],)
    ]  # fmt: skip
    if chosen is None or any(dict(chosen) == dict(other) for other in tried):
        return Choice(None, ranking, why="no other choice of bits fits the budget")
    changed = {layer: bits for layer, bits in chosen.items() if bits != trial.bits[layer]}
    measured = [{"layers": len(changed), "drop_points": trial.drop_points(changed)}]
    return Choice(dict(chosen), ranking, measured)
