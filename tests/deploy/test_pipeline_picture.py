"""The picture of a pipeline: where its bars are, and what is refused."""

from __future__ import annotations

import re

import pytest
from report_sample import parts as report_parts

from lmaunet.deploy import pipeline_picture, render, report
from lmaunet.deploy.pipeline_picture import layout
from lmaunet.errors import UserError


def part(name, begin, end, nodes=3):
    return {
        "name": name, "module": name.split(" ")[0], "nodes": nodes,
        "begin": begin, "end": end, "begin_ms": begin / 1000, "end_ms": end / 1000,
    }  # fmt: skip


def pipeline(provenance="simulated", **changes):
    rows = [
        part("image", 0, 500, 0), part("a large kernel", 100, 600), part("a scan", 250, 750, 1),
        part("b", 990, 1000),
    ]  # fmt: skip
    return {"provenance": provenance, "cycles": 1000, "ms": 1.0, "parts": rows} | changes


def reported(found):
    changed = report_parts()
    changed["targets"]["fpga"]["detail"] = {"pipeline": found}
    return report.assemble(**changed)


def test_bars_are_where_the_times_are():
    found = layout(pipeline())
    assert [(row["x"], row["length"]) for row in found["rows"]] == [
        (0, 50), (10, 50), (25, 50), (pytest.approx(99), pytest.approx(1)),
    ]  # fmt: skip
    assert [row["text"] for row in found["rows"]] == [
        "█" * 20 + "·" * 20, "····" + "█" * 20 + "·" * 16, "·" * 10 + "█" * 20 + "·" * 10,
        "·" * 39 + "█",
    ]  # fmt: skip
    assert found["rows"][2]["title"] == "a scan: first value in cycle 250, last in cycle 750"
    assert found["rows"][1]["title"].startswith("a large kernel, 3 ops: first value in cycle 100")
    assert found["rows"][1]["times"] == ["0.10", "0.60"]
    ys = [row["y"] for row in found["rows"]]
    assert ys == sorted(ys) and ys[-1] + found["row"] <= found["height"]
    # image, a (two rows), b: the band is behind a
    assert found["bands"] == [{"y": ys[1], "height": 2 * found["row"]}]


@pytest.mark.parametrize("ms", [0.0003, 0.27, 1.0, 3.94, 8.07, 6400.0])
def test_ticks_are_few_round_and_not_cut(ms):
    ticks = layout(pipeline(ms=ms, parts=[]))["ticks"]
    assert 2 <= len(ticks) <= pipeline_picture.MOST_TICKS + 1
    assert ticks[0] == {"x": 0, "text": "0 ms"} and ticks[-1]["x"] <= 96
    for tick in ticks[1:]:
        assert tick["x"] / 100 * ms == pytest.approx(float(tick["text"]))


def test_a_part_that_ends_after_the_image_stays_inside():
    found = layout(pipeline(ms=0.8))
    assert max(row["x"] + row["length"] for row in found["rows"]) == pytest.approx(100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": 99}, r"parts\[1\]\.end is 99; expected a number from 100"),
        ({"end_ms": 0.05}, r"parts\[1\]\.end_ms is 0\.05; expected a number from 0\.1"),
        ({"begin": -1}, r"parts\[1\]\.begin is -1; expected a number from 0"),
        ({"name": ""}, r"parts\[1\]\.name is ''; expected text"),
    ],
)
def test_a_part_that_cannot_be_is_refused(change, message):
    rows = [dict(row) for row in pipeline()["parts"]]
    rows[1] |= change
    with pytest.raises(UserError, match=rf"^targets\.fpga\.detail\.pipeline\.{message}"):
        reported(pipeline(parts=rows))


def test_a_pipeline_says_how_it_was_obtained():
    with pytest.raises(UserError, match=r"pipeline\.provenance is 'guessed'; expected one of"):
        reported(pipeline("guessed"))
    for provenance, word in (("simulated", "simulated"), ("estimated", "est.")):
        made = reported(pipeline(provenance))
        page = render.html(made)
        assert f'class="span {provenance}"' in page
        other = {"simulated": "estimated", "estimated": "simulated"}[provenance]
        assert f'class="span {other}"' not in page
        assert page.count(f"last in cycle 1,000 ({word})") == 1
        text = render.markdown(made)
        assert f"First, ms ({word})" in text
        assert f"the image takes 1.00 ms {word}" in text


def test_the_picture_needs_nothing_from_outside():
    page = render.html(reported(pipeline()))
    drawn = re.search(r'<div class="pipeline">.*?</div>', page, re.DOTALL)
    assert drawn and drawn[0].count("<rect") == 1 + 4 and drawn[0].count("<svg") == 3
    for forbidden in ("http", "<script", "url(", "href", "on="):
        assert forbidden not in drawn[0]


def test_a_name_is_escaped():
    page = render.html(reported(pipeline(parts=[part("<script>alert(1)</script>", 0, 5)])))
    assert "<script" not in page and "&lt;script&gt;" in page
