"""Examine the machine: which targets work here, and the fix for each tool that is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from typing import Any

from lmaunet.deploy.targets import Missing, Tool, all_targets

CORE = {
    "torch": "training and QAT",
    "brevitas": "quantization",
    "onnx": "export",
    "onnxruntime": "checks, and the ort target",
    "monai": "losses and scores",
    "SimpleITK": "medical images",
}
OPTIONAL = {"mamba-ssm": ("mamba_ssm", "fast training scan on CUDA", "cuda")}


def package(name: str, purpose: str, *, module: str = "", extra: str = "") -> Tool:
    """Return a Python package as a tool, without importing it."""
    install = f"pip install 'lmaunet-deploy[{extra}]'" if extra else "pip install lmaunet-deploy"
    spec = importlib.util.find_spec(module or name)
    if spec is None:
        return Tool(name, purpose, fix=install, required=not extra)
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    return Tool(name, purpose, importlib.metadata.version(name), place, install, not extra)


def core_tools() -> list[Tool]:
    """Return the tools that every command or several targets use."""
    tools = [package(name, purpose) for name, purpose in CORE.items()]
    tools += [package(n, why, module=m, extra=x) for n, (m, why, x) in OPTIONAL.items()]
    return tools


def examine() -> tuple[dict[str, Any], list[str]]:
    """Return what was found as JSON, and as lines for a person."""
    groups: dict[str, Any] = {"core": core_tools()}
    lines = [f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"]
    content: dict[str, Any] = {"targets": {}, "core": [_json(t) for t in groups["core"]]}
    for name, target in all_targets().items():
        if isinstance(target, Missing):
            content["targets"][name] = {"works": False, "why": target.why, "tools": []}
            lines.append(f"\ntarget {name}: cannot be loaded: {target.why}")
            continue
        tools = target.probe()
        works = all(tool.found for tool in tools if tool.required)
        content["targets"][name] = {
            "works": works, "summary": target.summary, "tools": [_json(t) for t in tools],
        }  # fmt: skip
        groups[f"target {name}: {'works' if works else 'is missing tools'}"] = tools
    for title, tools in groups.items():
        lines += ["", title, *("  " + line for line in _rows(tools))]
    return content, lines


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
