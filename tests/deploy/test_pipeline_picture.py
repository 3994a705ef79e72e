"""The picture of a pipeline: where its bars are, and what is refused."""

from __future__ import annotations

import re

import pytest
from report_sample import parts as report_parts

from lmaunet.deploy import render, report
from lmaunet.deploy.targets.fpga import pipeline_picture
from lmaunet.deploy.targets.fpga.pipeline_picture import layout
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
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


@pytest.mark.parametrize(
    ("begin", "end", "first", "length"),
    [(0.0, 1.0, 0, 40), (0.0, 0.0, 0, 1), (1.0, 1.0, 39, 1), (0.5, 0.5, 20, 1),
     (0.24, 0.26, 9, 1), (0.25, 0.5, 10, 10), (0.974, 1.0, 38, 2)],
)  # fmt: skip
def test_a_bar_in_characters_is_one_long_at_least(begin, end, first, length):
    text = pipeline_picture._characters(begin, end)
    assert text == "·" * first + "█" * length + "·" * (40 - first - length)


@pytest.mark.parametrize(
    ("end", "texts"),
    [
        (1.0, ["0 ms", "0.2", "0.4", "0.6", "0.8"]), (5.0, ["0 ms", "1", "2", "3", "4"]),
        (5.3, ["0 ms", "2", "4"]), (10.5, ["0 ms", "5", "10"]),
        (24.0, ["0 ms", "5", "10", "15", "20"]),
        (0.03, ["0 ms", "0.01", "0.02"]), (26.0, ["0 ms", "10", "20"]),
    ],
)  # fmt: skip
def test_ticks_are_at_1_2_or_5_times_a_power_of_ten(end, texts):
    ticks = pipeline_picture._ticks(end)
    assert [tick["text"] for tick in ticks] == texts
    steps = [float(text) for text in texts[1:]]
    assert [tick["x"] for tick in ticks[1:]] == pytest.approx([100 * s / end for s in steps])


def test_every_other_module_has_a_background():
    assert pipeline_picture._bands(["a", "b", "b", "c", "d", "a"]) == [
        {"y": 24 + 21, "height": 42}, {"y": 24 + 4 * 21, "height": 21},
    ]  # fmt: skip
    assert pipeline_picture._bands([]) == [] and pipeline_picture._bands(["a", "a"]) == []


@pytest.mark.parametrize(
    ("ms", "times"),
    [(0.5, ["0.050", "0.500"]), (5.0, ["0.05", "0.50"]), (50.0, ["0.1", "0.5"]),
     (500.0, ["0", "0"]), (5000.0, ["0", "0"]), (99.0, ["0.1", "0.5"])],
)  # fmt: skip
def test_times_have_three_digits_of_the_longest(ms, times):
    part = {"name": "p", "module": "m", "nodes": 1, "begin": 1, "end": 2, "begin_ms": 0.05,
            "end_ms": 0.5}  # fmt: skip
    made = pipeline_picture.layout({"provenance": "estimated", "ms": ms, "parts": [part]})
    assert made["rows"][0]["times"] == times and made["height"] == 24 + 21 + 4
    assert made["rows"][0]["title"] == "p: first value in cycle 1, last in cycle 2"


def test_a_pipeline_without_any_time_is_drawn_all_the_same():
    made = pipeline_picture.layout({"provenance": "measured", "ms": 0, "parts": []})
    assert made["height"] == 28 and made["ticks"][0]["text"] == "0 ms"


@pytest.mark.parametrize(("nodes", "ops"), [(0, ""), (1, ""), (2, ", 2 ops"), (17, ", 17 ops")])
def test_a_bar_says_of_how_many_ops_it_is_where_there_are_several(nodes, ops):
    part = {"name": "lkm1", "nodes": nodes, "begin": 1_234, "end": 56_789}
    title = f"lkm1{ops}: first value in cycle 1,234, last in cycle 56,789"
    assert pipeline_picture._title(part) == title
