"""Which files of a folder are the series: other kinds, several series, damage, what lies beside."""

import dicom_maker as maker
import numpy as np
import pydicom
import pytest
from dicom_maker import SHAPE, enhanced, one, save, series
from pydicom.fileset import FileSet
from pydicom.uid import generate_uid

from lmaunet.data.dicom import files as dicom_files
from lmaunet.data.dicom.series import holds_dicom, is_dicom, read_dicom
from lmaunet.data.images.volumes import is_volume, read_image
from lmaunet.errors import ToolNotFound, UserError

V = maker.volume()
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
RTDOSE = "1.2.840.10008.5.1.4.1.1.481.2"
SR = "1.2.840.10008.5.1.4.1.1.88.22"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
PRESENTATION = "1.2.840.10008.5.1.4.1.1.11.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def refused(path, *texts):
    with pytest.raises(UserError) as raised:
        read_dicom(path)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


def other(sop_class, modality, pixels=False):
    dataset = maker.header(sop_class, "1.2.3.99")
    dataset.Modality = modality
    if pixels:
        dataset.Rows, dataset.Columns = 6, 9
        dataset.PixelData = V[0].astype("<u2").tobytes()
    return dataset


@pytest.mark.parametrize(
    ("sop_class", "modality", "pixels"),
    [(RTSTRUCT, "RTSTRUCT", False), (SR, "SR", False), (PDF, "DOC", False),
     (PRESENTATION, "PR", False), (SEG, "SEG", True), (RTDOSE, "RTDOSE", True),
     (CAPTURE, "OT", True)],
)  # fmt: skip
def test_what_is_no_slice_is_left_aside_and_said(tmp_path, sop_class, modality, pixels):
    folder = series(tmp_path / "a")
    save(other(sop_class, modality, pixels), folder / "0.dcm")
    image = read_dicom(folder)
    assert np.array_equal(image.array, V) and image.files[0].name == maker.name(0)
    assert image.notes == (
        f"left aside, because they are no slices: 1 {modality} (0.dcm)",
    )  # fmt: skip
    alone = save(other(sop_class, modality, pixels), tmp_path / "b" / "0.dcm")
    wanted = "no ImagePosition" if sop_class == CAPTURE else f"no DICOM image, but 1 {modality}"
    refused(alone.parent, wanted)


def test_several_series_are_listed_with_what_tells_them_apart(tmp_path):
    folder = series(tmp_path / "a")
    for z in range(2):
        tags = {"SeriesNumber": 7, "SeriesDescription": "scout"}
        save(one(z, V[z], "1.2.3.77", **tags), folder / f"s{z}.dcm")
    refused(folder, "holds 2 DICOM series", "CT 4 'thin', 5 slice(s), IM0000.dcm and 4 more",
            "CT 7 'scout', 2 slice(s), s0.dcm and 1 more", "move each into a folder")  # fmt: skip
    save(enhanced(), tmp_path / "b" / "all.dcm")
    save(one(0, V[0]), tmp_path / "b" / "one.dcm")
    refused(tmp_path / "b", "holds 2 DICOM series", "5 slice(s), all.dcm", "1 slice(s), one.dcm")


def test_a_localizer_of_the_same_series_is_named(tmp_path):
    folder = series(tmp_path / "a")
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "Rows": 3, "Columns": 18,
            "ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"]}  # fmt: skip
    save(one(9, V[0], **tags), folder / "A.dcm")
    refused(folder, "A.dcm is an image of another kind (image type LOCALIZER)", "expected AXIAL")


def test_a_series_in_a_folder_below_is_named(tmp_path):
    inner = series(tmp_path / "a" / "PA0" / "ST0" / "SE0")
    refused(tmp_path / "a", f"the series is in {inner}: give that")
    series(tmp_path / "a" / "PA0" / "ST0" / "SE1")
    refused(tmp_path / "a", "2 folders below do", str(inner), "give one of them")
    assert not holds_dicom(tmp_path / "a") and holds_dicom(inner)


