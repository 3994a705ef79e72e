"""How the hardware graph compares with the QONNX model, and the tolerances with their reasons.

Node by node, each fed with the QONNX model's own codes:

- *rounded* (Requantize): the fixed-point value and the QONNX model's float32 value both lie within
  a derived distance of the exact one (:func:`lmaunet.fpga.operators.arithmetic.rescaling_error` and
  ``Rounding.reference_error``). So the codes must be equal, except where the exact value is that
  close to a half: there, by 1 at most.
- *table*: the same, with one exact value for each entry.
- *exact* (pooling, upsampling, concatenation): equal.
- *scan*: each code lies within half a code and the derived bound of the real output
  (:mod:`lmaunet.fpga.agreement.scan`); and the integers may add no more noise to the real output
  than its quantization to 8 bits adds by itself, so the noise power may at most double.

The whole network: errors pass through every later rounding, so logits are compared by their
signal-to-noise ratio, and classes wherever the QONNX model's two best logits are further apart
than twice six standard deviations of the difference. A scan carries an error on from token to
token, so that there are places with several times the noise of others: the deviation is that of all
logits or of those around the pixel, whichever is larger. The nearest ones are left out, so that a
fault of up to 9 pixels across does not excuse itself; a larger one costs signal to noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.artifacts import Agreement, compare, require_agreement
from lmaunet.errors import Disagreement
from lmaunet.fpga.agreement.scan import ScanCheck
from lmaunet.fpga.graph.builder import Mapping
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import Host, Lowered
from lmaunet.fpga.operators.arithmetic import rescaling_error
from lmaunet.fpga.operators.registry import kind_of
from lmaunet.fpga.operators.selective_scan import SelectiveScan

# float32 evaluates a function of a code, divides it and rounds: a few units of its last place
TABLE_ERROR = 2.0**-16
NOISE_RATIO = 2.0
LOGITS_SQNR_DB = 20.0
MARGIN_DEVIATIONS = 6.0
FLIPPED = 256
"""Values of an image of which one is changed by a code, to see what a network makes of it."""
AROUND, NEAREST = 49, 17
"""Pixels across that are around a pixel, and those of them that are left out; both odd."""


@dataclass(frozen=True)
class NodeAgreement:
    """How one tensor of codes compares when its node is fed with the QONNX model's codes.

    ``n_differ`` of ``n_total`` codes differ, all of them among the ``n_near_tie`` that may. For a
    scan also: ``sqnr_db``, the codes against the real output; ``ideal_sqnr_db``, the QONNX model's
    codes against it; ``bound_codes``, the largest derived error before rounding; ``saturated``, how
    many of its numbers left their format (then the bound does not hold for that image).
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
    bound_codes: float | None = None
    saturated: int | None = None

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


def with_flips(host: Host, images: np.ndarray) -> np.ndarray:
    """Return images of which a few values differ by a code: one in :data:`FLIPPED`, at random."""
    random = np.random.default_rng(0)
    flips = random.choice((-1.0, 1.0), images.shape) * (random.random(images.shape) < 1 / FLIPPED)
    return (images + host.input_scale * flips).astype(np.float32)


def host_logits(host: Host, accumulators: np.ndarray) -> np.ndarray:
    """Dequantize accumulators ``(n, H, W, classes)`` to float32 logits ``(n, classes, H, W)``."""
    logits = accumulators * host.output_scale + host.output_bias
    return logits.transpose(0, 3, 1, 2).astype(np.float32)


@dataclass
class _Count:
    """What was seen of one tensor so far."""

    max_abs: int = 0
    n_differ: int = 0
    n_near_tie: int = 0
    n_total: int = 0


