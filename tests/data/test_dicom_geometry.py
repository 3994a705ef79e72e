"""The box that slices make, from what each says of itself: every tolerance on both of its sides."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pytest
from dicom_maker import COLUMN, NORMAL, ROW

from lmaunet.data.dicom import geometry
from lmaunet.data.dicom.frames import Frame, frames_of
from lmaunet.data.dicom.geometry import stack
from lmaunet.data.dicom.header import Header
from lmaunet.errors import UserError

FOLDER = Path("series")
PLAIN = frames_of([Header(Path("0.dcm"), maker.one(0, maker.volume()[0]))])[0]


def slices(along, aside=None, **change) -> list[Frame]:
    """Slices at places along the normal in mm, shifted along a row; each is named by its number."""
    return [
        dataclasses.replace(
            PLAIN,
            source=z,
            name=f"s{z}",
            position=tuple(maker.ORIGIN + place * NORMAL + (aside or [0] * len(along))[z] * ROW),
            **change,
        )
        for z, place in enumerate(along)
    ]


def odd(frames, z, **change):
    """The frames, one of which is changed."""
    return [dataclasses.replace(f, **change) if i == z else f for i, f in enumerate(frames)]


def refused(frames, *texts):
    with pytest.raises(UserError) as raised:
        stack(frames, FOLDER)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


STEPS = [0.0, 2.5, 5.0, 7.5, 10.0]


def test_a_box_has_the_first_frames_spacing_and_the_lowest_slices_place():
    """Not those of the last frame, where they differ by less than what is tolerated."""
    frames = odd(slices([5.0, 0.0, 10.0, 2.5, 7.5]), 4, spacing_mm=(0.7501, 1.2501))
    box = stack(frames, FOLDER)
    assert box.order == (1, 3, 0, 4, 2) and box.notes == ()
    assert box.spacing_mm == (1.25, 0.75, pytest.approx(2.5)) and np.allclose(
        box.origin, maker.ORIGIN
    )
    assert np.allclose(np.reshape(box.direction, (3, 3)), np.stack([ROW, COLUMN, NORMAL], 1))
    turned = odd(frames, 4, orientation=(*ROW, *(COLUMN * [1, 1, 1.0001])))
    assert stack(turned, FOLDER).direction == box.direction


@pytest.mark.parametrize(("degrees", "said"), [(0.0, None), (0.009, None), (0.012, "0.012"),
                                               (0.05, "0.05")])  # fmt: skip
def test_rows_and_columns_are_made_right_and_it_is_said_from_a_hundredth_of_a_degree(degrees, said):
    lean = math.radians(degrees)
    column = math.cos(lean) * COLUMN + math.sin(lean) * ROW
    box = stack(slices(STEPS, orientation=(*ROW, *column)), FOLDER)
    matrix = np.reshape(box.direction, (3, 3))
    assert np.abs(matrix.T @ matrix - np.eye(3)).max() < 1e-12 and np.allclose(matrix[:, 0], ROW)
    assert [n for n in box.notes if "right angles" in n] == (
        [f"rows and columns are {said} degrees from right angles: taken as right"] if said else []
    )


@pytest.mark.parametrize(("between", "said"), [(2.549, False), (2.551, True), (2.451, False),
                                               (2.449, True), (None, False)])  # fmt: skip
def test_a_distance_tag_is_said_to_be_wrong_from_a_fiftieth_of_the_step(between, said):
    """The first slice's; the others' are not asked."""
    frames = odd(slices(STEPS, between_mm=9.0), 0, between_mm=between)
    notes = stack(frames, FOLDER).notes
    wanted = f"positions give 2.5 mm from slice to slice, SpacingBetweenSlices {between} mm"
    assert [wanted in note for note in notes] == ([True] if said else [])


@pytest.mark.parametrize(("between", "thickness", "step"), [(3.5, 7.0, 3.5), (None, 7.0, 7.0),
                                                            (None, None, 1.0)])  # fmt: skip
def test_a_slice_alone_is_as_thick_as_its_tags_say(between, thickness, step):
    box = stack(slices([4.0], between_mm=between, thickness_mm=thickness), FOLDER)
    assert box.spacing_mm[2] == step and f"{step:g} mm" in box.notes[0] and box.order == (0,)


@pytest.mark.parametrize(
    ("trait", "usual", "other", "text"),
    [
        ("SOPClassUID", "A", "B", "another kind (SOPClassUID B); expected A, as 3 other(s)"),
        ("Modality", "CT", "PT", "another kind (Modality PT); expected CT, as 3 other(s)"),
        ("image type", "AXIAL", "", "another kind (image type missing); expected AXIAL"),
        ("StackID", "1", "2", "2 stacks in one series (StackID 1, 2); expected one"),
        ("EchoTime", 1.0, None, "2 echoes in one series (EchoTime 1.0, missing)"),
        ("DiffusionBValue", 1.0, 2.0, "2 diffusion weightings in one series"),
        ("TemporalPosition", None, 2.0, "2 points in time in one series (TemporalPosition 2.0, m"),
        ("RescaleType", "HU", "US", "s2: RescaleType is US; expected HU, as 3 other(s)"),
        ("PatientID", "A", None, "s2: PatientID is missing; expected A, as 3 other(s)"),
    ],
)
def test_what_all_slices_have_in_common(trait, usual, other, text):
    frames = odd(slices(STEPS[:4], traits=PLAIN.traits | {trait: usual}), 2,
                 traits=PLAIN.traits | {trait: other})  # fmt: skip
    refused(frames, text)
    assert stack(slices(STEPS, traits=PLAIN.traits | {trait: other}), FOLDER)


@pytest.mark.parametrize(("trait", "free"), [("StackID", True), ("RescaleType", True),
                                             ("EchoTime", False), ("Modality", False)])  # fmt: skip
def test_some_tags_may_be_missing_in_some_slices(trait, free):
    frames = odd(slices(STEPS, traits=PLAIN.traits | {trait: "1"}), 1,
                 traits=PLAIN.traits | {trait: None})  # fmt: skip
    if free:
        assert stack(frames, FOLDER).notes == ()
    else:
        refused(frames, "missing")


def test_four_values_are_listed_and_the_others_counted():
    frames = slices([2.5 * z for z in range(6)])
    for z in range(6):
        traits = PLAIN.traits | {"EchoTime": None if z == 0 else 10.0 - z}
        frames = odd(frames, z, traits=traits)
    refused(frames, "6 echoes in one series (EchoTime 5.0, 6.0, 7.0, 8.0 and 2 more)")
    refused(frames[:4], "4 echoes in one series (EchoTime 7.0, 8.0, 9.0, missing)")


WIDE = PLAIN.traits | {"Rows": 100, "Columns": 400}


@pytest.mark.parametrize("z", [0, 2, 4])
@pytest.mark.parametrize(
    ("row_turn", "column_turn", "good"),
    # 400 columns of 0.5 mm and 100 rows of 0.7: the last pixel moves by 200 and 70 times the turn
    [(0.049 / 200, 0, True), (0.051 / 200, 0, False), (0, 0.049 / 70, True), (0, 0.051 / 70, False),
     (0.034 / 200, 0.034 / 70, True), (0.037 / 200, 0.037 / 70, False)],
)  # fmt: skip
def test_a_slice_is_turned_where_its_last_pixel_moves_by_a_twentieth_of_a_mm(
    z, row_turn, column_turn, good
):
    frames = slices(STEPS, traits=WIDE, spacing_mm=(0.7, 0.5))
    frames = odd(
        frames, z, orientation=(*(ROW + row_turn * NORMAL), *(COLUMN + column_turn * NORMAL))
    )
    if good:
        stack(frames, FOLDER)
    else:
        refused(frames, f"s{z} is seen in another direction", "expected 0.955336, 0.29552, 0, -0.2")


@pytest.mark.parametrize("z", [0, 2, 4])
@pytest.mark.parametrize(
    ("spacing", "good"),
    [((0.70049, 0.5), True), ((0.70051, 0.5), False), ((0.7, 0.500122), True),
     ((0.7, 0.500128), False), ((0.69949, 0.5), False), ((0.70034, 0.500085), True),
     ((0.70037, 0.500093), False)],
)  # fmt: skip
def test_a_slice_is_larger_where_its_last_pixel_moves_by_a_twentieth_of_a_mm(z, spacing, good):
    frames = odd(slices(STEPS, traits=WIDE, spacing_mm=(0.7, 0.5)), z, spacing_mm=spacing)
    if good:
        stack(frames, FOLDER)
    else:
        refused(frames, f"s{z}: PixelSpacing is ", "mm; expected 0.7, 0.5 mm, as most")


@pytest.mark.parametrize(("gap", "same"), [(0.12, True), (0.13, False)])
def test_slices_nearer_than_a_twentieth_of_the_usual_step_show_one_place(gap, same):
    frames = slices([0.0, 2.5, 5.0, 5.0 + gap, 7.5])
    refused(frames, "s2 (at " if not same else "s2 and s3 show the same place (at ",
            "a slice twice (1 time(s)" if same else "apart")  # fmt: skip


@pytest.mark.parametrize(
    ("along", "text"),
    [
        (
            [0, 0, 2.5],
            "s0 and s1 show the same place (at -30, 12.5, 100 mm): a slice twice (1 time",
        ),
        ([0, 2.5, 2.5, 5, 5, 7.5], "s1 and s2 show the same place"),
        ([0, 2.5, 2.5, 5, 5, 7.5], "a slice twice (2 time(s)"),
        ([0, 0, 2.5, 2.5], "holds 4 images at 2 place(s): s0 and s1 show the same one"),
        ([0, 0, 0, 2.5, 2.5], "holds 5 images at 2 place(s)"),
        ([1, 1], "holds 2 images at 1 place(s)"),
        ([1, 1, 1 + 1e-7], "holds 3 images at 1 place(s)"),
        ([1, 1 + 2e-6, 1 + 4e-6, 1 + 4e-6], "a slice twice (1 time(s)"),
    ],
)
def test_a_slice_twice_is_told_from_several_images_of_each_place(along, text):
    refused(slices(along), text)


def test_two_tags_that_differ_are_enough():
    hints = dict.fromkeys(PLAIN.hints) | {"ImageType": "same"}
    frames = slices([0, 0], hints=hints)
    changed = {"AcquisitionNumber": 1, "AcquisitionTime": 2, "ContentTime": 3}
    refused(odd(frames, 1, hints=hints | changed), "differ in AcquisitionNumber: None and 1, "
            "AcquisitionTime: None and 2; expected")  # fmt: skip
    refused(frames, "differ in no tag that is known; expected one image a place")


@pytest.mark.parametrize(
    ("step", "off", "start"),
    [(0.5, 0.0099, 0), (0.5, 0.0102, 0.5), (0.5, 0.0198, 0.5), (0.5, 0.0202, None),
     (5.0, 0.049, 0), (5.0, 0.052, 0.5), (5.0, 0.098, 0.5), (5.0, 0.101, None),
     (5.0, -0.049, 0), (5.0, -0.052, 0.5), (5.0, -0.098, 0.5), (5.0, -0.101, None)],
)  # fmt: skip
def test_a_slice_may_lie_off_by_a_hundredth_of_the_step_or_of_a_mm(step, off, start):
    """From the grid of the mask: from the first to the last slice, or else the nearest to all.

    The nearest to slices of which the middle one is off starts half as far aside.
    """
    frames = slices([0, step, 2 * step + off, 3 * step, 4 * step])
    if start is None:
        refused(
            frames,
            f"up to {abs(off) / 2:.3g} mm from equal steps; expected {max(0.01, step / 100):g}",
        )
        return
    box = stack(frames, FOLDER)
    assert box.spacing_mm[2] == pytest.approx(step)
    assert np.allclose(box.origin, maker.ORIGIN + start * off * NORMAL, atol=1e-9)
    from_grid = abs(off) * (1 - start)
    assert f"lie up to {from_grid:.2g} mm from equal steps of {step:g} mm" in box.notes[0]


@pytest.mark.parametrize("count", [2, 3, 7, 12, 40])
def test_the_nearest_equal_steps_are_those_of_linear_programming(count):
    """Chebyshev's line: of all lines the one whose largest distance from the slices is least."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(count)
    along = -40 + 2.5 * np.arange(count) + rng.uniform(-0.1, 0.1, count)
    index = np.arange(count)
    rows = np.stack([np.ones(count), index, np.full(count, -1.0)], 1)
    best = linprog(
        [0, 0, 1], np.concatenate([rows, rows * [-1, -1, 1]]), np.concatenate([along, -along]),
        bounds=(None, None),
    )  # fmt: skip
    start, step, off = geometry._nearest_steps(along)
    assert off == pytest.approx(best.x[2], abs=1e-9)
    placed = along[0] + start + step * index
    assert np.abs(along - placed).max() == pytest.approx(off, abs=1e-9)


