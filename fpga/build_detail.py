"""What a build says about its design: for its own files, and for the report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from lmaunet.fpga.board.placement import ON_CHIP, SHELL_FF, SHELL_LUT
from lmaunet.fpga.graph.lower import Lowered
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.simulation.proof import Proof
from lmaunet.fpga.sizing.design import NAMES, Design
from lmaunet.fpga.sizing.memory_map import memory_map, memory_rows
from lmaunet.fpga.sizing.part_times import parts_of, pipeline

OWN_RTL = "RTL of our own"
SHOWN_OPS = 10


class BuildDetail:
    """The figures of a design.

    Args:
        design: the design.
        lowered: the network that it computes.
        mapped: the hardware graph with the design's folding.
        proof: what a simulation of it showed, if there was one.
    """

    def __init__(self, design: Design, lowered: Lowered, mapped: Any, proof: Proof | None) -> None:
        self.design, self.lowered, self.mapped, self.proof = design, lowered, mapped, proof
        self.names = {node.output[0]: node.name for node in mapped.graph.node}
        self.parts = parts_of(design.nodes, lowered.graph.origins)
        self.provenance = "simulated" if proof else "estimated"

    @functools.cached_property
    def layers(self) -> list[dict[str, Any]]:
        """A row for each node: what it is, where it comes from, its folding and figures."""
        domains = {node.output[0]: node.domain for node in self.mapped.graph.node}
        rows = []
        for folded in self.design.nodes:
            domain, placed = domains[folded.name], self.design.placed[folded.name]
            folding = {key: folded.attributes[key] for key in folded.operator.folded_by}
            rows.append(
                {
                    "name": self.names[folded.name],
                    "op": folded.op_type,
                    "backend": domain.rsplit(".", 1)[1],
                    "hardware": whose_rtl(folded.operator, domain),
                    "origin": self.lowered.graph.origins[folded.name],
                    "part": self.parts[folded.name],
                    "shape": list(self.lowered.graph.shapes[folded.name]),
                    "folding": folding,
                    "cycles": folded.cycles(),
                    **dataclasses.asdict(placed),
                    "provenance": "estimated",
                }
            )
        return rows

    @functools.cached_property
    def memories(self) -> list[dict[str, Any]]:
        """A row for each memory; see :func:`lmaunet.fpga.sizing.memory_map.memory_rows`."""
        return memory_rows(self.design, self.names)

    def resources(self) -> dict[str, Any]:
        """Return what the design takes of the board, and where its memories are."""
        design, board = self.design, self.design.board
        inside = {node.name for node in design.nodes}
        return {
            "provenance": "estimated",
            "board": dataclasses.asdict(board),
            "usable": board.limits,
            "total": dataclasses.asdict(design.total),
            "share_of_board": {
                name: getattr(design.total, name) / getattr(board, name)
                if getattr(board, name)
                else 0.0
                for name in NAMES
            },
            "shell_lut": SHELL_LUT,
            "shell_ff": SHELL_FF,
            "between_nodes": {
                name: dataclasses.asdict(placed)
                for name, placed in design.placed.items()
                if name not in inside
            },
            "memories": self.memories,
        }

    def largest(self) -> list[dict[str, Any]]:
        """Return the nodes that take most of the board, by the one resource it takes most of."""
        rows = []
        for layer in self.layers:
            shares = {
                name: layer[name] / getattr(self.design.board, name)
                for name in NAMES
                if getattr(self.design.board, name)
            }
            scarcest = max(shares, key=lambda name: shares[name])
            row = {key: layer[key] for key in ("name", "op", "origin")}
            rows.append(
                row | {"resource": scarcest, "used": layer[scarcest], "share": shares[scarcest]}
            )
        return sorted(rows, key=lambda row: -row["share"])[:SHOWN_OPS]

    def pipeline(self) -> dict[str, Any]:
        """Return what each part does over an image; see :mod:`lmaunet.fpga.sizing.part_times`."""
        design, proof = self.design, self.proof
        found = proof.alone if proof else design.schedule
        made = {tensor for node in design.nodes for tensor in node.step.outputs}
        source = next(tensor for tensor in found.begins if tensor not in made)
        return pipeline(
            design.nodes, self.parts, source,
            found.begins, found.ends,
            latency=found.latency, clock_mhz=design.clock_mhz, provenance=self.provenance,
        )  # fmt: skip

    def to_json(
        self,
        image: Mapping[str, int],
        figures: Mapping[str, float],
        scans: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Return what the report shows of a build, in plain JSON.

        Args:
            image: bytes of the memory image and of the weights in it.
            figures: of the whole network, from :func:`lmaunet.fpga.agreement.nodes.check_network`.
            scans: the agreement of each scan.
        """
        design, layers = self.design, self.layers
        slowest = sorted(layers, key=lambda row: -row["cycles"])[:SHOWN_OPS]
        backends = {b: sum(row["backend"] == b for row in layers) for b in ("rtl", "hls")}
        detail = {
            "board": design.board.name,
            "part": design.board.part,
            "clock_mhz": design.clock_mhz,
            "clock_status": "the clock is an assumption; nothing was placed or timed",
            "interval_cycles": design.schedule.interval,
            "latency_cycles": round(design.schedule.latency),
            "interval_ms": design.interval_ms,
            "latency_ms": design.latency_ms,
            "resources": {
                name: {"used": used, "available": getattr(design.board, name)}
                for name, used in dataclasses.asdict(design.total).items()
                if name in ON_CHIP or used
            },
            "resources_provenance": "estimated",
            "fits": not design.total.excess(design.board),
            "usable": design.board.limits,
            "limits": design.limits,
            "dsp_bound_interval_cycles": design.dsp_bound,
            "nodes": len(layers),
            "unmapped_nodes": sum(
                node.domain.rsplit(".", 1)[-1] not in ("rtl", "hls")
                for node in self.mapped.graph.node
            ),
            "backends": backends,
            "slowest": slowest,
            "slowest_provenance": "estimated",
            "largest": self.largest(),
            "largest_provenance": "estimated",
            "pipeline": self.pipeline(),
            "memories": memory_map(self.memories, design, self.parts, self.provenance),
            "scans": scans,
            "network": dict(figures),
            "image_bytes": image["image"],
            "weights_bytes": image["weights"],
            "size_note": (
                "size_mb is weights.bin with its index and the host's constants: all weights, "
                "multipliers, tables and scan constants at their bit-widths, which is what the "
                "on-chip memories hold; a bitstream needs Vivado"
            ),
        }
        return detail | (_simulated(self.proof, design.clock_mhz) if self.proof else {})


def whose_rtl(operator: Operator, domain: str) -> str:
    """Return that a node becomes RTL of our own, and what that stands in for.

    Args:
        operator: the node's.
        domain: of the node in FINN+'s graph: the backend that FINN+ would take.
    """
    if operator.finn_attributes is not None:
        return OWN_RTL
    return f"{OWN_RTL}, in place of {'FINN+' if domain.endswith('.rtl') else 'HLS'}"


def _simulated(proof: Proof, clock_mhz: float) -> dict[str, Any]:
    """Return what a simulation puts in the place of the estimates."""
    latency, interval = proof.tight.latency, max(proof.tight.intervals)
    return {
        "latency_cycles": latency,
        "interval_cycles": interval,
        "latency_ms": latency / clock_mhz / 1000,
        "interval_ms": interval / clock_mhz / 1000,
        "latency_ms_provenance": "simulated",
        "interval_ms_provenance": "simulated",
        "simulation": {k: v for k, v in proof.to_json().items() if k not in ("fifos", "streams")},
    }
