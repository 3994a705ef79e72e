"""A network of nnU-Net's by the code of its own trainer, as nnU-Net's inference builds it.

:func:`find_trainer` reads the tree without running it. :func:`make` runs it, in the process of
:mod:`lmaunet.sources.foreign_worker` alone.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import check_state
from lmaunet.net.unwrapping import printable
from lmaunet.sources.loading import lower_heads, unwrapped

PACKAGE = "nnunetv2"
TRAINERS = f"{PACKAGE}/training/nnUNetTrainer"
WHOSE = "the trainer's code with plans.json"
REMEDY = "give the checkpoint, the plans.json and the code of one training"
LARGEST_FILE = 2**22


@dataclass(frozen=True)
class Trainer:
    """Where the class of a trainer is.

    Args:
        name: of the class.
        root: the folder that holds the package nnunetv2.
        file: in which the class is.
    """

    name: str
    root: Path
    file: Path

    @property
    def module(self) -> str:
        """The module that holds the class."""
        parts = self.file.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_trainer(code: Path, name: str) -> Trainer:
    """Return where a trainer's class is in a tree of nnunetv2; no code runs.

    Args:
        code: the folder that holds the package nnunetv2, or the package itself.
        name: of the class, as a checkpoint has it.

    Raises:
        UserError: where there is no such package, or no such class in it.
    """
    root = _root(code)
    known: dict[str, Path] = {}
    for file in sorted((root / TRAINERS).rglob("*.py")):
        for found in _classes_of(file):
            known.setdefault(found, file)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.5) or sorted(known)[:3]
        raise UserError(
            f"{root / TRAINERS} has no trainer {printable(name)}, which the checkpoint is of; it "
            f"has {', '.join(near) or 'no trainers'}: give --code the tree that trained it"
        )
    return Trainer(name, root, known[name])


def _root(code: Path) -> Path:
    """Return the folder that holds the package."""
    if not code.is_dir():
        raise UserError(
            f"--code {code} is no folder; give the folder that holds the package {PACKAGE} which "
            "trained the network"
        )
    if (code / TRAINERS).is_dir():
        return code
    package = code.absolute()
    if package.name == PACKAGE and (package.parent / TRAINERS).is_dir():
        return package.parent
    inside = sorted(str(found.relative_to(code).parents[2]) for found in code.glob(f"*/{TRAINERS}"))
    raise UserError(
        f"--code {code} holds no {TRAINERS}; "
        + (
            f"{' and '.join(inside)} in it does: give that folder"
            if inside
            else f"give the folder that holds the package {PACKAGE} which trained the network"
        )
    )


def _classes_of(file: Path) -> list[str]:
    """Return the classes that a file defines outermost; none where it can't be read."""
    try:
        if file.stat().st_size > LARGEST_FILE:
            return []
        text = file.read_text(encoding="utf-8", errors="replace")
        if not re.search(r"^class\s", text, re.MULTILINE):
            return []
        return [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []


def make(arguments: Mapping[str, Any]) -> Any:
    """Return the network of a trainer, with random weights; runs the tree's code.

    Args:
        arguments: ``module`` and ``trainer``, ``plans`` and ``dataset`` (files), ``configuration``,
            ``channels`` and ``classes``.

    Raises:
        UserError: for a trainer that builds its network from what is not known here.
    """
    trainer = getattr(importlib.import_module(arguments["module"]), arguments["trainer"])
    plans = json.loads(Path(arguments["plans"]).read_text("utf-8-sig"))
    dataset = json.loads(Path(arguments["dataset"]).read_text("utf-8-sig"))
    handler = importlib.import_module(f"{PACKAGE}.utilities.plans_handling.plans_handler")
    manager = handler.PlansManager(plans)
    configuration = manager.get_configuration(arguments["configuration"])
    given = {
        "plans_manager": lambda: manager,
        "configuration_manager": lambda: configuration,
        "dataset_json": lambda: dataset,
        "num_input_channels": lambda: arguments["channels"],
        "num_output_channels": lambda: arguments["classes"],
        "enable_deep_supervision": lambda: False,
        "deep_supervision": lambda: False,
        "architecture_class_name": lambda: configuration.network_arch_class_name,
        "arch_init_kwargs": lambda: configuration.network_arch_init_kwargs,
        "arch_init_kwargs_req_import": lambda: configuration.network_arch_init_kwargs_req_import,
    }
    build = getattr(trainer, "build_network_architecture", None)
    if build is None:
        raise UserError(
            f"{trainer.__name__} of {arguments['module']} has no build_network_architecture, by "
            "which nnU-Net builds a network; give --code the tree that trained it"
        )
    parameters = inspect.signature(build).parameters
    if "self" in parameters:
        # one that asks the trainer: nnU-Net's own have these attributes
        one = trainer.__new__(trainer)
        one.plans_manager, one.configuration_manager = manager, configuration
        one.dataset_json, one.configuration_name = dataset, arguments["configuration"]
        one.num_input_channels, one.enable_deep_supervision = arguments["channels"], False
        one.label_manager = manager.get_label_manager(dataset)
        build = one.build_network_architecture
        parameters = inspect.signature(build).parameters
    named = [
        name for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]  # fmt: skip
    unknown = [
        name for name in named if name not in given and parameters[name].default is inspect._empty
    ]
    if unknown:
        raise UserError(
            f"build_network_architecture of {trainer.__name__} takes {', '.join(unknown)}; known "
            f"are {', '.join(given)}: give these alone, as nnU-Net's trainers do"
        )
    return build(**{name: given[name]() for name in named if name in given})


def state(
    content: Any, own: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a checkpoint, and what was left out of it."""
    found = content["network_weights"]
    check_state(path, found)
    return unwrapped(found), lower_heads(own)
