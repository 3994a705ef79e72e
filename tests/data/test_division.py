"""Cases divided by patient: by the seed's draw, or as nnU-Net's file lists them."""

import json

import pytest

from lmaunet.data.division import divide_as_listed, divide_cases
from lmaunet.data.patients import Patients, alone, patients_by_name
from lmaunet.errors import UserError

BOTH = frozenset({1, 2})


def singles(count, shows=BOTH):
    return {f"case{i:02d}": shows for i in range(count)}


def divided(shows, patients=None, seed=0):
    return divide_cases(shows, patients or alone(list(shows)), seed)


# what the program drew before it knew of patients: scores on such sets stay comparable
@pytest.mark.parametrize(
    ("count", "seed", "val"),
    [(5, 0, [2]), (5, 1, [4]), (5, 2, [2]), (2, 0, [0]), (12, 0, [2, 9]), (12, 7, [4, 6]),
     (20, 3, [8, 12, 16, 18])],
)  # fmt: skip
def test_a_case_for_each_patient_is_drawn_as_ever(count, seed, val):
    division = divided(singles(count), seed=seed)
    assert sorted(division.val) == [f"case{i:02d}" for i in val]
    assert f"drawn by seed {seed}; no patient is on both sides: every case" in division.sentence
    assert division.notes == () and not division.unused


@pytest.mark.parametrize("seed", range(6))
def test_no_patient_is_on_both_sides(seed):
    shows = {f"p{i}_frame{f:02d}": BOTH for i in range(6) for f in (1, 12)}
    patients = patients_by_name(list(shows))
    division = divided(shows, patients, seed)
    sides = [{patients.of[c] for c in shows if (c in division.val) == held} for held in (0, 1)]
    assert len(sides[0]) == 5 and len(sides[1]) == 1 and not sides[0] & sides[1]
    assert len(division.val) == 2 and "of 5 and 1 patients" in division.sentence
    assert "told apart by their names (p0_frame01 and p0_frame12 are of p0)" in division.sentence


@pytest.mark.parametrize("seed", range(6))
def test_cases_with_labels_validate(seed):
    shows = {**singles(6, frozenset()), "x": BOTH, "y": BOTH, "z": BOTH}
    division = divided(shows, seed=seed)
    assert division.val <= {"x", "y", "z"} and len(division.val) == 2
    assert division.notes == (
        "6 case(s) have no label of a class: case00, case01, case02, case03, case04, case05",
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_class_is_held_out_too_and_still_trained(seed):
    shows = singles(10, frozenset({1})) | {"case03": BOTH, "case07": BOTH}
    division = divided(shows, seed=seed)
    assert len(division.val & {"case03", "case07"}) == 1 or {"case03", "case07"} <= division.val
    assert 2 <= len(division.val) <= 3


def test_a_patient_who_alone_shows_a_class_is_left_to_train():
    shows = singles(10, frozenset({1}))
    shows |= {"case03": frozenset({1, 2}), "case07": frozenset({1, 2, 3})}
    added = 0
    for seed in range(12):
        drawn = divided(singles(10), seed=seed).val
        val = divided(shows, seed=seed).val
        if "case07" not in drawn:
            assert val == drawn | {"case03"}
            added += "case03" not in drawn
    assert added >= 5


def test_at_most_half_of_the_patients_validate():
    each = {"a": {1}, "b": {1}, "c": {2}, "d": {2, 3}, "e": {3}}
    shows = {case: frozenset(found) for case, found in each.items()}
    assert {len(divided(shows, seed=seed).val) for seed in range(12)} == {2}


def test_one_patient_is_refused_with_the_ways_out():
    shows = dict.fromkeys(("pat1_pre", "pat1_post"), BOTH)
    with pytest.raises(
        UserError, match=r"all 2 cases are of one patient \(pat1, told .*patients\.j"
    ):
        divided(shows, patients_by_name(list(shows)))


@pytest.mark.parametrize("labelled", [0, 1])
def test_fewer_than_two_patients_with_labels_are_refused(labelled):
    shows = singles(4, frozenset()) | {f"case0{i}": BOTH for i in range(labelled)}
    with pytest.raises(UserError, match=rf"show a class are of {labelled} of 4 patients; expected"):
        divided(shows)


def listed(tmp_path, content, shows=None, patients=None):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(content))
    shows = shows or singles(4)
    return divide_as_listed(path, shows, patients or alone(list(shows)))


