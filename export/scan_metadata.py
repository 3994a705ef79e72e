"""The scans' number formats inside an exported file: each scan node carries its own.

They travel as metadata of the node, which every runtime ignores, so that whoever gets the file
alone builds the scan whose accuracy was measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from lmaunet.errors import UserError
from lmaunet.export.function import NAME
from lmaunet.export.reference import read_model
from lmaunet.spec import ScanSpec

KEY = "ai.lmaunet.scan_formats"


def write_scan_formats(path: Path, specs: Sequence[ScanSpec]) -> None:
    """Give the scans of an exported file their formats, in network order; others are replaced.

    The file is replaced atomically, and not at all where the formats do not fit it.

    Raises:
        UserError: for another number of scans, or of channels or states in one of them.
    """
    model = read_model(path)
    nodes = [node for node in model.graph.node if node.op_type == NAME]
    if len(nodes) != len(specs):
        raise UserError(
            f"{path} has {len(nodes)} scans, the formats are of {len(specs)}; "
            "export the network that the formats were chosen for"
        )
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node, spec in zip(nodes, specs, strict=True):
        shape = shapes.get(node.input[2])
        if shape is not None and shape != (spec.channels, spec.states):
            raise UserError(
                f"{path}: scan {node.name} has {shape[0]} channels and {shape[1]} states, its "
                f"formats are of {spec.channels} and {spec.states}; "
                "export the network that the formats were chosen for"
            )
        kept = [entry for entry in node.metadata_props if entry.key != KEY]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.metadata_props.add(key=KEY, value=json.dumps(spec.to_json()))
    partial = path.with_name(f".{path.name}.partial")
    onnx.save(model, partial)
    partial.replace(path)


def read_scan_formats(node: Any) -> ScanSpec | None:
    """Return the formats that a scan node carries; None where it carries none.

    Raises:
        UserError: where they are damaged.
    """
    for entry in node.metadata_props:
        if entry.key == KEY:
            try:
                return ScanSpec.from_json(json.loads(entry.value))
            except (json.JSONDecodeError, UserError) as error:
                raise UserError(
                    f"scan {node.name}: the file's number formats are damaged ({error}); "
                    "export the network again"
                ) from error
    return None
