"""The command infer: an image in, its labels on its own grid out, or one line and no file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import lone_build
import numpy as np
import pytest
import SimpleITK
from command_line import runner

from lmaunet.deploy import phase_times, segmenter
from lmaunet.stage import write_json


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target())
    return runner(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path):
    return lone_build.make(tmp_path / "run")


def write_image(path, array, spacing=(3.0, 3.0, 4.0), orientation="RAI"):
    image = SimpleITK.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetSpacing(spacing)
    image.SetOrigin((-31.5, 12.25, 801.0))
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, orientation), str(path))
    return path


def blocks(shape, edge=8):
    """HU of fat and organs in blocks, so that no linear interpolation comes near the limit."""
    rng = np.random.default_rng(0)
    coarse = rng.choice([-100.0, 250.0], tuple(-(-n // edge) for n in shape))
    full = coarse.repeat(edge, 0).repeat(edge, 1).repeat(edge, 2)
    return full[tuple(map(slice, shape))].astype(np.float32)


def stored(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_nothing_that_trains_is_loaded():
    """A build runs without torch, which takes seconds to load; windows do not need it either."""
    code = (
        "import sys, numpy as np, lmaunet.deploy.inferring, lmaunet.deploy.deployment\n"
        "from lmaunet.data.windows import cover\n"
        "cover(np.zeros((1, 1, 40, 40), np.float32), (32, 32), lambda w: w)\n"
        "print([m for m in ('torch', 'monai', 'brevitas', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".nii"])
@pytest.mark.parametrize("shape", [(7, 20, 24), (6, 60, 41), (1, 32, 32)])
def test_a_mask_lies_on_its_image(run, folder, tmp_path, suffix, shape):
    """Smaller than the network, larger in both directions, and one slice of just its size."""
    path = write_image(tmp_path / f"a{suffix}", blocks(shape), orientation="LIA")
    status, out, err = run("infer", "--build", folder, path, "-o", f"out/seg{suffix}", "--batch", 3)
    assert status == 0, err
    image, labels = (
        SimpleITK.ReadImage(str(tmp_path / name)) for name in (f"a{suffix}", f"out/seg{suffix}")
    )
    assert np.array_equal(
        SimpleITK.GetArrayFromImage(labels), SimpleITK.GetArrayFromImage(image) > 75
    )
    for read in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(labels, read)(), getattr(image, read)(), rtol=0, atol=1e-5)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"seg{suffix}"]
    assert (
        "one pixel at a time" in out
        and "organ" in out
        and ("windows" in out) == (max(shape[1:]) > 32)
    )


def test_the_json_form(run, folder, tmp_path):
    shutil.move(folder, tmp_path / "alone")
    shutil.rmtree(tmp_path / "run")
    array = blocks((5, 40, 48))
    path = write_image(tmp_path / "a.nii.gz", array)
    status, out, err = run("infer", "--build", "alone", path, "-o", "seg.nrrd", "--json",
                           "--overlap", "0.25")  # fmt: skip
    assert status == 0, err
    content = json.loads(out)
    organ = int((array > 75).sum())
    assert content["classes"] == [
        {"index": 0, "name": "background", "voxels": array.size - organ,
         "ml": round((array.size - organ) * 0.036, 3)},
        {"index": 1, "name": "organ", "voxels": organ, "ml": round(organ * 0.036, 3)},
    ]  # fmt: skip
    assert content["geometry"]["size"] == [48, 40, 5]
    assert np.allclose(content["geometry"]["spacing_mm"], (3.0, 3.0, 4.0))
    assert content["slices"] == {"count": 5, "at_network_spacing": [40, 48], "window": [32, 32],
                                 "windows_per_slice": 4, "overlap": 0.25,
                                 "mirrored": []}  # fmt: skip
    assert content["build"]["target"] == "pixels" and len(content["build"]["sha256"]) == 64
    times = content["times_ms"]
    assert set(times) == {*segmenter.PHASES, "total"}
    phases = sum(times[name] for name in segmenter.PHASES)
    assert min(times.values()) >= 0 and phases <= times["total"] + 0.1
    assert content["first_call_images"] == 4


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_first_slice_goes_alone_and_the_others_by_batches(
    run, folder, tmp_path, monkeypatch, batch
):  # fmt: skip
    path, calls = write_image(tmp_path / "a.nii.gz", blocks((6, 20, 24))), []

    def looked(build, images):
        calls.append(len(images))
        return lone_build.run(build, images)

    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target(run=looked))
    status, _, err = run("infer", "--build", folder, path, "-o", "s.nii", "--batch", batch)
    assert status == 0, err
    assert calls == {1: [1] * 6, 2: [1, 2, 2, 1], 7: [1, 5]}[batch]
    assert np.array_equal(stored("s.nii"), stored(path) > 75)


def test_a_phase_within_a_phase_counts_once(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr(phase_times.time, "perf_counter", lambda: next(now))
    timer = segmenter.Timer()
    with timer.phase("blend"), timer.phase("infer"):
        pass
    assert (timer.times_ms["infer"], timer.times_ms["blend"]) == (2000.0, 8000.0)


def test_what_is_resampled_is_said(run, folder, tmp_path):
    path = write_image(tmp_path / "a.mha", blocks((2, 60, 60), 20), spacing=(1.0, 1.5, 4.0))
    status, out, _ = run("infer", "--build", folder, path, "-o", "seg.nii")
    assert status == 0 and "slices are resampled from 1.5x1 mm to the network's 3x3 mm" in out
    share = (stored("seg.nii") != (stored(path) > 75)).mean()
    assert share < 0.02  # the borders of blocks, between two coarse pixels


def test_several_channels_are_several_images(run, tmp_path):
    folder = lone_build.make(tmp_path / "run", channels=2)
    a = write_image(tmp_path / "a.nii", blocks((2, 20, 20)))
    b = write_image(tmp_path / "b.nii", -blocks((2, 20, 20)))
    assert run("infer", "--build", folder, a, b, "-o", "seg.nii")[0] == 0
    assert np.array_equal(stored("seg.nii"), stored(a) > 75)
    status, _, err = run("infer", "--build", folder, a, "-o", "seg2.nii")
    assert status == 2 and "the network takes 2 channel(s): give 2 images on one grid" in err


def bad_images(tmp_path):
    good = blocks((3, 20, 20))
    holes = good.copy()
    holes[1, 2, 3] = np.nan
    made = {
        "good.nii": good, "nan.nii": holes, "tiny.nii": good[:1, :1, :1],
        "rgb.nrrd": np.zeros((2, 9, 9, 3), np.uint8), "two.nrrd": np.zeros((2, 9, 9, 2), "f4"),
    }  # fmt: skip
    for name, array in made.items():
        write_image(tmp_path / name, array)
    write_image(tmp_path / "huge.nii", good, spacing=(5e3, 5e3, 1.0))
    four = SimpleITK.GetImageFromArray(np.zeros((2, 3, 9, 9), np.float32), isVector=False)
    SimpleITK.WriteImage(four, str(tmp_path / "four.nii"))
    (tmp_path / "cut.nii").write_bytes((tmp_path / "good.nii").read_bytes()[:900])
    (tmp_path / "text.nii.gz").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")


@pytest.mark.parametrize(
    ("image", "output", "options", "text"),
    [
        ("absent.nii", "o/s.nii", (), "absent.nii does not exist"),
        ("cut.nii", "o/s.nii", (), "cut.nii is cut short"),
        ("text.nii.gz", "o/s.nii", (), "cannot be read as an image"),
        ("four.nii", "o/s.nii", (), "4 dimensions (9 x 9 x 3 x 2); expected 3; save one volume"),
        ("rgb.nrrd", "o/s.nii", (), "3 values per pixel; expected one channel; save each"),
        ("two.nrrd", "o/s.nii", (), "2 values per pixel; expected one channel; save each"),
        ("nan.nii", "o/s.nii", (), "1 of 1200 pixels are NaN"),
        ("empty", "o/s.nii", (), "empty holds no DICOM series"),
        ("tiny.nii", "o/s.nii", (), "slices of 1x1 are 1x1 for the network; expected 8x8"),
        ("huge.nii", "o/s.nii", (), "makes slices of 33333x33333 at the network's spacing"),
        ("good.nii", "o/s.png", (), "s.png: unknown format; use .nii.gz, .nii, .nrrd, .mha"),
        ("good.nii", "o/s.x", (), "unknown format"),
        ("good.nii", "o/s", (), "or name the mask s.nii.gz"),
        ("good.nii", "good.nii", (), "would overwrite the image good.nii; name another place"),
        ("empty", "empty/s.nii", (), "would lie in the image empty"),
        ("good.nii", "file/s.nii", (), "file is not a folder; name another place"),
        ("good.nii", "file/x/s.nii", (), "file is not a folder"),
        ("good.nii", "o/s.nii", ("--overlap", "1"), "overlap 1; expected 0 to 0.9"),
        ("good.nii", "o/s.nii", ("--batch", "0"), "batch 0; expected 1 slice or more"),
        ("good.nii", "o/s.nii", ("--build", "nowhere"), "nowhere is no folder"),
        ("good.nii", "o/s.nii", ("--build", "file"), "file is no folder"),
        ("good.nii", "o/s.nii", ("--build", "empty"), "empty holds no finished build"),
        ("good.nii", "o/s.nii", ("--build", "run"), "it has run/build/pixels"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_no_file(run, folder, tmp_path, image, output, options, text):
    bad_images(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    build = () if "--build" in options else ("--build", folder)
    status, out, err = run("infer", *build, image, "-o", output, *options)
    said = [line for line in err.splitlines() if line.startswith("lmaunet-deploy:")]
    assert status == 2 and len(said) == 1 and text in said[0], err
    assert out == "" and "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_two_dicom_series_are_not_one_image(run, folder, tmp_path):
    (tmp_path / "dicom").mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in (1, 2):
        image = SimpleITK.GetImageFromArray(np.zeros((1, 9, 9), np.int16))
        for tag, value in {"0008|0060": "CT", "0020|000e": f"1.2.{number}", "0020|000d": "1.2",
                           "0008|0018": f"1.2.3.{number}"}.items():  # fmt: skip
            image.SetMetaData(tag, value)
        writer.SetFileName(str(tmp_path / "dicom" / f"{number}.dcm"))
        writer.Execute(image)
    status, _, err = run("infer", "--build", folder, "dicom", "-o", "s.nii")
    assert status == 2 and "holds 2 DICOM series: CT" in err and "Expected one; move each" in err
    assert not (tmp_path / "s.nii").exists()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda images: np.full((len(images), 2, 32, 32), np.nan, np.float32), "computes NaN"),
        (lambda images: np.zeros((len(images), 3, 32, 32), np.float32), "logits of shape (1, 3,"),
    ],
)
def test_a_build_that_computes_nonsense_is_refused(
    run, folder, tmp_path, monkeypatch, answer, text
):
    bad = lone_build.target(run=lambda build, images: answer(images))
    monkeypatch.setattr(segmenter, "get_target", lambda name: bad)
    write_image(tmp_path / "a.nii", blocks((2, 20, 20)))
    status, _, err = run("infer", "--build", folder, "a.nii", "-o", "s.nii")
    assert status == 2 and text in err and not (tmp_path / "s.nii").exists()


def test_a_write_that_fails_leaves_the_old_file(run, folder, tmp_path, monkeypatch):
    write_image(tmp_path / "a.nii", blocks((2, 20, 20)))
    (tmp_path / "s.nrrd").write_text("old")

    def full(*arguments, **options):
        raise RuntimeError("ITK: cannot write")

    monkeypatch.setattr(SimpleITK, "WriteImage", full)
    status, _, err = run("infer", "--build", folder, "a.nii", "-o", "s.nrrd")
    assert status == 2 and "cannot write s.nrrd: ITK: cannot write" in err
    assert (tmp_path / "s.nrrd").read_text() == "old"
    assert not list(tmp_path.glob(".lmaunet*"))


def test_a_build_of_an_unknown_target_is_named(monkeypatch, capsys, tmp_path, folder):
    """The registry is asked, so a build of a target that is not installed here is said so."""
    write_image(tmp_path / "a.nii", blocks((2, 20, 20)))
    command = runner(monkeypatch, capsys)
    status, _, err = command("infer", "--build", folder, tmp_path / "a.nii", "-o",
                             tmp_path / "s.nii")  # fmt: skip
    assert status == 2 and "unknown target 'pixels'; use one of: fpga" in err


def test_synthetic_training_is_said(run, folder, tmp_path, monkeypatch):
    from lmaunet.deploy import deployment as module

    found = module.open_build(folder)[1].to_json()
    found["data"]["synthetic"] = True
    write_json(folder / module.FILE, found)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"][module.FILE] = module.sha256(folder / module.FILE)
    write_json(folder / "manifest.json", manifest)
    write_image(tmp_path / "a.nii", blocks((2, 20, 20)))
    status, out, _ = run("infer", "--build", folder, "a.nii", "-o", "s.nii")
    assert status == 0 and "trained on synthetic images" in out
