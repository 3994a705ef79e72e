"""Weight bits for a limit on what quantization may lose: train, measure, widen, train again.

The drop is measured on patients that are kept for it: no weight of the extra training, no scale and
no number format comes from them, and nothing that is reported of held-out patients has steered the
search. It is against the FP32 control, which was trained the same extra steps without them too.

Each round trains the float network at its bits from the start, so that the network that comes out
is the one that these bits give without any search. Where it loses too much, what widening each
layer gives is measured on it, and the next round has more bits (:mod:`lmaunet.quant.bit_choice`).
Activations stay in 8 bits, the widest that the exports and every target's integer kernels have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmaunet.data.kept_patients import Kept
from lmaunet.errors import UserError
from lmaunet.graph.layers import weight_layers
from lmaunet.quant.allocation import weight_bytes
from lmaunet.quant.bit_choice import Bits, Choice, Trial, move, widen
from lmaunet.quant.bit_training import BitTraining
from lmaunet.quant.bits import protected_layers
from lmaunet.quant.budget import file_sizes, fit
from lmaunet.quant.calibration import spread
from lmaunet.quant.explain import quantizers_of, switched_off
from lmaunet.quant.network import QuantNetwork
from lmaunet.quant.sensitivity import Sensitivity
from lmaunet.quant.widths import at_bits
from lmaunet.stage import read_json, record_of, write_json
from lmaunet.train.metrics import divergence, predict_logits, score_slices
from lmaunet.train.schedule import Progress, part

RECORD = "accuracy_control.json"
"""What was tried, in which order, and what came of it."""

ROUNDS = 8
"""Trainings at most. Each widens twice as many layers as the one before at least, the last all."""

RANKING_IMAGES = 32
"""Control images that the divergence is measured on; a drop is measured on all of them."""

NAMED = 5
"""Activations that are named where nothing else is left to widen."""

PASSED, FAILED = "passed", "failed"


@dataclass(frozen=True)
class Control:
    """What the drop of a quantized network is measured against.

    Args:
        network: the FP32 control.
        kept: the patients that it is measured on, which nothing was trained on.
        refit: under a budget, returns bits by the sensitivity of every layer at every width and
            the bytes of their file, or None where nothing fits; without one None.
        file_bytes: under a budget, of the file of the first round.
    """

    network: nn.Module
    kept: Kept
    refit: Callable[[Sensitivity], tuple[Bits, int] | None] | None = None
    file_bytes: int | None = None


def within_budget(
    control: Control, training: BitTraining, allocation: Mapping[str, Any],
    file_bytes: Callable[[QuantNetwork], int],
) -> Control:  # fmt: skip
    """Return a control whose search keeps to the budget of an allocation, as JSON."""
    graph = training.graph
    size_with = file_sizes(
        graph, training.weights, training.images, training.settings.scales, training.separate,
        file_bytes,
    )  # fmt: skip

    def refit(sensitivity: Sensitivity) -> tuple[Bits, int] | None:
        chosen, size = fit(
            graph, sensitivity, allocation["budget_bytes"], allocation["rest_bytes"], size_with,
            lambda fraction, line: None,
        )  # fmt: skip
        return None if chosen is None else (chosen.bits, size)

    return replace(control, refit=refit, file_bytes=allocation["file_bytes"])


class Measure:
    """Dice and divergence of networks on the control patients."""

    def __init__(self, control: Control, device: torch.device | str = "cpu") -> None:
        self.data = control.kept.control
        self.images = spread(self.data.val.images, RANKING_IMAGES)
        network = control.network.to(device)
        self.scores = self._score(network)
        if not math.isfinite(self.scores.dice):
            raise UserError(
                f"--max-drop: no label of the control patients {', '.join(control.kept.patients)} "
                "shows a class, so that no drop can be measured; label them, or leave it out"
            )
        self.logits = torch.from_numpy(predict_logits(network, self.images))

    def _score(self, model: nn.Module) -> Any:
        return score_slices(predict_logits(model, self.data.val.images).argmax(1), self.data)

    def scored(self, model: nn.Module) -> tuple[float, dict[str, dict[str, float]]]:
        """Return the drop of Dice in points, and the Dice of each class in each case."""
        found = self._score(model)
        return 100 * (self.scores.dice - found.dice), found.per_case

    def divergence(self, model: nn.Module) -> float:
        """Return the mean divergence of a pixel's classes from the control's, in nats."""
        logits = torch.from_numpy(predict_logits(model, self.images))
        return float(divergence(logits, self.logits))

    def trial(self, model: QuantNetwork) -> Trial:
        """Return what the choice of bits needs of a trained network."""

        def drop(changes: Bits) -> float:
            with at_bits(model, changes):
                return self.scored(model)[0]

        def far(changes: Bits) -> float:
            with at_bits(model, changes):
                return self.divergence(model)

        return Trial(model.bits, drop, far)


def control_accuracy(
    control: Control, training: BitTraining, bits: Bits, limit: float, progress: Progress
) -> tuple[dict[str, int], str, int | None]:
    """Search the bits that keep the limit; return them and the name of their training.

    Under a budget the bytes of their file come third, else None.

    The record of the rounds is ``accuracy_control.json`` in the training's folder; the search goes
    on from it. Where no bits keep the limit, those with the least drop are returned, and the record
    has the state ``failed``.

    Args:
        control: what the drop is measured against.
        training: trains a network at given bits; its checkpoints are kept for the best one.
        bits: of the first round, by layer.
        limit: in points of Dice.
        progress: told the fraction done.
    """
    folder, processes = training.folder, training.processes
    path, measure = folder / RECORD, None
    if processes.first and not path.exists():
        write_json(path, {"state": "", "next": dict(bits), "next_file_bytes": control.file_bytes,
                          "rounds": []})  # fmt: skip
    processes.wait()
    while (record := _read(folder))["next"] is not None:
        number = len(record["rounds"])
        start, share = 1 - 0.5**number, 0.5 ** (number + 1)
        say = part(progress, start, share, f"control, round {number + 1}: ")
        network = training.calibrated(record["next"])
        training.fit(network, _name(number), part(say, 0.0, 0.6))
        if processes.first:
            say(0.6, "Dice on the patients kept for control")
            measure = measure or Measure(control, processes.device)
            found = _round(measure, network, control, training, record, limit, say)
            write_json(path, found)
            for other in set(range(number + 1)) - {found["best"]}:
                (folder / f"{_name(other)}.last.pt").unlink(missing_ok=True)
        processes.wait()
    best = record["rounds"][record["best"]]
    return dict(best["bits"]), _name(record["best"]), best.get("file_bytes")


def _round(
    measure: Measure, network: QuantNetwork, control: Control, training: BitTraining,
    record: dict[str, Any], limit: float, say: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Return the record with the round of a network that is trained."""
    rounds, graph = record["rounds"], training.graph
    drop, per_case = measure.scored(network)
    holds = drop <= limit
    entry: dict[str, Any] = {
        "bits": network.bits, "weight_bytes": weight_bytes(graph, network.bits),
        "drop_points": drop, "state": PASSED if holds else FAILED, "per_case": per_case,
    }  # fmt: skip
    if record.get("next_file_bytes"):
        entry["file_bytes"] = record["next_file_bytes"]
    choice, size = Choice(None), None
    if not holds and len(rounds) + 1 < ROUNDS:
        choice, size = _next(measure.trial(network), control, training, rounds, limit, say)
        entry |= {"ranking": choice.ranking, "measured_without_training": choice.measured}
    rounds = [*rounds, entry]
    best = min(range(len(rounds)), key=lambda index: rounds[index]["drop_points"])
    found = {
        "limit_points": limit,
        "state": PASSED if holds else FAILED if choice.bits is None else "",
        "patients": list(control.kept.patients), "slices": len(measure.data.val.slice_z),
        "control_dice": measure.scores.dice, "control_per_case": measure.scores.per_case,
        "best": len(rounds) - 1 if holds else best, "next": choice.bits, "rounds": rounds,
        "next_file_bytes": size,
    }  # fmt: skip
    if found["state"] == FAILED:
        found["why"] = choice.why or f"{ROUNDS} trainings did not keep it"
        found["left"] = {"round": len(rounds), **left_over(measure, network)}
    return found


