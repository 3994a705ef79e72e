"""The command infer on images as they come: what it writes, says and refuses."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lone_build
import nibabel
import numpy as np
import pytest
import SimpleITK
from command_line import runner

from lmaunet.deploy import segmenter

AFFINE = np.array([[-3.0, 0, 0, 30], [0, -2.5, 0, 20], [0, 0, 4.0, -20], [0, 0, 0, 1]])
TURN = np.array([[0.8, -0.6, 0, 40], [0.6, 0.8, 0, -30], [0, 0, 1, 25], [0, 0, 0, 1]])


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target())
    return runner(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path):
    return lone_build.make(tmp_path / "run", mm=(2.5, 3.0))


def body(shape=(20, 24, 3)):
    """HU (x, y, z): air, and organs in blocks no two of which are alike."""
    array = np.full(shape, -1000, np.int16)
    array[3:9, 5:20] = 200
    array[11:17, 2:8, 1:] = 150
    return array


def save(path, q=AFFINE, s=AFFINE, codes=(1, 1), array=None):
    image = nibabel.Nifti1Image(body() if array is None else array, AFFINE)
    image.set_qform(q, codes[0])
    image.set_sform(s, codes[1])
    nibabel.save(image, path)
    return path


FLIP = np.diag([-1.0, 1, 1, 1]) @ AFFINE


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize(
    ("q", "s", "codes"),
    [(AFFINE, AFFINE, (1, 1)), (AFFINE, TURN @ AFFINE, (1, 2)), (AFFINE, FLIP, (1, 2)),
     (TURN @ AFFINE, AFFINE, (2, 1)), (AFFINE, AFFINE, (0, 3)), (AFFINE, AFFINE, (2, 0)),
     (AFFINE, AFFINE, (0, 0))],
)  # fmt: skip
def test_the_mask_lies_on_the_image_for_every_reader(run, folder, tmp_path, q, s, codes, suffix):
    path = save(tmp_path / f"a{suffix}", q, s, codes)
    status, out, err = run("infer", "--build", folder, path, "-o", f"m{suffix}", "--json")
    assert status == 0, err
    image, mask = nibabel.load(path), nibabel.load(f"m{suffix}")
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(image.dataobj) > 75)
    for read in ("get_qform", "get_sform"):
        want, got = (getattr(i, read)(coded=True) for i in (image, mask))
        assert want[1] == got[1] and (want[0] is None or np.array_equal(want[0], got[0]))
    assert np.array_equal(image.affine, mask.affine)
    by_itk = [SimpleITK.ReadImage(name) for name in (str(path), f"m{suffix}")]
    for read in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(by_itk[0], read)() == getattr(by_itk[1], read)()
    notes = json.loads(out)["notes"]
    differ = all(codes) and not np.array_equal(q, s)
    assert any("mm apart: the network's orientation comes from the" in n for n in notes) == differ


def test_what_is_read_is_the_file_that_was_named(run, folder, tmp_path):
    save(tmp_path / "ct.nii", array=np.full((20, 24, 3), -1000, np.int16))
    save(tmp_path / "ct.nii.gz")
    assert run("infer", "--build", folder, "ct.nii.gz", "-o", "m.nii")[0] == 0
    assert np.array_equal(np.asarray(nibabel.load("m.nii").dataobj), body() > 75)
    (tmp_path / "ct.nii").rename(tmp_path / "plain")
    (tmp_path / "ct.nii.gz").write_bytes(gzip.decompress((tmp_path / "ct.nii.gz").read_bytes()))
    for name in ("ct.nii.gz", "plain"):
        assert run("infer", "--build", folder, name, "-o", f"{name}.m.nrrd")[0] == 0


def test_a_shear_is_repaired_in_little_and_refused_in_large(run, folder, tmp_path):
    for name, by in (("little", 0.004), ("large", 0.9)):
        sheared = AFFINE.copy()
        sheared[0, 1] = by
        image = nibabel.Nifti1Image(body(), None)
        image.header.set_sform(sheared, 1)
        image.header.set_qform(None, 0)
        image.header.set_zooms(nibabel.affines.voxel_sizes(sheared))
        nibabel.save(image, tmp_path / f"{name}.nii")
    status, out, _ = run("infer", "--build", folder, "little.nii", "-o", "m.nii")
    assert status == 0 and "degrees off right angles: the nearest right angles are used" in out
    assert np.array_equal(nibabel.load("m.nii").affine, nibabel.load("little.nii").affine)
    assert run("infer", "--build", folder, "little.nii", "-o", "m.nrrd")[0] == 0
    status, _, err = run("infer", "--build", folder, "large.nii", "-o", "n.nii")
    assert status == 2 and "resample it to a grid with axes at right angles" in err
    assert not (tmp_path / "n.nii").exists()


@pytest.mark.parametrize(
    ("change", "unlike"),
    [
        (lambda hu: hu, None),
        (lambda hu: hu[4:16, 6:20], None),
        (lambda hu: np.where(hu < -900, -3024, hu), None),
        (lambda hu: np.clip(hu, -125, 275), None),
        (lambda hu: hu + 1024, "hardly a pixel is below -25"),
        (lambda hu: hu - 1024, "% of the pixels are between -125 and 275"),
        (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255), "hardly a pixel is below -25"),
        (lambda hu: np.clip((hu + 125) / 400, 0, 1), "hardly a pixel is below -25"),
        (lambda hu: 0 * hu, "every pixel is 0"),
    ],
)
def test_values_that_are_not_those_of_training_are_said(run, folder, tmp_path, change, unlike):
    rng = np.random.default_rng(0)
    hu = body() + rng.normal(0, 8, body().shape)
    hu[7:13, 8:14] = -100  # fat
    save(tmp_path / "a.nii", array=change(hu).astype(np.float32))
    status, out, err = run("infer", "--build", folder, "a.nii", "-o", "m.nii", "--json")
    assert status == 0, err
    content = json.loads(out)
    told = [n for n in content["notes"] if "intensities are not those of training" in n]
    reasons = content["intensity"][0]["unlike"]
    assert content["intensity"][0]["seen"]["lowest"] == pytest.approx(float(change(hu).min()))
    if unlike is None:
        assert told == [] and reasons == []
    else:
        assert len(told) == 1 and unlike in told[0] and "Hounsfield units" in told[0]
        assert any(unlike in reason for reason in reasons)
        assert told[0] in run("infer", "--build", folder, "a.nii", "-o", "m.nii")[1]


def test_the_overlap_that_is_asked_for_is_used(run, folder, tmp_path, monkeypatch):
    """A network that sees an organ in a window's left edge only: more windows, more organ."""

    def edge(build, images):
        logits = np.zeros((len(images), 2, 32, 32), np.float32)
        logits[:, 1] = -1
        logits[:, 1, :, :3] = 1
        return logits

    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target(run=edge))
    save(tmp_path / "a.nii", array=np.zeros((90, 40, 2), np.int16))
    masks = {}
    for overlap in (0, 0.25, 0.75):
        status, out, err = run("infer", "--build", folder, "a.nii", "-o", "m.nii", "--json",
                               "--overlap", overlap)  # fmt: skip
        assert status == 0, err
        masks[overlap] = np.asarray(nibabel.load("m.nii").dataobj).copy()
        assert json.loads(out)["slices"]["windows_per_slice"] == {0: 6, 0.25: 8, 0.75: 18}[overlap]
    assert masks[0].sum() > masks[0.75].sum() > 0
    assert not np.array_equal(masks[0], masks[0.25])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0, 0, 0), (-1, -1, -1, -1)])
