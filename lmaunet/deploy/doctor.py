"""Examine the machine: which targets work here, and the fix for each tool that is missing."""

from __future__ import annotations

import platform
from typing import Any

from lmaunet import packages
from lmaunet.deploy.targets import Missing, Tool, all_targets, installed

MISSING_TOOL = 3
PURPOSES = {
    "torch": "training and QAT",
    "brevitas": "quantization",
    "setuptools": "needed by brevitas",
    "numpy": "arrays, everywhere",
    "onnx": "export",
    "onnxruntime": "checks, and the ort target",
    "onnxscript": "export",
    "qonnx": "the form of the network that the fpga target reads",
    "monai": "losses and scores",
    "SimpleITK": "medical images",
    "nibabel": "NIfTI",
    "pydicom": "DICOM",
    "highdicom": "DICOM segmentations",
    "h5py": "TransUNet's data sets",
    "typer": "this command line",
    "rich": "progress",
    "jinja2": "the report",
    "highspy": "bits for a budget, and folding for a board",
    "numba": "the scan in integers",
    "filelock": "one command at a time on a run",
    "mamba-ssm": "fast training scan on CUDA",
}
OPTIONAL = "cuda"
"""The extra whose packages are nobody's target."""


def core_tools() -> list[Tool]:
    """Return the packages that are always needed, as they are declared, and those of CUDA."""
    return [
        installed(
            name,
            PURPOSES.get(name, "used by lmaunet-deploy"),
            packages.install_command(name),
            required=not extra,
        )
        for extra in ("", OPTIONAL)
        for name in packages.declared().get(extra, {})
    ]


def version_line() -> str:
    """Return the version of this program, of Python and of ONNX Runtime."""
    found = [t.version or "missing" for t in core_tools() if t.name == "onnxruntime"]
    known = "".join(f", onnxruntime {version}" for version in found)
    return f"lmaunet-deploy {packages.version()} (Python {platform.python_version()}{known})"


def examine() -> tuple[dict[str, Any], list[str], int]:
    """Return what was found as JSON, as lines for a person, and the exit status.

    The status is 3 where a package is missing that is always needed: a target that lacks its own
    tools is not an error of the machine.
    """
    groups: dict[str, Any] = {"core": core_tools()}
    lines = [version_line(), f"{platform.system()} {platform.machine()}"]
    content: dict[str, Any] = {"targets": {}, "core": [_json(t) for t in groups["core"]]}
    for name, target in all_targets().items():
        if isinstance(target, Missing):
            content["targets"][name] = {"works": False, "why": target.why, "tools": []}
            lines.append(f"\ntarget {name}: cannot be loaded: {target.why}")
            continue
        try:
            tools = target.probe()
        except (ImportError, OSError) as error:
            # a package that is there and cannot be loaded concerns its target alone
            lacks = packages.missing_package(error)
            if lacks is None:
                raise
            content["targets"][name] = {"works": False, "why": str(lacks), "tools": []}
            lines.append(f"\ntarget {name}: {lacks}")
            continue
        works = all(tool.found for tool in tools if tool.required)
        content["targets"][name] = {
            "works": works, "summary": target.summary, "tools": [_json(t) for t in tools],
        }  # fmt: skip
        groups[f"target {name}: {'works' if works else 'is missing tools'}"] = tools
    for title, tools in groups.items():
        lines += ["", title, *("  " + line for line in _rows(tools))]
    lacking = [tool.name for tool in groups["core"] if tool.required and not tool.found]
    content["works"] = not lacking
    if lacking:
        fix = packages.install_command(*lacking)
        lines += ["", f"missing: {', '.join(lacking)}; install with: {fix}"]
    return content, lines, MISSING_TOOL if lacking else 0


def _json(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name, "purpose": tool.purpose, "found": tool.found, "version": tool.version,
        "place": tool.place, "fix": "" if tool.found else tool.fix, "required": tool.required,
    }  # fmt: skip


def _rows(tools: list[Tool]) -> list[str]:
    """Return two lines for each tool: what it is, and where it is or how to get it."""
    lines = []
    for tool in tools:
        state = "found" if tool.found else "MISSING" if tool.required else "optional"
        name = f"{tool.name} {tool.version}".strip()
        where = tool.place if tool.found else f"get it with: {tool.fix}"
        lines += [f"{state:9} {name:26} {tool.purpose}", f"{'':9} {where}"]
    return lines
