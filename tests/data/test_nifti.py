"""NIfTI in all that a header can say: right as independent readers have it, or refused."""

from __future__ import annotations

import dataclasses
import gzip
import math

import nibabel
import numpy as np
import pytest
import SimpleITK
from nifti_files import AFFINE, SHAPE, STEPS, content, voxels, write

from lmaunet.data.images.geometry import FileGrid, flat
from lmaunet.data.images.masks import write_labels
from lmaunet.data.images.nifti_mask import PLACING_FIELDS
from lmaunet.data.images.volumes import read_pixels, read_volume
from lmaunet.errors import UserError

C, S = math.cos(0.26), math.sin(0.26)
MOVED = np.array([[C, -S, 0, 40], [S, C, 0, -30], [0, 0, 1, 25], [0, 0, 0, 1]]) @ AFFINE
FLIPPED = np.diag([-1.0, 1, 1, 1]) @ AFFINE


def rows(affine):
    return np.asarray(affine)[:3].ravel()


def sheared(entry, by):
    affine = AFFINE.copy()
    affine[entry] = by
    return affine


def quaternion(matrix):
    return nibabel.quaternions.mat2quat(matrix)[1:]


def mask_of(path, out):
    """Write a mask whose labels tell voxels apart; return image and mask as nibabel reads them."""
    image = read_volume(path)
    labels = (image.array - image.array.min()).astype(np.uint16)
    write_labels(out, labels, image.geometry)
    return nibabel.load(path), nibabel.load(out)


PLACEMENTS = {
    "plain": {},
    "moved sform": {"srow": rows(MOVED), "sform_code": 2},
    "moved sform of the scanner": {"srow": rows(MOVED)},
    "flipped sform": {"srow": rows(FLIPPED), "sform_code": 2},
    "no sform": {"sform_code": 0},
    "no qform": {"qform_code": 0},
    "no qform and a turned sform": {"qform_code": 0, "srow": rows(MOVED), "sform_code": 4},
    "no form": {"qform_code": 0, "sform_code": 0},
    "no form, in metres": {"qform_code": 0, "sform_code": 0, "xyzt_units": 1,
                           "pixdim": (1, 1e-3, 1.5e-3, 3e-3, 0, 0, 0, 0)},
    "no form, in micrometres": {"qform_code": 0, "sform_code": 0, "xyzt_units": 3,
                                "pixdim": (1, 1e3, 1.5e3, 3e3, 0, 0, 0, 0)},
    "codes beyond 4": {"qform_code": 5, "sform_code": 7},
    "qfac of -1": {"pixdim": (-1, *STEPS, 0, 0, 0, 0), "sform_code": 0},
    "qfac of 0": {"pixdim": (0, *STEPS, 0, 0, 0, 0), "sform_code": 0},
    "qfac of 0.5": {"pixdim": (0.5, *STEPS, 0, 0, 0, 0), "sform_code": 0},
    "metres": {"xyzt_units": 1, "srow": rows(np.diag([1e-3] * 3 + [1]) @ AFFINE),
               "pixdim": (1, 1e-3, 1.5e-3, 3e-3, 0, 0, 0, 0), "qoffset": (0.01, 0.02, 0.03)},
    "micrometres and seconds": {"xyzt_units": 3 + 8, "qoffset": (1e4, 2e4, 3e4),
                    "srow": rows(np.diag([1e3] * 3 + [1]) @ AFFINE),
                    "pixdim": (1, 1e3, 1.5e3, 3e3, 0, 0, 0, 0)},
    "no unit": {"xyzt_units": 0},
    "negative pixdim": {"pixdim": (1, -1, 1.5, -3, 0, 0, 0, 0)},
    "a little shear": {"qform_code": 0, "srow": rows(sheared((0, 1), 0.002))},
    "pixdim of another size": {"qform_code": 0, "pixdim": (1, 2, 2, 2, 0, 0, 0, 0)},
    "oblique": {"quatern": quaternion(MOVED[:3, :3] / STEPS), "srow": rows(MOVED),
                "qoffset": MOVED[:3, 3]},
    "big endian": {"order": ">"},
    "time of one": {"dim": (5, *SHAPE, 1, 1, 1, 1)},
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("fields", PLACEMENTS.values(), ids=PLACEMENTS)
def test_a_mask_repeats_all_that_places_its_image(tmp_path, fields, suffix):
    """Bit by bit; so that whatever a reader makes of the image, it makes of the mask."""
    path = write(tmp_path / f"a{suffix}", **fields)
    image, mask = mask_of(path, tmp_path / f"s{suffix}")
    raw = [
        nibabel.Nifti1Header(content_of(p)[:348], order, check=False)
        for p, order in ((path, fields.get("order", "<")), (tmp_path / f"s{suffix}", "<"))
    ]
    for key in PLACING_FIELDS:
        assert np.array_equal(raw[0][key], raw[1][key]), key
    assert raw[1]["bitpix"] == 8 * raw[1].get_data_dtype().itemsize == 16
    assert np.array_equal(image.affine, mask.affine) and mask.shape == SHAPE
    assert np.array_equal(mask.get_fdata(), image.get_fdata().reshape(SHAPE) + 100)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def content_of(path):
    stored = path.read_bytes()
    return gzip.decompress(stored) if stored[:2] == b"\x1f\x8b" else stored


@pytest.mark.parametrize(
    "name", ["plain", "moved sform", "moved sform of the scanner", "flipped sform", "no sform",
             "no qform", "no qform and a turned sform", "no form", "no form, in metres",
             "no form, in micrometres", "codes beyond 4", "qfac of -1",
             "qfac of 0", "qfac of 0.5", "metres", "micrometres and seconds", "no unit", "oblique",
             "big endian",
             "time of one"],
)  # fmt: skip
def test_the_network_sees_what_itk_sees(tmp_path, name):
    path = write(tmp_path / "a.nii", **PLACEMENTS[name])
    grid = read_volume(path).geometry.grid
    image = SimpleITK.ReadImage(str(path))
    assert grid.size == image.GetSize()
    for key, read in (("spacing_mm", "GetSpacing"), ("origin", "GetOrigin"),
                      ("direction", "GetDirection")):  # fmt: skip
        assert np.allclose(getattr(grid, key), getattr(image, read)(), rtol=1e-5, atol=1e-5), key
    mask = SimpleITK.ReadImage(
        str(write_labels(tmp_path / "s.nii", voxels_lps(path), read_volume(path).geometry))
    )
    for read in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, read)() == getattr(image, read)()
    assert np.array_equal(
        SimpleITK.GetArrayFromImage(mask), SimpleITK.GetArrayFromImage(image) + 100
    )


