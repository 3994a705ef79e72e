"""Makes FINN+ know the operators of our own."""

from __future__ import annotations

import functools

from fpga.environment import load_finn


@functools.cache
def load_operators() -> None:
    """Make FINN+ importable and register every operator and its RTL form with it, once.

    Raises:
        ToolNotFound: where FINN+ is not installed.
    """
    load_finn()
    import finn.custom_op.fpgadataflow as abstract
    import finn.custom_op.fpgadataflow.rtl as rtl

    from fpga.toolchain.ops.pad_with_code import PadWithCode, PadWithCode_rtl
    from fpga.toolchain.ops.requantize import Requantize, Requantize_rtl
    from fpga.toolchain.ops.selective_scan import SelectiveScan, SelectiveScan_rtl
    from fpga.toolchain.ops.stitched_network import StitchedNetwork_rtl
    from fpga.toolchain.ops.table_activation import TableActivation, TableActivation_rtl

    for operator in (Requantize, TableActivation, SelectiveScan, PadWithCode):
        abstract.register_custom_op(operator)
    for mapped in (
        Requantize_rtl, TableActivation_rtl, SelectiveScan_rtl, PadWithCode_rtl,
        StitchedNetwork_rtl,
    ):  # fmt: skip
        rtl.register_custom_op(mapped)