@pytest.mark.parametrize(("shift", "good"), [(0.1875, True), (0.18751, False)])
def test_a_tilt_may_move_a_slice_by_a_quarter_of_a_pixel_and_no_more(shift, good):
    """0.08 degrees over 256 steps of half a mm, of pixels of 0.75 mm: numbers without rounding."""
    frames = [
        dataclasses.replace(
            PLAIN, source=z, name=f"s{z}", orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            spacing_mm=(0.75, 1.0), position=(shift * z / 256, 0.0, z / 2),
        )
        for z in range(257)
    ]  # fmt: skip
    if good:
        (note,) = stack(frames, FOLDER).notes
        assert "slices are shifted by up to 0.19 mm within their plane" in note
    else:
        refused(frames, "slices are shifted by up to 0.188 mm within their plane, 0.084 degrees")


@pytest.mark.parametrize(("off", "said"), [(0.0024, False), (0.0026, True)])
def test_a_thousandth_of_the_step_is_said(off, said):
    notes = stack(slices([0, 2.5 + off, 5, 7.5, 10]), FOLDER).notes
    assert len(notes) == said


def test_steps_that_are_no_gaps_are_told_by_the_most_unusual():
    refused(
        slices([0, 2, 4, 7, 9, 11]),
        "slices are 2 to 3 mm apart, the most unusual 3 mm between s2 and s3, and lie up to 0.333 "
        "mm from equal steps; expected 0.022 mm at most",
    )
    refused(
        slices([0, 2, 4, 5.5, 7.5]),
        "slices are 1.5 to 2 mm apart, the most unusual 1.5 mm between s2 and s3, and lie up to "
        "0.167 mm",
    )


