"""The pixels of the report's pictures, against the same computed one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from report_forms import decode

from lmaunet.deploy import pictures
from lmaunet.errors import UserError


def linear(gray, scale):
    """Each pixel by itself: between the centres of the four around it."""
    height, width = gray.shape
    out = np.empty((height * scale, width * scale))
    for y, x in np.ndindex(*out.shape):
        v = min(max((y + 0.5) / scale - 0.5, 0), height - 1)
        h = min(max((x + 0.5) / scale - 0.5, 0), width - 1)
        top, left = math.floor(v), math.floor(h)
        low, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = gray[top, left] * (left + 1 - h) + gray[top, right] * (h - left)
        lower = gray[low, left] * (left + 1 - h) + gray[low, right] * (h - left)
        out[y, x] = upper * (top + 1 - v) + lower * (v - top)
    return out


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (4, 7)])
def test_a_picture_is_enlarged_linearly(shape, scale):
    gray = np.random.default_rng(0).random(shape)
    np.testing.assert_allclose(pictures.enlarge(gray, scale), linear(gray, scale), atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_a_pixel_gets_the_class_with_the_largest_share(scale):
    classes = np.random.default_rng(1).choice([0, 2, 7], (4, 6))
    shares = {c: linear((classes == c).astype(float), scale) for c in (0, 2, 7)}
    got = pictures._enlarge_classes(classes, scale)
    for place in np.ndindex(*got.shape):
        most = max(share[place] for share in shares.values())
        assert shares[got[place]][place] == pytest.approx(most)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_edge_is_within_its_width_of_another_class(width):
    """In rows and columns; what is beyond the picture is no other class."""
    classes = np.zeros((9, 13), int)
    classes[:6, :5], classes[4:, 7:11], classes[2, 9] = 1, 2, 3
    got = pictures._inner_edge(classes, width)
    for y, x in np.ndindex(*classes.shape):
        near = [
            classes[y + a, x + b]
            for step in range(1, width + 1)
            for a, b in ((step, 0), (-step, 0), (0, step), (0, -step))
            if 0 <= y + a < 9 and 0 <= x + b < 13
        ]
        assert got[y, x] == (classes[y, x] > 0 and any(n != classes[y, x] for n in near))


def shade(value):
    return round(value * 63) / 63


def byte(value):
    return int(value * 255 + 0.5)


def test_colours_lie_over_the_shades():
    gray = np.linspace(0, 1, 63).reshape(7, 9)
    classes = np.zeros((7, 9), int)
    classes[1:6, 2:7] = 2  # an edge around, and nine pixels inside
    label = np.zeros((7, 9), int)
    label[0:4, 0:4] = 1
    shades = pictures._shades(gray)
    assert shades.tolist() == [[byte(shade(v)) for v in row] for row in gray]
    own, against = (
        decode(pictures._overlay(classes, 1)), decode(pictures._overlay(classes, 1, label))
    )  # fmt: skip
    line = pictures._inner_edge(label, 1)
    for y, x in np.ndindex(7, 9):
        wanted = [0, 0, 0, 0]
        if 1 <= y < 6 and 2 <= x < 7:
            alpha = 0.42 if 2 <= y < 5 and 3 <= x < 6 else 0.95
            wanted = [0x56, 0xB4, 0xE9, round(255 * alpha)]
        assert own[y, x].tolist() == wanted
        if line[y, x]:
            wanted = [255, 255, 255, round(255 * 0.85)]
        assert against[y, x].tolist() == wanted


@pytest.mark.parametrize(("scale", "width"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_an_outline_grows_with_the_picture_and_that_of_the_label_does_not(scale, width):
    classes = np.ones((6, 8), int)
    classes[:, 4:] = 3
    colours = decode(pictures._overlay(classes, scale))[0]
    inner = (colours != colours[0]).any(1)
    # from the left: filled, an edge of class 1, an edge of class 3, filled
    assert [len(list(run)) for _, run in itertools.groupby(inner[: 4 * scale])] == [
        4 * scale - width, width
    ]  # fmt: skip
    against = decode(pictures._overlay(classes * 0, scale, classes))[0]
    assert (against > 200).all(1).sum() == 2  # a pixel on each side


def test_a_class_beyond_the_palette_has_the_colour_that_comes_again():
    classes = np.ones((5, 5), int)
    np.testing.assert_array_equal(
        decode(pictures._overlay(classes * 9, 1)), decode(pictures._overlay(classes, 1))
    )


def changed_slices():
    """Three slices: one pixel lost and one added in the last, two of another organ in the first."""
    label = np.zeros((3, 12, 20), int)
    label[:, 3:9, 4:12], label[:, 3:9, 12:16] = 1, 2
    own = label.copy()
    own[2, 3, 4], own[2, 0, 0] = 0, 1
    own[0, 4, 4:7] = 2
    return label, own


def test_the_slice_that_differs_most_comes_first_and_one_that_does_not_is_left_out():
    label, own = changed_slices()
    given = {"FP32": label, "ort": own, "trt": label}
    made = pictures.overlay_rows(np.ones(label.shape), label, given, ["air", "a", "b"])
    assert [row["title"] for row in made["rows"]] == ["slice 0", "slice 2"] and made["slices"] == 3
    first, last = (row["changes"] for row in made["rows"])
    assert [(c["name"], c["pixels"]) for c in first] == [("ort", 3), ("trt", 0)]
    assert first[0]["share"] == 3 / 72 and last[0]["share"] == 2 / 73
    # without FP32 there is nothing to compare with, and then organs decide
    plain = pictures.overlay_rows(np.ones(label.shape), label, {"ort": own}, ["air", "a", "b"])
    assert [row["changes"] for row in plain["rows"]] == [[]] * 3


def test_mutant_that_shows_the_slices_in_their_order_is_caught(monkeypatch):
    monkeypatch.setattr(pictures, "_worst_slices", lambda *given: [0, 1, 2])
    with pytest.raises(AssertionError):
        test_the_slice_that_differs_most_comes_first_and_one_that_does_not_is_left_out()


def test_a_difference_has_the_colour_of_its_kind():
    own, reference = np.array([[0, 1, 2, 1, 0]]), np.array([[1, 0, 1, 1, 0]])
    change = pictures._change("ort", own, reference, 2)
    got = decode(change["tile"])
    assert got.shape == (2, 10, 4) and change["pixels"] == 3 and change["share"] == 3 / 4
    lost, added, other, same, air = (got[:, 2 * i : 2 * i + 2].reshape(4, 4) for i in range(5))
    for block, text in zip((lost, added, other), pictures.CHANGES.values(), strict=True):
        wanted = [int(text[i : i + 2], 16) for i in (1, 3, 5)] + [255]
        assert block.tolist() == [wanted] * 4
    assert not same.any() and not air.any()
    nothing = pictures._change("ort", own * 0, own * 0, 1)
    assert (nothing["pixels"], nothing["share"]) == (0, 0.0)


def test_pictures_have_a_budget_and_one_slice_always():
    label, own = changed_slices()
    given = (np.ones(label.shape), label, {"FP32": label, "ort": own}, ["air", "a", "b"])
    assert len(pictures.overlay_rows(*given)["rows"]) == 2
    made = pictures.overlay_rows(*given, most_bytes=10)
    assert [row["title"] for row in made["rows"]] == ["slice 0"]
    assert len(pictures.overlay_rows(*given, rows=1)["rows"]) == 1


def test_the_crop_holds_body_and_organs_with_two_pixels_around():
    gray = np.zeros((40, 60))
    gray[10:30, 15:45] = 0.081
    nothing = np.zeros((40, 60), int)
    assert pictures._body(gray, [nothing]) == (slice(8, 32), slice(13, 47))
    gray[10:30, 15:45] = 0.08  # this is air
    assert pictures._body(gray, [nothing]) == (slice(0, 40), slice(0, 60))
    organ = nothing.copy()
    organ[12:14, 50] = 1
    assert pictures._body(gray, [nothing, organ]) == (slice(10, 16), slice(48, 53))
    organ[0, 0] = organ[39, 59] = 2  # at the borders there is no margin
    assert pictures._body(gray, [organ]) == (slice(0, 40), slice(0, 60))


@pytest.mark.parametrize(("count", "held"), [(5, False), (6, True)])
def test_a_table_of_a_twelfth_of_a_row_is_no_body(count, held):
    gray = np.zeros((24, 60))
    gray[10:14, 20:40] = 0.5
    gray[20, :count] = 0.5
    rows, _ = pictures._body(gray, [np.zeros((24, 60), int)])
    assert rows == slice(8, 23 if held else 16)


def label_of(*organs):
    """Slices that show so many organs, each of so many pixels."""
    label = np.zeros((len(organs), 6, 7), int)
    for index, (count, pixels) in enumerate(organs):
        for c in range(count):
            label[index, c, :pixels] = c + 1
    return label


@pytest.mark.parametrize(
    ("organs", "rows", "chosen"),
    [
        ([(0, 0), (1, 1), (2, 1), (1, 2)], 1, [2]),
        ([(1, 2), (1, 3), (1, 1)], 1, [1]),  # a tie goes to more pixels
        ([(1, 2), (1, 2), (1, 2)], 1, [0]),  # and then to the first
        ([(1, 2), (1, 3), (0, 0)], 5, [0, 1]),
        ([(3, 1), (3, 1), (0, 0), (0, 0), (1, 1), (0, 0), (0, 0), (0, 0)], 2, [0, 4]),
        ([(3, 1), (3, 1), (0, 0), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0)], 2, [0, 3]),
        ([(3, 1), (3, 1), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)], 2, [0, 2]),
        ([(3, 1), (2, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)], 2, [0, 1]),
        ([(1, 1), (1, 1)], 0, []),
    ],
)
def test_slices_are_chosen_by_organs_pixels_and_distance(organs, rows, chosen):
    assert pictures.choose_slices(label_of(*organs), rows) == chosen


@pytest.mark.parametrize(("index", "text"), [(1, "#E69F00"), (8, "#6E3BFF"), (9, "#E69F00"),
                                             (18, "#56B4E9")])  # fmt: skip
def test_colours_come_again_after_the_last(index, text):
    assert pictures.colour(index) == text


@pytest.mark.parametrize(
    ("pixels", "scale"), [(19, 1), (20, 1), (21, 2), (40, 2), (41, 3), (1, 1)]
)  # fmt: skip
def test_the_longer_side_is_as_long_as_asked_at_least(pixels, scale):
    label = np.ones((1, 12, 20), int)
    made = pictures.overlay_rows(
        np.ones((1, 12, 20)), label, {}, ["air", "a"], tile_pixels=pixels, titles=["t"]
    )
    (row,) = made["rows"]
    assert row["title"] == "t" and len(row["tiles"]) == 2
    assert decode(row["tiles"][1]).shape == (12 * scale, 20 * scale, 4)
    # the image is as large as it is, and the page enlarges it
    assert decode(row["tiles"][0]).shape == (12, 20) and row["size"] == (20, 12)


def test_grey_reaches_from_one_half_percent_to_the_other():
    values = np.arange(1000, dtype=float).reshape(1, 25, 40) * 7 - 300
    label = np.ones((1, 25, 40), int)
    made = pictures.overlay_rows(values, label, {}, ["air", "a"], tile_pixels=1)
    gray = decode(made["rows"][0]["tiles"][0]).ravel()
    low, high = np.percentile(values, [0.5, 99.5])
    wanted = [byte(shade(min(max((v - low) / (high - low), 0), 1))) for v in values.ravel()]
    assert gray.tolist() == wanted
    # one value all over is no division by nothing
    flat = pictures.overlay_rows(values * 0 + 5, label, {}, ["air", "a"], tile_pixels=1)
    assert not decode(flat["rows"][0]["tiles"][0]).any()


@pytest.mark.parametrize("least", [-1, 0, 1])
def test_a_class_has_a_name_or_is_refused(least):
    label = np.full((1, 4, 5), 1)
    label[0, 0, 0] = least
    if least >= 0:
        pictures.overlay_rows(np.ones((1, 4, 5)), label, {}, ["air", "a"])
        return
    with pytest.raises(UserError, match=r"label has classes -1 to 1; there are names for 0 to 1"):
        pictures.overlay_rows(np.ones((1, 4, 5)), label, {}, ["air", "a"])


@pytest.mark.parametrize("titles", [[], ["a"], ["a", "b", "c"]])
def test_titles_are_as_many_as_slices_on_either_side(titles):
    label = np.ones((2, 4, 5), int)
    with pytest.raises(UserError, match=f"{len(titles)} titles for 2 slices; give one each"):
        pictures.overlay_rows(np.ones((2, 4, 5)), label, {}, ["air", "a"], titles=titles)


@pytest.mark.parametrize("shape", [(4, 5), (1, 1, 4, 5)])
def test_images_are_slices(shape):
    with pytest.raises(UserError, match=r"pictures: images have shape .*; expected \(n, H, W\)"):
        pictures.overlay_rows(np.ones(shape), np.ones(shape, int), {}, ["air", "a"])


def test_the_legend_has_the_classes_that_are_shown_anywhere():
    label = np.zeros((3, 4, 5), int)
    label[0, 0, 0], other = 3, label.copy()
    other[2, 1, 1] = 1  # in a slice that is not shown
    made = pictures.overlay_rows(
        np.ones((3, 4, 5)), label, {"ort": other}, ["air", "a", "b", "c"], rows=1
    )
    assert made["legend"] == [
        {"name": "a", "colour": "#E69F00"}, {"name": "c", "colour": "#009E73"}
    ]  # fmt: skip
    assert made["columns"] == ["image", "label", "ort"]
    assert [row["title"] for row in made["rows"]] == ["slice 0"]
