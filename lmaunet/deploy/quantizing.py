"""The command ``qat``: its options, and what it says of bits, notices and costs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.deploy import defaults, pipeline
from lmaunet.deploy.console import first_process, percent, progress_bar, table
from lmaunet.deploy.controlled import lines_of, status_of
from lmaunet.deploy.outcome import ORIGIN_FILE, Outcome
from lmaunet.deploy.run_lock import in_use_if_there
from lmaunet.deploy.runs import DataSource, choose_data, run_for_checkpoint
from lmaunet.errors import UserError
from lmaunet.quant.bits import read_rules
from lmaunet.quant.settings import QatSettings
from lmaunet.stage import read_json, record_of
from lmaunet.stated_spec import StatedSpec
from lmaunet.train.schedule import Progress, Schedule

QAT_SHARE, CONTROL_SHARE = 0.65, 0.2
"""Of the work: QAT where it is done first, and the control where that is."""
EXPLAINED = 15

WORDS = {
    "float32": "FP32 as it came",
    "control": "FP32 control, the same extra steps",
    "converted": "FP32 with batch normalization, converted alone",
    "distilled": "FP32 with batch normalization, distilled",
    "ptq": "quantized, calibrated only (PTQ)",
    "qat": "quantized, after QAT",
}


@dataclass(frozen=True)
class QatOptions:
    """The options of the command, as typed."""

    epochs: int = defaults.QAT_EPOCHS
    learning_rate: float = defaults.QAT_RATE
    batch_size: int = defaults.BATCH_SIZE
    seed: int = 0
    bits: str | None = None
    budget_mb: float | None = None
    scales: str = "free"
    distillation: float = 0.0
    keep_norms: bool = True
    explain: bool = False
    weights: str | None = None
    joins: str = ""
    norm: str = "keep"
    norm_epochs: int = defaults.NORM_EPOCHS
    dropout: float = 0.0
    drop_modality: float | None = None
    max_drop: float | None = None

    def settings(self) -> QatSettings:
        """Return the settings of QAT; raises UserError for what can't be read."""
        bits = () if self.bits is None else tuple(read_rules(self.bits))
        if self.budget_mb is not None and not 1e-6 <= self.budget_mb < 1e6:
            raise UserError(
                f"--budget-mb {self.budget_mb:g}; give a positive size of a byte (1e-6) or more "
                "and less than 1,000,000 MB, such as 4.2"
            )
        return QatSettings(
            Schedule(
                self.epochs, self.learning_rate, self.batch_size, drop_modality=self.drop_modality
            ),
            bits=bits,
            budget_bytes=None if self.budget_mb is None else int(self.budget_mb * 1e6),
            scales=self.scales,  # type: ignore[arg-type]
            distillation=self.distillation,
            keep_norms=self.keep_norms,
            explain=self.explain,
            joins=self.joins,
            norm=self.norm,
            norm_epochs=self.norm_epochs,
            dropout=self.dropout,
            max_drop=self.max_drop,
        )


@dataclass(frozen=True)
class QuantizedRun:
    """A run whose ``qat`` and ``control`` are done."""

    run: Path
    source: DataSource
    settings: QatSettings
    quantized: Outcome
    control: Outcome


