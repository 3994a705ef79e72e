"""Which tests run which lines, and how long they take: so that a mutant's tests are its own.

Each test file is run once under coverage, with a context for every test. What a file of tests ran
decides when it is run again: only when it, a conftest or one of those sources has changed.
"""

from __future__ import annotations

import collections
import hashlib
import json
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mutation_server as server
import pytest

IMPORTING = ""
"""The context of what runs when a file of tests is imported, before its first test."""

KEPT_FROM_S = 1.0
"""A fixture that takes longer is kept for the mutants of sources that it does not run."""

PLACES = frozenset({"tmp_path_factory", "tmp_path", "request", "monkeypatch"})
"""What a fixture that is kept may not depend on: its value names places that are gone."""


class Recorder:
    """A pytest plugin: coverage by test and by shared fixture, and their seconds."""

    def __init__(self, coverage: Any, kept: Path, budget_s: float) -> None:
        self.coverage, self.kept, self.budget_s = coverage, kept, budget_s
        self.tests: dict[str, dict[str, Any]] = {}
        self.fixtures: dict[str, dict[str, Any]] = {}
        self.contexts, self.nested_s = [IMPORTING], 0.0

    def _enter(self, context: str) -> None:
        self.contexts.append(context)
        self.coverage.switch_context(context)

    def _leave(self) -> None:
        self.contexts.pop()
        self.coverage.switch_context(self.contexts[-1])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._enter(item.nodeid)
        started, self.nested_s = time.monotonic(), 0.0
        try:
            return (yield)
        finally:
            self._leave()
            seconds = time.monotonic() - started - self.nested_s
            found = self.tests.setdefault(item.nodeid, {"passed": True})
            asked = getattr(item, "fixturenames", ())
            found |= {"seconds": round(seconds, 3), "fixtures": list(asked)}
            if time.process_time() > self.budget_s:
                item.session.shouldstop = "its time is spent"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        name = f"{fixturedef.baseid}::{fixturedef.argname}"
        self._enter(f"fixture {name}")
        started, before = time.monotonic(), self.nested_s
        try:
            value = yield
        finally:
            self._leave()
        seconds = time.monotonic() - started
        own = seconds - (self.nested_s - before)
        self.nested_s = before + seconds
        self.fixtures[name] = {
            "seconds": round(own, 3), "needs": list(fixturedef.argnames), "kept": None,
        }  # fmt: skip
        if own > KEPT_FROM_S and fixturedef.scope == "session":
            self.fixtures[name]["kept"] = self._keep(name, value)
        return value

    def _keep(self, name: str, value: Any) -> str | None:
        try:
            content = pickle.dumps(value)
        except Exception:
            return None
        file = self.kept / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.pickle"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return str(file)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:  # a skipped test is none for a mutant either
            self.tests.setdefault(report.nodeid, {})["passed"] = False


def record(
    tree: Path, test_file: str, sources: list[str], kept: Path, answer: Path, budget_s: float
) -> int:
    """Run one file of tests and write what it ran; called in a forked process.

    After so many CPU seconds no further test begins; those that were not run meet no mutant.
    """
    import coverage

    cover = coverage.Coverage(data_file=None, include=[str(tree / path) for path in sources])
    plugin = Recorder(cover, kept, budget_s)
    cover.start()
    cover.switch_context(IMPORTING)
    status = int(pytest.main(server.pytest_arguments(tree, [test_file]), plugins=[plugin]))
    cover.stop()
    data = cover.get_data()
    lines: dict[str, dict[str, list[str]]] = {}
    for file in data.measured_files():
        by_line = {str(n): contexts for n, contexts in data.contexts_by_lineno(file).items()}
        lines[Path(file).relative_to(tree).as_posix()] = by_line
    content = {"tests": plugin.tests, "fixtures": plugin.fixtures, "lines": lines}
    answer.write_text(json.dumps(content), "utf-8")
    return status


