"""The commands of the pipeline: each runs its stages and says in a few lines what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.modalities import check_drop, check_droppable
from lmaunet.deploy import building, defaults, measuring, pipeline, reporting
from lmaunet.deploy.console import first_process, percent, progress_bar, table, tell
from lmaunet.deploy.gate_limits import chosen_limits
from lmaunet.deploy.quantizing import QatOptions, missing_lines, qat
from lmaunet.deploy.run_lock import in_use, in_use_if_there
from lmaunet.deploy.runs import (
    DEFAULT_DATA,
    DataSource,
    choose_data,
    find_run,
    run_for_training,
)
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import read_json, read_manifest, record_of
from lmaunet.train.schedule import Schedule

if TYPE_CHECKING:
    from lmaunet.deploy.infer_command import ArchiveOptions, InferOptions

Shown = tuple[Any, list[str]]


def _where(outcome: pipeline.Outcome | building.BuildResult) -> str:
    return f"{outcome.folder}" + (" (was there already)" if outcome.cached else "")


def train(
    run: Path | None, spec: NetSpec, source: DataSource | None, epochs: int, learning_rate: float,
    batch_size: int, seed: int, init: Path | None = None, drop_modality: float = 0.0,
) -> Shown:  # fmt: skip
    """Train a spec into a run, from a checkpoint's weights where one is given."""
    if init is not None and not init.is_file():
        raise UserError(f"--init {init} is no file; give a checkpoint that pretrain or train wrote")
    schedule = Schedule(epochs, learning_rate, batch_size)
    check_droppable(spec, drop_modality)
    if check_drop(drop_modality, spec.in_channels):
        schedule = schedule.dropping(drop_modality)
    run = run_for_training(run, spec, source)
    source = choose_data(run, source)
    with progress_bar(f"training {spec.name}") as progress, in_use_if_there(run):
        outcome = pipeline.train(run, spec, source, schedule, seed, progress, init)
    if not first_process():
        return {}, []
    with record_of(outcome.folder):
        content = read_json(outcome.folder / "train.json")
        scores = content["scores"]
        lines = [
            f"Dice {percent(scores['dice'])} on held-out slices",
            *_per_class(scores["per_class"]),
            *missing_lines(content.get("modalities")),
        ]
    return content, [
        *lines,
        f"wrote {_where(outcome)}; next: lmaunet-deploy qat --ckpt {outcome.folder / 'model.pt'}",
    ]


def export(run: Path | None, lowering: str | None) -> Shown:
    """Export a run's quantized network."""
    if lowering is not None:
        from lmaunet.export.lowerings import get_lowering

        get_lowering(lowering)
    run = find_run(run)
    read_manifest(run / "qat")  # what is missing first is said first
    with in_use(run):
        outcome = building.export_run(run, progress_bar)
        with record_of(outcome.folder):
            content = read_json(outcome.folder / "export.json")
            lines = [_agreement(a) for a in content["agreements"]]
        if lowering is not None:
            lines.append(f"wrote {_lower(run, outcome, lowering)}")
    return content, [*lines, f"wrote {_where(outcome)}"]


