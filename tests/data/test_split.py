"""The split by blocks of z, by subject, and the check that holds the gap."""

import itertools

import numpy as np
import pytest

from lmaunet.data.split import (
    MARGIN,
    MIN_TRAIN_BLOCK,
    TRAIN_SHARE,
    VAL_SHARE,
    _best_blocks,
    check_gap,
    split_by_blocks,
    split_subjects,
    useful_slices,
)
from lmaunet.errors import UserError


def organs(n=60):
    """Labelled pixels of three classes: one everywhere, one in the lower, one in a short range."""
    pixels = np.zeros((n, 4), np.int64)
    pixels[10:50, 1] = 100
    pixels[10:40, 2] = 50
    pixels[25:37, 3] = 9
    return pixels


def test_every_class_is_on_both_sides_and_blocks_keep_their_distance():
    split = split_by_blocks(organs(), val_slices=12, gap=2)
    for side in (split.train, split.val):
        assert (organs()[side, 1:].sum(0) > 0).all()
    assert np.abs(split.train[:, None] - split.val[None]).min() == 3
    assert 10 <= len(split.val) <= 14
    assert "at least 2 slices dropped" in split.sentence


def test_the_sentence_names_the_blocks_by_their_first_and_last_slice():
    """And what it counts is what it divides."""
    split = split_by_blocks(organs(), val_slices=12, gap=2)
    runs = np.split(split.val, np.flatnonzero(np.diff(split.val) != 1) + 1)
    blocks = ", ".join(f"{run[0]}-{run[-1]}" for run in runs)
    assert split.sentence == (
        f"one volume split by contiguous blocks of z: {len(split.val)} slices validate (z {blocks})"
        f", {len(split.train)} train, at least 2 slices dropped between them"
    )
    assert runs[0][0] > len(runs[0]) > 1, "so that no other sum has the same result"


def test_validation_slices_lie_in_contiguous_blocks():
    val = split_by_blocks(organs(), val_slices=12).val
    runs = np.split(val, np.flatnonzero(np.diff(val) != 1) + 1)
    assert 1 <= len(runs) <= 3
    assert {len(run) for run in runs} == {len(runs[0])}


def test_check_gap_catches_a_gap_that_is_one_slice_short():
    split = split_by_blocks(organs(), gap=2)
    check_gap(split.train, split.val, 2)
    mutant = np.append(split.train, split.val.min() - 2)
    with pytest.raises(ValueError, match="2 apart; expected more than 2"):
        check_gap(mutant, split.val, 2)


def test_slices_far_from_organs_train_as_empty_examples():
    split = split_by_blocks(organs(100))
    assert {64, 72, 80, 88, 96} <= set(split.train.tolist())
    assert 65 not in split.train and 96 not in split.val


@pytest.mark.parametrize("seed", range(6))
def test_the_best_blocks_are_those_of_a_search_by_hand(seed):
    """Every placement, slice by slice; organs reach the first and the last slice."""
    pixels = np.random.default_rng(seed).integers(0, 40, (12, 3)) * [[1, 1, seed % 2]]
    blocks, length, gap = 2, 2, 1
    (score, kept), starts, _ = _best_blocks(pixels, blocks, length, gap)
    scores = {}
    for chosen in itertools.combinations(range(len(pixels) - length + 1), blocks):
        val = {z for start in chosen for z in range(start, start + length)}
        train = [z for z in range(len(pixels)) if min(abs(z - v) for v in val) > gap]
        between = [z for z in train if chosen[0] < z < chosen[1]]
        if len(between) < MIN_TRAIN_BLOCK or len(train) < MIN_TRAIN_BLOCK:
            continue
        of = {c: pixels[:, c].sum() for c in (1, 2) if pixels[:, c].sum()}
        shares = [pixels[sorted(val), c].sum() / (VAL_SHARE * n) for c, n in of.items()]
        shares += [pixels[train, c].sum() / (TRAIN_SHARE * n) for c, n in of.items()]
        scores[chosen] = min(1.0, *shares), len(train)
    assert (score, kept) == pytest.approx(max(scores.values()))
    assert (score, kept) == pytest.approx(scores[tuple(starts)])


def test_it_is_the_same_each_time():
    first, second = split_by_blocks(organs()), split_by_blocks(organs())
    assert np.array_equal(first.train, second.train) and np.array_equal(first.val, second.val)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_too_few_slices_are_refused(n):
    with pytest.raises(UserError, match=f"^{n} slices are too few to split one volume; give 6 or"):
        split_by_blocks(np.ones((n, 2), np.int64))


def test_the_fewest_slices_that_can_be_split():
    split = split_by_blocks(np.ones((6, 2), np.int64))
    assert (len(split.train), len(split.val)) == (3, 1)


@pytest.mark.parametrize(("before", "slices"), [(9, 23), (14, 60), (12, 27)])
def test_a_third_of_the_labelled_slices_is_aimed_for(before, slices):
    """With their margins, wherever in the volume they are, but for what blocks do not divide."""
    empty, organ = [[9, 0]], [[9, 9]]
    labelled = slices - 2 * MARGIN
    pixels = np.array(empty * (before + MARGIN) + organ * labelled + empty * (MARGIN + 40))
    third = slices // 3
    assert third - 1 <= len(split_by_blocks(pixels, val_slices=99, gap=0).val) <= third


def test_labels_without_an_organ_are_refused():
    with pytest.raises(UserError, match="nothing but background"):
        split_by_blocks(np.array([[9, 0]] * 30))


def test_subjects_are_drawn_by_seed_and_one_validates_at_least():
    names = [f"s{i}" for i in range(10)]
    assert len(split_subjects(names, 0)) == 2
    assert len(split_subjects(["a", "b"], 0)) == 1
    assert split_subjects(names, 0) == split_subjects(names[::-1], 0)
    assert len({frozenset(split_subjects(names, seed)) for seed in range(8)}) > 1


def test_useful_slices_hold_all_labels_and_every_eighth_empty_one():
    pixels = np.zeros((20, 2), np.int64)
    pixels[9:12, 1] = 1
    assert useful_slices(pixels).tolist() == [0, 8, 9, 10, 11, 16]


def test_what_is_not_said_is_16_slices_and_a_gap_of_2():
    """Four slices about the organs of 10 to 49 train too, and each eighth slice elsewhere."""
    split = split_by_blocks(organs(100))
    assert (
        "16 slices validate (z 6-13, 33-40), 33 train, at least 2 slices dropped" in split.sentence
    )
    assert split.val.tolist() == [*range(6, 14), *range(33, 41)]
    assert split.train.tolist() == [
        0, *range(16, 31), *range(43, 54), 56, 64, 72, 80, 88, 96
    ]  # fmt: skip
    fewer = split_by_blocks(organs(100), val_slices=12, gap=2)
    assert fewer.val.tolist() == [*range(8, 14), *range(33, 39)]


@pytest.mark.parametrize(("count", "held"), [(1, 1), (7, 1), (8, 2), (12, 2), (13, 3), (20, 4)])
def test_a_fifth_of_the_subjects_validates(count, held):
    assert len(split_subjects([f"s{i}" for i in range(count)] * 2, 3)) == held
