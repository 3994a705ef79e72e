"""The TensorRT library that is installed, and each way in which the two flavours differ.

TensorRT for RTX (``tensorrt_rtx``) builds engines for named GPUs on a machine without one and
compiles the kernels on the GPU at the first run. The full TensorRT (``tensorrt``) builds for the
GPU that is present. Everything else in :mod:`trt` talks to both through :class:`Flavour`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.trt.gpu import FIX

PURPOSE = "builds the TensorRT engine and its precision table"


@dataclass(frozen=True)
class Flavour:
    """One of the two TensorRT libraries.

    Args:
        module: the Python module.
        distributions: the packages that may provide it, for its version.
        sms: the compute capabilities that it builds for without a GPU, as ``SM86``; empty where
            it builds only for the GPU that is present.
        float_sms: those of ``sms`` for which it multiplies no INT8: a single one in the list of a
            build makes the whole engine float.
        runtime_config: whether execution is set up by an ``IRuntimeConfig``, which holds the CUDA
            graph strategy and the cache of compiled kernels.
    """

    module: str
    distributions: tuple[str, ...]
    sms: tuple[str, ...]
    float_sms: tuple[str, ...]
    runtime_config: bool

    @property
    def place(self) -> Path | None:
        """The folder of the installed module; None where it is not installed."""
        spec = importlib.util.find_spec(self.module)
        return Path(spec.origin).parent if spec is not None and spec.origin else None

    @property
    def version(self) -> str:
        """The installed version, read from the package's metadata without loading the library."""
        for name in self.distributions:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return "unknown"

    def load(self) -> Any:
        """Import the module, and with it the vendor's shared libraries."""
        return importlib.import_module(self.module)

    def network_flags(self, trt: Any) -> int:
        """Return the flags of a network whose types are what the ONNX file says.

        A version that knows no such flag has no other kind of network.
        """
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def configure(self, trt: Any, config: Any, sms: Sequence[str]) -> None:
        """Set up the builder: a layer table, exact FP32, and the compute capabilities.

        TF32 is on by default and would multiply FP32 convolutions with 10 bits of mantissa.
        """
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)
        if self.sms:
            config.num_compute_capabilities = len(sms)
            for index, sm in enumerate(sms):
                config.set_compute_capability(getattr(trt.ComputeCapability, sm), index)

    def refuses(self, trt: Any, runtime: Any, plan: bytes) -> str | None:
        """Return why the GPU here does not take a plan, as far as the library says; else None."""
        if not hasattr(runtime, "get_engine_validity"):
            return None
        validity, diagnostics = runtime.get_engine_validity(plan)
        if validity == trt.EngineValidity.INVALID:
            return f"the library refuses it, diagnostics {diagnostics}"
        return None

    def make_context(self, trt: Any, engine: Any) -> Any:
        """Return an execution context; with a runtime configuration it captures a CUDA graph."""
        if not self.runtime_config:
            return engine.create_execution_context()
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)

    def inspect(self, trt: Any, logger: Any, plan: bytes) -> str | None:
        """Return the layer table of the engine inspector as JSON.

        None where the builder logs the table, as TensorRT for RTX does: its plan cannot be
        inspected without a GPU.
        """
        if self.sms:
            return None
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            return None
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


RTX = Flavour(
    module="tensorrt_rtx",
    distributions=("tensorrt-rtx-cu13", "tensorrt-rtx", "tensorrt-rtx-cu12"),
    sms=("SM75", "SM80", "SM86", "SM89", "SM120", "SM121"),
    float_sms=("SM75",),
    runtime_config=True,
)
FULL = Flavour(
    module="tensorrt",
    distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    sms=(),
    float_sms=(),
    runtime_config=False,
)


def find() -> Flavour | None:
    """Return the installed flavour, TensorRT for RTX first; None where neither is installed."""
    return next((flavour for flavour in (RTX, FULL) if flavour.place is not None), None)


def require() -> Flavour:
    """Return the installed flavour; raises :class:`ToolNotFound` where neither is installed."""
    flavour = find()
    if flavour is None:
        raise ToolNotFound("tensorrt-rtx", "to build a TensorRT engine", FIX)
    return flavour


def check_sms(flavour: Flavour, sms: Sequence[str]) -> tuple[str, ...]:
    """Return the compute capabilities in the library's spelling, without repeats.

    ``86``, ``8.6``, ``sm_86`` and ``SM86`` all mean ``SM86``. A library that builds for the GPU
    that is present answers with that one.

    Raises:
        ToolNotFound: where such a library has no GPU to build for.
        UserError: where there is none, or the library cannot build for one of them.
    """
    if not flavour.sms:
        return _present_sm(flavour)
    supported = ", ".join(flavour.sms)
    if not sms:
        raise UserError(f"no SM was given; give one or more of {supported}")
    wanted = []
    for sm in sms:
        name = "SM" + str(sm).upper().removeprefix("SM").replace("_", "").replace(".", "")
        if name == "SM90":
            raise UserError(
                f"SM {sm}: TensorRT for RTX does not support SM90 (Hopper); use one or more of "
                f"{supported}, or the full TensorRT on a machine with that GPU"
            )
        if name not in flavour.sms:
            raise UserError(
                f"SM {sm} is unknown to {flavour.module}; use one or more of {supported}"
            )
        wanted.append(name)
    return tuple(dict.fromkeys(wanted))


def check_int8_sms(flavour: Flavour, sms: Sequence[str]) -> None:
    """Raise :class:`UserError` where the library would make the engine for ``sms`` float."""
    unable = [sm for sm in sms if sm in flavour.float_sms]
    if unable:
        able = ", ".join(sm for sm in flavour.sms if sm not in flavour.float_sms)
        raise UserError(
            f"{', '.join(unable)}: {flavour.module} multiplies no INT8 there, and one of them "
            f"makes the engine float for every GPU; use one or more of {able}, or --precision fp16"
        )


def _present_sm(flavour: Flavour) -> tuple[str, ...]:
    from lmaunet.trt import gpu

    found = gpu.probe_gpu()
    if isinstance(found, gpu.NoGpu):
        raise ToolNotFound(
            "a CUDA GPU",
            f"because {flavour.module} builds only for the GPU that is present: {found.why}",
            f"{FIX} for TensorRT for RTX, which builds without one, or build on the device",
        )
    return (found.sm,)
