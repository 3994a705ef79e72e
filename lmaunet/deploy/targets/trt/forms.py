"""The graph that an engine is built from in each precision, compared with the exported one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Agreement
from lmaunet.deploy.targets import BuildRequest
from lmaunet.errors import Disagreement, UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from lmaunet.trt.layer_table import EngineLayer
    from lmaunet.trt.precision import ConstantBytes


LOWERING = "two_level"
CHECKED_IMAGES = 2
# the share of a quantizer's codes that may differ by one; 0 was measured
CODE_SHARE = 0.0001


@dataclass(frozen=True)
class Checked:
    """What the layer table says: rows of ``precision.json``, detail, and the constants' bytes."""

    rows: list[dict[str, Any]]
    detail: dict[str, Any]
    stored: ConstantBytes


@dataclass(frozen=True)
class Form:
    """The graph that an engine is built from, its agreements, and the check of the engine."""

    network: onnx.ModelProto
    agreements: tuple[Agreement, ...]
    check: Callable[[Sequence[EngineLayer]], Checked]


def int8_form(request: BuildRequest) -> Form:
    """Return the quantized network in the form of the policy."""
    from lmaunet.export import reference
    from lmaunet.export.convolutions import float_convolutions
    from lmaunet.export.lower import lower
    from lmaunet.trt import policy
    from lmaunet.trt.layer_precision import check_norms, norm_nodes
    from lmaunet.trt.precision import check_policy, constant_bytes, summary

    exported = reference.read_model(request.qcdq)
    prepared, planned = policy.apply(exported)
    network = lower(prepared, LOWERING)
    images = request.samples[:CHECKED_IMAGES]

    def check(layers: Sequence[EngineLayer]) -> Checked:
        table = check_policy(layers, planned)
        detail = {
            **summary(layers, table),
            "layer_precisions": check_norms(layers, norm_nodes(network)).to_json(),
            "float_convolutions": float_convolutions(exported),
            "policy": [asdict(rule) for rule in policy.RULES],
        }
        return Checked([asdict(row) for row in table], detail, constant_bytes(layers, planned))

    return Form(network, _agreements(exported, network, images, request.folder), check)


def float_form(request: BuildRequest, precision: str) -> Form:
    """Return the FP32 control in another precision, with the scan and the norms in FP32."""
    import numpy as np

    from lmaunet.export import reference
    from lmaunet.export.lower import lower
    from lmaunet.trt import float_checks, float_forms, half_emulation, half_range
    from lmaunet.trt.layer_precision import check_norms, norm_nodes
    from lmaunet.trt.precision import constant_bytes

    if request.float32 is None:
        raise UserError(
            f"--precision {precision} needs the float network, and there is none; "
            "run lmaunet-deploy export"
        )
    exported = reference.read_model(request.float32)
    model = float_forms.copy_named(lower(exported, LOWERING))
    found = float_forms.products(model)
    images = request.samples[:CHECKED_IMAGES]
    evidence = reference.evidence_folder(request.folder)
    agreements: tuple[Agreement, ...]
    in_float: tuple[str, ...] = ()
    extra: dict[str, Any] = {}
    if precision == "fp16":
        tried = request.samples if request.calibration is None else request.calibration
        ranges = half_range.half_ranges(model, found, tried)
        in_float = tuple(entry.node for entry in half_range.kept_in_float(ranges))
        extra = {"half_range": half_range.range_detail(ranges, len(tried))}
        network = float_forms.in_half(model, in_float)
        agreements = (float_checks.check_half(network, model, images[:1], evidence, in_float),)
    elif precision == "int4-weights":
        network, same = float_forms.in_int4(model)
        agreements = float_checks.check_int4(network, same, images, evidence)
    else:
        network = model
        agreements = (float_checks.check_float(network, exported, images, evidence),)
    classes = reference.reference_logits(exported, images).argmax(1)
    session = reference.open_session(half_emulation.emulated(network), optimize=True)
    logits = reference.run_images(session, images)
    if not np.isfinite(logits).all():
        raise Disagreement(
            f"the engine's graph in {precision} computes NaN or infinity where the float network "
            "does not; build with --precision int8 or fp32"
        )
    differing = float((logits.argmax(1) != classes).mean())

    def check(layers: Sequence[EngineLayer]) -> Checked:
        rows = float_checks.check_products(layers, found, precision, in_float)
        stored = Counter(str(row["weights"]) for row in rows)
        detail = {
            "precisions": {f"{name} weights": count for name, count in stored.items()},
            "pixels_that_fp32_classifies_otherwise": differing,
            "layer_precisions": check_norms(layers, norm_nodes(network)).to_json(),
            **extra,
        }
        return Checked([dict(row) for row in rows], detail, constant_bytes(layers, ()))

    return Form(network, agreements, check)


def _agreements(
    exported: onnx.ModelProto, network: onnx.ModelProto, images: np.ndarray, folder: Path
) -> tuple[Agreement, ...]:
    """Compare the engine's graph with the exported one, without and with optimization.

    The optimized graph keeps its float biases, as the engine does.
    """
    from lmaunet.export import reference
    from lmaunet.export.segments import check_segments, exported_values

    evidence = reference.evidence_folder(folder)
    agreements: list[Agreement] = []
    values = exported_values(exported, images[:1])
    for optimize, level in ((False, "off"), (True, "full")):
        agreements += check_segments(
            f"trt graph, optimization {level}", network, values, images[:1], evidence,
            share=CODE_SHARE, optimize=optimize, float_biases=True,
        )  # fmt: skip
    session = reference.open_session(network, optimize=True, float_biases=True)
    got = reference.run_images(session, images)
    expected = reference.reference_logits(exported, images)
    unsteady = functools.partial(reference.unsteady_share, exported, images)
    agreements.append(reference.compare_classes("trt graph", got, expected, evidence, unsteady))
    return tuple(agreements)
