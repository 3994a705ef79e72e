"""What the targets find on a machine, and what they make of measurements, without a network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lmaunet.artifacts import Build, Measurement
from lmaunet.cpu.operators import LIBRARY
from lmaunet.deploy import targets, timing
from lmaunet.deploy.targets import Target, Tool, fpga, installed, openvino, ort
from lmaunet.deploy.targets.ort import measuring, sessions
from lmaunet.errors import ToolNotFound, UserError


def test_a_package_is_found_with_its_version_and_place():
    found = installed("numpy", "arrays", "get it")
    assert found == Tool("numpy", "arrays", np.__version__, np.__file__, "get it", False)
    assert found.found and installed("numpy", "", "", required=True).required


@pytest.mark.parametrize(
    ("spec", "version", "place"),
    [
        (SimpleNamespace(origin=None, submodule_search_locations=["/a", "/b"]), "3", "/a"),
        (SimpleNamespace(origin="/c.py", submodule_search_locations=["/a"]), "3", "/c.py"),
        (SimpleNamespace(origin=None, submodule_search_locations=None), "3", ""),
        (None, "3", ""),
        (ImportError("broken"), "3", ""),
        (ValueError("numpy.__spec__ is None"), "3", ""),
        (SimpleNamespace(origin="/c.py"), targets.importlib.metadata.PackageNotFoundError("x"), ""),
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_a_package_is_found_where_its_module_and_its_record_are(
    monkeypatch, spec, version, place, required
):
    """One without a file of its own is where its modules are."""

    def answer(value):
        def look(name):
            if isinstance(value, Exception):
                raise value
            return value

        return look

    monkeypatch.setattr(targets.importlib.util, "find_spec", answer(spec))
    monkeypatch.setattr(targets.importlib.metadata, "version", answer(version))
    found = installed("x", "for y", "get it", required=required)
    assert (found.found, found.place) == (bool(place), place)
    assert (found.name, found.purpose, found.fix) == ("x", "for y", "get it")
    assert found.required == required and (found.version == "3" or not place)


def test_a_target_measures_and_has_no_options_and_no_note_unless_it_says_so():
    plain = Target("x", "", list, None, None, None, str)
    assert (plain.provenance(None), plain.options(), plain.run_note) == ("measured", {}, "")
    assert Tool("x", "y") == Tool("x", "y", "", "", "", True) and not Tool("x", "y").found


@pytest.fixture
def hardware(monkeypatch):
    """The tools of the FPGA that are looked for, and what was checked."""
    import lmaunet.fpga.build  # noqa: F401 - loaded below it would keep what stands in for a while

    asked = []
    monkeypatch.setattr("lmaunet.fpga.environment.finn_place", lambda: "/finn")
    monkeypatch.setattr(
        "lmaunet.fpga.toolchain.flow.check_flow", lambda *given: asked.append("flow")
    )
    for name in ("verilator", "compiler"):
        monkeypatch.setattr(
            f"lmaunet.fpga.simulation.compilation.{name}_place",
            lambda name=name: asked.append(name),
        )
    return asked


@pytest.mark.parametrize(
    ("given", "simulate"),
    [({}, False), ({"simulate": True}, True), ({"flow": "none"}, False), ({"flow": "timing"}, True),
     ({"flow": "vivado"}, True), ({"flow": "none", "simulate": True}, True)],
)  # fmt: skip
def test_a_flow_is_simulated_before_it_is_synthesised(hardware, given, simulate):
    """With the tools that this takes, which are looked for at once."""
    options = fpga.build_options(**given)
    assert options["simulate"] is simulate and options["flow"] == given.get("flow", "none")
    assert hardware == ["flow", *(["verilator", "compiler"] if simulate else [])]


def test_the_options_of_a_design_are_those_that_are_given(hardware, monkeypatch):
    assert fpga.build_options("KV260", 300.0, 5.0) == {
        "board": "KV260", "clock_mhz": 300.0, "target_ms": 5.0, "simulate": False, "flow": "none",
    }  # fmt: skip
    for board, clock, text in (("", None, "board"), (None, 0, "clock_mhz=0")):
        with pytest.raises(UserError, match=text):
            fpga.build_options(board, clock)
    monkeypatch.setattr("lmaunet.fpga.environment.finn_place", lambda: "")
    with pytest.raises(ToolNotFound, match="finn-plus is missing: it is needed to map"):
        fpga.build_options()


@pytest.mark.parametrize(
    ("there", "place"),
    [({"g++", "clang++"}, "/g++"), ({"clang++"}, "/clang++"), ({"g++"}, "/g++"), (set(), "")],
)
def test_a_simulation_is_compiled_by_the_first_compiler(monkeypatch, there, place):
    monkeypatch.setattr(fpga.shutil, "which", lambda name: f"/{name}" if name in there else None)
    monkeypatch.setattr("lmaunet.cpu.operators.compiler_version", lambda tool: f"of {tool}")
    tools = fpga.probe()
    (compiler,) = (tool for tool in tools if tool.name == "g++")
    assert (compiler.place, compiler.version) == (place, f"of {place}" if place else "")
    assert [tool.name for tool in tools if tool.required] == ["finn-plus"]
    if place:
        built = ort.probe()[1]
        assert built.version == f"of {built.place}" and not built.required


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_images_go_through_the_hardware_graph_four_at_a_time(monkeypatch, tmp_path, count):
    """In their order; those of another size are refused, whichever way they differ."""
    batches = []
    monkeypatch.setattr(
        "lmaunet.fpga.build.read_host", lambda path: SimpleNamespace(input_shape=(1, 2, 3, 5))
    )
    monkeypatch.setattr("lmaunet.fpga.graph.onnx_file.load", lambda path: path.name)
    monkeypatch.setattr(
        "lmaunet.fpga.graph.executor.Executor",
        lambda graph: SimpleNamespace(run=lambda codes: batches.append(len(codes)) or codes + 1),
    )
    monkeypatch.setattr("lmaunet.fpga.agreement.nodes.host_codes", lambda host, images: images * 2)
    monkeypatch.setattr("lmaunet.fpga.agreement.nodes.host_logits", lambda host, codes: codes * 10)
    build = Build("fpga", tmp_path, tmp_path / "weights.bin", ())
    images = np.arange(count * 30, dtype=np.float32).reshape(count, 2, 3, 5)
    np.testing.assert_array_equal(fpga.run(build, images), (images * 2 + 1) * 10)
    assert batches == [4] * (count // 4) + ([count % 4] if count % 4 else [])
    for shape in (
        (1, 2, 3, 4),
        (1, 2, 3, 6),
        (1, 1, 3, 5),
        (1, 3, 3, 5),
        (2, 3, 5),
        (1, 1, 2, 3, 5),
    ):
        with pytest.raises(UserError, match=r"; the hardware graph takes \(n, 2, 3, 5\)$"):
            fpga.run(build, np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("stated", "provenance"),
    [({}, "estimated"), ({"latency_ms_provenance": "simulated"}, "simulated"),
     ({"latency_ms_provenance": "measured"}, "estimated"),
     ({"latency_ms_provenance": "xyz"}, "estimated")],
)  # fmt: skip
def test_a_latency_is_simulated_where_the_design_was(tmp_path, stated, provenance):
    (tmp_path / "weights.bin").write_bytes(bytes(1_234_567))
    detail = {"weights_bytes": 1_000_001, "latency_ms": 7.5, **stated}
    figures = fpga.measure(Build("fpga", tmp_path, tmp_path / "weights.bin", (), detail), None)
    assert list(figures) == ["size_mb", "weights_mb", "latency_ms", "bitstream_mb"]
    assert figures["latency_ms"] == Measurement("latency_ms", 7.5, "ms", provenance)
    assert figures["weights_mb"] == Measurement("weights_mb", 1.000001, "MB", "measured")
    assert figures["size_mb"] == Measurement("size_mb", 1.234567, "MB", "measured")
    assert figures["bitstream_mb"].why.endswith("need Vivado and --flow vivado")


def layer(kind, name, precision, integer):
    return SimpleNamespace(
        kind=kind, name=name, kernel=f"k{name}", precision=precision, integer=integer, nodes=()
    )


def test_layers_are_counted_by_precision_and_the_costly_float_ones_named():
    """The precision that most have comes first; what moves values costs nothing."""
    found = [
        layer("Convolution", "a", "i8", True), layer("Convolution", "b", "i8", True),
        layer("Convolution", "c", "f32", False), layer("MatMul", "d", "f32", False),
        layer("MatMul", "e", "i8", True), layer("Reorder", "f", "i8", False),
        layer("Loop", "g", "f32", False), layer("Convolution", "h", "i8", True),
    ]  # fmt: skip
    summary = openvino.summary(found)
    assert summary == {
        "convolutions": {"integer_kernels": 3, "float_kernels": 1},
        "precisions": {"i8": 5, "f32": 3},
        "kinds": {"Convolution i8": 3, "Convolution f32": 1, "MatMul f32": 1, "MatMul i8": 1,
                  "Reorder i8": 1, "Loop f32": 1},
        "costly_float_layers": ["Convolution c (kc)", "MatMul d (kd)", "Loop g (kg)"],
    }  # fmt: skip
    assert list(summary["precisions"]) == ["i8", "f32"]


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """A build whose works are run once and timed by a table; a clock of 0.25 s a look."""
    ran = []

    def turns(works):
        ran.extend((name, work()) for name, work in works.items())
        return {
            name: timing.summary([median] * 10)
            for name, median in (("own", 4.0), ("float32", 10.0)) if name in works
        }  # fmt: skip

    monkeypatch.setattr(timing, "time_turns", turns)
    monkeypatch.setattr(timing, "conditions", lambda: {"cpu": "a CPU"})
    monkeypatch.setattr("lmaunet.export.reference.read_model", lambda path: path)
    monkeypatch.setattr(
        "lmaunet.export.reference.initializer_bytes",
        lambda model: {"int8": 1_000_000, "float32": 3},
    )
    monkeypatch.setattr("onnx.save", lambda model, path: path.write_bytes(bytes(2_500_001)))
    monkeypatch.setattr("lmaunet.cpu.compact.compact", lambda model: model)
    (tmp_path / "model.onnx").write_bytes(bytes(1_250_003))
    return Build("x", tmp_path, tmp_path / "model.onnx", ()), ran


@pytest.mark.parametrize("beside", [True, False])
def test_a_file_for_openvino_is_timed_on_its_first_image(timed, monkeypatch, tmp_path, beside):
    """In turns with FP32 where that is given; the file is loaded five times."""
    build, ran = timed
    opened = []
    monkeypatch.setattr("lmaunet.cpu.openvino_runtime.compile_model",
                        lambda path: opened.append(path.name) or path.name)  # fmt: skip
    monkeypatch.setattr(
        "lmaunet.cpu.openvino_runtime.run_images", lambda model, images: (model, images)
    )
    monkeypatch.setattr("lmaunet.export.lower.lower", lambda model, form: model)
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 6.0, 6.0, 10.0, 10.0, 15.0])
    monkeypatch.setattr(openvino.time, "perf_counter", lambda: next(clock))
    openvino._compiled.cache_clear()
    images = np.arange(12).reshape(3, 1, 2, 2)
    figures = openvino.measure(build, images, tmp_path / "float32.onnx" if beside else None)
    openvino._compiled.cache_clear()
    assert [(name, model) for name, (model, _) in ran] == [
        ("own", "model.onnx"), *([("float32", "float32.onnx")] if beside else []),
    ]  # fmt: skip
    assert all(np.array_equal(image, images[:1]) for _, (_, image) in ran)
    assert opened == ["model.onnx", *(["float32.onnx"] if beside else []), *["model.onnx"] * 5]
    assert build.detail["load"] == {"load_ms": 3000.0, "loads": 5}
    assert build.detail["latency"] == timing.summary([4.0] * 10) | {"cpu": "a CPU"}
    assert figures == {
        "size_mb": Measurement("size_mb", 1.250003, "MB", "measured"),
        "weights_mb": Measurement("weights_mb", 1.000003, "MB", "measured"),
        "latency_ms": Measurement("latency_ms", 4.0, "ms", "measured"),
    }
    assert ("float32" in build.detail) == beside
    if beside:
        found = build.detail["float32"]
        assert (found["median_ms"], found["speed_up"], found["size_mb"]) == (10.0, 2.5, 2.500001)
        assert found["form"] == "FP32 in OpenVINO"


@pytest.mark.parametrize("operators", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_a_file_for_onnx_runtime_is_timed_on_its_first_image(
    timed, monkeypatch, tmp_path, beside, operators
):
    """FP32 ships the same library of operators, where there is one."""
    build, ran = timed
    (tmp_path / LIBRARY).write_bytes(bytes(500_000))
    opened = []

    def open_session(path, *, optimize, operators=None):
        opened.append((path.name, optimize, operators and operators.name))
        return path.name

    monkeypatch.setattr("lmaunet.export.reference.open_session", open_session)
    monkeypatch.setattr(
        "lmaunet.export.reference.run_images", lambda session, images: (session, images)
    )
    monkeypatch.setattr("lmaunet.cpu.code_functions.define_functions", lambda model: model)
    monkeypatch.setattr("lmaunet.cpu.packing.unpack_weights", lambda model: model)
    monkeypatch.setattr(sessions, "session_of", lambda build: "own session")
    monkeypatch.setattr(measuring, "has_operators", lambda build: operators)
    # five times two files: the packed one takes 1 to 5 s, the other always 8
    steps = [step for packed in (3, 1, 5, 2, 4) for step in (packed, 8)]
    looks = [0.0]
    for step in steps:
        looks += [looks[-1], looks[-1] + step]
    clock = iter(looks[1:])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    images = np.arange(12).reshape(3, 1, 2, 2)
    figures = ort.measure(build, images, tmp_path / "float32.onnx" if beside else None)
    assert [(name, session) for name, (session, _) in ran] == [
        ("own", "own session"), *([("float32", "float32.onnx")] if beside else []),
    ]  # fmt: skip
    assert all(np.array_equal(image, images[:1]) for _, (_, image) in ran)
    library = LIBRARY if operators else None
    assert opened == [
        *([("float32.onnx", True, library)] if beside else []),
        *[("model.onnx", True, None), ("unpacked.onnx", True, None)] * 5,
    ]
    assert build.detail["load"] == {"packed_ms": 3000.0, "unpacked_ms": 8000.0, "loads": 5}
    assert build.detail["latency"] == timing.summary([4.0] * 10) | {"cpu": "a CPU"}
    assert figures == {
        "size_mb": Measurement("size_mb", 1.250003, "MB", "measured"),
        "weights_mb": Measurement("weights_mb", 1.000003, "MB", "measured"),
        "latency_ms": Measurement("latency_ms", 4.0, "ms", "measured"),
    }
    assert ("float32" in build.detail) == beside
    if beside:
        found = build.detail["float32"]
        assert (found["median_ms"], found["speed_up"]) == (10.0, 2.5)
        assert found["size_mb"] == pytest.approx(2.500001 + 0.5 * operators, rel=1e-12)
        same = ", with the same operators" if operators else ""
        assert found["form"] == f"FP32 in ONNX Runtime{same}"


@pytest.mark.parametrize(
    ("saturating", "vnni", "refused"),
    [(0, False, False), (1, True, False), (1, False, True), (None, False, False)],
)
def test_a_file_whose_sums_could_saturate_is_opened_with_vnni_only(
    monkeypatch, tmp_path, saturating, vnni, refused
):
    monkeypatch.setattr("lmaunet.cpu.openvino_runtime.has_vnni", lambda: vnni)
    monkeypatch.setattr("lmaunet.cpu.openvino_runtime.compile_model", lambda path: "opened")
    (tmp_path / "model.onnx").write_bytes(b"x")
    detail = {} if saturating is None else {"saturate_without_vnni": saturating}
    build = Build("openvino", tmp_path, tmp_path / "model.onnx", (), detail)
    openvino._compiled.cache_clear()
    if refused:
        with pytest.raises(UserError, match="the sums of 1 convolutions could saturate at 16 bits"):
            openvino.compiled_of(build)
    else:
        assert openvino.compiled_of(build) == "opened"
    openvino._compiled.cache_clear()
