"""How many mutants of the project's sources its tests notice, by a sample.

    python benchmarks/mutation.py --sample 400 --workers 2 -o results/mutation.json

The sites of all mutants are those of Cosmic Ray's operators on lines that some test runs. A seeded
sample of them is drawn, from each package by its share, and one mutant of each is tested: the tests
that run its line, the fastest first and never more than a budget of seconds; where none fails, then
all others that run it and those of the module's own file. A test that fails, a crash and a run that
hangs notice a mutant. Each test that noticed one is run once more without any mutant and must pass.

What survives is judged by hand: ``benchmarks/mutation_equivalent.json`` lists, with the reason,
each mutant that no test could notice, because it computes the same. The rate is that of the others.

Finished parts are kept in ``--cache``: a mutant is not tested again as long as its source stays as
it is and the files of the tests that decided: the one that noticed it, or all that it survived.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import mutation_map as mapping
import mutation_server as server
import mutation_work as work
from mutation_sites import (
    Mutant,
    Site,
    mutate,
    read_sources,
    readers,
    sites_of,
    statements,
)  # fmt: skip
from mutation_work import Outcome, Plan, Workers

PACKAGES = {
    "lmaunet.data": ["lmaunet/data/**/*.py"],
    "quant": ["quant/*.py"],
    "lmaunet.deploy": ["lmaunet/deploy/**/*.py"],
    "fpga's estimates": [
        f"fpga/{name}.py"
        for name in (
            "operators/*", "board/memories", "board/placement", "sizing/search",
            "sizing/folding", "sizing/schedule", "sizing/solver",
        )
    ],
}  # fmt: skip
TESTS = [
    "tests/data", "tests/quant", "tests/deploy", "tests/test_frozen.py",
    "tests/export/test_budget.py", "tests/cpu/test_packing.py",
    "tests/fpga/operators", "tests/fpga/board", "tests/fpga/sizing",
]  # fmt: skip
"""The files of tests that are about these packages."""

AT_ONCE = 3
"""From how many files a mutant's first tests are: each has to be imported."""
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.json")
TOOLS = ("cosmic-ray", "coverage", "pytest", "hypothesis", "numpy", "torch")


