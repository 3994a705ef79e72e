"""The figures of the benchmark of converted norms: means, drops, and the table."""

import norm_batch
import pytest


def scored(*dices):
    per_case = {f"patient{i:03d}_ED": {"heart": dice} for i, dice in enumerate(dices)}
    mean = sum(dices) / len(dices)
    return {"dice": mean, "per_class": {"heart": mean}, "per_case": per_case}


def rows():
    before = scored(0.9, 0.8, 0.7)
    return [
        {"seed": 0, "scores": {"float32": before, "converted": scored(0.5, 0.6, 0.7),
                               "qat": scored(0.9, 0.8, 0.7)}},
        {"seed": 1, "scores": {"float32": before, "converted": scored(0.6, 0.6, 0.6),
                               "qat": scored(0.8, 0.7, 0.6)}},
    ]  # fmt: skip


def test_a_drop_is_against_the_network_as_it_came():
    found = norm_batch.summary(rows())
    assert list(found) == ["float32", "converted", "qat"]
    assert found["float32"]["drop_points"] == 0 and found["float32"]["dice"] == pytest.approx(80)
    assert found["qat"]["drop_points"] == pytest.approx(5)
    assert found["qat"]["drop_points_worst_seed"] == pytest.approx(10)
    assert found["qat"]["drop_points_interval"] == pytest.approx([5, 5])
    low, high = found["converted"]["drop_points_interval"]
    assert low == pytest.approx(5) and high == pytest.approx(35)
    assert found["converted"]["drop_points"] == pytest.approx(20)
    assert found["converted"]["per_class"] == {"heart": pytest.approx(60)}


def test_the_table_has_a_row_for_each_step():
    lines = norm_batch.lines({"steps": norm_batch.summary(rows())})
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "InstanceNorm, FP32", "converted, FP32", "INT8, after QAT",
    ]  # fmt: skip
    assert lines[4].split("  ")[1:] and "75.00 ± 7.07" in lines[4] and "5.00 to 5.00" in lines[4]


def test_the_command_is_recorded_without_places():
    arguments = norm_batch.parse(["--ckpt", "/a/b.pt", "--data", "/c", "--epochs", "2"])
    assert arguments.shown == (
        "--ckpt MODEL.pt --data DATA --seeds 0,1,2 --norm-epochs 8 --epochs 2 --rate 0.0001 "
        "--batch 8"
    )
