"""What is installed beside what pyproject.toml says: every folder with an ``__init__.py``.

They are found, so that a new target is one folder and nothing beside.
"""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
CONTENT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"lmaunet": "lmaunet", **CONTENT["tool"]["setuptools"]["package-dir"]}

setup(
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(ROOT / folder)))
    ]
)
