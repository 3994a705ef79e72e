"""The article's figures beside ours: the rows of its ablation and of its study of few patients.

Intervals are paired bootstraps: patients are drawn with replacement, each with all of its cases and
in every network alike, and in the study the draws of training patients as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accuracy_table import CONFIDENCE, RESAMPLES, drop, patients_of

from lmaunet.deploy.describe import ARTICLE, count_macs, layers_of
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec, named_spec

NETWORKS = ("unet", "unet-large-kernel", "unet-mamba", "base")
ARTICLE_DICE = {"unet": 76.3, "unet-large-kernel": 78.1, "unet-mamba": 79.5, "base": 82.7}
ARTICLE_HD95_MM = {"unet": 5.2, "unet-large-kernel": 4.8, "unet-mamba": 4.3, "base": 3.7}
ARTICLE_LOSS = {"unet": 8.7, "base": 4.1}
"""Points of Dice that 20% of the training data cost."""

Scores = Mapping[str, Any]
"""Of one training: ``dice``, ``per_case``, ``hd95_by_patient``, ``last`` loss and Dice."""


def ablation_rows(
    specs: Mapping[str, NetSpec], found: Mapping[str, Mapping[int, Scores]]
) -> dict[str, Any]:
    """Return a row for each network over the seeds that all of them have, and both orders.

    Args:
        specs: the networks as trained, by name.
        found: scores by network and seed.

    Raises:
        UserError: where no seed has all networks.
    """
    seeds = sorted(set.intersection(*(set(found[name]) for name in specs)))
    if not seeds:
        raise UserError(
            f"no seed has all of {', '.join(specs)} trained; give the command without --finished"
        )
    rows = [_row(name, specs, {n: [found[n][s] for s in seeds] for n in specs}) for name in specs]
    ours = sorted(specs, key=lambda name: _by_name(rows)[name]["dice_mean"])
    articles = sorted(specs, key=lambda name: ARTICLE_DICE[name])
    return {
        "seeds_of_all": seeds,
        "patients": len(patients_of(found["unet"][seeds[0]]["per_case"])),
        "input_size": list(specs["unet"].input_size),
        "rows": rows,
        "order": ours,
        "order_of_the_article": articles,
        "order_is_the_articles": ours == articles,
    }


def _by_name(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["network"]: row for row in rows}


def _row(
    name: str, specs: Mapping[str, NetSpec], found: Mapping[str, Sequence[Scores]]
) -> dict[str, Any]:
    own, layers = found[name], layers_of(specs[name])
    dices = [100 * scores["dice"] for scores in own]
    distances = [_mean(scores["hd95_by_patient"]) for scores in own]
    whole = named_spec(name)
    return {
        "network": name,
        "spec": specs[name].to_json(),
        "parameters": sum(layer.params for layer in layers),
        "macs": sum(layer.macs for layer in layers),
        "at_full_width": {
            "parameters": sum(layer.params for layer in layers_of(whole)),
            "operations_at_512": 2 * count_macs(whole, 512, 512),
        },
        "article": {
            "dice": ARTICLE_DICE[name], "hd95_mm": ARTICLE_HD95_MM[name],
            "parameters": ARTICLE[name][0], "operations": 1e9 * ARTICLE[name][1],
        },
        "dice": dices,
        "dice_mean": statistics.fmean(dices),
        "dice_spread": statistics.stdev(dices) if len(dices) > 1 else None,
        "per_class": {
            organ: 100 * statistics.fmean(scores["per_class"][organ] for scores in own)
            for organ in own[0]["per_class"]
        },
        "hd95_pixels": distances,
        "hd95_pixels_mean": statistics.fmean(distances),
        "last_loss": [scores["last"]["loss"] for scores in own],
        "against": {
            other: _difference(found[other], own)
            for other in ("unet", "base") if other in found and other != name
        },
    }  # fmt: skip


def _mean(distances: Mapping[str, float]) -> float:
    return statistics.fmean(distances.values())


def _difference(theirs: Sequence[Scores], own: Sequence[Scores]) -> dict[str, Any]:
    """Return what a network gains on another one, in points of Dice and in pixels of HD95."""
    pairs = list(zip(theirs, own, strict=True))
    gains = -np.stack([drop(a["per_case"], b["per_case"], patient_draws(a)) for a, b in pairs])
    names = sorted(set.intersection(*(set(s["hd95_by_patient"]) for s in (*theirs, *own))))
    further = np.mean(
        [[b["hd95_by_patient"][n] - a["hd95_by_patient"][n] for n in names] for a, b in pairs], 0
    )
    picks = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    return {
        "dice_points": 100 * statistics.fmean(b["dice"] - a["dice"] for a, b in pairs),
        "dice_interval": ends_of(gains.mean(0)),
        "hd95_pixels": float(further.mean()),
        "hd95_interval": ends_of(further[picks].mean(1)),
    }


def patient_draws(scores: Scores) -> np.ndarray:
    """Return how often each of ``RESAMPLES`` sets holds each patient, ``(sets, patients)``."""
    count = len(patients_of(scores["per_case"]))
    picked = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    draws = np.zeros(picked.shape)
    np.add.at(draws, (np.arange(RESAMPLES)[:, None], picked), 1)
    return draws


def ends_of(values: np.ndarray) -> list[float]:
    """Return both ends of the interval that holds 95% of resampled values."""
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(low), float(high)]


def over_draws(losses: np.ndarray) -> list[float]:
    """Return the interval of a mean over draws, each resampled over patients.

    Args:
        losses: ``(draws, sets of patients)``.
    """
    count, sets = losses.shape
    picked = np.random.default_rng(1).integers(count, size=(sets, count))
    return ends_of(losses[picked, np.arange(sets)[:, None]].mean(1))


def study_rows(
    specs: Mapping[str, NetSpec],
    found: Mapping[tuple[str, str], Mapping[int, Mapping[str, Scores]]],
) -> dict[str, Any]:
    """Return what a part of the patients costs each network, and how these costs differ.

    Args:
        specs: the networks as trained, by name.
        found: by network and start, by draw: the scores of ``all`` patients and of the ``part``.

    Raises:
        UserError: where no draw has all trainings of a start.
    """
    rows, resampled = [], dict[tuple[str, str], np.ndarray]()
    starts = list(dict.fromkeys(start for _, start in found))
    draws_of = {
        start: sorted(set.intersection(*(set(found.get((n, start), {})) for n in specs)))
        for start in starts
    }
    if not draws_of.get("random"):
        raise UserError("no draw has all of its trainings; give the command without --finished")
    for start in (start for start in starts if draws_of[start]):
        for name in specs:
            pairs = [found[name, start][draw] for draw in draws_of[start]]
            resampled[name, start] = np.stack([
                drop(p["all"]["per_case"], p["part"]["per_case"], patient_draws(p["all"]))
                for p in pairs
            ])  # fmt: skip
            losses = [100 * (p["all"]["dice"] - p["part"]["dice"]) for p in pairs]
            rows.append({
                "network": name,
                "start": start,
                "draws": draws_of[start],
                "dice_all": [100 * p["all"]["dice"] for p in pairs],
                "dice_part": [100 * p["part"]["dice"] for p in pairs],
                "loss_points": losses,
                "loss_points_mean": statistics.fmean(losses),
                "loss_interval": over_draws(resampled[name, start]),
                "loss_points_of_the_article": ARTICLE_LOSS[name] if start == "random" else None,
            })  # fmt: skip
    return {
        "input_size": list(specs["unet"].input_size),
        "parameters": {
            name: sum(layer.params for layer in layers_of(spec)) for name, spec in specs.items()
        },
        "rows": rows,
        "unet_loses_more": [
            _more(rows, resampled, ("base", start), ("unet", start))
            for start in starts if ("base", start) in resampled
        ],
        "pretraining_saves": [
            _saved(name, found, draws_of) for name in specs if draws_of.get("pretrained")
        ],
    }  # fmt: skip


def _more(
    rows: Sequence[dict[str, Any]],
    resampled: Mapping[tuple[str, str], np.ndarray],
    less: tuple[str, str],
    more: tuple[str, str],
) -> dict[str, Any]:
    """Return how many more points one network loses than another, paired by draw and patient."""
    means = {(row["network"], row["start"]): row["loss_points_mean"] for row in rows}
    difference = resampled[more] - resampled[less]
    points = means[more] - means[less]
    return {"start": more[1], "points": points, "interval": over_draws(difference),
            "points_of_the_article": ARTICLE_LOSS["unet"] - ARTICLE_LOSS["base"]}  # fmt: skip


def _saved(
    name: str,
    found: Mapping[tuple[str, str], Mapping[int, Mapping[str, Scores]]],
    draws_of: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Return what a pretrained start gains on a random one, on the part of the patients."""
    draws = sorted(set(draws_of["random"]) & set(draws_of["pretrained"]))
    pairs = [
        (found[name, "random"][d]["part"], found[name, "pretrained"][d]["part"]) for d in draws
    ]
    gains = -np.stack([drop(a["per_case"], b["per_case"], patient_draws(a)) for a, b in pairs])
    points = 100 * statistics.fmean(b["dice"] - a["dice"] for a, b in pairs)
    return {"network": name, "points": points, "interval": over_draws(gains)}


