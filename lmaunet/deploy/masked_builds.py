"""A build's head over dropout masks: added to it when it is made, run when confidence is asked for.

The trunk is the build's own file with the head's input as a second output, which this program adds
when it opens the file: what ships for plain masks is the same with and without dropout.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Build, require_agreement
from lmaunet.data.confidence import Dropout
from lmaunet.errors import UserError
from lmaunet.export.masked_samples import (
    HEAD_FILE,
    compiled_runs,
    masked_samples,
    session_runs,
)
from lmaunet.quant.settings import CONFIDENCE_FILE
from lmaunet.stage import read_json, record_of

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.deploy.targets import Target

    Open = Callable[[Build, str], Any]
    Plain = Callable[[Build, np.ndarray], np.ndarray | None]

DETAIL = "confidence"
"""The key of a build's detail with ``features``, the tensor of the head's input."""
ONES_TOLERANCE = 1e-5
"""Of the logits with masks of ones, from those without, relative to their largest magnitude."""
MADE_WITHOUT = (
    "it says no confidence: its network was not trained with dropout; run lmaunet-deploy qat "
    "--dropout 0.2, then build it again"
)


def dropout_file(folder: Path) -> dict[str, Path]:
    """Return what ``RUN/qat`` says of its confidence as an input of a stage, if anything."""
    path = folder / CONFIDENCE_FILE
    return {"confidence": path} if path.exists() else {}


def dropout_of(folder: Path) -> Dropout | None:
    """Return the dropout with which ``RUN/qat`` trained; None for none.

    Raises:
        UserError: where the file is damaged.
    """
    for path in dropout_file(folder).values():
        with record_of(folder):
            return Dropout.from_json(read_json(path))
    return None


def add_head(
    built: Build, target: Target, dropout: Dropout | None, qcdq: Path, samples: np.ndarray
) -> Build:
    """Return a build that was just made with its head over masks beside it, and checked.

    With masks of ones it must give the logits of the build, and the trunk with a second output must
    give them bit for bit. A target that takes no masks is returned as it is.

    Args:
        built: what the target made.
        target: the target.
        dropout: with which the network was trained; None adds nothing.
        qcdq: the exported graph that it was built from.
        samples: float32 ``(n, channels, H, W)``; the first is computed.

    Raises:
        UserError: where the network does not end in a 1x1 convolution.
        Disagreement: where logits differ.
    """
    if dropout is None or target.sampled is None or (path := target.trunk(built)) is None:
        return built
    import numpy as np
    import onnx

    from lmaunet.export.masked_head import masked_head
    from lmaunet.export.reference import evidence_folder, read_model

    head, features = masked_head(read_model(path), read_model(qcdq))
    onnx.save(head, built.folder / HEAD_FILE)
    detail = {**built.detail, DETAIL: {"features": features, "channels": dropout.channels}}
    made = dataclasses.replace(
        built, detail=detail, beside=(*built.beside, built.folder / HEAD_FILE)
    )
    image, evidence = samples[:1], evidence_folder(built.folder)
    want = target.run(made, image)
    got, ones = target.sampled(made, image, np.ones((1, dropout.channels), np.float32))
    agreements = (
        require_agreement(
            f"{target.name} with the head's input as an output, logits", got, want, 0,
            evidence=evidence,
        ),
        require_agreement(
            f"{target.name} head over masks of ones, logits", ones[:, 0], want,
            ONES_TOLERANCE * float(abs(want).max()), evidence=evidence,
        ),
    )  # fmt: skip
    return dataclasses.replace(made, agreements=(*built.agreements, *agreements))


def features_of(build: Build) -> str:
    """Return the tensor of the head's input; raises UserError where the build has no masks."""
    found = build.detail.get(DETAIL)
    if not isinstance(found, dict) or not isinstance(found.get("features"), str):
        raise UserError(f"{build.folder}: {MADE_WITHOUT}")
    if not (build.folder / HEAD_FILE).is_file():
        raise UserError(f"{build.folder} lacks {HEAD_FILE}; copy the whole folder again")
    return found["features"]


@functools.lru_cache(maxsize=4)
def _head_session(path: Path, changed_ns: int) -> Any:
    from lmaunet.export.reference import open_session

    return open_session(path, optimize=True)


@functools.lru_cache(maxsize=4)
def _head_compiled(path: Path, changed_ns: int) -> Any:
    from lmaunet.cpu.openvino_runtime import compile_model

    return compile_model(path)


def run_sessions(
    open_trunk: Open, build: Build, images: np.ndarray, masks: np.ndarray,
    plain: Plain = lambda build, images: None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the logits of images and those with each mask, computed in ONNX Runtime.

    Args:
        open_trunk: a build and the tensor that is its second output, to a session.
        build: the build.
        images: float32 ``(n, channels, H, W)``.
        masks: float32 ``(samples, features)``.
        plain: the logits where something else computes them; None where the trunk does.
    """
    return _run(open_trunk, _head_session, session_runs, build, images, masks, plain)


def run_compiled(
    open_trunk: Open, build: Build, images: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what :func:`run_sessions` does, computed in OpenVINO."""
    return _run(
        open_trunk, _head_compiled, compiled_runs, build, images, masks, lambda build, images: None
    )


def _run(
    open_trunk: Open, open_head: Callable[[Path, int], Any], runs: Callable[[Any, Any], Any],
    build: Build, images: np.ndarray, masks: np.ndarray, plain: Plain,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    path = build.folder / HEAD_FILE
    trunk = open_trunk(build, features_of(build))
    head = open_head(path, path.stat().st_mtime_ns)
    try:
        logits, sampled = masked_samples(images, masks, *runs(trunk, head))
    except MemoryError:
        raise
    # the runtimes' exceptions have no class in common
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{build.shipped} or {path} cannot be computed: {reason}; build it again"
        ) from error
    own = plain(build, images)
    return (logits if own is None else own), sampled
