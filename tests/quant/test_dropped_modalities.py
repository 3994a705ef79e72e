"""Training with modalities left out: the same after an interruption, remembered, and scored."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from lmaunet.data import augment
from lmaunet.data.augment import batches
from lmaunet.data.dataset import Dataset, SliceSet
from lmaunet.data.modalities import check_droppable
from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, save_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.quant.qat import evaluate, modalities_of
from lmaunet.spec import NetSpec
from lmaunet.train.loop import fit
from lmaunet.train.processes import join_processes
from lmaunet.train.schedule import Schedule

SPEC = NetSpec(
    "pair", (4, 4, 4, 4, 4), in_channels=2, classes=2, states=2, kernels=(3, 3, 3, 3),
    mamba="none", input_size=(16, 16),
)  # fmt: skip


def slices(count=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, 16, 16), np.uint8)
    labels[:, 4:9, 5:12] = 1
    images = rng.normal(3, 0.1, (count, 2, 16, 16)).astype(np.float32)
    images[:, 1] += labels
    cases = np.array([f"c{seed}{i % 3}" for i in range(count)])
    return SliceSet(images, labels, cases, np.arange(count))


def data():
    return Dataset(
        "d", "l", ("background", "organ"), (1.0, 1.0, 1.0), slices(), slices(6, 1), "s", False,
        {"kind": "none"}, channels=("CT", "MR"),
    )  # fmt: skip


def drawn(epoch=0, drop=0.5, augment=True, rank=0, world=1):
    return [
        images.numpy()
        for images, _ in batches(
            slices(), 4, 5, augment, epoch=epoch, drop_modality=drop, rank=rank, world=world
        )
    ]


def left_out(images):
    return (images == 0).all((2, 3))


def test_batches_leave_out_whole_channels_and_nothing_else_changes():
    whole, part = drawn(drop=0.0), drawn()
    out = [left_out(images) for images in part]
    assert not any(left_out(images).any() for images in whole)
    assert 4 <= sum(int(o.sum()) for o in out) <= 12 and not any(o.all(1).any() for o in out)
    for before, after, gone in zip(whole, part, out, strict=True):
        assert np.array_equal(before[~gone], after[~gone])
    assert all(np.array_equal(a, b) for a, b in zip(part, drawn(), strict=True))
    others = [np.concatenate([left_out(i) for i in drawn(epoch)]) for epoch in (0, 1, 2)]
    assert not np.array_equal(others[0], others[1]) and not np.array_equal(others[1], others[2])


def test_a_channel_that_is_filled_with_another_constant_is_noticed(mutant_of):
    wrong = mutant_of(augment, ", ABSENT)", ", -1.0)")
    images = np.concatenate([
        i.numpy() for i, _ in wrong.batches(slices(), 4, 5, True, drop_modality=0.5)
    ])  # fmt: skip
    assert not left_out(images).any()


def train(folder, epochs, model=None):
    torch.manual_seed(3)
    model = LMaUNet(SPEC) if model is None else model
    fit(
        model, slices(), Schedule(epochs, 1e-2, 4, drop_modality=0.4), classes=2, seed=1,
        folder=folder, processes=join_processes(), progress=lambda fraction, line: None,
    )  # fmt: skip
    return model


class Stop(Exception):
    pass


def test_a_resumed_training_is_the_same(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    whole = train(tmp_path / "a", 3).state_dict()
    (tmp_path / "b").mkdir()
    real = batches

    def stops(*given, epoch, **named):
        if epoch == 2:
            raise Stop
        return real(*given, epoch=epoch, **named)

    monkeypatch.setattr("lmaunet.train.loop.batches", stops)
    with pytest.raises(Stop):
        train(tmp_path / "b", 3)
    monkeypatch.setattr("lmaunet.train.loop.batches", real)
    resumed = train(tmp_path / "b", 3).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_is_missing_is_scored_and_remembered(tmp_path):
    model = train(None, 2).eval()
    scores = evaluate(model, data())
    assert modalities_of(model, data(), Schedule(1, 1e-3), scores) == {}
    known = modalities_of(model, data(), Schedule(1, 1e-3, drop_modality=0.2), scores)
    content = known["modalities"]
    assert content["names"] == ["CT", "MR"] and content["absent"] == 0.0
    assert content["dice"]["all"] == scores.dice and len(content["dice"]["missing"]) == 2
    blind = data()
    blind.val.images[:, 1] = 0
    assert content["dice"]["missing"][1] == evaluate(model, blind).dice
    save_checkpoint(tmp_path / "m.pt", SPEC, model, **known)
    assert load_checkpoint(tmp_path / "m.pt").notes["modalities"]["drop"] == 0.2


def test_a_schedule_says_what_is_dropped():
    plain = Schedule(1, 1e-3)
    assert "drop_modality" not in plain.to_json()
    assert plain.dropping(0.3).drop_modality == 0.3
    assert Schedule(1, 1e-3, drop_modality=0.0).dropping(0.3).drop_modality == 0.0
    assert Schedule(1, 1e-3, drop_modality=0.1).to_json()["drop_modality"] == 0.1
    with pytest.raises(UserError, match="--drop-modality 2"):
        Schedule(1, 1e-3, drop_modality=2)


@pytest.mark.slow
def test_from_training_to_a_mask_with_one_missing(tmp_path, monkeypatch, capsys):
    """train, qat (which goes on dropping), export, build, infer with an image missing."""
    import SimpleITK

    from lmaunet.deploy import cli, console

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(5):
        labels = np.zeros((10, 32, 32), np.uint8)
        labels[2:8, 8:20, 9 + number : 20] = 1
        for channel in range(2):
            image = 200 + 100 * labels * (channel + 1) + rng.normal(0, 9, labels.shape)
            _write(tmp_path / f"d/imagesTr/c{number}_000{channel}.nii.gz", image.astype("f4"))
        _write(tmp_path / f"d/labelsTr/c{number}.nii.gz", labels)
    (tmp_path / "d/dataset.json").write_text(json.dumps({
        "channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1},
        "numTraining": 5, "file_ending": ".nii.gz"}))  # fmt: skip
    small = dataclasses.replace(SPEC, input_size=(32, 32), mamba="causal")
    (tmp_path / "s.json").write_text(json.dumps(small.to_json()))

    def run(*words):
        monkeypatch.setattr("sys.argv", ["lmaunet-deploy", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert stop.value.code == 0, said.err
        return said.out

    out = run("train", "--spec", "s.json", "--data", "d", "--run", "r", "--epochs", 6,
              "--drop-modality", 0.3)  # fmt: skip
    assert "without T2" in out
    out = run("qat", "--ckpt", "r/train/model.pt", "--data", "d", "--run", "r", "--epochs", 1)
    assert "left out with probability 0.3" in out
    run("build", "--target", "ort", "--run", "r", "--no-operators")
    said = json.loads((tmp_path / "r/build/ort/deployment.json").read_text())["modalities"]
    assert said["drop"] == 0.3 and said["names"] == ["T1", "T2"]
    out = run("infer", "--build", "r/build/ort", "d/imagesTr/c0_0000.nii.gz", "-", "-o", "s.nii")
    assert "image 2 (T2): missing" in out and "on held-out cases Dice was" in out
    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("s.nii"))
    assert mask.shape == (10, 32, 32)
    console.choose_output(quiet=False, verbose=False)


def _write(path, array):
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 5.0))
    SimpleITK.WriteImage(image, str(path))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kernels": (9,) * 4, "elastic": (5, 7, 9)}, "an elastic network"),
        ({"input_size": (16, 32, 32)}, "a network of volumes"),
    ],
)
def test_networks_whose_training_leaves_nothing_out_are_refused(changes, text):
    spec = NetSpec("x", (4, 8, 8, 8, 8), **changes)
    check_droppable(spec, 0.0)
    with pytest.raises(UserError, match=f"--drop-modality 0.2 with {text}"):
        check_droppable(spec, 0.2)