def test_one_number_that_is_none_is_refused(run, folder, tmp_path, monkeypatch, value, where):
    def one(build, images):
        logits = np.zeros((len(images), 2, 32, 32), np.float32)
        logits[where] = value
        return logits

    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target(run=one))
    save(tmp_path / "a.nii")
    status, _, err = run("infer", "--build", folder, "a.nii", "-o", "m.nii")
    assert status == 2 and "computes NaN or infinity" in err and not (tmp_path / "m.nii").exists()


def test_an_output_is_checked_before_the_build_is_opened(run, tmp_path):
    save(tmp_path / "a.nii")
    for output, text in (("a.nii", "would overwrite"), ("m.png", "unknown format"),
                         (".", "name the mask mask.nii.gz"),
                         ("/dev/stdout", "unknown format")):  # fmt: skip
        status, _, err = run("infer", "--build", "nowhere", "a.nii", "-o", output)
        assert status == 2 and text in err and "nowhere" not in err


def test_an_image_is_known_before_the_build_is_opened(run, tmp_path):
    save(tmp_path / "a.nii")
    (tmp_path / "picture.nii").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    for image, output, text in (("absent.nii", "m.nii", "does not exist"),
                                ("picture.nii", "m.nii", "a PNG picture"),
                                ("a.nii", "m.dcm", "and a.nii is NIfTI; use .nii.gz")):  # fmt: skip
        status, _, err = run("infer", "--build", "nowhere", image, "-o", output)
        assert status == 2 and text in err and "nowhere" not in err


