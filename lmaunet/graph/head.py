"""The head of a network: the 1x1 convolution that it ends in, where dropout has its place."""

from __future__ import annotations

from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph, Node
from lmaunet.graph.operators import Conv


def head_of(graph: Graph) -> Node:
    """Return the 1x1 convolution whose result is the graph's output, the logits.

    It is linear and looks at one pixel at a time, so that T masks over its input channels are one
    convolution with T times the outputs: what is before it need not be computed again.

    Raises:
        UserError: where the graph ends in anything else, as one of volumes does.
    """
    (output,) = graph.outputs
    node = next((node for node in graph.nodes if node.name == output), None)
    kind = "the image" if node is None else node.operator.name
    if node is not None and isinstance(node.operator, Conv):
        kernel = graph.weights[node.weights["weight"]].shape[2:]
        if len(kernel) != 2:
            raise UserError(
                "dropout before the head is for networks of slices, and this one takes volumes; "
                "leave --dropout out"
            )
        plain = node.operator.groups == 1 and max(node.operator.stride) == 1
        padded = any(map(any, node.operator.padding))
        if plain and tuple(kernel) == (1, 1) and not padded:
            return node
        kind = f"a convolution of {'x'.join(map(str, kernel))}"
        if not plain:
            kind += " with groups or a stride"
    raise UserError(
        f"dropout stands before the 1x1 convolution that a network ends in, and this one ends in "
        f"{kind}; leave --dropout out"
    )