def voxels_lps(path):
    return read_volume(path).array + 100


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, None),
        ({"srow": rows(MOVED), "sform_code": 2}, "mm apart: the network's orientation comes from "
         "the qform"),
        ({"srow": rows(MOVED)}, "orientation comes from the sform"),
        ({"srow": rows(FLIPPED), "sform_code": 3}, "orientation comes from the qform"),
        ({"srow": rows(sheared((0, 3), 10.05))}, None),
        ({"srow": rows(sheared((0, 3), 10.15))}, "up to 0.15 mm apart"),
        ({"qform_code": 0, "sform_code": 0}, "neither qform nor sform"),
        (PLACEMENTS["metres"], "lengths are in metres: converted to mm"),
        (PLACEMENTS["negative pixdim"], "voxel sizes in pixdim are negative"),
        (PLACEMENTS["a little shear"], "0.076 degrees off right angles"),
        (PLACEMENTS["pixdim of another size"], "voxels are 1 x 1.5 x 3 mm by the sform, which is"),
        ({"srow": rows(sheared((1, 2), 0.9)), "sform_code": 1}, "comes from the qform"),
        (PLACEMENTS["qfac of 0"], None),
        (PLACEMENTS["qfac of -1"], None),
        (PLACEMENTS["qfac of 0.5"], "pixdim[0] is 0.5: taken as 1, as ITK and FSL take it"),
        ({"bitpix": 8}, "bitpix in the header is 8: the datatype's 16 are used"),
    ],
)  # fmt: skip
def test_what_a_header_leaves_open_is_said(tmp_path, fields, note):
    notes = read_volume(write(tmp_path / "a.nii.gz", **fields)).notes
    assert (notes == ()) if note is None else any(note in n for n in notes), notes


def test_negative_voxel_sizes_mirror_nothing(tmp_path):
    """Where only the qform places the image, which uses them; nibabel takes magnitudes too."""
    fields = {"pixdim": (1, -1, 1.5, -3, 0, 0, 0, 0), "sform_code": 0}
    path = write(tmp_path / "a.nii", **fields)
    grid = read_volume(path).geometry.grid
    affine = np.diag([-1.0, -1, 1, 1]) @ nibabel.load(path).affine
    assert np.allclose(np.reshape(grid.direction, (3, 3)) * grid.spacing_mm, affine[:3, :3])
    assert np.allclose(affine[:3, :3], np.diag(STEPS)) and np.allclose(grid.origin, affine[:3, 3])


