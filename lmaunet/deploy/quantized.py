"""Quantizing a network from a program: :func:`quantize`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.quantizing import QatOptions, quantize_run, result_of
from lmaunet.deploy.run_lock import in_use
from lmaunet.deploy.runs import IMPORTED, DataSource
from lmaunet.errors import UserError
from lmaunet.packages import missing_packages_named
from lmaunet.stage import record_of
from lmaunet.train.schedule import Progress

if TYPE_CHECKING:
    from torch.nn import Module

PHANTOM = "phantom"


@dataclass(frozen=True)
class QuantizeResult:
    """A network that is quantized, in a run.

    Args:
        run: the run's folder, for :func:`lmaunet.build`.
        folder: where the quantized network is.
        cached: whether it was there already, for just this network, data and options.
        dice: mean Dice on held-out slices by network: ``float32`` as it came, ``control`` with the
            same extra training, ``ptq`` calibrated only, ``qat`` after the training; with
            ``norm="batch"`` also ``converted`` and ``distilled``; None where no slice shows
            anything to score.
        weight_bits: number of weights by their bits.
        joins: what was chosen for additions and concatenations; empty where nothing was tried.
        accuracy_control: with ``max_drop`` what was tried for it and what came of it; its
            ``state`` and that of its ``held_out`` are ``failed`` where the limit is not kept.
        notices: what to know of the calibration images and of the choices.
        graph: the digest of the network's graph.
    """

    run: Path
    folder: Path
    cached: bool
    dice: Mapping[str, float | None]
    weight_bits: Mapping[int, int]
    joins: tuple[Mapping[str, Any], ...]
    notices: tuple[str, ...]
    graph: str = field(repr=False)
    accuracy_control: Mapping[str, Any] | None = None


@missing_packages_named()
def quantize(
    network: Module | str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    run: str | os.PathLike[str],
    input_size: tuple[int, int] | None = None,
    channels: int = 1,
    name: str | None = None,
    class_map: str | os.PathLike[str] | None = None,
    **options: Any,
) -> QuantizeResult:
    """Quantize a network and train it so, beside an FP32 control of the same extra training.

    What is there already for just this network, data and options is not made again.

    Args:
        network: a trained torch module that maps images ``(N, channels, H, W)`` to logits
            ``(N, classes, H, W)``, any that a graph can be captured of; or the path of a
            checkpoint, as for the command ``qat``.
        data: images and labels, as for the command; ``"phantom"`` for synthetic ones.
        run: the run's folder, made where it is not there.
        input_size: of a module, height and width of the images that it is for.
        channels: of a module, channels of an image.
        name: of a module, what reports call it; its class's name if not given.
        class_map: a file that names classes, as for the command.
        options: those of the command ``qat``, with underscores: ``epochs``, ``learning_rate``,
            ``batch_size``, ``seed``, ``bits``, ``budget_mb``, ``max_drop``, ``scales``, ``joins``,
            ``distillation``, ``norm``, ``norm_epochs``, ``keep_norms``, ``dropout``, ``explain``,
            ``weights``.

    Raises:
        UserError: for a module that no graph can say, naming operator, module and line; data that
            do not fit it; a budget that can't be met; an unknown option.
        ToolNotFound: where a package is missing.

    >>> done = lmaunet.quantize(network, "phantom", run="runs/mine", input_size=(32, 32), epochs=1)
    >>> done.run.as_posix(), sorted(done.dice), done.weight_bits[8] > 100
    ('runs/mine', ['control', 'float32', 'ptq', 'qat'], True)
    >>> lmaunet.build(done.run, "ort", operators=False).files[0].name
    'model.onnx'
    """
    known = [f.name for f in dataclasses.fields(QatOptions)]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise UserError(f"quantize has no option {unknown[0]!r}; it has {', '.join(known)}")
    chosen = QatOptions(**options)
    chosen.settings()
    place = Path(run)
    if isinstance(network, (str, os.PathLike)):
        if input_size is not None or name is not None:
            raise UserError("input_size and name are for a module; a checkpoint says its own")
        checkpoint = Path(network)
    else:
        checkpoint = _imported(network, place, input_size, channels, name)
    synthetic = os.fspath(data) == PHANTOM
    source = DataSource(
        None if synthetic else Path(data), None if class_map is None else Path(class_map)
    )
    done = quantize_run(place, checkpoint, source, None, chosen, _silent)
    content = result_of(done)
    with record_of(done.quantized.folder):
        return QuantizeResult(
            done.run,
            done.quantized.folder,
            done.quantized.cached,
            {name: scores["dice"] for name, scores in content["scores"].items()},
            {int(bits): count for bits, count in content["weight_bits"].items()},
            tuple(content["joins"]),
            tuple(content["notices"]),
            content["network"]["graph"],
            content.get("accuracy_control"),
        )


def _imported(
    module: Module, run: Path, input_size: tuple[int, int] | None, channels: int, name: str | None
) -> Path:
    """Write a module's graph and weights into a run; return the checkpoint."""
    from lmaunet.graph.capture import capture
    from lmaunet.graph.module import GraphModule
    from lmaunet.sources.checkpoint import save_network, spec_of

    if input_size is None or len(input_size) != 2:
        raise UserError(
            f"input_size is {input_size}; give the height and width of the images that the module "
            "is for, such as input_size=(256, 256)"
        )
    graph, weights = capture(module, (1, channels, *input_size))
    spec = spec_of(graph, name or type(module).__name__.lower())
    checkpoint = run / IMPORTED
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with in_use(run):
        save_network(checkpoint, spec, GraphModule(graph, weights).eval())
    return checkpoint


@contextlib.contextmanager
def _silent(title: str) -> Iterator[Progress]:
    yield lambda fraction, line: None
