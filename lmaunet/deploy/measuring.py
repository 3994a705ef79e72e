"""Score the FP32 reference and every build on held-out slices; measure size and latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmaunet.artifacts import Figure, Measurement, Provenance, Unavailable
from lmaunet.deploy.calibrating import add_calibration
from lmaunet.deploy.console import tell
from lmaunet.deploy.elastic_data import at_size, data_of_build
from lmaunet.deploy.gates import worst_class
from lmaunet.deploy.pipeline import (
    Outcome,
    built_targets,
    load_build,
    matching_control,
    require_data,
    run_stage,
)
from lmaunet.deploy.run_data import RunData, training_in
from lmaunet.deploy.runs import DataSource, choose_data
from lmaunet.deploy.targets import BUILD_CODE, get_target
from lmaunet.errors import Disagreement, UserError
from lmaunet.graph_spec import NetworkSpec, network_spec_of
from lmaunet.packages import is_installed
from lmaunet.stage import Stage, read_json, read_stage, record_of, write_json

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset
    from lmaunet.train.metrics import Scores

Say = Callable[[float, str], None]


def load_run_data(run: Path) -> tuple[NetworkSpec, DataSource, Dataset]:
    """Return the spec and the data of a run's quantized network; raises as below."""
    images = open_run_data(run)
    return images.spec, images.source, images.load()


def open_run_data(run: Path) -> RunData:
    """Return the data of a run's quantized network, not loaded where a note tells their digest.

    Raises:
        UserError: where the data are not those that the network was quantized with.
    """
    options = read_stage(run / "qat")["options"]
    spec = network_spec_of(options.get("spec", {}))
    source = choose_data(run, None)
    images = RunData(run, source, spec, training_in(options))
    require_data(options, images, run / "qat")
    images.remember()
    return images


def measure_reference(run: Path, images: RunData) -> Outcome:
    """Score the FP32 networks into ``RUN/measure/reference``.

    The reference is the better one of the checkpoint as it came and of the control, which had the
    same extra training as the quantized network: a drop against it is not flattered.
    """
    folder = matching_control(run)
    inputs = {name: folder / f"{name}.pt" for name in ("float32", "control")}
    options = {"data_sha256": images.sha256}
    stage = Stage(run, "measure/reference", inputs, options, code=("lmaunet.train",))

    def work(folder: Path) -> None:
        from lmaunet.deploy.heatmap_pictures import write_heatmaps
        from lmaunet.net.checkpoint import load_checkpoint
        from lmaunet.sources.checkpoint import restore
        from lmaunet.train.metrics import predict_logits

        data, found = images.load(), {}
        for name, path in inputs.items():
            model = restore(load_checkpoint(path), path)
            predicted = _classes(predict_logits(model, data.val.images), f"{name}, FP32")
            found[name] = (_score(predicted, data), predicted, model)
        # without a score, neither is better: the checkpoint as it came
        best = max(found, key=lambda name: np.nan_to_num(found[name][0].dice, nan=-1.0))
        scores = {name: of_network[0].to_json() for name, of_network in found.items()}
        write_json(folder / "measure.json", {"scores": scores, "best": best})
        np.savez_compressed(folder / "predictions.npz", classes=found[best][1].astype(np.uint8))
        write_heatmaps(folder, found[best][2], data)

    return _measured(stage, work)


def measure_target(run: Path, name: str, images: RunData, say: Say) -> Outcome:
    """Score one build and measure it into ``RUN/measure/TARGET``."""
    build = load_build(run, name)
    target = get_target(name)
    float32 = run / "export" / "network.float32.onnx"
    # a score is that of what computed it: with the device at hand it is computed again
    options = {"data_sha256": images.sha256, "arithmetic": target.arithmetic(build)}
    stage = Stage(
        run, f"measure/{name}", {"build": build.folder, "float32": float32}, options,
        code=(*BUILD_CODE, "lmaunet.train"),
    )  # fmt: skip

    def work(folder: Path) -> None:
        data = data_of_build(images, build.folder)
        say(0.1, f"{name}: {len(data.val)} held-out slices through {target.arithmetic(build)}")
        predicted = _classes(target.run(build, data.val.images), name)
        say(0.8, f"{name}: size and latency")
        figures = target.measure(build, data.val.images, float32)
        add_calibration(target, build, data, _part(say, 0.9, 0.1))
        write_json(
            folder / "measure.json",
            {
                "scores": _score(predicted, data).to_json(),
                "figures": {key: value.to_json() for key, value in figures.items()},
                "arithmetic": options["arithmetic"],
                "provenance": target.provenance(build),
                "summary": target.summary,
                # measuring adds to it: how often, on which processor, the slowest runs
                "detail": build.detail,
            },
        )
        shown = predicted if data is images.load() else at_size(predicted, images.spec.input_size)
        np.savez_compressed(folder / "predictions.npz", classes=shown.astype(np.uint8))

    return _measured(stage, work)


