"""Weight bits chosen by hand: rules such as ``3x3=4`` and what they match."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph
from lmaunet.graph.layers import GraphLayer, weight_layers
from lmaunet.quant.settings import WEIGHT_BITS

DENSE = "3x3"


def protected_layers(graph: Graph) -> tuple[str, str]:
    """Return the first layer and the last; they stay at 8 bits unless they are named."""
    names = [layer.name for layer in weight_layers(graph)]
    return names[0], names[-1]


def resolve_bits(graph: Graph, rules: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Return the weight bits of every layer of a network that rules choose.

    Where several rules match, the last counts, and where none does, 8. A pattern is ``3x3`` (every
    dense 3x3 convolution) or a layer's name with ``*`` for any part of it. The first layer and the
    last take only rules that name them in full.

    Args:
        graph: the network.
        rules: pairs of pattern and bits, as :func:`read_rules` gives.

    Raises:
        UserError: for a pattern that matches no layer.
    """
    layers = weight_layers(graph)
    bits = {layer.name: 8 for layer in layers}
    protected = protected_layers(graph)
    for pattern, width in rules:
        matched = [layer for layer in layers if _matches(layer, pattern)]
        if not matched:
            names = list(bits)
            raise UserError(
                f"--bits: {pattern!r} is no layer of the network; layers are {DENSE} and such as "
                f"{', '.join(names[:3])}, {names[-1]}"
            )
        for layer in matched:
            if layer.name not in protected or pattern == layer.name:
                bits[layer.name] = width
    return bits


def read_rules(text: str) -> list[tuple[str, int]]:
    """Return the rules of a text as pairs of pattern and bits; see :func:`resolve_bits`.

    The text is a list of ``PATTERN=BITS``, divided by commas. A number alone stands for
    ``*=NUMBER``.

    Raises:
        UserError: for a rule that cannot be read, or other bits than 2, 3, 4 and 8.
    """
    rules = []
    for rule in text.split(","):
        pattern, _, width = rule.strip().rpartition("=")
        if not width.strip().isdecimal() or int(width) not in WEIGHT_BITS:
            raise UserError(
                f"--bits {text!r}: cannot read {rule.strip()!r}; give PATTERN=BITS with "
                f"{', '.join(map(str, WEIGHT_BITS))} bits, such as 3x3=4 or decoder*=3"
            )
        rules.append((pattern.strip() or "*", int(width)))
    return rules


def _matches(layer: GraphLayer, pattern: str) -> bool:
    if pattern == DENSE:
        return len(layer.kernel) > 1 and set(layer.kernel) == {3} and layer.groups == 1
    return fnmatchcase(layer.name, pattern)
