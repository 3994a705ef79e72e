"""The study of slices and volumes: its networks, and that whole cases are predicted."""

from __future__ import annotations

import numpy as np
import three_d

from lmaunet.data.dataset import SliceSet


class Data:
    """Two cases of five and two slices."""

    val = SliceSet(
        np.arange(7, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32),
        np.zeros((7, 4, 4), np.uint8), np.array(["a"] * 5 + ["b"] * 2),
        np.array([0, 1, 2, 3, 4, 0, 1]),
    )  # fmt: skip


def odd(images: np.ndarray) -> np.ndarray:
    """Class 1 where a pixel is an odd number."""
    return np.concatenate([images % 2 == 0, images % 2 == 1], 1).astype(np.float32)


def test_both_networks_have_the_same_widths_and_size_in_the_plane():
    flat, deep = (three_d.spec_of(name, 64, 8) for name in ("2d", "3d"))
    assert flat.widths == deep.widths and flat.states == deep.states
    assert (flat.input_size, deep.input_size) == ((64, 64), (8, 64, 64))


def test_each_slice_of_a_case_is_predicted_by_slices_and_by_windows():
    want = np.array([0, 1, 0, 1, 0, 1, 0])
    for size in ((4, 4), (3, 4, 4)):
        classes = three_d.by_case(Data, size, odd)
        assert np.array_equal(classes[:, 0, 0], want)


def test_the_table_says_what_the_result_does():
    scores = {"dice": 0.5, "per_class": {"a": 0.4, "b": 0.6}}
    built = {
        "params": 1234, "refused": None, "drop_points": 1.0, "training": {"train_cpu_s": 61.2},
        "scores": {"float32": scores, "quantized": {**scores, "dice": 0.48},
                   "ort": {**scores, "dice": 0.49}},
        "volume_ms": {"min": 12.4, "median": 13.0},
    }  # fmt: skip
    kept = {name: value for name, value in built["scores"].items() if name != "ort"}
    refused = {**built, "refused": "7 codes differ", "scores": kept, "volume_ms": None}
    _, _, first, second = three_d.lines({"rows": {"2d": built, "3d": refused}})
    for text in ("1,234", "50.00", "40.0 / 60.0", "48.00", "49.00", "+1.00", "12", "61"):
        assert text in [cell.strip() for cell in first.split("  ")]
    assert "refused" in second and "refused" not in first and "49.00" not in second


def test_a_command_is_kept_without_the_folders_of_a_machine():
    given = three_d.parse(["train", "--network", "3d", "--data", "/a/b.npz", "--side", "64"])
    assert given.shown.startswith("--data DATA --side 64 --depth 8 --network 3d")
    assert "/a/b.npz" not in given.shown
