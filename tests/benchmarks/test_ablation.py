"""The ablation: which variants are trained, and their rows from scores."""

import dataclasses

import ablation
import pytest

from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.spec import SPECS
from lmaunet.stage import write_json


@pytest.mark.parametrize("name", [name for name in SPECS if SPECS[name].mamba != "none"])
def test_every_variant_is_another_network(name):
    spec = SPECS[name]
    variants, left_out = ablation.variants_of(spec, None)
    assert next(iter(variants)) == ablation.AS_IT_IS and variants[ablation.AS_IT_IS] == spec
    networks = list(variants.values())
    assert all(a != b for i, a in enumerate(networks) for b in networks[:i])
    assert len(variants) + len(left_out) == len(ablation.VARIANTS)


def test_a_spec_without_mamba_has_nothing_to_vary():
    with pytest.raises(UserError, match="--spec unet has no Mamba to vary; give base"):
        ablation.variants_of(SPECS["unet"], None)


def test_a_variant_that_is_the_spec_as_it_is_is_left_out_and_said():
    wide = dataclasses.replace(SPECS["edge"], expand=2)
    variants, left_out = ablation.variants_of(wide, "expand-2,both-ways,as-it-is")
    assert list(variants) == ["as-it-is", "both-ways"]
    assert left_out == ["left out expand-2: with spec edge it is the same as as-it-is"]
    _, left_out = ablation.variants_of(wide, None)
    assert left_out[1:] == [
        f"left out {name}: with spec edge it is the same as as-it-is"
        for name in ("8-states", "expand-2-8-states")
    ]
    wide = dataclasses.replace(wide, states=16)
    _, left_out = ablation.variants_of(wide, None)
    assert left_out[-1] == "left out expand-2-8-states: with spec edge it is the same as 8-states"
    with pytest.raises(UserError, match=r"left out expand-2: .*nothing is left to compare"):
        ablation.variants_of(wide, "as-it-is,expand-2")


@pytest.mark.parametrize("names", ["expand-2", "as-it-is,expand-3", "as-it-is,"])
def test_unknown_variants_are_refused(names):
    with pytest.raises(UserError, match="give as-it-is and any of"):
        ablation.variants_of(SPECS["edge"], names)


def scores(*dices):
    """Scores of one class in one case for each patient."""
    per_case = {f"p{i}_frame1": {"organ": dice} for i, dice in enumerate(dices)}
    return {"dice": sum(dices) / len(dices), "per_case": per_case}


FOUND = {
    "as-it-is": [scores(0.8, 0.7), scores(0.8, 0.7)],
    "8-states": [scores(0.8, 0.6), scores(0.8, 0.8)],
    "both-ways": [scores(0.9, 0.9), scores(0.9, 0.7)],
}


def test_rows_are_differences_from_the_spec_as_it_is():
    spec = SPECS["demo"]
    rows = {name: ablation.row_of(name, spec, FOUND) for name in FOUND}
    assert rows["as-it-is"]["gain_points"] == 0 and rows["as-it-is"]["gain_interval"] == [0, 0]
    assert rows["8-states"]["dice"] == pytest.approx([70, 80])
    assert rows["8-states"]["gain_points"] == pytest.approx(0)
    # both patients gain 10 points over the seeds
    assert rows["both-ways"]["gain_points"] == pytest.approx(10)
    assert rows["both-ways"]["gain_interval"] == pytest.approx([10, 10])
    parameters = sum(weight.numel() for weight in LMaUNet(spec).parameters())
    assert rows["8-states"]["parameters"] == parameters
    uneven = {"as-it-is": [scores(0.8, 0.7)], "8-states": [scores(0.8, 0.9)]}
    low, high = ablation.row_of("8-states", spec, uneven)["gain_interval"]
    assert (low, high) == pytest.approx((0, 20)), "one patient gains 20 points, the other none"


def test_the_table_shows_each_seed_and_no_interval_of_one_patient():
    spec = SPECS["demo"]
    lines = ablation.table([ablation.row_of("both-ways", spec, FOUND)])
    cells = [cell.strip() for cell in lines[-1].split("|")]
    assert cells[1] == "both-ways" and cells[4:7] == ["90.00, 80.00", "+10.00", "+10.00 to +10.00"]
    alone = {"as-it-is": [scores(0.8)], "8-states": [scores(0.7)]}
    row = ablation.row_of("8-states", spec, alone)
    assert row["gain_interval"] is None
    assert ablation.table([row])[-1].endswith("| -10.00 |  |")


def test_scores_of_an_older_version_name_the_folder_to_delete(tmp_path):
    write_json(tmp_path / "train.json", {"scores": scores(0.8)})
    assert ablation.scores_in(tmp_path)["dice"] == 0.8
    write_json(tmp_path / "train.json", {"scores": {"dice": 0.8}})
    with pytest.raises(UserError, match=f"no scores by case: .*; delete {tmp_path} and give"):
        ablation.scores_in(tmp_path)
