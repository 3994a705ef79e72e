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

from lmaunet.fpga.graph.executor import Executor
from lmaunet.stage import write_json


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
    found: list[dict[str, Any]] = []
    for step in executor.steps:
        own = {name: executor.constants[name] for name in step.inputs if name in executor.constants}
        found.extend(
            {
                "name": constant.name,
                "node": step.outputs[0],
                "purpose": step.operator.purpose(),
                "bits": constant.bits,
                "signed": constant.signed,
                "values": constant.values,
            }
            for constant in step.operator.stored(step.outputs[0], own, types)
        )
    return found


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
