import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from normed_models import CASES, DENSE, X_ZERO, Y_ZERO, arrays_of, chain

from lmaunet.cpu import operators
from lmaunet.cpu.code_functions import FunctionDefinitions
from lmaunet.cpu.normed_convolutions import NORMED_CONV, NormedConvolutions
from lmaunet.export.passes import UnreadConstants, run
from lmaunet.export.reference import open_session

SHARE = 1e-4
"""Of the codes: a value on the border between two may fall to either side in float32."""
INSTRUCTIONS = {**operators.VARIANTS["x86_64"], **operators.DOT_PRODUCTS["x86_64"]}


def golden(case, arrays, slope=0.01, epsilon=1e-5):
    """The codes by float64, from the definition."""
    _, _, _, _, strides, pads, _, group = case
    top, left, bottom, right = pads
    image = torch.from_numpy((arrays["x"].astype(np.float64) - X_ZERO) * np.float32(0.03))
    scale = arrays["W_scale"].astype(np.float64)[:, None, None, None]
    kernel = torch.from_numpy(arrays["W"].astype(np.float64) * scale)
    sums = F.conv2d(
        F.pad(image, (left, right, top, bottom)),
        kernel,
        torch.from_numpy(arrays["bias"].astype(np.float64)),
        strides,
        groups=group,
    )
    mean = sums.mean((2, 3), keepdim=True)
    deviation = (sums.var((2, 3), keepdim=True, correction=0) + epsilon).sqrt()
    own = [
        torch.from_numpy(arrays[n].astype(np.float64))[:, None, None] for n in ("scale", "shift")
    ]
    values = F.leaky_relu(
        (sums - mean) / deviation * own[0] + own[1], 1.0 if slope is None else slope
    )
    return np.clip(np.rint(values.numpy() / np.float32(0.04)) + Y_ZERO, 0, 255)  # fmt: skip


def fused(model):
    return run([NormedConvolutions(), UnreadConstants(), FunctionDefinitions()], model)


def calls(model):
    return [node for node in model.graph.node if node.op_type == NORMED_CONV]


def codes_of(model, arrays, library=None, optimize=True):
    session = open_session(model, optimize=optimize, operators=library)
    return session.run(None, {"x": arrays["x"]})[0].astype(int)


def agrees(got, want):
    off = np.abs(got - want)
    return off.max() <= 1 and (off > 0).sum() <= max(1, SHARE * want.size)


def supported():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    needed = {
        "haswell": {"avx2", "fma"}, "skylake_avx512": {"avx512vl", "avx512bw", "avx512dq"},
        "cascadelake": {"avx512vl", "avx512bw", "avx512dq", "avx512_vnni"},
    }  # fmt: skip
    return [name for name in INSTRUCTIONS if needed.get(name, set()) <= flags]


SUPPORTED = supported()


@pytest.mark.parametrize("slope", [0.01, None, 0.3])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_function_and_kernel_give_the_codes_of_the_definition(case, slope, library):
    arrays = arrays_of(case)
    model = chain(case, arrays, slope)
    made, want = fused(model), golden(case, arrays, slope)
    assert len(calls(made)) == 1
    assert agrees(codes_of(model, arrays, optimize=False), want)
    assert agrees(codes_of(made, arrays), want)
    assert agrees(codes_of(made, arrays, library), want)
    assert agrees(codes_of(made, arrays, library, optimize=False), want)
    assert np.unique(want).size > 20


def test_a_mean_far_from_zero_and_a_large_epsilon(library):
    # a variance that is a small difference of large numbers; and maps of which epsilon is much
    for offset, epsilon in ((100, 1e-5), (0, 300.0)):
        arrays = arrays_of(DENSE, offset=offset)
        arrays["x"] |= 128
        made = fused(chain(DENSE, arrays, epsilon=epsilon))
        assert agrees(codes_of(made, arrays, library), golden(DENSE, arrays, epsilon=epsilon))


def largest_products():
    """Codes and weights whose products saturate where two are added in 16 bits."""
    case = (1, 64, 16, (3, 3), (1, 1), (1, 1, 1, 1), (8, 9), 1)
    arrays = arrays_of(case)
    arrays["x"] = np.where(arrays["x"] > 128, 255, 254).astype(np.uint8)
    arrays["W"][:] = np.where(arrays["W"] > 0, 127, 126)
    return case, arrays


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_each_instruction_set_gives_the_same_codes(name, build):
    if name not in SUPPORTED:
        pytest.skip(f"this processor lacks the instructions of {name}")
    kernels = build(name, options=(f"-DNORMED_KERNELS=kernels_{name}",))
    seen = [(case, arrays_of(case, seed=1)) for case in CASES.values()]
    for case, arrays in (*seen, largest_products()):
        made = fused(chain(case, arrays))
        assert agrees(codes_of(made, arrays, kernels), golden(case, arrays))


