import ctypes
import sys
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest

from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.trt import adapter, gpu, inference_worker, loaded_engine, runner
from lmaunet.trt.gpu import Gpu, NoGpu, probe_gpu
from lmaunet.trt.loaded_engine import Latency, infer_here, percentile, time_here
from lmaunet.trt.plan_bytes import pack
from lmaunet.trt.runner import latency_figure, measure_latency, time_engine

HERE = probe_gpu()
without_gpu = pytest.mark.skipif(isinstance(HERE, Gpu), reason="there is a GPU")


@without_gpu
def test_without_a_gpu_the_answer_is_a_reason(tmp_path):
    assert isinstance(HERE, NoGpu)
    assert HERE.why and HERE.fix
    figure = measure_latency(tmp_path / "engine.plan", np.zeros((1, 1, 4, 4), np.float32))
    assert figure == Unavailable("latency_ms", "a CUDA GPU", HERE.why, HERE.fix)
    if adapter.find() is None:
        pytest.skip("TensorRT is not installed")
    with pytest.raises(ToolNotFound, match=r"a CUDA GPU is missing: it is needed to run engine"):
        runner.infer(tmp_path / "engine.plan", np.zeros((1, 1, 4, 4), np.float32))


def test_without_cuda_bindings(monkeypatch):
    monkeypatch.setattr(gpu, "bindings_place", lambda: None)
    assert probe_gpu() == NoGpu("cuda-bindings is not installed", adapter.FIX)


def test_a_gpu_that_the_engine_was_not_built_for(monkeypatch):
    monkeypatch.setattr(gpu, "probe_gpu", lambda: Gpu("NVIDIA H200", "SM90"))
    assert gpu.why_not_here(["SM86", "SM89"]) == NoGpu(
        "the GPU here, NVIDIA H200, is SM90; the engine was built for SM86, SM89",
        "lmaunet-deploy build --target trt --sm SM90",
    )
    assert gpu.why_not_here(["SM90"]) is None


TIMING = Latency("RTX 3060", 1.5, 1.75, 2.0, 1.75, 2.0, 2.5, 900.0, 500, True)


def test_a_timing_is_a_measurement():
    figure = latency_figure(TIMING)
    assert figure == Measurement("latency_ms", 1.5, "ms", "measured")


