"""Confidence of a build: each sample against the masked network as a network of its own."""

from __future__ import annotations

import dataclasses
import json

import lone_build
import numpy as np
import pytest
import recipe_build
import SimpleITK
from command_line import runner

import lmaunet
from lmaunet.data import confidence as of_data
from lmaunet.data.confidence import Dropout
from lmaunet.deploy import confident, masked_builds, segmenter
from lmaunet.errors import UserError

RATE, CHANNELS, TEMPERATURE = 0.2, 6, 1.6
DROPOUT = Dropout(RATE, CHANNELS, TEMPERATURE, {"patients": 2})
WEIGHTS = np.random.default_rng(5).normal(0, 1, (3, CHANNELS)).astype(np.float32)
CLASSES = ("background", "one", "two")


def features(images):
    """What is before the head: functions of a pixel and its left neighbour."""
    x, beside = images[:, 0], np.roll(images[:, 0], 1, -1)
    found = [x, beside, np.abs(x), x * beside, np.ones_like(x), np.maximum(beside, 0)]
    return np.stack(found, 1).astype(np.float32)


def head(values, mask):
    return np.einsum("kc,nchw->nkhw", WEIGHTS * mask.astype(np.float32), values)


def target(mask=None):
    """A target without dropout, or the same network with one mask for ever."""
    ones = np.ones(CHANNELS) if mask is None else mask
    calls = []

    def sampled(build, images, masks):
        calls.append(len(images))
        values = features(images)
        return head(values, ones), np.stack([head(values, m) for m in masks], 1)

    made = lone_build.target(
        run=lambda build, images: head(features(images), ones), sampled=sampled
    )
    return dataclasses.replace(made), calls


def expected_masks(samples, seed):
    """As documented: 0 with probability RATE, else 1 / (1 - RATE)."""
    drawn = np.random.RandomState(seed).random_sample((samples, CHANNELS))
    return np.where(drawn < RATE, 0, 1 / (1 - RATE))


def own_build(place, dropout=DROPOUT, head_file=True):
    """A build of this network, of 32x32 at 3 mm."""
    from lmaunet.artifacts import Build
    from lmaunet.deploy.deployment import write_build
    from lmaunet.stage import Stage

    place.mkdir(parents=True, exist_ok=True)
    (place / "network.qcdq.onnx").write_bytes(b"exported")
    plain = lone_build.interface()
    spec = plain.network.replace(classes=3)
    interface = dataclasses.replace(plain, network=spec, classes=CLASSES, dropout=dropout)

    def work(folder):
        (folder / "model.bin").write_bytes(b"weights")
        detail = {masked_builds.DETAIL: {"features": "f"}} if head_file else {}
        build = Build("pixels", folder, folder / "model.bin", (), detail)
        write_build(build, interface, place / "network.qcdq.onnx")

    return Stage(place, "build/pixels", {"qcdq": place / "network.qcdq.onnx"}, {}).write(work)


def recipe_of_mirrored(place):
    """A build of a network that nnU-Net trained with mirroring, for the same function."""
    from lmaunet.artifacts import Build
    from lmaunet.deploy.deployment import write_build
    from lmaunet.stage import Stage

    _, recipe = recipe_build.recipe_of(recipe_build.stored(), "mr")
    recipe = dataclasses.replace(recipe, mirror_axes=(0, 1), channels=recipe.channels[:1])
    interface = dataclasses.replace(recipe_build.interface(recipe), dropout=DROPOUT)
    place.mkdir(parents=True, exist_ok=True)
    (place / "network.qcdq.onnx").write_bytes(b"exported")

    def work(folder):
        (folder / "model.bin").write_bytes(b"weights")
        build = Build("pixels", folder, folder / "model.bin", (), {masked_builds.DETAIL: {}})
        write_build(build, interface, place / "network.qcdq.onnx")

    return Stage(place, "build/pixels", {"qcdq": place / "network.qcdq.onnx"}, {}).write(work)


