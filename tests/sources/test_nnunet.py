"""A network from an nnU-Net results folder: what is read, and what is refused in one sentence."""

from __future__ import annotations

import json

import nnunet_folder
import pytest
import torch

from lmaunet.data.nnunet_recipe import NnunetRecipe
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.sources import nnunet
from lmaunet.sources.checkpoint import NNUNET, restore
from lmaunet.sources.nnunet import import_network, read_nnunet

NAME = "nnUNetTrainer__nnUNetPlans__2d"


@pytest.fixture
def unet():
    return pytest.importorskip("dynamic_network_architectures.architectures.unet")


class Nothing(torch.nn.Module):
    """A network that no plan says."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 1)


@pytest.fixture
def made(tmp_path):
    """A function that writes a results folder whose checkpoint never comes to be loaded."""

    def make(name=NAME, content=None, dataset=nnunet_folder.DATASET, **trained):
        content = content or nnunet_folder.plans()
        checkpoint = nnunet_folder.trained(Nothing(), **trained)
        return nnunet_folder.write(tmp_path / name, content, checkpoint, dataset)

    return make


def whole(folder, content, classes=3, **trained):
    """Write a results folder with the plan's own network; return the network."""
    network = nnunet_folder.network(content, classes)
    nnunet_folder.write(folder, content, nnunet_folder.trained(network, **trained))
    network.decoder.deep_supervision = False
    return network.eval()


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_from_the_folder_to_a_checkpoint(tmp_path, unet, kind):
    folder = tmp_path / NAME
    theirs = whole(folder, nnunet_folder.plans(kind), mirror=(1,))
    found = read_nnunet(folder)
    assert found.fold == "0" and found.trainer == "nnUNetTrainer"
    assert found.classes == ("background", "liver", "left kidney")
    assert found.channels == ("CT", "PET") and found.recipe.mirror_axes == (1,)
    assert found.notices == (
        "left out, they were for training alone (deep supervision): decoder.seg_layers.0",
    )
    written = import_network(found, tmp_path / "run" / "import" / "network.pt")
    assert written.spec.name == "nnunet-Dataset007_Tiny-2d" and written.agreement.passed
    loaded = load_checkpoint(written.path)
    assert loaded.notes["classes"] == list(found.classes)
    note = loaded.notes[NNUNET]
    assert NnunetRecipe.from_json(note["recipe"]) == found.recipe
    assert note["fold"] == "0" and note["network"] == kind and note["plans"] == "nnUNetPlans"
    image = torch.randn(3, 2, 16, 24)
    with torch.no_grad():
        expected, got = theirs(image), restore(loaded, written.path)(image)
    assert got.shape == (3, 3, 16, 24)
    assert (got - expected).abs().max() <= 2**-16 * expected.abs().max()
    assert not any("seg_layers.0" in name for name in loaded.state)


def test_batch_normalization_of_its_trainer(tmp_path, unet):
    content = nnunet_folder.plans()
    given = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
    given["norm_op"] = "torch.nn.BatchNorm2d"
    folder = tmp_path / "nnUNetTrainerBN__nnUNetPlans__2d"
    theirs = whole(folder, content, trainer="nnUNetTrainerBN")
    (folder / "plans.json").write_text(json.dumps(nnunet_folder.plans()))
    image = torch.randn(2, 2, 16, 24)
    with torch.no_grad():
        assert torch.equal(read_nnunet(folder).module(image), theirs(image))


def test_one_of_several_folds_and_files(tmp_path, unet):
    content, folder = nnunet_folder.plans(), tmp_path / NAME
    networks = [nnunet_folder.network(content, seed=seed) for seed in (1, 2)]
    trained = [
        nnunet_folder.trained(network, mirror=None, fold=fold)
        for network, fold in zip(networks, (1, "all"), strict=True)
    ]
    nnunet_folder.write(folder, content, trained[0], fold=1)
    nnunet_folder.write(folder, content, trained[1], fold="all", name="checkpoint_best.pth")
    with pytest.raises(UserError, match=r"has the folds 1, all; .* such as --fold 1"):
        read_nnunet(folder)
    with pytest.raises(UserError, match="has no fold '3'; it has 1, all"):
        read_nnunet(folder, "3")
    with pytest.raises(UserError, match=r"no checkpoint_final.pth; it has checkpoint_best.pth"):
        read_nnunet(folder, "all")
    with pytest.raises(UserError, match=r"has no ../fold_1/checkpoint_final.pth"):
        read_nnunet(folder, "all", "../fold_1/checkpoint_final.pth")
    for fold, name, network in (
        ("1", "checkpoint_final.pth", networks[0]), ("all", "checkpoint_best.pth", networks[1])
    ):  # fmt: skip
        found = read_nnunet(folder, fold, name)
        assert found.fold == fold and found.recipe.mirror_axes == ()
        for key, value in network.state_dict().items():
            assert torch.equal(found.module.state_dict()[key], value)