def test_gaps_are_counted_by_the_smallest_steps():
    refused(slices([0, 2, 4, 10, 12, 16, 18, 22, 26]), "5 slice(s) are missing: 2 between s2 (at ",
            "s3 (at ", ", 1 between s4 ", ", 1 between s6 ", "s7 (at ", " and 1 more; slices are "
            "2 to 6 mm apart; expected equal steps of 2 mm; complete the series")  # fmt: skip
    # most steps are gaps
    refused(slices([0, 2, 6, 10, 14]), "3 slice(s) are missing", "expected equal steps of 2 mm")


@pytest.mark.parametrize(("gap", "counted"), [(4.078, True), (4.082, False), (3.922, True),
                                              (3.918, False)])  # fmt: skip
def test_a_gap_fits_to_a_fiftieth_of_a_step_for_each_slice(gap, counted):
    refused(slices([0, 2, 4, 4 + gap, 6 + gap]), "1 slice(s) are missing: 1 between s2" if counted
            else "the most unusual")  # fmt: skip


@pytest.mark.parametrize("steps", [([1.0, 1.4, 1.4], 1.4), ([1.0, 1.6, 1.6], 1.0)])
def test_what_is_below_one_and_a_half_of_the_smallest_step_is_a_usual_one(steps):
    lengths, typical = np.array(steps[0]), steps[1]
    frames = slices(np.cumsum([0, *lengths]))
    text = geometry._uneven(frames, lengths, 0.3, 0.01, FOLDER)
    worst = lengths[np.abs(lengths - typical).argmax()]
    assert f"the most unusual {worst:g} mm between" in text


