"""Cases of one patient, told by folders, names or a file; and cases that only look like it."""

import json

import pytest

from lmaunet.data.patients import (
    given_patients,
    patient_of,
    patients_by_folder,
    patients_by_name,
)
from lmaunet.errors import UserError

SAME = [  # the first two are of one patient, the third is of another
    ("patient001_frame01", "patient001_frame12", "patient002_frame01"),
    ("patient001frame01", "patient001frame12", "patient002frame01"),
    ("sub-01_ses-02_t1w", "sub-01_ses-pre_t1w", "sub-02_ses-02_t1w"),
    ("sub-control01_run-1", "sub-control01_run-2", "sub-patient01_run-1"),
    ("p001_t1", "p001_t2", "p002_t1"),
    ("brats-gli-00001-000", "brats-gli-00001-001", "brats-gli-00002-000"),
    ("case_001_visit1", "case_001_visit2", "case_002_visit1"),
    ("pat1_pre", "pat1_post", "pat2_pre"),
    ("smith_pre", "smith_post", "jones_pre"),
    ("abc_20200101", "abc_20210315", "def_20200101"),
    ("id01_2020-01-01", "id01_2021-12-31", "id02_2020-01-01"),
    ("p01_s1_20200101", "p01_s2_20200102", "p02_s1_20200102"),
    ("case1_baseline", "case1_follow-up_1", "case2_baseline"),
    ("002_s_0295_bl", "002_s_0295_m06", "002_s_0296_bl"),
    ("a0s9v9_ed", "a0s9v9_es", "a1d0q7_ed"),
    ("ed_patient001", "es_patient001", "ed_patient002"),
    ("left_001", "right_001", "left_002"),
    ("p1_left", "p1_right", "p2_left"),
    ("knee001l", "knee001r", "knee002l"),
    ("case_001_arterial", "case_001_portal", "case_002_arterial"),
    ("p01-timepoint-1", "p01-timepoint-2", "p02-timepoint-1"),
    ("patient_1_session_a", "patient_1_session_b", "patient_2_session_a"),
    ("patient-001_week-000-1", "patient-001_week-044", "patient-002_week-000"),
    ("case01_0h", "case01_24h", "case02_0h"),
    ("oas1_0001_mr1", "oas1_0001_mr2", "oas1_0002_mr1"),
    ("10000_1000000", "10000_1000001", "10001_1000002"),
    ("case_001_1", "case_001_2", "case_002_1"),
    ("upenn-gbm-00001_11", "upenn-gbm-00001_21", "upenn-gbm-00002_11"),
    ("s1_scan1", "s1_scan2", "s2_scan1"),
]
DIFFERENT = [
    ("case_1", "case_2"), ("case1", "case2"), ("0001", "0002"), ("1", "2"), ("a", "b"),
    ("liver_0", "liver_1", "liver_12"), ("amos_0001", "amos_0002"), ("img0001", "img0002"),
    ("la_003", "la_004"), ("brats_001", "brats_002"), ("test_001", "test_002"),
    ("brats20_training_001", "brats20_training_002"), ("flare22_tr_0001", "flare22_tr_0002"),
    ("tcga_cs_4941_19960909", "tcga_cs_4942_19970222"), ("ct_train_1001", "mr_train_1001"),
    ("scan_1", "scan_2"), ("mri_scan_1", "mri_scan_2"), ("covid19_scan_1", "covid19_scan_2"),
    ("visit1", "visit2"), ("frame01", "frame02"), ("day1", "day2"), ("es1", "es2"),
    ("site1_001", "site1_002", "site2_001"), ("2020_001", "2020_002", "2021_001"),
    ("site1_1", "site1_2", "site2_1"), ("phantom1", "phantom2"),
]  # fmt: skip


@pytest.mark.parametrize("cases", SAME, ids=lambda cases: cases[0])
def test_cases_of_one_patient_are_known_by_their_names(cases):
    found = patients_by_name(cases)
    one, other, third = (found.of[case] for case in cases)
    assert one == other != third
    assert found.count() == 2
    assert found.how == f"told apart by their names ({cases[0]} and {cases[1]} are of {one})"


@pytest.mark.parametrize("cases", DIFFERENT, ids=lambda cases: cases[0])
def test_cases_that_only_look_alike_are_patients_of_their_own(cases):
    found = patients_by_name(cases)
    assert dict(found.of) == {case: case for case in cases}
    assert found.how.startswith("every case counts as a patient")


