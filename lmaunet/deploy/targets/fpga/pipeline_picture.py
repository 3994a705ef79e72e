"""The picture of a pipeline: a bar for each part of a design over the time of one image.

Everything across is in percent of the axis, so that the picture takes the width that it is given
and its text stays as large as the page's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmaunet.deploy.figures import WORDS, Shown, number_text

ROW, BAR, HEAD = 21, 11, 24
MOST_TICKS = 5
COLUMNS = 40


def layout(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """Return where everything in the picture goes.

    Args:
        pipeline: as :func:`lmaunet.deploy.schema.validate` accepts it.

    Returns:
        ``height``; ``ticks`` (``x`` in percent, ``text``); ``rows`` (``y``, ``x`` and ``length``
        in percent, ``name``, ``title``, ``times``, and ``text``, the bar in characters); ``bands``
        (``y``, ``height``) behind every other module; ``shown``, the time of the image.
    """
    parts = pipeline["parts"]
    end = max([pipeline["ms"], *(part["end_ms"] for part in parts)]) or 1.0
    decimals = max(0, 2 - math.floor(math.log10(end)))
    rows = [
        {
            "name": part["name"],
            "y": HEAD + ROW * i,
            "x": 100 * part["begin_ms"] / end,
            "length": 100 * (part["end_ms"] - part["begin_ms"]) / end,
            "title": _title(part),
            "times": [f"{part[key]:,.{decimals}f}" for key in ("begin_ms", "end_ms")],
            "text": _characters(part["begin_ms"] / end, part["end_ms"] / end),
        }
        for i, part in enumerate(parts)
    ]
    return {
        "provenance": pipeline["provenance"],
        "word": WORDS[pipeline["provenance"]],
        "shown": Shown(
            "latency_ms", number_text("latency_ms", pipeline["ms"]), "ms", pipeline["provenance"]
        ),
        "height": HEAD + ROW * len(rows) + 4,
        "row": ROW,
        "bar": BAR,
        "head": HEAD,
        "ticks": _ticks(end),
        "bands": _bands([part["module"] for part in parts]),
        "rows": rows,
    }


def _title(part: Mapping[str, Any]) -> str:
    ops = f", {part['nodes']} ops" if part["nodes"] > 1 else ""
    return (
        f"{part['name']}{ops}: first value in cycle {part['begin']:,}, last in cycle "
        f"{part['end']:,}"
    )


def _characters(begin: float, end: float) -> str:
    """Return a bar for a terminal, at least one character long."""
    first = min(int(begin * COLUMNS), COLUMNS - 1)
    last = max(first + 1, round(end * COLUMNS))
    return "\u00b7" * first + "\u2588" * (last - first) + "\u00b7" * (COLUMNS - last)


def _ticks(end: float) -> list[dict[str, Any]]:
    """Return ticks at round numbers of ms, none so far right that its text would be cut."""
    power = 10.0 ** math.floor(math.log10(end / MOST_TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if end / (power * factor) <= MOST_TICKS)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    count = math.floor(0.96 * end / step)
    return [
        {"x": 100 * i * step / end, "text": f"{i * step:.{decimals}f}" if i else "0 ms"}
        for i in range(count + 1)
    ]


def _bands(modules: list[str]) -> list[dict[str, int]]:
    """Return the background of every other module, so that its rows are seen as one."""
    found: list[dict[str, int]] = []
    number = -1
    for i, module in enumerate(modules):
        if i == 0 or module != modules[i - 1]:
            number += 1
            if number % 2:
                found.append({"y": HEAD + ROW * i, "height": 0})
        if number % 2:
            found[-1]["height"] += ROW
    return found
