"""Builds one engine in a process of its own: ``python -m trt.worker ONNX FOLDER SM86,SM89``.

Standard output carries one JSON object per line: ``{"progress": text}`` while it works, then
``{"done": true}`` or ``{"error": text}``. Whatever the vendor's library prints goes to standard
error. ``FOLDER`` receives ``engine.plan``, ``engine.plan.xz``, ``layers.json``, ``engine.json`` and
``engine.log``; the log is written line by line, so that it survives a crash.
:mod:`lmaunet.trt.engine` is the caller.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from lmaunet.trt import adapter
from lmaunet.trt.layer_table import parse_inspector, parse_layers, read_bytes_line
from lmaunet.trt.plan_bytes import pack, plan_bytes
from lmaunet.trt.processes import open_answers

LAYER_TABLE = "Layers:"
# a small network finishes hundreds of steps in half a second
SECONDS_BETWEEN_REPORTS = 0.2


class BuildRefusedError(Exception):
    """The library refused the network; the message holds its own words."""


def make_logger(trt: Any, stream: TextIO) -> Any:
    """Return a logger that writes every message to ``stream`` and keeps those that are read later.

    ``problems`` holds warnings and errors, ``layers`` the layer table, ``memory`` the two lines on
    the engine's memory.
    """

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: list[str] = []
            self.layers = ""
            self.memory: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            stream.write(f"[{severity.name}] {message}\n")
            stream.flush()
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                self.problems.append(f"{severity.name}: {message}")
            if message.startswith(LAYER_TABLE):
                self.layers = message
            self.memory |= read_bytes_line(message)

    return Logger()


def make_monitor(trt: Any, report: Callable[[str], None]) -> Any:
    """Return a progress monitor that reports the phase and step it is at, a few times a second."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.reported = -SECONDS_BETWEEN_REPORTS

        def say(self, text: str) -> None:
            if time.monotonic() - self.reported >= SECONDS_BETWEEN_REPORTS:
                self.reported = time.monotonic()
                report(f"TensorRT: {text}")

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self.say(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.say(f"{phase_name} {step + 1}/{self.steps.get(phase_name, step + 1)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def build(onnx: Path, folder: Path, sms: tuple[str, ...], report: Callable[[str], None]) -> None:
    """Build the engine of ``onnx`` for ``sms`` and write the four files into ``folder``.

    Raises:
        BuildRefusedError: where the library cannot parse the network or cannot build it.
    """
    flavour = adapter.require()
    report(f"TensorRT: loading {flavour.module} {flavour.version}")
    trt = flavour.load()
    with (folder / "engine.log").open("w", encoding="utf-8", errors="replace") as stream:
        logger = make_logger(trt, stream)
        builder = trt.Builder(logger)
        network = builder.create_network(flavour.network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(onnx)):
            raise BuildRefusedError(f"cannot parse {onnx.name}: {'; '.join(parser_errors(parser))}")
        config = builder.create_builder_config()
        config.progress_monitor = make_monitor(trt, report)
        flavour.configure(trt, config, sms)
        started = time.perf_counter()
        plan = builder.build_serialized_network(network, config)
        seconds = time.perf_counter() - started
        if plan is None:
            errors = [line for line in logger.problems if "ERROR" in line.split(":")[0]]
            raise BuildRefusedError(f"cannot build {onnx.name}: {'; '.join(errors[-3:])}")
        data = bytes(plan)
        inspected = flavour.inspect(trt, logger, data)
        if not logger.layers and inspected is None:
            raise BuildRefusedError(
                f"built {onnx.name} but reported no layer table, so that its precisions are "
                "unknown; this version of the library is not supported"
            )
        layers = parse_layers(logger.layers) if inspected is None else parse_inspector(inspected)
        (folder / "engine.plan").write_bytes(data)
        report(f"TensorRT: packing {len(data) / 1e6:.1f} MB")
        packed = pack(data)
        (folder / "engine.plan.xz").write_bytes(packed)
        stored = logger.memory.get("weights_memory_bytes", 0)
        write(folder / "layers.json", {"layers": [layer.to_json() for layer in layers]})
        write(
            folder / "engine.json",
            {
                "module": flavour.module,
                "version": str(trt.__version__),
                "sms": list(sms),
                "build_seconds": round(seconds, 3),
                "plan_bytes": len(data),
                "bytes": plan_bytes(data, stored, len(packed)).to_json(),
                **logger.memory,
                "parser_errors": parser_errors(parser),
                "problems": logger.problems,
            },
        )


def parser_errors(parser: Any) -> list[str]:
    """Return the parser's errors, each with the ONNX node that it is about."""
    errors = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = error.node_name() if hasattr(error, "node_name") else ""
        errors.append(f"node {node}: {error.desc()}" if node else str(error.desc()))
    return errors


def write(path: Path, content: Any) -> None:
    """Write ``content`` as JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run one build; returns 0, or 1 after an ``error`` line."""
    answer = open_answers()
    onnx, folder, sms = Path(arguments[0]), Path(arguments[1]), arguments[2]
    try:
        build(
            onnx,
            folder,
            tuple(s for s in sms.split(",") if s),
            lambda text: answer(progress=text),
        )
    except (BuildRefusedError, OSError) as error:
        answer(error=f"TensorRT {error}")
        return 1
    answer(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