@dataclass
class Case:
    """One test: its name, what it takes and the shared fixtures that it asks for."""

    name: str
    seconds: float
    fixtures: tuple[str, ...]


@dataclass
class Tests:
    """What all files of tests ran.

    ``lines``: by source and line, the contexts: names of tests, of fixtures, or of files of tests
    for what they import. ``kept``: the files of fixtures' values and the sources that made them.
    """

    cases: dict[str, Case] = field(default_factory=dict)
    fixtures_s: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    kept: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)

    def add(self, test_file: str, content: dict[str, Any]) -> None:
        """Add what one file of tests ran."""
        own = {name: entry for name, entry in content["fixtures"].items()}
        by_name = {name.partition("::")[2]: name for name in own}
        for name, entry in content["tests"].items():
            if entry.get("passed") and "seconds" in entry:
                asked = tuple(by_name[f] for f in entry["fixtures"] if f in by_name)
                self.cases[name] = Case(name, entry["seconds"], asked)
        made: collections.defaultdict[str, set[str]] = collections.defaultdict(set)
        for path, by_line in content["lines"].items():
            for line, contexts in by_line.items():
                named = {context or test_file for context in contexts}
                self.lines.setdefault(path, {}).setdefault(int(line), set()).update(named)
                for context in contexts:
                    if context.startswith("fixture "):
                        made[context.removeprefix("fixture ")].add(path)
        for name, entry in own.items():
            self.fixtures_s[name] = max(self.fixtures_s.get(name, 0.0), entry["seconds"])
            needed, places = _needed(name, own, by_name)
            if entry["kept"] and not places & PLACES:
                earlier = self.kept.get(name, ("", frozenset()))[1]
                paths: frozenset[str] = frozenset().union(*(made[n] for n in needed))
                self.kept[name] = (entry["kept"], paths | earlier)

    def covering(self, path: str, lines: range) -> set[str]:
        """Return the contexts in which any of the lines ran."""
        by_line = self.lines.get(path, {})
        return set().union(*(by_line.get(line, set()) for line in lines))

    def fastest_first(self, contexts: set[str], files: set[str]) -> list[Case]:
        """Return the tests of contexts, and all tests of files, those with the least to do first.

        A shared fixture is counted for the first test that asks for it.
        """
        fixtures = {c.removeprefix("fixture ") for c in contexts if c.startswith("fixture ")}
        chosen = [
            case
            for case in self.cases.values()
            if case.name in contexts
            or case.name.partition("::")[0] in files
            or fixtures & set(case.fixtures)
        ]
        shared = {
            case.name: sum(map(self.fixtures_s.__getitem__, case.fixtures)) for case in chosen
        }
        return sorted(chosen, key=lambda case: (case.seconds + shared[case.name], case.name))


def _needed(
    name: str, own: dict[str, Any], by_name: dict[str, str]
) -> tuple[set[str], set[str]]:  # fmt: skip
    """Return a fixture and those that it depends on, and all names that they ask for."""
    needed, asked, open_ = set(), set(), [name]
    while open_:
        one = open_.pop()
        needed.add(one)
        for argument in own[one]["needs"]:
            asked.add(argument)
            other = by_name.get(argument)
            if other and other not in needed:
                open_.append(other)
    return needed, asked


class Keeper:
    """A pytest plugin that gives kept values of fixtures instead of making them again."""

    def __init__(self, kept: dict[str, str]) -> None:
        self.kept = kept

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        file = self.kept.get(f"{fixturedef.baseid}::{fixturedef.argname}")
        if file is None:
            return None
        value = pickle.loads(Path(file).read_bytes())
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value


def digests(root: Path, paths: list[str]) -> dict[str, str]:
    """Return the SHA-256 of files, empty for one that there is not."""
    return {
        path: hashlib.sha256((root / path).read_bytes()).hexdigest()
        if (root / path).is_file()
        else ""
        for path in paths
    }
