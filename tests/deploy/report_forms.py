"""A report as its readers see it: the text of the page, and the Markdown."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np

from lmaunet.deploy import render

#: Every figure of the sample as it must be read: number, unit, and the word beside it.
FIGURES = [
    ("1.23", "MB", "measured"), ("1.33", "MB", "measured"), ("1.43", "MB", "measured"),
    ("1.04", "MB", "measured"), ("1.14", "MB", "measured"), ("1.24", "MB", "measured"),
    ("0.877", "", "measured"), ("0.878", "", "measured"), ("0.879", "", "measured"),
    ("0.61", "points", "measured"), ("0.71", "points", "measured"), ("0.81", "points", "measured"),
    ("7.21", "mm", "measured"), ("7.31", "mm", "measured"), ("7.41", "mm", "measured"),
    ("61.30", "ms", "measured"), ("10.37", "ms", "est."), ("9.83", "ms", "est."),
    ("0.889", "", "measured"), ("6.02", "mm", "measured"),
    ("0.853", "", "measured"), ("0.874", "", "measured"), ("0.894", "", "measured"),
    ("1,835,008", "cycles", "est."), ("589,824", "cycles", "est."), ("172,310", "", "est."),
]  # fmt: skip


class VisibleText(HTMLParser):
    """The text of a page that a reader sees, with blanks between elements."""

    def __init__(self, page):
        super().__init__()
        self.parts, self.hidden = [], 0
        self.feed(page)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("style", "title", "script")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "title", "script")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


#: The words of figures that were not measured; in the page a measured one has no word.
EXCEPTIONS = ("emulated", "simulated", "est.")


def require_provenance(text, figures=FIGURES, form="markdown"):
    """Check that each figure occurs, and that its word stands beside it wherever it occurs."""
    for number, unit, word in figures:
        places = list(re.finditer(rf"(?<![\d.,]){re.escape(number)}(?![\d,]|\.\d)", text))
        assert places, f"{number} is not in the report"
        silent = form == "html" and word == "measured"
        beside = " ".join(part for part in (unit, "" if silent else word) if part)
        for place in places:
            after = text[place.end() : place.end() + 40]
            assert after.startswith(f" {beside}"), f"{number} is followed by {after!r}"
            if silent:
                assert not after[len(beside) + 1 :].strip().startswith(EXCEPTIONS), (
                    f"{number} is followed by {after!r}"
                )


FORMS = {
    "html": lambda made: VisibleText(render.html(made)).text,
    "markdown": render.markdown,
}


def decode(uri):
    """Return the pixels of a tile: gray or colour, with what lets through where it has that."""
    import matplotlib.image

    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.rint(matplotlib.image.imread(io.BytesIO(content), format="png") * 255).astype(int)
