"""Running a CPU's file: one session of ONNX Runtime, with its operators where they load."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Build
from lmaunet.cpu.operators import LIBRARY as OPERATORS
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np


SHIPPED = "model.onnx"


@functools.lru_cache(maxsize=4)
def _session(path: Path, changed_ns: int, operators: bool, features: str = "") -> Any:
    from lmaunet.cpu.saturation import runtime_adds_without_saturation, signed_weights
    from lmaunet.export.masked_samples import read_with_output
    from lmaunet.export.model_messages import read_messages
    from lmaunet.export.reference import open_session

    library = path.with_name(OPERATORS) if operators else None
    model: Any = read_with_output(path, features) if features else path
    if runtime_adds_without_saturation():
        shipped = model if features else read_messages(path)
        try:
            model = signed_weights(shipped)
        except UserError:
            raise
        except Exception:
            # a damaged file fails here in many ways: ONNX Runtime says in which
            open_session(path, optimize=True, operators=library)
            raise  # it loads, so that the fault is ours
    return open_session(model, optimize=True, operators=library)


def session_of(build: Build, features: str = "") -> Any:
    """Return the session of a build, opened once in this process while its file stays the same.

    ``features`` is a tensor in it that is a second output, where it is given. On a
    processor that can, INT8 weights stand for UINT8 ones: the same values, faster.
    """
    if not build.shipped.is_file():
        raise UserError(f"{build.shipped} does not exist; run lmaunet-deploy build --target ort")
    changed_ns = build.shipped.stat().st_mtime_ns
    return _session(build.shipped, changed_ns, has_operators(build), features)


@functools.lru_cache(maxsize=4)
def _loads(library: Path, changed_ns: int) -> bool:
    """Tell whether a library works here; one from another processor or system may not."""
    import ctypes

    try:
        ctypes.CDLL(str(library.resolve()))
    except OSError:
        return False
    return True


def has_operators(build: Build) -> bool:
    """Tell whether a build's library of operators is there and can be loaded on this machine."""
    library = build.folder / OPERATORS
    return library.is_file() and _loads(library, library.stat().st_mtime_ns)


def run(build: Build, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``."""
    from lmaunet.export.reference import run_images

    return run_images(session_of(build), images)