def main(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, server.end_with_this_process)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; workers share the cores
    root = arguments.root.resolve()
    packages = dict(map(_package, arguments.package)) if arguments.package else PACKAGES
    sources = {name: read_sources(root, patterns) for name, patterns in packages.items()}
    files = test_files(root, arguments.tests or TESTS)
    if not files or not all(sources.values()):
        raise SystemExit("no sources or no tests; give --root, --package NAME=GLOB and --tests")
    server.preload(tuple(arguments.preload.split(",")) if arguments.preload else server.PRELOADED)
    if arguments.limit_s:
        work.LEAST_S = arguments.limit_s
    workers = Workers(root, arguments.cache, arguments.workers, say)
    every = {path: code for found in sources.values() for path, code in found.items()}
    tests = workers.map_tests(files, sorted(every), arguments.map_s)
    population = {
        name: executed_sites(found, tests, arguments.only) for name, found in sources.items()
    }
    chosen = draw(population, arguments.sample, arguments.seed)
    known = equivalents(arguments.equivalent)
    plans: list[Any] = []
    owner: dict[int, str] = {}
    for name, sites in chosen.items():
        rng = random.Random(f"{arguments.seed} {name} mutants")
        for site in sites:
            mutant = mutant_of(site, rng, every[site.path])
            if mutant is not None:
                owner[len(plans)] = name
                plans.append(plan_of(mutant, every[mutant.path], tests, files))
    say(f"{len(plans)} mutants of {sum(map(len, population.values()))} sites")
    outcomes = workers.test(plans, tests)
    failing = workers.control(plans, outcomes, tests)
    report = {
        "command": " ".join(["python", "benchmarks/mutation.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "tools": versions(),
        "seed": arguments.seed,
        "control": {"tests": len({o.test for o in outcomes if o.test}), "failed": failing},
        **summary(plans, outcomes, owner, population, known),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(table(report))
    return 1 if failing else 0


def say(line: str) -> None:
    """Say a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def _package(text: str) -> tuple[str, list[str]]:
    name, _, patterns = text.partition("=")
    return name, patterns.split(",")


def test_files(root: Path, places: Iterable[str]) -> list[str]:
    """Return the files of tests in folders and by patterns, below a root."""
    found: set[Path] = set()
    for place in places:
        folder = root / place
        found.update(folder.rglob("test_*.py") if folder.is_dir() else root.glob(place))
    return sorted(p.relative_to(root).as_posix() for p in found if p.name.startswith("test_"))


def executed_sites(
    sources: dict[str, str], tests: mapping.Tests, only: list[str] | None
) -> list[Site]:  # fmt: skip
    """Return the sites of statements that some test runs."""
    found = []
    for path, code in sources.items():
        if only and not any(text in path for text in only):
            continue
        lines = statements(code)
        for site in sites_of(path, code):
            statement = lines.get(site.begin[0])
            if statement and tests.covering(path, range(statement.first, statement.last + 1)):
                found.append(site)
    return found


def draw(population: dict[str, list[Site]], size: int, seed: int) -> dict[str, list[Site]]:
    """Return a sample of the sites, from each package by its share (largest remainders)."""
    total = sum(map(len, population.values()))
    size = min(size, total)
    exact = {name: size * len(sites) / total for name, sites in population.items()}
    counts = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda n: counts[n] - exact[n])[: size - sum(counts.values())]:
        counts[name] += 1
    drawn = {}
    for name, sites in population.items():
        order = list(sites)
        random.Random(f"{seed} {name}").shuffle(order)  # a larger sample begins with a smaller one
        drawn[name] = order[: counts[name]]
    return drawn


def mutant_of(site: Site, rng: random.Random, code: str) -> Mutant | None:
    """Return one of a site's mutants that compiles, by chance; None where it has none."""
    for choice in rng.sample(range(len(site.choices)), len(site.choices)):
        mutant = mutate(site, choice, code)
        if mutant is None:
            continue
        try:
            compile(mutant.code, mutant.path, "exec", dont_inherit=True)
        except SyntaxError:
            continue
        return mutant
    return None


def plan_of(mutant: Mutant, code: str, tests: mapping.Tests, files: list[str]) -> Plan:
    """Return which tests a mutant meets: those that run its statement.

    What runs when its module is imported is met by tests that run a line which reads what it binds,
    by those that are called after the module, then by whatever runs anything of the module.
    """
    statement = statements(code)[mutant.line]
    lines = range(statement.first, statement.last + 1)
    if statement.imported:
        lines = range(1, code.count("\n") + 2)
    contexts = tests.covering(mutant.path, lines)
    near = {f for f in files if Path(f).stem == f"test_{Path(mutant.path).stem}"}
    importing = {f for f in files if f in contexts} if statement.imported else set()
    own = {context for context in contexts if context in tests.cases}
    called: set[str] = set()
    if statement.imported:
        reading = {
            context
            for place in readers(code, mutant.line)
            for context in tests.covering(mutant.path, range(place, place + 1))
            if context in tests.cases
        }
        module = mutant.path.removesuffix(".py").replace("/", ".")
        ends = (f"[{module}]", f".{module}]")
        called = {name for name in tests.cases if name.endswith(ends)}
        own = reading | called or own
    by_file = collections.Counter(name.partition("::")[0] for name in own)
    nearest = sorted(by_file, key=lambda file: (file not in near, -by_file[file], file))[:AT_ONCE]
    direct = {name for name in own if name.partition("::")[0] in nearest} | called
    first = tests.fastest_first(direct or contexts - set(files), set())
    wide = tests.fastest_first(contexts, near | importing)
    kept = {
        name: file
        for name, (file, made_by) in tests.kept.items()
        if mutant.path not in made_by and not statement.imported
    }
    return Plan(mutant, first, wide, kept)


def equivalents(path: Path) -> dict[tuple[str, str, str], str]:
    """Return the reasons of equivalent mutants by file, line and mutant."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text("utf-8"))
    return {(e["file"], e["line"], e["mutant"]): e["reason"] for e in content["equivalent"]}


def summary(
    plans: Sequence[Plan],
    outcomes: Sequence[Outcome],
    owner: dict[int, str],
    population: dict[str, list[Site]],
    known: dict[tuple[str, str, str], str],
) -> dict[str, Any]:
    """Return the counts by package and in all, and every mutant that no test noticed."""
    counts: dict[str, collections.Counter[str]] = {n: collections.Counter() for n in population}
    listed: dict[str, list[dict[str, Any]]] = {"survived": [], "equivalent": []}
    for i, (plan, outcome) in enumerate(zip(plans, outcomes, strict=True)):
        mutant, kind = plan.mutant, outcome.kind
        if kind == "survived" and mutant.key in known:
            kind = "equivalent"
        counts[owner[i]][kind] += 1
        if kind in listed:
            entry = {
                "file": mutant.path, "number": mutant.line, "line": mutant.source,
                "mutant": mutant.mutant, "operator": mutant.operator, "tests": outcome.tests,
            }  # fmt: skip
            listed[kind].append(
                entry | ({"reason": known[mutant.key]} if kind != "survived" else {})
            )
    rows = {
        name: rates(counts[name], sites=len(population[name])) for name in population
    }  # fmt: skip
    total = sum(counts.values(), collections.Counter())
    everything = rates(total, sites=sum(map(len, population.values())))
    return {"total": everything, "packages": rows, **listed}


def rates(counts: collections.Counter[str], sites: int) -> dict[str, Any]:
    """Return counts and the rate of noticed mutants, with Wilson's 95% interval."""
    from scipy.stats import binomtest

    noticed = counts["killed"] + counts["hung"]
    judged = noticed + counts["survived"]
    found: dict[str, Any] = {
        "sites": sites, "mutants": judged + counts["equivalent"], "killed": noticed,
        "of_these_hung": counts["hung"], "survived": counts["survived"],
        "equivalent": counts["equivalent"], "rate": None, "interval_95": None,
    }  # fmt: skip
    if judged:
        interval = binomtest(noticed, judged).proportion_ci(method="wilson")
        found["rate"] = round(noticed / judged, 4)
        found["interval_95"] = [round(float(interval.low), 4), round(float(interval.high), 4)]
    return found


def versions() -> dict[str, str]:
    """Return the versions of what decides the result."""
    from importlib.metadata import version

    return {name: version(name) for name in TOOLS} | {
        "python": ".".join(map(str, sys.version_info[:3]))
    }


def table(report: dict[str, Any]) -> str:
    """Return the rates as lines of Markdown."""
    lines = ["| package | sites | mutants | killed | survived | equivalent | rate, 95% |",
             "| --- | ---: | ---: | ---: | ---: | ---: | --- |"]  # fmt: skip
    for name, row in [*report["packages"].items(), ("all", report["total"])]:
        low, high = row["interval_95"] or (float("nan"),) * 2
        rate = "none" if row["rate"] is None else f"{row['rate']:.1%} ({low:.1%} to {high:.1%})"
        cells = (row["sites"], row["mutants"], row["killed"], row["survived"], row["equivalent"])
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {rate} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--sample", type=int, default=400, help="how many mutants")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=2, help="how many run at a time")
    add("--only", action="append", metavar="TEXT", help="only files whose path contains one")
    add("--root", type=Path, default=Path(__file__).parents[1])
    add("--package", action="append", metavar="NAME=GLOB,GLOB", help="other packages than ours")
    add("--tests", action="append", metavar="PLACE", help="other folders or patterns of tests")
    add("--equivalent", type=Path, default=EQUIVALENT)
    add("--cache", type=Path, default=Path("runs/mutation"))
    add("--limit-s", type=float, help="CPU seconds that any run may take, however short")
    add("--map-s", type=float, default=120.0,
        help="CPU seconds for which a file of tests is run for what it covers")  # fmt: skip
    add("--preload", metavar="NAME,NAME", help="what to import before the first fork")
    add("-o", "--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    if shutil.which("git") is None:
        raise SystemExit("git is not on the PATH; it lists the files of the tree")
    sys.exit(main(parse()))