def test_the_index_of_a_medium_is_no_series(tmp_path):
    files = FileSet()
    for z in range(3):
        dataset = one(z, V[z])
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200101", "101010", "1"
        dataset.AccessionNumber = ""
        files.add(dataset)
    files.write(tmp_path / "cd")
    index = tmp_path / "cd" / "DICOMDIR"
    assert index.exists()
    for path in (tmp_path / "cd", index):
        refused(path, "DICOMDIR is only the index of a medium; give one series:", "SE0000")
    below = next(p.parent for p in (tmp_path / "cd").rglob("IM*") if p.is_file())
    assert np.array_equal(read_dicom(below).array, V[:3])
    (below / "DICOMDIR").write_bytes(index.read_bytes()[:300])  # beside a series it plays no part
    assert np.array_equal(read_dicom(below).array, V[:3])


def test_another_file_is_no_index_of_a_medium(tmp_path):
    (tmp_path / "A").write_text("read me")
    with pytest.raises(UserError) as raised:
        read_dicom(tmp_path)
    assert "index of a medium" not in str(raised.value) and "no DICOM" in str(raised.value)


def test_files_that_other_programs_leave_are_skipped(tmp_path):
    folder = series(tmp_path / "a")
    for name in ("._IM0000.dcm", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / "notes.txt").write_text("read me")
    (folder / "README").write_text("read me")
    (folder / "preview.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    (folder / "below").mkdir()
    image = read_dicom(folder)
    assert np.array_equal(image.array, V) and image.notes == ()


DAMAGE = {
    "empty": lambda content: b"",
    "shorter than the mark": lambda content: content[:100],
    "the mark alone": lambda content: content[:140],
    "a part of the header": lambda content: content[:300],
    "a part of the pixels": lambda content: content[: len(content) - 30],
    "all but a byte": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "without its mark": lambda content: content[:128] + b"XXXX" + content[132:],
    "zeros after the mark": lambda content: content[:132] + bytes(len(content) - 132),
    "another text": lambda content: b"<html>404 Not Found</html>",
}


@pytest.mark.parametrize("z", [0, 2, 4])
@pytest.mark.parametrize(
    ("damage", "suffix"),
    # a text without a suffix is taken for a README
    [(d, s) for d in DAMAGE for s in (".dcm", "") if (d, s) != ("another text", "")],
)
def test_a_damaged_slice_is_never_missing_in_silence(tmp_path, z, damage, suffix):
    folder = series(tmp_path / "a")
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(suffix))
    path = (folder / maker.name(z)).with_suffix(suffix)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    refused(folder, path.name)


def test_a_link_to_nothing_is_named(tmp_path):
    folder = series(tmp_path / "a")
    path = folder / maker.name(4)
    path.unlink()
    path.symlink_to(tmp_path / "absent")
    refused(folder, f"{maker.name(4)} is a link to nothing")


def test_files_without_a_preamble_are_read(tmp_path):
    folder = series(tmp_path / "a")
    for path in folder.iterdir():
        content = path.read_bytes()
        assert is_dicom(path) and content[128:132] == b"DICM"
        dataset = pydicom.dcmread(path)
        path.write_bytes(content[132:])
        assert is_dicom(path)  # begins with the header of the file
        if path.name == maker.name(1):  # no header either: implicit, as old programs write
            del dataset.file_meta
            dataset.preamble = None
            pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True)
            assert path.read_bytes()[:2] == b"\x08\x00" and is_dicom(path)
    assert np.array_equal(read_dicom(folder).array, V) and is_volume(folder)
    alone, of_folder = read_image(folder / maker.name(1)), read_image(folder)
    assert np.array_equal(alone[0].squeeze(), of_folder[0][1])


@pytest.mark.parametrize(
    "start", [b"", b"text", bytes(4), b"\x5c\x01\0\0", b"\x1f\x8b\x08\0", b"NRRD0005", b"\x93NUMPY",
              b"\x08\0\0\x80" * 40]
)  # fmt: skip
def test_other_files_are_no_dicom(tmp_path, start):
    path = tmp_path / "a"
    path.write_bytes(start + bytes(200) if start else b"")
    assert not is_dicom(path)
    refused(path, "is no DICOM file")


