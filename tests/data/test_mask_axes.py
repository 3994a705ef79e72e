"""Masks of images whose axes are a little off right angles, or off the patient's."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK

from lmaunet.data.images.masks import check_format, write_labels
from lmaunet.data.images.volumes import read_volume
from lmaunet.errors import UserError


def labels_of(image):
    return (np.arange(image.array.size) % 256).reshape(image.array.shape)


def leaning(path, degrees, size=100):
    """An image whose second axis leans: a NRRD holds that, as a NIfTI's sform does."""
    lean = np.tan(np.radians(degrees))
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {size} {size} 2\nspace directions: (3,0,0) ({2 * lean},2,0) (0,0,4)\n"
        "endian: little\nencoding: raw\nspace origin: (10,20,30)\n\n"
    )
    path.write_bytes(header.encode() + bytes(2 * size * size * 2))
    return path


@pytest.mark.parametrize("kind", ["NRRD", "NIfTI"])
def test_a_mask_of_axes_off_right_angles_leans_as_its_image_or_is_refused(tmp_path, kind):
    """Right angles would lie 0.12 mm beside the image, which readers lay as the file says."""
    path = leaning(tmp_path / "a.nrrd", 0.08)
    affine = np.diag([-1.0, -1, 1, 1]) @ [
        [3, 2 * np.tan(np.radians(0.08)), 0, 10], [0, 2, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]
    ]  # fmt: skip
    if kind == "NIfTI":
        scan = nibabel.Nifti1Image(np.zeros((100, 100, 2), np.int16), None)
        scan.header.set_sform(affine, 1)
        scan.header.set_zooms(nibabel.affines.voxel_sizes(affine))
        path = tmp_path / "a.nii"
        nibabel.save(scan, path)
    image = read_volume(path)
    assert any("0.08 degrees off right angles" in note for note in image.notes)
    for suffix in (".nii", ".nii.gz"):
        output = tmp_path / f"s{suffix}"
        assert check_format(output, image.geometry, None) == ()
        written = nibabel.load(write_labels(output, labels_of(image), image.geometry))
        assert np.allclose(written.get_sform(), affine, atol=1e-5)
        assert np.allclose(written.affine, affine, atol=1e-5)
    for suffix in (".nrrd", ".mha"):
        with pytest.raises(UserError, match=r"lie up to 0\.12 mm beside the image; use \.nii\.gz"):
            check_format(tmp_path / f"s{suffix}", image.geometry, None)


@pytest.mark.parametrize(("degrees", "qform"), [(0.04, 0), (20.0, 1)])
def test_a_turn_that_a_quaternion_loses_is_carried_by_the_sform_alone(tmp_path, degrees, qform):
    """From LPS to RAS is half a turn, beside which float32 moves these voxels by 0.2 mm."""
    turn = np.radians(degrees)
    x, y = (np.cos(turn), np.sin(turn), 0.0), (-np.sin(turn), np.cos(turn), 0.0)
    scan = SimpleITK.Image([200, 150, 3], SimpleITK.sitkInt16)
    scan.SetSpacing((3, 2, 4))
    scan.SetOrigin((10, 20, 30))
    scan.SetDirection(np.stack([x, y, (0, 0, 1)], 1).ravel().tolist())
    SimpleITK.WriteImage(scan, tmp_path / "a.nrrd")
    image = read_volume(tmp_path / "a.nrrd")
    assert check_format(tmp_path / "s.nii", image.geometry, None) == ()
    path = write_labels(tmp_path / "s.nii", labels_of(image), image.geometry)
    header = nibabel.load(path).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (qform, 1)
    far = (199, 149, 2)
    lies = np.array(scan.TransformIndexToPhysicalPoint(far))
    assert np.allclose((nibabel.load(path).affine @ [*far, 1])[:3] * [-1, -1, 1], lies, atol=1e-3)
    by_itk = SimpleITK.ReadImage(path).TransformIndexToPhysicalPoint(far)
    assert np.allclose(by_itk, lies, atol=1e-3)


@pytest.mark.parametrize(("degrees", "refused"), [(0.0315, False), (0.0327, True)])
def test_a_mask_at_right_angles_may_lie_a_twentieth_of_a_mm_beside_leaning_axes(
    tmp_path, degrees, refused
):
    """100 voxels whose axes each turn by half the lean: 0.05 mm at 0.0321 degrees."""
    image = read_volume(leaning(tmp_path / "a.nrrd", degrees))
    if refused:
        with pytest.raises(UserError, match="a little off right angles"):
            check_format(tmp_path / "s.mha", image.geometry, None)
    else:
        assert image.notes and check_format(tmp_path / "s.mha", image.geometry, None) == ()
