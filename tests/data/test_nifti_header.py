"""Numbers of a NIfTI header at their bounds, and what its mask has that nobody stated."""

from __future__ import annotations

import gzip
import math
import struct

import nibabel
import numpy as np
import pytest
from nifti_files import AFFINE, SHAPE, STEPS, content, voxels, write

from lmaunet.data.images import nifti, nifti_mask
from lmaunet.data.images.geometry import FileGrid
from lmaunet.data.images.nifti import read_nifti, require_nibabel
from lmaunet.data.images.volumes import identify, read_volume
from lmaunet.errors import ToolNotFound, UserError


def read(tmp_path, **fields):
    path = write(tmp_path / "a.nii", **fields)
    return read_nifti(path, identify(path))


def refused(tmp_path, text, **fields):
    with pytest.raises(UserError, match=text):
        read(tmp_path, **fields)


OTHER_TYPES = {1: "single bits", 32: "complex64", 128: r"RGB \(3 values per pixel\)",
               1536: "float128", 1792: "complex128", 2048: "complex256",
               2304: r"RGBA \(4 values per pixel\)", 0: "unknown type 0",
               2305: "unknown type 2305"}  # fmt: skip


@pytest.mark.parametrize(("code", "name"), OTHER_TYPES.items())
def test_pixels_that_are_no_real_numbers_are_named(tmp_path, code, name):
    refused(tmp_path, f"pixels of {name}; expected one real number", datatype=code)


@pytest.mark.parametrize("axes", range(3, 8))
def test_axes_of_one_beyond_the_third_are_left_out(tmp_path, axes):
    array, grid, placement, _ = read(tmp_path, dim=(axes, *SHAPE, 1, 1, 1, 1))
    assert np.array_equal(array, voxels()) and grid.size == SHAPE and placement.axes == 3


def test_an_image_of_more_axes_is_refused(tmp_path):
    refused(tmp_path, r"dim\[0\] is 8; expected 2 or 3", dim=(8, *SHAPE, 1, 1, 1, 1))
    refused(tmp_path, r"dim\[0\] is -1; expected 2 or 3", dim=(-1, *SHAPE, 1, 1, 1, 1))
    refused(tmp_path, r"5 dimensions \(5 x 6 x 1 x 1 x 7\)", dim=(7, 5, 6, 1, 1, 7, 1, 1))
    refused(tmp_path, r"1 dimensions \(210\); expected 3", dim=(1, 210, 1, 1, 1, 1, 1, 1))


def test_a_last_axis_of_one_is_an_axis(tmp_path):
    array, grid, placement, _ = read(tmp_path, array=voxels((5, 6, 1)))
    assert array.shape == (1, 6, 5) and grid.size == (5, 6, 1) and placement.axes == 3
    array, grid, placement, _ = read(
        tmp_path, array=voxels((5, 6)), sform_code=0, qoffset=(1, 2, 0)
    )
    assert array.shape == (6, 5) and grid.size == (5, 6) and placement.axes == 2
    array, grid, placement, _ = read(tmp_path, array=voxels((5, 6)))
    assert array.shape == (1, 6, 5) and grid.size == (5, 6, 1) and placement.axes == 2


@pytest.mark.parametrize(("intent", "values", "good"), [(1004, 2, False), (1005, 2, False),
    (1007, 2, False), (1003, 2, True), (1006, 2, True), (1008, 2, True), (1007, 1, True),
    (1007, 0, True)])  # fmt: skip
def test_vectors_and_matrices_are_no_pixels(tmp_path, intent, values, good):
    fields = {"intent_code": intent, "dim": (3, *SHAPE, 1, values, 3, 1)}
    if good:
        assert np.array_equal(read(tmp_path, **fields)[0], voxels())
    else:
        refused(tmp_path, "a vector or matrix in each pixel; expected one number", **fields)


@pytest.mark.parametrize(("kind", "code", "scaled"), [("u1", 2, "f4"), ("i4", 8, "f4"),
    ("f4", 16, "f4"), ("f8", 64, "f8"), ("i8", 1024, "f8"), ("u8", 1280, "f8")])  # fmt: skip
def test_scaled_values_have_as_many_digits_as_the_stored_ones(tmp_path, kind, code, scaled):
    array = (voxels() % 100).astype(kind)
    found = read(tmp_path, array=array, datatype=code, bitpix=8 * array.itemsize, scl_slope=0.3,
                 scl_inter=0.7)[0]  # fmt: skip
    wanted = array.astype("f8") * float(np.float32(0.3)) + float(np.float32(0.7))
    assert found.dtype == scaled and np.array_equal(found, wanted.astype(scaled))


