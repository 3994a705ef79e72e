"""The runs of a mutation test: which tests meet a mutant, on how many workers, and what is kept."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mutation_map as mapping
import mutation_server as server
import pytest
from mutation_sites import Mutant

FIRST_S, WIDE_S = 12.0, 24.0
"""Budgets of a mutant's first tests and of all, in the seconds that they take without it."""

AT_ONCE = 300
"""How many first tests a mutant meets at most."""

SLACK, LEAST_S = 4.0, 30.0
"""A run may take so many times what its tests take, and so many CPU seconds in any case."""

MAPPED_S = 1800.0
POLL_S = 0.02
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)


@dataclass
class Plan:
    """A mutant, the tests that meet it, and the fixtures' values that it cannot change."""

    mutant: Mutant
    first: list[mapping.Case]
    wide: list[mapping.Case]
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """``killed``, ``hung`` or ``survived``; the test that failed, and how many were run."""

    kind: str
    test: str
    tests: int
    seconds: float


@dataclass
class Job:
    """One run to make: in which tree it is, what to do with its end."""

    tests: list[mapping.Case]
    kept: dict[str, str]
    mutant: Mutant | None
    done: Callable[[server.Ended], Iterable[Job]]


class Workers:
    """Runs of tests in copies of the tree, as many at a time as there are copies."""

    def __init__(self, root: Path, cache: Path, count: int, say: Callable[[str], None]) -> None:
        self.root, self.cache, self.say = root, cache.resolve(), say
        self.trees = [self.cache / f"tree{i}" for i in range(max(1, count))]
        for tree in self.trees:
            shutil.rmtree(tree, ignore_errors=True)
            server.copy_tree(root, tree)
        packages = {p.name for p in root.iterdir() if (p / "__init__.py").exists()}
        modules = {p.stem for p in [*root.glob("*.py"), *(root / "benchmarks").glob("*.py")]}
        self.ours = frozenset(packages | modules)

    def map_tests(
        self, files: list[str], sources: list[str], budget_s: float = 120.0
    ) -> mapping.Tests:
        """Return what each file of tests runs of the sources; unchanged ones are not run again.

        ``budget_s``: CPU seconds for one file; of a longer one only the first tests are run.
        """
        kept = self.cache / "tests.json"
        known = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
        shared = [
            p.relative_to(self.root).as_posix() for p in self.root.glob("tests/**/conftest.py")
        ]
        waiting = [f for f in files if not self._current(known.get(f), f, shared)]
        self.say(f"{len(waiting)} of {len(files)} files of tests are run for what they cover")
        free = list(self.trees)
        running: dict[Any, Any] = {}
        try:
            while waiting or running:
                while free and waiting:
                    tree, name = free.pop(), waiting.pop(0)
                    answer = tree.with_name(f"{tree.name}.json")
                    answer.unlink(missing_ok=True)

                    def work(tree: Path = tree, name: str = name, answer: Path = answer) -> int:
                        kept = self.cache / "fixtures"
                        return mapping.record(tree, name, sources, kept, answer, budget_s)

                    running[tree] = (name, answer, server.start(tree, self.ours, work, MAPPED_S))
                for tree, (name, answer, run) in list(running.items()):
                    ended = run.ended()
                    if ended is None:
                        continue
                    del running[tree]
                    free.append(tree)
                    if not answer.exists():
                        raise SystemExit(f"{name} was not mapped:\n{ended.output[-3000:]}")
                    content = json.loads(answer.read_text("utf-8"))
                    uses = [name, *shared, *content["lines"]]
                    known[name] = content | {"digests": mapping.digests(tree, uses)}
                    kept.write_text(json.dumps(known), "utf-8")
                    failed = [n for n, t in content["tests"].items() if not t.get("passed")]
                    self.say(
                        f"{name}: {len(content['tests'])} tests, {len(failed)} failed or skipped, "
                        f"{ended.seconds:.0f} s"
                    )
                time.sleep(POLL_S)
        finally:
            for _, _, run in running.values():
                run.stop()
        tests = mapping.Tests()
        for name in files:
            tests.add(name, known[name])
        return tests

    def _current(self, entry: dict | None, name: str, shared: list[str]) -> bool:
        if entry is None or not {name, *shared} <= set(entry["digests"]):
            return False
        now = mapping.digests(self.root, list(entry["digests"]))
        fixtures = (f["kept"] for f in entry["fixtures"].values())
        return now == entry["digests"] and all(Path(f).exists() for f in fixtures if f)

    def test(self, plans: Sequence[Plan], tests: mapping.Tests) -> list[Outcome]:
        """Return what became of each mutant."""
        store = Store(self.root, self.cache / "outcomes.json")
        outcomes: dict[int, Outcome] = {}
        jobs: list[Job] = []
        for i, plan in enumerate(plans):
            known = store.get(plan.mutant)
            if known is not None:
                outcomes[i] = known
            else:
                jobs.append(self._first(i, plan, outcomes, store))
        self.say(f"{len(jobs)} mutants to test, {len(outcomes)} known from before")
        self._run(jobs, tests)
        return [outcomes[i] for i in range(len(plans))]

    def _first(self, i: int, plan: Plan, outcomes: dict[int, Outcome], store: Store) -> Job:
        first = within(plan.first[:AT_ONCE], FIRST_S)
        names = {case.name for case in first}
        rest = [case for case in within(plan.wide, WIDE_S) if case.name not in names]

        def note(ended: server.Ended, ran: list[mapping.Case]) -> bool:
            kind = {0: "survived", server.HUNG: "hung"}.get(ended.status, "killed")
            failed = FAILED.search(ended.output)
            test = failed.group(1) if failed and kind == "killed" else ""
            outcomes[i] = Outcome(kind, test, len(ran), round(ended.seconds, 1))
            if kind == "survived" and len(ran) == len(first) and rest:
                return False
            store.put(plan.mutant, outcomes[i], ran)
            mutant = plan.mutant
            self.say(
                f"{len(outcomes)}: {kind:8} {ended.seconds:4.0f} s  {mutant.path}:{mutant.line} "
                f"{mutant.source[:60]!r} -> {mutant.mutant[:60]!r} {test.split('/')[-1][:60]}"
            )
            return True

        def after_all(ended: server.Ended) -> Iterator[Job]:
            note(ended, [*first, *rest])
            return iter(())

        def after_first(ended: server.Ended) -> Iterator[Job]:
            if not note(ended, first):
                yield Job(rest, plan.kept, plan.mutant, after_all)

        if not first:
            return Job(rest, plan.kept, plan.mutant, after_all)
        return Job(first, plan.kept, plan.mutant, after_first)

    def control(
        self, plans: Sequence[Plan], outcomes: Sequence[Outcome], tests: mapping.Tests
    ) -> list[str]:
        """Run the tests that noticed a mutant without any; return those that fail."""
        noticed: dict[str, set[str]] = {}
        for outcome in outcomes:
            if outcome.test in tests.cases:
                noticed.setdefault(outcome.test.partition("::")[0], set()).add(outcome.test)
        kept = {name: file for name, (file, _) in tests.kept.items()}
        failing: list[str] = []

        def look(ended: server.Ended) -> Iterator[Job]:
            if ended.status != 0:
                failing.extend(FAILED.findall(ended.output) or [str(ended)])
            return iter(())

        jobs = [
            Job([tests.cases[name] for name in sorted(names)], kept, None, look)
            for _, names in sorted(noticed.items())
        ]
        self.say(f"{sum(map(len, noticed.values()))} tests that noticed a mutant, without one")
        self._run(jobs, tests, stop=False)
        return failing

    def _run(self, jobs: list[Job], tests: mapping.Tests, *, stop: bool = True) -> None:
        waiting, free = list(jobs), list(self.trees)
        running: dict[Path, tuple[Job, server.Run, ExitStack]] = {}
        try:
            while waiting or running:
                while free and waiting:
                    tree, job = free.pop(), waiting.pop(0)
                    stack = ExitStack()
                    if job.mutant is not None:
                        stack.enter_context(server.mutated(tree, job.mutant.path, job.mutant.code))
                    shutil.rmtree(tree / ".hypothesis", ignore_errors=True)
                    names = [case.name for case in job.tests]
                    limit = max(LEAST_S, SLACK * seconds_of(job.tests, tests.fixtures_s))

                    def work(
                        tree: Path = tree, names: list[str] = names, job: Job = job
                    ) -> int:  # fmt: skip
                        server.write_no_bytecode()
                        words = [*server.pytest_arguments(tree, names), *(["-x"] if stop else [])]
                        return int(pytest.main(words, plugins=[mapping.Keeper(job.kept)]))

                    running[tree] = (job, server.start(tree, self.ours, work, limit), stack)
                for tree, (job, run, stack) in list(running.items()):
                    ended = run.ended()
                    if ended is not None:
                        stack.close()
                        del running[tree]
                        free.append(tree)
                        waiting.extend(job.done(ended))  # the longer runs last
                time.sleep(POLL_S)
        finally:
            for _, run, stack in running.values():
                run.stop()
                stack.close()


