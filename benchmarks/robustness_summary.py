"""The results of the robustness run: as they are committed, and as lines."""

from __future__ import annotations

import argparse
import datetime
import platform
from collections import Counter
from collections.abc import Iterable
from typing import Any

import robustness_kills as kills

from lmaunet.deploy.console import table
from lmaunet.stage import tool_versions

SHOWN = 40


def summarise(
    arguments: argparse.Namespace, found: Iterable[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """Return the results as they are committed."""
    every = sorted(found, key=lambda r: (r["kind"], r["number"]))
    records = [r for r in every if r["kind"] not in kills.KINDS]
    kinds = {}
    for kind in sorted({r["kind"] for r in records}):
        mine = [r for r in records if r["kind"] == kind]
        statuses = Counter(str(r["status"]) for r in mine)
        kinds[kind] = {
            "cases": len(mine),
            "status": dict(sorted(statuses.items())),
            "verified": sum(r["verified"] for r in mine),
            "unverified": sum(bool(r["unverified"]) for r in mine),
            "bad": sum(bool(r["bad"]) for r in mine),
            "slowest_s": max(r["seconds"] for r in mine),
        }
    bad = [
        {"kind": r["kind"], "number": r["number"], "reasons": r["bad"], "what": r["note"],
         "said": r["said"]} for r in every if r["bad"]
    ]  # fmt: skip
    return {
        "cases": len(records),
        "bad": len(bad),
        "unverified": sum(k["unverified"] for k in kinds.values()),
        "kinds": kinds,
        "kills": kills_of(every),
        "disturbances": disturbances(every),
        "volatile": {name: list(paths) for name, paths in kills.VOLATILE.items()},
        "seed": arguments.seed,
        "command": "python benchmarks/robustness.py "
        f"--cases {len(records)} --kills {kills_of(every)} --seed {arguments.seed}",
        "date": datetime.date.today().isoformat(),
        "wall_s": round(seconds),
        "workers": arguments.workers,
        "platform": f"{platform.system()} {platform.machine()}",
        "tools": tool_versions(),
        "bad_cases": bad,
    }


def kills_of(records: list[dict[str, Any]]) -> int:
    return sum(r["kind"] == "kill" for r in records)


def disturbances(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how often each stage was disturbed in each way, and how often it had ended before."""
    found = {}
    for kind in kills.KINDS:
        mine = [r for r in records if r["kind"] == kind]
        if mine:
            found[kind] = {
                "count": len(mine),
                "stages": dict(sorted(Counter(r["said"] for r in mine).items())),
                "ended_before": sum(not r["verified"] for r in mine),
                "bad": sum(bool(r["bad"]) for r in mine),
            }
    return found


def shown(content: dict[str, Any]) -> list[str]:
    """Return the results as lines."""
    rows = [
        [kind, *(str(k[n]) for n in ("cases", "verified", "unverified", "bad")),
         " ".join(f"{s}:{n}" for s, n in k["status"].items()), f"{k['slowest_s']:.1f}"]
        for kind, k in content["kinds"].items()
    ]  # fmt: skip
    head = ["kind", "cases", "verified", "unverified", "bad", "status", "slowest, s"]
    lines = table(head, rows) if rows else []
    lines += [f"{kind}: {found}" for kind, found in content["disturbances"].items()]
    for one in content["bad_cases"][:SHOWN]:
        lines += [f"{one['kind']}:{one['number']}: {'; '.join(one['reasons'])}",
                  f"    {one['what']}", f"    {one['said'][:200]}"]  # fmt: skip
    lines.append(f"{content['cases']} cases, {content['bad']} bad, {content['wall_s']} s")
    return lines
