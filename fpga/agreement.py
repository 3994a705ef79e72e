"""How the hardware graph compares with the QONNX model, and the tolerances with their reasons.

Node by node, each fed with the QONNX model's own codes:

- *rounded* (Requantize): the fixed-point value and the QONNX model's float32 value both lie within
  a derived distance of the exact one (:func:`fpga.arithmetic.rescaling_error` and
  ``Rounding.reference_error``). So the codes must be equal, except where the exact value is that
  close to a half: there, by 1 at most.
- *table*: the same, with one exact value for each entry.
- *exact* (pooling, upsampling, concatenation): equal.
- *scan*: the integer scan may add no more noise to the real output than the quantization of the
  output to 8 bits adds by itself, so the noise power may at most double.

The whole network: errors pass through every later rounding, so logits are compared by their
signal-to-noise ratio, and classes wherever the QONNX model's two best logits are further apart
than twice six standard deviations of the difference.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpga.arithmetic import rescaling_error
from fpga.executor import Executor
from fpga.lowering.builder import HardwareGraph, Mapping
from fpga.lowering.walk import Host, Lowered
from fpga.reference import Reference
from lmaunet.artifacts import Agreement, compare, require_agreement
from lmaunet.errors import Disagreement

# float32 evaluates a function of a code, divides it and rounds: a few units of its last place
TABLE_ERROR = 2.0**-16
NOISE_RATIO = 2.0
LOGITS_SQNR_DB = 20.0
MARGIN_DEVIATIONS = 6.0


@dataclass(frozen=True)
class NodeAgreement:
    """How one tensor of codes compares when its node is fed with the QONNX model's codes.

    ``n_differ`` of ``n_total`` codes differ, all of them among the ``n_near_tie`` that may.
    ``sqnr_db`` is given for scans: the codes against the real output, and ``ideal_sqnr_db`` the
    QONNX model's codes against it.
    """

    tensor: str
    origin: str
    kind: str
    max_abs: int
    n_differ: int
    n_near_tie: int
    n_total: int
    sqnr_db: float | None = None
    ideal_sqnr_db: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def to_stream(values: np.ndarray, mapping: Mapping, shape: tuple[int, ...]) -> np.ndarray:
    """Return the QONNX tensor ``(n, ...)`` as codes in the stream's order, ``(n, *shape[1:])``."""
    codes = np.rint(values.astype(np.float64) / mapping.scale).astype(np.int64)
    stream = np.empty((len(values), mapping.layout.size), np.int64)
    stream[:, mapping.layout.ravel()] = codes.reshape(len(values), -1)
    return stream.reshape(len(values), *shape[1:])


def host_codes(host: Host, images: np.ndarray) -> np.ndarray:
    """Quantize images ``(n, channels, H, W)`` to codes ``(n, H, W, channels)`` as the host does.

    In float32 and rounding half to even, as the QONNX model's first node does.
    """
    codes = np.round(images.astype(np.float32) / np.float32(host.input_scale))
    return np.clip(codes, host.input_low, host.input_high).astype(np.int64).transpose(0, 2, 3, 1)


def host_logits(host: Host, accumulators: np.ndarray) -> np.ndarray:
    """Dequantize accumulators ``(n, H, W, classes)`` to float32 logits ``(n, classes, H, W)``."""
    logits = accumulators * host.output_scale + host.output_bias
    return logits.transpose(0, 3, 1, 2).astype(np.float32)


