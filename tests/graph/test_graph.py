"""A graph is refused when it is made if its parts do not fit, for any number of images."""

from dataclasses import replace

import pytest

from lmaunet.errors import UserError
from lmaunet.graph.graph import Weight
from lmaunet.graph.layers import layers
from lmaunet.graph.layouts import layout_of, regrouped, text_of
from lmaunet.graph.operators import Activation, Affine, Concat, Conv, Norm, TransposedConv
from lmaunet.graph.relayouts import OPERATORS, Flip, Permute, PixelShuffle, Reshape, Slice
from lmaunet.graph.resampling import Pool, Reduce, Upsample


def changed(graph, name, /, **changes):
    nodes = tuple(replace(n, **changes) if n.name == name else n for n in graph.nodes)
    return replace(graph, nodes=nodes)


def test_shapes_for_any_number_of_images(graph):
    assert graph.shape("tokens") == (1, 2, 24)
    assert graph.shape("tokens", 5) == (5, 2, 24)
    assert [node.name for node in graph.users("sum")] == ["pool", "cat"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("stem", {"inputs": ("relu",)}, "no value before it"),
        ("stem", {"inputs": ()}, "0 inputs, expected 1"),
        ("stem", {"weights": {}}, r"lacks the weights \['weight'\]"),
        ("relu", {"weights": {"bias": "stem.bias"}}, r"does not know \['bias'\]"),
        ("stem", {"weights": {"weight": "none"}}, "no weight 'none'"),
        ("relu", {"name": "stem"}, "the name is taken"),
        ("stem", {"operator": Conv((1, 1), ((0, 0), (1, 1)), (1, 1), 1)}, "its layout"),
        ("scan", {"inputs": ("flip", "dt", "B", "dt")}, "shape of C is"),
        ("pool", {"layout": (("N",), ("C1",), ("H9",), ("W1",))}, "'H9' has no size"),
        ("tokens", {"operator": Reshape((("N",), ("H", "W"), ("C2",)))}, "as many elements"),
    ],
)
def test_what_does_not_fit_is_refused(graph, name, changes, message):
    with pytest.raises(UserError, match=message):
        changed(graph, name, **changes)


def test_a_reshape_that_holds_for_one_image_only_is_refused(graph):
    """With the batch dropped, the shapes are right for one image and wrong for two."""
    layout = ((), ("C1",), ("H", "W"))
    assert graph.shape("tokens") == (1, *graph.shape("tokens")[1:])
    with pytest.raises(UserError, match="as many elements"):
        changed(graph, "tokens", operator=Reshape(layout), layout=layout)


def test_a_weight_without_use_is_refused(graph):
    with pytest.raises(UserError, match="no node takes the weight 'more'"):
        replace(graph, weights={**graph.weights, "more": Weight((1,), True)})


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        (Conv, ((1, 1), ((0, 0),), (1, 1), 1), "padding"),
        (Conv, ((1, 0), ((0, 0), (0, 0)), (1, 1), 1), r"stride=\(1, 0\)"),
        (Conv, ((1,), ((0, 0),), (1,), True), "groups=True"),
        (Conv, ((1,) * 4, ((0, 0),) * 4, (1,) * 4, 1), "1 or 2 or 3"),
        (TransposedConv, ((2,), (0,), (2,), (1,), 1), "output_padding"),
        (Activation, ("tanh", 0.0), "expected one of relu"),
        (Activation, ("relu", 0.1), "only leaky_relu has one"),
        (Activation, ("leaky_relu", float("nan")), "finite"),
        (Norm, ("batch", 2, 1e-5), "only group has them"),
        (Norm, ("layer", 1, -1.0), "epsilon"),
        (Affine, (1, 0.0), "factor=1"),
        (Pool, ("max", (2, 2), (2, 2), (2, 0), True), "at most half"),
        (Upsample, ("nearest", (4, 4), True), "align_corners"),
        (Slice, (1, 3, 3, 1), "stop=3"),
        (Flip, ([1],), "axes="),
        (Reshape, ((("N", "N"),),), "each symbol once"),
        (Concat, (-1,), "axis=-1"),
    ],
)
def test_attributes_are_checked(kind, attributes, message):
    with pytest.raises(UserError, match=message):
        kind(*attributes)


@pytest.mark.parametrize(
    ("operator", "shape", "expected"),
    [
        (Permute((0, 2, 1)), (2, 3, 4), (2, 4, 3)),
        (PixelShuffle((2, 3)), (2, 12, 4, 5), (2, 2, 8, 15)),
        (Slice(1, 1, 6, 2), (2, 7), (2, 3)),
        (Reduce("mean", (2, 3)), (2, 3, 4, 5), (2, 3, 1, 1)),
        (Pool("max", (3, 3), (1, 1), (1, 1), True), (2, 3, 4, 5), (2, 3, 4, 5)),
    ],
)
def test_inferred_shapes(operator, shape, expected):
    assert operator.infer([shape], {}, {}) == expected


def test_operators_have_distinct_names():
    assert len(OPERATORS) == 17 and all(kind.name == name for name, kind in OPERATORS.items())


def test_a_reshape_splits_and_joins_symbols():
    sizes = {"N": 2, "C": 3, "H": 8, "W": 4}
    names = iter("abcdef")

    def fresh(letter, size):
        return letter + next(names)

    layout = layout_of(["N", "C", "H", "W"])
    windows = regrouped(layout, (2, 3, 2, 4, 4), sizes, fresh)
    assert text_of(windows) == ["N", "C", "H.a", "H.b", "W"]
    assert text_of(regrouped(layout, (6, 32), sizes, fresh)) == ["N C", "H W"]
    assert text_of(regrouped(layout, (2, 96, 1), sizes, fresh)) == ["N", "C H W", "1"]
    assert text_of(regrouped(layout, (2, 4, 24), sizes, fresh)) == ["N", "Lc.d", "Lc.e W"]
    with pytest.raises(UserError, match="images of a batch"):
        regrouped(layout, (3, 64), sizes, fresh)


def test_layers(graph):
    by_name = {layer.name: layer for layer in layers(graph)}
    assert [(n, x.operator, x.params, x.macs) for n, x in by_name.items()] == [
        ("stem", "conv", 20, 24 * 18),
        ("norm", "norm", 2, 0),
        ("proj", "conv", 16, 24 * 16),
        ("scan", "scan", 8, 3 * 24 * 6),
    ]
    assert by_name["proj"].shape == (1, 8, 24)