def test_hundreds_of_cases_are_told_apart_too():
    found = patients_by_name([f"case{i}" for i in range(300)])
    assert found.count() == 300 and found.how.startswith("every case counts as a patient")


def test_several_scans_of_one_patient_alone_are_seen():
    assert patients_by_name(["pat1_pre", "pat1_post"]).count() == 1


def test_many_repeats_are_no_repeats():
    for most, patients in ((12, 2), (13, 26)):
        cases = [f"s00{n}_{i:02d}" for n in (1, 2) for i in range(most)]
        assert patients_by_name(cases).count() == patients


@pytest.mark.parametrize(
    ("case", "patient"),
    [("patient003_frame10", "patient003"), ("ct", "ct"), ("Phantom0", "Phantom0"),
     ("scan_1_frame_2", "scan_1")],
)  # fmt: skip
def test_the_patient_of_one_name(case, patient):
    assert patient_of(case) == patient


def test_folders_tell_patients_apart():
    found = patients_by_folder({"p1/a": ("P1",), "p1/b": ("P1",), "p2/a": ("P2",)})
    assert found.of == {"p1/a": "P1", "p1/b": "P1", "p2/a": "P2"}
    assert "told apart by their folders" in found.how
    visits = {"x": ("P1_visit1",), "y": ("P1_visit2",), "z": ("P2_visit1",)}
    assert patients_by_folder(visits).count() == 2
    by_session = {"x": ("ses-1", "P1"), "y": ("ses-2", "P1"), "z": ("ses-1", "P2")}
    assert patients_by_folder(by_session).of == {"x": "P1", "y": "P1", "z": "P2"}
    assert patients_by_folder({"a": ("train",), "b": ("test",)}) is None
    assert patients_by_folder({"a": ("all",), "b": ("P1",)}) is None
    assert patients_by_folder({"a": ("same",), "b": ("same",)}) is None


def test_the_user_says_who_is_who(tmp_path):
    cases = ["ax1", "ax2", "bx1"]
    pattern = given_patients(tmp_path, cases, "^(A|B)", "classes.json")
    assert list(pattern.of.values()) == ["a", "a", "b"] and "'^(A|B)'" in pattern.how
    listed = {"AX1": "anna", "ax2": "anna", "bx1": "bea"}
    assert given_patients(tmp_path, cases, listed, "classes.json").of["ax1"] == "anna"
    listed["bx1"] = "anna"
    (tmp_path / "patients.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(listed).encode())
    found = given_patients(tmp_path, cases, "^(A|B)", "classes.json")
    assert found.count() == 1 and found.how == "as patients.json says"
    assert given_patients(tmp_path / "none", cases, None, "classes.json") is None


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (3, "classes.json: patients 3; expected the patient of each case"),
        ({"a": 1}, "expected the patient of each case"),
        ({"a": " "}, "expected the patient of each case"),
        ({"a": "p"}, "no patient is given for case 'b'; list all 2 cases"),
        ({"a": "p", "b": "q", "c": "q"}, "there is no case 'c'; the cases are a, b; correct"),
        ({"a": "p", "A": "q", "b": "q"}, "case 'A' is given two patients"),
        ("(", "is no regular expression"),
        ("x" * 201, "longer than 200 characters"),
        ("^(a)", "finds no patient in case 'b'"),
        ("z*", "finds no patient in case 'a'"),
    ],
)
def test_a_list_of_patients_that_cannot_be_is_refused(tmp_path, option, text):
    with pytest.raises(UserError) as raised:
        given_patients(tmp_path, ["a", "b"], option, "classes.json")
    assert text in str(raised.value)