class NodeCheck:
    """Compares every mapped tensor while the executor runs, and feeds the QONNX codes on."""

    def __init__(
        self, graph: HardwareGraph, expected: dict[str, np.ndarray],
        scan_outputs: dict[str, np.ndarray], evidence: Path,
    ) -> None:  # fmt: skip
        self.graph, self.expected, self.evidence = graph, expected, evidence
        self.scan_outputs = scan_outputs
        self.mappings = {m.tensor: m for m in graph.mappings}
        self.sources = {m.rounding.source for m in graph.mappings if m.rounding is not None}
        self.accumulators: dict[str, np.ndarray] = {}
        self.results: list[NodeAgreement] = []

    def observe(self, tensor: str, values: np.ndarray) -> np.ndarray | None:
        """Compare a tensor that was just computed; return what goes on in its place."""
        if tensor in self.sources:
            self.accumulators[tensor] = values
        mapping = self.mappings.get(tensor)
        if mapping is None:
            return None
        want = to_stream(self.expected[mapping.origin], mapping, values.shape)
        near = self._near_ties(mapping, want)
        name = f"hardware node for {mapping.origin}"
        got = values.astype(np.int64)
        if mapping.kind == "scan":
            self.results.append(self._scan(mapping, got, want))
            return want
        require_agreement(name, got, want, 1, evidence=self.evidence)
        require_agreement(
            f"{name} away from a tie", np.where(near, want, got), want, 0, evidence=self.evidence
        )
        self.results.append(self._result(mapping, got, want, int(near.sum())))
        return want

    def _near_ties(self, mapping: Mapping, want: np.ndarray) -> np.ndarray:
        if mapping.rounding is not None:
            rounding = mapping.rounding
            x = self.accumulators.pop(rounding.source)
            real = x * rounding.ratio + rounding.bias
            error = rescaling_error(x, rounding.rescaling, rounding.ratio)
            return self._near(real, error + rounding.reference_error)
        if mapping.table_values is not None:
            # which entries are near a tie says which codes of the output may differ
            entries = mapping.table_values
            near = self._near(entries, TABLE_ERROR * (1 + np.abs(entries)))
            codes = np.unique(np.concatenate([np.floor(entries[near]), np.ceil(entries[near])]))
            return np.isin(want, codes)
        return np.zeros(want.shape, bool)

    @staticmethod
    def _near(real: np.ndarray, error: np.ndarray) -> np.ndarray:
        return np.abs(real - np.floor(real) - 0.5) <= error

    @staticmethod
    def _result(
        mapping: Mapping, got: np.ndarray, want: np.ndarray, near: int
    ) -> NodeAgreement:  # fmt: skip
        difference = np.abs(got - want)
        return NodeAgreement(
            mapping.tensor, mapping.origin, mapping.kind, int(difference.max()),
            int((difference > 0).sum()), near, got.size,
        )  # fmt: skip

    def _scan(self, mapping: Mapping, got: np.ndarray, want: np.ndarray) -> NodeAgreement:
        # a scan's real output is (n, L, channels), which is the order of its stream
        real = self.scan_outputs[mapping.origin].reshape(want.shape) / mapping.scale
        clipped = np.clip(real, -128.0, 127.0)
        power = float((real**2).mean())
        noise, ideal = float(((got - clipped) ** 2).mean()), float(((want - clipped) ** 2).mean())
        if noise > NOISE_RATIO * ideal:
            raise Disagreement(
                f"scan {mapping.origin}: its integers have {_db(power, noise):.1f} dB of signal to "
                f"noise, the real scan rounded to 8 bits {_db(power, ideal):.1f} dB; at most "
                f"{10 * math.log10(NOISE_RATIO):.1f} dB may be lost"
            )
        difference = np.abs(got - want)
        return NodeAgreement(
            mapping.tensor, mapping.origin, "scan", int(difference.max()),
            int((difference > 0).sum()), got.size, got.size,
            sqnr_db=_db(power, noise), ideal_sqnr_db=_db(power, ideal),
        )  # fmt: skip


def _db(power: float, noise: float) -> float:
    return 10 * math.log10(power / noise) if power and noise else math.inf


def check_nodes(
    lowered: Lowered, executor: Executor, reference: Reference, images: np.ndarray,
    seen: dict[str, np.ndarray], evidence: Path,
) -> tuple[list[NodeAgreement], list[Agreement]]:  # fmt: skip
    """Compare every node with the QONNX model, each fed with the QONNX model's own codes.

    Args:
        lowered: the hardware graph with its mappings.
        executor: runs it.
        reference: the QONNX model.
        images: float32 ``(n, channels, H, W)``.
        seen: every tensor of the QONNX model on these images.
        evidence: the folder for tensors that disagree.

    Returns:
        one entry for each tensor of codes, and their summary by kind.

    Raises:
        Disagreement: where a tensor differs by more than its derivation allows.
    """
    pending = reference.unquantized_scan_outputs()
    scan_outputs = {name: seen[source] for name, source in pending.items()}
    check = NodeCheck(lowered.graph, seen, scan_outputs, evidence)
    executor.run(host_codes(lowered.host, images), check.observe)
    summary = []
    for kind in ("rounded", "table", "exact"):
        nodes = [r for r in check.results if r.kind == kind]
        if not nodes:
            continue
        worst = float(max(n.max_abs for n in nodes))
        differ, total = sum(n.n_differ for n in nodes), sum(n.n_total for n in nodes)
        allowed = sum(n.n_near_tie for n in nodes)
        name = f"{kind} codes of {len(nodes)} hardware nodes, each fed with QONNX's codes"
        summary.append(Agreement(name, worst, differ, total, 0.0, True, allowed))
    return check.results, summary