class Status(Enum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815


class Device:
    """Stands for the CUDA runtime and TensorRT: a GPU that doubles its input, 1, 2, 3 ... ms."""

    def __init__(self, failing=""):
        self.cudaError_t = Status
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        self.memory, self.freed, self.runs, self.failing = {}, [], 0, failing
        self.capturing, self.captured, self.launches = False, None, 0

    def cudaStreamBeginCapture(self, stream, mode):
        self.capturing = True
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        self.capturing = False
        return Status.cudaSuccess, self.captured

    def cudaGraphInstantiate(self, graph, flags):
        return Status.cudaSuccess, graph

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        graph.execute_async_v3(stream)
        return (Status.cudaSuccess,)

    def cudaMalloc(self, nbytes):
        if self.failing == "cudaMalloc":
            return (Status.cudaErrorMemoryAllocation, 0)
        buffer = ctypes.create_string_buffer(nbytes)
        self.memory[ctypes.addressof(buffer)] = buffer
        return Status.cudaSuccess, ctypes.addressof(buffer)

    def cudaFree(self, pointer):
        self.freed.append(pointer)
        return (Status.cudaSuccess,)

    def cudaMemcpy(self, to, source, nbytes, kind):
        ctypes.memmove(to, source, nbytes)
        return (Status.cudaSuccess,)

    def cudaEventElapsedTime(self, before, after):
        return Status.cudaSuccess, float(self.runs)

    def __getattr__(self, name):
        if name.endswith("Create"):
            return lambda: (Status.cudaSuccess, 7)
        return lambda *_: (Status.cudaSuccess,)


class Engine:
    num_io_tensors = 2

    def __init__(self, device):
        self.device, self.addresses = device, {}

    def get_tensor_name(self, index):
        return ("image", "logits")[index]

    def get_tensor_dtype(self, name):
        return "float32"

    def get_tensor_shape(self, name):
        return (1, 1, 2, 2)

    def get_tensor_mode(self, name):
        return "in" if name == "image" else "out"

    def create_runtime_config(self):
        return SimpleNamespace()

    def create_execution_context(self, config=None):
        assert config is None or config.cuda_graph_strategy == "whole"
        return self

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        if self.device.capturing:
            self.device.captured = self
            return True
        self.device.runs += 1
        image = np.frombuffer(self.device.memory[self.addresses["image"]], np.float32)
        np.frombuffer(self.device.memory[self.addresses["logits"]], np.float32)[:] = 2 * image
        return True


def make_gpu(monkeypatch, validity="VALID", failing="", flavour=adapter.RTX):
    device = Device(failing)
    library = SimpleNamespace(
        __version__="1.7",
        Logger=lambda level: None,
        Runtime=lambda logger: SimpleNamespace(
            get_engine_validity=lambda data: (validity, "0x1"),
            deserialize_cuda_engine=lambda data: Engine(device),
        ),
        EngineValidity=SimpleNamespace(INVALID="INVALID"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        float32="float32",
        volume=lambda shape: int(np.prod(shape)),
    )
    library.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    monkeypatch.setattr(adapter.Flavour, "load", lambda self: library)
    monkeypatch.setattr(adapter, "require", lambda: flavour)
    monkeypatch.setattr(gpu, "probe_gpu", lambda: Gpu("RTX 3060", "SM86"))
    bindings = pytest.importorskip("cuda.bindings")
    monkeypatch.setattr(bindings, "runtime", device, raising=False)
    return device


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "engine.plan").write_bytes(b"plan")
    return tmp_path / "engine.plan"


def test_images_go_through_one_by_one(monkeypatch, plan):
    device = make_gpu(monkeypatch)
    images = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    assert np.array_equal(infer_here(plan, images), 2 * images)
    assert sorted(device.freed) == sorted(device.memory)
    with pytest.raises(UserError, match=r"image of shape \(1, 1, 4, 4\); the engine takes"):
        infer_here(plan, np.zeros((1, 1, 4, 4), np.float32))


def test_the_median_and_p99_leave_out_the_warm_up(monkeypatch, plan):
    device = make_gpu(monkeypatch)
    images = np.zeros((1, 1, 2, 2), np.float32)
    latency = time_here(plan, images, warm_up=10, runs=200)
    # run 1 is the first, 2 to 11 warm up, 12 to 211 are timed
    assert isinstance(latency, Latency)
    assert (latency.median_ms, latency.runs) == (111.5, 200)
    assert (latency.p90_ms, latency.p99_ms) == (191.0, 209.0)
    assert 0 < latency.end_to_end_median_ms <= latency.end_to_end_p90_ms
    assert latency.end_to_end_p90_ms <= latency.end_to_end_p99_ms
    assert latency.gpu == "RTX 3060" and latency.cuda_graph
    assert sorted(device.freed) == sorted(device.memory)


def test_the_full_library_gets_a_captured_graph(monkeypatch, plan):
    device = make_gpu(monkeypatch, flavour=adapter.FULL)
    latency = time_here(plan, np.ones((1, 1, 2, 2), np.float32), warm_up=3, runs=5)
    # all but the first run, which makes the library ready to be captured
    assert device.launches == 3 + 5 + 5 and device.runs == 1 + device.launches
    assert latency.cuda_graph and latency.runs == 5


def test_percentiles():
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (50, 90, 99)] == [50.5, 90.0, 99.0]
    assert [percentile([3.0], p) for p in (50, 90, 99)] == [3.0] * 3
    assert percentile([1.0, 2.0, 9.0], 50) == 2.0


def test_a_packed_plan_is_unpacked(monkeypatch, tmp_path):
    make_gpu(monkeypatch)
    path = tmp_path / "engine.plan.xz"
    path.write_bytes(pack(b"plan" * 1000))
    assert loaded_engine.read_plan(path) == b"plan" * 1000
    images = np.ones((1, 1, 2, 2), np.float32)
    assert np.array_equal(infer_here(path, images), 2 * images)


