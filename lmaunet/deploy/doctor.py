"""Examine the machine: which commands and targets work here, and the fix for what does not."""

from __future__ import annotations

import platform
from typing import Any

from lmaunet import packages
from lmaunet.deploy.targets import Missing, Tool, all_targets, installed

MISSING_TOOL = 3
PURPOSES = {
    "numpy": "arrays, everywhere",
    "onnxruntime": "runs the ort target; checks exports",
    "protobuf": "reads the ONNX file of a build",
    "SimpleITK": "medical images",
    "nibabel": "NIfTI",
    "typer": "this command line",
    "rich": "progress",
    "jinja2": "the report",
    "filelock": "one command at a time on a run",
    "torch": "training and QAT",
    "brevitas": "quantization",
    "setuptools": "needed by brevitas",
    "onnx": "export",
    "onnx-ir": "passes over ONNX",
    "qonnx": "the form of the network that the fpga target reads",
    "monai": "losses and scores",
    "h5py": "TransUNet's data sets",
    "highspy": "bits for a budget, and folding for a board",
    "numba": "the scan in integers",
    "pydicom": "DICOM",
    "highdicom": "DICOM segmentations",
    "scipy": "cuts, for refine and infer --crf",
    "distributed": "a folder of studies on a Dask cluster",
    "mamba-ssm": "fast training scan on CUDA",
    "dynamic-network-architectures": "nnU-Net's networks, for import",
}
OPTIONAL = ("qat", "dicom", "refine", "cluster", "cuda", "nnunet")
"""The extras whose packages are nobody's target."""
COMMANDS = {
    "infer, bench, report, data, doctor": "",
    "infer with DICOM images": "dicom",
    "refine, infer --crf": "refine",
    "infer --scheduler": "cluster",
    "spec, pretrain, train, heatmap, qat, export, build, measure, demo": "qat",
    "import of an nnU-Net folder": "nnunet",
    "import with --module, import of a MONAI bundle": "qat",
}
"""The extra that commands need, "" where they need none. A target's tools come on top."""


def core_tools() -> list[Tool]:
    """Return the packages that are always needed, as they are declared, and those of no target."""
    return [
        installed(
            name,
            PURPOSES.get(name, "used by lmaunet-deploy"),
            packages.install_command(name),
            required=not extra,
        )
        for extra in ("", *OPTIONAL)
        for name in packages.declared().get(extra, {})
    ]


def working_commands() -> list[dict[str, Any]]:
    """Return which commands work with what is installed.

    Each entry has ``commands``, whether they ``work``, the packages that are ``missing`` and the
    ``fix`` that installs them, empty where they work.
    """
    found = []
    for commands, extra in COMMANDS.items():
        missing = list(dict.fromkeys([*packages.lacking(""), *packages.lacking(extra)]))
        fix = packages.install_command(*missing) if missing else ""
        found.append({"commands": commands, "works": not missing, "missing": missing, "fix": fix})
    return found


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
    commands = working_commands()
    content: dict[str, Any] = {
        "commands": commands, "targets": {}, "core": [_json(t) for t in groups["core"]]
    }  # fmt: skip
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
    lines += _command_lines(commands)
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


def _command_lines(commands: list[dict[str, Any]]) -> list[str]:
    """Return a line for commands that work; for others also what is missing and how to get it."""
    lines = ["", "commands"] if commands else []
    for entry in commands:
        lines.append(f"  {'work' if entry['works'] else 'MISSING':9} {entry['commands']}")
        if not entry["works"]:
            lines.append(f"  {'':9} lack {', '.join(entry['missing'])}")
            lines.append(f"  {'':9} get them with: {entry['fix']}")
    return lines


def _rows(tools: list[Tool]) -> list[str]:
    """Return two lines for each tool: what it is, and where it is or how to get it."""
    lines = []
    for tool in tools:
        state = "found" if tool.found else "MISSING" if tool.required else "optional"
        name = f"{tool.name} {tool.version}".strip()
        where = tool.place if tool.found else f"get it with: {tool.fix}"
        lines += [f"{state:9} {name:26} {tool.purpose}", f"{'':9} {where}"]
    return lines
