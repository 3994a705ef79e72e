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
from lmaunet.integer_program import quiet_solver
from lmaunet.quant.bits import protected_layers
from lmaunet.quant.packed import packed_bytes
from lmaunet.quant.sensitivity import Sensitivity
from lmaunet.quant.settings import WEIGHT_BITS
from lmaunet.spec import NetSpec

INDIFFERENCE = 1e-7
"""What a bit less counts for in itself, in shares of the largest sensitivity."""

LKM_PARTS = ("lkm1", "lkm2", "lkm3", "deep")


def is_lkm(layer: str) -> bool:
    """Tell whether ``part.layer`` is in a large-kernel Mamba block."""
    return layer.split(".", 1)[0] in LKM_PARTS


def weight_bytes(spec: NetSpec, bits: Mapping[str, int]) -> int:
    """Return the bytes of all weights of a spec at their widths."""
    return sum(packed_bytes(x.weights, bits[x.path]) for x in spec.layers() if x.weights)


@dataclass(frozen=True)
class Allocation:
    """Bits chosen under a budget.

    Args:
        bits: by layer.
        sensitivity: what they were chosen by.
        budget_bytes: what the weights may take.
        weight_bytes: what they take.
        lkm_int8: whether every layer of the large-kernel Mamba blocks has 8 bits.
    """

    bits: dict[str, int]
    sensitivity: Sensitivity
    budget_bytes: int
    weight_bytes: int
    lkm_int8: bool

    def rows(self, spec: NetSpec) -> list[dict[str, Any]]:
        """Return, layer by layer, name, weights, bits, bytes and the sensitivity at all bits."""
        return [
            {
                "layer": layer.path,
                "weights": layer.weights,
                "bits": self.bits[layer.path],
                "bytes": packed_bytes(layer.weights, self.bits[layer.path]),
                "sensitivity": {str(b): v for b, v in self.sensitivity[layer.path].items()},
            }
            for layer in spec.layers()
            if layer.weights
        ]


def smallest_bits(spec: NetSpec) -> dict[str, int]:
    """Return the fewest bits that :func:`allocate` may give each layer."""
    protected = protected_layers(spec)
    return {
        layer.path: 8 if layer.path in protected else min(WEIGHT_BITS)
        for layer in spec.layers()
        if layer.weights
    }


def allocate(spec: NetSpec, sensitivity: Sensitivity, budget_bytes: int) -> Allocation:
    """Return the bits with the least sum of sensitivities within a budget.

    The first layer and the head have 8 bits. So has every layer of the large-kernel Mamba blocks
    if the budget can be met so; only if it cannot, they are free too.

    Args:
        spec: the network.
        sensitivity: of every layer at every width.
        budget_bytes: what the weights may take together.

    Raises:
        UserError: where even the fewest bits take more; the message names that size.
    """
    least = smallest_bits(spec)
    fixed_lkm = {name: 8 if is_lkm(name) else bits for name, bits in least.items()}
    if weight_bytes(spec, least) > budget_bytes:
        raise UserError(
            f"the weights of spec {spec.name} take {weight_bytes(spec, least):,} bytes at the "
            f"fewest bits, the budget leaves {budget_bytes:,}; give a larger budget or a smaller "
            "network"
        )
    lkm_int8 = weight_bytes(spec, fixed_lkm) <= budget_bytes
    bits = _solve(spec, sensitivity, budget_bytes, fixed_lkm if lkm_int8 else least)
    return Allocation(bits, sensitivity, budget_bytes, weight_bytes(spec, bits), lkm_int8)


def _solve(
    spec: NetSpec, sensitivity: Sensitivity, budget_bytes: int, least: Mapping[str, int]
) -> dict[str, int]:
    import highspy

    layers = [layer for layer in spec.layers() if layer.weights]
    largest = max(
        sensitivity[layer.path][bits]
        for layer in layers
        for bits in WEIGHT_BITS
        if bits >= least[layer.path]
    )
    solver = quiet_solver()
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.0)
    # the heuristics print to standard output, and a problem of this size does not need them
    solver.setOptionValue("mip_heuristic_effort", 0.0)
    taken: dict[tuple[str, int], Any] = {}
    for layer in layers:
        widths = [bits for bits in WEIGHT_BITS if bits >= least[layer.path]]
        for bits in widths:
            # More bits never cost more: what says so is noise. And what costs nothing takes all the
            # bits that there is room for. Brought near 1: the solver's tolerances are absolute.
            cost = max(0.0, *(sensitivity[layer.path][b] for b in WEIGHT_BITS if b >= bits))
            cost = cost / max(largest, 1e-30) + INDIFFERENCE * (8 - bits)
            taken[layer.path, bits] = solver.addBinary(obj=cost)
        solver.addConstr(sum(taken[layer.path, bits] for bits in widths) == 1)
    weights = {layer.path: layer.weights for layer in layers}
    size = sum(packed_bytes(weights[name], bits) * var for (name, bits), var in taken.items())
    # the solver may overstep a bound by its tolerance, which is a few bytes
    for allowance in (0, 16):
        constraint = solver.addConstr(size <= budget_bytes - allowance)
        solver.minimize()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"the integer program was not solved: {solver.getModelStatus()}")
        chosen = {name: width for (name, width), var in taken.items() if solver.val(var) > 0.5}
        if weight_bytes(spec, chosen) <= budget_bytes:
            return chosen
        solver.removeConstr(constraint)
    raise RuntimeError(f"the integer program oversteps {budget_bytes} bytes")
