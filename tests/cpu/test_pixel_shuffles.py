import shutil
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from normed_models import shuffle_model

from lmaunet.cpu import operators
from lmaunet.cpu.code_functions import FunctionDefinitions
from lmaunet.cpu.pixel_shuffles import SHUFFLE, PixelShuffles
from lmaunet.export.passes import DeadNodes, run
from lmaunet.export.reference import open_session

SIZES = {
    (1, 12, 5, 7): 2,
    (2, 9, 3, 4): 3,
    (1, 128, 8, 8): 2,
}


def fused(model):
    return run([PixelShuffles(), FunctionDefinitions(), DeadNodes()], model)


def codes(shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def golden(x, size):
    batch, channels, height, width = x.shape
    apart = x.reshape(batch, channels // size**2, size, size, height, width)
    return apart.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, height * size, width * size)


def run_codes(model, x, library=None):
    return open_session(model, optimize=True, operators=library).run(None, {"x": x})[0]


@pytest.mark.parametrize(("shape", "size"), SIZES.items(), ids=str)
def test_function_and_kernel_move_codes_as_the_operator_does(shape, size):
    model, x = shuffle_model(shape, size), codes(shape)
    made, want = fused(model), golden(x, size)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds == ["Transpose", SHUFFLE, "Transpose"]
    for found in (run_codes(model, x), run_codes(made, x),
                  run_codes(made, x, operators.cached_library())):  # fmt: skip
        np.testing.assert_array_equal(found, want)


def test_other_orders_and_other_scales_stay():
    for model in (
        shuffle_model((1, 12, 5, 7), 2, mode="DCR"),
        shuffle_model((1, 12, 5, 7), 2, scale_behind=0.2),
    ):
        assert [n.op_type for n in fused(model).graph.node][1] == "DepthToSpace"


def test_a_kernel_of_another_order_is_caught(tmp_path, monkeypatch):
    sources = shutil.copytree(operators.SOURCES, tmp_path / "native")
    text = (sources / "operators.cpp").read_text()
    right = "from + x * inside + y * job.columns + column"
    assert text.count(right) == 1
    wrong = "from + x * inside + column * job.rows + y"
    (sources / "operators.cpp").write_text(text.replace(right, wrong))
    monkeypatch.setattr(operators, "SOURCES", sources)
    mutant = operators.build_library(tmp_path / operators.LIBRARY)
    x = codes((1, 12, 5, 7))
    got = run_codes(fused(shuffle_model(x.shape, 2)), x, mutant)
    assert (got != golden(x, 2)).any()


def test_a_shape_that_does_not_fit_is_refused():
    model = fused(shuffle_model((1, 12, 5, 7), 2))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("shuffled_shape"):
            wrong = numpy_helper.from_array(np.array([1, 10, 14, 4], np.int64), tensor.name)
            tensor.CopyFrom(wrong)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    session = open_session(model, optimize=False, operators=operators.cached_library())
    with pytest.raises(Exception, match="do not give the shape"):
        session.run(None, {"x": codes((1, 12, 5, 7))})


def test_what_the_pass_leaves_is_named():
    class Lazy(PixelShuffles):
        def rewrite(self, model):
            return 0

    with pytest.raises(ir.passes.PostconditionError, match="QuantizeLinear y rounds what a call"):
        run([Lazy()], shuffle_model((1, 12, 5, 7), 2))
