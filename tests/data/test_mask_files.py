"""Where a mask may be written, what of a folder is looked at, and what a run leaves there."""

from __future__ import annotations

import dataclasses
import errno
import os
import time

import dicom_maker as dicom
import numpy as np
import pydicom
import pytest
from nifti_files import voxels, write

from lmaunet.data.dicom.series import read_dicom
from lmaunet.data.images import masks
from lmaunet.data.images.geometry import FileGrid, Geometry
from lmaunet.data.images.masks import (
    check_format,
    check_output,
    replace_file,
    suffix_of,
    write_labels,
)
from lmaunet.data.images.volumes import read_volume
from lmaunet.errors import UserError


@pytest.fixture
def image(tmp_path):
    return read_volume(write(tmp_path / "image.nii"))


@pytest.mark.parametrize(("name", "suffix"), [("a.nii", ".nii"), ("a.NII.GZ", ".nii.gz"),
    ("a.nrrd", ".nrrd"), ("a.mha", ".mha"), ("a.dcm", ".dcm"), ("a.nii.mha", ".mha"),
    ("a.mhd", None), ("nii", None)])  # fmt: skip
def test_the_end_of_a_name_chooses_the_format(tmp_path, name, suffix):
    if suffix:
        assert suffix_of(tmp_path / name) == suffix
    else:
        with pytest.raises(UserError, match=r"use \.nii\.gz, \.nii, \.nrrd, \.mha, \.dcm"):
            suffix_of(tmp_path / name)


@pytest.mark.parametrize(("before", "refused"), [(0, True), (19, True), (20, False)])
def test_twenty_files_of_a_folder_are_looked_at(tmp_path, before, refused):
    """In the order of their names, and folders are none."""
    for number in range(before):
        (tmp_path / f"{number:02d}").write_text("no image")
    (tmp_path / "99").write_bytes(bytes(128) + b"DICM")
    if before < 19:
        (tmp_path / "0 folder").mkdir()
    if refused:
        with pytest.raises(UserError, match=r"which holds a DICOM image \(99\)"):
            check_output(tmp_path / "s.nii")
    else:
        check_output(tmp_path / "s.nii")


def test_a_file_that_only_resembles_a_series_is_none(tmp_path):
    for place in (127, 129):
        (tmp_path / "a").write_bytes(bytes(place) + b"DICM")
        check_output(tmp_path / "s.nii")
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM" + masks.SEGMENTATION_CLASS)
    check_output(tmp_path / "s.nii")


def test_another_file_may_be_overwritten(tmp_path):
    given, other = write(tmp_path / "a.nii"), write(tmp_path / "b.nii")
    check_output(other, [given])
    check_output(other, [tmp_path / "absent", given])
    with pytest.raises(UserError, match=r"would overwrite the image .*a\.nii"):
        check_output(given, [other, given])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "slice").write_text("1")
    check_output(other, [tmp_path / "folder"])
    os.link(tmp_path / "folder" / "slice", tmp_path / "c.nii")
    with pytest.raises(UserError, match="would lie in the image"):
        check_output(tmp_path / "c.nii", [tmp_path / "folder"])


def test_a_folder_to_be_made_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(UserError, match=r"s\.nii cannot be written: .*file is not a folder; name"):
        check_output(tmp_path / "file" / "new" / "s.nii")
    check_output(tmp_path / "new" / "newer" / "s.nii")


