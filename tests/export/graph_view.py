"""A file's nodes, by what they put out, and its constants, for tests that look at them."""

from __future__ import annotations

from onnx import numpy_helper


class View:
    def __init__(self, model) -> None:
        self.nodes = list(model.graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def constant(self, name):
        return self.constants.get(name)
