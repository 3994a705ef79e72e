"""A captured graph held to its module: both run on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.graph.graph import Graph, Weights
from lmaunet.graph.module import execute

BOUND = 2**-16
"""How far a graph's output may be from its module's, of the largest of these.

Both add the same products in float32, in an order that depends on the shapes that a library is
given: a linear map is a convolution in the graph.
"""

IMAGES = 3
"""Another number than a capture has, so that what depends on it is seen."""


def check_capture(
    module: nn.Module, graph: Graph, weights: Weights, *, evidence: Path, images: int = IMAGES
) -> Agreement:
    """Return how a graph's outputs compare with those of the module that it was captured from.

    Both run on random images, on the CPU; the module in evaluation mode, which it is left in.

    Args:
        module, graph, weights: what was captured, and the capture.
        evidence: the folder in which both outputs are saved when they disagree.
        images: how many images.

    Raises:
        Disagreement: where an element differs by more than BOUND of the largest one.
    """
    (name,) = graph.inputs
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(graph.shape(name, images), generator=generator)
    with torch.no_grad():
        expected = _joined(module.eval()(image))
    got = _joined(execute(graph, weights, image))
    tolerance = BOUND * float(np.abs(expected).max())
    return require_agreement("graph and module", got, expected, tolerance, evidence=evidence)


def _joined(outputs: Any) -> np.ndarray:
    """Return one array of all outputs, ``(images, elements)``."""
    parts = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return torch.cat([part.flatten(1) for part in parts], 1).numpy()
