"""The command infer on DICOM: a series in, a mask or a DICOM SEG out, each where the organ is."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import lone_build
import numpy as np
import pydicom
import pytest
import recipe_build
import SimpleITK
from command_line import runner

import lmaunet
from lmaunet.data.images.volumes import read_pixels
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe
from lmaunet.deploy import segmenter

sys.path.append(str(Path(__file__).parents[1] / "data"))
import dicom_maker as maker

SHAPE = (5, 24, 40)
V = np.where(np.indices(SHAPE).sum(0) // 8 % 2, 250, -100)
TAGS = {"PixelSpacing": ["3", "3"], "SliceThickness": "2.5"}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target())
    return runner(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path):
    return lone_build.make(tmp_path / "run")


def test_a_segmentation_lies_on_the_slices_of_its_series(run, folder, tmp_path):
    maker.series(tmp_path / "ct", lambda z: TAGS, V)
    status, out, err = run("infer", "--build", folder, "ct", "-o", "out/seg.dcm", "--json")
    assert status == 0, err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["seg.dcm"]
    dataset = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    assert [s.SegmentLabel for s in dataset.SegmentSequence] == ["organ"]
    slices = {p.SOPInstanceUID: p for p in map(pydicom.dcmread, (tmp_path / "ct").iterdir())}
    groups = dataset.PerFrameFunctionalGroupsSequence
    assert len(groups) == SHAPE[0]
    for plane, group in zip(dataset.pixel_array, groups, strict=True):
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert position == slices[uid].ImagePositionPatient
        assert np.array_equal(plane, slices[uid].pixel_array - 1024.0 > 75)
    assert json.loads(out)["notes"] is not None


def test_a_mask_of_a_multi_frame_image_lies_on_its_frames(run, folder, tmp_path):
    dataset = maker.enhanced((3, 0, 4, 1, 2), values=V)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].PixelSpacing = ["3", "3"]
    maker.save(dataset, tmp_path / "all.dcm")
    status, _, err = run("infer", "--build", folder, "all.dcm", "-o", "out/seg.nii.gz")
    assert status == 0, err
    mask = SimpleITK.ReadImage(str(tmp_path / "out" / "seg.nii.gz"))
    for z in range(SHAPE[0]):
        corner = mask.TransformPhysicalPointToIndex([float(v) for v in maker.place(z)])
        along = mask.TransformPhysicalPointToIndex(
            [float(v) for v in maker.place(z) + 3 * 39 * maker.ROW + 3 * 23 * maker.COLUMN]
        )
        steps = [
            mask.TransformPhysicalPointToIndex(
                [float(v) for v in maker.place(z) + 3 * x * maker.ROW + 3 * y * maker.COLUMN]
            )
            for y in range(24)
            for x in range(40)
        ]
        assert len({*steps}) == 960 and corner in steps and along in steps
        read = np.reshape([mask[step] for step in steps], (24, 40))
        assert np.array_equal(read, V[z] > 75)
    got = segmenter.load(folder)(tmp_path / "all.dcm")
    assert np.array_equal(*map(SimpleITK.GetArrayFromImage, (got, mask)))
    for read in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(got, read)(), getattr(mask, read)(), atol=1e-5)


def test_a_segmentation_of_what_is_no_dicom_is_refused_before_the_work(run, folder, tmp_path):
    image = SimpleITK.GetImageFromArray(V.astype(np.float32))
    image.SetSpacing((3.0, 3.0, 2.5))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii.gz"))
    status, _, err = run("infer", "--build", folder, "a.nii.gz", "-o", "seg.dcm")
    assert status == 2 and "a.nii.gz is NIfTI; use .nii.gz, .nii, .nrrd, .mha" in err
    assert not (tmp_path / "seg.dcm").exists()


def test_what_is_wrong_with_a_series_is_one_line_and_no_file(run, folder, tmp_path):
    maker.series(tmp_path / "ct", lambda z: TAGS, V, skip=(2,))
    status, _, err = run("infer", "--build", folder, "ct", "-o", "seg.dcm")
    said = [line for line in err.splitlines() if line.startswith("lmaunet-deploy: ")]
    assert status == 2 and err.splitlines()[-1:] == said and len(said) == 1
    assert "1 slice(s) are missing: 1 between" in said[0]
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("axes", [(), ("LAS",), ("SRP",)])
def test_a_series_goes_to_nnunets_network_as_files_of_training_lie(monkeypatch, tmp_path, axes):
    """The mask is that of the series as such a file; of no known axes, as SimpleITK reads it."""
    arrays = recipe_build.stored()
    network = recipe_build.network(arrays)
    monkeypatch.setattr(segmenter, "get_target", lambda name: recipe_build.target(network))
    # the stored fingerprint, and sides of this series: in LAS, whatever is turned is seen
    channel = ChannelRecipe(
        "CTNormalization", False, json.loads(str(arrays["said"]))["fingerprint"]
    )
    recipe = NnunetRecipe((16, 20), (2.0, 2.5), (0, 1, 2), (channel,), (0,))
    seg = lmaunet.load(recipe_build.make(tmp_path / "run", recipe, axes=axes))
    random = np.random.default_rng(0)
    maker.series(tmp_path / "ct", lambda z: TAGS, random.integers(-50, 180, SHAPE))
    mask = seg(tmp_path / "ct")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    image = reader.Execute()
    files = SimpleITK.DICOMOrient(image, axes[0]) if axes else image
    SimpleITK.WriteImage(files, str(tmp_path / "ct.nrrd"))
    converted = seg(tmp_path / "ct.nrrd")
    same = [
        SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(one, "LPS")) for one in (mask, converted)
    ]
    assert len(np.unique(same[0])) == 3 and (same[0] != same[1]).sum() <= 1
    if axes:
        other = seg.deployment.interface.preparation
        ready = dataclasses.replace(other, axes=()).ready([read_pixels(tmp_path / "ct")], ["x"])
        assert ready.turn != other.ready([read_pixels(tmp_path / "ct")], ["x"]).turn
