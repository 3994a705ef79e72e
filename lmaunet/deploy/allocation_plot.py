"""A plot of weight bits, bytes and sensitivity, layer by layer, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Wider is darker; readable in grey, and for colour-blind readers.
COLOURS = {8: "#0B3C5D", 4: "#328CC1", 3: "#D9A441", 2: "#C8553D"}

ROW, TOP = 17, 92
LETTER, NARROWEST = 6.5, 150
"""Pixels of a letter of a layer's name, and of the narrowest column of names."""
BAR_LENGTH, DOT_SPAN = 300, 400
BARS_TO_DOTS, DOTS_TO_EDGE = 390, 440


def draw_allocation(content: Mapping[str, Any]) -> str:
    """Return the plot of an ``allocation.json``.

    A bar is a layer's bytes, its colour the bits. The filled dot is the layer's sensitivity at its
    bits, the rings those at the other widths.
    """
    from jinja2 import Environment, PackageLoader

    layers = content["layers"]
    bars = max(NARROWEST, round(LETTER * max(len(row["layer"]) for row in layers)) + 8)
    dots = bars + BARS_TO_DOTS
    values = [v for row in layers for v in row["sensitivity"].values() if v > 0]
    low = math.floor(math.log10(min(values, default=1e-6)))
    high = max(math.ceil(math.log10(max(values, default=1.0))), low + 1)
    low = max(low, high - 8)
    largest = max(row["bytes"] for row in layers)

    def place(value: float) -> float:
        exponent = math.log10(max(value, 10.0**low))
        return round(dots + DOT_SPAN * (min(exponent, high) - low) / (high - low), 1)

    rows = [
        {
            "layer": row["layer"],
            "bytes": f"{row['bytes']:,}",
            "y": TOP + index * ROW,
            "length": round(BAR_LENGTH * row["bytes"] / largest, 1),
            "colour": COLOURS[row["bits"]],
            "dot": place(row["sensitivity"][str(row["bits"])]),
            "others": [place(v) for b, v in row["sensitivity"].items() if int(b) != row["bits"]],
        }
        for index, row in enumerate(layers)
    ]
    environment = Environment(loader=PackageLoader("lmaunet.deploy", "templates"), autoescape=True)
    return environment.get_template("allocation.svg.j2").render(
        width=dots + DOTS_TO_EDGE,
        height=TOP + len(rows) * ROW + 12,
        bars=bars,
        dots=dots,
        budget=f"{content['budget_bytes'] / 1e6:g} MB",
        file=f"{content['file_bytes'] / 1e6:.3f} MB",
        legend=[
            {"x": 80 * i, "colour": colour, "text": f"{bits} bits"}
            for i, (bits, colour) in enumerate(COLOURS.items())
        ],
        ticks=[{"x": place(10.0**e), "text": f"1e{e}"} for e in range(low, high + 1)],
        rows=rows,
    )