def volume(shape=(3, 30, 44), seed=0):
    return np.random.default_rng(seed).normal(75, 150, shape)


def opened(folder, monkeypatch, mask=None):
    made, calls = target(mask)
    monkeypatch.setattr(segmenter, "get_target", lambda name: made)
    return lmaunet.load(folder), calls


def golden(folder, monkeypatch, image, samples, seed, **options):
    """Entropy and voxels of each sample, from as many plain segmentations of masked networks."""
    shares, counts = [], []
    for mask in expected_masks(samples, seed):
        seg, _ = opened(folder, monkeypatch, mask)
        labels, found = seg(image, probabilities=True, **options)
        tempered = np.maximum(found.astype(np.float64), 1e-300) ** (1 / TEMPERATURE)
        shares.append(tempered / tempered.sum(0))
        counts.append(np.bincount(labels.ravel(), minlength=3))
    mean = np.mean(shares, 0)
    return -(mean * np.log(np.maximum(mean, 1e-300))).sum(0), np.array(counts).T


CASES = {
    "as it is": ("own", (3.0, 3.0, 3.0), {}),
    "resampled": ("own", (3.0, 2.1, 4.0), {}),
    "windows": ("own", (3.0, 1.9, 1.4), {"overlap": 0.25}),
    "nnunet": ("nnunet", (2.0, 1.1, 0.9), {}),
    "nnunet mirrored": ("nnunet", (2.0, 1.1, 0.9), {"tta": True}),
}


def compare_with_golden(tmp_path, monkeypatch, case, samples=3, seed=7):
    kind, spacing, options = CASES[case]
    make = {"own": own_build, "nnunet": recipe_of_mirrored}[kind]
    folder, image = make(tmp_path / kind), volume()
    if kind == "nnunet":
        image[:, :4] = 0
    seg, calls = opened(folder, monkeypatch)
    plain = seg(image, spacing=spacing, **options)
    assert not calls  # without confidence no mask is touched
    mask, found = seg(
        image, spacing=spacing, confidence=True, samples=samples, seed=seed, **options
    )
    np.testing.assert_array_equal(mask, plain)
    entropy, counts = golden(folder, monkeypatch, image, samples, seed, spacing=spacing, **options)
    assert found.entropy.shape == image.shape and found.entropy.dtype == np.float32
    voxel_ml = np.prod(spacing) / 1000
    # where two classes tie to float32's rounding either may win
    assert np.abs(found.volumes_ml / voxel_ml - counts).max() <= (3 if kind == "nnunet" else 0)
    np.testing.assert_allclose(found.entropy, entropy, atol=3e-3 if kind == "nnunet" else 2e-5)
    assert entropy.std() > 0.02 and np.ptp(counts, axis=1).max() > 50
    return calls


@pytest.mark.parametrize("case", CASES)
def test_samples_are_the_masked_networks(tmp_path, monkeypatch, case):
    compare_with_golden(tmp_path, monkeypatch, case)


@pytest.mark.parametrize(
    ("module", "right", "wrong"),
    [
        (confident, "% len(self._kept)][:, sample]", "% len(self._kept)][:, 0]"),
        (confident, "self.compute(images, self.masks)",
         "self.compute(images, np.roll(self.masks, int(abs(images).sum()), 0))"),
        (confident, "mean = mean + softmax", "mean = softmax"),
        (confident, "mirrored(self._replayed(sample), mirror_axes)", "self._replayed(sample)"),
        (of_data, "/ logits.dtype.type(temperature)", "* logits.dtype.type(temperature)"),
        (of_data, "(kept / (1 - rate))", "kept"),
        (of_data, ">= rate", "< rate"),
        (of_data, "-(shares * logs)", "(shares * logs)"),
    ],
    ids=["masks that are not used", "another seed per window", "the last sample alone",
         "mirrored for the mask alone", "temperature on the wrong side", "without 1/(1-p)",
         "the other channels", "the sign"],
)  # fmt: skip
def test_a_wrong_sample_is_noticed(tmp_path, monkeypatch, mutant_of, module, right, wrong):
    mutant = mutant_of(module, right, wrong)
    for name in ("begin_samples", "softmax", "draw_masks", "predictive_entropy"):
        if hasattr(mutant, name):
            monkeypatch.setattr(segmenter if name == "begin_samples" else confident, name,
                                getattr(mutant, name))  # fmt: skip
    case = "nnunet mirrored" if "mirrored" in right else "windows"
    with pytest.raises(AssertionError):
        compare_with_golden(tmp_path, monkeypatch, case)


