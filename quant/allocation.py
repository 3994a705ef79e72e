"""Weight bits for a size: the allocation that loses least within a budget of bytes.

Each layer takes one of 2, 3, 4 and 8 bits; the sum of the sensitivities is to be smallest while the
bytes stay within the budget. That is a multiple-choice knapsack, solved exactly as an integer
program (HiGHS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph
from lmaunet.graph.layers import weight_layers
from lmaunet.graph.scan_dependent import scan_dependent_layers
from lmaunet.integer_program import quiet_solver
from lmaunet.quant.bits import protected_layers
from lmaunet.quant.packed import packed_bytes
from lmaunet.quant.sensitivity import Sensitivity
from lmaunet.quant.settings import WEIGHT_BITS

INDIFFERENCE = 1e-7
"""What a bit less counts for in itself, in shares of the largest sensitivity."""


def weight_bytes(graph: Graph, bits: Mapping[str, int]) -> int:
    """Return the bytes of all weights of a network at their widths."""
    return sum(packed_bytes(x.weights, bits[x.name]) for x in weight_layers(graph))


@dataclass(frozen=True)
class Allocation:
    """Bits chosen under a budget.

    Args:
        bits: by layer.
        sensitivity: what they were chosen by.
        budget_bytes: what the weights may take.
        weight_bytes: what they take.
        scans_int8: whether every scan-dependent layer has 8 bits.
    """

    bits: dict[str, int]
    sensitivity: Sensitivity
    budget_bytes: int
    weight_bytes: int
    scans_int8: bool

    def rows(self, graph: Graph) -> list[dict[str, Any]]:
        """Return, layer by layer, name, weights, bits, bytes and the sensitivity at all bits."""
        return [
            {
                "layer": layer.name,
                "weights": layer.weights,
                "bits": self.bits[layer.name],
                "bytes": packed_bytes(layer.weights, self.bits[layer.name]),
                "sensitivity": {str(b): v for b, v in self.sensitivity[layer.name].items()},
            }
            for layer in weight_layers(graph)
        ]


def smallest_bits(graph: Graph) -> dict[str, int]:
    """Return the fewest bits that :func:`allocate` may give each layer."""
    protected = protected_layers(graph)
    return {
        layer.name: 8 if layer.name in protected else min(WEIGHT_BITS)
        for layer in weight_layers(graph)
    }


def allocate(graph: Graph, sensitivity: Sensitivity, budget_bytes: int) -> Allocation:
    """Return the bits with the least sum of sensitivities within a budget.

    The first layer and the last have 8 bits. So has every scan-dependent layer if the budget can be
    met so (:func:`lmaunet.graph.scan_dependent.scan_dependent_layers`); only if it cannot, they are
    free too.

    Args:
        graph: the network.
        sensitivity: of every layer at every width.
        budget_bytes: what the weights may take together.

    Raises:
        UserError: where even the fewest bits take more; the message names that size.
    """
    least = smallest_bits(graph)
    dependent = scan_dependent_layers(graph)
    fixed = {name: 8 if name in dependent else bits for name, bits in least.items()}
    if weight_bytes(graph, least) > budget_bytes:
        raise UserError(
            f"the network's weights take {weight_bytes(graph, least):,} bytes at the fewest bits, "
            f"the budget leaves {budget_bytes:,}; give a larger budget or a smaller network"
        )
    scans_int8 = weight_bytes(graph, fixed) <= budget_bytes
    bits = _solve(graph, sensitivity, budget_bytes, fixed if scans_int8 else least)
    return Allocation(bits, sensitivity, budget_bytes, weight_bytes(graph, bits), scans_int8)


def _solve(
    graph: Graph, sensitivity: Sensitivity, budget_bytes: int, least: Mapping[str, int]
) -> dict[str, int]:
    import highspy

    layers = weight_layers(graph)
    largest = max(
        sensitivity[layer.name][bits]
        for layer in layers
        for bits in WEIGHT_BITS
        if bits >= least[layer.name]
    )
    solver = quiet_solver()
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.0)
    # the heuristics print to standard output, and a problem of this size does not need them
    solver.setOptionValue("mip_heuristic_effort", 0.0)
    taken: dict[tuple[str, int], Any] = {}
    for layer in layers:
        widths = [bits for bits in WEIGHT_BITS if bits >= least[layer.name]]
        for bits in widths:
            # More bits never cost more: what says so is noise. And what costs nothing takes all the
            # bits that there is room for. Brought near 1: the solver's tolerances are absolute.
            cost = max(0.0, *(sensitivity[layer.name][b] for b in WEIGHT_BITS if b >= bits))
            cost = cost / max(largest, 1e-30) + INDIFFERENCE * (8 - bits)
            taken[layer.name, bits] = solver.addBinary(obj=cost)
        solver.addConstr(sum(taken[layer.name, bits] for bits in widths) == 1)
    weights = {layer.name: layer.weights for layer in layers}
    size = sum(packed_bytes(weights[name], bits) * var for (name, bits), var in taken.items())
    # the solver may overstep a bound by its tolerance, which is a few bytes
    for allowance in (0, 16):
        constraint = solver.addConstr(size <= budget_bytes - allowance)
        solver.minimize()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"the integer program was not solved: {solver.getModelStatus()}")
        chosen = {name: width for (name, width), var in taken.items() if solver.val(var) > 0.5}
        if weight_bytes(graph, chosen) <= budget_bytes:
            return chosen
        solver.removeConstr(constraint)
    raise RuntimeError(f"the integer program oversteps {budget_bytes} bytes")
