"""Scans to simulate, and the beats of their streams."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, save

from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.build import HARDWARE, RESOURCES
from lmaunet.fpga.operators.rtl_module import pack, unpack
from lmaunet.fpga.operators.selective_scan import legal_lanes
from lmaunet.fpga.simulation.compilation import Compiled
from lmaunet.fpga.simulation.simulator import Simulation, Stalls, simulate
from lmaunet.scan.formats import OUTPUT, Widths
from lmaunet.scan.integer import IntegerScan, calibrate
from lmaunet.scan.vectors import ScanVectors, corners, synthetic
from lmaunet.spec import Format

CHANNELS, STATES, LENGTH = 6, 4, 12
FOLDING_SIZES = [(6, 3), (8, 4), (7, 5), (12, 2), (16, 1), (1, 12)]


@st.composite
def cases(draw: Any) -> tuple[int, int, int, tuple[int, int], dict[str, Any], int]:
    """Channels, states, length, a legal folding, widths and a seed."""
    channels, states = draw(st.sampled_from(FOLDING_SIZES))
    legal = [
        (pd, pn)
        for pd in range(1, channels + 1)
        for pn in range(1, states + 1)
        if not channels % pd and not states % pn and legal_lanes(channels, states, pd, pn)
    ]
    widths = {
        "delta_bits": draw(st.integers(8, 18)), "rate_bits": draw(st.integers(6, 16)),
        "exponent_frac": draw(st.integers(8, 18)), "decay_frac": draw(st.integers(8, 17)),
        "drive_bits": draw(st.integers(10, 20)), "state_bits": draw(st.integers(10, 22)),
        "skip_bits": draw(st.integers(4, 18)), "accumulator_bits": draw(st.integers(10, 20)),
        "gain_bits": draw(st.integers(6, 18)),
        "exp_segments": draw(st.sampled_from([2, 4, 16, 64])),
        "per_channel": draw(st.booleans()),
    }  # fmt: skip
    length = draw(st.integers(1, 9))
    return channels, states, length, draw(st.sampled_from(legal)), widths, draw(st.integers(0, 99))


def typical(channels: int, states: int, length: int, seed: int = 0, **widths: Any) -> ScanVectors:
    """Three frames like those of a trained network, on which nothing harmful saturates."""
    return synthetic(channels, states, length, batch=3, seed=seed, widths=Widths(**widths))


def saturating(channels: int, states: int, length: int, seed: int = 0) -> ScanVectors:
    """Fourteen frames, typical and extreme, in which every cut but the mantissa's saturates.

    The exponents go far beyond the deepest shift.
    """
    v = synthetic(channels, states, length, batch=3, seed=seed)
    dt = np.clip(v.dt + 100, -128, 127)  # long time steps
    scales = dataclasses.replace(v.scan.scales, y=v.scan.scales.y / 3)
    scan = calibrate(scales, 4 * v.scan.A, v.scan.D, v.x, dt, v.b)
    formats = dict(scan.spec.formats)
    for name, bits in (("delta", 1), ("drive", 2), ("state", 2)):
        formats[name] = dataclasses.replace(formats[name], bits=formats[name].bits - bits)
    formats["decay"] = Format(14, 15, signed=False)
    # so coarse that its rounding moves y
    wide = formats["accumulator"]
    formats["accumulator"] = Format(wide.bits - 8, wide.frac - 8)
    spec = dataclasses.replace(scan.spec, formats=formats)
    scan = IntegerScan.from_real(spec, scan.scales, scan.A, scan.D)
    extreme = corners(scan, length, seed=seed)
    frames = [np.concatenate(p) for p in zip((v.x, dt, v.b, v.c), extreme.stimuli, strict=True)]
    return ScanVectors.record(scan, *frames)


def attributes(scan: IntegerScan, length: int, pd: int, pn: int) -> dict:
    """Return the attributes of the operator as an ONNX file has them."""
    return {
        "NumChannels": scan.spec.channels, "States": scan.spec.states, "Length": length,
        "PD": pd, "PN": pn, "Spec": json.dumps(scan.spec.to_json()),
        "Scales": scan.scales.to_json(),
    }  # fmt: skip


def save_build(
    folder: Path, scan: IntegerScan, pd: int, pn: int, op_type: str = "SelectiveScan_rtl"
) -> None:
    """Write what a build for the ZCU104 has of one scan of ``LENGTH`` tokens."""
    streams = [f"stream_{i}" for i in range(5)]
    node = helper.make_node(
        op_type, [*streams[:4], "A", "D"], streams[4:], name="scan_1",
        domain="finn.custom_op.fpgadataflow.rtl", **attributes(scan, LENGTH, pd, pn),
    )  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in streams]
    constants = [numpy_helper.from_array(scan.A, "A"), numpy_helper.from_array(scan.D, "D")]
    graph = helper.make_graph([node], "build", values[:4], values[4:], constants)
    save(helper.make_model(graph), folder / HARDWARE)
    board = dataclasses.asdict(BOARDS["ZCU104"])
    (folder / RESOURCES).write_text(json.dumps({"board": board}))


def run(compiled: Compiled, v: ScanVectors, stalls: Stalls | None = None) -> Simulation:
    """Simulate all frames of the vectors, one behind the other."""
    parameters = compiled.module.parameters
    pd, pn = int(parameters["PD"]), int(parameters["PN"])
    streams = zip(v.stimuli, (pd, pd, pn, pn), strict=True)
    inputs = {
        f"in{i}_V": pack(codes.reshape(-1, parallel), 8)
        for i, (codes, parallel) in enumerate(streams)
    }
    return simulate(compiled, inputs, {"out0_V": v.y.size // pd}, stalls)


def results(compiled: Compiled, v: ScanVectors, got: Simulation) -> tuple[np.ndarray, ...]:
    """Return y, and the accumulators where they came with it, in the shape of the vectors."""
    parameters, bits = compiled.module.parameters, OUTPUT.bits
    pd, beats = int(parameters["PD"]), got.outputs["out0_V"]
    if not parameters["WIDE_OUTPUT"]:
        return (unpack(beats, bits, pd).reshape(v.y.shape),)
    lane = bits + int(parameters["ACCUMULATOR_IN_BITS"])
    codes = unpack(beats, lane, pd).reshape(v.y.shape)
    sign = 1 << (bits - 1)
    return ((codes & (2 * sign - 1)) ^ sign) - sign, codes >> bits


def agrees(compiled: Compiled, v: ScanVectors, got: Simulation) -> bool:
    """Tell whether every y, and every accumulator that came with it, is the golden's."""
    expected = (v.y, v.accumulators)
    found = results(compiled, v, got)
    return all((a == b).all() for a, b in zip(found, expected, strict=False))
