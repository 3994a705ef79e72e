"""Runs an engine on a GPU and times it; without one the answer is the reason, never a figure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.errors import ToolNotFound, UserError
from trt import adapter

if TYPE_CHECKING:
    import numpy as np

WARM_UP_RUNS = 50
TIMED_RUNS = 500
DRIVER_FIX = (
    "install an NVIDIA GPU of compute capability 7.5, 8.0, 8.6, 8.9 or 12.x, and its driver"
)


@dataclass(frozen=True)
class Gpu:
    """The first CUDA device: its name and compute capability, as ``SM86``."""

    name: str
    sm: str


@dataclass(frozen=True)
class NoGpu:
    """Why no GPU can be used here, and what would change that."""

    why: str
    fix: str


@dataclass(frozen=True)
class Latency:
    """The times of one engine on one GPU, in milliseconds, for one image.

    ``median_ms`` and ``p99_ms`` are of ``runs`` runs after the warm-up, between two CUDA events
    around each run, without the copies to and from the device. ``first_run_ms`` is the first run's
    wall time, which holds the compilation of the kernels in TensorRT for RTX.
    """

    gpu: str
    median_ms: float
    p99_ms: float
    first_run_ms: float
    runs: int
    cuda_graph: bool


def bindings_place() -> Path | None:
    """Return the folder of the installed cuda-bindings; None where they are not installed."""
    if importlib.util.find_spec("cuda") is None:
        return None
    spec = importlib.util.find_spec("cuda.bindings")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def bindings_version() -> str:
    """Return the version of the installed cuda-bindings, empty where they are not installed."""
    try:
        return importlib.metadata.version("cuda-bindings")
    except importlib.metadata.PackageNotFoundError:
        return ""


def probe_gpu() -> Gpu | NoGpu:
    """Return the first CUDA device, or the reason why there is none."""
    if bindings_place() is None:
        return NoGpu("cuda-bindings is not installed", adapter.FIX)
    from cuda.bindings import runtime

    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        return NoGpu(f"no usable NVIDIA driver ({status.name}: {reason})", DRIVER_FIX)
    if not count:
        return NoGpu("the NVIDIA driver reports no GPU", DRIVER_FIX)
    status, properties = runtime.cudaGetDeviceProperties(0)
    if status != runtime.cudaError_t.cudaSuccess:
        return NoGpu(f"the GPU does not answer ({status.name})", DRIVER_FIX)
    name = properties.name
    return Gpu(
        name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name),
        f"SM{properties.major}{properties.minor}",
    )


def why_not_here(sms: tuple[str, ...] | list[str]) -> NoGpu | None:
    """Return why an engine for ``sms`` cannot run on this machine; None where it can."""
    gpu = probe_gpu()
    if isinstance(gpu, NoGpu):
        return gpu
    if sms and gpu.sm not in sms:
        return NoGpu(
            f"the GPU here, {gpu.name}, is {gpu.sm}; the engine was built for {', '.join(sms)}",
            f"lmaunet-deploy build --target trt --sm {gpu.sm}",
        )
    return None


class LoadedEngine:
    """One engine on the GPU with its stream and buffers; a context manager that frees them.

    Raises:
        ToolNotFound: where TensorRT or cuda-bindings are not installed, or there is no GPU.
        UserError: where the GPU does not accept the engine, or a tensor is not float32.
    """

    def __init__(self, plan: Path) -> None:
        flavour = adapter.require()
        gpu = probe_gpu()
        if isinstance(gpu, NoGpu):
            raise ToolNotFound("a CUDA GPU", f"to run {plan.name}: {gpu.why}", gpu.fix)
        from cuda.bindings import runtime

        self.gpu, self._cuda, trt = gpu, runtime, flavour.load()
        self.cuda_graph = flavour.runtime_config
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._pointers: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._stream: Any = None
        engine = self._deserialize(trt, plan, flavour.runtime_config)
        self._engine, self._context = engine, self._make_context(trt, engine)
        try:
            self._stream = self._call(runtime.cudaStreamCreate())
            self._allocate(trt)
        except BaseException:
            self.close()
            raise

    def _deserialize(self, trt: Any, plan: Path, has_validity: bool) -> Any:
        data = plan.read_bytes()
        if has_validity:
            validity, diagnostics = self._runtime.get_engine_validity(data)
            if validity == trt.EngineValidity.INVALID:
                raise UserError(
                    f"{plan.name} does not fit {self.gpu.name} ({self.gpu.sm}): diagnostics "
                    f"{diagnostics}; build it again with --sm {self.gpu.sm}"
                )
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise UserError(
                f"{plan.name} cannot be loaded on {self.gpu.name} ({self.gpu.sm}); "
                f"build it again with --sm {self.gpu.sm}"
            )
        return engine

    def _make_context(self, trt: Any, engine: Any) -> Any:
        if not self.cuda_graph:
            return engine.create_execution_context()
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)

    def _allocate(self, trt: Any) -> None:
        engine = self._engine
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_dtype(name) != trt.float32:
                raise UserError(
                    f"tensor {name} of the engine is {engine.get_tensor_dtype(name)}; "
                    "expected float32 inputs and outputs"
                )
            self._shapes[name] = tuple(engine.get_tensor_shape(name))
            nbytes = 4 * trt.volume(engine.get_tensor_shape(name))
            self._pointers[name] = int(self._call(self._cuda.cudaMalloc(nbytes)))
            self._context.set_tensor_address(name, self._pointers[name])
        inputs = [n for n in self._shapes if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in self._shapes if n not in inputs]
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(
                f"the engine has inputs {inputs} and outputs {outputs}; expected one of each"
            )
        self._input, self._output = inputs[0], outputs[0]

    def _call(self, result: tuple[Any, ...]) -> Any:
        status, *values = result
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise UserError(f"CUDA failed on {self.gpu.name}: {status.name}; check nvidia-smi")
        return values[0] if values else None

    def _copy_in(self, image: np.ndarray) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(
            self._cuda.cudaMemcpy(
                self._pointers[self._input], image.ctypes.data, image.nbytes, kind
            )
        )

    def _execute(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise UserError(f"the engine failed on {self.gpu.name}; build it again on this machine")

    def _synchronize(self) -> None:
        self._call(self._cuda.cudaStreamSynchronize(self._stream))

    def infer(self, image: np.ndarray) -> np.ndarray:
        """Return the logits ``(1, classes, H, W)`` of one float32 image ``(1, channels, H, W)``."""
        import numpy as np

        image = np.ascontiguousarray(image, np.float32)
        if image.shape != self._shapes[self._input]:
            raise UserError(
                f"image of shape {image.shape}; the engine takes {self._shapes[self._input]}"
            )
        self._copy_in(image)
        self._execute()
        self._synchronize()
        logits = np.empty(self._shapes[self._output], np.float32)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        pointer = self._pointers[self._output]
        self._call(self._cuda.cudaMemcpy(logits.ctypes.data, pointer, logits.nbytes, kind))
        return logits

    def time(self, image: np.ndarray, warm_up: int, runs: int) -> Latency:
        """Return the times of ``runs`` runs on one image after ``warm_up`` runs."""
        started = time.perf_counter()
        self.infer(image)
        first_ms = 1e3 * (time.perf_counter() - started)
        for _ in range(warm_up):
            self._execute()
        self._synchronize()
        cuda = self._cuda
        before, after = self._call(cuda.cudaEventCreate()), self._call(cuda.cudaEventCreate())
        times = []
        try:
            for _ in range(runs):
                self._call(cuda.cudaEventRecord(before, self._stream))
                self._execute()
                self._call(cuda.cudaEventRecord(after, self._stream))
                self._call(cuda.cudaEventSynchronize(after))
                times.append(float(self._call(cuda.cudaEventElapsedTime(before, after))))
        finally:
            cuda.cudaEventDestroy(before)
            cuda.cudaEventDestroy(after)
        times.sort()
        p99 = times[min(len(times) - 1, -(-99 * len(times) // 100) - 1)]
        return Latency(
            self.gpu.name, statistics.median(times), p99, first_ms, runs, self.cuda_graph
        )

    def close(self) -> None:
        """Free the buffers and the stream."""
        for pointer in self._pointers.values():
            self._cuda.cudaFree(pointer)
        self._pointers.clear()
        if self._stream is not None:
            self._cuda.cudaStreamDestroy(self._stream)
            self._stream = None

    def __enter__(self) -> LoadedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def infer(plan: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    The engine takes one image at a time. Raises as :class:`LoadedEngine`.
    """
    import numpy as np

    with LoadedEngine(plan) as engine:
        return np.concatenate([engine.infer(image[None]) for image in images])


def time_engine(
    plan: Path,
    images: np.ndarray,
    sms: tuple[str, ...] | list[str],
    *,
    warm_up: int = WARM_UP_RUNS,
    runs: int = TIMED_RUNS,
) -> Latency | NoGpu:
    """Time an engine that was built for ``sms`` on the first of some images.

    Returns the reason instead where no GPU is here that it was built for.
    """
    reason = why_not_here(sms)
    if reason is not None:
        return reason
    with LoadedEngine(plan) as engine:
        return engine.time(images[:1], warm_up, runs)


def measure_latency(
    plan: Path, images: np.ndarray, sms: tuple[str, ...] | list[str] = ()
) -> Measurement | Unavailable:
    """Return the median time of one image on the GPU in milliseconds, or why there is none."""
    return latency_figure(time_engine(plan, images, sms))


def latency_figure(latency: Latency | NoGpu) -> Measurement | Unavailable:
    """Return the report's figure of a timing, or of the reason why there is none."""
    if isinstance(latency, NoGpu):
        return Unavailable("latency_ms", "a CUDA GPU", latency.why, latency.fix)
    return Measurement("latency_ms", latency.median_ms, "ms", "measured")
