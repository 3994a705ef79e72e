"""What each operator of torch becomes in a graph: one table, RULES.

A rule takes a :class:`~lmaunet.graph.calls.Call`, adds nodes to its builder and returns the value's
name, or a list of names where torch's operator gives several. What it can't do it refuses with
UserError.
"""

from __future__ import annotations

from lmaunet.graph import element_rules as element
from lmaunet.graph import linear_rules as linear
from lmaunet.graph import relayout_rules as relayout
from lmaunet.graph.calls import Rule

CHANGELESS = ("aten.contiguous", "aten.clone", "aten.detach", "aten.alias", "aten.to",
              "aten._to_copy", "aten.lift_fresh_copy", "aten.detach_")  # fmt: skip
"""Operators of torch whose result is their input; another type is refused before."""

_RESHAPES = ("reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
             "view_as", "reshape_as")  # fmt: skip

RULES: dict[str, Rule] = {
    "lmaunet.selective_scan": linear.scan,
    **{f"aten.conv{rank}d": linear.conv for rank in (1, 2, 3)},
    **{f"aten.conv_transpose{rank}d": linear.transposed_conv for rank in (1, 2, 3)},
    "aten.linear": linear.linear,
    "aten.matmul": linear.matmul,
    "aten.mm": linear.matmul,
    "aten.einsum": linear.einsum,
    "aten.batch_norm": element.batch_norm,
    "aten._native_batch_norm_legit_no_training": element.decomposed_batch_norm,
    "aten.instance_norm": element.instance_norm,
    "aten.group_norm": element.group_norm,
    "aten.layer_norm": element.layer_norm,
    "aten.relu": element.activation("relu"),
    "aten.prelu": element.prelu,
    "aten._prelu_kernel": element.prelu,
    "aten.leaky_relu": element.activation("leaky_relu"),
    "aten.gelu": element.activation("gelu"),
    "aten.silu": element.activation("silu"),
    "aten.sigmoid": element.activation("sigmoid"),
    "aten.softplus": element.activation("softplus", beta=1, threshold=20),
    "aten.add": element.addition(1.0),
    "aten.sub": element.addition(-1.0),
    "aten.rsub": element.subtraction_from,
    "aten.mul": element.mul,
    "aten.div": element.div,
    "aten.neg": element.neg,
    **{f"aten.max_pool{rank}d": element.pool("max") for rank in (1, 2, 3)},
    **{f"aten.avg_pool{rank}d": element.pool("average") for rank in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{rank}d": element.adaptive_pool for rank in (1, 2, 3)},
    **{f"aten.upsample_nearest{rank}d": element.upsample("nearest") for rank in (1, 2, 3)},
    "aten.upsample_linear1d": element.upsample("linear"),
    "aten.upsample_bilinear2d": element.upsample("linear"),
    "aten.upsample_trilinear3d": element.upsample("linear"),
    "aten.mean": element.reduce("mean"),
    "aten.amax": element.reduce("max"),
    "aten.max": element.largest,
    **{f"aten.{name}": relayout.reshape for name in _RESHAPES},
    "aten.permute": relayout.permute,
    "aten.transpose": relayout.transpose,
    "aten.t": relayout.transpose,
    "aten.swapaxes": relayout.transpose,
    "aten.swapdims": relayout.transpose,
    "aten.movedim": relayout.movedim,
    "aten.flip": relayout.flip,
    "aten.slice": relayout.sliced,
    "aten.narrow": relayout.narrow,
    "aten.select": relayout.select,
    "aten.chunk": relayout.split,
    "aten.split": relayout.split,
    "aten.split_with_sizes": relayout.split,
    "aten.unbind": relayout.unbind,
    "aten.cat": relayout.concat,
    "aten.stack": relayout.stack,
    "aten.pixel_shuffle": relayout.pixel_shuffle,
    "aten.expand": relayout.expand,
    "aten.expand_as": relayout.expand,
    **{name: relayout.same for name in CHANGELESS},
    "aten.pad": relayout.pad,
    "aten.constant_pad_nd": relayout.pad,
    "aten.dropout": relayout.dropout,
    "aten.feature_dropout": relayout.dropout,
    "aten._assert_tensor_metadata": relayout.nothing,
}
"""The rule for each operator of torch, by its name without the overload."""