def _next(
    trial: Trial, control: Control, training: BitTraining, rounds: list[Any], limit: float,
    say: Progress,
) -> tuple[Choice, int | None]:  # fmt: skip
    """Return the bits of the next round, and the bytes of their file under a budget."""
    graph = training.graph
    sizes = {layer.name: layer.weights for layer in weight_layers(graph)}
    counted = 0

    def far(changes: Bits) -> float:
        nonlocal counted
        counted += 1
        say(
            0.6 + 0.4 * counted / (counted + len(sizes)),
            f"what other bits of {', '.join(changes) or 'no layer'} give",
        )
        return trial.divergence(changes)

    def drop(changes: Bits) -> float:
        say(1.0, f"Dice with {len(changes)} layer(s) at other bits")
        return trial.drop_points(changes)

    watched = Trial(trial.bits, drop, far)
    if control.refit is None:
        # the last round has all that can be had
        least = len(sizes) if len(rounds) + 2 == ROUNDS else 2 ** len(rounds)
        choice = widen(watched, sizes, limit, least)
        if choice.bits is not None and len(rounds) + 2 == ROUNDS:
            choice = Choice(dict.fromkeys(choice.bits, 8), choice.ranking, choice.measured)
        return choice, None
    sized: list[int] = []

    def refit(table: Sensitivity) -> Bits | None:
        assert control.refit is not None
        found = control.refit(table)
        if found is None:
            return None
        sized.append(found[1])
        return found[0]

    free = [name for name in sizes if name not in protected_layers(graph)]
    tried = [entry["bits"] for entry in rounds] + [trial.bits]
    return move(watched, free, refit, tried), sized[0] if sized else None


def left_over(measure: Measure, network: QuantNetwork) -> dict[str, Any]:
    """Return what a network still loses, where bits of weights are no help any more.

    ``float_weights_points`` and ``float_activations_points`` are the drops with all weights or all
    activations left in float, without training; ``activations`` those that cost most, by what
    leaving each alone in float gives in nats.
    """
    found = quantizers_of(network)
    kinds = {
        kind: [proxy for _, of, proxy in found if of == kind] for kind in ("weights", "activations")
    }
    drops = {}
    for kind, proxies in kinds.items():
        with switched_off(proxies):
            drops[f"float_{kind}_points"] = measure.scored(network)[0]
    before = measure.divergence(network)
    rows: list[dict[str, Any]] = []
    for name, kind, proxy in found:
        if kind == "activations":
            with switched_off([proxy]):
                rows.append({"activation": name, "gain": before - measure.divergence(network)})
    rows.sort(key=lambda row: -row["gain"])
    return {**drops, "activations": rows[:NAMED]}


def _name(number: int) -> str:
    """Return the name of a round's training; the first is that of a training without a limit."""
    return "QAT" if number == 0 else f"QAT-{number}"


def _read(folder: Path) -> dict[str, Any]:
    with record_of(folder):
        found: dict[str, Any] = read_json(folder / RECORD)
    return found
