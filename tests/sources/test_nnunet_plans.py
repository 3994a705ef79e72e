"""plans.json in its two forms, and what of it can't be deployed."""

from __future__ import annotations

import json
from copy import deepcopy

import nnunet_folder
import pytest

from lmaunet.errors import UserError
from lmaunet.sources.nnunet_plans import read_plan


@pytest.fixture
def read(tmp_path):
    """A function that reads a configuration of some content."""

    def reading(content, configuration="2d", channels=2):
        path = tmp_path / "plans.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_plan(path, configuration, channels)

    return reading


def test_the_newer_form(read):
    plan = read(nnunet_folder.plans())
    assert (plan.dataset, plan.name, plan.configuration) == (
        "Dataset007_Tiny", "nnUNetPlans", "2d"
    )  # fmt: skip
    assert plan.network == "PlainConvUNet"
    assert plan.arguments == {
        **nnunet_folder.arguments(), "conv_op": "Conv2d", "norm_op": "InstanceNorm2d",
        "nonlin": "LeakyReLU",
    }  # fmt: skip
    recipe = plan.recipe
    assert recipe.patch_size == (16, 24) and recipe.spacing_mm == (1.25, 0.75)
    assert recipe.transpose == (1, 0, 2) and recipe.mirror_axes == ()
    assert [c.scheme for c in recipe.channels] == ["CTNormalization", "ZScoreNormalization"]
    assert [c.masked for c in recipe.channels] == [False, True]
    assert recipe.channels[0].fingerprint == {
        "mean": 50.5, "std": 41.25, "percentile_00_5": -60.0, "percentile_99_5": 210.0
    }  # fmt: skip
    assert (recipe.images.order, recipe.logits.order, recipe.images.force) == (3, 1, None)
    assert recipe.reader == "SimpleITKIO"


@pytest.mark.parametrize("network", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_the_older_form_is_the_same_network(read, network):
    older, newer = (read(nnunet_folder.plans(network, older=old)) for old in (True, False))
    # features double up to the largest
    assert older.arguments == {**newer.arguments, "features_per_stage": [4, 7, 7]}
    assert older.recipe == newer.recipe and older.network == network


def test_a_configuration_inherits(read):
    assert (
        read(nnunet_folder.plans(), "2d_small").arguments == read(nnunet_folder.plans()).arguments
    )


def test_older_names_and_defaults(read):
    content = nnunet_folder.plans()
    content["foreground_intensity_properties_by_modality"] = content.pop(
        "foreground_intensity_properties_per_channel"
    )
    for key in ("resampling_fn_data_kwargs", "resampling_fn_probabilities_kwargs"):
        del content["configurations"]["2d"][key]
    assert read(content).recipe == read(nnunet_folder.plans()).recipe


def changed(*path, value):
    content = deepcopy(nnunet_folder.plans())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


TWO = ("configurations", "2d")
ARGUMENTS = (*TWO, "architecture", "arch_kwargs")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ({}, "is no plan of nnU-Net v2"),
        (changed("dataset_name", value=3), "dataset_name 3; expected a name"),
        (changed(*TWO, "architecture", value=[]), "expected network_class_name and arch_kwargs"),
        (changed(*TWO, "architecture", "network_class_name", value="os.system"),
         "of network 'os.system'; expected PlainConvUNet or ResidualEncoderUNet"),
        (changed(*TWO, "architecture", "network_class_name", value="mine.PlainConvUNet"),
         "of network 'mine.PlainConvUNet'"),
        (changed(*ARGUMENTS, "nonlin", value="os.system"), "nonlin 'os.system'; expected"),
        (changed(*ARGUMENTS, "conv_op", value=None), "conv_op None; expected Conv2d"),
        (changed(*ARGUMENTS, "strange", value=1), "with arguments 'strange'"),
        (changed(*ARGUMENTS, "n_stages", value=1), "n_stages 1; expected 2 to 16"),
        (changed(*ARGUMENTS, "strides", value=[[1, 1]]), r"strides \[\[1, 1\]\]; expected a whole"),
        (changed(*ARGUMENTS, "features_per_stage", value=[4, 5, 1e9]), "features_per_stage"),
        (changed(*ARGUMENTS, "norm_op_kwargs", value=3), "norm_op_kwargs 3; expected an object"),
        (changed(*TWO, "normalization_schemes", value=["CTNormalization"]),
         r"dataset.json names 2 channel\(s\); expected one for each"),
        (changed(*TWO, "normalization_schemes", value=["Own", "Own"]), "normalization 'Own'"),
        (changed(*TWO, "spacing", value=3), "spacing 3; expected a list"),
        (changed(*TWO, "spacing", value=[1.0, -1.0]), "expected millimetres"),
        (changed(*TWO, "patch_size", value=[16, 24, 8]), "2d is 3-D, with a patch of 16x24x8"),
        (changed("transpose_forward", value=[0, 1]), "transposition"),
        (changed(*TWO, "resampling_fn_data", value="resample_torch_fornnunet"),
         "resampling_fn_data 'resample_torch_fornnunet'"),
        (changed(*TWO, "resampling_fn_data_kwargs", value={"order": 5}), "expected orders 0, 1"),
        (changed(*TWO, "inherits_from", value="2d"), "no configuration '2d', from which 2d"),
        (changed(*TWO, "inherits_from", value="x"), "no configuration 'x', from which 2d"),
        (changed("foreground_intensity_properties_per_channel", value={}), "CTNormalization needs"),
    ],
)  # fmt: skip
def test_what_a_plan_can_lack(read, content, said):
    with pytest.raises(UserError, match=said):
        read(content)


def test_an_older_plan_without_its_numbers(read):
    content = nnunet_folder.plans(older=True)
    del content["configurations"]["2d"]["conv_kernel_sizes"]
    with pytest.raises(
        UserError, match=r"describes no network \(KeyError\('conv_kernel_sizes'\)\)"
    ):
        read(content)


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        ("3d_fullres", "is 3-D, with a patch of 8x16x24; .* nnUNetv2_train DATASET 2d FOLD"),
        ("2d_cascade", "is a cascade on '2d_small'"),
        ("2d_large", "no configuration '2d_large'; it has 2d, 2d_cascade, 2d_small, 3d_fullres"),
    ],
)
def test_configurations_that_are_not_deployed(read, configuration, said):
    with pytest.raises(UserError, match=said):
        read(nnunet_folder.plans(), configuration)
