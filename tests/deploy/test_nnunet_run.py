"""A network from nnU-Net's folder, as a user deploys it: import, qat, build, infer, report."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import recipe_build
import SimpleITK

sys.path.append(str(Path(__file__).parents[1] / "sources"))

import nnunet_folder
from command_line import runner

import lmaunet
from lmaunet.data.inference import prepare_volume
from lmaunet.deploy import segmenter
from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, save_atomically
from lmaunet.net.checkpoint_file import read_file
from lmaunet.sources.checkpoint import NNUNET, restore, training_of
from lmaunet.stage import read_json

pytest.importorskip("dynamic_network_architectures")

RESULTS = Path("nnUNet_results/Dataset007_Tiny/nnUNetTrainer__nnUNetPlans__2d")
RAW = Path("nnUNet_raw/Dataset007_Tiny")
ORIENTATION, SPACING = "RSP", (1.0, 4.0, 0.8)


def labels_of(case):
    """In the file's axes; the plan transposes them, so that the second one counts the slices."""
    labels = np.zeros((20, 7, 26), np.uint8)
    labels[3:9, 1:5, 5:12], labels[11:17, 2:6, 14:22] = 1, 2
    return np.roll(labels, case - 2, axis=2)


def write_raw(folder):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({**nnunet_folder.DATASET, "numTraining": 6}))
    random = np.random.default_rng(0)
    for case in range(6):
        labels = labels_of(case)
        for channel, values in enumerate(([20, 90, -40], [2, 5, 9])):
            noise = random.normal(0, [8, 0.5][channel], labels.shape)
            image = (np.array(values)[labels] + noise).astype(np.float32)
            image[:, :, :2] = 0
            made = recipe_build.image_in(image, SPACING, ORIENTATION, 0.2)
            SimpleITK.WriteImage(made, str(folder / f"imagesTr/Case{case}_{channel:04d}.nii.gz"))
        made = recipe_build.image_in(labels, SPACING, ORIENTATION, 0.2)
        SimpleITK.WriteImage(made, str(folder / f"labelsTr/Case{case}.nii.gz"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which a network was imported, quantized and built, as one types it."""
    place = tmp_path_factory.mktemp("nnunet")
    content = nnunet_folder.plans()
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    nnunet_folder.write(
        place / RESULTS, content, nnunet_folder.trained(nnunet_folder.network(content))
    )
    (place / RESULTS / "fold_0" / "validation").mkdir()
    for case in (1, 4):
        (place / RESULTS / "fold_0" / "validation" / f"Case{case}.nii.gz").write_bytes(b"")
    write_raw(place / RAW)
    return place


@pytest.fixture
def run(monkeypatch, capsys, place):
    monkeypatch.chdir(place)
    return runner(monkeypatch, capsys)


QAT = ("qat", "--ckpt", "runs/tiny/import/model.pt", "--data", RAW, "--epochs", "1")


@pytest.fixture
def built(run, place):
    if not (place / "runs/tiny/build/ort/manifest.json").exists():
        make = ("build", "--target", "ort", "--run", "runs/tiny", "--no-operators")
        for given in (("import", RESULTS, "-o", "runs/tiny"), QAT, make):
            status, _, err = run(*given)
            assert status == 0, err
        (place / "qat.txt").write_text(run(*QAT)[1])
    return place / "runs/tiny/build/ort"


def test_the_cases_that_the_fold_held_out_validate(built, place):
    """And the same command finds all there, though none of the data's files says how."""
    said = (place / "qat.txt").read_text()
    assert "was there already" in said and "prepared as this program does" not in said
    assert "note: images are prepared as nnU-Net's plan says: CTNormalization, ZScore" in said
    options = read_json(place / "runs/tiny/qat/manifest.json")["options"]
    assert options["nnunet"]["held_out"] == ["Case1", "Case4"]
    assert options["nnunet"]["channels"] == ["CT", "PET"]
    deployment = read_json(built / "deployment.json")
    assert deployment["recipe"]["axes"] == [ORIENTATION]
    assert deployment["recipe"]["transpose"] == [1, 0, 2]
    assert deployment["resampled_mm"] == [1.25, 0.75] and deployment["spacing_mm"][0] == 4.0


def float_mask(place, files, preparation):
    """The mask of the float network by the same segmenter."""
    import torch

    checkpoint = place / "runs/tiny/import/model.pt"
    module = restore(load_checkpoint(checkpoint), checkpoint)

    def run(images):
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    network = segmenter.Network(recipe_build.target(run), None, 3, segmenter.Timer())
    volume = prepare_volume(files, preparation, 2)
    return segmenter.segment(
        volume, network, overlap=0.5, batch=4, say=lambda share, line: None
    )  # fmt: skip


def test_infer_follows_the_recipe_on_an_oblique_image(built, run, place):
    files = [RAW / f"imagesTr/Case1_{channel:04d}.nii.gz" for channel in range(2)]
    status, out, err = run("infer", "--build", built, *files, "-o", "mask.nii.gz")
    assert status == 0 and "network's 1.25x0.75 mm" in out, err
    mask, image = (SimpleITK.ReadImage(str(path)) for path in ("mask.nii.gz", str(files[0])))
    assert mask.GetSize() == image.GetSize()
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-4)
    seg = lmaunet.load(built)
    assert seg.mirror_axes == (0, 1) and seg.input_size == (16, 24)
    found = SimpleITK.GetArrayFromImage(mask)
    # what is 0 in all channels is cropped off
    assert (found[:, :, :2] == 0).all() and len(np.unique(found)) > 1
    same = SimpleITK.GetArrayFromImage(seg(files))
    np.testing.assert_array_equal(found, same)
    known = float_mask(place, files, seg.deployment.interface.preparation)
    lps = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(mask, "LPS"))
    assert known.shape == lps.shape and (known == lps).mean() > 0.9
    # mirrored it is another mask, that the command writes too
    status, out, err = run("infer", "--build", built, *files, "-o", "tta.nii.gz", "--tta")
    assert status == 0 and "mirrored along rows and columns" in out, err
    tta = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("tta.nii.gz"))
    np.testing.assert_array_equal(tta, SimpleITK.GetArrayFromImage(seg(files, tta=True)))
    assert (tta != found).any()


