import numpy as np
import pytest

from lmaunet.graph.graph import Graph, Node, Weight
from lmaunet.graph.operators import Activation, Add, Concat, Conv, Norm, Scan
from lmaunet.graph.relayouts import Flip, Reshape, Slice
from lmaunet.graph.resampling import Pool, Upsample

IMAGE = (("N",), ("C",), ("H",), ("W",))
MAP = (("N",), ("C1",), ("H",), ("W",))
TOKENS = (("N",), ("C1",), ("H", "W"))
STATES = (("N",), ("C3",), ("H", "W"))
SIZES = {"N": 1, "C": 1, "H": 4, "W": 6, "C1": 2, "C2": 8, "C3": 3, "H1": 2, "W1": 3, "C4": 4}


def pointwise(rank):
    return Conv((1,) * rank, ((0, 0),) * rank, (1,) * rank, 1)


@pytest.fixture
def graph():
    """A small network with a scan from the last token to the first, made by hand."""
    nodes = (
        Node("stem", Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1), ("image",),
             {"weight": "stem.weight", "bias": "stem.bias"}, MAP),
        Node("norm", Norm("batch", 1, 1e-5), ("stem",),
             {"scale": "norm.weight", "mean": "norm.mean", "variance": "norm.var"}, MAP),
        Node("relu", Activation("leaky_relu", 0.1), ("norm",), {}, MAP),
        Node("tokens", Reshape(TOKENS), ("relu",), {}, TOKENS),
        Node("flip", Flip((2,)), ("tokens",), {}, TOKENS),
        Node("proj", pointwise(1), ("flip",), {"weight": "proj.weight"},
             (("N",), ("C2",), ("H", "W"))),
        Node("dt", Slice(1, 0, 2, 1), ("proj",), {}, TOKENS),
        Node("B", Slice(1, 2, 5, 1), ("proj",), {}, STATES),
        Node("C", Slice(1, 5, 8, 1), ("proj",), {}, STATES),
        Node("scan", Scan(True), ("flip", "dt", "B", "C"),
             {"rates": "scan.A_log", "skip": "scan.D"}, TOKENS),
        Node("back", Flip((2,)), ("scan",), {}, TOKENS),
        Node("map", Reshape(MAP), ("back",), {}, MAP),
        Node("sum", Add(), ("relu", "map"), {}, MAP),
        Node("pool", Pool("max", (2, 2), (2, 2), (0, 0), True), ("sum",), {},
             (("N",), ("C1",), ("H1",), ("W1",))),
        Node("up", Upsample("nearest", (4, 6), False), ("pool",), {}, MAP),
        Node("cat", Concat(1), ("up", "sum"), {}, (("N",), ("C4",), ("H",), ("W",))),
    )  # fmt: skip
    shapes = {
        "stem.weight": (2, 1, 3, 3), "stem.bias": (2,), "norm.weight": (2,), "norm.mean": (2,),
        "norm.var": (2,), "proj.weight": (8, 2, 1), "scan.A_log": (2, 3), "scan.D": (2,),
    }  # fmt: skip
    learned = {name: name not in ("norm.mean", "norm.var") for name in shapes}
    weights = {name: Weight(shape, learned[name]) for name, shape in shapes.items()}
    return Graph(SIZES, {"image": IMAGE}, nodes, ("cat",), weights)


@pytest.fixture
def weights(graph):
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.5, 1, weight.shape).astype(np.float32)
        for name, weight in graph.weights.items()
    }