def test_a_seed_repeats_and_more_samples_begin_with_those_of_fewer(tmp_path, monkeypatch):
    seg, _ = opened(own_build(tmp_path), monkeypatch)
    image, spacing = volume(), (3, 3, 3)

    def run(**options):
        return seg(image, spacing=spacing, confidence=True, **options)[1]

    one, same, more, other = run(samples=4), run(samples=4), run(samples=9), run(samples=4, seed=1)
    np.testing.assert_array_equal(one.entropy, same.entropy)
    np.testing.assert_array_equal(one.volumes_ml, more.volumes_ml[:, :4])
    assert (one.volumes_ml != other.volumes_ml).any()
    assert one.interval_ml(1) == (one.volumes_ml[1].min(), one.volumes_ml[1].max())
    np.testing.assert_allclose(one.volumes_ml.sum(0), image.size * 0.027)


def test_the_trunk_runs_once_for_an_image(tmp_path, monkeypatch):
    seg, calls = opened(own_build(tmp_path), monkeypatch)
    seg(volume((4, 32, 32)), spacing=(3, 3, 3), confidence=True, samples=16)
    assert calls == [1, 1, 1, 1]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    made, _ = target()
    monkeypatch.setattr(segmenter, "get_target", lambda name: made)
    return runner(monkeypatch, capsys)


