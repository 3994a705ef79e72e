"""The quantizers that ``peers.py`` compares: each writes an INT8 file and returns the seconds."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

INSTALL = (
    "python3.11 -m venv PEERS && PEERS/bin/pip install 'nvidia-modelopt[onnx]', "
    "then --modelopt-python PEERS/bin/python"
)
MODELOPT_SECONDS = 3600


class ToolFailed(Exception):
    """A tool is missing or gave up; the message is one line."""


def has_vnni() -> bool:
    """Tell whether integer products of this CPU add up without saturating at 16 bits.

    On x86 that takes AVX-VNNI or AVX512-VNNI; other architectures do not have the problem.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return True
    info = Path("/proc/cpuinfo")
    return info.is_file() and "vnni" in info.read_text(encoding="utf-8")


def quantize_with_onnxruntime(
    model: onnx.ModelProto,
    images: np.ndarray,
    out: Path,
    *,
    activations: str,
    calibration: str,
) -> tuple[float, dict[str, Any]]:
    """Quantize statically as ONNX Runtime's guide says: pre-process, calibrate, write QDQ.

    Weights are INT8, one scale for each output channel; biases INT32. U8S8 on a CPU without VNNI
    saturates, for which the guide has ``reduce_range`` (7-bit weights).

    Args:
        model: the float network.
        images: float32 ``(n, channels, H, W)``.
        out: the file to write.
        activations: ``S8S8`` or ``U8S8``.
        calibration: ``MinMax``, ``Percentile`` or ``Entropy``, with the tool's defaults.

    Returns:
        The seconds, and what else a row should say.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Slices(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {model.graph.input[0].name: image[None]}

    unsigned = activations == "U8S8"
    reduce_range = unsigned and not has_vnni()
    types = quantization.QuantType
    prepared = out.with_suffix(".prepared.onnx")
    start = time.perf_counter()
    with _quiet():
        quant_pre_process(model, prepared)
        quantization.quantize_static(
            prepared, out, Slices(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=types.QUInt8 if unsigned else types.QInt8, weight_type=types.QInt8,
            reduce_range=reduce_range,
            calibrate_method=quantization.CalibrationMethod[calibration],
        )  # fmt: skip
    return time.perf_counter() - start, {"reduce_range": reduce_range}


def quantize_with_modelopt(
    model: onnx.ModelProto,
    images: np.ndarray,
    out: Path,
    *,
    calibration: str,
    python: Path | None,
) -> tuple[float, dict[str, Any]]:
    """Quantize with NVIDIA ModelOpt in a process of its own (``peer_modelopt.py``).

    Args:
        model: the float network.
        images: float32 ``(n, channels, H, W)``.
        out: the file to write.
        calibration: ``max`` or ``entropy``.
        python: the interpreter that has ModelOpt; None for this one.

    Raises:
        ToolFailed: where it is not installed or fails.
    """
    if python is None and importlib.util.find_spec("modelopt") is None:
        raise ToolFailed(f"not installed: {INSTALL}")
    # it rewrites the file that it is given
    given, slices = out.with_suffix(".given.onnx"), out.with_suffix(".npy")
    onnx.save(model, given)
    np.save(slices, images)
    script = Path(__file__).with_name("peer_modelopt.py")
    command = [str(python or sys.executable), script, given, slices, calibration, out]
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False,
            timeout=MODELOPT_SECONDS, cwd=out.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ToolFailed(f"stopped after {MODELOPT_SECONDS} s") from None
    answer = parse_answer(done.stdout, done.returncode)
    return answer.pop("seconds"), answer


def parse_answer(output: str, status: int) -> dict[str, Any]:
    """Return what ``peer_modelopt.py`` printed last; raises :class:`ToolFailed` for a failure."""
    lines = output.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        raise ToolFailed(f"ended with status {status} and no answer") from None
    if "failed" in answer:
        raise ToolFailed(answer["failed"])
    return answer


def quantize_with_ours(model: Any, images: np.ndarray, out: Path) -> tuple[float, dict[str, Any]]:
    """Calibrate our quantized network, export it and build the CPU's file, its checks included.

    Args:
        model: the torch network.
        images: float32 ``(n, channels, H, W)``.
        out: the file to write.
    """
    import torch

    from lmaunet.deploy.targets import BuildRequest, get_target
    from lmaunet.export.network import QCDQ, export_qcdq
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork

    folder = out.with_suffix("")
    folder.mkdir()
    qcdq = out.parent / f"{out.stem}.{QCDQ}"
    start = time.perf_counter()
    quantized = QuantNetwork.from_module(model, images.shape)
    calibrate(quantized, images)
    export_qcdq(quantized, torch.from_numpy(images[:1]), qcdq)
    # the CPU's file does not need QONNX
    request = BuildRequest(folder, qcdq, qcdq, images, {}, lambda line: None)
    built = get_target("ort").build(request)
    built.shipped.rename(out)
    return time.perf_counter() - start, {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep a tool's log and progress off standard output, which is for the table."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(level)
