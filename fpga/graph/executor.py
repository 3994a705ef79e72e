"""Executes the hardware graph in integers, many images at once, without importing FINN+.

It reads the same nodes that FINN+ maps. A comparison in
:mod:`fpga.agreement.nodes` shows on an image that it gives the integers of each node's own
``execute_node``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fpga.graph.onnx_file import attributes_of
from fpga.operators.arithmetic import Rescaling, look_up, requantize
from fpga.operators.scan_node import integer_scan
from lmaunet.errors import UserError
from lmaunet.scan.compiled import run_compiled

FLOAT32_EXACT = 1 << 24  # integers up to here are exact in float32


@dataclasses.dataclass(frozen=True)
class Step:
    """One node: its operator without the backend's suffix, attributes, inputs and outputs."""

    op_type: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Executor:
    """Runs a hardware graph.

    Args:
        model: the ONNX model of the hardware graph, before or after SpecializeLayers.

    Raises:
        UserError: where a node has no integer execution here.
    """

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.input = next(i.name for i in model.graph.input if i.name not in self.constants)
        self.output = model.graph.output[0].name
        self.steps = []
        for node in model.graph.node:
            op_type = node.op_type.removesuffix("_rtl").removesuffix("_hls")
            if op_type not in EXECUTE:
                raise UserError(
                    f"hardware node {node.name or node.output[0]} ({node.op_type}) has no integer "
                    f"execution; known are: {', '.join(sorted(EXECUTE))}"
                )
            self.steps.append(
                Step(op_type, attributes_of(node), tuple(node.input), tuple(node.output))
            )

    def run(
        self,
        codes: np.ndarray,
        observe: Callable[[str, np.ndarray], np.ndarray | None] | None = None,
    ) -> np.ndarray:
        """Execute all nodes.

        Args:
            codes: the image's codes ``(n, H, W, channels)``, integers.
            observe: is called with each streamed tensor that a node puts out, ``(n, H, W, C)``;
                what it returns, if anything, goes on in its place.

        Returns:
            the accumulators of the output ``(n, H, W, classes)``, int64.
        """
        last_use = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        values: dict[str, np.ndarray] = {self.input: codes}
        for i, step in enumerate(self.steps):
            inputs = [
                values[name] if name in values else self.constants[name] for name in step.inputs
            ]
            results = EXECUTE[step.op_type](step.attributes, inputs)
            if not isinstance(results, list):
                results = [results] * len(step.outputs)
            for name, result in zip(step.outputs, results, strict=True):
                seen = observe(name, result) if observe is not None else None
                values[name] = result if seen is None else seen
            for name in step.inputs:
                if last_use[name] == i and name in values:
                    del values[name]
        return values[self.output].astype(np.int64)


def _exact_dtype(weights: np.ndarray, largest: int) -> type[np.floating[Any]]:
    """Return the narrowest float in which every partial sum is an exact integer."""
    bound = float(np.abs(weights).astype(np.float64).sum(0).max()) * largest
    if bound >= 1 << 53:
        raise UserError(f"accumulators of up to {bound:g} are not exact in float64")
    return np.float32 if bound < FLOAT32_EXACT else np.float64


def _pad(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    top, left, bottom, right = a["Padding"]
    border = ((0, 0), (top, bottom), (left, right), (0, 0))
    return np.pad(inputs[0], border, constant_values=a.get("Code", 0))


def _window(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    kernel, strides = a["ConvKernelDim"], a["Stride"]
    views = np.lib.stride_tricks.sliding_window_view(inputs[0], tuple(kernel), axis=(1, 2))
    views = views[:, :: strides[0], :: strides[1]]  # (n, OH, OW, C, kh, kw)
    n, height, width = views.shape[:3]
    return views.transpose(0, 1, 2, 4, 5, 3).reshape(n, height, width, -1)


def _largest_code(x: np.ndarray) -> int:
    return int(max(-int(x.min()), int(x.max()), 1))


def _matrix(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    x, weights = inputs
    dtype = _exact_dtype(weights, _largest_code(x))
    return np.rint(x.astype(dtype) @ weights.astype(dtype)).astype(np.int64)


def _vector(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    x, weights = inputs
    taps = weights.reshape(weights.shape[0], -1).T  # (kh * kw, C)
    dtype = _exact_dtype(taps, _largest_code(x))
    windows = x.reshape(*x.shape[:3], *taps.shape).astype(dtype)
    return np.rint(np.einsum("nhwkc,kc->nhwc", windows, taps.astype(dtype))).astype(np.int64)


def _requantize(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    x, multiplier, offset, shift = (v.astype(np.int64) for v in inputs)
    y = requantize(x, Rescaling(multiplier, offset, shift), a["Low"], a["High"])
    return y.astype(np.int16)


def _table(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    return look_up(inputs[0], inputs[1], a["Low"]).astype(np.int16)


def _scan(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    *streams, rates, skip = inputs
    scan = integer_scan(a["Spec"].decode(), a["Scales"], rates, skip)
    flat = [v.reshape(v.shape[0], -1, v.shape[-1]).astype(np.int64) for v in streams]
    return run_compiled(scan, *flat).y.reshape(streams[0].shape).astype(np.int16)


def _max_pool(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    x = inputs[0]
    return x.reshape(*x.shape[:3], -1, a["Channels"]).max(3)


def _upsample(a: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
    return inputs[0].repeat(a["HO"] // a["HI"], 1).repeat(a["WO"] // a["WI"], 2)


EXECUTE: dict[str, Callable[[Mapping[str, Any], list[np.ndarray]], Any]] = {
    "FMPadding": _pad,
    "PadWithCode": _pad,
    "ConvolutionInputGenerator": _window,
    "MVAU": _matrix,
    "VVAU": _vector,
    "Requantize": _requantize,
    "TableActivation": _table,
    "SelectiveScan": _scan,
    "Pool": _max_pool,
    "UpsampleNearestNeighbour": _upsample,
    "StreamingConcat": lambda a, inputs: np.concatenate(inputs, -1),
    "DuplicateStreams": lambda a, inputs: inputs[0],
    "Reshape": lambda a, inputs: inputs[0].reshape(len(inputs[0]), *a["out_shape"][1:]),
    "ElementwiseAdd": lambda a, inputs: inputs[0].astype(np.int64) + inputs[1],
    "ElementwiseMul": lambda a, inputs: inputs[0].astype(np.int64) * inputs[1],
}