@pytest.mark.parametrize(("slope", "inter"), [(1.0, 5.0), (2.0, 0.0), (1.0, -1.0)])
def test_a_slope_of_one_and_an_intercept_of_none_are_two_things(tmp_path, slope, inter):
    found = read(tmp_path, scl_slope=slope, scl_inter=inter)[0]
    assert found.dtype == np.float32 and np.array_equal(found, voxels() * slope + inter)
    refused(tmp_path, "a slope of 1 and an intercept of inf ", scl_slope=1.0, scl_inter=math.inf)


@pytest.mark.parametrize(("bitpix", "longer"), [(8, 0), (24, 0), (8, 1)])
def test_a_bitpix_that_is_wrong_is_told_with_both_numbers(tmp_path, bitpix, longer):
    (tmp_path / "a.nii").write_bytes(content(bitpix=bitpix) + bytes(longer))
    if longer:
        with pytest.raises(UserError, match="bitpix 8, but its datatype has 16 bits; expected equ"):
            read_volume(tmp_path / "a.nii")
    else:
        notes = read_volume(tmp_path / "a.nii").notes
        assert notes == (f"bitpix in the header is {bitpix}: the datatype's 16 are used, which fit "
                         "the file's length",)  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_pixels_begin_where_the_header_says(tmp_path, version):
    """Not before the header of 348 or 540 bytes and its 4 of extensions have ended."""
    least = {1: 352, 2: 544}[version]
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    image = kind(voxels().T, AFFINE)
    whole = image.to_bytes()
    assert len(whole) == least + 420
    path = tmp_path / "a.nii"
    form, place = {1: ("<f", 108), 2: ("<q", 168)}[version]
    for offset in (least - 1, least, least + 1, least + 64):
        made = bytearray(whole[:least] + bytes(max(0, offset - least)) + whole[least:])
        struct.pack_into(form, made, place, offset)
        path.write_bytes(made)
        if offset < least:
            with pytest.raises(
                UserError, match=rf"begin at byte {offset} .*expected {least} or mo"
            ):
                read_volume(path)
        else:
            assert np.array_equal(read_volume(path).array, voxels())
    path.write_bytes(whole[: least - 5])
    with pytest.raises(
        UserError,
        match="a NIfTI or Analyze header, cut short"
        if version == 1
        else "cut short: 539 bytes, expected a header of 540",
    ):
        read_volume(path)


def test_the_pixels_of_a_pair_may_begin_anywhere_and_be_compressed(tmp_path):
    header = content(magic=b"ni1\0", vox_offset=0)[:348]
    path = tmp_path / "a.hdr"
    for offset, pack in ((0, bytes), (3, bytes), (0, gzip.compress), (5, gzip.compress)):
        made = bytearray(header)
        struct.pack_into("<f", made, 108, offset)
        path.write_bytes(made)
        (tmp_path / "a.img").write_bytes(pack(bytes(offset) + voxels().tobytes()))
        assert np.array_equal(read_volume(path).array, voxels())
    made = bytearray(header)
    struct.pack_into("<f", made, 108, -1)
    path.write_bytes(made)
    with pytest.raises(UserError, match=r"begin at byte -1 \(vox_offset\); expected 0 or more"):
        read_volume(path)


def moved(**entries):
    """AFFINE in rows, with entries like ``m03`` changed by as much."""
    affine = AFFINE.copy()
    for key, by in entries.items():
        affine[int(key[1]), int(key[2])] += by
    return affine[:3].ravel()


@pytest.mark.parametrize(("by", "said"), [(0.0999, False), (0.1001, True)])
def test_forms_that_are_a_tenth_of_a_mm_apart_are_told(tmp_path, by, said):
    _, _, placement, notes = read(tmp_path, srow=moved(m03=by))
    assert placement.forms_apart_mm == pytest.approx(by, abs=1e-5) and len(notes) == said
    for field in ({"qform_code": 0}, {"sform_code": 0}):
        assert read(tmp_path, srow=moved(m03=by), **field)[2].forms_apart_mm == 0


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("by", "said"), [(0.099, False), (0.101, True)])
def test_voxel_sizes_that_add_up_to_a_tenth_of_a_mm_are_told(tmp_path, axis, by, said):
    """Below that pixdim counts, which has more digits; above that the sform does."""
    step = STEPS[axis] + by / (SHAPE[axis] - 1)
    sign = -1 if axis < 2 else 1
    srow = moved(**{f"m{axis}{axis}": sign * (step - STEPS[axis])})
    _, grid, _, notes = read(tmp_path, qform_code=0, srow=srow)
    assert grid.spacing_mm[axis] == pytest.approx(step if said else STEPS[axis], abs=1e-6)
    sizes = " x ".join(f"{v:.4g}" for v in grid.spacing_mm)
    wanted = (f"voxels are {sizes} mm by the sform, which is used, and 1 x 1.5 x 3 mm by pixdim",)
    assert notes == (wanted if said else ())
    # pixdim says nothing of the qform's own sizes
    assert read(tmp_path, sform_code=0)[3] == ()


