"""A folder's files one by one: which are looked at, which are slices, and how the rest is told."""

from __future__ import annotations

import logging
from pathlib import Path

import dicom_maker as maker
import pydicom
import pytest
from dicom_maker import enhanced, one, save, series
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

from lmaunet.data.dicom import files, header
from lmaunet.data.dicom.files import begins_as_dicom, listing, read_headers
from lmaunet.data.dicom.header import Header, read_header
from lmaunet.data.dicom.series import DicomImage
from lmaunet.errors import ToolNotFound, UserError

V = maker.volume()
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def refused(path, *texts, read=read_headers):
    with pytest.raises(UserError) as raised:
        read(path)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


def made(name="a.dcm", **tags):
    dataset = Dataset()
    for key, value in tags.items():
        setattr(dataset, key, value)
    return Header(Path("d") / name, dataset)


@pytest.mark.parametrize(("names", "most", "text"), [
    ("abc", None, "a, b, c"), ("abcd", None, "a, b, c and 1 more"), ("ab", 1, "a and 1 more"),
    ("a", 1, "a"), ("abcdef", 4, "a, b, c, d and 2 more"), ("", None, "")])  # fmt: skip
def test_a_few_names_are_listed_and_the_others_counted(names, most, text):
    assert (listing(list(names)) if most is None else listing(list(names), most)) == text


VRS = [
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OD", "OF", "OL",
    "OV", "OW", "PN", "SH", "SL", "SQ", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UN", "UR", "US",
    "UT", "UV",
]  # fmt: skip


@pytest.mark.parametrize("vr", [*VRS, "AA", "UX", "XX"])
def test_a_first_element_has_a_kind_of_value(vr):
    start = b"\x08\0\x05\0" + vr.encode() + b"\xff\xff" + bytes(124)
    assert begins_as_dicom(start) == (vr in VRS)
    assert not begins_as_dicom(start[:131])


@pytest.mark.parametrize(("place", "mark", "dicom"), [(128, b"DICM", True), (127, b"DICM", False),
    (129, b"DICM", False), (128, b"DICX", False), (128, b"XICM", False)])  # fmt: skip
def test_the_mark_is_behind_128_bytes(tmp_path, place, mark, dicom):
    start = b"\xff" * place + mark + b"more"
    assert begins_as_dicom(start) == begins_as_dicom(start[:132]) == dicom
    (tmp_path / "a").write_bytes(start)
    assert files.is_dicom(tmp_path / "a") == files.holds_dicom(tmp_path) == dicom


JUNK = ["thumbs.db", "Thumbs.db", "desktop.ini", "ehthumbs.db", ".hidden.dcm", ".DS_Store"]


