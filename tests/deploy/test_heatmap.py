"""``heatmap`` as a user types it, and its pictures in a report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK
import torch
from command_line import runner

from lmaunet.deploy import heatmap_pictures
from lmaunet.deploy.heatmap_pictures import (
    heat_rows,
    heatmap_rows,
    rows_of,
    write_heatmaps,
)
from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.quant.heatmaps import blocks_of, class_activation
from lmaunet.spec import NetSpec

SPEC = NetSpec("small", (4, 4, 4, 4, 4), classes=3, states=2, kernels=(3, 3, 3, 3),
               input_size=(32, 32))  # fmt: skip
CLASSES = ("background", "class 1", "class 2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("heat")
    torch.manual_seed(3)
    network = LMaUNet(SPEC).eval()
    save_checkpoint(place / "model.pt", SPEC, network, classes=list(CLASSES))
    rng = np.random.default_rng(0)
    for number in range(3):
        label = np.zeros((4, 32, 32), np.uint8)
        label[:, 8:16, 8:20], label[:, 20:28, 12:24] = 1, 2
        image = rng.normal(0, 20, label.shape).astype(np.float32) + 100.0 * label
        for folder, array in (("images", image), ("labels", label)):
            (place / "set" / folder).mkdir(parents=True, exist_ok=True)
            made = SimpleITK.GetImageFromArray(array)
            made.SetSpacing((2.0, 2.0, 5.0))
            made.SetOrigin((7.0, -3.0, 11.0))
            SimpleITK.WriteImage(made, str(place / "set" / folder / f"p{number}.nii.gz"))
    return place


@pytest.fixture
def run(monkeypatch, capsys, place):
    monkeypatch.chdir(place)
    return runner(monkeypatch, capsys)


HEATMAP = ("heatmap", "set/images/p0.nii.gz", "--ckpt", "model.pt", "--class", "Class 1")


def test_a_map_of_each_block_lies_on_the_image(run, place):
    command = (*HEATMAP, "--data", "set", "-o", "m.nii.gz", "--pixels", "all")
    status, out, err = run(*command, "--json")
    assert status == 0, err
    content = json.loads(out)
    assert content["class"] == {"index": 1, "name": "class 1"} and "largest" in content["meaning"]
    assert [m["block"] for m in content["maps"]] == ["lkm1", "lkm2", "lkm3", "lkm4"]
    image = SimpleITK.ReadImage(str(place / "set" / "images" / "p0.nii.gz"))
    for entry in content["maps"]:
        found = SimpleITK.ReadImage(entry["file"])
        assert entry["file"] == f"m.{entry['block']}.nii.gz"
        for of in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert np.allclose(getattr(found, of)(), getattr(image, of)()), of
        values = SimpleITK.GetArrayFromImage(found)
        assert values.dtype == np.float32 and values.min() >= 0
        assert values.max() == (1.0 if entry["largest"] > 0 else 0.0)
    # one block is written where it was asked for, and is that of the network itself
    status, out, err = run(*command[:-4], "-o", "one.nii.gz", "--pixels", "all", "--stage", "lkm2")
    assert status == 0, err
    one = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("one.nii.gz"))
    same = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("m.lkm2.nii.gz"))
    assert np.array_equal(one, same) and one.any()
    from lmaunet.data.loaders import load

    data = load(place / "set", size=(32, 32))
    side = data.train if "p0" in data.train.cases else data.val
    images = torch.from_numpy(side.images[side.cases == "p0"])
    network = LMaUNet(SPEC)
    network.load_state_dict(torch.load(place / "model.pt", weights_only=True)["state"])
    whole = class_activation(network, images, 1, ["stages.1"], "all")[:, 0].numpy()
    assert whole.shape == one.shape == (4, 32, 32)
    assert np.allclose(one, whole / whole.max(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--data", "set", "--class", "spleen"), "has 0 background, 1 class 1, 2 class 2"),
        (("--data", "set", "--class", "3"), "--class '3' is no class"),
        (("--data", "set", "--stage", "lkm7"), "no block 'lkm7'; the network's are lkm1"),
        (("--data", "set", "--pixels", "some"), "give mask or all"),
        (("--data", "set", "--overlap", "2"), "overlap"),
        (("--data", "set", "--quantized"), "--quantized is for --run"),
        (("--data", "set", "--run", "set"), "--run and --ckpt exclude each other"),
        (("--data", "no"), "no does not exist"),
        ((), "nothing beside model.pt says how its images are prepared"),
        (("--data", "set", "-o", "m.dcm"), "makes no DICOM segmentation"),
        (("--data", "set", "-o", "set/images/p0.nii.gz"), "would overwrite"),
        (("--data", "set", "--ckpt", "no.pt"), "--ckpt no.pt is no file"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_said_in_a_line(run, place, change, said):
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}
    given = dict(zip(change[0::2], change[1::2], strict=False)) if len(change) % 2 == 0 else {}
    base = {"--ckpt": "model.pt", "--class": "class 1", "-o": "bad.nii.gz"} | given
    words = [word for pair in base.items() for word in pair]
    if not given:
        words += change
    status, _, err = run("heatmap", "set/images/p0.nii.gz", *words)
    assert status == 2 and said in err and "Traceback" not in err, err
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before


def test_a_class_that_the_network_gives_nowhere_is_said(run, place):
    """A map of zeros with a note, not a map scaled from nothing."""
    network = LMaUNet(SPEC).eval()
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    save_checkpoint(place / "none.pt", SPEC, network, classes=list(CLASSES))
    status, out, err = run(
        "heatmap", "set/images/p0.nii.gz", "--ckpt", "none.pt", "--class", "2", "--data", "set",
        "-o", "none.nii.gz", "--stage", "lkm1",
    )  # fmt: skip
    assert status == 0, err
    assert "lkm1 is 0 throughout: the network gives no pixel of this image the class" in out
    assert not SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(place / "none.nii.gz"))).any()


def some_slices():
    rng = np.random.default_rng(1)
    label = np.zeros((3, 32, 32), np.uint8)
    label[1, 4:12, 4:20], label[1, 20:24, 8:16] = 2, 1
    return rng.normal(size=(3, 1, 32, 32)).astype(np.float32), label


def test_pictures_of_the_slice_with_the_most_organs(mutant_of):
    torch.manual_seed(0)
    network, (images, label) = LMaUNet(SPEC).eval(), some_slices()
    titles = ["a", "b", "c"]
    rows = heatmap_rows(network, images, label, CLASSES, titles=titles, pixels="all")
    assert rows["columns"] == ["image", "lkm1", "lkm2", "lkm3", "lkm4"]
    assert [row["title"] for row in rows["rows"]] == ["class 2: b", "class 1: b"]
    size = sum(len(tile) for row in rows["rows"] for tile in row["tiles"])
    assert size < 400_000
    first, second = (row["tiles"] for row in rows["rows"])
    assert first[0] == second[0] and first[1] != second[1]
    assert heatmap_rows(network, images, 0 * label, CLASSES, titles=titles) == {}
    mutant = mutant_of(heatmap_pictures, "enlarge(share, scale)", "enlarge(0 * share, scale)")
    blank = mutant.heatmap_rows(network, images, label, CLASSES, titles=titles, pixels="all")
    assert blank["rows"][0]["tiles"][1] != first[1]


def test_a_measurement_keeps_the_maps_that_a_report_draws(tmp_path):
    from types import SimpleNamespace

    torch.manual_seed(0)
    network, (images, label) = LMaUNet(SPEC).eval(), some_slices()
    data = SimpleNamespace(val=SimpleNamespace(images=images, labels=label))
    write_heatmaps(tmp_path, network, data)
    rows = heat_rows(tmp_path, data.val, CLASSES, ["a", "b", "c"])
    assert rows["columns"][1:] == list(blocks_of(network)) and len(rows["rows"]) == 2
    with np.load(tmp_path / "heatmaps.npz") as kept:
        maps = dict(kept)
    first, second = (
        rows_of(maps | {"maps": maps["maps"] * seen}, images, CLASSES, ["a", "b", "c"])["rows"]
        for seen in (0, np.array([0, 1])[:, None, None, None])
    )
    assert all(row["title"].endswith("; the network gives it no pixel there") for row in first)
    assert "no pixel" in second[0]["title"] and (
        ("no pixel" in second[1]["title"]) == (not maps["maps"][1].any())
    )
    (tmp_path / "heatmaps.npz").unlink()
    assert heat_rows(tmp_path, data.val, CLASSES, ["a", "b", "c"]) == {}
    # a network of which nobody knows the blocks, and volumes, have no maps
    from lmaunet.graph.capture import capture
    from lmaunet.graph.module import GraphModule

    plain = GraphModule(*capture(torch.nn.Conv2d(1, 3, 1), (1, 1, 32, 32)))
    write_heatmaps(tmp_path, plain, data)
    write_heatmaps(
        tmp_path, network, SimpleNamespace(val=SimpleNamespace(images=images[None], labels=label))
    )
    assert not list(tmp_path.iterdir())


def test_a_pages_heat_is_beside_its_overlays():
    from lmaunet.deploy import render

    tile = "data:image/png;base64,AAAA"
    pictures = {"rows": [{"title": "t", "tiles": [tile]}],
                "heat": {"columns": ["image"], "rows": [{"title": "u", "tiles": [tile]}]},
                }  # fmt: skip
    assert render._pictures(pictures) is pictures
    pictures["heat"]["rows"][0]["tiles"] = ["http://elsewhere"]
    with pytest.raises(ValueError, match="a tile of u is not a PNG data URI"):
        render._pictures(pictures)
