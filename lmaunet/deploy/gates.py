"""The gates that a deployment must pass, and the comparison with an earlier report.

This is the only arithmetic of the report: a figure against a limit, and a figure against the same
figure of a baseline. A gate on an unavailable figure is open: it neither passed nor failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmaunet.artifacts import PROVENANCES
from lmaunet.deploy.gate_limits import FLOORS, Limit, Limits, default_limits

PASSED, FAILED, OPEN = "passed", "failed", "open"
AT_MOST, AT_LEAST = "at most", "at least"

#: What a regression's ``kind`` may be. Every kind but ``note`` sets the exit status.
KINDS = ("worse", "provenance", "lost", "missing", "not_compared", "note")

#: How strong a way of obtaining a figure is.
STRENGTH = {name: -place for place, name in enumerate(PROVENANCES)}

#: What a latency was obtained on, as targets name it in ``detail``.
DEVICE_KEYS = ("cpu", "threads", "gpu", "board")

#: Another figure to show beside a gate, where the gated one alone would mislead.
BESIDE = {"weights_mb": "size_mb"}

#: What the gate on the worst class repeats of a target's ``worst_class``.
CLASS_KEYS = ("class", "reference", "dice", "relative_loss")


@dataclass(frozen=True)
class Gate:
    """A limit on one figure of a target: a floor for Dice, the largest value for all others.

    Args:
        figure: the key of the figure in a target of the report.
        limit: the value that just passes, in the figure's unit.
        only: the targets it applies to; empty for all.
        exempt: targets that it does not apply to.
        beside: another figure to show next to it, where the gated one alone would mislead.
        why: why the limit is this one, to be shown with it.
    """

    figure: str
    limit: float
    only: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()
    beside: str = ""
    why: str = ""

    def applies(self, target: str) -> bool:
        """Whether the gate is on this target."""
        return target not in self.exempt and (not self.only or target in self.only)

    @property
    def direction(self) -> str:
        """``at least`` or ``at most``."""
        return AT_LEAST if self.figure in FLOORS else AT_MOST

    def passes(self, value: float) -> bool:
        """Whether a value keeps the limit; NaN never does."""
        return value >= self.limit if self.direction == AT_LEAST else value <= self.limit


def gates_of(limits: Limits) -> tuple[Gate, ...]:
    """Return the gates of limits by target and figure."""
    tables = {target: table for target, table in limits.items() if target}
    gates = []
    for figure, limit in limits.get("", {}).items():
        exempt = tuple(target for target, table in tables.items() if figure in table)
        gates += _gate(figure, limit, exempt=exempt)
    for target, table in tables.items():
        for figure, limit in table.items():
            gates += _gate(figure, limit, only=(target,))
    return tuple(gates)


def _gate(figure: str, limit: Limit, **targets: tuple[str, ...]) -> list[Gate]:
    if limit.value is None:
        return []
    beside = BESIDE.get(figure, "")
    return [Gate(figure, limit.value, beside=beside, why=limit.why, **targets)]  # type: ignore[arg-type]


def default_gates(budget_mb: float | None = None) -> tuple[Gate, ...]:
    """Return the gates of the default file, with another size budget in MB (10^6 bytes) if given.

    A TensorRT engine holds compiled kernels next to the weights, so its gate is on ``weights_mb``
    and shows ``size_mb`` beside it.
    """
    gates = gates_of(default_limits())
    if budget_mb is None:
        return gates
    sizes = ("size_mb", "weights_mb")
    return tuple(replace(g, limit=budget_mb) if g.figure in sizes else g for g in gates)


def evaluate(
    targets: Mapping[str, Mapping[str, Any]],
    gates: Iterable[Gate] | None = None,
    *,
    strict: bool = False,
) -> list[dict[str, Any]]:
    """Return the report's ``gates``, one entry for each gate and target, target by target.

    Args:
        targets: the report's ``targets``.
        gates: :func:`default_gates` where None.
        strict: an unavailable figure fails its gate instead of leaving it open.
    """
    chosen = default_gates() if gates is None else tuple(gates)
    return [
        _evaluate_one(gate, name, target, strict)
        for name, target in targets.items()
        for gate in chosen
        if gate.applies(name)
    ]


def _evaluate_one(gate: Gate, name: str, target: Mapping[str, Any], strict: bool) -> dict[str, Any]:
    figure = target[gate.figure]
    entry: dict[str, Any] = {
        "name": gate.figure, "target": name, "limit": gate.limit, "direction": gate.direction
    }  # fmt: skip
    if "unavailable" in figure:
        entry |= {"unavailable": figure["unavailable"], "state": FAILED if strict else OPEN}
    else:
        entry |= {
            "value": figure["value"],
            "unit": figure["unit"],
            "provenance": figure["provenance"],
            "state": PASSED if gate.passes(figure["value"]) else FAILED,
        }
        if gate.figure == "class_drop_points":
            entry |= {key: target["worst_class"][key] for key in CLASS_KEYS}
    if gate.why:
        entry["why"] = gate.why
    if gate.beside:
        entry["beside"] = {gate.beside: target[gate.beside]}
    return entry


def worst_class(
    reference: Mapping[str, float], own: Mapping[str, float]
) -> dict[str, Any] | None:  # fmt: skip
    """Return the class that lost most Dice, with its Dice before and now; None without classes.

    ``relative_loss`` is the share of the reference's Dice that is lost, negative for a gain; None
    where the reference has none to lose.
    """
    classes = [name for name in reference if name in own]
    if not classes:
        return None
    name = max(classes, key=lambda name: reference[name] - own[name])
    before, now = reference[name], own[name]
    loss = (before - now) / before if before > 0 else None
    return {"class": name, "reference": before, "dice": now, "relative_loss": loss}


@dataclass(frozen=True)
class Threshold:
    """How much worse a figure may be than in the baseline.

    It may be worse by ``absolute`` (in the figure's unit) plus ``relative`` times the baseline's
    value. Lower is better unless ``higher_is_better``.
    """

    figure: str
    absolute: float = 0.0
    relative: float = 0.0
    higher_is_better: bool = False

    def excess(self, before: float, now: float) -> bool:
        """Whether ``now`` is worse than ``before`` by more than what is allowed."""
        worse = before - now if self.higher_is_better else now - before
        return worse > self.absolute + self.relative * abs(before) + 1e-9

    def __str__(self) -> str:
        parts = [f"{self.absolute:g}"] if self.absolute else []
        parts += [f"{self.relative * 100:g}%"] if self.relative else []
        return " + ".join(parts) or "0"


THRESHOLDS = (
    Threshold("size_mb", relative=0.01),
    Threshold("weights_mb", relative=0.01),
    Threshold("dice", absolute=0.005, higher_is_better=True),
    Threshold("dice_drop_points", absolute=0.1),
    Threshold("class_drop_points", absolute=0.5),
    Threshold("hd95_mm", absolute=0.1, relative=0.10),
    Threshold("latency_ms", relative=0.05),
)
#: Of what a hardware design says in its ``detail``. That it takes more of its board is a note.
INTERVAL = Threshold("interval_ms", relative=0.05)
MORE_OF_THE_BOARD = Threshold("resources", relative=0.02)


def differences(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """Say in what the network or the data of two reports differ; empty where they compare."""
    keys = {
        "model": ("spec", "params", "macs", "input"),
        "data": ("name", "split", "cases", "slices", "label_source", "synthetic"),
    }
    found = []
    for part, names in keys.items():
        for key in names:
            before, now = baseline[part].get(key), report[part].get(key)
            if before != now:
                found.append(f"{part}.{key} was {_said(before)}, is {_said(now)}")
    return found


def _said(value: Any) -> str:
    text = "not stated" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def regressions(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what got worse since ``baseline``, as the report's ``regressions``.

    An entry has ``kind``, ``target``, ``figure`` and ``message``, and where they exist ``before``
    and ``now``, each a figure. The kinds are

    - ``worse``: by more than its :data:`THRESHOLDS` entry, both of one provenance;
    - ``provenance``: obtained in a weaker way, such as measured before and estimated now;
    - ``lost``: a figure of the baseline that is unavailable now;
    - ``missing``: a target of the baseline that the report lacks;
    - ``not_compared``: the baseline has another network or other data, nothing was compared;
    - ``note``: figures that do not compare (another device, a stronger provenance), or a design
      that takes more of its board. A note does not set the exit status.
    """
    other = differences(report, baseline)
    if other:
        message = "not compared, the baseline is of something else: " + "; ".join(other)
        return [{"kind": "not_compared", "target": "", "figure": "", "message": message}]
    found: list[dict[str, Any]] = []
    for name, before in baseline["targets"].items():
        now = report["targets"].get(name)
        if now is None:
            message = f"target {name} is in the baseline and not in this report"
            found.append({"kind": "missing", "target": name, "figure": "", "message": message})
            continue
        for threshold in THRESHOLDS:
            found += _compare(name, threshold, before, now)
        found += _compare_designs(name, before["detail"], now["detail"])
    return found


def _compare_designs(
    target: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Compare what two hardware designs say in their details, where both say it alike."""
    found: list[dict[str, Any]] = []
    before, now = _interval(old), _interval(new)
    if before and now:
        sides = ({INTERVAL.figure: f, "detail": d} for f, d in ((before, old), (now, new)))
        found += _compare(target, INTERVAL, *sides)
    for key in ("board", "resources_provenance"):
        if old.get(key) != new.get(key):
            return found
    uses, uses_now = old.get("resources"), new.get("resources")
    if isinstance(uses, Mapping) and isinstance(uses_now, Mapping):
        for name in uses:
            was, used = _used(uses[name]), _used(uses_now.get(name))
            if was is not None and used is not None and MORE_OF_THE_BOARD.excess(was, used):
                message = f"{target} takes more of its board: {name} was {was:,.10g}, is "
                message += f"{used:,.10g} ({old.get('resources_provenance', 'estimated')})"
                entry = {"kind": "note", "target": target, "figure": name, "message": message}
                found.append(entry)
    return found


def _interval(detail: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the time between two images as a figure: estimated, unless it says otherwise."""
    value = _used({"used": detail.get(INTERVAL.figure)})
    stated = detail.get(f"{INTERVAL.figure}_provenance")
    provenance = stated if stated in STRENGTH else "estimated"
    return None if value is None else {"value": value, "unit": "ms", "provenance": provenance}


def _used(use: Any) -> float | None:
    """Return how much is used, where that is a number; detail is not checked by the schema."""
    value = use.get("used") if isinstance(use, Mapping) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _compare(
    target: str, threshold: Threshold, old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[dict[str, Any]]:
    figure = threshold.figure
    before, now = old[figure], new[figure]
    if "unavailable" in before:
        return []

    def entry(kind: str, message: str) -> list[dict[str, Any]]:
        return [
            {
                "kind": kind,
                "target": target,
                "figure": figure,
                "message": f"{target} {figure}: {message}",
                "before": before,
                "now": now,
            }
        ]

    if "unavailable" in now:
        return entry("lost", f"was {_figure(before)}, is unavailable")
    change = f"was {_figure(before)}, is {_figure(now)}"
    strength = STRENGTH[now["provenance"]] - STRENGTH[before["provenance"]]
    if strength < 0:
        return entry("provenance", change)
    if strength > 0:
        return entry("note", f"{change}; figures of different provenance are not compared")
    if figure in ("latency_ms", INTERVAL.figure):
        device = _device_change(old.get("detail", {}), new.get("detail", {}))
        if device:
            return entry("note", f"{change}; not compared, {device}")
    if threshold.excess(before["value"], now["value"]):
        return entry("worse", f"{change}; it may be worse by {threshold}")
    return []


def latency_conditions(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a target's latency was obtained on; it may be in ``detail["latency"]``."""
    timing = detail.get("latency")
    return {**detail, **(timing if isinstance(timing, Mapping) else {})}


def _device_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, now = latency_conditions(old), latency_conditions(new)
    for key in DEVICE_KEYS:
        if before.get(key) != now.get(key):
            return f"{key} was {_said(before.get(key))}, is {_said(now.get(key))}"
    return ""


def _figure(figure: Mapping[str, Any]) -> str:
    unit = "" if figure["unit"] == "1" else f" {figure['unit']}"
    return f"{figure['value']:.4g}{unit} ({figure['provenance']})"


def exit_status(report: Mapping[str, Any]) -> int:
    """Return 1 when a gate failed or a regression exists, else 0."""
    failed = any(gate["state"] == FAILED for gate in report["gates"])
    regressed = any(entry["kind"] != "note" for entry in report["regressions"])
    return int(failed or regressed)