@pytest.mark.parametrize(
    ("aside", "good"),
    [([0, 0, 0.0049, 0, 0], None), ([0, 0, 0.0052, 0, 0], "0.0052"), ([0, 0, 0.049, 0, 0], "0.049"),
     ([0, 0, 0.051, 0, 0], False),
     # over 10 mm: 0.1 degrees are 0.01745 mm
     ([0, 0.004, 0.008, 0.012, 0.016], "0.016")],
)  # fmt: skip
def test_shifts_within_the_plane(aside, good):
    frames = slices(STEPS, aside)
    if good is False:
        refused(frames, "shifted by up to 0.051 mm within their plane")
        return
    notes = stack(frames, FOLDER).notes
    assert notes == (() if good is None else (
        f"slices are shifted by up to {good} mm within their plane: taken as one above the other",
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("spacing", "degrees", "good"),
    # over 60 mm 0.1 degrees are 0.105 mm; a quarter of a pixel is a quarter of its shorter side
    [((0.75, 1.25), 0.099, True), ((0.75, 1.25), 0.101, False), ((0.4, 1.25), 0.094, True),
     ((0.4, 1.25), 0.097, False), ((1.25, 0.4), 0.097, False)],
)  # fmt: skip
def test_a_tilt_is_small_in_degrees_and_in_pixels(spacing, degrees, good):
    along = np.linspace(0, 60, 25)
    lean = math.tan(math.radians(degrees))
    frames = slices(along * 1.0, list(along * lean), spacing_mm=spacing)
    if good:
        assert "within their plane" in stack(frames, FOLDER).notes[0]
    else:
        refused(
            frames, f"shifted by up to {60 * lean:.3g} mm within their plane, {degrees:.2g} degrees"
        )


def test_numbers_of_a_place_have_six_digits():
    frames = odd(slices([0, 0, 2.5]), 0, position=(1234.5678, -0.123456789, 2e-9))
    assert geometry._place(frames[0]) == "at 1234.57, -0.123457, 2e-09 mm"
