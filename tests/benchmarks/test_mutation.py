"""The mutation run, on a package of a few lines whose mutants are known one by one."""

from __future__ import annotations

import collections
import gc
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import mutation as benchmark
import mutation_map as mapping
import mutation_server as server
import mutation_work as work
import pytest
from mutation_sites import Mutant, Site, mutate, readers, sites_of, statements

SUMS = '''\
"""Sums; 1 + 1 is 2."""

from __future__ import annotations

LIMIT = 7


def total(values: list[int] | None) -> int:
    """Return the sum, 3 - 3 is 0."""
    found = 0
    for value in values or []:
        found = found + value
    if found > 99:
        raise ValueError(f"{found - 99} too many")
    return found


def countdown(n: int) -> int:
    while n > 0:
        n = n - 1
    return n


def limit() -> int:
    return LIMIT * 2


def never() -> int:
    return 4 + 4


def start() -> int:
    return 0
'''
TESTS = """\
import subprocess
import sys

import pytest

from toy.sums import countdown, limit, start, total


@pytest.fixture(scope="session")
def three():
    return start() + 3


def test_total():
    assert total([1, 2]) == 3


def test_countdown(three):
    assert countdown(three) == 0


def test_limit():
    assert limit() > 0


def test_another_process():
    words = [sys.executable, "-c", "from toy.sums import limit; print(limit())"]
    assert subprocess.run(words, capture_output=True, text=True).stdout == "14\\n"
"""


FILE = "tests/test_sums.py"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("mutation") / "root"
    (root / "toy").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "toy" / "__init__.py").write_text("")
    (root / "toy" / "sums.py").write_text(SUMS)
    (root / FILE).write_text(TESTS)
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def workers(toy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "LEAST_S", 8.0)
        patch.setattr(mapping, "KEPT_FROM_S", 0.0)
        yield work.Workers(toy, toy.with_name("cache"), 2, lambda line: None)


@pytest.fixture(scope="module")
def tests(workers):
    return workers.map_tests([FILE], ["toy/sums.py"])


def change(old, new):
    """The mutant that has one line otherwise."""
    assert SUMS.count(old) == 1
    line = SUMS[: SUMS.index(old)].count("\n") + 1
    return Mutant("toy/sums.py", line, old, new, "by hand", SUMS.replace(old, new))


def names(cases):
    return {case.name.partition("::")[2] for case in cases}


def test_sites_are_where_behaviour_is():
    places = {(site.begin[0], site.family) for site in sites_of("toy/sums.py", SUMS)}
    lines = {SUMS.splitlines()[line - 1].strip() for line, _ in places}
    assert lines == {
        "LIMIT = 7", "found = 0", "for value in values or []:", "found = found + value",
        "if found > 99:", "while n > 0:", "n = n - 1", "return LIMIT * 2", "return 4 + 4",
        "return 0",
    }  # fmt: skip
    assert {family for line, family in places if SUMS.splitlines()[line - 1] == "LIMIT = 7"} == {
        "NumberReplacer"
    }


def test_one_site_has_all_replacements_of_one_operator():
    (site,) = [
        site for site in sites_of("toy/sums.py", SUMS)
        if site.family == "ReplaceBinaryOperator" and site.begin[0] == 12
    ]  # fmt: skip
    found = {mutate(site, i, SUMS).mutant for i in range(len(site.choices))}
    operators = ("-", "*", "/", "//", "%", "**", ">>", "<<", "|", "&", "^")
    assert found == {f"found = found {sign} value" for sign in operators}
    assert {mutate(site, i, SUMS).source for i in range(3)} == {"found = found + value"}


def test_what_reads_a_constant_is_where_it_shows():
    code = "LIMIT = 3\nOTHER = 4\n\n\nclass A:\n    x = LIMIT\n\n\n"
    code += "def f(v):\n    return v > LIMIT, A\n"
    assert readers(code, 1) == {6, 10}
    assert readers(code, 2) == set()
    assert readers(code, 5) == {10}


