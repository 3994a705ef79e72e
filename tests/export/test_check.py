import numpy as np
import onnx
import pytest
from onnx import helper
from scan_models import feeds, info, make_model, random_arrays, scan_model

from lmaunet.errors import Disagreement, UserError
from lmaunet.export.check import check_graph, run_onnx

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def doubling():
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    return make_model(
        helper.make_graph(nodes, "doubling", [info("x", 2, 3)], [info("y", 2, 3), info("z", 2, 3)])
    )


def test_runs_a_model_and_a_file(doubling, tmp_path):
    onnx.save(doubling, tmp_path / "m.onnx")
    for model in (doubling, tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        y, z = run_onnx(model, {"x": X}, optimize=True)
        np.testing.assert_array_equal(y, 2 * X)
        np.testing.assert_array_equal(z, -X)


def test_checks_both_levels_and_every_output(doubling, tmp_path):
    agreements = check_graph("toy", doubling, {"x": X}, [2 * X, -X], 0.0, tmp_path)
    assert [a.name for a in agreements] == [
        "toy, optimization off, output 0", "toy, optimization off, output 1",
        "toy, optimization full, output 0", "toy, optimization full, output 1",
    ]  # fmt: skip
    assert all(a.passed and a.n_total == 6 and a.max_abs == 0 for a in agreements)


def test_wrong_output_disagrees(doubling, tmp_path):
    wrong = 2 * X
    wrong[1, 2] += 0.5
    with pytest.raises(Disagreement, match=r"first at index \(1, 2\): got 10.0, expected 10.5"):
        check_graph("toy", doubling, {"x": X}, [wrong, -X], 1e-3, tmp_path)
    assert np.load(tmp_path / "toy_optimization_off_output_0.npz")["expected"][1, 2] == 10.5


def test_a_level_that_differs_alone_disagrees(doubling, tmp_path, monkeypatch):
    def only_optimized_is_wrong(model, feeds, *, optimize):
        return [2 * X + optimize, -X]

    monkeypatch.setattr("lmaunet.export.check.run_onnx", only_optimized_is_wrong)
    with pytest.raises(Disagreement, match=r"^toy, optimization full, output 0: 6 of 6"):
        check_graph("toy", doubling, {"x": X}, [2 * X, -X], 1e-3, tmp_path)


def test_allowed_elements_may_differ(doubling, tmp_path):
    wrong = 2 * X
    wrong[0, 0] += 1
    agreements = check_graph("toy", doubling, {"x": X}, [wrong, -X], 0.0, tmp_path, allowed=1)
    assert [a.n_differ for a in agreements] == [1, 0, 1, 0]
    assert all(a.allowed == 1 and a.passed for a in agreements)


def test_number_of_outputs_must_fit(doubling, tmp_path):
    with pytest.raises(UserError) as error:
        check_graph("toy", doubling, {"x": X}, 2 * X, 0.0, tmp_path)
    assert str(error.value) == (
        "toy: the model has 2 outputs, expected 1; give one expected array for each"
    )


def test_missing_file(tmp_path):
    with pytest.raises(UserError) as error:
        run_onnx(tmp_path / "no.onnx", {}, optimize=False)
    assert (
        str(error.value) == f"{tmp_path / 'no.onnx'} does not exist; give the path of an ONNX file"
    )


def test_truncated_file(doubling, tmp_path):
    path = tmp_path / "half.onnx"
    path.write_bytes(doubling.SerializeToString()[:-20])
    with pytest.raises(UserError, match=r"^ONNX Runtime cannot load .*half\.onnx: .*export it"):
        run_onnx(path, {"x": X}, optimize=False)


def test_opaque_scan_cannot_be_loaded():
    arrays = random_arrays(1, 4, 2, 2)
    with pytest.raises(UserError) as error:
        run_onnx(scan_model(arrays), feeds(arrays), optimize=True)
    assert str(error.value).startswith("ONNX Runtime cannot load the model 'one_scan': ")
    assert str(error.value).endswith("export it again, with the lowering unrolled or two_level")


@pytest.mark.parametrize("wrong", [{"x": X[:1]}, {"x": X.astype(np.float64)}, {"other": X}, {}])
def test_feeds_that_do_not_fit(doubling, wrong):
    with pytest.raises(UserError) as error:
        run_onnx(doubling, wrong, optimize=False)
    assert str(error.value).startswith("ONNX Runtime cannot run the model 'doubling': ")
    assert str(error.value).endswith("; expected x [2, 3] tensor(float)")
