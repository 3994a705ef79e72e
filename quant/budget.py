"""From a budget for the shipped file to weight bits: measure, allocate, measure again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph, Weights
from lmaunet.graph.scan_dependent import scan_dependent_layers
from lmaunet.quant.allocation import Allocation, allocate, smallest_bits, weight_bytes
from lmaunet.quant.calibration import MINIMUM_IMAGES, calibrate, spread
from lmaunet.quant.convolution import Scales
from lmaunet.quant.network import QuantNetwork
from lmaunet.quant.sensitivity import Sensitivity, measure
from lmaunet.train.schedule import Progress

SENSITIVITY_IMAGES = 8
TRIALS = 5


def allocate_for_file(
    graph: Graph,
    weights: Weights,
    images: np.ndarray,
    budget_bytes: int,
    scales: Scales,
    file_bytes: Callable[[QuantNetwork], int],
    progress: Progress,
    device: torch.device | str = "cpu",
    separate: Collection[str] = (),
) -> dict[str, Any]:
    """Return the allocation of weight bits with which the shipped file keeps within a budget.

    What a file holds beside the weights (graph, biases, scales, the scan's parameters) depends a
    little on the bits. So a file is made and measured, the rest is left to the weights, and that
    is repeated with the file that comes out until it fits.

    Args:
        graph, weights: the trained float network.
        images: calibration images ``(n, channels, H, W)``.
        budget_bytes: of the file.
        scales: what scales may be.
        file_bytes: makes the file of a calibrated network and returns its size.
        progress: told the fraction done.
        device: where sensitivities are computed.
        separate: joins whose inputs keep scales of their own.

    Returns:
        plain JSON: ``budget_bytes``, ``file_bytes``, ``rest_bytes``, ``weight_bytes``,
        ``scans_int8``, ``layers`` (as :meth:`Allocation.rows`) and ``notices``.

    Raises:
        UserError: where the smallest file is larger; the message names its size.
    """

    size_with = file_sizes(graph, weights, images, scales, separate, file_bytes)
    progress(0.0, "measuring the smallest file")
    least = smallest_bits(graph)
    smallest = size_with(least)
    if smallest > budget_bytes:
        raise UserError(
            f"a file of {budget_bytes / 1e6:g} MB cannot be reached with this network: the "
            f"smallest takes {smallest / 1e6:.3f} MB (2 bits everywhere but in the first layer and "
            f"the last); give --budget-mb {_rounded_up(smallest)} or more, or a smaller network"
        )
    sensitivity = measure(
        graph, weights, spread(images, SENSITIVITY_IMAGES),
        lambda fraction, line: progress(0.1 + 0.7 * fraction, line), scales, device,
    )  # fmt: skip
    rest = smallest - weight_bytes(graph, least)
    found, size = fit(
        graph, sensitivity, budget_bytes, rest, size_with,
        lambda fraction, line: progress(0.8 + 0.2 * fraction, line),
    )  # fmt: skip
    if found is not None:
        return _to_json(found, graph, budget_bytes, size)
    content = _to_json(
        allocate(graph, sensitivity, weight_bytes(graph, least)), graph, budget_bytes, smallest
    )
    content["notices"].append(
        f"no choice of bits kept within the budget after {TRIALS} files, the last of {size:,} "
        "bytes; the fewest bits everywhere were taken. Give a little more with --budget-mb"
    )
    return content


def file_sizes(
    graph: Graph,
    weights: Weights,
    images: np.ndarray,
    scales: Scales,
    separate: Collection[str],
    file_bytes: Callable[[QuantNetwork], int],
) -> Callable[[Mapping[str, int]], int]:
    """Return what makes and measures the file of a network at given bits."""

    def size_with(bits: Mapping[str, int]) -> int:
        quantized = QuantNetwork(graph, weights, bits, scales=scales, separate=separate)
        # only the size matters here: the images with most content give every scale a value
        by_content = np.argsort(images.std(tuple(range(1, images.ndim))))
        calibrate(quantized, images[by_content[-MINIMUM_IMAGES:]])
        return file_bytes(quantized)

    return size_with


def fit(
    graph: Graph,
    sensitivity: Sensitivity,
    budget_bytes: int,
    rest: int,
    size_with: Callable[[Mapping[str, int]], int],
    progress: Progress,
) -> tuple[Allocation | None, int]:
    """Return the allocation whose file keeps within a budget, None where none did, and the size.

    Args:
        graph: the network.
        sensitivity: of every layer at every width.
        budget_bytes: of the file.
        rest: what a file held beside the weights.
        size_with: as :func:`file_sizes` gives.
        progress: told the fraction done.
    """
    least, size = smallest_bits(graph), 0
    for trial in range(TRIALS):
        progress(trial / TRIALS, "choosing bits, and measuring the file")
        chosen = allocate(graph, sensitivity, max(budget_bytes - rest, weight_bytes(graph, least)))
        size = size_with(chosen.bits)
        if size <= budget_bytes:
            return chosen, size
        # of this file, so that the next weights are smaller than these by what it is too large
        rest = size - chosen.weight_bytes
    return None, size


def with_bits(
    content: Mapping[str, Any], graph: Graph, bits: Mapping[str, int], size: int
) -> dict[str, Any]:
    """Return an allocation as JSON with other bits, whose file takes ``size`` bytes.

    Its sensitivities stay those that were measured on the float network.
    """
    sensitivity = {
        row["layer"]: {int(b): v for b, v in row["sensitivity"].items()}
        for row in content["layers"]
    }
    dependent = scan_dependent_layers(graph)
    chosen = Allocation(
        dict(bits), sensitivity, content["budget_bytes"], weight_bytes(graph, bits),
        all(bits[name] == 8 for name in bits if name in dependent),
    )  # fmt: skip
    return _to_json(chosen, graph, content["budget_bytes"], size)


def _to_json(chosen: Allocation, graph: Graph, budget_bytes: int, size: int) -> dict[str, Any]:
    notices = []
    if not chosen.scans_int8:
        dependent = scan_dependent_layers(graph)
        narrow = [name for name in chosen.bits if name in dependent and chosen.bits[name] < 8]
        notices.append(
            f"a file of {budget_bytes / 1e6:g} MB leaves no room for all layers that scans depend "
            f"on in INT8: {len(narrow)} of them have fewer bits"
        )
    return {
        "budget_bytes": budget_bytes,
        "file_bytes": size,
        "weight_bytes": chosen.weight_bytes,
        "rest_bytes": size - chosen.weight_bytes,
        "scans_int8": chosen.scans_int8,
        "layers": chosen.rows(graph),
        "notices": notices,
    }


def _rounded_up(size: int) -> str:
    return f"{-(-size // 1000) / 1000:.3f}"
