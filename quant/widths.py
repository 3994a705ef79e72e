"""A quantized network with some layers at other widths, for as long as something is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from lmaunet.quant.convolution import QuantConv
from lmaunet.quant.network import QuantNetwork
from lmaunet.quant.settings import WEIGHT_BITS


def wider(bits: int) -> int | None:
    """Return the next width of a weight; None where there is none."""
    return next((width for width in WEIGHT_BITS if width > bits), None)


@contextlib.contextmanager
def at_bits(model: QuantNetwork, changes: Mapping[str, int]) -> Iterator[None]:
    """Have layers of a network compute with other weight bits inside the block.

    The weights are those that were trained, in float, rounded anew at their best scales; nothing is
    trained. Activations stay as they are.

    Args:
        model: in evaluation mode, its norms folded.
        changes: bits by layer.
    """
    parts = model.modules_of()
    before: dict[str, QuantConv] = {}
    for layer, bits in changes.items():
        for key in parts[layer]:
            conv = model.layers[key]
            assert isinstance(conv, QuantConv)
            before[key] = conv
            model.layers[key] = conv.at_bits(bits)
    try:
        yield
    finally:
        for key, conv in before.items():
            model.layers[key] = conv
