"""The forms of the selective scan in ONNX: one file each that defines ``LOWERING``.

A file of this folder that defines ``LOWERING`` is a lowering; nothing else names it. One that
cannot be imported shows up as missing, with the reason. To know their names takes no package
``onnx``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lmaunet.registry import Missing, find_entries, get_entry

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

DOMAIN = "ai.lmaunet"
DOMAIN_VERSION = 1
NAME = "SelectiveScan"
INPUTS = ("x", "dt", "A", "B", "C", "D")
OPSET = 18
# Functions exist since version 8 of the file format.
MINIMUM_IR_VERSION = 8


@dataclass(frozen=True)
class ScanSite:
    """One scan of a model: its node's ``name`` (its output's where it has none) and its sizes.

    x and dt are ``(batch, tokens, channels)``, A is ``(channels, states)``, B and C are
    ``(batch, tokens, states)``, D is ``(channels,)``.
    """

    name: str
    batch: int
    tokens: int
    channels: int
    states: int

    @property
    def state_elements(self) -> int:
        """Elements of h over all tokens: batch * tokens * channels * states."""
        return self.batch * self.tokens * self.channels * self.states

    def __str__(self) -> str:
        return (
            f"scan {self.name} (batch={self.batch}, tokens={self.tokens}, "
            f"channels={self.channels}, states={self.states})"
        )


class ScanInputs(NamedTuple):
    """A scan's six input tensors."""

    x: ir.Value
    dt: ir.Value
    A: ir.Value
    B: ir.Value
    C: ir.Value
    D: ir.Value


@dataclass(frozen=True)
class Lowering:
    """One form of the scan.

    Args:
        name: the name that ``--lowering`` takes.
        summary: one line on what it is and whom it serves.
        accepts: returns why it refuses a site, naming the alternative, or None.
        emit: adds the nodes of a site to the builder and returns y.
        node_count: how many nodes ``emit`` adds for a site, those of bodies included.
        executable: whether the result is standard ONNX, which any runtime executes.
    """

    name: str
    summary: str
    accepts: Callable[[ScanSite], str | None]
    emit: Callable[[Builder, ScanSite, ScanInputs], ir.Value]
    node_count: Callable[[ScanSite], int]
    executable: bool = True


class Builder:
    """Collects the nodes and the constants of one scan.

    Args:
        prefix: begins the name of every node and tensor that is added.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    @property
    def constants(self) -> list[ir.Value]:
        """The constants, in the order in which they were added."""
        return list(self._constants.values())

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node with one output and return the output."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value, outputs: int, **attributes: Any
    ) -> list[ir.Value]:
        """Add a node with several outputs and return them."""
        from lmaunet.export.passes import new_node

        name = f"{self.prefix}{op_type}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        node = new_node(op_type, inputs, names, **{"name": name, **attributes})
        self.nodes.append(node)
        return list(node.outputs)

    def constant(self, array: np.ndarray) -> ir.Value:
        """Add a constant tensor, once for each value, and return it."""
        import onnx_ir as ir

        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self.prefix}constant_{len(self._constants)}"
            self._constants[key] = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        return self._constants[key]

    def integers(self, *values: int) -> ir.Value:
        """Add a one-dimensional int64 constant and return it."""
        import numpy as np

        return self.constant(np.array(values, np.int64))

    def reshape(self, tensor: ir.Value, *shape: int) -> ir.Value:
        """Add a Reshape to a static shape."""
        return self.op("Reshape", tensor, self.integers(*shape))

    def cut(self, tensor: ir.Value, start: int, end: int, axis: int) -> ir.Value:
        """Add a Slice ``[start, end)`` along one axis."""
        return self.op(
            "Slice", tensor, self.integers(start), self.integers(end), self.integers(axis)
        )

    def split(self, tensor: ir.Value, parts: int, axis: int) -> list[ir.Value]:
        """Return ``parts`` slices of length 1 along an axis of that length.

        Adds one Split, or nothing where ``parts`` is 1.
        """
        if parts == 1:
            return [tensor]
        return self.ops("Split", tensor, self.integers(*[1] * parts), outputs=parts, axis=axis)

    def concat(self, tensors: Sequence[ir.Value], axis: int) -> ir.Value:
        """Join tensors along an axis; adds nothing where there is only one."""
        return tensors[0] if len(tensors) == 1 else self.op("Concat", *tensors, axis=axis)

    def step(self, a: ir.Value, h: ir.Value, b: ir.Value) -> ir.Value:
        """Add one step of the recurrence, a * h + b: two nodes."""
        return self.op("Add", self.op("Mul", a, h), b)

    def graph(
        self,
        name: str,
        inputs: Sequence[tuple[ir.Value, Sequence[int | str]]],
        outputs: Sequence[tuple[ir.Value, Sequence[int | str]]],
    ) -> ir.Graph:
        """Return what was collected as a body: float32 inputs and outputs with their shapes."""
        import onnx_ir as ir

        for value, shape in (*inputs, *outputs):
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        first, last = ([value for value, _ in values] for values in (inputs, outputs))
        return ir.Graph(first, last, nodes=self.nodes, initializers=self.constants, name=name)


def all_lowerings() -> dict[str, Lowering | Missing]:
    """Return every lowering of this folder by name, in alphabetical order."""
    return find_entries(__name__, __path__, "LOWERING", Lowering)


def executable_lowerings() -> tuple[str, ...]:
    """Return the names of the lowerings that an ONNX runtime executes, in alphabetical order."""
    return tuple(
        name
        for name, entry in all_lowerings().items()
        if isinstance(entry, Lowering) and entry.executable
    )


def get_lowering(name: str) -> Lowering:
    """Return one lowering; raises :class:`UserError` where it is unknown or cannot be imported."""
    return get_entry(all_lowerings(), name, "lowering")