def test_the_sform_is_the_choice_where_it_is_the_scanners_and_straight(tmp_path):
    turned = moved(m03=5)
    for code, chosen in ((1, "sform"), (2, "qform"), (3, "qform")):
        _, grid, _, notes = read(tmp_path, srow=turned, sform_code=code)
        assert f"comes from the {chosen}; the mask carries both" in notes[0]
        assert grid.origin[0] == pytest.approx(-15 if chosen == "sform" else -10)
    _, grid, _, notes = read(tmp_path, srow=moved(m01=0.002), sform_code=1)
    assert grid.direction[1] == 0 and notes == ()


@pytest.mark.parametrize(("length", "good"), [(1.00004, True), (1.00006, False)])
def test_a_quaternion_is_as_long_as_one_to_rounding(tmp_path, length, good):
    if good:
        _, grid, _, _ = read(tmp_path, quatern=(0, 0, length), sform_code=0)
        assert np.allclose(grid.direction, np.eye(3).ravel())
    else:
        refused(tmp_path, rf"its qform is no rotation \(a quaternion of length {length:g} beside",
                quatern=(0, 0, length))  # fmt: skip


@pytest.mark.parametrize(("side", "flip", "noted"), [(1.0, 1, False), (-1.0, -1, False),
    (0.0, 1, False), (2.0, 1, True), (0.5, 1, True), (-2.0, None, None)])  # fmt: skip
@pytest.mark.parametrize("place", range(3))
def test_on_which_side_the_third_axis_of_a_qform_runs(tmp_path, side, flip, noted, place):
    fields = {"pixdim": (side, *STEPS, 0, 0, 0, 0), "sform_code": 0}
    if flip is None:
        refused(tmp_path, r"pixdim\[0\] is -2; expected 1 or -1", **fields)
        return
    _, grid, _, notes = read(tmp_path, **fields)
    assert np.allclose(grid.direction, np.diag([1, 1, flip]).ravel()) and len(notes) == noted
    # a turn by a half about each axis
    quatern = tuple(float(i == place) for i in range(3))
    _, grid, _, _ = read(tmp_path, quatern=quatern, **fields)
    half = np.diag([1.0 if i == place else -1.0 for i in range(3)])
    assert np.allclose(
        grid.direction, (np.diag([-1, -1, 1]) @ half @ np.diag([1, 1, flip])).ravel()
    )


@pytest.mark.parametrize(
    ("unit", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 1e-3), (8 + 2, 1), (16 + 3, 1e-3)]
)
def test_lengths_are_in_the_unit_of_the_header(tmp_path, unit, mm):
    _, grid, _, notes = read(tmp_path, xyzt_units=unit)
    assert np.allclose(grid.spacing_mm, np.multiply(STEPS, mm), rtol=1e-6)
    assert np.allclose(grid.origin, np.multiply((-10, -20, 30), mm), rtol=1e-6)
    name = {1000: "metres", 1e-3: "micrometres"}.get(mm)
    assert notes == ((f"the file's lengths are in {name}: converted to mm",) if name else ())
    for other in (4, 5, 6, 7):
        refused(tmp_path, f"lengths in unit {other} ", xyzt_units=other)


@pytest.mark.parametrize(("sizes", "text"), [((0, 1.5, 3), "voxels of 0 x 1.5 x 3 mm"),
    ((1, 1.5, 0), "voxels of 1 x 1.5 x 0 mm"), ((1, math.inf, 3), "voxels of 1 x inf x 3 mm"),
])  # fmt: skip
def test_voxels_have_a_size(tmp_path, sizes, text):
    refused(tmp_path, f"{text}; expected a size", pixdim=(1, *sizes, 0, 0, 0, 0))


def test_negative_codes_and_sizes(tmp_path):
    for form in ("qform_code", "sform_code"):
        refused(tmp_path, f"{form} is -1; expected 0 to 5", **{form: -1})
    negative = {"pixdim": (1, 1, -1.5, 3, 0, 0, 0, 0)}
    for none in ("qform_code", "sform_code"):
        assert "voxel sizes in pixdim are negative" in read(tmp_path, **negative, **{none: 0})[3][0]
    refused(tmp_path, r"a negative voxel size \(1 x -1.5 x 3 mm\)", **negative, qform_code=0,
            sform_code=0)  # fmt: skip


def test_nibabel_that_is_missing_is_asked_for(monkeypatch):
    require_nibabel()
    monkeypatch.setattr(nifti.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolNotFound, match=r"nibabel is missing.*python -m pip install nibabel"):
        require_nibabel()


