"""The selective scan: one hardware node of our own whose arithmetic is :mod:`lmaunet.scan`.

The number formats are those that the file carries, which were chosen and scored with the network.
A file without them is calibrated on the sample images, with the default widths.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph.builder import HardwareGraph
from lmaunet.fpga.graph.values import Codes, PendingScan, Quantizer

if TYPE_CHECKING:
    from lmaunet.scan.formats import ScanScales
    from lmaunet.spec import ScanSpec


def selective_scan(
    graph: HardwareGraph, scan: PendingScan, to: Quantizer, origin: str
) -> Codes:  # fmt: skip
    """Emit the scan with the formats of its file, or else with those that calibration asks for.

    Raises:
        UserError: where a stream is not INT8, or the file's formats are of another scan.
    """
    from lmaunet.scan.formats import ScanScales

    for name, codes in (("x", scan.x), ("dt", scan.dt), ("B", scan.B), ("C", scan.C)):
        if codes.dtype != "INT8":
            raise UserError(f"{graph.current}: scan input {name} is {codes.dtype}; expected INT8")
    if (to.dtype, to.low, to.high) != ("INT8", -128, 127):
        raise UserError(
            f"{graph.current}: scan output {to.dtype} {to.low}..{to.high}; expected INT8"
        )
    scales = ScanScales(scan.x.scale, scan.dt.scale, scan.B.scale, scan.C.scale, to.scale)
    rates, skip = scan.A.astype(np.float64), scan.D.astype(np.float64)
    spec = _formats(graph.current, scan, scales, rates, skip)
    formats = spec.formats
    constants = [
        graph.constant(f"{origin}_A", rates, "FLOAT64"),
        graph.constant(f"{origin}_D", skip, "FLOAT64"),
    ]
    _, _, length, channels = scan.x.stream
    output = graph.emit(
        "SelectiveScan",
        [scan.x.tensor, scan.dt.tensor, scan.B.tensor, scan.C.tensor, *constants],
        scan.x.stream, to.dtype, f"{origin}_codes", NumChannels=channels, States=spec.states,
        Length=length, PD=1, PN=1, inputDataType="INT8", outputDataType=to.dtype,
        Spec=json.dumps(spec.to_json()), Scales=scales.to_json(),
        StateBits=formats["state"].bits, ABits=formats["rate"].bits,
        DeltaBits=formats["delta"].bits, DBits=formats["skip"].bits,
    )  # fmt: skip
    codes = Codes(output, scan.x.stream, scan.layout, origin, to.dtype, to.low, to.high, to.scale)
    return graph.record(codes, "scan")


def _formats(
    label: str, scan: PendingScan, scales: ScanScales, rates: np.ndarray, skip: np.ndarray
) -> ScanSpec:
    from lmaunet.scan.integer import IntegerScan, calibrate, to_codes

    if scan.formats is not None:
        try:
            IntegerScan.from_real(scan.formats, scales, rates, skip)
        except UserError as error:
            raise UserError(
                f"{label}: the file's number formats are not those of this scan: {error}; "
                "export the network again"
            ) from error
        return scan.formats
    x, dt, b = (
        to_codes(seen, codes.scale)
        for seen, codes in zip(scan.calibration, (scan.x, scan.dt, scan.B), strict=True)
    )
    return calibrate(scales, rates, skip, x, dt, b).spec
