"""Executes the hardware graph in integers, many images at once, without importing FINN+.

It reads the same nodes that FINN+ maps. A comparison in
:mod:`lmaunet.fpga.agreement.nodes` shows on an image that it gives the integers of each node's own
``execute_node``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph.onnx_file import plain_attributes
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.registry import kind_of, operator


@dataclasses.dataclass(frozen=True)
class Step:
    """One node: its operator without the backend's suffix, attributes, inputs and outputs."""

    op_type: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def operator(self) -> Operator:
        """The node's operator."""
        return operator(self.op_type, self.attributes)


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
            try:
                op_type = kind_of(node.op_type).name()
            except UserError as error:
                raise UserError(f"hardware node {node.name or node.output[0]}: {error}") from error
            self.steps.append(
                Step(op_type, plain_attributes(node), tuple(node.input), tuple(node.output))
            )

    def run(
        self,
        codes: np.ndarray,
        observe: Callable[[str, np.ndarray], np.ndarray | None] | None = None,
        inside: Callable[[Step, str, np.ndarray, int], None] | None = None,
    ) -> np.ndarray:
        """Execute all nodes.

        Args:
            codes: the image's codes ``(n, H, W, channels)``, integers.
            observe: is called with each streamed tensor that a node puts out, ``(n, H, W, C)``;
                what it returns, if anything, goes on in its place.
            inside: is called, before ``observe``, with what a node shows beside its outputs: the
                node, what it is, the integers and the bits of one; see
                :meth:`lmaunet.fpga.operators.operator.Operator.inside`.

        Returns:
            the accumulators of the output ``(n, H, W, classes)``, int64.
        """
        last_use = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        values: dict[str, np.ndarray] = {self.input: codes}
        for i, step in enumerate(self.steps):
            inputs = [
                values[name] if name in values else self.constants[name] for name in step.inputs
            ]
            result = step.operator.execute(inputs)
            if inside is not None:
                for what, (shown, bits) in step.operator.inside(inputs).items():
                    inside(step, what, shown, bits)
            for name in step.outputs:
                seen = observe(name, result) if observe is not None else None
                values[name] = result if seen is None else seen
            for name in step.inputs:
                if last_use[name] == i and name in values:
                    del values[name]
        return values[self.output].astype(np.int64)
