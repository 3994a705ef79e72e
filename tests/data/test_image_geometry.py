"""Grids: how far apart two lie, what is at right angles, and what is repaired and up to where."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lmaunet.data.images import geometry
from lmaunet.data.images.geometry import (
    FileGrid,
    Geometry,
    corners,
    farthest_mm,
    flat,
    in_file_axes,
    is_orthogonal,
    orthogonal_grid,
    to_lps,
)
from lmaunet.errors import UserError

SIZE = (5, 4, 3)
STEPS = np.array([2.0, 3.0, 4.0])
ORIGIN = np.array([10.0, 20.0, 30.0])
PLAIN = FileGrid(SIZE, (2.0, 3.0, 4.0), (10.0, 20.0, 30.0), tuple(np.eye(3).ravel()))
VOLUME = Geometry((3, 4, 5), (4.0, 3.0, 2.0), PLAIN.origin, PLAIN.direction, "LPS", PLAIN)


def test_a_voxel_has_a_volume():
    assert VOLUME.voxel_ml == pytest.approx(0.024) and "placement" not in repr(VOLUME)
    assert dataclasses.replace(VOLUME, placement=7) == VOLUME


def test_what_places_an_image_stays_as_it_is():
    for made, key in ((PLAIN, "size"), (VOLUME, "shape")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, key, ())
    assert VOLUME.placement is None and to_lps(np.zeros((3, 4, 5)), PLAIN)[1] == VOLUME
    assert to_lps(np.zeros((3, 4, 5)), PLAIN, 7)[1].placement == 7


def moved(axis, first, last):
    """A volume whose first and whose last voxel lie off by lengths along an axis."""
    origin, spacing = list(VOLUME.origin), list(VOLUME.spacing_mm)
    origin[axis] += first
    spacing[2 - axis] += (last - first) / (SIZE[axis] - 1)
    return dataclasses.replace(VOLUME, origin=tuple(origin), spacing_mm=tuple(spacing))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    ("first", "last", "same"),
    [(0.049, 0, True), (0.051, 0, False), (0, 0.049, True), (0, 0.051, False), (-0.051, 0, False),
     (0, -0.051, False), (0.04, -0.04, True)],
)  # fmt: skip
def test_both_ends_of_one_grid_lie_within_a_twentieth_of_a_mm(axis, first, last, same):
    assert VOLUME.same_grid(moved(axis, first, last)) == same
    assert moved(axis, first, last).same_grid(VOLUME) == same


def test_grids_of_other_shapes_are_others_wherever_their_ends_lie():
    other = dataclasses.replace(VOLUME, shape=(3, 4, 9), spacing_mm=(4.0, 3.0, 1.0))
    assert not VOLUME.same_grid(other)


@pytest.mark.parametrize("size", [(5,), (5, 4), (5, 4, 3), (5, 1, 3)])
def test_corners_are_the_outermost_voxels_each_once(size):
    found = {tuple(map(int, corner)) for corner in corners(size)}
    every = list(np.ndindex(*size))
    assert found == {index for index in every
                     if all(i in (0, n - 1) for i, n in zip(index, size, strict=True))}  # fmt: skip
    assert corners(size).shape == (2 ** len(size), len(size))


@pytest.mark.parametrize("size", [(5, 4, 3), (5, 4)])
def test_grids_are_as_far_apart_as_their_farthest_voxels(size):
    rng = np.random.default_rng(1)
    for _ in range(5):
        first, second = rng.normal(size=(2, 4, 4))
        first[3] = second[3] = 0, 0, 0, 1
        points = [np.array([*(*index, 0)[:3], 1]) for index in np.ndindex(*size)]
        every = [np.linalg.norm((first @ p - second @ p)[:3]) for p in points]
        assert farthest_mm(first, second, size) == pytest.approx(max(every))


def rotation(z, x):
    """A turn about z and then about x, by degrees."""
    c, s, d, t = (f(math.radians(a)) for a in (z, x) for f in (math.cos, math.sin))
    return np.array([[1, 0, 0], [0, d, -t], [0, t, d]]) @ [[c, -s, 0], [s, c, 0], [0, 0, 1]]


@pytest.mark.parametrize("turn", [(0, 0), (30, 10), (91, 2), (180, 90), (275, 181)])
@pytest.mark.parametrize("flip", [1, -1])
def test_labels_go_back_along_the_axes_of_the_file(turn, flip):
    grid = dataclasses.replace(PLAIN, direction=tuple((rotation(*turn) * [1, 1, flip]).ravel()))
    array = np.arange(60).reshape(3, 4, 5)
    turned, where = to_lps(array, grid)
    back = in_file_axes(turned, where)
    assert np.array_equal(back, array) and back.flags.c_contiguous
    # the same voxel is at the same place
    step = np.reshape(where.direction, (3, 3)) * where.spacing_mm[::-1]
    own = np.reshape(grid.direction, (3, 3)) * grid.spacing_mm
    z, y, x = np.argwhere(turned == array[2, 1, 3])[0]
    assert np.allclose(step @ [x, y, z] + where.origin, own @ [3, 1, 2] + grid.origin)


def test_labels_of_a_slice_go_back_in_two_dimensions():
    grid = FileGrid((5, 4), (2.0, 3.0), (10.0, 20.0), (0.0, -1.0, 1.0, 0.0))
    array = np.arange(20).reshape(4, 5)
    turned, where = to_lps(array, grid)
    assert turned.shape[0] == 1 and where.grid is grid
    assert np.array_equal(in_file_axes(turned, where), array)


@pytest.mark.parametrize(("off", "right"), [(9e-5, True), (1.1e-4, False), (-1.1e-4, False)])
@pytest.mark.parametrize("entry", [(0, 1), (2, 0), (1, 2)])
def test_axes_are_at_right_angles_to_rounding(off, right, entry):
    matrix = np.eye(3)
    matrix[entry] = off
    assert is_orthogonal(matrix * STEPS) == right and is_orthogonal(matrix * STEPS, 1e-3)
    assert not is_orthogonal(np.eye(3) * [1, 0, 1]) and not is_orthogonal(
        np.eye(3) * [1, np.nan, 1]
    )


def made(matrix, origin=ORIGIN, size=SIZE):
    return orthogonal_grid(np.array(matrix), origin, size, "w", "r")


def test_axes_at_right_angles_are_taken_as_they_are():
    turn = rotation(40, 25)
    grid, notes = made(turn * STEPS)
    assert notes == () and grid.size == SIZE and grid.origin == tuple(ORIGIN)
    assert np.allclose(grid.spacing_mm, STEPS) and np.allclose(grid.direction, turn.ravel())
    # what is left of a direction in rounding is nothing
    tiny = np.array([[1, 2e-12, 0], [0, 1, 9e-13], [-9e-13, 0, 1]])
    assert grid_zeros(made(tiny)[0]) == [2, 3, 5, 6, 7]
    assert made(np.eye(2), ORIGIN[:2], (5, 4))[0].direction == (1.0, 0.0, 0.0, 1.0)


def grid_zeros(grid):
    return [place for place, d in enumerate(grid.direction) if d == 0]


def leaning(degrees, steps=STEPS):
    """Axes of which the second leans towards the first."""
    matrix = np.diag(steps)
    lean = math.radians(degrees)
    matrix[:2, 1] = steps[1] * math.sin(lean), steps[1] * math.cos(lean)
    return matrix


@pytest.mark.parametrize(
    ("degrees", "steps", "good"),
    # 0.1 degrees, or voxels that move by 0.05 mm at most: half the lean at the outermost
    [(0.099, STEPS * 100, True), (0.101, STEPS * 100, False), (1.0, STEPS / 9, True),
     (-0.099, STEPS * 100, True), (-0.101, STEPS * 100, False)],
)  # fmt: skip
def test_axes_that_lean_little_are_turned_about_the_middle(degrees, steps, good):
    matrix = leaning(degrees, steps)
    if not good:
        with pytest.raises(
            UserError, match=r"w: its axes are 0\.101 degrees off right angles"
        ) as e:
            made(matrix)
        assert (
            f"by up to {off_mm(matrix):.3g} mm; expected at most 0.1 degree or 0.05 mm; r"
            in str(e.value)
        )
        return
    grid, notes = made(matrix)
    turn = np.reshape(grid.direction, (3, 3))
    assert np.allclose(turn.T @ turn, np.eye(3)) and np.allclose(grid.spacing_mm, steps)
    middle = (np.array(SIZE) - 1) / 2
    assert np.allclose(turn * grid.spacing_mm @ middle + grid.origin, matrix @ middle + ORIGIN)
    assert notes == (
        f"the image's axes are {abs(degrees):.2g} degrees off right angles: the nearest right "
        f"angles are used, which moves voxels by up to {off_mm(matrix):.2g} mm",
    )


def off_mm(matrix):
    """How far the nearest right angles move a voxel, where both axes turn by half the lean."""
    spacing = np.linalg.norm(matrix, axis=0)
    u, _, vt = np.linalg.svd(matrix / spacing)
    apart = (matrix - u @ vt * spacing) @ (corners(SIZE) - (np.array(SIZE) - 1) / 2).T
    return np.linalg.norm(apart, axis=0).max()


@pytest.mark.parametrize(("most", "good"), [(0.0499, True), (0.0501, False)])
def test_axes_that_lean_more_may_move_voxels_by_a_twentieth_of_a_mm(most, good):
    matrix = leaning(2.0)
    matrix = matrix * most / off_mm(matrix)
    if good:
        assert f"by up to {most:.2g} mm" in made(matrix)[1][0]
    else:
        with pytest.raises(UserError, match=r"2 degrees off right angles .* by up to 0\.0501 mm"):
            made(matrix)


def test_two_axes_that_are_one_are_no_grid_however_small():
    matrix = np.diag([1e-3, 1e-3, 1e-3])
    for lean, good in ((80.0, True), (89.5, False), (90.0, False)):
        matrix[:2, 1] = np.array([math.sin(math.radians(lean)), math.cos(math.radians(lean))]) / 1e3
        if good:
            made(matrix)
        else:
            with pytest.raises(UserError, match=rf"{lean:.3g} degrees off right angles"):
                made(matrix)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_make_no_grid(value):
    for matrix, origin in ((np.diag([1, value, 1]), ORIGIN), (np.eye(3), ORIGIN * [1, 1, value])):
        with pytest.raises(UserError, match="w: its axes or its origin are NaN or infinite; r"):
            made(matrix, origin)
    with pytest.raises(UserError, match="w: voxels of 2 x 0 x 4 mm; expected a size; r"):
        made(np.diag(STEPS * [1, 0, 1]))


@pytest.mark.parametrize(("off", "goes"), [(9e-7, True), (1.1e-6, False), (-1.1e-6, False)])
@pytest.mark.parametrize("place", [2, 5, 6, 7, 8, "origin"])
def test_a_slice_that_lies_flat_to_a_millionth_is_flat(place, off, goes):
    grid = FileGrid((5, 6, 1), (2.0, 3.0, 4.0), (10.0, 20.0, 0.0), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    if place == "origin":
        leaning = dataclasses.replace(grid, origin=(10.0, 20.0, off))
    else:
        direction = list(grid.direction)
        direction[place] += off
        leaning = dataclasses.replace(grid, direction=tuple(direction))
    wanted = FileGrid((5, 6), (2.0, 3.0), (10.0, 20.0), (0, -1, 1, 0))
    assert flat(leaning) == (wanted if goes else leaning)
    assert geometry.ORIENTATION == "LPS"
