"""The figures of the benchmark of converted norms: means, drops, and the table."""

import norm_batch
import pytest


def scored(*dices):
    per_case = {f"patient{i:03d}_ED": {"heart": dice} for i, dice in enumerate(dices)}
    mean = sum(dices) / len(dices)
    return {"dice": mean, "per_class": {"heart": mean}, "per_case": per_case}


def rows():
    before, control = scored(0.9, 0.8, 0.7), scored(0.9, 0.9, 0.9)
    return [
        {"seed": 0, "scores": {"float32": before, "control": control,
                               "converted": scored(0.5, 0.6, 0.7), "qat": scored(0.9, 0.8, 0.7)}},
        {"seed": 1, "scores": {"float32": before, "control": control,
                               "converted": scored(0.6, 0.6, 0.6), "qat": scored(0.8, 0.7, 0.6)}},
    ]  # fmt: skip


def test_drops_are_against_the_network_as_it_came_and_the_control():
    found = norm_batch.summary(rows())
    assert list(found) == ["float32", "control", "converted", "qat"]
    assert (
        found["float32"]["dice"] == pytest.approx(80) and "against_float32" not in found["float32"]
    )
    assert found["control"]["against_float32"]["drop_points"] == pytest.approx(-10)
    assert "against_control" not in found["control"]
    drop = found["qat"]["against_float32"]
    assert (drop["drop_points"], drop["worst_seed"]) == (pytest.approx(5), pytest.approx(10))
    assert drop["interval"] == pytest.approx([5, 5])
    assert found["qat"]["against_control"]["drop_points"] == pytest.approx(15)
    drop = found["converted"]["against_float32"]
    assert drop["drop_points"] == pytest.approx(20) and drop["interval"] == pytest.approx([5, 35])
    assert found["converted"]["per_class"] == {"heart": pytest.approx(60)}


def test_the_table_has_a_row_for_each_step():
    lines = norm_batch.lines({"steps": norm_batch.summary(rows())})
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "InstanceNorm, FP32", "the same, trained as long as the distillation", "converted, FP32",
        "INT8, after QAT",
    ]  # fmt: skip
    assert "75.00 ± 7.07" in lines[5]
    assert "+5.00, worst seed +10.00 (+5.00 to +5.00)" in lines[5]


def test_the_command_is_recorded_without_places():
    arguments = norm_batch.parse(["--ckpt", "/a/b.pt", "--data", "/c", "--epochs", "2"])
    assert arguments.shown == (
        "--ckpt MODEL.pt --data DATA --seeds 0,1,2 --norm-epochs 8 --epochs 2 --rate 0.0001 "
        "--batch 8"
    )