def test_measure_and_report_are_of_the_held_out_cases(built, run, place):
    status, _, err = run("report", "--run", "runs/tiny", "--gate", "dice_drop_points=100",
                           "--gate", "class_drop_points=100")  # fmt: skip
    assert status == 0, err
    report = read_json(place / "runs/tiny/report.json")
    assert report["data"]["cases"] == ["case1", "case4"]
    assert report["data"]["normalization"]["kind"] == "nnunet"
    assert any(
        note.startswith("images are prepared as nnU-Net's") for note in report["data"]["notes"]
    )
    assert "as nnU-Net trained the network: fold 0" in report["data"]["split"]
    assert {
        row["case"] if isinstance(row, dict) else row for row in report["reference"]["per_case"]
    }


def test_what_is_trained_on_keeps_the_recipe(built, place):
    """The FP32 control is quantized by it too."""
    first, control = (
        place / "runs/tiny" / name for name in ("import/model.pt", "control/control.pt")
    )
    trainings = [training_of(load_checkpoint(path), path) for path in (first, control)]
    assert trainings[0].recipe == trainings[1].recipe and trainings[0].fold == "0"


def changed(path, into, change):
    content = read_file(path)
    change(content["notes"][NNUNET])
    save_atomically(into, content)
    return into


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda note: note.pop("recipe"), "no note of nnU-Net's training"),
        (lambda note: note["recipe"].update(patch_size=[16, 16]), "its recipe is for \\(16, 16\\)"),
        (lambda note: note["recipe"]["channels"].pop(), "1 channel\\(s\\), its network takes"),
        (lambda note: note.update(channels=["PET", "CT"]), "the network was trained on PET, CT"),
        (lambda note: note["recipe"].update(reader="Tiff3DIO"), "convert the images to .nii.gz"),
    ],
)
def test_a_note_that_does_not_fit_is_refused(built, run, place, tmp_path, change, text):
    path = changed(place / "runs/tiny/import/model.pt", tmp_path / "network.pt", change)
    status, _, err = run("qat", "--ckpt", path, "--data", RAW, "--run", tmp_path / "run")
    assert status == 2 and re.search(text, err), err
    assert len(err.splitlines()) == 2 and err.startswith("quantizing ...\n")


def test_data_of_other_channels_are_refused(built, run, tmp_path):
    status, _, err = run("qat", "--ckpt", "runs/tiny/import/model.pt", "--phantom",
                         "--run", tmp_path / "run")  # fmt: skip
    assert status == 2 and "has 1 channel(s) (image), the network was trained on 2; give" in err
    assert len(err.splitlines()) == 2


def test_a_build_without_its_recipe_is_refused(built, tmp_path):
    """Not prepared another way: its mask would be wrong."""
    copy = shutil.copytree(built, tmp_path / "ort")
    content = read_json(copy / "deployment.json")
    content["recipe"] = None
    from lmaunet.deploy.deployment import Deployment

    with pytest.raises(UserError, match="is damaged"):
        Deployment.from_json(content, "x")