@pytest.mark.parametrize(("name", "sites"), [("TYPE_CHECKING", 0), ("FAST", 1)])
def test_what_is_imported_for_annotations_alone_is_no_behaviour(name, sites):
    code = f"from a import {name}\n\nif {name}:\n    import b\n"
    assert len(sites_of("f.py", code)) == sites


def test_a_removed_line_is_named():
    code = "import functools\n\n\n@functools.cache\ndef f():\n    return 1\n"
    (site,) = [s for s in sites_of("f.py", code) if s.family == "RemoveDecorator"]
    mutant = mutate(site, 0, code)
    assert (mutant.source, mutant.mutant, mutant.line) == ("@functools.cache", "", 4)


def test_a_line_belongs_to_its_innermost_statement():
    lines = statements(SUMS)
    assert lines[5].imported and not lines[10].imported
    assert (lines[11].first, lines[11].last) == (11, 11)  # the head of the loop, not its body
    code = "def f(\n    a=1,\n    b=2,\n):\n    return (\n        a\n        + b\n    )\n"
    lines = statements(code)
    assert (lines[2].first, lines[2].last, lines[2].imported) == (1, 4, True)
    assert (lines[7].first, lines[7].last, lines[7].imported) == (5, 8, False)


def test_tests_meet_the_lines_that_they_run(tests):
    assert names(tests.cases.values()) == {
        "test_total", "test_countdown", "test_limit", "test_another_process",
    }  # fmt: skip
    assert tests.covering("toy/sums.py", range(12, 13)) == {f"{FILE}::test_total"}
    assert tests.covering("toy/sums.py", range(20, 21)) == {f"{FILE}::test_countdown"}
    assert tests.covering("toy/sums.py", range(33, 34)) == {f"fixture {FILE}::three"}
    assert tests.covering("toy/sums.py", range(5, 6)) == {FILE}, "as the file is imported"
    assert not tests.covering("toy/sums.py", range(29, 30))
    (kept,) = tests.kept.values()
    assert kept[1] == {"toy/sums.py"}
    population = benchmark.executed_sites({"toy/sums.py": SUMS}, tests, None)
    assert {site.begin[0] for site in population} == {5, 10, 11, 12, 13, 19, 20, 25, 33}


def plan(tests, mutant):
    return benchmark.plan_of(mutant, SUMS, tests, [FILE])


MUTANTS = {
    "killed": change("found = found + value", "found = found - value"),
    "killed elsewhere": change("return LIMIT * 2", "return LIMIT * 3"),
    "killed at import": change("LIMIT = 7", "LIMIT = 8"),
    "crashed": change("found = found + value", "__import__('os').abort()"),
    "survived": change("if found > 99:", "if found > 98:"),
    "hung": change("n = n - 1", "n = n + 1"),
}


@pytest.mark.slow
def test_a_mutant_is_killed_survives_or_hangs(workers, tests):
    plans = [plan(tests, mutant) for mutant in MUTANTS.values()]
    assert names(plans[0].first) == {"test_total"}
    assert names(plans[1].first) == {"test_limit"}
    assert names(plans[2].first) == {"test_limit"}
    assert names(plans[2].wide) == names(tests.cases.values())
    outcomes = dict(zip(MUTANTS, workers.test(plans, tests), strict=True))
    assert {name: outcome.kind for name, outcome in outcomes.items()} == {
        "killed": "killed", "killed elsewhere": "killed", "killed at import": "killed",
        "crashed": "killed", "survived": "survived", "hung": "hung",
    }  # fmt: skip
    assert outcomes["killed"].test == f"{FILE}::test_total"
    # only the process that a test starts shows it: the narrow run passes, the whole file does not
    assert outcomes["killed elsewhere"].test == f"{FILE}::test_another_process"
    assert outcomes["hung"].seconds >= 2.0
    assert workers.control(plans, list(outcomes.values()), tests) == []
    for tree in workers.trees:
        assert (tree / "toy" / "sums.py").read_text() == SUMS


