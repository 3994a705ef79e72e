"""Which cases validate for a network that nnU-Net trained: those that it has not seen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lmaunet.data import nnunet_training
from lmaunet.data.loaders import load, load_phantom
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe
from lmaunet.data.nnunet_training import SEEN, NnunetTraining, divide_as_trained, usual_folds
from lmaunet.data.patients import alone, patients_by_name
from lmaunet.errors import UserError

RECIPE = NnunetRecipe(
    (16, 16), (1.5, 1.0), (0, 1, 2), (ChannelRecipe("ZScoreNormalization", False, {}),)
)
GRID = {"spacing": (3.0, 1.5, 1.0)}
# what nnunetv2 2.8.1 makes of c00, c01, ...
KNOWN = {
    5: [[0], [4], [3], [1], [2]],
    7: [[3, 6], [0, 4], [1], [5], [2]],
    12: [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]],
}


@pytest.mark.parametrize("count", KNOWN)
def test_the_usual_folds_are_nnunets(count):
    names = [f"c{i:02d}" for i in range(count)]
    mixed = [names[i] for i in np.random.default_rng(0).permutation(count)]
    assert usual_folds(mixed) == [[names[i] for i in fold] for fold in KNOWN[count]]


@pytest.mark.parametrize("count", [5, 6, 9, 23, 100])
def test_the_usual_folds_are_those_of_scikit_learn(count):
    selection = pytest.importorskip("sklearn.model_selection")
    folds = selection.KFold(5, shuffle=True, random_state=12345)
    names = [f"c{i:03d}" for i in range(count)]
    assert usual_folds(names) == [[names[i] for i in test] for _, test in folds.split(names)]


def test_fewer_cases_than_folds_have_none():
    with pytest.raises(UserError, match=r"4 case\(s\); expected 5 or more"):
        usual_folds("abcd")


def divided(names, patients=None, shows=None, folder=None, **training):
    shows = shows or {name: frozenset([1]) for name in names}
    patients = patients or alone(names)
    named = {name: name.upper() for name in names}
    return divide_as_trained(
        NnunetTraining(RECIPE, **training), folder, shows, named, patients, seed=0
    )


CASES = [f"c{i:02d}" for i in range(7)]


def test_the_cases_that_the_import_noted_validate(tmp_path):
    """Whatever a file in the data's folder says, and however names are written."""
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["c00"], "val": ["c01"]}]))
    found = divided(CASES, folder=tmp_path, fold="0", held_out=("C02", "c05", "gone"))
    assert found.val == {"c02", "c05"} and found.unused == frozenset() and found.notes == ()
    assert found.sentence == (
        "5 cases train, 2 validate (c02, c05), as nnU-Net trained the network: fold 0; no patient "
        "is on both sides: every case counts as a patient, as no names tell that two are of one."
    )


@pytest.mark.parametrize("fold", [0, 1])
def test_the_datas_file_says_it_of_the_fold_that_was_trained(tmp_path, fold):
    content = [{"train": ["c03"], "val": [f"c0{i}"]} for i in range(2)]
    (tmp_path / "splits_final.json").write_text(json.dumps(content))
    found = divided(CASES, folder=tmp_path, fold=str(fold))
    assert found.val == {f"c0{fold}"}
    assert f"fold {fold} of splits_final.json" in found.sentence
    for bad in ([], [{}, {}], [{"val": []}] * 2, {"val": ["c00"]}, [{"val": [1]}] * 2):
        (tmp_path / "splits_final.json").write_text(json.dumps(bad))
        with pytest.raises(UserError, match=f"no list of cases to val in fold {fold}, on which"):
            divided(CASES, folder=tmp_path, fold=str(fold))


@pytest.mark.parametrize("fold", range(5))
def test_without_a_file_nnunets_own_division_says_it(tmp_path, fold):
    found = divided(CASES, folder=tmp_path, fold=str(fold))
    assert found.val == {CASES[i] for i in KNOWN[7][fold]} and found.notes == ()
    assert "as nnU-Net divides cases where no splits_final.json says it" in found.sentence


@pytest.mark.parametrize(
    ("cases", "training", "why"),
    [
        (CASES, {"fold": "all"}, "it was trained on all of its cases (fold all); "),
        (CASES, {"fold": "7"}, "which cases fold 7 held out is not known; "),
        (CASES, {"fold": ""}, "which cases fold of its training held out is not known; "),
        (CASES[:4], {"fold": "0"}, "which cases fold 0 held out is not known; "),
        (CASES, {"fold": "0", "held_out": ("x", "y")},
         "of fold 0 no labelled case is left here that could validate; "),
        (CASES, {"fold": "0", "held_out": tuple(CASES)},
         "of fold 0 no labelled case is left here that could validate; "),
    ],
)  # fmt: skip
def test_where_nothing_unseen_is_left_it_is_said(tmp_path, cases, training, why):
    found = divided(cases, folder=tmp_path, **training)
    assert 0 < len(found.val) < len(cases) and found.notes == (why + SEEN,)
    assert "drawn by seed 0" in found.sentence