class NodeCheck:
    """Compares every mapped tensor while the executor runs, and feeds the QONNX codes on.

    Args:
        lowered: the hardware graph with its mappings.
        executor: runs it.
        evidence: the folder for tensors that disagree.
    """

    def __init__(self, lowered: Lowered, executor: Executor, evidence: Path) -> None:
        graph = lowered.graph
        self.host, self.executor, self.evidence = lowered.host, executor, evidence
        self.scans = {
            step.outputs[0]: ScanCheck(step, executor)
            for step in executor.steps
            if isinstance(step.operator, SelectiveScan)
        }
        self.mappings = {m.tensor: m for m in graph.mappings}
        self.sources = {m.rounding.source for m in graph.mappings if m.rounding is not None}
        self.accumulators: dict[str, np.ndarray] = {}
        self.counts = {m.tensor: _Count() for m in graph.mappings}

    def add(self, image: np.ndarray, seen: dict[str, np.ndarray]) -> None:
        """Check all nodes on one image ``(1, channels, H, W)``.

        Args:
            image: float32.
            seen: every tensor of the QONNX model on this image.

        Raises:
            Disagreement: where a tensor differs by more than its derivation allows.
        """
        self.executor.run(host_codes(self.host, image), lambda t, v: self._observe(t, v, seen))

    def _observe(
        self, tensor: str, values: np.ndarray, seen: dict[str, np.ndarray]
    ) -> np.ndarray | None:
        if tensor in self.sources:
            self.accumulators[tensor] = values
        for scan in self.scans.values():
            scan.note(tensor, values)
        mapping = self.mappings.get(tensor)
        if mapping is None:
            return None
        want = to_stream(seen[mapping.origin], mapping, values.shape)
        got = values.astype(np.int64)
        name = f"hardware node for {mapping.origin}"
        if mapping.kind == "scan":
            near = self.scans[tensor].add(name, got, want, self.evidence)
        else:
            near = self._near_ties(mapping, want)
            require_agreement(name, got, want, 1, evidence=self.evidence)
        away = np.where(near, want, got)
        require_agreement(f"{name} away from a tie", away, want, 0, evidence=self.evidence)
        for scan in self.scans.values():
            scan.note(tensor, want)
        difference = np.abs(got - want)
        count = self.counts[tensor]
        count.max_abs = max(count.max_abs, int(difference.max()))
        count.n_differ += int((difference > 0).sum())
        count.n_near_tie += int(near.sum())
        count.n_total += got.size
        return want

    def _near_ties(self, mapping: Mapping, want: np.ndarray) -> np.ndarray:
        """Return where the exact value is so close to a half that either code is right."""
        if mapping.rounding is not None:
            rounding = mapping.rounding
            x = self.accumulators.pop(rounding.source)
            real = x * rounding.ratio + rounding.bias
            error = rescaling_error(x, rounding.rescaling, rounding.ratio, rounding.bias)
            near = _near_half(real, error + rounding.reference_error)
            if rounding.slope == 1:
                return near
            below = np.zeros(want.shape, bool)
            if rounding.below is not None:
                ratio, bias = rounding.slope * rounding.ratio, rounding.slope * rounding.bias
                error = rescaling_error(x, rounding.below, ratio, bias)
                error = error + rounding.slope * rounding.reference_error
                below = _near_half(rounding.slope * real, error)
            return np.where(real < 0, below, near)
        if mapping.table_values is not None:
            # which entries are near a tie says which codes of the output may differ
            entries = mapping.table_values
            near = _near_half(entries, TABLE_ERROR * (1 + np.abs(entries)))
            codes = np.unique(np.concatenate([np.floor(entries[near]), np.ceil(entries[near])]))
            return np.isin(want, codes)
        return np.zeros(want.shape, bool)

    def results(self) -> list[NodeAgreement]:
        """Return one entry for each tensor of codes, over all images that were added.

        Raises:
            Disagreement: where a scan adds more noise than :data:`NOISE_RATIO` allows.
        """
        found = []
        for mapping in self.mappings.values():
            count = self.counts[mapping.tensor]
            scan = self.scans.get(mapping.tensor)
            figures = {} if scan is None else self._scan_figures(mapping, scan)
            found.append(
                NodeAgreement(
                    mapping.tensor, mapping.origin, mapping.kind, count.max_abs, count.n_differ,
                    count.n_near_tie, count.n_total, **figures,
                )
            )  # fmt: skip
        return found

    @staticmethod
    def _scan_figures(mapping: Mapping, scan: ScanCheck) -> dict[str, Any]:
        ratio, ideal = _db(scan.signal, scan.noise), _db(scan.signal, scan.ideal_noise)
        if scan.noise > NOISE_RATIO * scan.ideal_noise:
            raise Disagreement(
                f"scan {mapping.origin}: its integers have {ratio:.1f} dB of signal to noise, "
                f"the real scan rounded to 8 bits {ideal:.1f} dB; at most "
                f"{10 * math.log10(NOISE_RATIO):.1f} dB may be lost"
            )
        return {
            "sqnr_db": ratio, "ideal_sqnr_db": ideal, "bound_codes": scan.largest_bound,
            "saturated": scan.saturated,
        }  # fmt: skip