def test_a_run_collects_no_garbage_of_the_process_that_it_is_forked_from(tmp_path):
    """A worker of pytest's holds millions of objects by the time that this file comes."""
    held = [[i] for i in range(50_000)]
    (tmp_path / "tree").mkdir()
    run = server.start(
        tmp_path / "tree", frozenset(), lambda: int(len(gc.get_objects()) > len(held)), 20.0
    )
    while (ended := run.ended()) is None:
        time.sleep(0.01)
    assert len(gc.get_objects()) > len(held), "here they are looked at"
    assert ended.status == 0, ended.output


def test_a_package_in_another_folder_is_the_copys_own(tmp_path):
    """Else the tests of a mutant would import the checkout's, and none would be noticed."""
    root, tree = tmp_path / "root", tmp_path / "tree"
    for path, text in {
        "pkg/__init__.py": "", "part/__init__.py": "", "part/mod.py": "VALUE = 1\n",
        "pyproject.toml": '[tool.setuptools.package-dir]\n"pkg.part" = "part"\n',
    }.items():  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    server.copy_tree(root, tree)
    server.copy_tree(root, tree)

    def value() -> int:
        import pkg.part.mod

        return pkg.part.mod.VALUE

    for code, expected in (("VALUE = 7\n", 7), ("VALUE = 9\n", 9)):
        with server.mutated(tree, "part/mod.py", code):
            run = server.start(tree, frozenset({"pkg"}), value, 20.0)
            while (ended := run.ended()) is None:
                time.sleep(0.01)
        assert ended.status == expected, ended.output


def test_what_is_called_after_a_module_meets_it_however_many_others_run_more_of_it():
    """It imports the module only, so that no line of it is its own."""
    several = [f"tests/test_{i}.py::test" for i in range(4)]
    called = "tests/test_values.py::test_value[toy.sums]"
    names = [*several, called, "tests/test_values.py::test_value[toy.other]"]
    found = mapping.Tests(
        cases={name: mapping.Case(name, 0.1, ()) for name in names},
        lines={"toy/sums.py": {12: set(several), 25: set(several)}},
    )
    first = {case.name for case in plan(found, MUTANTS["killed at import"]).first}
    assert first == {*several[:3], called}
    first = {case.name for case in plan(found, MUTANTS["killed"]).first}
    assert first == set(several[:3]), "of what does not run at import it knows nothing"


def test_a_test_that_fails_without_a_mutant_is_named(workers, tests):
    killer = f"{FILE}::test_total"
    for tree in workers.trees:
        (tree / FILE).write_text(TESTS.replace("== 3", "== 4"))
    found = [work.Outcome("killed", killer, 1, 0.1)]
    failing = workers.control([], found, tests)
    for tree in workers.trees:
        (tree / FILE).write_text(TESTS)
    assert failing == [killer]


def test_a_kept_fixture_is_not_made_for_a_source_that_it_did_not_run(workers, tests):
    (fixture,) = tests.kept
    assert plan(tests, MUTANTS["hung"]).kept == {}, "the fixture runs that source"
    (countdown,) = [case for case in tests.cases.values() if case.fixtures]
    made = change("return 0", "return 1 // 0")
    given = change("return 0", "return 2 // 0")
    plans = [
        work.Plan(made, [countdown], []),
        work.Plan(given, [countdown], [], {fixture: tests.kept[fixture][0]}),
    ]
    assert [outcome.kind for outcome in workers.test(plans, tests)] == ["killed", "survived"]


def test_what_is_unchanged_is_kept(workers, toy, tests):
    said = []
    plans = [plan(tests, MUTANTS[name]) for name in ("killed", "survived")]
    first = workers.test(plans, tests)
    again = work.Workers(toy, workers.cache, 1, said.append)
    assert again.map_tests([FILE], ["toy/sums.py"]) == tests
    assert again.test(plans, tests) == first
    assert said[0].startswith("0 of 1 files") and said[1].startswith("0 mutants to test, 2 known")
    (toy / FILE).write_text(TESTS + "\n# another\n")
    said.clear()
    more = work.Workers(toy, workers.cache, 1, said.append)
    more.map_tests([FILE], ["toy/sums.py"])
    more.test(plans, tests)
    (toy / FILE).write_text(TESTS)
    assert said[0].startswith("1 of 1 files")
    assert any(line.startswith("2 mutants to test, 0 known") for line in said)


