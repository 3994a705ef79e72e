import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from scan_models import feeds, info, oracle, random_arrays, scan_model

from lmaunet.cpu import operators
from lmaunet.cpu.code_functions import SCAN_CODES, SILU_CODES, define_functions
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.export.reference import open_session

SIZES = [
    (1, 300, 24, 8), (1, 100, 48, 16), (2, 100, 13, 5), (1, 1, 1, 1), (3, 7, 9, 8), (1, 5, 8, 256),
]  # fmt: skip
INSTRUCTIONS = operators.VARIANTS["x86_64"]


def run(model, given, library):
    return open_session(model, optimize=True, operators=library).run(None, given)[0]


def scan(arrays, library):
    return run(scan_model(arrays), feeds(arrays), library)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_kernel_is_the_golden_scan(size, library):
    arrays = random_arrays(*size)
    want, bound = oracle(arrays)
    assert (np.abs(scan(arrays, library) - want) <= bound).all()


@pytest.mark.parametrize("dt_shift", [-40.0, 0.0, 30.0])
def test_small_and_large_steps(dt_shift, library):
    arrays = random_arrays(1, 200, 16, 8, dt_shift=dt_shift)
    want, bound = oracle(arrays)
    got = scan(arrays, library)
    # what underflows in float32 may be lost
    assert (np.abs(got - want) <= bound + 1e-37).all()


def supported(name):
    flags = set(Path("/proc/cpuinfo").read_text().split())
    needed = {"haswell": {"avx2", "fma"}, "skylake_avx512": {"avx512vl", "avx512bw", "avx512dq"}}
    return needed.get(name, set()) <= flags


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_each_instruction_set_computes_the_same_scan(name, build):
    if not supported(name):
        pytest.skip(f"this processor lacks the instructions of {name}")
    kernels = build(name, options=(f"-DKERNELS=kernels_{name}",))
    arrays = random_arrays(1, 300, 21, 8)
    want, bound = oracle(arrays)
    assert (np.abs(scan(arrays, kernels) - want) <= bound).all()


@pytest.mark.parametrize(
    "change",
    [
        (
            "scan_kernel.hpp",
            "write(tensors, at, width, y + D * x);",
            "write(tensors, at, width, y);",
        ),
        pytest.param(
            ("scan_kernel.hpp", "const Floats u = delta * x;", "const Floats u = x;"),
            marks=pytest.mark.slow,
        ),
        ("vector_math.hpp", "Floats p = all(1.540351235e-04f);", "Floats p = all(1.2e-03f);"),
    ],
    ids=["no skip", "no delta", "wrong exponential"],
)
def test_a_wrong_kernel_is_caught(change, build):
    arrays = random_arrays(1, 300, 24, 8)
    want, bound = oracle(arrays)
    got = scan(arrays, build("mutant", change=change))
    assert (np.abs(got - want) > bound).any()


GRIDS = {"x": (0.02, 128), "dt": (0.05, 128), "B": (0.013, 128), "C": (0.03, 100), "y": (0.4, 128)}


def grid(name):
    scale, zero = GRIDS[name]
    return {f"{name}_scale": np.float32(scale), f"{name}_zero": np.uint8(zero)}