@pytest.mark.parametrize("error", [ValueError, OverflowError, RecursionError])
def test_whatever_a_pattern_fails_with_is_the_patterns_fault(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error("of the compiler")

    with monkeypatch.context() as patch, pytest.raises(UserError) as raised:
        patch.setattr("re.compile", fail)
        given_patients(tmp_path, ["a"], "a", "classes.json")
    assert "patients 'a' is no regular expression (of the compiler); expe" in str(raised.value)


def test_a_pattern_is_200_characters_long_at_most_and_takes_its_first_group(tmp_path):
    assert given_patients(tmp_path, ["ab"], "a" + "b?" * 99 + "b", "x").of == {"ab": "ab"}
    with pytest.raises(UserError, match=r"\(longer than 200 characters\)"):
        given_patients(tmp_path, ["ab"], "a" * 201, "x")
    assert given_patients(tmp_path, ["ab12"], "a(b)(1)", "x").of == {"ab12": "b"}
    assert given_patients(tmp_path, ["AB12"], "ab1", "x").of == {"AB12": "AB1"}
    with pytest.raises(UserError, match="finds no patient in case 'xab'; expected one in each"):
        given_patients(tmp_path, ["xab"], "ab", "x")


@pytest.mark.parametrize(("count", "named"), [(3, "a, b, c; correct"), (4, "a, b, c ...; correct")])
def test_three_of_the_cases_are_named(tmp_path, count, named):
    cases = list("dcba"[-count:])
    with pytest.raises(UserError, match=f"there is no case 'z'; the cases are {named} the list"):
        given_patients(tmp_path, cases, dict.fromkeys([*cases, "z", "zz"], "p"), "x")


def test_cases_are_listed_in_any_case_and_all_of_them(tmp_path):
    found = given_patients(tmp_path, ["Aa", "b"], {"aA": "p", "B": "p"}, "folder/c.json")
    assert found.of == {"Aa": "p", "b": "p"} and found.how == "as c.json says"
    with pytest.raises(UserError, match="no patient is given for case 'b'; list all 2 cases, or"):
        given_patients(tmp_path, ["Aa", "b"], {"aa": "p"}, "c.json")
    same = {"a": "p", "A": "p", "b": "q"}
    assert given_patients(tmp_path, ["a", "b"], same, "c.json").count() == 2


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00001-000", "brats-gli-00001"), ("10000_1000000", "10000"),
        ("x_sub-01_t1w", "sub-01"), ("abc", "abc"), ("ABC", "ABC"),
        ("visit1_p07", "p07"), ("smith_pre", "smith"), ("frame_1", "frame_1"),
        ("pre_frame_1", "pre"), ("smith__pre__left", "smith"), ("x1_follow_up", "x1"),
        ("follow_up_1_jones_2", "jones_2"), ("ab-left.cd", "ab-cd"),
    ],
)  # fmt: skip
def test_a_name_without_its_occasions_is_the_patients(case, patient):
    assert patient_of(case) == patient


@pytest.mark.parametrize(
    ("cases", "of"),
    [
        # a repeat has fewer digits than the patient, or as many, and no year or site is a patient
        (("s12_1", "s12_2", "s13_1"), ["s12", "s12", "s13"]),
        (("s12_01", "s12_02", "s13_01"), ["s12", "s12", "s13"]),
        (("s12_001", "s12_002", "s13_001"), None),
        (("s12_1", "s12_2", "other"), None), (("s12_1", "s12_2", "s12_3"), None),
        # sides: of a number that two share
        (("k01l", "k01r", "k02l"), ["k01", "k01", "k02l"]), (("k01l", "k02r", "k03l"), None),
        (("k01a", "k01b", "other"), ["k01", "k01", "other"]), (("k01l", "k01r"), None),
        (("v01_a", "v01_b", "v02_a"), ["v01", "v01", "v02_a"]), (("v01_a", "v02_b", "v03_c"), None),
        (("v01-c", "v01-f", "v02-g"), ["v01", "v01", "v02-g"]),
    ],
)  # fmt: skip
def test_repeats_and_sides_are_told_where_two_share_a_number(cases, of):
    found = patients_by_name(cases)
    assert list(found.of.values()) == (list(cases) if of is None else of)


def test_an_example_is_of_the_patient_with_most_cases():
    found = patients_by_name(["p1_pre", "p2_pre", "p2_post", "p2_final", "p3_pre"])
    assert found.how == "told apart by their names (p2_pre and p2_post are of p2)"
    one_each = patients_by_folder({"a": ("P1",), "b": ("P2",)})
    assert one_each.how == "told apart by their folders (a is of P1)"


def test_a_folder_that_is_a_part_or_an_occasion_is_no_patient():
    assert patients_by_folder({"a": ("Train", "P1"), "b": ("P2", "x")}).of == {"a": "P1", "b": "P2"}
    assert patients_by_folder({"a": ("visit1",), "b": ("P2",)}) is None
    assert patients_by_folder({"a": (), "b": ("P2",)}) is None
