"""Which targets take a network, asked of its graph before anything is trained or exported.

Each target says in its own place what it refuses; what no quantized network can have is refused
for all of them.
"""

from __future__ import annotations

import itertools
import textwrap
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Refusal
from lmaunet.deploy.console import table
from lmaunet.deploy.targets import Missing, all_targets
from lmaunet.errors import UserError

if TYPE_CHECKING:
    from lmaunet.graph.graph import Graph

WIDTH = 60


def fits(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return, by target, whether it ``takes`` a network, and the ``reasons`` where it does not.

    A reason has ``operator``, ``count``, ``why`` and ``remedy``. A target whose packages are
    missing here is asked all the same where it can be; where not, ``takes`` is None.
    """
    from lmaunet.quant.network import check_quantizable

    common: list[Refusal] = []
    try:
        check_quantizable(graph)
    except UserError as error:
        why, _, remedy = str(error).rpartition("; ")
        common = [Refusal("network", 1, why or str(error), remedy)]
    found: dict[str, dict[str, Any]] = {}
    for name, target in all_targets().items():
        if isinstance(target, Missing):
            found[name] = {"takes": None, "reasons": [], "why": target.why}
            continue
        reasons = [*common, *target.refuses(graph)]
        found[name] = {"takes": not reasons, "reasons": [vars(reason) for reason in reasons]}
    return found


def lines_of(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return what :func:`fits` found, for a person."""
    taken = [name for name, entry in found.items() if entry["takes"]]
    lines = [f"targets that take it: {', '.join(taken) or 'none'}"]
    for name, entry in found.items():
        if entry["takes"] is None:
            lines.append(f"target {name} cannot be loaded here: {entry['why']}")
        if not entry["reasons"]:
            continue
        lines += ["", f"{name} does not take it:"]
        rows: list[list[str]] = []
        for reason in entry["reasons"]:
            columns = [[reason["operator"]], [str(reason["count"])], *(
                textwrap.wrap(reason[key], WIDTH) for key in ("why", "remedy")
            )]  # fmt: skip
            rows += map(list, itertools.zip_longest(*columns, fillvalue=""))
        lines += table(["operator", "nodes", "why", "what would do"], rows)
    return lines if len(lines) == 1 else [*lines, ""]
