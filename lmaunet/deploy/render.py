"""The report as text (report.md) and as one self-contained page (report.html)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmaunet.deploy.figures import WORDS, Shown
from lmaunet.deploy.pictures import CHANGES
from lmaunet.deploy.view import view


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown whose tables are aligned for reading in a terminal."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lmaunet.deploy", "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=_markdown_value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["table"] = _markdown_table
    environment.globals["with_loss"] = _with_loss
    text = environment.get_template("report.md.j2").render(view(report))
    return re.sub(r"\n{3,}", "\n\n", text)


def html(report: Mapping[str, Any], pictures: Mapping[str, Any] | None = None) -> str:
    """Return the report as one page that needs no other file, and no network.

    Its script only sorts, slides and enlarges: without it, all is there.

    Args:
        report: a report that :func:`lmaunet.deploy.schema.validate` accepts.
        pictures: what :func:`lmaunet.deploy.pictures.overlay_rows` returned; None for none.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lmaunet.deploy", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = view(report)
    return environment.get_template("report.html.j2").render(
        found, pictures=_pictures(pictures), words=WORDS, changes_by=found["changes"],
        change_colours=CHANGES,
    )  # fmt: skip


def _pictures(pictures: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the pictures where there are any; a tile must be a PNG inside the page."""
    if not pictures or not pictures["rows"]:
        return None
    for row in [*pictures["rows"], *pictures.get("heat", {}).get("rows", [])]:
        for tile in [*row["tiles"], *(change["tile"] for change in row.get("changes", ()))]:
            if not re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", tile):
                raise ValueError(f"a tile of {row['title']} is not a PNG data URI: {tile[:40]!r}")
    return pictures


class _Text(str):
    """Markdown that is already escaped."""


def _markdown_value(value: Any) -> str:
    """Escape what Markdown or HTML would take for markup; a figure brings its provenance."""
    if isinstance(value, _Text):
        return value
    if isinstance(value, Shown):
        return value.text()
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*\[\]])", r"\\\1", text)


def _with_loss(shown: Shown, loss: str) -> Shown | _Text:
    """Return a class's Dice, and behind it what it lost where it lost most."""
    return _Text(f"{_markdown_value(shown)}: {_markdown_value(loss)}") if loss else shown


def _markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()
) -> _Text:
    """Return an aligned table; the columns of ``right`` are set right."""
    cells = [[_markdown_value(c) for c in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * (w - 1) + ":") if i in right else "-" * w for i, w in enumerate(widths)]
    return _Text("\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])]))