GRID = FileGrid((5, 6, 7), (2.0, 3.0, 4.0), (10.0, 20.0, 30.0), (0, -1, 0, 1, 0, 0, 0, 0, 1))


@pytest.mark.parametrize(("kind", "datatype"), [("u1", 2), ("u2", 512)])
@pytest.mark.parametrize("size", [(5, 6, 7), (5, 6)])
def test_a_new_mask_says_only_what_it_is(tmp_path, kind, datatype, size):
    grid = GRID if len(size) == 3 else FileGrid(size, (2.0, 3.0), (10.0, 20.0), (0, -1, 1, 0))
    labels = np.arange(np.prod(size), dtype=kind).reshape(size[::-1])
    made = nifti_mask.encode_mask(labels, grid, None, gzipped=False)
    header = nibabel.Nifti1Header(made[:348], "<")
    assert len(made) == 352 + labels.nbytes and made[348:352] == bytes(4)
    assert header["dim"].tolist() == [len(size), *size, *[1] * (7 - len(size))]
    assert (header["datatype"], header["bitpix"]) == (datatype, 8 * labels.itemsize)
    assert header["vox_offset"] == 352 and header["magic"].item() == b"n+1"
    for key in ("cal_min", "cal_max", "intent_code", "scl_inter"):
        assert header[key] == 0, key
    assert (header["qform_code"], header["sform_code"], header["xyzt_units"]) == (1, 1, 2)
    wanted = np.eye(4)
    wanted[:2, :2], wanted[:2, 3] = [[0, 3], [-2, 0]], [-10, -20]
    if len(size) == 3:
        wanted[2, 2:] = 4, 30
    assert np.allclose(nifti_mask.ras_affine(grid), wanted)
    assert np.allclose(header.get_sform(), wanted) and np.allclose(
        header.get_qform(), wanted, atol=1e-5
    )
    packed = nifti_mask.encode_mask(labels, grid, None, gzipped=True)
    assert gzip.decompress(packed) == made and packed[4:8] == bytes(4)  # no time of day


def test_a_mask_keeps_nothing_of_its_image_but_its_place(tmp_path):
    path = write(tmp_path / "a.nii", scl_slope=2.0, scl_inter=3.0, intent_code=5)
    made = bytearray(path.read_bytes())
    struct.pack_into("<2f", made, 124, 7.0, 8.0)  # cal_max, cal_min
    path.write_bytes(made)
    placement = read_volume(path).geometry.placement
    header = nifti_mask.mask_header(SHAPE, np.dtype("u2"), GRID, placement)
    assert [float(header[k]) for k in ("cal_max", "cal_min", "scl_slope", "scl_inter")] == [
        0,
        0,
        1,
        0,
    ]


@pytest.mark.parametrize(("side", "kind"), [(32767, 348), (32768, 540)])
@pytest.mark.parametrize("axis", range(3))
def test_a_long_side_makes_a_mask_nifti_2(side, kind, axis):
    shape = tuple(side if i == axis else 2 for i in range(3))
    header = nifti_mask.mask_header(shape, np.dtype("u1"), GRID, None)
    assert header["sizeof_hdr"] == kind and header["vox_offset"] == kind + 4
    assert header["magic"].item()[:3] == (b"n+1" if kind == 348 else b"n+2")


def mask(tmp_path, change=lambda made: made, labels=None):
    labels = voxels().astype("u2") if labels is None else labels
    made = bytearray(nifti_mask.encode_mask(labels, GRID, None, gzipped=False))
    (tmp_path / "m.nii").write_bytes(change(made))
    nifti_mask.check_mask(tmp_path / "m.nii", voxels().astype("u2"), GRID, None)


@pytest.mark.parametrize(
    ("place", "form", "value", "text"),
    [(112, "f", 2.0, "its labels differ"), (116, "f", 1.0, "its labels differ"),
     (344, "4s", b"ni1\0", "differ|cannot be read back"), (40, "2h", (3, 6), "cannot be read back"),
     (40, "3h", (3, 6, 5), "its labels differ"), (354, "B", 99, "its labels differ"),
     (268, "f", -10.051, "lies elsewhere"), (268, "f", -10.049, None),
     (292, "f", -10.051, "lies elsewhere"), (292, "f", -10.049, None)],
)  # fmt: skip
def test_a_mask_that_is_another_is_found_out(tmp_path, place, form, value, text):
    def change(made):
        struct.pack_into(
            "<" + form, made, place, *(value if isinstance(value, tuple) else (value,))
        )
        return made

    mask(tmp_path)
    if text is None:
        mask(tmp_path, change)
    else:
        with pytest.raises(UserError, match=text):
            mask(tmp_path, change)
