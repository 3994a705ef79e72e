import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import helper
from scan_models import feeds, info, make_model, oracle, random_arrays, scan_model, scan_node

from lmaunet.errors import UserError
from lmaunet.export.check import run_onnx
from lmaunet.export.function import DOMAIN, INPUTS, NAME, attach, selective_scan_function


def test_function_is_the_contract():
    function = selective_scan_function()
    assert (function.domain, function.name) == ("ai.lmaunet", "SelectiveScan")
    assert tuple(function.input) == ("x", "dt", "A", "B", "C", "D")
    assert list(function.output) == ["y"] and not function.attribute
    assert [(e.domain, e.version) for e in function.opset_import] == [("", 18)]


def test_body_of_the_scan_captures_nothing():
    scan = next(n for n in selective_scan_function().node if n.op_type == "Scan")
    body = next(a.g for a in scan.attribute if a.name == "body")
    own = {i.name for i in body.input} | {o for n in body.node for o in n.output}
    assert {i for n in body.node for i in n.input} <= own


@pytest.mark.parametrize("optimize", [False, True])
def test_attached_model_computes_the_scan(optimize):
    arrays = random_arrays(2, 37, 3, 5)
    model = attach(scan_model(arrays))
    onnx.checker.check_model(model, full_check=True)
    y, bound = oracle(arrays)
    got = run_onnx(model, feeds(arrays), optimize=optimize)[0]
    assert (np.abs(got - y) <= bound).all()


def test_function_serves_any_batch_and_length():
    arrays = random_arrays(1, 5, 2, 3)
    model = scan_model(arrays)
    for value in (*model.graph.input, *model.graph.output):
        for dim, symbol in zip(value.type.tensor_type.shape.dim[:2], ("n", "L"), strict=True):
            dim.dim_param = symbol
    model = attach(model)
    for batch, tokens in ((1, 1), (3, 9)):
        arrays |= {
            key: value
            for key, value in random_arrays(batch, tokens, 2, 3).items()
            if key not in ("A", "D")
        }
        y, bound = oracle(arrays)
        assert (np.abs(run_onnx(model, feeds(arrays), optimize=True)[0] - y) <= bound).all()


def test_inlined_function_computes_the_same():
    arrays = random_arrays(2, 20, 3, 4)
    model = attach(scan_model(arrays))
    inlined = onnx.inliner.inline_local_functions(model)
    assert not inlined.functions and all(n.op_type != NAME for n in inlined.graph.node)
    want = run_onnx(model, feeds(arrays), optimize=False)[0]
    np.testing.assert_array_equal(run_onnx(inlined, feeds(arrays), optimize=False)[0], want)


def test_attach_copies_and_replaces():
    model = scan_model(random_arrays(1, 4, 2, 2))
    before = model.SerializeToString()
    del model.opset_import[1:]
    model.ir_version = 7
    once = attach(model)
    assert once.ir_version == 8
    assert [(e.domain, e.version) for e in once.opset_import] == [("", 18), (DOMAIN, 1)]
    assert attach(once).SerializeToString() == once.SerializeToString()
    assert len(model.functions) == 0
    assert attach(onnx.load_from_string(before)).graph == once.graph


def test_attach_follows_a_newer_opset():
    arrays = random_arrays(1, 4, 2, 2)
    model = scan_model(arrays)
    model.opset_import[0].version = 21
    model.ir_version = 10
    model = attach(model)
    assert model.functions[0].opset_import[0].version == 21
    y, bound = oracle(arrays)
    assert (np.abs(run_onnx(model, feeds(arrays), optimize=True)[0] - y) <= bound).all()


def test_attach_refuses_what_has_no_scan():
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [info("x", 1)],
                              [info("y", 1)])  # fmt: skip
    with pytest.raises(UserError) as error:
        attach(make_model(graph))
    assert str(error.value) == (
        "the model has no node ai.lmaunet::SelectiveScan; expected one for each selective scan; "
        "export a network that has scans"
    )


def test_attach_refuses_an_old_opset():
    model = scan_model(random_arrays(1, 4, 2, 2))
    model.opset_import[0].version = 17
    with pytest.raises(UserError) as error:
        attach(model)
    assert str(error.value) == (
        "the model is of operator set 17; expected 18 or more; export with opset_version=18"
    )


def test_attach_refuses_a_malformed_scan():
    model = scan_model(random_arrays(1, 4, 2, 2))
    del model.graph.node[0].input[5]
    with pytest.raises(UserError) as error:
        attach(model)
    assert str(error.value) == (
        "scan scan: 5 inputs and 1 outputs; expected the inputs x, dt, A, B, C, D and one output; "
        "export the network again with this version"
    )


def test_attach_refuses_an_invalid_model():
    model = scan_model(random_arrays(1, 4, 2, 2))
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(
        UserError, match=r"^the model is not valid ONNX: .*export the network again"
    ):
        attach(model)


def test_attach_refuses_a_scan_inside_a_function():
    model = scan_model(random_arrays(1, 4, 2, 2))
    outer = helper.make_function(
        "other", "outer", list(INPUTS), ["y"], [scan_node()],
        [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)],
    )  # fmt: skip
    model.functions.append(outer)
    with pytest.raises(UserError) as error:
        attach(model)
    assert str(error.value) == (
        "1 scans are inside a body or a function of the model; expected them in the main graph; "
        "inline that function (onnx.inliner.inline_selected_functions) first"
    )
