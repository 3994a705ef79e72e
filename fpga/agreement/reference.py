"""The QONNX model itself, executed: what the hardware graph is compared with.

ONNX Runtime does not know QONNX's Quant nor the scan. Quant is spelled out in standard operators
(divide, round half to even, clip, multiply), which is its definition; the graph is cut at the
scans, which run in float64 by :mod:`lmaunet.scan.real`. ONNX Runtime computes all the rest, with
its graph optimizations off, and every wanted tensor on the way can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.fpga.graph.onnx_file import SCAN_OP, attributes_of, load

OPSET = 18


class Reference:
    """A QONNX file made runnable.

    Args:
        path: the QONNX file; batch 1.
    """

    def __init__(self, path: Path) -> None:
        from onnx import numpy_helper

        model = load(path)
        self.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.initializers = {i.name: i for i in model.graph.initializer}
        self.input = next(i.name for i in model.graph.input if i.name not in self.initializers)
        self.output = model.graph.output[0].name
        self.scans = [n for n in model.graph.node if n.op_type == SCAN_OP]
        self._model = model
        self._levels = self._cut()
        self._sessions: dict[tuple[int, tuple[str, ...]], Any] = {}

    def _cut(self) -> dict[str, int]:
        """Return for each tensor on how many scans, one after another, it depends."""
        levels: dict[str, int] = dict.fromkeys([self.input, *self.initializers, ""], 0)
        for node in self._model.graph.node:
            level = max((levels[name] for name in node.input), default=0)
            for name in node.output:
                levels[name] = level + (node.op_type == SCAN_OP)
        return levels

    def scan_inputs(self) -> list[str]:
        """Return the tensors x, dt and B of every scan, whose ranges a calibration needs."""
        return [node.input[i] for node in self.scans for i in (0, 1, 3)]

    def activations(self) -> list[str]:
        """Return every tensor that the checks of a hardware graph need."""
        made = [o for n in self._model.graph.node for o in n.output]
        depends = {self.input}
        for node in self._model.graph.node:
            if any(name in depends for name in node.input):
                depends.update(node.output)
        kinds = ("Quant", "MaxPool", "Resize", "Concat", SCAN_OP)
        wanted = {n.output[0] for n in self._model.graph.node if n.op_type in kinds} | set(
            self.scan_inputs()
        )
        return [name for name in made if name in depends and name in wanted]

    def run(self, images: np.ndarray, wanted: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Execute the model image by image.

        Args:
            images: float32 ``(n, channels, H, W)``.
            wanted: tensors to return besides the output.

        Returns:
            the tensors by name, the images along the first axis.
        """
        rows = [self._run_one(image[None], [*wanted, self.output]) for image in images]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _run_one(self, image: np.ndarray, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        known: dict[str, np.ndarray] = {self.input: image.astype(np.float32)}
        for level in range(max(self._levels.values()) + 1):
            later = {
                name
                for node in self._model.graph.node
                if self._level(node) > level or node.op_type == SCAN_OP
                for name in node.input
            }
            outputs = tuple(
                name
                for node in self._model.graph.node
                if self._level(node) == level and node.op_type != SCAN_OP
                for name in node.output
                if name in later or name in wanted
            )
            if outputs:
                session = self._session(level, outputs)
                feeds = {i.name: known[i.name] for i in session.get_inputs()}
                known.update(zip(outputs, session.run(list(outputs), feeds), strict=True))
            for node in self.scans:
                if self._level(node) == level:
                    known[node.output[0]] = self._scan(node, known)
        return {name: known[name] for name in dict.fromkeys(wanted)}

    def _level(self, node: Any) -> int:
        return self._levels[node.output[0]] - (node.op_type == SCAN_OP)

    def _scan(self, node: Any, known: dict[str, np.ndarray]) -> np.ndarray:
        from lmaunet.scan.real import selective_scan

        values = [known[n] if n in known else self.constants[n] for n in node.input]
        return selective_scan(*values).astype(np.float32)

    def _session(self, level: int, outputs: tuple[str, ...]) -> Any:
        import onnx
        import onnxruntime
        from onnx import helper

        if (level, outputs) in self._sessions:
            return self._sessions[level, outputs]
        nodes: list[Any] = []
        for node in self._model.graph.node:
            if self._level(node) == level and node.op_type != SCAN_OP:
                nodes.extend(self._spell_out(node) if node.op_type == "Quant" else [node])
        made = {name for node in nodes for name in node.output}
        used = {name for node in nodes for name in node.input if name} - made
        feeds = sorted(used - set(self.initializers))
        constants = [self.initializers[n] for n in sorted(used & set(self.initializers))]
        float32 = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            f"level{level}",
            [helper.make_tensor_value_info(n, float32, None) for n in feeds],
            [helper.make_empty_tensor_value_info(n) for n in outputs],
            constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._sessions[level, outputs] = session
        return session

    def _spell_out(self, node: Any) -> list[Any]:
        """Return QONNX's Quant (zero point 0, round half to even) in standard operators."""
        from onnx import helper, numpy_helper

        x, scale, _, bits_name = node.input
        attributes = attributes_of(node)
        bits = int(self._value(bits_name).reshape(-1)[0])
        signed, narrow = attributes.get("signed", 1), attributes.get("narrow", 0)
        low = -(1 << (bits - 1)) + narrow if signed else 0
        high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1 - narrow
        out = node.output[0]
        names = [f"{out}/{part}" for part in ("divided", "rounded", "clipped", "low", "high")]
        divided, rounded, clipped, low_name, high_name = names
        bounds = [
            helper.make_node(
                "Constant", [], [name],
                value=numpy_helper.from_array(np.array(value, np.float32)),
            )
            for name, value in ((low_name, low), (high_name, high))
        ]  # fmt: skip
        return [
            *bounds,
            helper.make_node("Div", [x, scale], [divided]),
            helper.make_node("Round", [divided], [rounded]),
            helper.make_node("Clip", [rounded, low_name, high_name], [clipped]),
            helper.make_node("Mul", [clipped, scale], [out]),
        ]

    def _value(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        if name in self.constants:
            return self.constants[name]
        node = next(n for n in self._model.graph.node if name in n.output)
        return numpy_helper.to_array(attributes_of(node)["value"])
