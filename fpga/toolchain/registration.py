"""Makes FINN+ know the operators of our own: those that it does not have."""

from __future__ import annotations

import functools

from lmaunet.fpga.environment import load_finn
from lmaunet.fpga.operators.registry import OPERATORS
from lmaunet.fpga.toolchain.finn_operator import finn_classes
from lmaunet.fpga.toolchain.stitched_network import StitchedNetwork


@functools.cache
def load_operators() -> None:
    """Make FINN+ importable and register every operator and its RTL form with it, once.

    Raises:
        ToolNotFound: where FINN+ is not installed.
    """
    load_finn()
    import finn.custom_op.fpgadataflow as abstract
    import finn.custom_op.fpgadataflow.rtl as rtl
    from finn.custom_op.fpgadataflow.rtlbackend import RTLBackend

    for kind in OPERATORS.values():
        if kind.finn_attributes is not None:
            plain, mapped = finn_classes(kind)
            abstract.register_custom_op(plain)
            rtl.register_custom_op(mapped)
    rtl.register_custom_op(type("StitchedNetwork_rtl", (StitchedNetwork, RTLBackend), {}))
