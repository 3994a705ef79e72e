"""The modules that a design consists of: its nodes, its FIFOs and what parts and joins words.

A design holds many with the same parameters; each distinct one is synthesised once, whatever its
memories hold (:func:`digest`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmaunet.fpga.board.placement import Placed, Resources, usually_placed
from lmaunet.fpga.operators import dram_fifo, fifo, width_converter
from lmaunet.fpga.operators.dram_fifo import DramLayout
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, RtlModule
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.stitch import streams_of
from lmaunet.fpga.toolchain.yosys import yosys_version

FIFO, CONVERTER = "FIFO", "width converter"
STYLES = ("STYLE", "ROM_STYLE", "RAM_STYLE")


@dataclass(frozen=True)
class Part:
    """A node, a FIFO or a width converter of a design.

    ``name`` is the tensor's that a node puts out, or that of a stream. ``estimated``: what we
    estimate of it.
    """

    name: str
    operator: str
    module: RtlModule
    estimated: Resources

    @property
    def placed(self) -> Placed:
        """Our estimate, its memories where the module's own parameters put them."""
        styles = [str(self.module.parameters[p]) for p in STYLES if p in self.module.parameters]
        return usually_placed(self.estimated, styles[0] if styles else "auto")


def parts_of(network: Network, fifos: Mapping[str, fifo.Layout] | None) -> list[Part]:
    """Return every node of a network, in its order, and then what is on the streams between them.

    Args:
        network: of the folded graph.
        fifos: how they are built, by their tensor, a register where absent. If None, those of joins
            are unknown and left out.
    """
    executor = network.executor
    parts = [
        Part(node.name, step.op_type, node.module, step.operator.resources())
        for node, step in zip(network.nodes, executor.steps, strict=True)
    ]
    in_dram = [found for found in (fifos or {}).values() if isinstance(found, DramLayout)]
    if in_dram:
        port = dram_fifo.port_module(len(in_dram), in_dram[0].burst)
        parts.append(Part(port.name, FIFO, port, dram_fifo.port_resources(len(in_dram))))
    for stream in streams_of(network.nodes, executor.input, executor.output):
        bits = stream.port.bits
        if fifos is not None or stream.tensor not in network.waiting:
            layout = (fifos or {}).get(stream.tensor, fifo.layout(bits, fifo.SHALLOW))
            queue, estimated = dram_fifo.queue_module(layout), dram_fifo.resources_of(layout)
            parts.append(Part(stream.tensor, FIFO, queue, estimated))
        if stream.producer and stream.consumer:
            to = stream.consumer[1].bits
            if to != bits:
                module = width_converter.module(bits, to)
                estimated = width_converter.resources(bits, to)
                parts.append(Part(stream.tensor, CONVERTER, module, estimated))
    return parts


def digest(module: RtlModule, family: str, rtl: Path = RTL_FOLDER) -> str:
    """Return the SHA-256 of all that a module's netlist depends on, its memories' content apart.

    Raises:
        ToolNotFound: without yosys, whose version is part of it.
    """
    found = hashlib.sha256()
    content = {
        "yosys": yosys_version(),
        "family": family,
        "module": module.name,
        "parameters": dict(module.parameters),
        "memories": {name: len(words) for name, words in module.memories.items()},
        "generated": dict(module.generated),
        "ports": [dataclasses.astuple(port) for port in module.ports],
    }
    found.update(json.dumps(content, sort_keys=True).encode())
    for source in module.sources:
        found.update((rtl / source).read_bytes())
    return found.hexdigest()
