"""How the integer scan of a hardware graph compares with the real one on the same codes.

Where no state saturates, :func:`lmaunet.scan.bound.accumulator_bound` gives the largest possible
error of each accumulator, so that each code must lie within half a code and that error of the real
output. Where one does (data beyond the calibration's), only the noise is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmaunet.artifacts import require_agreement
from lmaunet.fpga.graph.executor import Executor, Step
from lmaunet.fpga.operators.selective_scan import integer_scan

# What may saturate without harm: a decay is zero either way, the output clips as a quantizer does,
# and the accumulator saturates only where the output does.
HARMLESS = ("exponent", "accumulator", "output")
FLOAT32_CODES = 128 * 2.0**-22


@dataclass
class ScanCheck:
    """One scan node: its integers are compared with the real scan as images come in.

    Args:
        step: the node.
        executor: holds its constants.
    """

    step: Step
    executor: Executor
    saturated: int = 0
    largest_bound: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    ideal_noise: float = 0.0
    inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def note(self, tensor: str, values: np.ndarray) -> None:
        """Keep a stream that goes into the scan until its output comes."""
        if tensor in self.step.inputs[:4]:
            self.inputs[tensor] = values

    def add(self, name: str, got: np.ndarray, want: np.ndarray, evidence: Path) -> np.ndarray:
        """Compare the node's codes and return where they may differ from the QONNX model's.

        Args:
            name: the tensor, for messages.
            got, want: codes ``(n, 1, L, channels)`` of the hardware and of the QONNX model.
            evidence: the folder for tensors that disagree.

        Raises:
            Disagreement: where a code is further from the real output than the bound allows.
        """
        from lmaunet.scan.bound import accumulator_bound
        from lmaunet.scan.compiled import run_compiled

        rates, skip = (self.executor.constants[n] for n in self.step.inputs[4:])
        attributes: Mapping = self.step.attributes
        scan = integer_scan(attributes["Spec"], attributes["Scales"], rates, skip)
        streams = [self.inputs.pop(n) for n in self.step.inputs[:4]]
        x, dt, b, c = (v.reshape(len(v), -1, v.shape[-1]).astype(np.int64) for v in streams)
        real = scan.run_real(x, dt, b, c).output.swapaxes(0, 1).reshape(got.shape)
        clipped = np.clip(real, -128.0, 127.0)
        self.signal += float((real**2).sum())
        self.noise += float(((got - clipped) ** 2).sum())
        self.ideal_noise += float(((want - clipped) ** 2).sum())
        counts = run_compiled(scan, x, dt, b, c).saturations
        saturated = sum(n for cut, n in counts.items() if cut not in HARMLESS)
        self.saturated += saturated
        if saturated:
            return np.ones(got.shape, bool)
        bound = accumulator_bound(scan, x, dt, b, c).reshape(got.shape)
        bound = (bound + np.ldexp(0.5, -scan.spec.formats["accumulator"].frac)) * scan.scales.gain
        # the gain is a rounded constant too
        gain_error = np.ldexp(0.5, -scan.spec.formats["gain"].frac) / scan.scales.gain
        bound = bound + np.abs(real) * gain_error
        self.largest_bound = max(self.largest_bound, float(bound.max()))
        beyond = np.maximum(np.abs(got - clipped) - 0.5 - bound, 0.0)
        require_agreement(
            f"{name} beyond half a code and the derived bound", beyond, np.zeros(got.shape), 1e-9,
            evidence=evidence,
        )  # fmt: skip
        # the QONNX model's codes come from float32 scales and inputs
        return np.abs(real - np.floor(real) - 0.5) <= bound + FLOAT32_CODES