def quantize_run(
    run: Path | None,
    checkpoint: Path,
    source: DataSource | None,
    stated: StatedSpec | None,
    options: QatOptions,
    bar: Callable[[str], contextlib.AbstractContextManager[Progress]],
) -> QuantizedRun:
    """Quantize a checkpoint into a run, beside its FP32 control; ``bar`` shows the progress."""
    settings = options.settings()  # what is refused is refused before anything is loaded
    if not checkpoint.is_file():
        raise UserError(f"checkpoint {checkpoint} does not exist or is not a file; give a .pt file")
    run = run_for_checkpoint(run, checkpoint)
    with bar("quantizing") as progress, in_use_if_there(run):
        source = choose_data(run, source)
        if settings.max_drop is not None:
            # drops are measured against the control while bits are chosen
            trained = pipeline.control(
                run, checkpoint, source, settings.schedule, options.seed,
                lambda fraction, line: progress(CONTROL_SHARE * fraction, line), stated,
                options.weights, settings,
            )  # fmt: skip
            outcome = pipeline.qat(
                run, checkpoint, source, settings, options.seed,
                lambda fraction, line: progress(
                    CONTROL_SHARE + (1 - CONTROL_SHARE) * fraction, line
                ),
                stated, options.weights, trained.folder,
            )  # fmt: skip
            return QuantizedRun(run, source, settings, outcome, trained)
        # quantization first: it refuses bad images and budgets before anything is trained
        outcome = pipeline.qat(
            run, checkpoint, source, settings, options.seed,
            lambda fraction, line: progress(QAT_SHARE * fraction, line), stated, options.weights,
        )  # fmt: skip
        trained = pipeline.control(
            run, checkpoint, source, settings.schedule, options.seed,
            lambda fraction, line: progress(QAT_SHARE + (1 - QAT_SHARE) * fraction, line), stated,
            options.weights,
        )  # fmt: skip
    return QuantizedRun(run, source, settings, outcome, trained)


def result_of(done: QuantizedRun) -> dict[str, Any]:
    """Return what ``qat`` and ``control`` wrote: scores, the checkpoint's origin, bits, joins."""
    with record_of(done.control.folder):
        scores = dict(read_json(done.control.folder / "control.json")["scores"])
    folder = done.quantized.folder
    with record_of(folder):
        content: dict[str, Any] = read_json(folder / "qat.json")
        content["scores"] = {**scores, **content["scores"]}
        content["checkpoint"] = read_json(folder / ORIGIN_FILE)
        asked = {
            "allocation": done.settings.budget_bytes is not None, "explain": done.settings.explain
        }  # fmt: skip
        asked["confidence"] = done.settings.dropout > 0
        asked["accuracy_control"] = done.settings.max_drop is not None
        content |= {name: read_json(folder / f"{name}.json") for name in asked if asked[name]}
    return content


def qat(
    run: Path | None,
    checkpoint: Path,
    source: DataSource | None,
    stated: StatedSpec | None,
    options: QatOptions,
) -> tuple[Any, list[str], int]:
    """Do :func:`quantize_run` for the command; return its JSON, its lines and the status.

    The status is 1 where a limit is not kept.
    """
    done = quantize_run(run, checkpoint, source, stated, options, progress_bar)
    if not first_process():
        return {}, [], 0
    status = 0
    content, folder = result_of(done), done.quantized.folder
    with record_of(folder):
        lines = [f"checkpoint: {checkpoint} {content['checkpoint']['line']}"]
        lines += [f"note: {note}" for note in content["checkpoint"]["notes"]]
        synthetic = done.source.path is None
        lines.append(f"data: {'the phantom (synthetic)' if synthetic else done.source.path}")
        if "allocation" in content:
            lines += [*_allocation(content["allocation"]), ""]
            lines.append(f"plot: {folder / pipeline.ALLOCATION_PLOT}")
        scores = content["scores"]
        rows = [[WORDS[k], percent(scores[k]["dice"], 2)] for k in WORDS if k in scores]
        lines += table(["network", "Dice on held-out slices"], rows)
        lines += missing_lines(content.get("modalities"))
        lines += _norms(content)
        lines += _joins(content["joins"])
        lines += _dropout(content.get("confidence"))
        lines += [f"note: {notice}" for notice in content["notices"]]
        if "explain" in content:
            lines += ["", *_explained(content["explain"])]
        if "accuracy_control" in content:
            lines += ["", *lines_of(content["accuracy_control"]), ""]
            status = status_of(content["accuracy_control"])
    cached = " (was there already)" if done.quantized.cached else ""
    lines.append(
        f"wrote {folder}{cached}; next: lmaunet-deploy build --target ort --run {done.run}"
    )
    return content, lines, status


