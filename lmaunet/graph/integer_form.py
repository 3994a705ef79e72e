"""The form of a graph that integer kernels take: the first thing that quantization makes of one."""

from __future__ import annotations

from lmaunet.graph.graph import Graph, Weights
from lmaunet.graph.rewrites import Network, as_maps, rewritten, split_by_slices
from lmaunet.graph.transposed import norms_before_shuffles, shuffle_transposed

FORMS = (shuffle_transposed, norms_before_shuffles, split_by_slices, as_maps)
"""The rewrites that bring a graph into it, in order; batch normalizations still stand."""


def integer_form(graph: Graph, weights: Weights) -> Network:
    """Return a network in the form; raises UserError where a transposed convolution has none."""
    return rewritten(graph, weights, FORMS)