@pytest.mark.parametrize("name", JUNK)
def test_what_file_managers_leave_is_not_looked_at(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    assert not files.holds_dicom(tmp_path) and files._visible_files(tmp_path) == []
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").write_text("a")
    (tmp_path / "a folder").mkdir()
    assert [p.name for p in files._visible_files(tmp_path)] == ["a", "b"]


def test_a_link_to_nothing_holds_nothing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    assert not files.holds_dicom(tmp_path) and not files.holds_dicom(tmp_path / "absent")
    refused(tmp_path, "link is a link to nothing")


@pytest.mark.parametrize(("name", "suffix"), [("a.DCM", ".dcm"), ("a.b.ima", ".ima"),
    ("1.2.34", ""), ("a", ""), ("a.3d", ".3d")])  # fmt: skip
def test_a_number_is_no_suffix(name, suffix):
    assert files._suffix(Path(name)) == suffix


@pytest.mark.parametrize(("name", "lost"), [("a.dcm", True), ("a.DICOM", True), ("a.ima", True),
    ("a.img", False), ("a.txt", False), ("1.2.3", False), ("a.own", True)])  # fmt: skip
def test_a_file_named_as_slices_are_must_be_one(tmp_path, name, lost):
    """Also where all slices have a suffix of their own; the first of several is named."""
    series(tmp_path, naming="{:03d}" + (".own" if name.endswith("own") else ".dcm"))
    (tmp_path / name).write_text("no slice")
    if lost:
        (tmp_path / f"b{Path(name).suffix}").write_text("no slice")
        refused(tmp_path, f"{tmp_path / name} is damaged", "does not begin as they do")
    else:
        assert len(read_headers(tmp_path)[0]) == 5


@pytest.mark.parametrize(("content", "lost"), [(b"text", False), (b"a\0b", True), (b"", True)])
def test_a_file_without_suffix_among_slices_without_is_text_or_lost(tmp_path, content, lost):
    series(tmp_path, naming="1.2.{}")
    (tmp_path / "README").write_bytes(content)
    if lost:
        refused(tmp_path, "README is damaged or no DICOM image (named as DICOM files are")
    else:
        assert len(read_headers(tmp_path)[0]) == 5


def test_a_folder_without_a_series_is_told_by_what_it_holds(tmp_path):
    (tmp_path / "b.txt").write_text("text")
    refused(tmp_path, f"{tmp_path} holds no DICOM series; give a folder with one series")
    for name in "dca":
        (tmp_path / f"{name}.ima").write_text("text")
    refused(tmp_path, "holds no DICOM series: a.ima, c.ima, d.ima, by its name one, does not begin")
    for place in ("x/one", "x/two", ".hidden/three", "y"):
        save(one(0, V[0]), tmp_path / place / "0")
        if place == "x/one":
            refused(tmp_path, f"itself; the series is in {tmp_path / 'x/one'}: give that")
    places = ", ".join(str(tmp_path / name) for name in ("x/one", "x/two", "y"))
    refused(tmp_path, f"itself, but 3 folders below do: {places}; give one of them")
    (tmp_path / "dicomdir").write_text("index")
    refused(
        tmp_path,
        f"{tmp_path / 'DICOMDIR'} is only the index of a medium; give one series: {places}",
    )


def test_an_index_without_its_series_is_told_as_one(tmp_path):
    (tmp_path / "DICOMDIR").write_text("index")
    refused(tmp_path, "only the index of a medium; give one series: the folder of a series")


@pytest.mark.parametrize(("bound", "found"), [(1, "ab"), (2, "abc"), (9, "abcd")])
def test_folders_below_are_looked_at_up_to_a_bound(tmp_path, monkeypatch, bound, found):
    assert files.LOOK_BELOW == 5000
    monkeypatch.setattr(files, "LOOK_BELOW", bound + 1)
    for name in "dcba":
        save(one(0, V[0]), tmp_path / name / "0.dcm")
    assert [p.name for p in files._folders_below(tmp_path)] == list(found)


@pytest.mark.parametrize(("tags", "image"), [
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "PixelData": b"1"}, False),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7", "PixelData": b"1"}, False),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2", "PixelData": b"1"}, False),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "PixelData": b"1"}, True),
    ({"SOPClassUID": "1.2.3", "FloatPixelData": b"1"}, True),
    ({"SOPClassUID": "1.2.3", "DoubleFloatPixelData": b"1"}, True),
    ({"SOPClassUID": "1.2.3"}, False),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, None)])  # fmt: skip
def test_an_image_has_pixels_and_is_not_made_from_others(tags, image):
    if image is None:
        refused(made(**tags), "a.dcm is damaged or no DICOM image (an image without pixels)",
                read=files._is_image)  # fmt: skip
    else:
        assert files._is_image(made(**tags)) is image


