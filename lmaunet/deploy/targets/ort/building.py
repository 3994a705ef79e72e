"""Writing a CPU's file, and the checks that it computes what the exported graph does."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.artifacts import Agreement, Build, require_agreement
from lmaunet.cpu.operators import LIBRARY as OPERATORS
from lmaunet.deploy.targets import BuildRequest
from lmaunet.deploy.targets.ort.options import build_options
from lmaunet.deploy.targets.ort.sessions import SHIPPED

if TYPE_CHECKING:
    import numpy as np
    import onnx


CODE_FUNCTIONS = (
    "NormedConvCodes", "PixelShuffleCodes", "SelectiveScan", "SelectiveScanCodes", "SiluCodes",
)  # fmt: skip
CHECKED_IMAGES = 2
# The share of a quantizer's codes that may differ by one where both sides have the same biases;
# 0 was measured. A bias that is rounded to an integer of the accumulator may move any code by one:
# where a channel's accumulator has few steps to a code, that is many of them.
CODE_SHARE, ROUNDED_BIAS_SHARE = 0.0001, 1.0
INTEGER_KERNELS = ("QLinearConv", "ConvInteger", "NormedConvCodes")
FLOAT_KERNELS = ("Conv", "FusedConv", "NhwcFusedConv")
# what ONNX Runtime computes in float32, where it is more than moving values
FLOAT_OPERATORS = frozenset(
    {*FLOAT_KERNELS, "Add", "Exp", "MatMul", "Mul", "Scan", "SelectiveScan", "Sigmoid", "Softplus"}
)


def build(request: BuildRequest) -> Build:
    """Write ``model.onnx``: UINT8 activation codes, packed weights, functions over codes.

    With the option ``operators`` also ``lmaunet_operators.so``, whose kernels ONNX Runtime takes
    for these functions where a session registers it. Checked on the first samples: segment by
    segment, that codes, layout and functions change nothing, and that integer biases, as ONNX
    Runtime optimizes the graph, move next to no code, both without the operators and with them;
    that packing the weights and dropping names change no bit of the logits and no kernel; and that
    end to end the classes stay.
    """
    import onnx

    from lmaunet.cpu.code_functions import fuse_codes
    from lmaunet.cpu.compact import bytes_by_purpose
    from lmaunet.cpu.cpu_file import LOWERING, cpu_forms, pack
    from lmaunet.cpu.operators import cached_library
    from lmaunet.cpu.packing import weight_bits_of
    from lmaunet.export import reference
    from lmaunet.export.convolutions import quantized_convolutions
    from lmaunet.export.segments import check_segments, exported_values

    options = {**build_options(), **request.options}
    exported = reference.read_model(request.qcdq)
    images = request.samples[:CHECKED_IMAGES]
    evidence = reference.evidence_folder(request.folder)
    operators = None
    if options["operators"]:
        request.progress("ort: compiling the operators")
        operators = request.folder / OPERATORS
        shutil.copyfile(cached_library(), operators)
    request.progress("ort: bringing the graph into the CPU's form")
    forms = cpu_forms(exported, options["cpu"])
    model = pack(forms.fused)
    shipped = request.folder / SHIPPED
    onnx.save(model, shipped)

    request.progress(f"ort: comparing with the exported graph on {len(images)} images")
    values = exported_values(exported, images[:1])
    agreements: list[Agreement] = []
    agreements += check_segments(
        "ort codes and functions", fuse_codes(forms.codes), values, images[:1], evidence,
        share=CODE_SHARE, optimize=False,
    )  # fmt: skip
    near, moved, logits = check_segments(
        "ort integer biases", forms.rounded, values, images[:1], evidence,
        share=ROUNDED_BIAS_SHARE, optimize=False,
    )  # fmt: skip
    agreements += [near, logits]
    rounded = exported_values(forms.rounded, images[:1])
    runs = {"ort form": None} | ({"ort operators": operators} if operators else {})
    for name, library in runs.items():
        agreements += check_segments(
            name, forms.fused, rounded, images[:1], evidence,
            share=CODE_SHARE, optimize=True, operators=library,
        )  # fmt: skip
    packing, nodes, got = check_packing(forms.fused, shipped, images, evidence, operators)
    expected = reference.reference_logits(exported, images)
    unsteady = functools.partial(reference.unsteady_share, exported, images)
    agreements += [
        *packing,
        reference.compare_classes("ort file", got, expected, evidence, unsteady),
    ]
    widths = Counter(weight_bits_of(model).values())
    detail = {
        "lowering": LOWERING,
        "cpu": options["cpu"],
        "operators": {
            "built": operators is not None,
            "bytes": operators.stat().st_size if operators else 0,
            "nodes": {name: nodes[name] for name in CODE_FUNCTIONS if nodes[name]},
        },
        "convolutions": {
            "integer_kernels": _count(nodes, INTEGER_KERNELS),
            "float_kernels": _count(nodes, FLOAT_KERNELS),
            "quantized": len(quantized_convolutions(exported)),
        },
        "float_nodes": {name: n for name, n in nodes.most_common() if name in FLOAT_OPERATORS},
        "codes_moved_by_rounded_biases": moved.n_differ / moved.n_total,
        "packing": {
            "weight_bits": {str(bits): widths[bits] for bits in sorted(widths)},
            "unpacked_bytes": bytes_by_purpose(forms.fused)["weights"],
            "packed_bytes": bytes_by_purpose(model)["weights"],
        },
        "optimized_nodes": dict(nodes.most_common()),
        "initializer_bytes": dict(reference.initializer_bytes(model)),
        "bytes_by_purpose": bytes_by_purpose(model),
    }
    beside = (operators,) if operators else ()
    return Build("ort", request.folder, shipped, tuple(agreements), detail, beside)


def check_packing(
    form: onnx.ModelProto,
    shipped: Path,
    images: np.ndarray,
    evidence: Path,
    operators: Path | None = None,
) -> tuple[list[Agreement], Counter[str], np.ndarray]:
    """Require the file to compute what its form with INT8 weights and long names computes.

    ONNX Runtime must choose as many integer and float kernels for both, and the logits must be
    equal bit for bit, with graph optimization off and full.

    Args:
        form: the graph before packing.
        shipped: the file.
        images: ``(n, channels, H, W)``.
        evidence: the folder in which tensors that disagree are saved.
        operators: the library of operators to run both with.

    Returns:
        The agreements, the operators of the optimized file and how many there are of each, and its
        logits.

    Raises:
        Disagreement: where they differ.
    """
    import numpy as np

    from lmaunet.export.reference import open_session, run_images

    counts = [optimized_nodes(source, operators) for source in (form, shipped)]
    kernels = [
        np.array([_count(nodes, kinds) for kinds in (INTEGER_KERNELS, FLOAT_KERNELS)])
        for nodes in counts
    ]
    agreements = [
        require_agreement(
            "ort packing, integer and float kernels", kernels[1], kernels[0], 0, evidence=evidence
        )
    ]
    for words, optimize in (("optimization off", False), ("optimization full", True)):
        want, got = (
            run_images(open_session(source, optimize=optimize, operators=operators), images)
            for source in (form, shipped)
        )
        name = f"ort packing, logits, {words}"
        agreements.append(require_agreement(name, got, want, 0, evidence=evidence))
    return agreements, counts[1], got


def optimized_nodes(model: onnx.ModelProto | Path, operators: Path | None = None) -> Counter[str]:
    """Return the operators that ONNX Runtime makes of a model, and how many of each."""
    import onnx

    from lmaunet.export.model_messages import all_nodes
    from lmaunet.export.reference import open_session

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, optimize=True, operators=operators, save_optimized=path)
        return Counter(node.op_type for node in all_nodes(list(onnx.load(path).graph.node)))


def _count(nodes: Counter[str], kinds: tuple[str, ...]) -> int:
    return sum(nodes[kind] for kind in kinds)