def oblique(path):
    """A scan whose axes are turned, on a grid of its own."""
    image = SimpleITK.GetImageFromArray(volume((3, 20, 28)).astype(np.int16))
    image.SetSpacing((2.5, 3.5, 4.0))
    image.SetOrigin((-31.5, 12.25, 801.0))
    image.SetDirection((-0.8, 0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_the_command_writes_a_map_that_lies_as_the_mask_does(run, tmp_path, suffix):
    scan, folder = oblique(tmp_path / f"scan{suffix}"), own_build(tmp_path / "run")
    plain, mask, entropy = (tmp_path / f"{name}{suffix}" for name in ("plain", "mask", "map"))
    status, _, err = run("infer", scan, "--build", folder, "-o", plain)
    assert status == 0, err
    status, out, err = run(
        "infer", scan, "--build", folder, "-o", mask, "--confidence", entropy, "--json"
    )
    assert status == 0, err
    assert mask.read_bytes() == plain.read_bytes()
    images = [SimpleITK.ReadImage(str(path)) for path in (mask, entropy)]
    assert images[1].GetPixelID() == SimpleITK.sitkFloat32
    for read in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(images[0], read)() == getattr(images[1], read)()
    found = lmaunet.load(folder)(scan, confidence=True)[1]
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(images[1]), SimpleITK.GetArrayFromImage(found.entropy)
    )
    content = json.loads(out)
    said = content["confidence"]
    assert (said["samples"], said["seed"], said["temperature"]) == (8, 0, TEMPERATURE)
    assert said["further_sample_within"] == pytest.approx(7 / 9)
    for index, entry in enumerate(content["classes"]):
        assert entry["interval_ml"] == pytest.approx(found.interval_ml(index), abs=1e-3)
        assert len(entry["samples_ml"]) == 8


def test_the_command_says_volumes_with_their_intervals(run, tmp_path):
    scan, folder = oblique(tmp_path / "scan.nii.gz"), own_build(tmp_path / "run")
    status, out, err = run("infer", scan, "--build", folder, "-o", "mask.nii.gz", "--confidence",
                         "map.nii.gz", "--samples", "5", "--seed", "3")  # fmt: skip
    assert status == 0, err
    assert "least of the samples" in out and "wrote map.nii.gz: entropy in nats" in out
    assert "5 samples with dropout, seed 3" in out and "probability 0.67" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--samples 4", "--samples 4 is for --confidence"),
        ("--seed 0", "--seed 0 is for --confidence"),
        ("--confidence map.nii.gz --samples 1", "samples 1; expected 2 to 64"),
        ("--confidence map.nii.gz --samples 65", "samples 65; expected 2 to 64"),
        ("--confidence map.nii.gz --seed -1", "seed -1; expected"),
        ("--confidence map.nii.gz --seed 4294967296", "seed 4294967296; expected"),
        ("--confidence map.dcm", "no DICOM segmentation; use .nii.gz"),
        ("--confidence map.png", "unknown format"),
        ("--confidence mask.nii.gz", "is the mask's path"),
        ("--confidence ./mask.nii.gz", "is the mask's path"),
        ("--confidence scan.nii.gz", "would overwrite the image"),
        ("--confidence none/../mask.nii.gz", "is the mask's path"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(run, tmp_path, words, said):
    oblique(tmp_path / "scan.nii.gz")
    folder = own_build(tmp_path / "run")
    before = sorted(tmp_path.iterdir())
    status, out, err = run(
        "infer", "scan.nii.gz", "--build", folder, "-o", "mask.nii.gz", *words.split()
    )
    assert (status, out) == (2, "") and said in err and err.count("\n") <= 2
    assert sorted(tmp_path.iterdir()) == before


def test_a_build_without_dropout_names_the_remedy(run, tmp_path, monkeypatch):
    oblique(tmp_path / "scan.nii.gz")
    words = ["infer", "scan.nii.gz", "-o", "mask.nii.gz", "--confidence", "map.nii.gz", "--build"]
    status, _, err = run(*words, own_build(tmp_path / "old", dropout=None))
    assert status == 2 and "qat --dropout 0.2" in err and err.count("\n") == 2
    status, _, err = run(*words, own_build(tmp_path / "fp16", head_file=False))
    assert status == 2 and "--precision int8" in err
    lone = lone_build.target()
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone)
    status, _, err = run(*words, own_build(tmp_path / "fpga"))
    assert status == 2 and "takes no dropout masks; use one for ort" in err
    assert not list(tmp_path.glob("*map*"))


def test_samples_that_are_no_numbers_are_refused(tmp_path, monkeypatch):
    folder = own_build(tmp_path)
    made, _ = target()
    broken = dataclasses.replace(
        made, sampled=lambda b, i, m: (made.run(b, i), np.full((len(i), len(m), 3, 32, 32), np.nan))
    )
    monkeypatch.setattr(segmenter, "get_target", lambda name: broken)
    with pytest.raises(UserError, match="NaN or infinity"):
        lmaunet.load(folder)(volume(), spacing=(3, 3, 3), confidence=True)


@pytest.mark.parametrize(
    "changed",
    [{"dropout": 0.0}, {"dropout": 1.0}, {"dropout": "x"}, {"temperature": 0}, {"channels": 0},
     {"temperature": float("nan")}, {"channels": 2.5}, {"fitted": 3}],
)  # fmt: skip
def test_a_damaged_statement_of_dropout_is_refused(changed):
    plain = lone_build.interface()
    whole = dataclasses.replace(plain, dropout=DROPOUT).to_json()
    assert type(plain).from_json(whole, "w").dropout == DROPOUT
    assert "confidence" not in plain.to_json()
    whole["confidence"] |= changed
    with pytest.raises(UserError, match="w is damaged"):
        type(plain).from_json(whole, "w")
