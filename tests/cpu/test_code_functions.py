import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scan_models import feeds, oracle, random_arrays, scan_model

from lmaunet.cpu import operators
from lmaunet.cpu.code_functions import SCAN_CODES, SILU_CODES, define_functions, fuse_codes
from lmaunet.cpu.cpu_file import cpu_forms
from lmaunet.errors import Disagreement
from lmaunet.export.function import is_scan
from lmaunet.export.lowerings import unrolled
from lmaunet.export.model_messages import all_nodes
from lmaunet.export.network import export_qcdq
from lmaunet.export.passes import DeadNodes, run
from lmaunet.export.reference import open_session, run_images
from lmaunet.export.segments import activations, check_segments, exported_values

SHARE = 0.0001


@pytest.fixture(scope="module")
def exported(tiny_quantized, tiny_data, tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("exported") / "network.onnx"
    export_qcdq(tiny_quantized, torch.from_numpy(tiny_data.train.images[:1]), path)
    return onnx.load(path)


@pytest.fixture(scope="module")
def forms(exported):
    return cpu_forms(exported)


@pytest.fixture(scope="module")
def library():
    return operators.cached_library()


def calls(model):
    return Counter(node.op_type for node in model.graph.node if node.domain == "ai.lmaunet")


def test_each_silu_and_scan_becomes_a_call(forms, tiny_spec):
    stages = len(tiny_spec.strides)
    assert calls(forms.rounded) == {"SelectiveScan": stages}
    assert calls(forms.fused) == {SCAN_CODES: stages, SILU_CODES: 2 * stages}
    left = {node.op_type for node in forms.fused.graph.node}
    assert left.isdisjoint({"Sigmoid", "Softplus", "Scan"})
    assert {f.name for f in forms.fused.functions} == {"SelectiveScan", SCAN_CODES, SILU_CODES}
    onnx.checker.check_model(forms.fused)


def test_calls_keep_the_tensors_of_the_exported_graph(exported, forms):
    assert set(activations(exported)) <= set(activations(forms.fused))


@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "optimized"])
def test_the_functions_in_the_file_change_no_bit(exported, forms, tiny_data, optimize):
    images = tiny_data.train.images[:2]
    want, got = (
        run_images(open_session(form, optimize=False), images)
        for form in (forms.rounded, run([DeadNodes()], forms.fused))
    )
    assert np.abs(want).max() > 0
    if not optimize:
        np.testing.assert_array_equal(got, want)


def segments(form, source, image, folder, **options):
    values = exported_values(source, image)
    return check_segments(
        "codes", form, values, image, folder, share=SHARE, optimize=True, **options
    )


@pytest.mark.parametrize("kernels", [False, True], ids=["functions", "kernels"])
def test_codes_are_those_of_the_graph_without_calls(forms, tiny_data, library, tmp_path, kernels):
    image = tiny_data.train.images[:1]
    given = {"operators": library} if kernels else {}
    near, exact, logits = segments(forms.fused, forms.rounded, image, tmp_path, **given)
    assert near.passed and exact.passed and logits.passed
    assert exact.n_total > 50_000 and exact.n_differ <= 2


def test_a_scan_that_is_given_the_wrong_map_is_caught(forms, tiny_data, library, tmp_path):
    """The mutant: B and C change places in one call."""
    model = onnx.ModelProto()
    model.CopyFrom(forms.fused)
    scan = next(node for node in model.graph.node if node.op_type == SCAN_CODES)
    scan.input[7:10], scan.input[10:13] = list(scan.input[10:13]), list(scan.input[7:10])
    with pytest.raises(Disagreement, match="mamba/scan"):
        segments(model, forms.rounded, tiny_data.train.images[:1], tmp_path, operators=library)


def test_a_silu_that_something_else_reads_stays(forms):
    model = onnx.ModelProto()
    model.CopyFrom(forms.rounded)
    product = next(
        node
        for node in model.graph.node
        if node.op_type == "Mul" and any("Sigmoid" in name for name in node.input)
    )
    model.graph.node.append(onnx.helper.make_node("Relu", [product.output[0]], ["watched"]))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("watched", onnx.TensorProto.FLOAT, None)
    )
    before, after = calls(fuse_codes(forms.rounded)), calls(fuse_codes(model))
    assert after[SILU_CODES] == before[SILU_CODES] - 1 > 0


SIZES = [(1, 1, 3, 2), (2, 100, 13, 5), (1, 256, 8, 8), (1, 700, 24, 16)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_scan_of_any_size_is_the_golden_one(size):
    arrays = random_arrays(*size)
    model = define_functions(scan_model(arrays))
    onnx.checker.check_model(model)
    got = open_session(model, optimize=True).run(None, feeds(arrays))[0]
    want, bound = oracle(arrays)
    assert got.shape == want.shape and (np.abs(got - want) <= bound).all()


def test_the_definition_does_not_grow_with_the_tokens():
    counts = {
        tokens: sum(
            1
            for function in define_functions(scan_model(random_arrays(1, tokens, 4, 2))).functions
            for _ in all_nodes(list(function.node))
        )
        for tokens in (16, 4096)
    }
    assert counts[16] == counts[4096] <= 180


def test_chunk_ends_that_are_lost_are_caught(monkeypatch):
    """The mutant: every chunk of a block starts from the block's state."""
    arrays = random_arrays(1, 256, 8, 4)
    monkeypatch.setattr(
        unrolled,
        "_starts",
        lambda body, a, b, h, chunks: body.concat([h] * chunks, 1),
    )
    got = open_session(define_functions(scan_model(arrays)), optimize=True).run(
        None, feeds(arrays)
    )[0]
    want, bound = oracle(arrays)
    assert (np.abs(got - want) > 100 * bound).any()


def test_a_float_network_gets_the_definition_alone():
    model = define_functions(scan_model(random_arrays(1, 16, 4, 2)))
    assert [f.name for f in model.functions] == ["SelectiveScan"]
    assert [is_scan(node) for node in model.graph.node].count(True) == 1
