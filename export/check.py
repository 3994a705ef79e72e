"""Run ONNX models in ONNX Runtime and compare them with what they should compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx


def run_onnx(
    model: onnx.ModelProto | Path | str, feeds: Mapping[str, np.ndarray], *, optimize: bool
) -> list[np.ndarray]:
    """Run a model once on the CPU in ONNX Runtime and return its outputs, in their order.

    Args:
        model: a model or the path of its file.
        feeds: an array for each of the model's inputs.
        optimize: whether ONNX Runtime may rewrite the graph, fully or not at all.

    Raises:
        UserError: where the file is missing or is no ONNX model, ONNX Runtime cannot run it, or
            the feeds do not fit it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # what fails is raised; ONNX Runtime's own log would only repeat it
    options.log_severity_level = 4
    # a thread that spins for work takes the core from the others
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if isinstance(model, str | Path):
        label, source = str(model), str(model)
        if not Path(model).is_file():
            raise UserError(f"{model} does not exist; give the path of an ONNX file")
    else:
        label, source = f"the model {model.graph.name!r}", model.SerializeToString()
    # ONNX Runtime's exceptions have no common class that its package exports
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(
            f"ONNX Runtime cannot load {label}: {_first_line(error)}; "
            "export it again, with the lowering unrolled or two_level"
        ) from error
    try:
        return session.run(None, dict(feeds))
    except Exception as error:
        expected = ", ".join(f"{i.name} {i.shape} {i.type}" for i in session.get_inputs())
        got = ", ".join(f"{name} {list(a.shape)} {a.dtype}" for name, a in feeds.items())
        raise UserError(
            f"ONNX Runtime cannot run {label}: {_first_line(error)}; got {got}; expected {expected}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_graph(
    name: str,
    model: onnx.ModelProto | Path | str,
    feeds: Mapping[str, np.ndarray],
    expected: np.ndarray | Sequence[np.ndarray],
    tolerance: float,
    evidence: Path,
    *,
    allowed: int = 0,
) -> tuple[Agreement, ...]:
    """Run a model with graph optimization off and full, and require both to give ``expected``.

    A graph that only one of the two levels computes rightly is a trap for whoever ships it.

    Args:
        name: what the model is, for the messages.
        model, feeds: as in :func:`run_onnx`.
        expected: the model's output, or one array for each of its outputs.
        tolerance: the largest absolute difference of an element that counts as equal.
        evidence: the folder in which tensors that disagree are saved.
        allowed: how many elements of an output may differ by more.

    Returns:
        The agreement of each output without optimization, then of each with it.

    Raises:
        Disagreement: where an output differs.
        UserError: where the model cannot be run, or has another number of outputs.
    """
    import numpy as np

    wanted = [expected] if isinstance(expected, np.ndarray) else list(expected)
    agreements = []
    for optimize, level in ((False, "off"), (True, "full")):
        outputs = run_onnx(model, feeds, optimize=optimize)
        if len(outputs) != len(wanted):
            raise UserError(
                f"{name}: the model has {len(outputs)} outputs, expected {len(wanted)}; "
                "give one expected array for each"
            )
        for i, (got, want) in enumerate(zip(outputs, wanted, strict=True)):
            label = f"{name}, optimization {level}" + (f", output {i}" if len(wanted) > 1 else "")
            agreements.append(
                require_agreement(label, got, want, tolerance, evidence=evidence, allowed=allowed)
            )
    return tuple(agreements)