def test_folders_are_made_and_go_again_where_nothing_was_written(tmp_path, image):
    labels = np.zeros(image.array.shape, np.uint8)
    path = write_labels(tmp_path / "new" / "newer" / "s.nii", labels, image.geometry)
    assert path.is_file()

    def fail(partial):
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in (tmp_path / "other" / "newer", path.parent):
        with pytest.raises(UserError, match=r"cannot write .*t\.nii: No space left on device"):
            replace_file(place / "t.nii", fail, lambda partial: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.nii", "new"]
    assert [p.name for p in path.parent.iterdir()] == ["s.nii"]


def test_what_fails_after_a_mask_has_its_name_does_not_take_it_back(tmp_path, monkeypatch):
    sync = masks._sync
    monkeypatch.setattr(
        masks, "_sync", lambda path: sync(path) if path.is_file() else fail(OSError("no"))
    )
    made = replace_file(tmp_path / "new" / "s.nii", lambda p: p.write_text("1"), lambda p: None)
    assert made.read_text() == "1" and [p.name for p in made.parent.iterdir()] == ["s.nii"]


def fail(error):
    raise error


def test_a_mask_is_half_written_under_a_name_of_its_own(tmp_path):
    names = []
    replace_file(tmp_path / "s.nii.gz", lambda p: (names.append(p.name), p.write_text("1")),
                 lambda p: names.append(p.name))  # fmt: skip
    assert names[0] == names[1] and masks._PARTIAL.match(names[0]) and names[0].endswith(".nii.gz")
    assert names[0].split("-")[2:] == [masks._HOST, f"{os.getpid()}.nii.gz"]


@pytest.mark.parametrize(("error", "text"), [
    (OSError(5, "Input/output error"), "Input/output error"), (OSError("odd"), "odd"),
    (RuntimeError("first\n\n last \n"), "last"), (MemoryError(), "MemoryError"),
    (ValueError("why"), "why")])  # fmt: skip
def test_the_reason_of_a_failure_is_one_line(tmp_path, error, text):
    with pytest.raises(UserError) as raised:
        replace_file(tmp_path / "s.nii", lambda p: fail(error), lambda p: None)
    assert str(raised.value) == f"cannot write {tmp_path / 's.nii'}: {text}"


@pytest.mark.parametrize(("host", "age", "process", "goes"), [
    ("own", 0, "dead", True), ("own", 0, "first", False), ("own", 86300, "first", False),
    ("own", 86500, "first", True), ("other", 0, "dead", False), ("other", 86300, "dead", False),
    ("other", 86500, "dead", True), ("own", 0, "own", True)])  # fmt: skip
def test_what_killed_runs_left_goes_and_what_others_write_stays(tmp_path, host, age, process, goes):
    """This process has left what bears its number: it writes one mask at a time."""
    number = {"dead": 99999999999, "first": 1, "own": os.getpid()}[process]
    name = {"own": masks._HOST, "other": "0" * 8}[host]
    left = tmp_path / f".lmaunet-partial-{name}-{number}.nii"
    left.write_text("half")
    (tmp_path / ".lmaunet-partial-none").write_text("of another kind")
    os.utime(left, (time.time() - age,) * 2)
    masks._remove_stale(tmp_path)
    assert left.exists() != goes and (tmp_path / ".lmaunet-partial-none").exists()


@pytest.mark.parametrize(("error", "runs"), [(ProcessLookupError, False), (OverflowError, False),
                                             (PermissionError, True)])  # fmt: skip
def test_a_process_of_another_user_runs(monkeypatch, error, runs):
    asked = []
    monkeypatch.setattr(os, "kill", lambda *a: (asked.append(a), fail(error()))[0])
    assert masks._runs(123) == runs and asked == [(123, 0)]


@pytest.mark.parametrize(("labels", "kind"), [([0, 255], "u1"), ([0, 256], "u2"), ([65535], "u2")])
def test_labels_have_as_many_bits_as_they_need(tmp_path, image, labels, kind):
    array = np.resize(labels, image.array.shape)
    stored = read_volume(write_labels(tmp_path / "s.nii", array, image.geometry)).array
    assert stored.dtype == kind and np.array_equal(stored, array)


@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0, 65536), (-2, 70000)])
def test_labels_that_no_mask_holds_are_told_from_the_lowest_to_the_highest(
    tmp_path, image, low, high
):
    array = np.resize([low, high, 1], image.array.shape)
    with pytest.raises(UserError, match=f"^labels from {low} to {high}; expected 0 to 65535$"):
        write_labels(tmp_path / "s.nii", array, image.geometry)