def broken(data):
    return [
        (b"", "is empty; expected an engine; copy it again"),
        (data[: len(data) // 2], "is no whole engine: it ends after"),
        (data[:40] + b"x" + data[41:], "is no whole engine: it is damaged"),
    ]


@pytest.mark.parametrize("case", range(3))
def test_damaged_plans_never_reach_the_library(case, monkeypatch, tmp_path):
    make_gpu(monkeypatch)
    content, message = broken(pack(np.arange(3000, dtype=np.int32).tobytes()))[case]
    path = tmp_path / "engine.plan.xz"
    path.write_bytes(content)
    monkeypatch.setattr(runner, "worker_command", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(UserError, match=message):
        runner.infer(path, np.zeros((1, 1, 2, 2), np.float32))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        runner.infer(tmp_path / "gone.plan", np.zeros((1, 1, 2, 2), np.float32))


def test_the_worker_writes_logits_and_times(monkeypatch, plan, tmp_path):
    make_gpu(monkeypatch)
    answers = []
    monkeypatch.setattr(inference_worker, "open_answers", lambda: lambda **a: answers.append(a))
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    np.save(tmp_path / "images.npy", images)
    paths = [str(plan), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    assert inference_worker.main(["run", *paths]) == 0
    assert np.array_equal(np.load(tmp_path / "logits.npy"), 2 * images)
    assert inference_worker.main(["time", *paths, "2", "3"]) == 0
    assert Latency(**answers[-1]["latency"]).runs == 3
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 2, 2), np.float32))
    assert inference_worker.main(["run", *paths]) == 1
    assert answers[-1]["error"].startswith("image of shape (1, 3, 2, 2); the engine takes")


RUN = """
import json, sys, numpy as np
np.save(sys.argv[4], 3 * np.load(sys.argv[3]))
print(json.dumps({"done": True}))
"""
CRASH = """
import json, os, sys
print(json.dumps({"progress": "loading engine.plan"}), flush=True)
print("deserialize: bad magic", file=sys.stderr, flush=True)
os.kill(os.getpid(), 11)
"""


def stand_in(monkeypatch, script):
    make_gpu(monkeypatch)
    monkeypatch.setattr(
        runner, "worker_command", lambda *arguments: [sys.executable, "-c", script, *arguments]
    )


def test_an_engine_runs_in_a_process_of_its_own(monkeypatch, plan):
    stand_in(monkeypatch, RUN)
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    assert np.array_equal(runner.infer(plan, images), 3 * images)


@pytest.mark.parametrize("call", ["infer", "time"])
def test_a_crash_while_an_engine_runs(call, monkeypatch, plan):
    stand_in(monkeypatch, CRASH)
    images = np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(UserError) as error:
        runner.infer(plan, images) if call == "infer" else time_engine(plan, images, ["SM86"])
    assert str(error.value).startswith(
        "the TensorRT run of engine.plan crashed with SIGSEGV after 'loading engine.plan'; its "
        "last lines:\n  deserialize: bad magic\nthe engine is damaged or of another version"
    )


def test_an_engine_that_the_gpu_refuses(monkeypatch, plan):
    make_gpu(monkeypatch, validity="INVALID")
    with pytest.raises(
        UserError,
        match=r"engine.plan does not fit RTX 3060 \(SM86\) with tensorrt_rtx 1.7: .*--sm SM86",
    ):
        infer_here(plan, np.zeros((1, 1, 2, 2), np.float32))


def test_cuda_runs_out_of_memory(monkeypatch, plan):
    make_gpu(monkeypatch, failing="cudaMalloc")
    with pytest.raises(UserError) as error:
        infer_here(plan, np.zeros((1, 1, 2, 2), np.float32))
    assert str(error.value) == (
        "CUDA failed on RTX 3060: cudaErrorMemoryAllocation; check nvidia-smi"
    )
