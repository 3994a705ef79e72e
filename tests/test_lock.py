"""The versions that `make setup` installs: all that is declared is pinned, and nothing else."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lmaunet.packages import DISTRIBUTION, declared, included

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "lock.txt"
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+-]+)")
SETUP = ("all", "dev")
"""The extras that `make setup` installs; those of `make demo` are among them."""


def pins():
    """Return the version of each package, by its canonical name."""
    found = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, version = PIN.fullmatch(line).groups()
            assert canonicalize_name(name) not in found
            found[canonicalize_name(name)] = version
    return found


def requirements():
    extras = ["", *(name for extra in SETUP for name in (extra, *included(extra)))]
    return [text for extra in extras for text in declared().get(extra, {}).values()]


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    found, wanted = pins(), requirements()
    assert len(wanted) > 25
    for text in wanted:
        requirement = Requirement(text)
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"{text} is not in {LOCK.name}; run make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{text}: {version}"


def test_the_makefile_installs_by_it():
    """Both ways to install, and again where it changed."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (install,) = re.findall(r"^INSTALL := (.*)$", text, re.M)
    assert "LOCK := requirements/lock.txt\n" in text and "--constraint $(LOCK)" in install
    used = re.findall(r'^\t\$\(INSTALL\) "\.\[([a-z,]+)\]"$', text, re.M)
    assert sorted(used) == ["all,dev", "dicom,trt,fpga"]
    for stamp in ("$(STAMP)", "$(DEMO_STAMP)"):
        (needs,) = re.findall(rf"^{re.escape(stamp)}: (.*)$", text, re.M)
        assert "$(LOCK)" in needs.split()
    demo = {name for extra in used[0].split(",") + used[1].split(",") for name in included(extra)}
    assert demo - {"all", "dev"} <= set(included("all"))


def test_no_host_and_no_path_of_a_machine_is_in_it():
    text = LOCK.read_text(encoding="utf-8")
    for word in ("://", " @ ", "--index", "--find-links", "/"):
        assert word not in text


def needed():
    """Return the packages that the declared ones need, by the metadata of those installed."""
    waiting, seen = [Requirement(text) for text in requirements()], set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        if (name, *sorted(extras)) in seen:
            continue
        seen.add((name, *sorted(extras)))
        for text in importlib.metadata.distribution(name).requires or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(inner)
    return {name for name, *_ in seen}


def test_what_they_need_is_pinned_too_and_nothing_that_nobody_needs():
    found = pins()
    try:
        wanted = needed()
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here")
    assert wanted - set(found) == set(), "run make lock"
    # a pin for what nobody needs any more is installed with nothing, and misleads
    assert set(found) - wanted == set(), "uninstall these, then run make lock"
    assert DISTRIBUTION not in found