def _lower(run: Path, outcome: pipeline.Outcome, lowering: str) -> Path:
    """Write the exported graph with another form of the scan beside the stages."""
    with progress_bar(f"writing the scan as {lowering}"):
        import onnx

        from lmaunet.export.lower import lower

        source = outcome.folder / "network.qcdq.onnx"
        path = run / f"network.{lowering}.onnx"
        partial = path.with_name(f".{path.name}.partial")
        try:
            onnx.save(lower(onnx.load(source), lowering), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def build(run: Path | None, target: str, options: Mapping[str, Any]) -> Shown:
    """Build one target of a run; exports first where that is not done for this network yet."""
    made = building.build_run(run, target, options, progress_bar)
    shipped = ", ".join(f"{path} ({path.stat().st_size / 1e6:.3f} MB)" for path in made.files)
    agreements = [a.to_json() for a in made.agreement]
    lines = [*map(_agreement, agreements), f"ships {shipped}", f"wrote {_where(made)}"]
    content = {
        "target": target, "folder": str(made.folder), "shipped": str(made.files[0]),
        "export": str(made.exported), "detail": made.detail, "agreements": agreements,
    }  # fmt: skip
    return content, lines


def measure(run: Path | None, target: str | None) -> Shown:
    """Measure a run's builds."""
    if target is not None:
        from lmaunet.deploy.targets import get_target

        get_target(target)
    run = find_run(run)
    if target is not None:
        pipeline.load_build(run, target)  # what is not built is said before FP32 is scored
    with progress_bar("measuring") as progress, in_use(run):
        folders = measuring.measure_all(run, target, progress)
    content, rows = {}, []
    for name, folder in folders.items():
        with record_of(folder):
            found = content[name] = read_json(folder / "measure.json")
            if name == "reference":
                dice = found["scores"][found["best"]]["dice"]
                rows.append(["FP32", percent(dice, 2), "", ""])
                continue
            figures = found["figures"]
            rows.append(
                [name, percent(found["scores"]["dice"], 2),
                 *(_shown(figures[key]) for key in ("size_mb", "latency_ms"))]
            )  # fmt: skip
    return content, table(["target", "Dice", "size", "latency"], rows)


def infer(
    folder: Path, images: list[Path], output: Path, options: InferOptions,
    several: ArchiveOptions | None,
) -> tuple[dict[str, Any], list[str], int]:  # fmt: skip
    """Segment an image with a build, or the studies of a folder; returns the status too."""
    with progress_bar("segmenting") as progress:
        if several is not None:
            from lmaunet.deploy import archive

            return archive.segment_archive(folder, images, output, options, several, progress)
        from lmaunet.deploy import inferring

        return *inferring.infer(folder, images, output, say=progress, **vars(options)), 0


def refine(
    images: list[Path], mask: Path, scribbles: Path, output: Path, build: Path | None,
    background: int, margin_mm: float,
) -> Shown:  # fmt: skip
    """Correct a mask by strokes."""
    from lmaunet.deploy import refining
    from lmaunet.deploy.correction import CutOptions

    options = CutOptions(margin_mm=margin_mm)
    with progress_bar("correcting") as progress:
        return refining.refine_files(
            images, mask, scribbles, output, build=build, background=background, options=options,
            say=progress,
        )  # fmt: skip


def bench(folder: Path) -> Shown:
    """Measure what a build takes of this machine."""
    from lmaunet.deploy import benching

    with progress_bar("timing"):
        found = benching.bench(folder)
    return found.to_json(), benching.lines(found)


def report(
    run: Path | None,
    baseline: Path | None,
    strict: bool,
    limits: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str], int]:
    """Write a run's report; ``limits`` are ``--gate`` options."""
    chosen_limits(limits)  # a limit that is none is refused before any work
    import jinja2  # noqa: F401  what the report needs is missed before minutes of measuring

    run = find_run(run)
    with progress_bar("measuring and reporting") as progress, in_use(run):
        return reporting.make_report(run, baseline, strict, progress, limits)


def demo(run: Path, phantom: bool, seed: int) -> tuple[dict[str, Any], list[str], int]:
    """Run everything: data, training, QAT, export, the three builds, the report."""
    from lmaunet.deploy import data_commands

    chosen_limits()  # an lmaunet.toml with a fault is named before the minutes of training
    if phantom:
        source = DataSource(None, seed=seed)
    else:
        source = DataSource(DEFAULT_DATA)
        _say(data_commands.fetch(DEFAULT_DATA, False)[1])
    spec = named_spec("demo")
    schedule = defaults.TRAIN_EPOCHS, defaults.TRAIN_RATE, defaults.BATCH_SIZE
    with in_use(run):
        _say(train(run, spec, source, *schedule, seed)[1])
        checkpoint = run / "train" / "model.pt"
        settle = QatOptions(defaults.DEMO_QAT_EPOCHS, defaults.DEMO_QAT_RATE, seed=seed)
        _say(qat(run, checkpoint, source, None, settle)[1])
        for target, options in demo_builds().items():
            _say(build(run, target, options)[1])
        return report(run, None, False)


def demo_builds() -> dict[str, dict[str, Any]]:
    """Return the builds of the demo with their options."""
    from lmaunet.deploy.targets import Target, all_targets, build_options

    chosen = [t.name for t in all_targets().values() if isinstance(t, Target) and t.in_demo]
    return {name: build_options(name, {}) for name in chosen}


def _say(lines: list[str]) -> None:
    tell("\n".join(["", *lines]))


def _agreement(a: dict[str, Any]) -> str:
    state = "agrees" if a["passed"] else "DISAGREES"
    return (
        f"{state}: {a['name']}: {a['n_differ']} of {a['n_total']} beyond {a['tolerance']:.2g} "
        f"(largest {a['max_abs']:.2g}, {a['allowed']} allowed)"
    )


def _per_class(per_class: Mapping[str, float]) -> list[str]:
    return table(["class", "Dice"], [[k, f"{100 * v:.1f}"] for k, v in per_class.items()])


def _shown(figure: dict[str, Any]) -> str:
    if "unavailable" in figure:
        return f"unavailable: {figure['unavailable']['why']}"
    return f"{figure['value']:.3g} {figure['unit']} ({figure['provenance']})"