def test_a_sample_is_drawn_by_share_and_again_the_same():
    def sites(name, count):
        return [Site(name, (i, 0), (i, 1), "x", (("x", 0),)) for i in range(count)]

    population = {"a": sites("a", 60), "b": sites("b", 25), "c": sites("c", 15)}
    drawn = benchmark.draw(population, 11, 0)
    assert {name: len(found) for name, found in drawn.items()} == {"a": 6, "b": 3, "c": 2}
    assert drawn == benchmark.draw(population, 11, 0) != benchmark.draw(population, 11, 1)
    assert all(len(set(found)) == len(found) for found in drawn.values())
    every = benchmark.draw(population, 1000, 0)
    assert {name: len(found) for name, found in every.items()} == {"a": 60, "b": 25, "c": 15}


def test_a_mutant_that_does_not_compile_is_none():
    site = Site("x.py", (1, 0), (1, 1), "x", (("core/ReplaceBreakWithContinue", 0),))
    assert benchmark.mutant_of(site, random.Random(0), "x = 1\n") is None


def test_rates_by_hand():
    counts = collections.Counter(killed=8, hung=1, survived=1, equivalent=5)
    found = benchmark.rates(counts, sites=40)
    assert (found["mutants"], found["killed"], found["of_these_hung"]) == (15, 9, 1)
    assert (found["survived"], found["equivalent"], found["rate"]) == (1, 5, 0.9)
    # Wilson: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), with p = 0.9, n = 10, z = 1.96
    assert found["interval_95"] == pytest.approx([0.5958, 0.9821], abs=1e-4)
    assert benchmark.rates(collections.Counter(), sites=3)["rate"] is None


def test_the_equivalent_ones_stand_in_the_sources():
    """Each has a reason, and its line is still there: else the entry is to be judged again."""
    root = Path(benchmark.__file__).parents[1]
    for (file, line, mutant), reason in benchmark.equivalents(benchmark.EQUIVALENT).items():
        assert line != mutant and len(reason) > 20
        stripped = [text.strip() for text in (root / file).read_text("utf-8").splitlines()]
        assert line in stripped or line in " ".join(stripped), f"{file}: {line}"


def test_the_whole_run_on_a_small_package(toy, tmp_path):
    equivalent = tmp_path / "equivalent.json"
    entries = [
        {"file": "toy/sums.py", "line": "if found > 99:", "mutant": f"if found {sign} 99:",
         "reason": "said by the test"} for sign in ("==", ">=", "is")
    ]  # fmt: skip
    equivalent.write_text(json.dumps({"equivalent": entries}))
    words = ["--root", str(toy), "--package", "toy=toy/*.py", "--tests", "tests",
             "--preload", "pytest,hypothesis,coverage",
             "--equivalent", str(equivalent), "--cache", str(tmp_path / "cache"),
             "--only", "sums", "--sample", "4", "--limit-s", "8",
             "-o", str(tmp_path / "found.json")]  # fmt: skip
    run = subprocess.run(
        [sys.executable, benchmark.__file__, *words], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(benchmark.__file__).parents[1])}, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    total = found["total"]
    assert total["mutants"] == 4 <= total["sites"]
    assert total == found["packages"]["toy"]
    assert total["killed"] + total["survived"] + total["equivalent"] == 4 and total["killed"] > 1
    assert len(found["survived"]) == total["survived"]
    assert len(found["equivalent"]) == total["equivalent"]
    assert found["control"]["failed"] == [] and found["seed"] == 0
    assert run.stdout.splitlines()[-1].startswith("| all | ")
