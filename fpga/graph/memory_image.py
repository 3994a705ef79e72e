"""The memory image: every constant of the design, packed at its own bit-width.

There is no bitstream without Vivado, so this is what there is to ship: what the on-chip memories
hold, and what a host would load into those that a bitstream cannot initialise. ``weights.json``
beside it is its index.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpga.graph.executor import Executor, Step
from fpga.operators.arithmetic import type_bits
from fpga.operators.scan_node import integer_scan
from lmaunet.spec import Format
from lmaunet.stage import write_json

WEIGHT_OPERATORS = ("MVAU", "VVAU")


def pack(values: np.ndarray, bits: int) -> bytes:
    """Return integers packed as ``bits`` each, two's complement, least significant bit first.

    The last byte is filled with zeros. Inverse: :func:`unpack`.
    """
    words = values.astype(np.int64).ravel().astype(np.uint64) & np.uint64((1 << bits) - 1)
    table = (words[:, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(table.astype(np.uint8).ravel(), bitorder="little").tobytes()


def unpack(data: bytes, bits: int, count: int, signed: bool) -> np.ndarray:
    """Return ``count`` integers that :func:`pack` packed, int64."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * bits]
    words = flat.reshape(count, bits).astype(np.int64) @ (np.int64(1) << np.arange(bits))
    return words - (words >> (bits - 1) << bits) if signed else words


def constants_of(executor: Executor, types: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return every constant of the graph with its node, purpose, bits and integer values."""
    found = []
    for step in executor.steps:
        if step.op_type == "SelectiveScan":
            found.extend(_of_scan(executor, step))
            continue
        for name in step.inputs:
            if name in executor.constants:
                found.append(
                    {
                        "name": name,
                        "node": step.outputs[0],
                        "purpose": "weights" if step.op_type in WEIGHT_OPERATORS else step.op_type,
                        "bits": type_bits(types[name]),
                        "signed": not types[name].startswith("U"),
                        "values": executor.constants[name].astype(np.int64),
                    }
                )
    return found


def _of_scan(executor: Executor, step: Step) -> list[dict[str, Any]]:
    """Return a scan's constants as the integers that its hardware holds."""
    rates, skip = (executor.constants[name] for name in step.inputs[4:])
    scan = integer_scan(step.attributes["Spec"].decode(), step.attributes["Scales"], rates, skip)
    formats = scan.spec.formats
    parts = {
        "rate": (scan.rate, formats["rate"]),
        "skip": (scan.skip, formats["skip"]),
        "gain": (scan.gain, formats["gain"]),
        "softplus": (scan.softplus, formats["delta"]),
        "state_shift": (scan.shift, Format(4, 0, signed=False)),
    }
    return [
        {
            "name": f"{step.outputs[0]}_{name}",
            "node": step.outputs[0],
            "purpose": "SelectiveScan",
            "bits": form.bits,
            "signed": form.signed,
            "values": np.atleast_1d(values),
        }
        for name, (values, form) in parts.items()
    ]


def write_image(
    executor: Executor, types: Mapping[str, str], folder: Path
) -> dict[str, int]:  # fmt: skip
    """Write ``weights.bin`` and ``weights.json``; return the bytes of all and of weights alone."""
    index, data, weights = [], bytearray(), 0
    for entry in constants_of(executor, types):
        packed = pack(entry["values"], entry["bits"])
        index.append(
            {key: entry[key] for key in ("name", "node", "purpose", "bits", "signed")}
            | {"shape": list(entry["values"].shape), "offset": len(data), "bytes": len(packed)}
        )
        data += packed
        weights += len(packed) if entry["purpose"] == "weights" else 0
    (folder / "weights.bin").write_bytes(bytes(data))
    write_json(folder / "weights.json", index)
    return {"image": len(data), "weights": weights}
