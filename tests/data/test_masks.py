"""A mask is complete, right and where it should be, or nothing changed."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nifti_files import voxels, write

from lmaunet.data.images import masks, metaimage, nifti_mask, nrrd
from lmaunet.data.images.geometry import FileGrid
from lmaunet.data.images.masks import check_format, check_output, write_labels
from lmaunet.data.images.volumes import read_labels, read_volume
from lmaunet.errors import UserError

FORMATS = [".nii", ".nii.gz", ".nrrd", ".mha"]


@pytest.fixture
def image(tmp_path):
    return read_volume(write(tmp_path / "image.nii"))


def labels_of(image, highest=255):
    return (np.arange(image.array.size) % (highest + 1)).reshape(image.array.shape)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("highest", "kind"), [(1, np.uint8), (255, np.uint8), (256, np.uint16),
                                               (65535, np.uint16)])  # fmt: skip
def test_labels_come_back(tmp_path, suffix, highest, kind):
    image = read_volume(write(tmp_path / "image.nii", voxels((50, 41, 37))))
    labels = labels_of(image, highest)
    path = write_labels(tmp_path / f"s{suffix}", labels, image.geometry)
    stored, geometry = read_labels(path)
    assert stored.dtype == kind and np.array_equal(stored, labels) and labels.max() == highest
    assert geometry.same_grid(image.geometry)
    by_itk = SimpleITK.ReadImage(str(path))
    assert by_itk.GetSize() == geometry.grid.size
    assert np.allclose(by_itk.GetDirection(), geometry.grid.direction)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_mask_of_many_classes_has_16_bits_whatever_is_in_it(tmp_path, image, suffix):
    labels = labels_of(image, 3).astype(np.uint16)
    stored = read_labels(write_labels(tmp_path / f"s{suffix}", labels, image.geometry))[0]
    assert stored.dtype == np.uint16 and np.array_equal(stored, labels)


@pytest.mark.parametrize("labels", [65536, -1])
def test_a_label_that_no_format_holds_is_refused(tmp_path, image, labels):
    with pytest.raises(UserError, match="expected 0 to 65535"):
        write_labels(tmp_path / "s.nii", np.full(image.array.shape, labels), image.geometry)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 kB, one page of which a folder of its own would take."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root and mount, for a disk of 4 kB")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("old", [b"", b"the old mask"])
def test_a_full_disk_leaves_the_old_mask(small_disk, tmp_path, suffix, old):
    image = read_volume(write(tmp_path / "image.nii", voxels((50, 41, 37))))
    noise = np.random.default_rng(0).integers(0, 9, image.array.shape)
    path = small_disk / f"s{suffix}"
    if old:
        path.write_bytes(old)
    with pytest.raises(
        UserError, match=rf"cannot write .*s{suffix}: No space left on device; free"
    ):
        write_labels(path, noise, image.geometry)
    assert [p.name for p in small_disk.iterdir()] == ([path.name] if old else [])
    assert not old or path.read_bytes() == old


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c[:-1], "cannot be read back|differ"),
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "its labels differ"),
        (lambda c: c[:300] + bytes([c[300] ^ 64]) + c[301:], "its srow_. differs from the image's"),
        (lambda c: c[:80] + bytes([c[80] ^ 1]) + c[81:], "its pixdim differs"),
        (lambda c: c[:252] + b"\x02" + c[253:], "its qform_code differs"),
        (lambda c: c[:123] + b"\x01" + c[124:], "its xyzt_units differs"),
        (lambda c: b"", "cannot be read back"),
    ],
)
def test_what_was_not_written_as_told_gets_no_name(tmp_path, monkeypatch, image, change, text):
    plain = masks._write_bytes
    monkeypatch.setattr(masks, "_write_bytes", lambda path, c: plain(path, change(c)))
    (tmp_path / "s.nii").write_text("old")
    with pytest.raises(UserError, match=text):
        write_labels(tmp_path / "s.nii", labels_of(image), image.geometry)
    assert (tmp_path / "s.nii").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.nii", "s.nii"]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda array, grid: (array[:, ::-1], grid), "its labels differ"),
        (lambda array, grid: (array + 1, grid), "its labels differ"),
        (lambda array, grid: (array[:, :-1], grid), "its labels differ"),
        (lambda array, grid: (array, shifted(grid)), "0.05 mm off the image"),
    ],
)
def test_what_itk_did_not_write_as_told_gets_no_name(
    tmp_path, monkeypatch, image, suffix, change, text
):
    plain = masks._write_by_itk
    monkeypatch.setattr(
        masks, "_write_by_itk", lambda path, array, grid: plain(path, *change(array, grid))
    )
    with pytest.raises(UserError, match=text):
        write_labels(tmp_path / f"s{suffix}", labels_of(image, 9).astype("u1"), image.geometry)
    assert [p.name for p in tmp_path.iterdir()] == ["image.nii"]


def shifted(grid):
    x, y, z = grid.origin
    return type(grid)(grid.size, grid.spacing_mm, (x + 0.05, y, z), grid.direction)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(5, "Input/output error"),
                                   MemoryError(), ValueError("x")])  # fmt: skip
def test_a_reader_that_fails_is_a_mask_that_fails(tmp_path, monkeypatch, image, suffix, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(nifti_mask, "check_mask", fail)
    monkeypatch.setattr(nrrd, "read_nrrd", fail)
    monkeypatch.setattr(metaimage, "read_metaimage", fail)
    with pytest.raises(UserError, match=f"cannot write .*s{suffix}"):
        write_labels(tmp_path / "new" / f"s{suffix}", labels_of(image), image.geometry)
    assert [p.name for p in tmp_path.iterdir()] == ["image.nii"]


def test_the_new_mask_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch, image):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1]
        )
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *a: (calls.append("replace"), real(*a))[1])
    write_labels(tmp_path / "s.nii", labels_of(image), image.geometry)
    assert [c for c in calls if c in ("fsync", "replace")][:2] == ["fsync", "replace"]


def test_what_a_killed_run_left_goes_with_the_next(tmp_path, image):
    code = (
        "import sys, os, signal, numpy as np\n"
        "from pathlib import Path\n"
        "from lmaunet.data.images import masks\n"
        "from lmaunet.data.images.volumes import read_volume\n"
        "masks._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"image = read_volume(Path({str(tmp_path / 'image.nii')!r}))\n"
        f"masks.write_labels(Path({str(tmp_path / 's.nii')!r}), image.array * 0, image.geometry)\n"
    )
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    left = [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert len(left) == 1 and not (tmp_path / "s.nii").exists()
    other_host = tmp_path / f".lmaunet-partial-00000000-{left[0].name.split('-')[-1]}"
    old = tmp_path / ".lmaunet-partial-11111111-1.nii"
    running = tmp_path / f".lmaunet-partial-{masks._HOST}-1.nii"  # the first process always runs
    for path in (other_host, old, running):
        path.write_text("")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    write_labels(tmp_path / "s.nii", labels_of(image), image.geometry)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [other_host.name, running.name, "image.nii", "s.nii"]
    )


def test_an_output_that_would_destroy_something_is_refused(tmp_path):
    given = write(tmp_path / "a.nii")
    (tmp_path / "link.nii").symlink_to(given)
    os.link(given, tmp_path / "hard.nii")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "folder")
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "folder" / "b.nii").write_bytes(given.read_bytes())
    before = given.read_bytes()
    for name in ("a.nii", "link.nii", "hard.nii", "folder/../a.nii"):
        with pytest.raises(UserError, match="would overwrite the image"):
            check_output(tmp_path / name, [given])
    for name in ("folder/s.nii", "other/s.nii", "folder/b.nii"):
        with pytest.raises(UserError, match="would lie in the image"):
            check_output(tmp_path / name, [tmp_path / "folder"])
    for name in ("s.nii", "s.dcm"):
        with pytest.raises(UserError, match=r"would lie in .*dicom, which holds a DICOM image"):
            check_output(tmp_path / "dicom" / name, [given])
    # other segmentations are no series
    segmentation = bytes(128) + b"DICM" + masks.SEGMENTATION_CLASS
    (tmp_path / "dicom" / "1").write_bytes(segmentation)
    check_output(tmp_path / "dicom" / "s.dcm", [given])
    assert given.read_bytes() == before


@pytest.mark.parametrize("shift", [0.05, 0.2])
@pytest.mark.parametrize("suffix", FORMATS)
def test_one_form_is_not_enough_where_two_differ(tmp_path, suffix, shift):
    """NRRD and MetaImage hold one: readers that prefer the other would lay the mask elsewhere."""
    image = read_volume(write(tmp_path / "image.nii", qoffset=(10 + shift, 20, 30)))
    assert image.geometry.placement.forms_apart_mm == pytest.approx(shift, abs=1e-5)
    if shift < 0.1 or suffix.startswith(".nii"):
        check_format(tmp_path / f"mask{suffix}", image.geometry, None)
        return
    with pytest.raises(UserError, match=r"qform and sform lie up to 0.2 mm apart.*use \.nii\.gz"):
        check_format(tmp_path / f"mask{suffix}", image.geometry, None)


@pytest.mark.parametrize(("form", "byte"), [("qform", 268), ("sform", 292), (None, None)])
def test_both_forms_of_a_new_header_are_read_back(tmp_path, form, byte):
    """A mask of an image that is no NIfTI has a header made anew; its shift to the right moves."""
    grid = FileGrid((4, 3, 2), (2.0, 3.0, 4.0), (10.0, 20.0, 30.0), tuple(np.eye(3).ravel()))
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = bytearray(nifti_mask.encode_mask(labels, grid, None, gzipped=False))
    if form is None:
        nifti_mask.check_mask(_written(tmp_path, content), labels, grid, None)
        return
    struct.pack_into("<f", content, byte, struct.unpack_from("<f", content, byte)[0] + 0.2)
    with pytest.raises(UserError, match="lies elsewhere"):
        nifti_mask.check_mask(_written(tmp_path, content), labels, grid, None)


def _written(folder, content):
    (folder / "mask.nii").write_bytes(content)
    return folder / "mask.nii"


def test_pixels_that_a_header_names_are_no_output(tmp_path):
    """A header of NRRD or MetaImage may take its pixels from a file that is an image by itself."""
    pixels = nibabel.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4))
    nibabel.save(pixels, tmp_path / "ct.nii")
    nrrd = tmp_path / "ct.nhdr"
    nrrd.write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nencoding: raw\nendian: little\n"
        "byte skip: -1\ndata file: ct.nii\n\n"
    )
    meta = tmp_path / "ct.mhd"
    meta.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\n"
        "HeaderSize = -1\nElementDataFile = ct.nii\n"
    )
    for header in (nrrd, meta):
        assert read_volume(header).array.shape == (2, 3, 4)
        with pytest.raises(UserError, match="would overwrite the image"):
            check_output(tmp_path / "ct.nii", [header])
        check_output(tmp_path / "other.nii", [header])


def test_an_output_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "full.nii").symlink_to("/dev/full")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    for name, text in (("dangling.nii", "a link to nothing"), ("pipe.nii", "a device or a pipe"),
                       ("folder.nii", "is a folder"), ("full.nii", "a device or a pipe"),
                       ("loop.nii", "a link to nothing"), ("x" * 260 + ".nii", "too long"),
                       ("s.png", "unknown format"), ("s", "unknown format"),
                       ("a\udcff.nii", "a byte that is not UTF-8")):  # fmt: skip
        with pytest.raises(UserError, match=text) as raised:
            check_output(tmp_path / name)
        str(raised.value).encode()  # it can be printed
    for name in ("/dev/stdout", "/dev/full", "/dev/null"):
        with pytest.raises(UserError, match="unknown format"):
            check_output(Path(name))


def test_a_link_to_a_mask_stays_a_link(tmp_path, image):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old.nii").write_text("old")
    (tmp_path / "s.nii").symlink_to(tmp_path / "there" / "old.nii")
    write_labels(tmp_path / "s.nii", labels_of(image), image.geometry)
    assert (tmp_path / "s.nii").is_symlink()
    assert np.array_equal(
        read_labels(tmp_path / "there" / "old.nii")[0], labels_of(image).astype("u1")
    )


def test_a_grid_that_nifti_cannot_hold_is_refused_before_the_work(tmp_path):
    """Float32 has no place for a tenth of a millimetre at 3,000 km."""
    far = SimpleITK.GetImageFromArray(voxels())
    far.SetOrigin((3e9 + 0.1, 0.0, 0.0))
    SimpleITK.WriteImage(far, str(tmp_path / "far.nrrd"))
    image = read_volume(tmp_path / "far.nrrd")
    with pytest.raises(UserError, match=r"NIfTI cannot hold the image's grid .* use \.nrrd"):
        check_format(tmp_path / "s.nii", image.geometry, None)
    assert check_format(tmp_path / "s.nrrd", image.geometry, None) == ()
    near = read_volume(write(tmp_path / "a.nii"))
    assert check_format(tmp_path / "s.nii", near.geometry, None) == ()


def test_a_side_beyond_nifti_1_makes_a_nifti_2_mask(tmp_path):
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.zeros((1, 8, 40000), np.uint8)), str(tmp_path / "a.nrrd")
    )
    image = read_volume(tmp_path / "a.nrrd")
    labels = labels_of(image)
    mask = nibabel.load(write_labels(tmp_path / "s.nii.gz", labels, image.geometry))
    assert isinstance(mask, nibabel.Nifti2Image) and mask.shape == (40000, 8, 1)
    assert np.array_equal(mask.get_fdata().T, labels)


def test_a_folder_without_permission_is_refused(tmp_path):
    if os.geteuid() == 0:
        code = (
            "import os, sys; from pathlib import Path\n"
            "from lmaunet.data.images.masks import check_output\n"
            "from lmaunet.errors import UserError\n"
            "import lmaunet.data.images.volumes; os.setuid(65534)\n"
            "try: check_output(Path(sys.argv[1]))\n"
            "except UserError as error: print(error)\n"
        )
        place = Path("/tmp") / f"closed-{os.getpid()}"
        place.mkdir(mode=0o755)
        try:
            done = subprocess.run([sys.executable, "-c", code, str(place / "s.nii")],
                                  capture_output=True, text=True)  # fmt: skip
        finally:
            shutil.rmtree(place)
        assert "no permission in" in done.stdout, done.stderr
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(UserError, match="no permission in"):
            check_output(tmp_path / "closed" / "s.nii")
