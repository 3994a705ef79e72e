import ctypes
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest

from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.errors import ToolNotFound, UserError
from trt import adapter, runner
from trt.runner import Gpu, Latency, NoGpu, latency_figure, measure_latency, probe_gpu, time_engine

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
    monkeypatch.setattr(runner, "bindings_place", lambda: None)
    assert probe_gpu() == NoGpu("cuda-bindings is not installed", adapter.FIX)


def test_a_gpu_that_the_engine_was_not_built_for(monkeypatch):
    monkeypatch.setattr(runner, "probe_gpu", lambda: Gpu("NVIDIA H200", "SM90"))
    assert runner.why_not_here(["SM86", "SM89"]) == NoGpu(
        "the GPU here, NVIDIA H200, is SM90; the engine was built for SM86, SM89",
        "lmaunet-deploy build --target trt --sm SM90",
    )
    assert runner.why_not_here(["SM90"]) is None


def test_a_timing_is_a_measurement():
    figure = latency_figure(Latency("RTX 3060", 1.5, 2.0, 900.0, 500, True))
    assert figure == Measurement("latency_ms", 1.5, "ms", "measured")


class Status(Enum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815


class Device:
    """Stands for the CUDA runtime and TensorRT: a GPU that doubles its input, 1, 2, 3 ... ms."""

    def __init__(self, failing=""):
        self.cudaError_t = Status
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.memory, self.freed, self.runs, self.failing = {}, [], 0, failing

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

    def create_execution_context(self, config):
        assert config.cuda_graph_strategy == "whole"
        return self

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        self.device.runs += 1
        image = np.frombuffer(self.device.memory[self.addresses["image"]], np.float32)
        np.frombuffer(self.device.memory[self.addresses["logits"]], np.float32)[:] = 2 * image
        return True


def make_gpu(monkeypatch, validity="VALID", failing=""):
    device = Device(failing)
    library = SimpleNamespace(
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
    monkeypatch.setattr(adapter, "require", lambda: adapter.RTX)
    monkeypatch.setattr(runner, "probe_gpu", lambda: Gpu("RTX 3060", "SM86"))
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
    assert np.array_equal(runner.infer(plan, images), 2 * images)
    assert sorted(device.freed) == sorted(device.memory)
    with pytest.raises(UserError, match=r"image of shape \(1, 1, 4, 4\); the engine takes"):
        runner.infer(plan, np.zeros((1, 1, 4, 4), np.float32))


def test_the_median_and_p99_leave_out_the_warm_up(monkeypatch, plan):
    device = make_gpu(monkeypatch)
    images = np.zeros((1, 1, 2, 2), np.float32)
    latency = time_engine(plan, images, ["SM86"], warm_up=10, runs=200)
    # run 1 is the first, 2 to 11 warm up, 12 to 211 are timed
    assert isinstance(latency, Latency)
    assert (latency.median_ms, latency.p99_ms, latency.runs) == (111.5, 209.0, 200)
    assert latency.gpu == "RTX 3060" and latency.cuda_graph
    assert sorted(device.freed) == sorted(device.memory)


def test_an_engine_that_the_gpu_refuses(monkeypatch, plan):
    make_gpu(monkeypatch, validity="INVALID")
    with pytest.raises(UserError, match=r"engine.plan does not fit RTX 3060 \(SM86\)"):
        runner.infer(plan, np.zeros((1, 1, 2, 2), np.float32))


def test_cuda_runs_out_of_memory(monkeypatch, plan):
    make_gpu(monkeypatch, failing="cudaMalloc")
    with pytest.raises(UserError) as error:
        runner.infer(plan, np.zeros((1, 1, 2, 2), np.float32))
    assert str(error.value) == (
        "CUDA failed on RTX 3060: cudaErrorMemoryAllocation; check nvidia-smi"
    )
