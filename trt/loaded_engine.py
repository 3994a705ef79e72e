"""One engine on the GPU of this machine, in this process: its buffers, its runs and their times.

:mod:`lmaunet.trt.runner` calls it in a process of its own, because the vendor's library may crash.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.trt import adapter, gpu
from lmaunet.trt.plan_bytes import unpack

if TYPE_CHECKING:
    import numpy as np

REBUILD = "copy it again, or run lmaunet-deploy build --target trt"


@dataclass(frozen=True)
class Latency:
    """The times of one engine on one GPU, in milliseconds, for one image.

    ``median_ms``, ``p90_ms`` and ``p99_ms`` are of ``runs`` runs after the warm-up, each between
    two CUDA events and without the copies to and from the device. Those that begin with
    ``end_to_end`` are wall times of as many runs with the copies. ``first_run_ms`` is the wall time
    of the first run, which holds the compilation of the kernels in TensorRT for RTX. ``min_ms`` is
    the shortest of the runs.
    """

    gpu: str
    median_ms: float
    p90_ms: float
    p99_ms: float
    end_to_end_median_ms: float
    end_to_end_p90_ms: float
    end_to_end_p99_ms: float
    first_run_ms: float
    runs: int
    cuda_graph: bool
    min_ms: float | None = None


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least ``percent`` of all do not exceed; 50: the median."""
    ordered = sorted(values)
    if percent == 50:
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else sum(ordered[middle - 1 : middle + 1]) / 2
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def read_plan(path: Path) -> bytes:
    """Return the plan in ``engine.plan`` or ``engine.plan.xz``.

    Raises:
        UserError: where the file is missing, empty, cut short or damaged. A plan that is not packed
            has no checksum: what is wrong inside it the library finds.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {REBUILD}") from error
    if not data:
        raise UserError(f"{path} is empty; expected an engine; {REBUILD}")
    try:
        return unpack(data)
    except ValueError as error:
        raise UserError(f"{path} is no whole engine: {error}; {REBUILD}") from error


class LoadedEngine:
    """One engine on the GPU with its stream and buffers; a context manager that frees them.

    Raises:
        ToolNotFound: where TensorRT or cuda-bindings are not installed, or there is no GPU.
        UserError: where the GPU does not accept the engine, or a tensor is not float32.
    """

    def __init__(self, plan: Path) -> None:
        flavour = adapter.require()
        found = gpu.probe_gpu()
        if isinstance(found, gpu.NoGpu):
            raise ToolNotFound("a CUDA GPU", f"to run {plan.name}: {found.why}", found.fix)
        from cuda.bindings import runtime

        self.gpu, self._cuda, self._flavour = found, runtime, flavour
        trt = flavour.load()
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._pointers: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._stream: Any = None
        self._graph: Any = None
        self._engine = self._deserialize(trt, plan)
        self._context = flavour.make_context(trt, self._engine)
        try:
            self._stream = self._call(runtime.cudaStreamCreate())
            self._allocate(trt)
        except BaseException:
            self.close()
            raise

    def _deserialize(self, trt: Any, plan: Path) -> Any:
        data = read_plan(plan)
        where = f"{self.gpu.name} ({self.gpu.sm}) with {self._flavour.module} {trt.__version__}"
        again = f"build it again with --sm {self.gpu.sm} and that version of the library"
        reason = self._flavour.refuses(trt, self._runtime, data)
        if reason is not None:
            raise UserError(f"{plan.name} does not fit {where}: {reason}; {again}")
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise UserError(f"{plan.name} cannot be loaded on {where}; {again}")
        return engine

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
        if self._graph is not None:
            self._call(self._cuda.cudaGraphLaunch(self._graph, self._stream))
        elif not self._context.execute_async_v3(int(self._stream)):
            raise UserError(f"the engine failed on {self.gpu.name}; build it again on this machine")

    def capture(self) -> None:
        """Capture a run as a CUDA graph, after a first run has made the library ready.

        With a runtime configuration the library has done so itself.
        """
        if self._flavour.runtime_config or self._graph is not None:
            return
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(cuda.cudaStreamBeginCapture(self._stream, mode))
        self._execute()
        graph = self._call(cuda.cudaStreamEndCapture(self._stream))
        try:
            self._graph = self._call(cuda.cudaGraphInstantiate(graph, 0))
        finally:
            cuda.cudaGraphDestroy(graph)

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
        self.capture()
        for _ in range(warm_up):
            self._execute()
        self._synchronize()
        cuda = self._cuda
        before, after = self._call(cuda.cudaEventCreate()), self._call(cuda.cudaEventCreate())
        model, whole = [], []
        try:
            for _ in range(runs):
                self._call(cuda.cudaEventRecord(before, self._stream))
                self._execute()
                self._call(cuda.cudaEventRecord(after, self._stream))
                self._call(cuda.cudaEventSynchronize(after))
                model.append(float(self._call(cuda.cudaEventElapsedTime(before, after))))
        finally:
            cuda.cudaEventDestroy(before)
            cuda.cudaEventDestroy(after)
        for _ in range(runs):
            started = time.perf_counter()
            self.infer(image)
            whole.append(1e3 * (time.perf_counter() - started))
        return Latency(
            gpu=self.gpu.name,
            median_ms=percentile(model, 50),
            p90_ms=percentile(model, 90),
            p99_ms=percentile(model, 99),
            end_to_end_median_ms=percentile(whole, 50),
            end_to_end_p90_ms=percentile(whole, 90),
            end_to_end_p99_ms=percentile(whole, 99),
            first_run_ms=first_ms,
            runs=runs,
            cuda_graph=True,
            min_ms=min(model),
        )

    def close(self) -> None:
        """Free the buffers, the graph and the stream."""
        if self._graph is not None:
            self._cuda.cudaGraphExecDestroy(self._graph)
            self._graph = None
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


def infer_here(plan: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``.

    The engine takes one image at a time. Raises as :class:`LoadedEngine`.
    """
    import numpy as np

    with LoadedEngine(plan) as engine:
        return np.concatenate([engine.infer(image[None]) for image in images])


def time_here(plan: Path, images: np.ndarray, warm_up: int, runs: int) -> Latency:
    """Time an engine on the first of some images. Raises as :class:`LoadedEngine`."""
    with LoadedEngine(plan) as engine:
        return engine.time(images[:1], warm_up, runs)