def test_labels_alone_make_no_segmentation(tmp_path, image):
    with pytest.raises(UserError, match="labels alone make no DICOM segmentation"):
        write_labels(tmp_path / "s.dcm", voxels() * 0, image.geometry)


def test_a_link_to_a_segmentation_stays_a_link(tmp_path):
    source = read_dicom(dicom.series(tmp_path / "a"))
    image = read_volume(tmp_path / "a")
    labels = np.zeros(image.array.shape, np.uint8)
    labels[1, 2, 3] = 1
    for name in ("there/old.dcm", "link.dcm"):
        if name == "link.dcm":
            (tmp_path / name).symlink_to(tmp_path / "there" / "old.dcm")
        path = masks.write_segmentation(
            tmp_path / name, labels, image.geometry, source, ("background", "spleen"), "demo"
        )
        assert path == tmp_path / name and path.is_symlink() == (name == "link.dcm")
        assert pydicom.dcmread(tmp_path / "there" / "old.dcm").Modality == "SEG"


def test_a_text_header_elsewhere_is_found_out_from_a_hundredth_of_a_mm(tmp_path, image):
    labels = np.zeros(image.array.shape, np.uint8)
    grid = image.geometry.grid
    for off, good in ((0.0099, True), (0.0101, False)):
        moved = type(grid)(grid.size, grid.spacing_mm, (grid.origin[0], grid.origin[1] + off,
                           grid.origin[2]), grid.direction)  # fmt: skip
        for suffix in (".nrrd", ".mha"):
            masks._write_by_itk(tmp_path / f"s{suffix}", labels, moved)
            if good:
                masks._check_text_header(tmp_path / f"s{suffix}", labels, grid)
            else:
                with pytest.raises(UserError, match=r"lies 0\.0101 mm off the image"):
                    masks._check_text_header(tmp_path / f"s{suffix}", labels, grid)


@pytest.mark.parametrize(("apart", "good"), [(0.1, True), (0.1001, False)])
def test_one_form_is_enough_where_two_are_a_tenth_of_a_mm_apart(tmp_path, image, apart, good):
    placement = dataclasses.replace(image.geometry.placement, forms_apart_mm=apart)
    geometry = dataclasses.replace(image.geometry, placement=placement)
    assert check_format(tmp_path / "s.nii", geometry, None) == ()
    if good:
        assert check_format(tmp_path / "s.mha", geometry, None) == ()
    else:
        with pytest.raises(UserError, match=r"lie up to 0\.1 mm apart, and \.mha can hold one"):
            check_format(tmp_path / "s.mha", geometry, None)


@pytest.mark.parametrize("size", [(5, 6, 7), (5, 6)])
@pytest.mark.parametrize(("off", "good"), [(0.0099, True), (0.0101, False)])
def test_float32_may_move_voxels_by_a_hundredth_of_a_mm(tmp_path, size, off, good):
    """At 262 m it has steps of 0.03 mm."""
    n = len(size)
    grid = FileGrid(size, (1.0,) * n, (262144 + off, 0.0, 0.0)[:n], tuple(np.eye(n).ravel()))
    shape = (*size, 1)[2::-1]
    geometry = Geometry(
        shape, (1.0,) * 3, (*grid.origin, 0.0)[:3], tuple(np.eye(3).ravel()), "LPS", grid
    )
    if good:
        assert check_format(tmp_path / "s.nii", geometry, None) == ()
    else:
        with pytest.raises(UserError, match=r"float32 moves voxels by 0\.0101 mm\); use \.nrrd"):
            check_format(tmp_path / "s.nii", geometry, None)
    assert check_format(tmp_path / "s.nrrd", geometry, None) == ()