def test_fold_0_of_nnunet_is_kept_to(tmp_path):
    folds = [{"train": ["CASE00"], "val": ["case03", "case01"]}, {"train": [], "val": []}]
    division = listed(tmp_path, folds)
    assert division.val == {"case03", "case01"} and division.unused == {"case02"}
    assert "1 case trains, 2 validate (case01, case03), as fold 0 of spl" in division.sentence
    assert division.notes == ("fold 0 of splits_final.json leaves 1 case(s) out: case02",)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], "no list of cases to train in fold 0"),
        ({}, "no list of cases to train in fold 0"),
        ([[]], "no list of cases to train in fold 0"),
        ([{"train": ["case00"]}], "no list of cases to val in fold 0"),
        ([{"train": "case00", "val": ["case01"]}], "no list of cases to train"),
        ([{"train": ["case00"], "val": [1]}], "lists 1, which is no case here"),
        ([{"train": ["case00"], "val": ["x"]}], "lists 'x', which is no case here (there are case"),
        ([{"train": ["case00"], "val": ["case00"]}], "trains on case00 and validates on case00"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path, content, text):
    with pytest.raises(UserError) as raised:
        listed(tmp_path, content)
    assert text in str(raised.value) and "splits_final.json" in str(raised.value)


def test_a_fold_that_divides_a_patient_is_refused(tmp_path):
    shows = dict.fromkeys(("p1_frame1", "p1_frame2", "p2_frame1"), BOTH)
    fold = [{"train": ["p1_frame1", "p2_frame1"], "val": ["p1_frame2"]}]
    with pytest.raises(
        UserError, match="trains on p1_frame1 and validates on p1_frame2, which are of one patient"
    ):
        listed(tmp_path, fold, shows, patients_by_name(list(shows)))
    apart = Patients({case: case for case in shows}, "as patients.json says")
    assert listed(tmp_path, fold, shows, apart).val == {"p1_frame2"}


def test_a_fold_with_a_side_without_labels_is_refused(tmp_path):
    shows = {"a": BOTH, "b": frozenset()}
    with pytest.raises(UserError, match="no case of fold 0 to val has a label"):
        listed(tmp_path, [{"train": ["a"], "val": ["b"]}], shows)


@pytest.mark.parametrize(("count", "ends"), [(8, "case07"), (9, "case07 ...")])
def test_eight_of_the_cases_are_named(count, ends):
    shows = {**singles(count, frozenset()), "y": BOTH, "z": BOTH}
    names = ", ".join(f"case{i:02d}" for i in range(8))
    assert divided(shows).notes == (
        f"{count} case(s) have no label of a class: {names}{ends.removeprefix('case07')}",
    )


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (["a"], ["b"], "1 case trains, 1 validates (b), as"),
        (["a", "c"], ["b"], "2 cases train, 1 validates (b), as"),
        (["a"], ["c", "b"], "1 case trains, 2 validate (b, c), as"),
        (["a", "d"], ["b"], "2 cases train, 1 validates (b), of 1 and 1 patients, as"),
        (["b"], ["a", "d"], "1 case trains, 2 validate (a, d), of 1 and 1 patients, as"),
    ],
)
def test_cases_and_patients_of_each_side_are_counted(tmp_path, train, val, said):
    of = {"a": "p", "d": "p", "b": "q", "c": "r"}
    fold = [{"train": train, "val": val}]
    division = listed(tmp_path, fold, dict.fromkeys(of, BOTH), Patients(of, "as told"))
    assert division.sentence == (
        f"{said} fold 0 of splits_final.json says; no patient is on both sides: as told."
    )


@pytest.mark.parametrize("side", ["train", "val"])
def test_labels_are_needed_on_both_sides_and_cases_without_are_named(tmp_path, side):
    shows = {"a": BOTH, "b": BOTH, "c": frozenset(), "d": frozenset()}
    fold = {"train": ["a", "c"], "val": ["b"]}
    assert listed(tmp_path, [fold], shows).notes == (
        "1 case(s) have no label of a class: c",
        "fold 0 of splits_final.json leaves 1 case(s) out: d",
    )
    without = {
        "train": [{"train": ["c", "d"], "val": ["b"]}],
        "val": [{"train": ["a"], "val": ["d"]}],
    }
    with pytest.raises(UserError, match=f"no case of fold 0 to {side} has a label; expected"):
        listed(tmp_path, without[side], shows)


def test_a_fold_beyond_the_first_is_not_looked_at(tmp_path):
    folds = [{"train": ["case00"], "val": ["case01"]}, {"train": ["case02"], "val": ["case03"]}]
    assert listed(tmp_path, folds).val == {"case01"}
    with pytest.raises(UserError, match="no list of cases to val in fold 0; expected"):
        listed(tmp_path, [{"train": ["case00"], "val": []}, folds[1]])
    with pytest.raises(UserError, match=r"lists 'x', .* case00, case01, case02, case03"):
        listed(tmp_path, [{"train": ["x"], "val": ["case01"]}])


def test_two_patients_are_enough():
    division = divided({"a": BOTH, "b": BOTH})
    assert len(division.val) == 1 and division.sentence.startswith("1 case trains, 1 validates (")
    with pytest.raises(UserError, match=r"all 1 cases are of one patient \(a, every case counts"):
        divided({"a": BOTH})


def test_of_few_patients_with_labels_one_is_left_to_train():
    shows = {**singles(18, frozenset()), "x": BOTH, "y": BOTH}
    for seed in range(4):
        assert len(divided(shows, seed=seed).val) == 1
