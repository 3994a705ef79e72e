"""The graph that an engine was built from, in ONNX Runtime where its GPU is not at hand."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@functools.lru_cache(maxsize=4)
def _session(path: Path, changed_ns: int, features: str) -> Any:
    from lmaunet.export.masked_samples import with_output
    from lmaunet.export.reference import open_session, read_model
    from lmaunet.trt.half_emulation import emulated

    model = emulated(read_model(path))
    model = with_output(model, features) if features else model
    return open_session(model, optimize=True, float_biases=True)


def graph_session(path: Path, features: str = "") -> Any:
    """Return the session of an engine's graph, opened once while its file stays the same.

    ``features`` is a tensor in it that is a second output, where it is given.

    Raises:
        UserError: where the file is missing.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; run lmaunet-deploy build --target trt")
    return _session(path, path.stat().st_mtime_ns, features)


def run_graph(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of float32 images ``(n, channels, H, W)``."""
    from lmaunet.export.reference import run_images

    return run_images(graph_session(path), images)
