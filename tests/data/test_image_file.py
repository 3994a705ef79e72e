"""The bytes say what a file is; what is read is the file that was named, whole."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import os
import subprocess
import sys
import zipfile
import zlib

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
from nifti_files import content, voxels, write

from lmaunet.data.images import image_file
from lmaunet.data.images.image_file import PADDING_BYTES, identify, inflate
from lmaunet.data.images.volumes import read_pixels, read_volume
from lmaunet.errors import UserError


def by_text(value):
    """The name of a case: its message, because bytes of archives hold the time."""
    return value if isinstance(value, str) else "file"


def same(path, array=None):
    return np.array_equal(read_volume(path).array, voxels() if array is None else array)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ", "a.nrrd", "a.mha", "a.dcm", "a"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_nifti_under_any_name(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(content()))
    assert same(tmp_path / name) and identify(tmp_path / name).kind == "NIfTI"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a"])
def test_nrrd_and_metaimage_under_any_name(tmp_path, suffix, name):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels()), str(tmp_path / f"b{suffix}"))
    (tmp_path / f"b{suffix}").rename(tmp_path / name)
    assert same(tmp_path / name)


@pytest.mark.parametrize("first", ["ct.nii", "ct.nii.gz"])
def test_a_file_beside_it_is_never_read(tmp_path, first):
    """Some readers take ct.nii for ct.nii.gz where both are there."""
    write(tmp_path / "ct.nii")
    write(tmp_path / "ct.nii.gz", voxels() + 7)
    write(tmp_path / "ct.img", voxels() + 9)
    assert same(tmp_path / first, voxels() + (7 if first.endswith("gz") else 0))
    (tmp_path / first).unlink()
    with pytest.raises(UserError, match=rf"{first} does not exist"):
        read_volume(tmp_path / first)


def test_a_gzip_file_of_several_members_is_read_whole(tmp_path):
    whole = content()
    parts = [whole[:100], whole[100:400], b"", whole[400:]]
    packed = b"".join(map(gzip.compress, parts))
    (tmp_path / "a.nii.gz").write_bytes(packed)
    assert same(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(packed + bytes(512))  # as tapes pad
    assert same(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_gzip_file_is_read_whole_however_it_comes(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(image_file, "CHUNK_BYTES", chunk)
    packed = gzip.compress(content()[:500]) + gzip.compress(content()[500:]) + bytes(20)
    (tmp_path / "a.nii.gz").write_bytes(packed)
    assert same(tmp_path / "a.nii.gz")


GZIP = gzip.compress(content())


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (GZIP[:-1], "its gzip stream is cut short"),
        (GZIP[:-9], "its gzip stream is cut short"),
        (GZIP[: len(GZIP) // 2], "is damaged|cut short"),
        (GZIP[:-8] + bytes([GZIP[-8] ^ 1]) + GZIP[-7:], "incorrect data check"),
        (GZIP[:-4] + bytes([GZIP[-4] ^ 1]) + GZIP[-3:], "incorrect length check"),
        (GZIP + b"garbage", "followed by other bytes"),
        (GZIP + bytes(9) + b"garbage", "followed by other bytes"),
        (GZIP + GZIP, "holds more than its header says"),
        (GZIP + GZIP[:9], "cut short"),
        (gzip.compress(content()[:-1]), r"is cut short: 771 bytes, expected 772"),
        (gzip.compress(content() + bytes(5000)), "holds more than its header says"),
        (gzip.compress(content() + b"x"), "holds more than its header says"),
        (gzip.compress(content()[:40]), "header, cut short"),
        (b"\x1f\x8b", "not known|empty"),
    ],
    ids=by_text,
)
def test_a_damaged_gzip_file_is_refused(tmp_path, packed, text):
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(UserError, match=text):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_padding_by_zeros_is_harmless(tmp_path, suffix):
    made = content() + bytes(300)
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(made) if suffix == ".nii.gz" else made)
    assert same(tmp_path / f"a{suffix}")


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.nii", content())
    return stream.getvalue()


def numpy_file(save):
    stream = io.BytesIO()
    save(stream, voxels())
    return stream.getvalue()


def analyze():
    header = bytearray(content()[:348])
    header[344:348] = bytes(4)
    return bytes(header)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (b"", "it is empty"),
        (b"hello\nworld\n", "it is text"),
        (gzip.compress(b"hello"), "it is text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG picture"),
        (b"II*\0" + bytes(99), "a TIFF picture"),
        (analyze(), "an Analyze 7.5 header, which does not say which side is left"),
        (gzip.compress(analyze()), "an Analyze 7.5 header"),
        (zipped(), "a zip archive"),
        (numpy_file(np.savez), "a zip archive (.npz files are such)"),
        (numpy_file(np.save), "a numpy array, which has no spacing"),
        (b"CDF\x01" + bytes(99), "MINC 1"),
        (bz2.compress(content()), "compressed by bzip2"),
        (lzma.compress(content()), "compressed by xz"),
        (gzip.compress(bytes(range(256))), "compressed by gzip, and what is inside is not known"),
        (bytes(range(256)), "of an unknown kind"),
        (bytes(2000), "of an unknown kind"),
        (gzip.compress(gzip.compress(content())), "not known"),
    ],
    ids=by_text,
)
def test_another_file_is_named(tmp_path, made, text):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(made)
    with pytest.raises(UserError) as raised:
        read_volume(path)
    said = str(raised.value)
    assert text in said and said.startswith(str(path)) and "\n" not in said
    assert "give a file in NIfTI, NRRD, MetaImage or DICOM form" in said


def test_files_of_other_programs_are_named(tmp_path):
    with h5py.File(tmp_path / "a.mnc", "w") as file:
        file["image"] = voxels()
    nibabel.save(nibabel.MGHImage(voxels().T.astype("f4"), np.eye(4)), tmp_path / "a.mgz")
    for name, text in (("a.mnc", "MINC 2"), ("a.mgz", "an MGH file")):
        with pytest.raises(UserError, match=text):
            read_volume(tmp_path / name)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, text in ((tmp_path / "pipe", "is a named pipe"), ("/dev/zero", "is a device"),
                       (tmp_path / "absent", "does not exist"),
                       (tmp_path / ("x" * 300), "name too long|cannot be read"),
                       (tmp_path / "a\udcff.nii", "a byte that is not UTF-8")):  # fmt: skip
        with pytest.raises(UserError, match=text) as raised:
            read_volume(type(tmp_path)(path))
        str(raised.value).encode()


def test_a_file_without_permission_is_refused(tmp_path):
    """As another user: root may read everything."""
    if os.geteuid() != 0:
        path = write(tmp_path / "a.nii")
        path.chmod(0)
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            read_volume(path)
        return
    code = (
        "import os, sys; from pathlib import Path; import nibabel\n"
        "import lmaunet.data.images.volumes as v\n"
        "from lmaunet.errors import UserError\n"
        "path = Path('/tmp') / f'closed-{os.getpid()}.nii'; path.write_bytes(b''); path.chmod(0)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setuid(65534)\n"
        "    try: v.read_volume(path)\n"
        "    except UserError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0); path.unlink()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot be read: Permission denied" in done.stdout, done.stderr


def test_a_header_that_asks_for_more_than_there_is_takes_no_memory(tmp_path, monkeypatch):
    """A file of 4 kB that says 64 GB is refused by its length; one that has them, by the memory."""
    path = write(tmp_path / "a.nii.gz", dim=(3, 32767, 1024, 1024, 1, 1, 1, 1))
    monkeypatch.setattr(image_file, "check_memory", lambda size, path: None)
    most = 1100 * path.stat().st_size
    with pytest.raises(UserError, match=rf"is cut short: at most {most} bytes, expected 687173799"):
        read_volume(path)
    monkeypatch.undo()
    monkeypatch.setattr(os, "sysconf", lambda name: 25)  # of 25 pages of 25 bytes
    with pytest.raises(UserError, match=r"asks for 7\.72e-07 GB; this machine has 6\.25e-07 GB"):
        read_volume(write(tmp_path / "a.nii"))


def test_memory_that_does_not_suffice_is_said(tmp_path, monkeypatch):
    from lmaunet.data.images import nifti

    def full(*arguments):
        raise MemoryError

    monkeypatch.setattr(nifti, "_scaled", full)
    with pytest.raises(UserError, match="does not fit in the memory of this machine"):
        read_volume(write(tmp_path / "a.nii"))


def test_pixels_are_float32_and_finite(tmp_path):
    assert read_pixels(write(tmp_path / "a.nii")).array.dtype == np.float32


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize(("zeros", "good"), [(PADDING_BYTES, True), (PADDING_BYTES + 1, False)])
def test_padding_has_a_bound(tmp_path, zeros, good, gzipped):
    assert PADDING_BYTES == 8 * 512  # blocks of a disk
    made = content() + bytes(zeros)
    (tmp_path / "a.nii").write_bytes(gzip.compress(made) if gzipped else made)
    if good:
        assert same(tmp_path / "a.nii")
    else:
        with pytest.raises(UserError, match="over 772 bytes, expected 772"):
            read_volume(tmp_path / "a.nii")


NOISE = np.random.default_rng(0).bytes(20_000)


@pytest.mark.parametrize("cuts", [(), (7,), (100, 3000)])
def test_a_gzip_file_is_unpacked_no_further_than_padding_goes(tmp_path, cuts):
    """Up to there its checksums hold; what lies behind is not looked at."""
    ends = [0, *cuts, None]
    for size in (5001, 5000):
        whole = NOISE[:size] + bytes(PADDING_BYTES)
        packed = b"".join(gzip.compress(whole[a:b]) for a, b in itertools.pairwise(ends))
        assert inflate(io.BytesIO(packed), tmp_path, size) == whole
        wrong = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
        with pytest.raises(UserError, match="incorrect data check"):
            inflate(io.BytesIO(wrong), tmp_path, size)
        with pytest.raises(UserError, match=f"cut short after {len(whole)} bytes"):
            inflate(io.BytesIO(packed[:-1]), tmp_path, size)
        for more in (b"\0", b"1" * 99):
            longer = packed[:-8] + bytes(8) if not cuts else packed
            longer = gzip.compress(whole + more)[:-8] if not cuts else longer + gzip.compress(more)
            assert inflate(io.BytesIO(longer), tmp_path, size) == whole + more[:1]


def test_a_gzip_file_may_repeat_what_lies_far_before(tmp_path):
    """As far as its format can say: 32 kB."""
    packed = gzip.compress(NOISE * 2)
    assert len(packed) < 21_000
    assert inflate(io.BytesIO(packed), tmp_path, 40_000) == NOISE * 2


@pytest.mark.parametrize(("behind", "good"), [(b"", True), (bytes(9), True), (b"\x1f", False),
    (b"\x1f\x8b", False), (b"\x1e\x8b", False), (b"\0\0\x1f\x8a", False)])  # fmt: skip
def test_only_zeros_or_another_member_stand_behind_a_member(tmp_path, monkeypatch, behind, good):
    for chunk in (1, 1 << 20):
        monkeypatch.setattr(image_file, "CHUNK_BYTES", chunk)
        stream = io.BytesIO(gzip.compress(b"abc") + behind)
        if good:
            assert inflate(stream, tmp_path, 3) == b"abc"
        else:
            with pytest.raises(UserError, match=r"is damaged( \(|: its gzip stream is)"):
                inflate(stream, tmp_path, 3)


@pytest.mark.parametrize("gzipped", [False, True])
def test_the_first_kilobyte_tells_what_a_file_is(tmp_path, gzipped):
    made = content() + bytes(range(256)) * 9
    (tmp_path / "a").write_bytes(gzip.compress(made) if gzipped else made)
    head = identify(tmp_path / "a")
    assert head.start == made[:1024] and head.gzipped is gzipped
    assert head.size == (tmp_path / "a").stat().st_size


def test_as_much_is_had_of_a_damaged_gzip_file_as_lies_before_its_damage(tmp_path):
    """A header of 10 bytes, 5 of a stored block and its 353: the damage begins a step of 16."""
    deflate = zlib.compressobj(0, wbits=31)
    packed = deflate.compress(content()[:353]) + deflate.flush(zlib.Z_FULL_FLUSH)
    assert packed[15:368] == content()[:353]
    (tmp_path / "a").write_bytes(packed[:368] + b"\x07" * 99)
    assert identify(tmp_path / "a").start == content()[:353]


@pytest.mark.parametrize(("byte", "good"), [(9, True), (31, False), (32, True), (126, True),
                                            (127, False), (0, False)])  # fmt: skip
def test_a_header_line_is_printable(tmp_path, byte, good):
    line = b"x" * 50 + bytes([byte]) + b"\xc3\xa4"
    if good:
        assert image_file.header_line(line, tmp_path) == line.decode()
        with pytest.raises(UserError, match=r"b'x{40}' in its header is no UTF-8 text"):
            image_file.header_line(line + b"\xc3", tmp_path)
    else:
        with pytest.raises(UserError, match=r"a control character in b'x{40}'; get"):
            image_file.header_line(line, tmp_path)


def test_an_image_that_just_fits_in_memory_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 3, "SC_PAGE_SIZE": 7}.__getitem__)
    image_file.check_memory(21, tmp_path)
    with pytest.raises(UserError, match=r"asks for 2.2e-08 GB; this machine has 2.1e-08 GB"):
        image_file.check_memory(22, tmp_path)
    for error in (ValueError, OSError):
        monkeypatch.setattr(os, "sysconf", lambda name, error=error: (_ for _ in ()).throw(error()))
        image_file.check_memory(22, tmp_path)
