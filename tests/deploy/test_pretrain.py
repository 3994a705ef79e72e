"""``pretrain`` and ``train --init`` as a user types them, on a small phantom in files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK
import torch
from command_line import runner

from lmaunet.data.phantom import phantom_volume
from lmaunet.stage import read_json, read_manifest

SPEC = {"name": "tiny", "widths": [4, 8, 8, 8, 8], "states": 2, "kernels": [3, 3, 3, 3],
        "input_size": [32, 32]}  # fmt: skip


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("pretrain")
    for number in range(3):
        hu, labels = phantom_volume(number)
        write(place / "set" / "images" / f"p{number}.nii.gz", hu[40:64:3, ::3, ::4])
        write(place / "set" / "labels" / f"p{number}.nii.gz", labels[40:64:3, ::3, ::4])
        if number == 0:
            write(place / "plain" / "a.nii.gz", hu[40:64:3, ::3, ::4])
    (place / "set" / "classes.json").write_text(
        json.dumps({
            "classes": ["background", *(f"organ {i}" for i in range(1, 9))],
            "codes": {str(i): i for i in range(1, 9)},
        })
    )  # fmt: skip
    (place / "tiny.json").write_text(json.dumps(SPEC))
    return place


@pytest.fixture
def run(monkeypatch, capsys, place):
    monkeypatch.chdir(place)
    return runner(monkeypatch, capsys)


PRETRAIN = ("pretrain", "--spec", "tiny.json", "--mask-block", "8", "--epochs", "1")
TRAIN = ("train", "--spec", "tiny.json", "--data", "set", "--epochs", "1", "--run", "t")


def test_a_labelled_set_pretrains_and_then_trains(run, place):
    status, out, err = run(*PRETRAIN, "--data", "set", "--json")
    assert status == 0, err
    content = json.loads(out)
    assert content["images"]["cases"] == 2 and len(content["images"]["kept_out"]) == 1
    made = place / "runs" / "tiny-set" / "pretrain"
    assert {p.name for p in made.iterdir()} == {"model.pt", "pretrain.json", "manifest.json"}
    before = (made / "model.pt").read_bytes()
    status, out, _ = run(*PRETRAIN, "--data", "set")
    assert status == 0 and "(was there already)" in out and "train --spec tiny" in out

    # what is in the labels changes nothing, not even that the stage is current
    kept = {p: p.read_bytes() for p in (place / "set" / "labels").iterdir()}
    for path in kept:
        path.write_bytes(b"not read")
    status, out, _ = run(*PRETRAIN, "--data", "set")
    assert status == 0 and "(was there already)" in out
    assert (made / "model.pt").read_bytes() == before
    for path, content in kept.items():
        path.write_bytes(content)

    init = made / "model.pt"
    status, _, err = run("qat", "--ckpt", init, "--data", "set", "--run", "q")
    assert status == 2 and "its head is not trained" in err and "--init" in err
    assert not (place / "q").exists()

    assert run(*TRAIN)[0] == 0
    plain = torch.load(place / "t" / "train" / "model.pt", weights_only=True)
    status, _, err = run(*TRAIN, "--init", init)
    assert status == 0, err
    begun = torch.load(place / "t" / "train" / "model.pt", weights_only=True)
    differing = [k for k, v in begun["state"].items() if not torch.equal(v, plain["state"][k])]
    assert "stages.0.local.weight" in differing
    manifest = read_manifest(place / "t" / "train")
    assert manifest["inputs"]["init"]["sha256"] == begun["notes"]["initialized"]["sha256"]
    keys = {manifest["key"]}
    # the same command finds it, another file does not
    stamp = (place / "t" / "train" / "manifest.json").stat().st_mtime_ns
    assert run(*TRAIN, "--init", init)[0] == 0
    assert (place / "t" / "train" / "manifest.json").stat().st_mtime_ns == stamp
    assert run(*PRETRAIN, "--data", "set", "--seed", "1", "--run", "other")[0] == 0
    assert run(*TRAIN, "--init", place / "other" / "pretrain" / "model.pt")[0] == 0
    keys.add(read_manifest(place / "t" / "train")["key"])
    assert len(keys) == 2


def test_images_that_validate_elsewhere_are_found_out(run, place, monkeypatch):
    """By their pixels, whatever the files are called and wherever they lie."""
    held = read_json_of(run, place)["images"]["kept_out"][0]
    image = SimpleITK.ReadImage(str(place / "set" / "images" / f"{held}.nii.gz"))
    (place / "foreign").mkdir()
    SimpleITK.WriteImage(image, str(place / "foreign" / "someone.mha"))
    assert run(*PRETRAIN, "--data", "foreign", "--run", "f")[0] == 0
    command = (*TRAIN[:-1], "u", "--init", place / "f" / "pretrain" / "model.pt")
    status, _, err = run(*command)
    assert status == 2 and f"({held}, there someone)" in err and err.count("\n") <= 4
    assert not (place / "u").exists()
    # and of a network that was trained on from it
    monkeypatch.setattr("lmaunet.deploy.pretraining._check_held_out", lambda *given: None)
    assert run(*command)[0] == 0
    monkeypatch.undo()
    monkeypatch.chdir(place)
    again = (*TRAIN[:-1], "w", "--init", place / "u" / "train" / "model.pt")
    status, _, err = run(*again)
    assert status == 2 and f"({held}, there someone)" in err


def read_json_of(run, place):
    assert run(*PRETRAIN, "--data", "set")[0] == 0
    return read_json(place / "runs" / "tiny-set" / "pretrain" / "pretrain.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "no"), "no does not exist"),
        (("--data", "plain", "--mask-share", "1.5"), "a share between 0 and 1"),
        (("--data", "plain", "--mask-block", "64"), "give smaller blocks"),
        (("--data", "plain", "--channels", "2"), "give --channels 1"),
        (("--data", "plain", "--epochs", "0"), "each must be positive"),
        (("--data", "plain", "--run", "tiny.json"), "is a file; name a folder"),
    ],
)
def test_what_can_not_be_is_said_in_a_line(run, place, words, said):
    before = sorted(place.rglob("*"))
    status, out, err = run(*PRETRAIN, *words)
    assert status == 2 and said in err and "Traceback" not in err and out == ""
    assert [line for line in err.splitlines() if line.startswith("lmaunet-deploy")]
    assert sorted(place.rglob("*")) == before


def test_an_init_that_is_not_there_or_is_of_another_spec(run, place):
    status, _, err = run(*TRAIN[:-1], "v", "--init", "no.pt")
    assert status == 2 and "--init no.pt is no file" in err and not (place / "v").exists()
    run(*PRETRAIN, "--data", "set")
    init = place / "runs" / "tiny-set" / "pretrain" / "model.pt"
    status, _, err = run(
        "train", "--spec", "demo", "--input-size", "32", "--data", "set", "--epochs", "1",
        "--run", "v", "--init", init,
    )  # fmt: skip
    assert status == 2 and "shallow.0.conv.weight is 4x1x3x3, spec demo has 12x1x3x3" in err
    assert not (place / "v").exists()


def test_a_note_on_pretraining_that_is_damaged(run, place):
    run(*PRETRAIN, "--data", "set")
    content = torch.load(place / "runs" / "tiny-set" / "pretrain" / "model.pt", weights_only=True)
    content["notes"]["pretraining"] = {"digests": 3}
    torch.save(content, place / "damaged.pt")
    status, _, err = run(*TRAIN[:-1], "v", "--init", "damaged.pt")
    assert status == 2 and "its note on pretraining is damaged" in err


def test_what_is_written_is_of_the_images_alone(run, place):
    """The head of the checkpoint is as it was initialized."""
    read_json_of(run, place)
    from lmaunet.net.network import LMaUNet
    from lmaunet.spec import NetSpec

    torch.manual_seed(0)
    fresh = LMaUNet(NetSpec.from_json(SPEC))
    content = torch.load(place / "runs" / "tiny-set" / "pretrain" / "model.pt", weights_only=True)
    assert torch.equal(content["state"]["head.weight"], fresh.head.weight)
    moved = content["state"]["shallow.0.conv.weight"] - fresh.shallow[0].conv.weight
    assert float(np.abs(moved.detach()).max()) > 0
