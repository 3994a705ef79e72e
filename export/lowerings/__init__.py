"""The forms of the selective scan in ONNX: one file each that defines ``LOWERING``.

A file of this folder that defines ``LOWERING`` is a lowering; nothing else names it. One that
cannot be imported shows up as missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lmaunet.registry import Missing, find_entries, get_entry

if TYPE_CHECKING:
    import numpy as np
    import onnx


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
    """The names of a scan's six input tensors."""

    x: str
    dt: str
    A: str
    B: str
    C: str
    D: str


@dataclass(frozen=True)
class Lowering:
    """One form of the scan.

    Args:
        name: the name that ``--lowering`` takes.
        summary: one line on what it is and whom it serves.
        accepts: returns why it refuses a site, naming the alternative, or None.
        emit: adds the nodes of a site to the builder and returns the name of y.
        node_count: how many nodes ``emit`` adds for a site, those of bodies included.
        executable: whether the result is standard ONNX, which any runtime executes.
    """

    name: str
    summary: str
    accepts: Callable[[ScanSite], str | None]
    emit: Callable[[Builder, ScanSite, ScanInputs], str]
    node_count: Callable[[ScanSite], int]
    executable: bool = True


class Builder:
    """Collects the nodes and the constants of one scan.

    Args:
        prefix: begins the name of every node and tensor that is added.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        import onnx.helper

        name = f"{self.prefix}{op_type}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        attributes = {"name": name, **attributes}
        self.nodes.append(onnx.helper.make_node(op_type, list(inputs), names, **attributes))
        return names

    def constant(self, array: np.ndarray) -> str:
        """Add a constant tensor, once for each value, and return its name."""
        import onnx.numpy_helper

        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"{self.prefix}constant_{len(self._names)}"
            self.initializers.append(onnx.numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def integers(self, *values: int) -> str:
        """Add a one-dimensional int64 constant and return its name."""
        import numpy as np

        return self.constant(np.array(values, np.int64))

    def reshape(self, tensor: str, *shape: int) -> str:
        """Add a Reshape to a static shape."""
        return self.op("Reshape", tensor, self.integers(*shape))

    def cut(self, tensor: str, start: int, end: int, axis: int) -> str:
        """Add a Slice ``[start, end)`` along one axis."""
        return self.op(
            "Slice", tensor, self.integers(start), self.integers(end), self.integers(axis)
        )

    def split(self, tensor: str, parts: int, axis: int) -> list[str]:
        """Return ``parts`` slices of length 1 along an axis of that length.

        Adds one Split, or nothing where ``parts`` is 1.
        """
        if parts == 1:
            return [tensor]
        return self.ops("Split", tensor, self.integers(*[1] * parts), outputs=parts, axis=axis)

    def concat(self, tensors: Sequence[str], axis: int) -> str:
        """Join tensors along an axis; adds nothing where there is only one."""
        return tensors[0] if len(tensors) == 1 else self.op("Concat", *tensors, axis=axis)

    def step(self, a: str, h: str, b: str) -> str:
        """Add one step of the recurrence, a * h + b: two nodes."""
        return self.op("Add", self.op("Mul", a, h), b)

    def rename(self, old: str, new: str) -> None:
        """Give a tensor that one of the nodes puts out another name, everywhere."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new

    def graph(
        self,
        name: str,
        inputs: Sequence[tuple[str, Sequence[int]]],
        outputs: Sequence[tuple[str, Sequence[int]]],
    ) -> onnx.GraphProto:
        """Return what was collected as a body: float32 inputs and outputs with their shapes."""
        import onnx.helper

        def info(tensor: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
            return onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape)

        return onnx.helper.make_graph(
            self.nodes,
            name,
            [info(*entry) for entry in inputs],
            [info(*entry) for entry in outputs],
            self.initializers,
        )


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