def test_kinds_are_counted_and_each_is_named_once():
    headers = [
        made("a", Modality="SR"), made("b", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), made("c"),
        made("d", Modality="SR"), made("e", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.7"),
        made("f", Modality="OT", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2"),
        made("g", Modality="SR"),
    ]  # fmt: skip
    assert files._kinds(headers) == (
        "3 SR (a and 2 more), 2 SEG (b and 1 more), 1 other (c), 1 RTDOSE (f)"
    )


def test_captures_are_left_aside_where_there_are_slices():
    plain, placed = (
        made("a", SOPClassUID="1.2.3"),
        made("b", SOPClassUID=CAPTURE, ImagePositionPatient=[1]),
    )
    frames = made("c", SOPClassUID=CAPTURE + ".7.2", PerFrameFunctionalGroupsSequence=[])
    capture, other = made("d", SOPClassUID=CAPTURE), made("e", SOPClassUID=CAPTURE + ".1")
    every = [capture, plain, placed, frames, other]
    assert files._without_captures(every) == ([plain, placed, frames], [capture, other])
    assert files._without_captures([capture, other]) == ([capture, other], [])


@pytest.mark.parametrize(("tags", "text"), [
    ({"Modality": "CT", "SeriesNumber": "4", "SeriesDescription": "thin"}, "CT 4 'thin', "),
    ({"Modality": "CT"}, "CT, "), ({"SeriesNumber": "4"}, "series 4, "),
    ({}, "series, ")])  # fmt: skip
def test_a_series_is_described_by_its_first_file(tags, text):
    last = made("z", Modality="MR", SeriesNumber="9", SeriesDescription="x", NumberOfFrames="7")
    headers = [made("a", **tags), made("b"), last]
    assert files._describe(headers) == f"{text}9 slice(s), a and 2 more"
    assert files._describe(headers[:1]) == f"{text}1 slice(s), a"


def test_a_series_without_a_uid_is_one_where_all_lack_it():
    headers = [made("a", SeriesInstanceUID="1.2"), made("b", SeriesInstanceUID="1.2")]
    assert files._check_one_series(headers, Path("d")) == "1.2"
    assert files._check_one_series([made(), made()], Path("d")) == ""
    with pytest.raises(UserError, match=r"d holds 2 DICOM series: series, 2 slice\(s\), a and "
                       r"1 more; series, 1 slice\(s\), a\.dcm\. Expected one"):  # fmt: skip
        files._check_one_series([*headers, made()], Path("d"))


def part(number, total=3, uid="1.9"):
    return made(
        ConcatenationUID=uid, InConcatenationNumber=number, InConcatenationTotalNumber=total
    )


@pytest.mark.parametrize(("parts", "text"), [
    ([], None), ([made(), made()], None), ([part(1), part(3), part(2)], None),
    ([part(2, 0), part(1, 0)], None), ([part(1, 1)], None),
    ([part(1), part(3)], "d holds part(s) 1, 3 of an image that was split into 3 files; expected"),
    ([part(1), part(2)], "d holds part(s) 1, 2 of an image that was split into 3 files"),
    ([part(3), part(2), part(2), part(1)], "part(s) 1, 2, 2, 3 of"),
    ([part(1, 2), part(2, 2), part(3, 2)], "part(s) 1, 2, 3 of an image that was split into 2"),
    ([part(1), part(2), part(3), made()], "holds 1 split image(s) and 1 other(s) in one series"),
    ([part(1), part(2), part(3), part(1, uid="1.8")], "2 split image(s) and 0 other"),
])  # fmt: skip
def test_a_split_image_is_whole_and_alone(parts, text):
    if text is None:
        assert files._check_whole(parts, Path("d")) is None
    else:
        refused(parts, text, read=lambda found: files._check_whole(found, Path("d")))


def test_several_files_without_a_series_are_said_to_be_taken_for_one(tmp_path):
    for number in range(2):
        save(one(number, V[number], SeriesInstanceUID=None), tmp_path / f"{number}.dcm")
    notes = ("no file has a SeriesInstanceUID: all are taken for one series",)
    assert read_headers(tmp_path)[1] == notes
    assert read_headers(tmp_path / "1.dcm")[1] == ()
    refused(tmp_path / "absent", "absent", read=lambda p: files._of_folder(p))


def test_tags_are_text_or_whole_numbers():
    found = made(PatientID=" a\nb ", Rows=7, StudyID="")
    assert (found.text("PatientID"), found.text("StudyID"), found.text("PatientSex")) == (
        "a b",
        "",
        "",
    )
    assert (found.integer("Rows"), found.integer("Columns")) == (7, None)
    dataset = Dataset()
    dataset.add_new("StudyID", "SH", "1.5")
    refused(
        "StudyID",
        "a: StudyID is 1.5; expected a whole number",
        read=Header(Path("a"), dataset).integer,
    )
    assert "dataset" not in repr(found)


@pytest.mark.parametrize("image", [DicomImage])
def test_a_series_is_shown_without_its_pixels_and_tags(image):
    shown = repr(
        image("pixels", (1, 2, 3), (4, 5, 6), (7,), ("note",), "CT", "paths", "frames", "tags")
    )
    assert shown == ("DicomImage(spacing_mm=(1, 2, 3), origin=(4, 5, 6), direction=(7,), "
                     "notes=('note',), modality='CT')")  # fmt: skip


def test_what_is_wrong_with_a_file_is_one_line():
    assert header.damaged("a", ValueError(" x\ny\x7f ")).startswith(
        "a is damaged or no DICOM image (x y)"
    )
    assert "(ValueError)" in header.damaged("a", ValueError(" "))


def test_pydicom_is_quiet_only_while_it_reads():
    logger = logging.getLogger("pydicom")
    level = logger.level
    with pytest.raises(KeyError), header.quiet():
        assert not logger.isEnabledFor(logging.CRITICAL) and logger.level == logging.CRITICAL + 1
        raise KeyError
    assert logger.level == level


def test_a_header_has_three_tags_and_a_class(tmp_path):
    def written(**tags):
        dataset = Dataset()
        dataset.file_meta = maker.header("1.2.3", "1.2").file_meta
        for key, value in tags.items():
            setattr(dataset, key, value)
        return save(dataset, tmp_path / "a.dcm")

    found = read_header(written(SOPClassUID="1.2.3", SOPInstanceUID="1.2.4", PatientID="a"))
    assert found.text("SOPInstanceUID") == "1.2.4" and found.path == tmp_path / "a.dcm"
    refused(
        written(SOPClassUID="1.2.3", SOPInstanceUID="1.2.4"), "no SOPClassUID", read=read_header
    )
    # what is empty stands in the file's own header
    assert read_header(written(SOPClassUID="", PatientID="a")).text("SOPClassUID") == "1.2.3"


@pytest.mark.parametrize("cut", [1, 2, 40, 20_000])
def test_a_file_that_ends_within_an_element_is_damaged_also_where_it_is_left_for_later(
    tmp_path, cut
):
    path = save(one(0, maker.volume((1, 100, 110))[0]), tmp_path / "a.dcm")
    assert path.stat().st_size > 22_000 and read_header(path)
    path.write_bytes(path.read_bytes()[:-cut])
    refused(
        path,
        "a.dcm is damaged or no DICOM image (the file ends within an element)",
        read=read_header,
    )


def test_large_pixels_are_left_in_the_file_and_deflated_ones_are_read(tmp_path):
    dataset = one(0, maker.volume((1, 100, 110))[0])
    tag = pydicom.tag.Tag("PixelData")
    plain = read_header(save(dataset, tmp_path / "a.dcm"))
    assert plain.dataset.get_item(tag, keep_deferred=True).value is None
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(dataset, tmp_path / "b.dcm")
    content = path.read_bytes()
    for begin in (0, 132):  # with the preamble and the mark, and without
        path.write_bytes(content[begin:])
        deflated = read_header(path)
        path.unlink()
        assert len(deflated.dataset.PixelData) == 22_000


def test_a_package_is_asked_for_by_name():
    assert header.needed_package("pydicom", "why") is pydicom
    with pytest.raises(
        ToolNotFound,
        match=r"no_such is missing.*to read.*install it: python -m pip install no_such",
    ):
        header.needed_package("no_such", "to read")


def test_a_multi_frame_image_counts_its_frames(tmp_path):
    save(enhanced(), tmp_path / "a.dcm")
    save(one(0, V[0], generate_uid()), tmp_path / "b.dcm")
    refused(tmp_path, "5 slice(s), a.dcm", "1 slice(s), b.dcm")


def test_an_index_under_another_name_is_known_by_its_class(tmp_path):
    index = maker.header(files.MEDIA_DIRECTORY, "1.2.3")
    path = save(index, tmp_path / "index.dcm")
    for place in (tmp_path, path):
        refused(place, "index.dcm is only the index of a medium; give one series: the folder of a")
    series(tmp_path)
    headers, notes = read_headers(tmp_path)
    assert len(headers) == 5 and notes == ()
