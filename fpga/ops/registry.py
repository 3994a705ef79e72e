"""Makes FINN+ know the operators of our own; imported after FINN+ can be."""

from __future__ import annotations

import finn.custom_op.fpgadataflow as abstract
import finn.custom_op.fpgadataflow.rtl as rtl

from fpga.ops.pad_with_code import PadWithCode, PadWithCode_rtl
from fpga.ops.requantize import Requantize, Requantize_rtl
from fpga.ops.selective_scan import SelectiveScan, SelectiveScan_rtl
from fpga.ops.stitched_network import StitchedNetwork_rtl
from fpga.ops.table_activation import TableActivation, TableActivation_rtl

OPERATORS = (Requantize, TableActivation, SelectiveScan, PadWithCode)
MAPPED = (
    Requantize_rtl, TableActivation_rtl, SelectiveScan_rtl, PadWithCode_rtl, StitchedNetwork_rtl,
)  # fmt: skip


def register() -> None:
    """Register every operator and its RTL form with FINN+."""
    for operator in OPERATORS:
        abstract.register_custom_op(operator)
    for mapped in MAPPED:
        rtl.register_custom_op(mapped)