def test_a_patient_on_whom_the_network_trained_does_not_validate(tmp_path):
    names = ["pat1_ed", "pat1_es", "pat2_ed", "pat2_es", "pat3_ed", "pat3_es"]
    patients = patients_by_name(names)
    found = divided(
        names, patients, folder=tmp_path, fold="2", held_out=("pat1_es", "pat3_ed", "pat3_es")
    )
    assert found.val == {"pat3_ed", "pat3_es"} and found.unused == {"pat1_es"}
    assert found.notes == (
        "1 case(s) that fold 2 validates on are left aside, as they are of patients on whom it "
        "trained",
    )
    # of a division by images nothing is left
    found = divided(names, patients, folder=tmp_path, fold="2", held_out=names[::2])
    assert SEEN in found.notes[0] and len({patients.of[case] for case in found.val}) == 1


def test_cases_without_a_label_do_not_validate_alone(tmp_path):
    shows = {name: frozenset([1]) for name in CASES} | {"c00": frozenset()}
    found = divided(CASES, shows=shows, folder=tmp_path, fold="0", held_out=("c00",))
    assert SEEN in found.notes[-1]


def test_a_mistake_in_the_division_is_noticed(mutant_of, tmp_path):
    for right, wrong in (("sorted(cases)", "list(cases)"), ("5, 12345", "5, 1234"),
                         ("sorted(part)", "part[::-1]")):  # fmt: skip
        mutant = mutant_of(nnunet_training, right, wrong)
        names = [f"c{i:02d}" for i in range(12)]
        assert mutant.usual_folds(names[::-1]) != usual_folds(names)


def test_a_training_in_json():
    training = NnunetTraining(RECIPE, "3", ("a", "b"), ("CT",))
    content = json.loads(json.dumps(training.to_json()))
    assert NnunetTraining.from_json(content) == training
    # the note of an import has more, one of before less
    recipe = {"recipe": content["recipe"]}
    assert NnunetTraining.from_json({**recipe, "plans": "x"}) == NnunetTraining(RECIPE)
    for damaged in (
        None, [], {}, {**content, "fold": 3}, {**content, "held_out": "ab"},
        {**content, "held_out": [1]}, {**content, "channels": None}, {**content, "recipe": {}},
    ):  # fmt: skip
        with pytest.raises(UserError, match="import its folder again"):
            NnunetTraining.from_json(damaged)


@pytest.fixture
def raw(maker):
    for name in ("Ca", "Cb", "Cc", "Cd", "Ce"):
        labels = maker.labels()
        maker.write(maker.folder / "imagesTr" / f"{name}_0000.nii.gz", maker.image(labels), **GRID)
        maker.write(maker.folder / "labelsTr" / f"{name}.nii.gz", labels, **GRID)
    said = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 5, "file_ending": ".nii.gz",
    }  # fmt: skip
    (maker.folder / "dataset.json").write_text(json.dumps(said))
    return maker.folder


def test_a_raw_folder_follows_the_training(raw, maker):
    training = NnunetTraining(RECIPE, "1", channels=("CT",))
    data = load(raw, size=(16, 16), classes=3, training=training)
    assert set(data.val.cases) == {"ce"} and data.recipe == RECIPE and data.axes == ("LPS",)
    # no window was told from values that this program would clip to
    assert data.normalization["kind"] == "nnunet"
    assert not any("percentiles" in note for note in data.notes)
    assert maker.aligned(data.train)
    with pytest.raises(UserError, match="channels are CT, PET, the network was trained on PET, CT"):
        NnunetTraining(RECIPE, channels=("PET", "CT")).check_channels(["CT", "PET"])
    NnunetTraining(RECIPE, channels=("PET", "CT")).check_channels(["T1", "T2"])


def test_the_axes_are_those_of_the_image_and_not_of_its_labels(raw, maker):
    """A label image that another program turned lies on its image all the same."""
    import SimpleITK

    path = raw / "imagesTr" / "Ca_0000.nii.gz"
    for file in (raw / "imagesTr").iterdir():
        image = SimpleITK.ReadImage(str(file))
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, "RAS"), str(file))
    assert path.exists()
    data = load(raw, size=(16, 16), training=NnunetTraining(RECIPE, "1"))
    assert data.axes == ("RAS",) and maker.aligned(data.train)


def test_other_folders_are_divided_as_for_any_network(maker):
    for name in ("a", "b", "c"):
        maker.pair(name, **GRID)
    data = load(maker.folder, size=(16, 16), training=NnunetTraining(RECIPE, "0"))
    assert SEEN in data.notes and data.recipe == RECIPE
    data = load_phantom(size=(16, 16), training=NnunetTraining(RECIPE, "0"))
    assert data.train.images.shape[1:] == (1, 16, 16) and data.recipe == RECIPE


def test_a_case_that_is_alone_has_been_seen(raw, maker):
    for folder in ("imagesTr", "labelsTr"):
        for path in sorted((raw / folder).iterdir())[1:]:
            path.unlink()
    data = load(raw, size=(16, 16), training=NnunetTraining(RECIPE, "0"))
    assert SEEN in data.notes and set(data.val.cases) == {"ca"}
