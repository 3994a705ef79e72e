"""The CPU target: an ONNX file for ONNX Runtime, with integer convolutions."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from pathlib import Path

from lmaunet.artifacts import Build
from lmaunet.deploy import masked_builds
from lmaunet.deploy.shared_builds import share_onnx
from lmaunet.deploy.targets import Target, Tool
from lmaunet.deploy.targets.ort.building import build
from lmaunet.deploy.targets.ort.detail import lines as detail_lines
from lmaunet.deploy.targets.ort.measuring import measure
from lmaunet.deploy.targets.ort.options import build_options
from lmaunet.deploy.targets.ort.sessions import has_operators, run, session_of
from lmaunet.packages import install_command


def probe() -> list[Tool]:
    """Return ONNX Runtime, found or missing, without loading it."""
    from lmaunet.cpu import operators

    spec = importlib.util.find_spec("onnxruntime")
    place = str(Path(spec.origin).parent) if spec is not None and spec.origin else ""
    version = importlib.metadata.version("onnxruntime") if place else ""
    runtime = Tool(
        "onnxruntime",
        "runs exported graphs on the CPU",
        version,
        place,
        install_command("onnxruntime"),
    )
    compiler = operators.compiler() or ""
    found = operators.compiler_version(compiler) if compiler else ""
    return [
        runtime,
        Tool("g++", operators.PURPOSE, found, compiler, operators.FIX, required=False),
    ]


def arithmetic(build: Build) -> str:
    """Return what computes the logits on this machine, in words for the report."""
    words = "the shipped file in ONNX Runtime on this CPU, with its integer convolutions"
    return f"{words} and the operators built beside it" if has_operators(build) else words


TARGET = Target(
    name="ort",
    summary="an ONNX file for a CPU, run by ONNX Runtime",
    probe=probe,
    build=build,
    run=run,
    measure=measure,
    arithmetic=arithmetic,
    options=build_options,
    share=share_onnx,
    sampled=functools.partial(masked_builds.run_sessions, session_of),
    in_demo=True,
    detail_lines=detail_lines,
)
