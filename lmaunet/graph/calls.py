"""A call of an operator of torch, as the rules see it, and the weights among its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmaunet.errors import UserError
from lmaunet.graph.builder import Builder


@dataclass(frozen=True)
class Constant:
    """A tensor that follows from weights alone.

    ``name`` is the weight that it comes from. ``made_by`` is the operator that gave it from
    ``source``, which ``again`` does for another tensor; empty for a weight itself.
    """

    tensor: Tensor
    name: str
    learned: bool
    made_by: str = ""
    source: Constant | None = None
    again: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Call:
    """One call of an operator of torch: its arguments by name, and the names of its values."""

    builder: Builder
    node: Any
    arguments: dict[str, Any]
    tensors: set[str]
    path: str

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]

    def value(self, key: str = "input") -> str:
        """Return the value of an argument; the first tensor's where ``self`` is its name."""
        found = self.arguments[key] if key in self.arguments else self.arguments["self"]
        if not isinstance(found, str):
            raise UserError(f"its {key} is a weight or a number; expected a value of the network")
        return found

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the result."""
        return tuple(self.node.meta["val"].shape)

    def name(self, kind: str) -> str:
        """Return the name of a node without weights: its module's path and what it is."""
        return f"{self.path}.{kind}" if self.path else kind

    def weights(self, **roles: Constant | None) -> dict[str, str]:
        """Add weights to the graph; return their names by role."""
        return {
            role: self.builder.weight(found.name, found.tensor, found.learned)
            for role, found in roles.items()
            if found is not None
        }

    def layer(self, weight: Constant | None, kind: str) -> str:
        """Return the name of a node with weights: theirs, without the weight's own."""
        return weight.name.rpartition(".")[0] or kind if weight is not None else self.name(kind)


Rule = Callable[[Call], Any]


def constant(call: Call, key: str) -> Constant | None:
    """Return an argument that is a weight, or None where there is none."""
    found = call[key]
    if found is not None and not isinstance(found, Constant):
        raise UserError(f"its {key} is computed from the image; expected a weight")
    return found


def needed(call: Call, key: str) -> Constant:
    """Return an argument that must be a weight."""
    found = constant(call, key)
    if found is None:
        raise UserError(f"it has no {key}; expected a weight")
    return found


def wide(value: Any, rank: int) -> tuple[int, ...]:
    """Return an argument of torch that is one number or one for each spatial axis."""
    entries = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(entries * rank if len(entries) == 1 else entries)