def test_a_bitpix_that_is_wrong_is_read_only_where_the_length_says_so(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(content(bitpix=8) + bytes(16))
    with pytest.raises(UserError, match="bitpix 8, but its datatype has 16 bits"):
        read_volume(path)


def test_half_a_turn_is_one_though_float32_rounds_it(tmp_path):
    """Its rows and columns are exchanged; rounding would tilt them by 0.015 degree."""
    exchanged = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1.0]])
    path = write(tmp_path / "a.nii", quatern=quaternion(exchanged), sform_code=0)
    stored = nibabel.load(path).header
    assert 0 < 1 - sum(float(stored[f"quatern_{part}"]) ** 2 for part in "bcd") < 3e-7
    image = read_volume(path)
    write_labels(tmp_path / "s.nrrd", np.ones(image.array.shape, np.uint8), image.geometry)
    mask = SimpleITK.ReadImage(str(tmp_path / "s.nrrd"))
    direction = np.array(mask.GetDirection()).reshape(3, 3)
    assert set(np.abs(direction).ravel().tolist()) == {0.0, 1.0}


def test_a_mask_has_no_meaning_that_the_image_had(tmp_path):
    """An image may be a map of z-scores, and is scaled; its mask is labels."""
    path = write(tmp_path / "a.nii", intent_code=5, scl_slope=2.0, scl_inter=7.0)
    mask_of(path, tmp_path / "s.nii")
    # an image's header in nibabel has lost the slope
    header = nibabel.Nifti1Header(content_of(tmp_path / "s.nii")[:348])
    assert int(header["intent_code"]) == 0 and header.get_slope_inter() == (1.0, 0.0)


def test_a_quaternion_that_is_a_little_long_is_read_as_itk_reads_it(tmp_path):
    """Rounding in a converter; nibabel refuses such a header, ITK and FSL make it a rotation."""
    path = write(tmp_path / "a.nii", quatern=(0, 0, 1.000004), sform_code=0)
    with pytest.raises(ValueError, match="w2 should be positive"):
        nibabel.load(path)
    image = read_volume(path)
    out = write_labels(tmp_path / "s.nii", voxels_lps(path), image.geometry)
    mask, stated = SimpleITK.ReadImage(str(out)), SimpleITK.ReadImage(str(path))
    assert mask.GetDirection() == stated.GetDirection() and mask.GetOrigin() == stated.GetOrigin()
    assert np.allclose(image.geometry.grid.direction, stated.GetDirection(), atol=1e-6)


def test_the_units_of_a_file_are_those_of_the_network(tmp_path):
    for name in ("plain", "metres", "micrometres and seconds"):
        geometry = read_volume(write(tmp_path / "a.nii", **PLACEMENTS[name])).geometry
        assert np.allclose(geometry.spacing_mm, (3.0, 1.5, 1.0), rtol=1e-6)
        assert np.allclose(geometry.grid.origin, (-10, -20, 30), rtol=1e-6)


def test_a_little_shear_is_turned_about_the_centre(tmp_path):
    """The repaired grid is off by half of what turning about the first voxel would leave."""
    path = write(tmp_path / "a.nii", qform_code=0, srow=rows(sheared((0, 1), 0.002)))
    grid = read_volume(path).geometry.grid
    matrix = np.reshape(grid.direction, (3, 3)) * grid.spacing_mm
    assert np.allclose(matrix.T @ matrix, np.diag(np.square(grid.spacing_mm)), atol=1e-6)
    middle = (np.array(SHAPE) - 1) / 2
    stated = np.diag([-1.0, -1, 1]) @ (sheared((0, 1), 0.002)[:3] @ [*middle, 1])
    assert np.allclose(matrix @ middle + grid.origin, stated, atol=1e-5)


