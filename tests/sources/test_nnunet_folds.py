"""Which cases a fold held out, told by what lies around its folder."""

from __future__ import annotations

import json

import pytest

from lmaunet.sources.nnunet_folds import held_out

NAME = "Dataset007_Tiny"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    path = tmp_path / "nnUNet_results" / NAME / "T__P__2d" / "fold_1" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True)
    (path.parents[1] / "dataset.json").write_text('{"file_ending": ".mha"}')
    return path


def write_splits(folder, *val):
    place = folder / NAME
    place.mkdir(parents=True, exist_ok=True)
    content = [{"train": ["x"], "val": list(cases)} for cases in val]
    (place / "splits_final.json").write_text(json.dumps(content))
    return place / "splits_final.json"


def leave_masks(checkpoint, *cases):
    (checkpoint.parent / "validation").mkdir(exist_ok=True)
    for name in (*(f"{case}.mha" for case in cases), "summary.json"):
        (checkpoint.parent / "validation" / name).write_text("")


def test_nothing_tells_them(checkpoint):
    assert held_out(checkpoint, NAME) is None


def test_the_file_beside_the_results_or_where_the_environment_says(
    checkpoint, tmp_path, monkeypatch
):
    write_splits(tmp_path / "nnUNet_preprocessed", ["a"], ["b", "c"])
    assert held_out(checkpoint, NAME) == ("b", "c")
    assert held_out(checkpoint, "Dataset008_Other") is None
    write_splits(tmp_path / "elsewhere", ["d"], ["e"])
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "elsewhere"))
    assert held_out(checkpoint, NAME) == ("e",)


def test_the_masks_that_the_training_left(checkpoint, tmp_path):
    """They also tell that the file was written anew since."""
    leave_masks(checkpoint, "b", "a")
    assert held_out(checkpoint, NAME) == ("a", "b")
    write_splits(tmp_path / "nnUNet_preprocessed", [], ["c", "b", "a"])
    assert held_out(checkpoint, NAME) == ("c", "b", "a")  # not all were predicted
    write_splits(tmp_path / "nnUNet_preprocessed", [], ["a", "c"])
    assert held_out(checkpoint, NAME) == ("a", "b")


@pytest.mark.parametrize(
    "text", ["{", "[]", '[{"val": ["a"]}]', "[{}, {}]", '[{}, {"val": [3]}]', '[{}, {"val": "a"}]']
)
def test_a_file_of_another_form_tells_nothing(checkpoint, tmp_path, text):
    write_splits(tmp_path / "nnUNet_preprocessed").write_text(text)
    assert held_out(checkpoint, NAME) is None


@pytest.mark.parametrize("fold", ["all", "1234", "-1"])
def test_a_fold_without_a_number_held_none_out(checkpoint, tmp_path, fold):
    write_splits(tmp_path / "nnUNet_preprocessed", ["a"], ["b"])
    other = checkpoint.parents[1] / f"fold_{fold}" / checkpoint.name
    assert held_out(other, NAME) is None