def test_wrapped_and_half_weights(tmp_path, unet):
    content, folder = nnunet_folder.plans(), tmp_path / NAME
    network = nnunet_folder.network(content)
    trained = nnunet_folder.trained(network)
    state = network.state_dict()
    trained["network_weights"] = {f"module.{k}": v.half() for k, v in state.items()}
    found = read_nnunet(nnunet_folder.write(folder, content, trained)).module.state_dict()
    assert all(torch.equal(found[name], value.half().float()) for name, value in state.items())


def weights(change):
    """Return a function that changes the weights of a whole folder."""

    def apply(folder):
        path = folder / "fold_0" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        change(content["network_weights"])
        torch.save(content, path)

    return apply


def other_plan(folder):
    content = nnunet_folder.plans()
    given = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
    given["features_per_stage"] = [4, 6, 10]
    (folder / "plans.json").write_text(json.dumps(content))


def more_classes(folder):
    labels = {**nnunet_folder.DATASET["labels"], "spleen": 3}
    (folder / "dataset.json").write_text(json.dumps({**nnunet_folder.DATASET, "labels": labels}))


def longer(folder):
    content = nnunet_folder.plans()
    given = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
    given["n_conv_per_stage"] = [2, 2, 1]
    (folder / "plans.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_plan, r"of another network than plans.json .* tensors .* \(8, .* expected \(10, "),
        (more_classes, "of another network than plans.json says: .*seg_layers"),
        (longer, "is not of the network that plans.json says: .* tensors lack"),
        (weights(lambda w: w.pop("decoder.seg_layers.0.bias")), "1 tensors lack"),
        (weights(lambda w: w.update(x=torch.ones(1))), r"1 are unknown \['x'\]"),
        (weights(lambda w: w["decoder.seg_layers.1.bias"].fill_(torch.nan)), "not finite"),
        (weights(lambda w: w.update(
            {"decoder.encoder.stages.0.0.convs.0.conv.bias": torch.ones(4)})), "two tensors"),
        (weights(lambda w: w.clear()), "holds no state dict"),
    ],
)  # fmt: skip
def test_weights_of_another_network(tmp_path, unet, change, said):
    folder = tmp_path / NAME
    whole(folder, nnunet_folder.plans())
    change(folder)
    with pytest.raises(UserError, match=said):
        read_nnunet(folder)


def test_an_ignore_label_has_no_output(tmp_path, unet):
    folder = tmp_path / NAME
    whole(folder, nnunet_folder.plans())
    labels = {**nnunet_folder.DATASET["labels"], "ignore": 3}
    (folder / "dataset.json").write_text(json.dumps({**nnunet_folder.DATASET, "labels": labels}))
    found = read_nnunet(folder)
    assert len(found.classes) == 3 and "ignore" in found.notices[-1]


def test_an_operator_that_no_graph_has(tmp_path, unet, monkeypatch):
    folder = tmp_path / NAME
    whole(folder, nnunet_folder.plans())
    found = read_nnunet(folder)
    found.module.decoder.seg_layers[-1] = torch.nn.Sequential(
        found.module.decoder.seg_layers[-1], torch.nn.Tanh()
    )
    with pytest.raises(UserError, match="tanh"):
        import_network(found, tmp_path / "network.pt")
    assert not (tmp_path / "network.pt").exists()


def test_a_plan_that_the_class_refuses(tmp_path, unet):
    content, folder = nnunet_folder.plans(), tmp_path / NAME
    whole(folder, content)
    given = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
    given["norm_op_kwargs"] = {"strange": 1}
    (folder / "plans.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"can't be built as plans.json says \(TypeError: .*strange"
    ):
        read_nnunet(folder)


def test_without_the_package_it_says_what_installs_it(made, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dynamic_network_architectures", None)
    monkeypatch.delitem(
        __import__("sys").modules, "dynamic_network_architectures.architectures", raising=False
    )
    with pytest.raises(ToolNotFound, match=r"install .*dynamic-network-architectures") as caught:
        read_nnunet(made())
    assert caught.value.exit_status == 3


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        (
            {"trainer": "MyTrainer", "name": "MyTrainer__nnUNetPlans__2d"},
            "by MyTrainer, which does not come .* give --code DIR, the folder that holds the nnu",
        ),
        ({"trainer": "nnUNetTrainer_100epochs"}, "its folder is of nnUNetTrainer and 2d"),
        ({"configuration": "2d_small"}, "in configuration 2d_small; its folder is of"),
        ({"fold": 2}, "trained on fold 2, and is in fold_0; give the file in the folder where"),
        ({"fold": "all"}, "trained on fold all, and is in fold_0"),
        ({"configuration": 3}, "is no checkpoint of nnU-Net v2"),
        ({"plans": {"plans_name": "Other"}}, "plans_name 'Other'; plans.json says 'nnUNetPlans'"),
        ({"plans": {"dataset_name": "Dataset001_A"}}, "says 'Dataset007_Tiny': give the check"),
        ({"mirror": (0, 2)}, r"mirrors along the axes \(0, 2\)"),
    ],
)
def test_checkpoints_of_another_training(made, trained, said):
    with pytest.raises(UserError, match=said):
        read_nnunet(made(**trained))