REFUSED = {
    "shear": ({"qform_code": 0, "srow": rows(sheared((1, 2), 0.9))}, "degrees off right angles"),
    "one axis twice": ({"qform_code": 0, "srow": rows(sheared((0, 0), 0.0) + np.eye(4)[[1, 0, 2, 3]]
                        * [[0], [-1], [0], [0]])}, "right angles|expected a size"),
    "shear just beyond": ({"qform_code": 0, "srow": rows(sheared((0, 1), 0.1))}, "3.81 degrees"),
    "a step of 0": ({"qform_code": 0, "srow": rows(sheared((0, 0), 0.0))}, "expected a size"),
    "NaN in the sform": ({"srow": rows(sheared((0, 0), math.nan))}, "NaN or infinity in its sform"),
    "NaN in the qform": ({"quatern": (math.nan, 0, 0)}, "its qform is no rotation"),
    "a long quaternion": ({"quatern": (1, 1, 0)}, "its qform is no rotation"),
    "infinite offset": ({"qoffset": (math.inf, 0, 0)}, "its qform is no rotation"),
    "qfac": ({"pixdim": (-0.5, *STEPS, 0, 0, 0, 0)}, r"pixdim\[0\] is -0.5; expected 1 or -1"),
    "negative, no form": ({"pixdim": (1, -1, 1.5, 3, 0, 0, 0, 0), "qform_code": 0,
                           "sform_code": 0}, "left and right are not known"),
    "negative code": ({"sform_code": -1}, "sform_code is -1; expected 0 to 5"),
    "unit": ({"xyzt_units": 5}, "lengths in unit 5"),
    "RGB": ({"datatype": 128, "bitpix": 24}, r"pixels of RGB \(3 values per pixel\)"),
    "complex": ({"datatype": 32, "bitpix": 64}, "pixels of complex64"),
    "float128": ({"datatype": 1536, "bitpix": 128}, "pixels of float128"),
    "bits": ({"datatype": 1, "bitpix": 1}, "pixels of single bits"),
    "unknown type": ({"datatype": 3, "bitpix": 16}, "unknown type 3"),
    "bitpix and length": ({"bitpix": 8, "dim": (3, 5, 6, 6, 1, 1, 1, 1)}, "holds more than|bitpix"),
    "infinite slope": ({"scl_slope": math.inf}, "a slope of inf"),
    "NaN intercept": ({"scl_slope": 2.0, "scl_inter": math.nan}, "an intercept of nan"),
    "volumes": ({"dim": (4, 5, 6, 1, 7, 1, 1, 1)}, r"4 dimensions \(5 x 6 x 1 x 7\); expected 3"),
    "a line": ({"dim": (1, 210, 1, 1, 1, 1, 1, 1)}, "1 dimensions"),
    "no axes": ({"dim": (0, *SHAPE, 1, 1, 1, 1)}, r"dim\[0\] is 0"),
    "too many axes": ({"dim": (9, *SHAPE, 1, 1, 1, 1)}, r"dim\[0\] is 9"),
    "a size of 0": ({"dim": (3, 5, 0, 7, 1, 1, 1, 1)}, "a size of 5 x 0 x 7"),
    "a negative size": ({"dim": (3, 5, -6, 7, 1, 1, 1, 1)}, "a size of 5 x -6 x 7"),
    "one column less": ({"dim": (3, 4, 6, 7, 1, 1, 1, 1)}, "holds more than its header says"),
    "one column more": ({"dim": (3, 6, 6, 7, 1, 1, 1, 1)}, "is cut short: 772 bytes, expected 856"),
    "huge": ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "cut short|asks for"),
    "offset": ({"vox_offset": 100}, r"begin at byte 100 \(vox_offset\); expected 352 or more"),
    "late offset": ({"vox_offset": 368}, "is cut short"),
    "broken offset": ({"vox_offset": 352.5}, "begin at byte 352.5"),
    "NaN offset": ({"vox_offset": math.nan}, "begin at byte nan"),
    "vectors": ({"intent_code": 1007, "dim": (5, 5, 6, 1, 1, 7, 1, 1)}, "dimensions|a vector"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("fields", "text"), REFUSED.values(), ids=REFUSED)
def test_a_header_that_cannot_be_right_is_refused(tmp_path, fields, text, suffix):
    path = write(tmp_path / f"a{suffix}", **fields)
    with pytest.raises(UserError, match=text) as raised:
        read_volume(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("slope", "inter", "want"),
    [
        (0.0, 0.0, lambda a: a),
        (0.0, 5.0, lambda a: a),  # the standard: a slope of 0 means that there is no scaling
        (math.nan, 5.0, lambda a: a),
        (math.nan, math.nan, lambda a: a),
        (1.0, 0.0, lambda a: a),
        (2.0, -1024.0, lambda a: 2.0 * a - 1024),
        (-1.0, 3.0, lambda a: 3.0 - a),
        (1e-3, 0.0, lambda a: (a * np.float64(np.float32(1e-3))).astype(np.float32)),
    ],
)
def test_values_are_scaled_as_nibabel_scales_them(tmp_path, slope, inter, want):
    path = write(tmp_path / "a.nii", scl_slope=slope, scl_inter=inter)
    array = read_pixels(path).array
    assert array.dtype == np.float32 and np.array_equal(array, want(voxels()))
    by_nibabel = nibabel.load(path).get_fdata().T
    assert np.allclose(array, by_nibabel, rtol=1e-6)
    mask = nibabel.load(write_labels(tmp_path / "s.nii", np.ones_like(array), geometry_of(path)))
    assert (mask.get_fdata() == 1).all()