def codes_model(op_type, constants, inputs, order, shape):
    """One call of a function over codes; its maps are inputs, all else constants."""
    call = helper.make_node(op_type, order, ["y"], domain="ai.lmaunet")
    entries = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, array.shape)
        for name, array in inputs.items()
    ]
    graph = helper.make_graph(
        [call], "codes", entries, [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.lmaunet", 1)]
    return define_functions(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def scan_of_codes(tokens, channels, states, seed=0):
    rng = np.random.default_rng(seed)
    arrays = random_arrays(1, tokens, channels, states)
    maps = {
        name: rng.integers(0, 256, (1, 1, tokens, width), np.uint8)
        for name, width in (("x", channels), ("dt", channels), ("B", states), ("C", states))
    }
    constants = {"A": arrays["A"], "D": arrays["D"]}
    order = []
    for name in ("x", "dt", "A", "B", "C", "D", "y"):
        order += [name] if name != "y" else []
        if name in GRIDS:
            constants |= grid(name)
            order += [f"{name}_scale", f"{name}_zero"]
    return codes_model(SCAN_CODES, constants, maps, order, maps["x"].shape), maps


@pytest.mark.parametrize(
    "size", [(300, 24, 8), (64, 13, 5), (100, 16, 16), (700, 21, 8), (600, 8, 16)], ids=str
)
def test_codes_are_those_of_the_function(size, library):
    model, maps = scan_of_codes(*size)
    want, got = (run(model, maps, given).astype(int) for given in (None, library))
    assert len(np.unique(want)) > 100
    assert np.abs(got - want).max() <= 1 and (got != want).mean() <= 1e-4


def test_codes_that_are_cut_off_are_caught(build):
    """The mutant: y is rounded down, not to the nearest."""
    right = "code = (code + all(lanes::kRounder)) - all(lanes::kRounder);"
    wrong = "code = (code - all(0.5f) + all(lanes::kRounder)) - all(lanes::kRounder);"
    model, maps = scan_of_codes(300, 24, 8)
    want = run(model, maps, None).astype(int)
    got = run(model, maps, build("cut", change=("scan_kernel.hpp", right, wrong))).astype(int)
    assert (got != want).mean() > 0.1


def test_decays_of_another_channel_are_caught(build):
    """The mutant: with many tokens, decays come from the first channel's table."""
    right, wrong = "decays + (i * 256 + codes[i]) * STATES;", "decays + codes[i] * STATES;"
    model, maps = scan_of_codes(600, 8, 8)
    want = run(model, maps, None).astype(int)
    got = run(model, maps, build("table", change=("scan_kernel.hpp", right, wrong))).astype(int)
    assert (got != want).mean() > 0.01


@pytest.mark.parametrize("scale", [0.001, 0.04, 1.7])
@pytest.mark.parametrize("zero", [0, 128, 200])
def test_silu_of_each_code_is_the_functions(scale, zero, library):
    maps = {"x": np.arange(256, dtype=np.uint8).reshape(1, 1, 32, 8)}
    constants = {
        "x_scale": np.float32(scale), "x_zero": np.uint8(zero),
        "y_scale": np.float32(0.9 * scale), "y_zero": np.uint8(70),
    }  # fmt: skip
    model = codes_model(SILU_CODES, constants, maps, ["x", *constants], (1, 1, 32, 8))
    want, got = (run(model, maps, given) for given in (None, library))
    assert len(np.unique(want)) > 40
    # the two may round a sigmoid otherwise, and a value on the border of two codes with it
    assert (got != want).sum() <= 1 and np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_large_maps_are_looked_up_in_parts(library):
    rng = np.random.default_rng(0)
    maps = {"x": rng.integers(0, 256, (1, 1, 12_345, 11), np.uint8)}
    constants = {
        "x_scale": np.float32(0.04), "x_zero": np.uint8(128),
        "y_scale": np.float32(0.03), "y_zero": np.uint8(20),
    }  # fmt: skip
    model = codes_model(SILU_CODES, constants, maps, ["x", *constants], maps["x"].shape)
    want, got = (run(model, maps, given) for given in (None, library))
    assert (got != want).mean() <= 1 / 256 and got.shape == want.shape


def test_tensors_that_do_not_fit_are_an_error_and_no_crash(library):
    arrays = random_arrays(1, 10, 4, 2)
    inputs = {"x": (1, 10, 4), "dt": (1, 10, 4), "B": (1, 10, 3), "C": (1, 10, 2)}
    model = scan_model(arrays)
    for entry in model.graph.input:
        if entry.name in inputs:
            entry.CopyFrom(info(entry.name, *inputs[entry.name]))
    given = feeds(arrays) | {"B": np.zeros((1, 10, 3), np.float32)}
    session = open_session(model, optimize=False, operators=library)
    with pytest.raises(Exception, match=r"input 3 .* does not fit the other inputs' sizes"):
        session.run(None, given)


def test_without_a_compiler_there_is_a_message(monkeypatch, tmp_path):
    monkeypatch.setattr(operators.shutil, "which", lambda name: None)
    with pytest.raises(ToolNotFound, match=r"g\+\+"):
        operators.cached_library()
    with pytest.raises(ToolNotFound, match=r"g\+\+"):
        operators.build_library(tmp_path / operators.LIBRARY)


def test_sources_that_do_not_compile_leave_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(operators, "FLAGS", (*operators.FLAGS, "-DKERNELS=missing"))
    path = tmp_path / "out" / operators.LIBRARY
    with pytest.raises(UserError, match=r"the C\+\+ compiler failed with status 1") as error:
        operators.build_library(path)
    assert "--no-operators" in str(error.value)
    assert list(path.parent.iterdir()) == []


def test_a_library_that_is_none_is_refused(tmp_path):
    path = tmp_path / operators.LIBRARY
    path.write_bytes(b"not a library")
    with pytest.raises(UserError, match="cannot load the operators"):
        open_session(scan_model(random_arrays(1, 4, 2, 1)), optimize=True, operators=path)


def test_the_library_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = operators.cached_library()
    changed = first.stat().st_mtime_ns
    assert operators.cached_library() == first and first.stat().st_mtime_ns == changed
    assert first.is_relative_to(tmp_path)