@pytest.mark.parametrize(
    "change",
    [
        ("normed_conv.cpp", "squares / count - mean * mean", "squares / count"),
        pytest.param(
            ("normed_conv.cpp", "std::sqrt(variance + epsilon)", "std::sqrt(variance)"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("normed_conv.cpp", "double{x_scale} * weight_scales[c]", "double{x_scale}"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "normed_conv_kernels.cpp",
                "pad_row<Code>(image, row, static_cast<Code>(image.x_zero), Code{});",
                "pad_row<Code>(image, row, Code{}, Code{});",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "normed_conv_kernels.cpp",
                "value = value < Floats{} ? negative : value;",
                "value = value < Floats{} ? Floats{} : value;",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "normed_conv_kernels.cpp",
                "_mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(zero))",
                "_mm512_add_epi32(_mm512_cvttps_epi32(value), _mm512_set1_epi32(zero))",
            ),
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif("skylake_avx512" not in SUPPORTED, reason="no AVX-512"),
            ],
        ),
    ],
    ids=["no mean in the variance", "no epsilon", "one scale", "border of code 0", "ReLU", "cut"],
)
def test_a_wrong_kernel_is_caught(change, build):
    # as many channels as every loop of the kernel sees some of
    case = (*DENSE[:2], 29, *DENSE[3:])
    arrays = arrays_of(case)
    kernels = build("mutant", change=change)
    got = codes_of(fused(chain(case, arrays, epsilon=30.0)), arrays, kernels)
    assert not agrees(got, golden(case, arrays, epsilon=30.0))


def test_the_largest_products_do_not_saturate(library):
    case, arrays = largest_products()
    made = fused(chain(case, arrays))
    assert agrees(codes_of(made, arrays, library), golden(case, arrays))


def test_weights_of_another_session_and_of_another_run_are_its_own(library):
    made = []
    for seed in (0, 1):
        arrays = arrays_of(DENSE, seed)
        model = fused(chain(DENSE, arrays))
        made.append((open_session(model, optimize=True, operators=library), arrays))
    for session, arrays in (*made, *made[::-1]):
        got = session.run(None, {"x": arrays["x"]})[0].astype(int)
        assert agrees(got, golden(DENSE, arrays))


def test_a_kernel_refuses_sizes_that_do_not_fit(library):
    arrays = arrays_of(DENSE)
    arrays["scale"] = arrays["scale"][:-1]
    made = fused(chain(DENSE, arrays_of(DENSE)))
    for tensor in made.graph.initializer:
        if tensor.name == "scale":
            tensor.CopyFrom(numpy_helper.from_array(arrays["scale"], "scale"))
    session = open_session(made, optimize=False, operators=library)
    with pytest.raises(Exception, match="input 5 has 31 elements in rank 1, which does not fit"):
        session.run(None, {"x": arrays["x"]})


def test_what_the_kernel_does_not_know_stays():
    arrays = arrays_of(DENSE)
    second = helper.make_node("Identity", ["sums"], ["seen"])
    assert not calls(fused(chain(DENSE, arrays, more=[second])))
    assert not calls(fused(chain(DENSE, arrays, dilations=[2, 2])))
    grouped = (1, 16, 32, (3, 3), (1, 1), (1, 1, 1, 1), (9, 9), 2)
    assert not calls(fused(chain(grouped, arrays_of(grouped))))
    shifted = arrays_of(DENSE)
    model = chain(DENSE, shifted)
    next(n for n in model.graph.node if n.name == "kernel").input.append("W_zero")
    zeros = numpy_helper.from_array(np.ones(32, np.int8), "W_zero")
    model.graph.initializer.append(zeros)
    assert not calls(fused(model))


def test_a_lost_slope_is_a_disagreement():
    class Forgetful(NormedConvolutions):
        def rewrite(self, model):
            count = super().rewrite(model)
            for value in model.graph.initializers.values():
                if value.name.startswith("normed/slope"):
                    value.const_value = ir.tensor(np.float32(1), name=value.name)
            return count

    arrays = arrays_of(DENSE)
    made = run([Forgetful(), UnreadConstants(), FunctionDefinitions()], chain(DENSE, arrays))
    assert not agrees(codes_of(made, arrays), golden(DENSE, arrays))


def test_what_a_pass_leaves_is_named():
    class Lazy(NormedConvolutions):
        def rewrite(self, model):
            return 0

    with pytest.raises(ir.passes.PostconditionError, match="QuantizeLinear y rounds what a call"):
        run([Lazy()], chain(DENSE, arrays_of(DENSE)))