@pytest.mark.parametrize(
    "name",
    ["nnUNetTrainer", "nnUNetTrainer_250epochs", "nnUNetTrainerNoMirroring", "nnUNetTrainerBN",
     "nnUNetTrainerDA5ord0", "nnUNetTrainerDiceCELoss_noSmooth", "nnUNetTrainerAdan1en3",
     "nnUNetTrainer_onlyMirror01_1500ep", "nnUNetTrainerDiceTopK10Loss", "nnUNet_Trainer_BS8"],
)  # fmt: skip
def test_trainers_whose_network_is_the_plans(name):
    assert nnunet.STOCK.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerLKMUNet", "nnUNet_Primus_M_Trainer", "nnUNetTrainer_epochs", "MyTrainer"]
)
def test_trainers_that_may_have_another(name):
    assert not nnunet.STOCK.fullmatch(name)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_a_folder_without_one_of_its_files(made, name):
    folder = made()
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{NAME} has no {name}; expected a folder that nnUNetv2"):
        read_nnunet(folder)


def test_folders_above_and_below(made, tmp_path):
    folder = made()
    with pytest.raises(UserError, match=f"it has {NAME}: give one of these"):
        read_nnunet(folder.parent)
    with pytest.raises(UserError, match=f"give the folder above, .*{NAME}"):
        read_nnunet(folder / "fold_0")
    with pytest.raises(UserError, match="is no folder; give one such as nnUNet_results"):
        read_nnunet(tmp_path / "nowhere")
    for file in folder.glob("fold_0/*"):
        file.unlink()
    with pytest.raises(UserError, match="it has no checkpoint; finish its training"):
        read_nnunet(folder)
    (folder / "fold_0").rmdir()
    with pytest.raises(UserError, match="has no fold_0 or other fold"):
        read_nnunet(folder)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "has regions, 'whole'"),
        ({"labels": {"background": 0, "a": 1}, "regions_class_order": [1]}, "has regions"),
        ({}, "is no dataset.json of nnU-Net"),
        ([], "is no dataset.json of nnU-Net"),
        ({"labels": {"background": 0, "a": 2}}, "no label has the value 1"),
    ],
)
def test_data_sets_that_are_not_deployed(made, dataset, said):
    with pytest.raises(UserError, match=said):
        read_nnunet(made(dataset=dataset))


@pytest.mark.parametrize("content", [b"", b"\x80\x02damaged", b"PK\x03\x04damaged"])
def test_a_damaged_file(made, content):
    folder = made()
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|not a torch checkpoint"):
        read_nnunet(folder)


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_code_in_a_checkpoint_is_not_run(made, capsys):
    folder = made()
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**nnunet_folder.trained(Nothing()), "logging": Code()}, path)
    with pytest.raises(UserError, match="more than tensors and plain data"):
        read_nnunet(folder)
    assert "run" not in capsys.readouterr().out
