"""Quantize one ONNX file with NVIDIA ModelOpt, in the environment that has it.

    PYTHON benchmarks/peer_modelopt.py MODEL.onnx CALIBRATION.npy METHOD OUT.onnx

``peers.py`` runs this with ``--modelopt-python``; it imports nothing of this repository. The last
line on standard output is JSON: ``seconds`` and ``versions``, or ``failed`` with the reason.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
import time
import traceback
from pathlib import Path


def quantize(model: str, calibration: str, method: str, out: str) -> float:
    """Write the INT8 network and return the seconds that it took, without those of importing.

    ``dq_only`` stores the weights as INT8; with the default they stay float32 and the file is as
    large as it was. ``high_precision_dtype``: what is not quantized stays float32.
    """
    import numpy as np
    import onnx
    from modelopt.onnx.quantization import quantize as modelopt_quantize

    name = onnx.load(model).graph.input[0].name
    start = time.perf_counter()
    modelopt_quantize(
        model, quantize_mode="int8", calibration_data={name: np.load(calibration)},
        calibration_method=method, calibration_eps=["cpu"], output_path=out, dq_only=True,
        high_precision_dtype="fp32", log_level="ERROR",
    )  # fmt: skip
    if not Path(out).is_file():
        raise RuntimeError("it reported no error and wrote no file")
    return time.perf_counter() - start


def reason(error: BaseException) -> str:
    """Return an error in one line: its message, its class and the function that raised it."""
    message = (str(error).strip().splitlines() or ["no message"])[0]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{message} ({type(error).__name__} in {Path(frame.filename).name}, {frame.name})"


def main() -> None:
    try:
        # standard output is for the answer alone
        with contextlib.redirect_stdout(sys.stderr):
            seconds = quantize(*sys.argv[1:])
        names = ("nvidia-modelopt", "onnxruntime-gpu", "onnxruntime")
        versions = {}
        for name in names:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        print(json.dumps({"seconds": seconds, "versions": versions}))
    except Exception as error:
        print(json.dumps({"failed": reason(error)}))


if __name__ == "__main__":
    main()