def test_paths_that_cannot_be_are_one_line(run, folder, tmp_path):
    save(tmp_path / "a.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes())[:-9])
    for image, output, text in (
        ("a\udcff.nii", "m.nii", "UTF-8; rename"),
        ("a.nii", "m\udcff.nii", "UTF-8; rename"),
        ("pipe.nii", "m.nii", "pipe.nii is a named pipe"),
        ("/dev/zero", "m.nii", "/dev/zero is a device"),
        ("cut.nii.gz", "m.nii", "its gzip stream is cut short"),
        ("a.nii", "pipe.nii", "a device or a pipe"),
        ("a.nii", "m.dcm", "DICOM SEG refers to the slices of a DICOM series"),
        ("a.nii", "x" * 252 + ".nii", "File name too long"),
    ):
        status, out, err = run("infer", "--build", folder, image, "-o", output)
        said = [line for line in err.splitlines() if line.startswith("lmaunet-deploy:")]
        assert status == 2 and len(said) == 1 and text in said[0], err
        assert out == "" and not [p for p in tmp_path.iterdir() if p.name.startswith(("m", "."))]


def series(folder):
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    hu = body().transpose(2, 1, 0)
    for z, plane in enumerate(hu):
        image = SimpleITK.GetImageFromArray(plane[None])
        image.SetSpacing((3.0, 2.5, 4.0))
        for tag, value in {
            "0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2", "0020|0052": "1.2.9",
            "0008|0018": f"1.2.3.{z + 1}", "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0020|0032": f"-30\\-20\\{-20 + 4.0 * z}", "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(9 - z), "0010|0020": "X1", "0010|0010": "Anon",
        }.items():  # fmt: skip
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{9 - z}.dcm"))
        writer.Execute(image)
    return hu


def test_a_dicom_series_gives_a_dicom_segmentation_or_any_mask(run, folder, tmp_path):
    hu = series(tmp_path / "ct")
    for output in ("m.nii.gz", "m.nrrd", "m.mha"):
        status, _, err = run("infer", "--build", folder, "ct", "-o", output)
        assert status == 0, err
        mask = SimpleITK.ReadImage(output)
        assert np.array_equal(SimpleITK.GetArrayFromImage(mask), hu > 75)
        assert np.allclose(mask.GetOrigin(), (-30, -20, -20), atol=1e-4)
        assert np.allclose(mask.GetSpacing(), (3, 2.5, 4), atol=1e-6)
    status, out, err = run("infer", "--build", folder, "ct", "-o", "out/m.dcm", "--json")
    assert status == 0, err
    assert json.loads(out)["geometry"]["format"] == "DICOM"
    import pydicom

    found = pydicom.dcmread("out/m.dcm")
    planes = np.unpackbits(np.frombuffer(found.PixelData, "u1"), bitorder="little")
    planes = planes[: found.NumberOfFrames * 24 * 20].reshape(-1, 24, 20)
    for plane, group in zip(planes, found.PerFrameFunctionalGroupsSequence, strict=True):
        z = (float(group.PlanePositionSequence[0].ImagePositionPatient[2]) + 20) / 4
        assert np.array_equal(plane, hu[round(z)] > 75)
    assert [s.SegmentLabel for s in found.SegmentSequence] == ["organ"]
    # into the series itself, by whatever name
    for output in ("ct/m.nii", "ct/m.dcm", "ct/9.dcm"):
        before = {p.name: p.read_bytes() for p in (tmp_path / "ct").iterdir()}
        assert run("infer", "--build", folder, "ct", "-o", output)[0] == 2
        assert run("infer", "--build", folder, "ct/9.dcm", "-o", output)[0] == 2
        assert {p.name: p.read_bytes() for p in (tmp_path / "ct").iterdir()} == before


def test_a_killed_write_leaves_the_old_mask_and_the_next_run_is_clean(folder, tmp_path):
    """In a process of its own, killed where the new file is written and has no name yet."""
    save(tmp_path / "a.nii")
    (tmp_path / "m.nii").write_text("old")
    code = (
        "import sys, os, signal\n"
        f"sys.path.insert(0, {str(Path(lone_build.__file__).parent)!r})\n"
        "import lone_build\n"
        "from pathlib import Path\n"
        "from lmaunet.data.images import masks\n"
        "from lmaunet.deploy import inferring, segmenter\n"
        "segmenter.get_target = lambda name: lone_build.target()\n"
        "if sys.argv[1] == 'die': masks._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"inferring.infer(Path({str(folder)!r}), [Path('a.nii')], Path('m.nii'), overlap=0.5,\n"
        "                batch=4, say=lambda share, line: None)\n"
    )
    names = {"a.nii", "m.nii", "run"}
    for how, status in (("die", -signal.SIGKILL), ("live", 0)):
        done = subprocess.run([sys.executable, "-c", code, how], cwd=tmp_path)
        assert done.returncode == status
        left = {p.name for p in tmp_path.iterdir()} - names
        assert len(left) == (1 if how == "die" else 0)
        assert ((tmp_path / "m.nii").read_bytes() == b"old") == (how == "die")
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "m.nii").dataobj), body() > 75)


def test_a_build_keeps_what_values_trained_it_and_one_without_is_opened():
    from dataclasses import replace

    from lmaunet.deploy.deployment import Interface
    from lmaunet.errors import UserError

    made = lone_build.interface()
    record = ({"dark": [0.5, 0.75], "inside": [0.1, 0.2]},)
    made = replace(made, preparation=replace(made.preparation, intensity=record))
    content = json.loads(json.dumps(made.to_json()))
    assert Interface.from_json(content, "x").preparation.intensity == record
    del content["intensity"]
    assert Interface.from_json(content, "x").preparation.intensity == ()
    with pytest.raises(UserError, match="x is damaged"):
        Interface.from_json({**content, "intensity": [{"dark": [1]}]}, "x")
