"""What the program needs to know of a network that is none of its own specs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmaunet.errors import UserError
from lmaunet.spec import NetSpec

_LARGEST = 2**14


@dataclass(frozen=True)
class GraphSpec:
    """A network that is known by its graph alone.

    Args:
        name: what reports call it.
        in_channels, classes: image channels; classes with the background.
        input_size: height and width that it was captured for.
        graph: the digest of its graph, whatever its weights are.
    """

    name: str
    in_channels: int
    classes: int
    input_size: tuple[int, int]
    graph: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_size", tuple(self.input_size))
        numbers = (self.in_channels, self.classes, *self.input_size)
        right = len(self.input_size) == 2 and all(
            type(value) is int and 1 <= value <= _LARGEST for value in numbers
        )
        texts = all(
            isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable()
            for text in (self.name, self.graph)
        )
        if not right or not texts or self.classes < 2:
            raise UserError(
                f"not the description of a network: {self!r:.200}; expected a name, at least one "
                f"channel, two classes or more, a height, a width and a digest"
            )

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError for images of another size than the graph is for."""
        if (height, width) != self.input_size:
            raise UserError(
                f"network {self.name}: input {height}x{width}; its graph is for "
                f"{self.input_size[0]}x{self.input_size[1]}: import it for the other size"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "name": self.name,
            "in_channels": self.in_channels,
            "classes": self.classes,
            "input_size": list(self.input_size),
            "graph": self.graph,
        }


NetworkSpec = NetSpec | GraphSpec
"""Any network that the program runs."""


def network_spec_of(content: Any) -> NetworkSpec:
    """Return the network that ``to_json`` of either kind wrote; raises UserError otherwise."""
    if not isinstance(content, Mapping) or "graph" not in content:
        return NetSpec.from_json(content)
    wanted = {"name", "in_channels", "classes", "input_size", "graph"}
    if set(content) != wanted or not isinstance(content["input_size"], (list, tuple)):
        raise UserError(
            f"not the description of a network: its keys are {sorted(map(str, content))[:8]}, "
            f"expected {sorted(wanted)}"
        )
    return GraphSpec(**{**content, "input_size": tuple(content["input_size"])})
