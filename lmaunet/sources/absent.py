"""What stands in for packages that a network's code imports and this machine lacks.

A trainer's file imports augmentation, metrics and plots beside the network. Whatever is taken from
a package that is absent is inert: it can be subclassed, decorate and be named in annotations while
modules are imported, and the first use of it afterwards says which package the network needs. A
package stands in only where its lack would end the import: code that tries an import and goes on
without it still does.
"""

from __future__ import annotations

import abc
import functools
import importlib.abc
import importlib.machinery
import json
import os
import pickle
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.graph.stand_ins import CONTENTS
from lmaunet.packages import install_command

Made = TypeVar("Made")

MOST = 64
"""Packages that may be absent; more are no trainer's."""
STOOD_IN = frozenset(name.partition(".")[0] for name in CONTENTS)
DISTRIBUTIONS = {"cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn",
                 "yaml": "PyYAML", "PIL": "Pillow"}  # fmt: skip
"""The package of a module that has another name."""


def needed(name: str) -> UserError:
    """Return the error of a network that uses what is absent, such as ``einops.rearrange``."""
    top = name.partition(".")[0]
    if top in STOOD_IN:
        return UserError(
            f"the network uses {name}, and what stands in for {top} here has "
            f"{' and '.join(sorted(CONTENTS[top]))}; write it with these (docs/graph.md)"
        )
    package = DISTRIBUTIONS.get(top, top)
    return ToolNotFound(
        f"the Python package {package}",
        f"by the network's own code, which uses {name}",
        f"install it where this program runs: {install_command(package)}",
    )


def _importing() -> bool:
    """Whether a module's own lines are running: those of an import, not a call into it later.

    What is run without an import, such as the main module, is no such module.
    """
    frame = sys._getframe(1)
    while frame is not None:
        spec = frame.f_globals.get("__spec__")
        if frame.f_code.co_name == "<module>" and getattr(spec, "_initializing", False):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class Inert(abc.ABCMeta):
    """The class of what stands in: classes, so that they can be base classes and annotations."""

    absent: str

    def __call__(cls, *given: Any, **named: Any) -> Any:
        """Decorate, or make what is as inert, while a module is imported."""
        if not _importing():
            raise needed(cls.absent)
        if len(given) == 1 and not named and callable(given[0]) and not isinstance(given[0], Inert):
            return _decorated(given[0], cls.absent)
        return stand_in(cls.absent)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):  # Python's own questions to a class
            raise AttributeError(name)
        if not _importing():
            raise needed(f"{cls.absent}.{name}")
        return stand_in(f"{cls.absent}.{name}")

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return Any

    __ror__ = __or__

    def __bool__(cls) -> NoReturn:
        raise needed(cls.absent)

    def __iter__(cls) -> NoReturn:
        raise needed(cls.absent)


def stand_in(name: str) -> Inert:
    """Return what stands in for a class, a function or a value of a package."""
    return Inert(name.rpartition(".")[2], (), {"absent": name, "__module__": name})


def _decorated(made: Any, absent: str) -> Any:
    """Return a function or class that a decorator was to change: it can't be used unchanged."""
    if isinstance(made, type):

        def refuse(self: Any, *given: Any, **named: Any) -> NoReturn:
            raise needed(absent)

        made.__init__ = refuse  # type: ignore[misc]
        return made

    @functools.wraps(made)
    def run(*given: Any, **named: Any) -> Any:
        if not _importing():
            raise needed(absent)
        return made(*given, **named)

    return run


def _load_json(path: str) -> Any:
    return json.loads(Path(path).read_text("utf-8"))


REAL: dict[str, dict[str, Any]] = {
    "batchgenerators.utilities.file_and_folder_operations": {
        "join": os.path.join,
        "isfile": os.path.isfile,
        "isdir": os.path.isdir,
        "load_json": _load_json,
        "os": os,
        "json": json,
        "pickle": pickle,
        **{name: getattr(typing, name) for name in ("Any", "List", "Optional", "Tuple", "Union")},
    },
}
"""What nnU-Net's own reading of a plan calls, by the module that it takes it from; also what its
files expect of ``import *``."""
STARRED = (
    "subdirs", "subfiles", "nifti_files", "maybe_mkdir_p", "save_json", "load_pickle",
    "save_pickle", "write_pickle",
)  # fmt: skip
"""What ``import *`` takes from these beside, inert."""


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of the packages that are absent; it comes last of all."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of what stands in, None for a package that is not known to be absent."""
        parts = name.split(".")
        above = {".".join(parts[: count + 1]) for count in range(len(parts))}
        if not above & self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Let every attribute of a module be inert, but those that are REAL."""
        own = module.__name__

        def given(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return stand_in(f"{own}.{name}")

        real = REAL.get(own)
        if real is not None:
            module.__dict__.update(real, __all__=[*real, *STARRED])
        module.__getattr__ = given  # type: ignore[method-assign]


def without_absent(make: Callable[[], Made], owned: Callable[[str], bool]) -> Made:
    """Return what code makes; packages stand in whose lack ends one of its imports.

    The finder stays: what the code imports later finds the same.

    Args:
        make: imports and runs the code; again from the start whenever a package was absent.
        owned: whether a module is of that code, so that it is imported anew.

    Raises:
        ModuleNotFoundError: for a module that the code itself should have.
        UserError: where it uses what is absent.
    """
    finder, before = Finder(), set(sys.modules)
    sys.meta_path.append(finder)
    for _ in range(MOST):
        try:
            return make()
        except ModuleNotFoundError as error:
            name = error.name
            if not name or owned(name) or finder.find_spec(name) is not None:
                raise
            finder.names.add(name)
            # a folder of the code may have the name of a package that is in use here
            for module in [m for m in sys.modules if m not in before and owned(m)]:
                del sys.modules[module]
    raise UserError(
        f"the network's code imports more than {MOST} packages that are not here, "
        f"{', '.join(sorted(finder.names)[:5])} among them; run this where the network was trained"
    )