def within(cases: list[mapping.Case], budget_s: float) -> list[mapping.Case]:
    """Return the first tests that fit into a budget of seconds, at least one."""
    found: list[mapping.Case] = []
    spent = 0.0
    for case in cases:
        spent += case.seconds
        if found and spent > budget_s:
            break
        found.append(case)
    return found


def seconds_of(cases: list[mapping.Case], fixtures_s: dict[str, float]) -> float:
    """Return what tests take with their shared fixtures."""
    shared = {name for case in cases for name in case.fixtures}
    return sum(case.seconds for case in cases) + sum(fixtures_s[name] for name in shared)


class Store:
    """Outcomes of earlier runs, as long as they hold."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path = root, path
        self.known = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def _name(self, mutant: Mutant) -> str:
        return json.dumps([*mutant.key, mutant.operator, mutant.line])

    def get(self, mutant: Mutant) -> Outcome | None:
        """Return what became of a mutant, where neither its source nor those tests changed."""
        entry = self.known.get(self._name(mutant))
        if entry is None:
            return None
        now = mapping.digests(self.root, list(entry["digests"]))
        return Outcome(**entry["outcome"]) if now == entry["digests"] else None

    def put(self, mutant: Mutant, outcome: Outcome, ran: Iterable[mapping.Case]) -> None:
        """Keep an outcome, with the digests of the source and of the tests that decided it."""
        decided = [outcome.test] if outcome.test else [case.name for case in ran]
        files = {name.partition("::")[0] for name in decided}
        self.known[self._name(mutant)] = {
            "outcome": asdict(outcome),
            "digests": mapping.digests(self.root, [mutant.path, *sorted(files)]),
        }
        self.path.write_text(json.dumps(self.known), "utf-8")