def _near_half(real: np.ndarray, error: np.ndarray) -> np.ndarray:
    return np.abs(real - np.floor(real) - 0.5) <= error


def _db(power: float, noise: float) -> float:
    return 10 * math.log10(power / noise) if power and noise else math.inf


def summarize(nodes: list[NodeAgreement]) -> list[Agreement]:
    """Return the agreements of all nodes by kind."""
    summary = []
    for kind in ("rounded", "table", "exact", "scan"):
        chosen = [n for n in nodes if n.kind == kind]
        if not chosen:
            continue
        worst = float(max(n.max_abs for n in chosen))
        differ, total = sum(n.n_differ for n in chosen), sum(n.n_total for n in chosen)
        allowed = sum(n.n_near_tie for n in chosen)
        name = f"{kind} codes of {len(chosen)} hardware nodes, each fed with QONNX's codes"
        summary.append(Agreement(name, worst, differ, total, 0.0, True, allowed))
    return summary


def check_network(
    lowered: Lowered,
    logits: np.ndarray,
    expected: np.ndarray,
    evidence: Path,
    own_logits: Callable[[], np.ndarray] | None = None,
) -> tuple[list[Agreement], dict[str, float]]:
    """Compare the logits of the whole hardware graph with the QONNX model's.

    Args:
        lowered: the hardware graph.
        logits, expected: of it and of the QONNX model, ``(n, classes, H, W)``.
        evidence: the folder for tensors that disagree.
        own_logits: returns the QONNX model's for images whose codes differ here and there by 1;
            asked where the limit is not met. A network that makes as much of that as it makes of
            the hardware's roundings has its own noise for a limit, which may at most double.

    Returns:
        the agreement of the classes where they are decided, and the figures: signal-to-noise
        ratio of the logits in dB, their largest difference, the fraction of equal classes, and the
        largest margin of a class that differs, in deviations (at most 12 may be).

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
    limit = LOGITS_SQNR_DB
    if ratio < limit and own_logits is not None:
        own = own_logits().astype(np.float64) - expected
        figures["own_sqnr_db"] = _db(float((centred**2).mean()), float((own**2).mean()))
        limit = min(limit, figures["own_sqnr_db"] - 10 * math.log10(NOISE_RATIO))
    if ratio < limit:
        raise Disagreement(
            f"logits of the hardware graph have {ratio:.1f} dB of signal to noise against the "
            f"QONNX model's, expected {limit:.3g} dB or more; see layers.json for the nodes"
        )
    best = np.sort(expected, 1)
    margin = best[:, -1] - best[:, -2]
    deviation = _deviation(difference)
    decided = margin > 2 * MARGIN_DEVIATIONS * deviation
    classes = np.where(decided, logits.argmax(1), expected.argmax(1))
    allowed = int((~decided).sum())
    agreement = require_agreement(
        "classes of the hardware graph where QONNX's are decided", classes, expected.argmax(1), 0,
        evidence=evidence,
    )  # fmt: skip
    unequal = margin[~equal] / deviation[~equal]
    figures["margin_deviations"] = float(unequal.max()) if unequal.size else 0.0
    whole = compare("classes of the hardware graph", logits.argmax(1), expected.argmax(1), 0,
                    allowed)  # fmt: skip
    return [agreement, whole], figures


def _deviation(difference: np.ndarray) -> np.ndarray:
    """Return the deviation ``(n, H, W)`` of ``(n, classes, H, W)``, of all or of those around."""
    power = (difference**2).mean(1)
    ring, pixels = (
        _box_sums(maps, AROUND) - _box_sums(maps, NEAREST) for maps in (power, np.ones_like(power))
    )
    around = np.sqrt(np.maximum(ring, 0.0) / np.maximum(pixels, 1.0))
    return np.asarray(np.maximum(around, difference.std()))


def _box_sums(maps: np.ndarray, size: int) -> np.ndarray:
    """Return the sum over the square around each pixel of maps ``(n, H, W)``, 0 outside."""
    half = size // 2
    sums = np.pad(maps, ((0, 0), (half, half), (half, half)))
    for axis in (1, 2):
        sums = np.cumsum(sums, axis, dtype=np.float64)
        first = np.zeros_like(np.take(sums, [0], axis))
        before = np.concatenate([first, np.take(sums, range(sums.shape[axis] - size), axis)], axis)
        sums = np.take(sums, range(size - 1, sums.shape[axis]), axis) - before
    return sums


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
        wide = kind_of(node.op_type).wide
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