def geometry_of(path):
    return read_volume(path).geometry


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_every_type_in_both_byte_orders(tmp_path, kind, order):
    dtype = np.dtype(kind)
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768,
             "i8": 1024, "u8": 1280}  # fmt: skip
    array = (np.arange(210).reshape(SHAPE[::-1]) % 100).astype(dtype)
    path = write(
        tmp_path / "a.nii", array, order=order, datatype=codes[kind], bitpix=8 * dtype.itemsize
    )
    stored = read_volume(path).array
    assert stored.dtype == dtype and np.array_equal(stored, array)


def test_nan_under_any_name_is_refused(tmp_path):
    array = voxels().astype(np.float32)
    array[0, 0, 0] = np.nan
    made = content(array, datatype=16, bitpix=32)
    for name in ("a.nii", "a.nii.gz", "a.dat"):
        (tmp_path / name).write_bytes(made)
        with pytest.raises(UserError, match="1 of 210 pixels are NaN"):
            read_pixels(tmp_path / name)


def test_nifti_2_is_read_and_its_mask_is_nifti_2(tmp_path):
    array = voxels().T
    image = nibabel.Nifti2Image(array, MOVED)
    image.set_qform(AFFINE, 1)
    image.set_sform(MOVED, 2)
    nibabel.save(image, tmp_path / "a.nii.gz")
    stated, mask = mask_of(tmp_path / "a.nii.gz", tmp_path / "s.nii.gz")
    assert isinstance(mask, nibabel.Nifti2Image) and np.array_equal(mask.affine, stated.affine)
    assert np.array_equal(mask.get_qform(), stated.get_qform())
    assert np.array_equal(mask.get_fdata(), array + 100.0)


def test_a_pair_is_read_as_a_pair(tmp_path):
    image = nibabel.Nifti1Pair(voxels().T, MOVED)
    nibabel.save(image, tmp_path / "a.hdr")
    _, mask = mask_of(tmp_path / "a.hdr", tmp_path / "s.nii")
    assert np.allclose(mask.affine, MOVED, atol=1e-5)
    assert np.array_equal(mask.get_fdata(), voxels().T + 100.0)
    with pytest.raises(UserError, match=r"the data of a pair of files; give the \.hdr"):
        read_volume(tmp_path / "a.img")
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-10])
    with pytest.raises(UserError, match=r"a\.img is cut short"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(UserError, match=r"a\.img is not beside it; give both"):
        read_volume(tmp_path / "a.hdr")


def test_a_slice_is_flat_where_two_dimensions_can_say_where_it_lies():
    grid = FileGrid((5, 6, 1), (2.0, 3.0, 4.0), (10.0, 20.0, 0.0), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    assert flat(grid) == FileGrid((5, 6), (2.0, 3.0), (10.0, 20.0), (0, -1, 1, 0))
    for place in (2, 5, 6, 7, 8):
        turned = list(grid.direction)
        turned[place] += 1e-5
        leaning = dataclasses.replace(grid, direction=tuple(turned))
        assert flat(leaning) is leaning
    raised = dataclasses.replace(grid, origin=(10.0, 20.0, 1e-5))
    assert flat(raised) is raised


def test_a_flat_image_gives_a_flat_mask(tmp_path):
    array = voxels()[0]
    path = write(tmp_path / "a.nii", array, srow=rows(MOVED), qform_code=0)
    image, mask = mask_of(path, tmp_path / "s.nii")
    assert mask.shape == image.shape == SHAPE[:2] and np.array_equal(mask.affine, image.affine)
    assert np.array_equal(mask.get_fdata(), array.T + 100.0)
    # what 2 dimensions cannot say of its place, 3 do
    geometry = read_volume(path).geometry
    assert geometry.grid.size == (*SHAPE[:2], 1)
    path = write(tmp_path / "b.nii", array, sform_code=0, qoffset=(10, 20, 0))
    assert read_volume(path).geometry.grid.size == SHAPE[:2]