def _allocation(content: dict[str, Any]) -> list[str]:
    """Return the table of bits, bytes and sensitivity, layer by layer."""
    rows = [
        [
            row["layer"],
            f"{row['weights']:,}",
            str(row["bits"]),
            f"{row['bytes']:,}",
            *(f"{row['sensitivity'][bits]:.1e}" for bits in ("2", "3", "4", "8")),
        ]
        for row in content["layers"]
    ]
    header = ["layer", "weights", "bits", "bytes", *(f"at {b} bits" for b in (2, 3, 4, 8))]
    return [
        "sensitivity: mean divergence of a pixel's classes, in nats, with this layer alone rounded",
        *table(header, rows),
        f"weights {content['weight_bytes']:,} + rest {content['rest_bytes']:,} = file "
        f"{content['file_bytes']:,} bytes of {content['budget_bytes']:,}",
        "the budget is that of model.onnx alone; the report's size and its gate also count the "
        "library of operators that a build for ort ships beside it",
    ]


def _norms(content: dict[str, Any]) -> list[str]:
    """Return which norms were converted, and what that cost, where that was asked for."""
    converted = content.get("norms", {}).get("converted", {})
    kinds = [f"{count} {kind}" for kind, count in converted.items() if count]
    if not kinds:
        return []
    scores = content["scores"]
    last = "distilled" if "distilled" in scores else "converted"
    dices = [scores[name]["dice"] for name in ("float32", last)]
    change = "is not known: no held-out slice shows a class"
    if None not in dices:
        change = f"changed by {100 * (dices[1] - dices[0]):+.2f} points"
    epochs = content["norms"]["epochs"]
    after = f"after {epochs} epoch(s) of distillation" if epochs else "without distillation"
    return [f"norms: {' and '.join(kinds)} became batch normalization; {after} Dice on held-out "
            f"slices {change}"]  # fmt: skip


def _dropout(found: dict[str, Any] | None) -> list[str]:
    """Return what the network was trained to say of its confidence, where that was asked for."""
    if found is None:
        return []
    return [
        f"dropout {found['dropout']:g} of the {found['channels']} channels before the head; "
        f"temperature {found['temperature']:.3g}, fitted on {found['fitted']['patients']} held-out "
        "patient(s): builds take infer --confidence"
    ]


def missing_lines(content: Mapping[str, Any] | None) -> list[str]:
    """Return the Dice without each modality, where training left some out."""
    if content is None:
        return []
    dice = content["dice"]
    rows = [["all", percent(dice["all"], 2)]]
    rows += [
        [f"without {name}", percent(value, 2)]
        for name, value in zip(content["names"], dice["missing"], strict=True)
    ]
    left_out = f"each image was left out with probability {content['drop']:g} in training"
    return [left_out, *table(["images", "Dice on held-out slices"], rows)]


def _joins(rows: list[dict[str, Any]]) -> list[str]:
    """Return what was chosen for additions and concatenations, where anything was tried."""
    lines = []
    for row in rows:
        if row["choice"] == "shared":
            continue
        gain = row["sqnr_db"][row["choice"]] - row["sqnr_db"]["shared"]
        how = "a scale for each input"
        if row["choice"] == "scaled":
            how = f"one scale, an input's producer scaled by {row['factor']:g}"
        lines.append(f"scales at {row['join']}: {how} ({gain:+.1f} dB of the logits)")
    left = len(rows) - len(lines)
    if left:
        others = f"the other {left}" if lines else f"all {left}"
        lines.append(f"scales at {others} joins: one for all inputs")
    return lines


def _explained(rows: list[dict[str, Any]]) -> list[str]:
    """Return the costliest quantizers as a table."""
    shown = [
        [
            row["quantizer"],
            row["kind"],
            f"{row['divergence']:.2e}",
            f"{100 * row['foreground_changed']:.2f}%",
        ]
        for row in [rows[-1], *rows[:-1][:EXPLAINED]]
    ]
    return [
        f"what rounds most, each alone in the network left in float (the first {EXPLAINED}; all in "
        "explain.json)",
        *table(["quantizer", "rounds", "divergence, nats", "foreground pixels changed"], shown),
    ]
