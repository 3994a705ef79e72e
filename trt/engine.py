"""Builds a TensorRT engine in a process of its own.

Only the first logger of a process counts, and the layer table comes through the logger; and a
crash inside the vendor's library must not take the command down.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError
from lmaunet.stage import read_json
from lmaunet.trt import adapter, processes
from lmaunet.trt.layer_table import EngineLayer

PLAN, PACKED = "engine.plan", "engine.plan.xz"
LAYERS, RECORD, LOG = "layers.json", "engine.json", "engine.log"
DEFAULT_SMS = ("SM86", "SM89")
PARTIAL = ".engine.partial"


@dataclass(frozen=True)
class EngineBuild:
    """One engine: its plan, its layer table and the record of its build.

    ``record`` has the library's module and version, the SMs, ``build_seconds``, ``plan_bytes``,
    ``weights_memory_bytes`` and ``activation_memory_bytes`` as the library reports them, and the
    library's warnings, and ``bytes``, what the plan's bytes are. ``packed`` is the plan in the xz
    format.
    """

    plan: Path
    packed: Path
    layers: tuple[EngineLayer, ...]
    record: dict[str, Any]


def build_engine(
    onnx: Path,
    folder: Path,
    sms: Sequence[str] = DEFAULT_SMS,
    progress: Callable[[str], None] = lambda text: None,
) -> EngineBuild:
    """Build the engine of an ONNX file for some GPUs and return it with its layer table.

    The network is strongly typed: what is INT8 in the engine is what the file's QuantizeLinear and
    DequantizeLinear say. ``folder`` receives ``engine.plan``, ``engine.plan.xz``,
    ``layers.json``, ``engine.json`` and ``engine.log``, all of them or, where the build fails,
    none.

    Args:
        onnx: the network, with no local functions.
        folder: where the files go; made where it does not exist.
        sms: the compute capabilities of the GPUs, as ``SM86``.
        progress: called with a line on what is being done.

    Raises:
        ToolNotFound: where TensorRT is not installed.
        UserError: where the file is missing, an SM is not supported, the library refuses the
            network, or it crashes.
    """
    flavour = adapter.require()
    wanted = adapter.check_sms(flavour, sms)
    if not onnx.is_file():
        raise UserError(f"{onnx} does not exist; give the path of an ONNX file")
    folder.mkdir(parents=True, exist_ok=True)
    with _partial(folder) as partial:
        _run_worker(onnx, partial, wanted, progress)
        for name in (PLAN, PACKED, LAYERS, RECORD, LOG):
            (partial / name).replace(folder / name)
    return load_build(folder)


def load_build(folder: Path) -> EngineBuild:
    """Return the engine that :func:`build_engine` wrote into a folder.

    Raises:
        UserError: where one of its files is missing or damaged.
    """
    for name in (PLAN, PACKED, LAYERS, RECORD):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no engine: {name} is missing; build it again")
    try:
        content = read_json(folder / LAYERS)["layers"]
        record = read_json(folder / RECORD)
        layers = tuple(EngineLayer.from_json(layer) for layer in content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: the engine's tables are damaged; build it again") from error
    return EngineBuild(folder / PLAN, folder / PACKED, layers, record)


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside ``folder`` that is gone afterwards, whatever happens."""
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def worker_command(onnx: Path, folder: Path, sms: Sequence[str]) -> list[str]:
    """Return the command line of the process that builds."""
    return processes.worker_command("lmaunet.trt.worker", str(onnx), str(folder), ",".join(sms))


def _run_worker(
    onnx: Path, folder: Path, sms: Sequence[str], progress: Callable[[str], None]
) -> None:
    processes.run_worker(
        worker_command(onnx.resolve(), folder.resolve(), sms),
        name="builder",
        logs=(folder / LOG, folder / "stderr"),
        advice=f"build for one SM at a time, or report {onnx.name} and these lines to the vendor",
        progress=progress,
    )