def ablation_table(content: Mapping[str, Any]) -> list[str]:
    """Return the ablation as lines of a Markdown table, the article's figures beside ours."""
    lines = [
        "| network | DSC of the article, % | ours, mean (by seed) | against unet, points (95%) | "
        "HD95 of the article, mm | ours, pixels | against unet, pixels (95%) | "
        "parameters, M: article, ours, trained | G operations: article, ours, trained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        article, full = row["article"], row["at_full_width"]
        gain = row["against"].get("unet")
        lines.append("| " + " | ".join([
            row["network"],
            f"{article['dice']:.1f}",
            f"{row['dice_mean']:.2f} ({', '.join(f'{d:.2f}' for d in row['dice'])})",
            "" if gain is None else _interval(gain["dice_points"], gain["dice_interval"]),
            f"{article['hd95_mm']:.1f}",
            f"{row['hd95_pixels_mean']:.2f}",
            "" if gain is None else _interval(gain["hd95_pixels"], gain["hd95_interval"]),
            f"{article['parameters'] / 1e6:.1f}, {full['parameters'] / 1e6:.2f}, "
            f"{row['parameters'] / 1e6:.3f}",
            f"{article['operations'] / 1e9:.1f}, {full['operations_at_512'] / 1e9:.1f}, "
            f"{2 * row['macs'] / 1e9:.3f}",
        ]) + " |")  # fmt: skip
    same = "the article's order" if content["order_is_the_articles"] else "not the article's order"
    return [*lines, "", f"by DSC, worst first: {', '.join(content['order'])} ({same})"]


def _interval(value: float, ends: Sequence[float]) -> str:
    return f"{value:+.2f} ({ends[0]:+.2f} to {ends[1]:+.2f})"


def study_table(content: Mapping[str, Any]) -> list[str]:
    """Return the study as lines of a Markdown table."""
    lines = [
        f"| network | start | DSC with all | DSC with {content['percent']:g}% | loss, points (95%) "
        "| the article's loss |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        article = row["loss_points_of_the_article"]
        lines.append("| " + " | ".join([
            row["network"],
            row["start"],
            ", ".join(f"{d:.2f}" for d in row["dice_all"]),
            ", ".join(f"{d:.2f}" for d in row["dice_part"]),
            _interval(row["loss_points_mean"], row["loss_interval"]),
            "" if article is None else f"{article:.1f}",
        ]) + " |")  # fmt: skip
    lines.append("")
    for more in content["unet_loses_more"]:
        lines.append(
            f"unet loses {_interval(more['points'], more['interval'])} points more than base "
            f"({more['start']} start; the article: {more['points_of_the_article']:+.1f})"
        )
    for saved in content["pretraining_saves"]:
        lines.append(
            f"pretraining gives {saved['network']} {_interval(saved['points'], saved['interval'])} "
            f"points with {content['percent']:g}%"
        )
    return lines
