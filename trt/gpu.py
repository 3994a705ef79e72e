"""Whether a GPU is here, which one, and what may be built or run on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmaunet.packages import install_extra

FIX = install_extra("trt")
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
        return NoGpu("cuda-bindings is not installed", FIX)
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


def why_not_here(sms: Sequence[str]) -> NoGpu | None:
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