def test_identity_that_an_anonymiser_emptied_is_not_needed(tmp_path):
    tags = {"SeriesInstanceUID": "", "StudyInstanceUID": "", "SOPInstanceUID": "",
            "SOPClassUID": "", "PatientID": "", "SeriesNumber": ""}  # fmt: skip
    folder = tmp_path / "a"
    folder.mkdir()
    for z in range(SHAPE[0]):
        dataset = one(z, V[z])
        uid = dataset.SOPInstanceUID
        for key, value in tags.items():
            setattr(dataset, key, value)
        path = folder / f"{z}.dcm"
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True)
        content = path.read_bytes()
        assert uid.encode() in content
        path.write_bytes(bytes(128) + b"DICM" + content if content[:4] != bytes(4) else content)
    image = read_dicom(folder)
    assert np.array_equal(image.array, V)
    assert any("no file has a SeriesInstanceUID" in note for note in image.notes)


def test_one_image_without_a_series_is_not_taken_for_several(tmp_path):
    dataset = one(0, V[0])
    del dataset.SeriesInstanceUID
    image = read_dicom(save(dataset, tmp_path / "a.dcm"))
    assert not any("SeriesInstanceUID" in note for note in image.notes)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(
    ("group", "element", "length", "size", "first"),
    [(8, 0x20, 8, 132, True), (8, 0x21, 8, 132, False), (2, 0, 4, 132, True),
     (8, 0x20, 8, 131, False),
     (8, 0x08, 256, 200, True), (8, 0x08, 258, 200, False), (8, 0x08, 7, 200, False),
     (3, 0x08, 8, 200, False), (7, 0x08, 8, 200, False)],
)  # fmt: skip
def test_what_a_first_element_is(order, group, element, length, size, first):
    """Without preamble: of group 2 or 8, by its tag and the length of its value."""
    start = group.to_bytes(2, order) + element.to_bytes(2, order) + length.to_bytes(4, order)
    assert dicom_files._begins_without_preamble(start.ljust(size, b"\1")) == first


def test_a_slice_of_another_series_uid_is_another_series(tmp_path):
    folder = series(tmp_path / "a", lambda z: {"SeriesInstanceUID": "" if z == 2 else "1.2.3.5"})
    refused(folder, "holds 2 DICOM series")


def test_names_and_order_play_no_part(tmp_path):
    rng = np.random.default_rng(1)
    for z in rng.permutation(SHAPE[0]):
        save(one(int(z), V[z], InstanceNumber=None), tmp_path / "a" / generate_uid())
    assert np.array_equal(read_dicom(tmp_path / "a").array, V)


def test_a_missing_package_is_said_with_what_installs_it(tmp_path, monkeypatch):
    folder = series(tmp_path / "a")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("lmaunet.data.dicom.header.importlib.import_module", absent)
    with pytest.raises(ToolNotFound, match=r"pydicom is missing.*pip install 'pydicom>=3"):
        read_image(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"UI\x08\x001.2.3.5\0", b"TI\x08\x001.2.3.5\0"),  # a kind of value that is none
        (b"1.2.3.5\0", b"1.\n.3.5\0"),
        (b"CS\x02\0CT", b"CS\x02\0\n\xff"),
        (b"CT Image", b"CT Image"),
    ],
)
def test_bytes_that_are_no_values_are_refused_in_one_line(tmp_path, old, new):
    folder = series(tmp_path / "a", lambda z: {"ProtocolName": "CT Image"})
    path = folder / maker.name(2)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    if old == new:
        assert np.array_equal(read_dicom(folder).array, V)
        return
    with pytest.raises(UserError) as raised:
        read_dicom(folder)
    assert path.name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", False), (b"read me", True), (b"a\0b", False), (b"a" * 511 + b"\0", False),
     (b"a" * 512 + b"\0", True), (b"\xff" * 600, True)],
)  # fmt: skip
def test_a_text_has_no_zero_byte_in_its_first_512(tmp_path, content, text):
    (tmp_path / "a").write_bytes(content)
    assert dicom_files._is_text(tmp_path / "a") == text
