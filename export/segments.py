"""Compare a target's form of a quantized network with the exported one, segment by segment.

Two forms that are equal in exact arithmetic still differ a little: a float rounding moves a value
that lies on the border between two codes, one value in a million. End to end that proves nothing:
the scan carries a code that moved through the rest of the map, and each layer multiplies the
number of codes that moved. So the graph is cut at every quantizer. Each segment, from quantizers
to the next, is given the codes of the exported graph, and the codes that it puts out must be the
exported graph's: none off by more than one, and next to none off at all.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.errors import Disagreement, UserError
from lmaunet.export.function import DOMAIN
from lmaunet.export.passes import constant, read
from lmaunet.export.reference import open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx
    from torch import nn

    Tensors = dict[str, np.ndarray]
    Runner = Callable[[onnx.ModelProto, Tensors, list[str]], list[np.ndarray]]

LOGIT_TOLERANCE = 1e-3
"""Of the logits, relative to their largest magnitude, from the same codes."""


def activations(model: onnx.ModelProto) -> list[str]:
    """Return the tensors that a DequantizeLinear makes of a quantizer's codes, not of weights."""
    return [
        node.outputs[0].name
        for node in read(model).graph
        if node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is None
    ]


def exported_values(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the exported graph's logits and quantized tensors on one image, by name.

    They are computed without graph optimization. ``image`` is ``(1, channels, H, W)``.
    """
    names = activations(model)
    if not names:
        raise UserError(
            f"the graph {model.graph.name!r} has no quantizer; export the quantized network"
        )
    logits = model.graph.output[0].name
    session = open_session(_with_outputs(model, names), optimize=False)
    entry = session.get_inputs()[0].name
    values = session.run([logits, *names], {entry: image})
    return dict(zip([logits, *names], values, strict=True))


def torch_values(
    network: nn.Module, model: onnx.ModelProto, image: np.ndarray
) -> dict[str, np.ndarray]:
    """Return torch's logits and quantized tensors on one image, by their names in the graph.

    Args:
        network: the quantized network in torch; each call of a quantizer became one
            DequantizeLinear of the graph, in the same order.
        model: the graph that was exported from it.
        image: ``(1, channels, H, W)``.

    Raises:
        Disagreement: where the graph has more or fewer quantizers than torch called.
    """
    import torch
    from brevitas.nn import QuantIdentity

    names, seen = activations(model), []
    handles = [
        module.register_forward_hook(lambda _module, _input, output: seen.append(output.numpy()))
        for module in network.modules()
        if isinstance(module, QuantIdentity)
    ]
    try:
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(image)).numpy()
    finally:
        for handle in handles:
            handle.remove()
    if len(names) != len(seen):
        raise Disagreement(
            f"the graph has {len(names)} quantizers of activations, torch called {len(seen)}"
        )
    return {model.graph.output[0].name: logits, **dict(zip(names, seen, strict=True))}


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in names:
        copy.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def cut(
    model: onnx.ModelProto, values: dict[str, np.ndarray]
) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, str]]:
    """Cut a form of the network at each quantizer of the exported graph.

    Args:
        model: the form; its quantized tensors have the exported graph's names.
        values: from :func:`exported_values`.

    Returns:
        The model whose inputs are the image and each quantizer's codes, and whose outputs are the
        logits and each quantizer's codes; the codes to feed, by input; and the output to compare
        each of them with.
    """
    import numpy as np
    import onnx_ir as ir

    result = read(model)
    graph = result.graph
    feeds: dict[str, np.ndarray] = {}
    outputs: dict[str, str] = {}
    fed: dict[ir.Value, ir.Value] = {}
    made = {value.name for node in graph for value in node.outputs}
    for node in graph:
        output = node.outputs[0].name
        if node.op_type != "DequantizeLinear" or output not in values:
            continue
        scale, zero = (constant(value) for value in node.inputs[1:])
        if scale is None or zero is None:
            raise UserError(f"{node.name}: its scale or zero point is not constant; export again")
        name, codes = f"{output}/exported_codes", node.inputs[0]
        limits = np.iinfo(zero.dtype)
        exact = np.rint(values[output] / scale) + zero
        feeds[name] = np.clip(exact, limits.min, limits.max).astype(zero.dtype)
        kind = ir.TensorType(ir.DataType.from_numpy(zero.dtype))
        shape = ir.Shape(feeds[name].shape)
        entry = ir.Value(name=name, type=kind, shape=shape)
        graph.inputs.append(entry)
        if codes not in fed:
            codes.type, codes.shape = kind, shape
            graph.outputs.append(codes)
        outputs[name], fed[codes] = codes.name, entry
        node.replace_input_with(0, entry)
    # a function from codes to codes reads a quantizer's codes without a DequantizeLinear
    for node in graph:
        if node.domain == DOMAIN or node.op_type == "Transpose":
            for index, value in enumerate(node.inputs):
                if value in fed:
                    node.replace_input_with(index, fed[value])
    missing = [name for name in activations(model) if name not in values]
    lost = set(values) - made - {model.graph.output[0].name}
    if lost:
        raise Disagreement(
            f"the form lacks {len(lost)} of the exported graph's quantized tensors, the first is "
            f"{min(lost)!r} (it has {len(missing)} of its own); a form keeps their names"
        )
    return ir.to_proto(result), feeds, outputs


def check_segments(
    name: str,
    form: onnx.ModelProto,
    values: dict[str, np.ndarray],
    image: np.ndarray,
    evidence: Path,
    *,
    share: float,
    optimize: bool,
    float_biases: bool = False,
    operators: Path | None = None,
) -> tuple[Agreement, Agreement, Agreement]:
    """Require each segment of a form to compute what the network that it is a form of computes.

    Args:
        name: what the form is, for the messages.
        form: a form of the quantized network.
        values: the quantized tensors and logits that are right: those of the exported graph from
            :func:`exported_values`, or those of torch from :func:`torch_values`.
        image: one image ``(1, channels, H, W)``.
        evidence: the folder in which tensors that disagree are saved.
        share: the share of the codes that may differ, by one; of each quantizer's as
            :func:`allowed_steps` says.
        optimize, float_biases, operators: as in :func:`lmaunet.export.reference.open_session`.

    Returns:
        The agreement of all codes within one, of all codes exactly, and of the logits.

    Raises:
        Disagreement: naming the quantizer.
    """

    def run(model: onnx.ModelProto, given: Tensors, outputs: list[str]) -> list[np.ndarray]:
        session = open_session(
            model, optimize=optimize, float_biases=float_biases, operators=operators
        )
        return session.run(outputs, given)

    return check_segments_in(run, name, form, values, image, evidence, share=share)


def check_segments_in(
    run: Runner,
    name: str,
    form: onnx.ModelProto,
    values: Tensors,
    image: np.ndarray,
    evidence: Path,
    *,
    share: float,
) -> tuple[Agreement, Agreement, Agreement]:
    """Do what :func:`check_segments` does in any runtime.

    Args:
        run: computes the named outputs of a model from its inputs, by name.
        name, form, values, image, evidence, share: as in :func:`check_segments`.
    """
    model, feeds, outputs = cut(form, values)
    logits = form.graph.output[0].name
    entry = form.graph.input[0].name
    wanted = [logits, *dict.fromkeys(outputs.values())]
    got = dict(zip(wanted, run(model, {entry: image, **feeds}, wanted), strict=True))
    near, exact = [], []
    for fed, codes in outputs.items():
        pair, label = (got[codes], feeds[fed]), f"{name}, codes of {codes}"
        near.append(require_agreement(label, *pair, 1, evidence=evidence))
        allowed = allowed_steps(share, feeds[fed].size)
        exact.append(require_agreement(label, *pair, 0, evidence=evidence, allowed=allowed))
    scale = float(abs(values[logits]).max())
    last = require_agreement(
        f"{name}, logits from the same codes", got[logits], values[logits],
        LOGIT_TOLERANCE * scale, evidence=evidence,
    )  # fmt: skip
    total = allowed_steps(share, sum(part.n_total for part in exact))
    steps = _sum(f"{name}, codes", exact, max(total, len(exact)))
    return _sum(f"{name}, codes within one", near, 0), steps, last


def allowed_steps(share: float, codes: int) -> int:
    """Return how many of a tensor's codes may be a step off where a share of all codes may.

    Codes that lie on an edge fall where they fall: a small tensor may have three deviations (of
    Poisson's distribution) more than its part, and at least one.
    """
    mean = share * codes
    return max(1, int(mean + 3 * math.sqrt(mean)))


def _sum(name: str, parts: list[Agreement], allowed: int) -> Agreement:
    """Return one agreement for the codes of all quantizers, each of which agrees.

    Raises:
        Disagreement: where more differ in all of them together.
    """
    differ, total = (sum(getattr(part, key) for part in parts) for key in ("n_differ", "n_total"))
    if differ > allowed:
        raise Disagreement(
            f"{name}: {differ} of {total} elements differ in all quantizers together (at most "
            f"{allowed} may)"
        )
    largest = max(part.max_abs for part in parts)
    return Agreement(name, largest, differ, total, parts[0].tolerance, True, allowed)