def check_network(
    lowered: Lowered, logits: np.ndarray, expected: np.ndarray, evidence: Path
) -> tuple[list[Agreement], dict[str, float]]:
    """Compare the logits of the whole hardware graph with the QONNX model's.

    Returns:
        the agreement of the classes where they are decided, and the figures: signal-to-noise
        ratio of the logits in dB, their largest difference, the fraction of equal classes.

    Raises:
        Disagreement: where the ratio is too low or a decided class differs.
    """
    difference = logits.astype(np.float64) - expected
    centred = expected - expected.mean()
    ratio = _db(float((centred**2).mean()), float((difference**2).mean()))
    equal = logits.argmax(1) == expected.argmax(1)
    figures = {
        "logits_sqnr_db": ratio,
        "logits_max_abs": float(np.abs(difference).max()),
        "classes_equal": float(equal.mean()),
    }
    if ratio < LOGITS_SQNR_DB:
        raise Disagreement(
            f"logits of the hardware graph have {ratio:.1f} dB of signal to noise against the "
            f"QONNX model's, expected {LOGITS_SQNR_DB:g} dB or more; see layers.json for the nodes"
        )
    best = np.sort(expected, 1)
    margin = best[:, -1] - best[:, -2]
    decided = margin > 2 * MARGIN_DEVIATIONS * float(difference.std())
    classes = np.where(decided, logits.argmax(1), expected.argmax(1))
    allowed = int((~decided).sum())
    agreement = require_agreement(
        "classes of the hardware graph where QONNX's are decided", classes, expected.argmax(1), 0,
        evidence=evidence,
    )  # fmt: skip
    whole = compare("classes of the hardware graph", logits.argmax(1), expected.argmax(1), 0,
                    allowed)  # fmt: skip
    return [agreement, whole], figures


def check_against_nodes(
    model: Any, executor: Executor, codes: np.ndarray, evidence: Path
) -> Agreement:
    """Require the batch executor to give the integers of each node's own ``execute_node``.

    The nodes are those before SpecializeLayers, which renames operators and changes no integer:
    a mapped FINN+ node executes only in Vitis' or an RTL simulator. Matrix and vector units get
    float64 containers, in which every accumulator is exact; codes are exact in float32.

    Args:
        model: the assembled hardware graph (qonnx ModelWrapper).
        executor: of the same graph.
        codes: the codes of one image, ``(1, H, W, channels)``.
        evidence: the folder for tensors that disagree.
    """
    from qonnx.custom_op.registry import getCustomOp

    context: dict[str, Any] = {
        i.name: model.get_initializer(i.name) for i in model.graph.initializer
    }
    shapes = {v.name: model.get_tensor_shape(v.name) for v in model.graph.value_info}
    shapes[executor.output] = model.get_tensor_shape(executor.output)
    context = {name: np.zeros(shape) for name, shape in shapes.items()} | context
    context[executor.input] = codes.astype(np.float64)
    seen: dict[str, np.ndarray] = {}
    executor.run(codes, lambda name, value: seen.__setitem__(name, value))
    count = 0
    for node in model.graph.node:
        wide = node.op_type in ("MVAU", "VVAU", "Requantize")
        for name in node.input:
            if name in shapes or name == executor.input:
                context[name] = context[name].astype(np.float64 if wide else np.float32)
        getCustomOp(node).execute_node(context, model.graph)
        for name in node.output:
            context[name] = np.asarray(context[name], np.float64)
            require_agreement(
                f"{node.op_type} {name}: batch executor", seen[name], context[name], 0,
                evidence=evidence,
            )  # fmt: skip
            count += context[name].size
    return Agreement(
        f"batch executor against execute_node of {len(model.graph.node)} nodes, one image", 0.0, 0,
        count, 0.0, True,
    )  # fmt: skip
