"""Weight bits chosen by hand: rules such as ``3x3=4`` and what they match."""

from __future__ import annotations

from fnmatch import fnmatchcase

from lmaunet.errors import UserError
from lmaunet.quant.settings import WEIGHT_BITS
from lmaunet.spec import Layer, NetSpec

DENSE = "3x3"


def protected_layers(spec: NetSpec) -> tuple[str, str]:
    """Return the first layer and the head; they stay at 8 bits unless they are named."""
    layers = [layer for layer in spec.layers() if layer.weights]
    return layers[0].path, layers[-1].path


def parse_bits(spec: NetSpec, text: str) -> dict[str, int]:
    """Return the weight bits of every layer, by ``part.layer``, that a text of rules chooses.

    The text is a list of ``PATTERN=BITS``, divided by commas; where several match, the last
    counts, and where none does, 8. A pattern is ``3x3`` (every dense 3x3 convolution) or a name
    of :meth:`NetSpec.layers` with ``*`` for any part of it. A number alone stands for
    ``*=NUMBER``. The first layer and the head take only rules that name them in full.

    Raises:
        UserError: for a rule that cannot be read, other bits than 2, 3, 4 and 8, or a pattern that
            matches no layer.
    """
    bits = {layer.path: 8 for layer in spec.layers() if layer.weights}
    protected = protected_layers(spec)
    for pattern, width in read_rules(text):
        matched = [layer for layer in spec.layers() if layer.weights and _matches(layer, pattern)]
        if not matched:
            raise UserError(
                f"--bits {text!r}: {pattern!r} is no layer of spec {spec.name}; layers are "
                f"{DENSE} and such as {', '.join(list(bits)[:4])} "
                f"(see lmaunet-deploy spec {spec.name})"
            )
        for layer in matched:
            if layer.path not in protected or pattern == layer.path:
                bits[layer.path] = width
    return bits


def read_rules(text: str) -> list[tuple[str, int]]:
    """Return the rules of a text as pairs of pattern and bits; see :func:`parse_bits`.

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


def _matches(layer: Layer, pattern: str) -> bool:
    if pattern == DENSE:
        return layer.kind == "conv" and layer.kernel == 3 and layer.groups == 1
    return fnmatchcase(layer.path, pattern)