def _measured(stage: Stage, work: Callable[[Path], None]) -> Outcome:
    """Run a measurement, or find it current.

    Without torch, which scores need, one of the same files and data stands as it was made, whatever
    made it: a report needs nothing that trains.
    """
    cannot = not is_installed("torch")
    if cannot and not stage.is_current() and stage.is_of_same_inputs(("arithmetic",)):
        tell(f"{stage.folder}: taken as it was measured; to measure again needs torch")
        return Outcome(stage.folder, True)
    return run_stage(stage, work)


def measure_all(run: Path, only: str | None, say: Say) -> dict[str, Path]:
    """Measure the reference and one build or all; return the folders by name."""
    say(0.0, "reading the run and its data")
    images = open_run_data(run)
    names = [only] if only else built_targets(run)
    if not names:
        raise UserError(f"{run} has no builds; make one with: lmaunet-deploy build --target ort")
    say(0.0, "FP32 on held-out slices")
    folders = {"reference": measure_reference(run, images).folder}
    for index, name in enumerate(names):
        share = 1 / (len(names) + 0.5)
        part = _part(say, (index + 0.5) * share, share)
        folders[name] = measure_target(run, name, images, part).folder
    return folders


def read_target(
    folder: Path, reference: Mapping[str, Any]
) -> tuple[dict[str, Figure], dict[str, Any]]:  # fmt: skip
    """Return a measured target's figures, the drops of Dice included, and its scores.

    Args:
        folder: that of the measurement.
        reference: the scores of the FP32 network, as :meth:`Scores.to_json` has them.
    """
    with record_of(folder):
        content = read_json(folder / "measure.json")
        figures = {key: _figure(key, value) for key, value in content["figures"].items()}
        scores, provenance = content["scores"], content["provenance"]
        figures["hd95_mm"] = hd95_figure(scores["hd95_mm"], provenance)
        worst = worst_class(reference["per_class"], scores["per_class"])
        if scores["dice"] is None or reference["dice"] is None or worst is None:
            for key in ("dice", "dice_drop_points", "class_drop_points"):
                figures[key] = no_foreground(key)
            return figures, scores
        drop = 100 * (reference["dice"] - scores["dice"])
        class_drop = 100 * (worst["reference"] - worst["dice"])
        figures["dice"] = Measurement("dice", scores["dice"], "1", provenance)
        figures["dice_drop_points"] = Measurement("dice_drop_points", drop, "points", provenance)
        figures["class_drop_points"] = Measurement(
            "class_drop_points", class_drop, "points", provenance
        )
        return figures, {**scores, "worst_class": worst}


def no_foreground(quantity: str) -> Unavailable:
    """Return why there is no Dice where no held-out label holds an organ."""
    return Unavailable(
        quantity, "labels with organs",
        "no held-out case has foreground in its labels, and overlap with nothing is no score",
        "give held-out cases with organs in their labels (--data DIR) and run lmaunet-deploy qat "
        "again",
    )  # fmt: skip


def hd95_figure(value: float | None, provenance: Provenance) -> Figure:
    """Return HD95 in mm, or why there is none."""
    if value is not None:
        return Measurement("hd95_mm", value, "mm", provenance)
    why = "no slice has a class in both label and prediction, or the spacing is unknown"
    return Unavailable("hd95_mm", "scores", why, "use images with their spacing (NIfTI or NRRD)")


def _classes(logits: np.ndarray, name: str) -> np.ndarray:
    """Return the classes ``(n, *spatial)`` of logits ``(n, classes, *spatial)``.

    Raises:
        Disagreement: where a logit is not finite; its class would be background or chance.
    """
    broken = ~np.isfinite(logits).reshape(len(logits), -1).all(1)
    if broken.any():
        raise Disagreement(
            f"{name}: the logits of {int(broken.sum())} of {len(logits)} held-out slices hold NaN "
            f"or infinity, first of slice {int(broken.argmax())}; nothing was scored. Check the "
            "checkpoint and the images, then build the target again"
        )
    classes: np.ndarray = logits.argmax(1)
    return classes


def _part(say: Say, start: float, share: float) -> Say:
    return lambda fraction, line: say(start + share * fraction, line)


def _score(predicted: np.ndarray, data: Dataset) -> Scores:
    from lmaunet.train.metrics import score_slices

    return score_slices(predicted, data)


def _figure(quantity: str, content: dict[str, Any]) -> Figure:
    if "unavailable" in content:
        return Unavailable(quantity, **content["unavailable"])
    return Measurement(quantity, content["value"], content["unit"], content["provenance"])
