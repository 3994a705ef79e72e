"""Time the forms of the selective scan alone in ONNX Runtime, and count their nodes.

    python benchmarks/scan_in_onnx.py

The forms are the local function (a Scan over single steps), each executable lowering, and the
kernel that takes the function's place where there is a C++ compiler, ``operators``. Each runs in a
process of its own, those of one size in turns. ``performance.py`` prints the same table. The status
is 1 where a form's nodes grow with the number of tokens more than it may.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner

sys.path[:0] = [str(Path(__file__).parents[1] / "tests/export"), str(Path(__file__).parents[1])]

from performance_workers import Effort, Job, figures, measure  # noqa: E402
from scan_models import feeds, random_arrays, scan_model  # noqa: E402

from lmaunet.cpu.code_functions import define_functions  # noqa: E402
from lmaunet.cpu.operators import compiler  # noqa: E402
from lmaunet.errors import UserError  # noqa: E402
from lmaunet.export.function import attach  # noqa: E402
from lmaunet.export.lower import LOWERINGS_IN_ONNX_RUNTIME, count_nodes, lower  # noqa: E402
from lmaunet.export.reference import thread_count  # noqa: E402

LENGTHS = (4096, 16384, 65536)
# the first and the second scan of `edge`
CHANNELS_STATES = ((48, 8), (96, 8))
OPERATORS = "operators"
NODES_PER_DOUBLING = {"two_level": 11}
"""How many nodes a form may gain where the tokens double; none where it is not named here."""

Row = dict[str, Any]


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of one scan in which the function stands in place of its call."""
    return onnx.inliner.inline_local_functions(attach(model))


def forms() -> dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]]:
    """Return what makes each form of a model of one scan."""
    return {
        "function": inlined,
        **{name: partial(lower, name=name) for name in LOWERINGS_IN_ONNX_RUNTIME},
        **({OPERATORS: define_functions} if compiler() else {}),
    }


def growing_nodes(rows: Sequence[Row]) -> list[str]:
    """Return a line for each form whose nodes grow with the tokens more than it may."""
    lines = []
    for row in rows:
        for other in rows:
            same = ("lowering", "channels", "states")
            if any(row[key] != other[key] for key in same) or other["tokens"] <= row["tokens"]:
                continue
            doublings = math.log2(other["tokens"] / row["tokens"])
            allowed = NODES_PER_DOUBLING.get(row["lowering"], 0) * math.ceil(doublings)
            if other["nodes"] - row["nodes"] > allowed:
                lines.append(
                    f"{row['lowering']}: {row['nodes']} nodes for {row['tokens']} tokens and "
                    f"{other['nodes']} for {other['tokens']}; expected at most {allowed} more"
                )
    return lines


def compare(
    lengths: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    effort: Effort,
    say: Callable[[str], None],
) -> list[Row]:
    """Return a row for each size and form; ``(channels, states)`` are ``sizes``.

    A form that refuses a size or fails has ``unavailable`` in place of its figures.
    """
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for channels, states in sizes:
            for tokens in lengths:
                say(f"scan of {tokens} tokens, {channels} channels, {states} states")
                found += _compare_one(tokens, channels, states, Path(folder), effort, say)
    return found


def _compare_one(
    tokens: int,
    channels: int,
    states: int,
    folder: Path,
    effort: Effort,
    say: Callable[[str], None],
) -> list[Row]:
    arrays = random_arrays(1, tokens, channels, states)
    inputs = folder / "inputs.npz"
    np.savez(inputs, **feeds(arrays))
    base, jobs, found = scan_model(arrays), {}, []
    for name, form in forms().items():
        row: Row = {"lowering": name, "tokens": tokens, "channels": channels, "states": states}
        found.append(row)
        model = form(base)
        row["nodes"] = count_nodes(model)
        path = folder / f"{name}.onnx"
        onnx.save(model, path)
        opener = "onnxruntime operators" if name == OPERATORS else "onnxruntime"
        jobs[name] = Job(opener, path, inputs)
    measure(list(jobs.values()), effort, say)
    for row in found:
        job = jobs[row["lowering"]]
        if job.failed:
            row["unavailable"] = {"tool": "onnxruntime", "why": job.failed, "fix": "more memory"}
        else:
            row |= figures(job, jobs["function"])
    return found


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| tokens | channels x states | form | median ms (quartiles) | of the function's | peak MB "
        "| load ms | nodes | file kB |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [str(row["tokens"]), f"{row['channels']} x {row['states']}", row["lowering"]]
        if "unavailable" in row:
            cells += [
                f"unavailable: {row['unavailable']['why']}",
                "",
                "",
                "",
                str(row["nodes"]),
                "",
            ]
        else:
            cells += [
                f"{row['median_ms']:.1f} ({row['q1_ms']:.1f}-{row['q3_ms']:.1f})",
                f"{row['ratio']:.2f}" if "ratio" in row else "", f"{row['peak_mb']:.0f}",
                f"{row['load_ms']:.0f}", str(row["nodes"]), f"{row['file_bytes'] / 1e3:.1f}",
            ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--budget-s", type=float, default=20, help="for the rounds of one size")
    options = parser.parse_args()
    try:
        rows = compare(
            options.lengths, CHANNELS_STATES, Effort(options.threads, options.budget_s),
            lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(table(rows))
    growing = growing_nodes(rows)
    print("\n".join(growing), file=sys.stderr, end="\n" if growing else "")
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
