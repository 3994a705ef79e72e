"""The volume beside nnU-Net's own prediction: the plan of its network, and the table."""

import argparse

import pytest
import volume as benchmark
import volume_nnunet

from lmaunet.deploy.segmenter import PHASES


def test_the_plan_is_the_one_that_nnunet_makes_for_such_slices():
    made = volume_nnunet.plans(512, 0.72)["configurations"]["2d"]
    network = made["architecture"]["arch_kwargs"]
    assert network["features_per_stage"] == [32, 64, 128, 256, 512, 512, 512, 512]
    assert network["strides"] == [[1, 1]] + [[2, 2]] * 7 and made["patch_size"] == [512, 512]
    small = volume_nnunet.plans(128, 0.72)["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert small["features_per_stage"] == [32, 64, 128, 256, 512, 512]


def test_each_of_ours_is_set_against_each_of_theirs():
    rows = [
        {"network": "nnU-Net 2-D", "how": "nnUNetv2_predict, --disable_tta", "process_s": 10.0},
        {"network": "nnU-Net 2-D", "how": "nnUNetv2_predict, mirrored (its default)",
         "process_s": 40.0},
        {"network": "edge", "how": "infer, ort build, INT8", "process_s": 5.0,
         "phases_s": {"read": 1.0, "network": 3.5}},
    ]  # fmt: skip
    lines = benchmark.shown({"rows": rows})
    assert lines[0].split()[-6:] == ["of", "--disable_tta", "of", "mirrored", "(its", "default)"]
    ours = next(line for line in lines if line.startswith("edge"))
    assert ours.split()[-4:] == ["1.00", "3.50", "0.50", "0.12"]
    assert "0.61 on an A100" in lines[-1]


def test_an_environment_that_is_not_there_is_said(tmp_path):
    given = argparse.Namespace(nnunet_python=tmp_path / "python")
    with pytest.raises(benchmark.UserError, match="is no file; give an environment's python"):
        benchmark.main(given)


def test_phases_have_the_words_of_both_sides():
    ms = dict.fromkeys(PHASES, 0.0) | {"first_call": 1000.0, "infer": 500.0}
    assert benchmark.seconds(ms)["network"] == 1.5
    assert set(benchmark.seconds(ms)) >= {"open", "read", "preprocess", "network", "write"}
