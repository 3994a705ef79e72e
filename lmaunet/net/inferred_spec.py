"""The spec of a network from its tensors: what shapes tell, what is stated, what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from lmaunet.errors import UserError
from lmaunet.net.recognition import HERE
from lmaunet.spec import CONV1D_TAPS, SPECS, NetSpec
from lmaunet.stated_spec import StatedSpec

STAGES = 4
_TOLD = (
    "widths", "in_channels", "classes", "kernels", "states", "expand", "skip", "decoder_widths",
    "decoder_convs", "pyramid", "pyramid_width", "block",
)  # fmt: skip
"""The fields that shapes tell whole. Of ``mamba`` they tell ``none``, of the bins how many."""


@dataclass(frozen=True)
class InferredSpec:
    """A spec, and in words what of it the tensors do not tell and was assumed."""

    spec: NetSpec
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class _Shapes:
    """The shapes of a network's tensors, asked for by name."""

    path: Path
    tensors: Mapping[str, Tensor]

    def of(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return a tensor's shape, which must have so many dimensions."""
        if name not in self.tensors:
            raise UserError(f"{self.path} lacks {name}; it is not whole: give the file of a whole "
                            f"LMa-UNet, where {HERE}")  # fmt: skip
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dimensions or 0 in shape:
            solid = (
                "; it is for 3-D volumes, and tensors alone tell the spec of 2-D networks only: "
                "give the checkpoint that train wrote, which has its spec"
            ) * (len(shape) == 5)
            empty = (
                "; the weights are elsewhere (sharded, ZeRO-3?): gather them with the trainer's "
                "tool, such as zero_to_fp32.py of DeepSpeed"
            ) * (0 in shape)
            raise UserError(
                f"{self.path} has {name} of shape {shape}, expected {dimensions} dimensions"
                f"{solid or empty or '; give an LMa-UNet of this program'}"
            )
        return shape

    def count(self, template: str) -> int:
        """Return how many of the names with a number in them are there, from 0 on."""
        n = 0
        while template.format(n) in self.tensors:
            n += 1
        return n


def infer_spec(
    tensors: Mapping[str, Tensor], stated: StatedSpec | None, path: Path
) -> InferredSpec:
    """Return the spec that a network's tensors have.

    Args:
        tensors: of a whole network, by its own names.
        stated: what a user says of the network; must not contradict the tensors.
        path: the file, for messages.

    Raises:
        UserError: where tensors are missing or none of this network's, or what is stated
            contradicts them; both are named.
    """
    stated = stated or StatedSpec()
    shapes = _Shapes(path, tensors)
    told, evidence = _told(shapes)
    _compare(path, told, evidence, stated)
    rest, assumed = _rest(shapes, told, stated)
    try:
        return InferredSpec(NetSpec.from_json({**told, **rest}), assumed)
    except UserError as error:
        raise UserError(f"{path} is of a network that this program does not take: {error}") from (
            error
        )


def _told(shapes: _Shapes) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields that the shapes tell, and for each the tensor that does."""
    block, last, spatial = _block(shapes)
    stages = shapes.count(f"stages.{{}}.{last}.weight")
    if stages != STAGES:
        raise UserError(f"{shapes.path} has {stages} stages, expected {STAGES}; {HERE}")
    shallow = shapes.of("shallow.0.conv.weight", 4)
    local = [shapes.of(f"stages.{i}.{last}.weight", 4) for i in range(STAGES)]
    kernels = [shapes.of(f"stages.{i}.{spatial}.weight", 4)[3] for i in range(STAGES)]
    up = [shapes.of(f"decoder.{j}.up.weight", 4) for j in range(STAGES)]
    widths = [shallow[0], *(shape[0] for shape in local)]
    told = {
        "widths": widths,
        "in_channels": shallow[1],
        "classes": shapes.of("head.weight", 4)[0],
        "block": block,
        "kernels": kernels,
        "decoder_widths": [shape[0] for shape in reversed(up)],
        "decoder_convs": max(shapes.count("decoder.0.convs.{}.conv.weight"), 1),
        "pyramid_width": shapes.of("pyramid.out.conv.weight", 4)[0],
        "pyramid": "bins" if "pyramid.bin.0.weight" in shapes.tensors else "local",
        # the first convolution sees the skip beside what came up, or their sum
        "skip": "concat"
        if shapes.of("decoder.0.convs.0.conv.weight", 4)[1] == up[0][0] + widths[3]
        else "add",
    }
    evidence = {
        "widths": f"shallow.0.conv.weight and stages.*.{last}.weight",
        "in_channels": "shallow.0.conv.weight", "classes": "head.weight",
        "kernels": f"stages.*.{spatial}.weight", "block": "stages.0.*",
        "decoder_widths": "decoder.*.up.weight",
        "decoder_convs": "decoder.0.convs.*", "pyramid_width": "pyramid.out.conv.weight",
        "pyramid": "pyramid.*", "skip": "decoder.0.convs.0.conv.weight",
    }  # fmt: skip
    if any(name.startswith("stages.0.mamba.") for name in shapes.tensors):
        states, expand = _scan(shapes, widths)
        told |= {"states": states, "expand": expand}
        evidence |= dict.fromkeys(("states", "expand"), "stages.0.mamba.A_log")
    else:
        told["mamba"], evidence["mamba"] = "none", "stages.0.mamba.*, which is not there"
    return told, evidence


def _block(shapes: _Shapes) -> tuple[str, str, str]:
    """Return the kind of the encoder's blocks, its last convolution and the one of the kernel."""
    if "stages.0.pair.0.local.weight" in shapes.tensors:
        return "separable", "pair.1.conv", "pair.1.local"
    if "stages.0.pair.0.conv.weight" in shapes.tensors:
        return "convs", "pair.1.conv", "pair.1.conv"
    return "lkm", "local", "local"


def _scan(shapes: _Shapes, widths: list[int]) -> tuple[int, int]:
    """Return the states and the expansion of the scans, which all stages share."""
    found = []
    for i in range(STAGES):
        name = f"stages.{i}.mamba.A_log"
        inner, states = shapes.of(name, 2)
        if inner % widths[i + 1]:
            raise UserError(
                f"{shapes.path} has {name} of shape {(inner, states)} in a stage of "
                f"{widths[i + 1]} channels; expected d_inner to be a multiple of d_model; {HERE}"
            )
        found.append((states, inner // widths[i + 1]))
        rank, taps = NetSpec.dt_rank(widths[i + 1]), CONV1D_TAPS
        for tensor, shape in (
            ("dt_proj.weight", (inner, rank)),
            ("conv1d.weight", (inner, 1, taps)),
        ):
            got = shapes.of(f"stages.{i}.mamba.{tensor}", len(shape))
            if got != shape:
                raise UserError(
                    f"{shapes.path} has stages.{i}.mamba.{tensor} of shape {got}, expected "
                    f"{shape}: dt_rank is ceil(d_model / 16) and d_conv {taps} here; {HERE}"
                )
    if len(set(found)) > 1:
        raise UserError(
            f"{shapes.path} has other states or another expand in each stage ({found}); expected "
            f"one for all; {HERE}"
        )
    return found[0]


def _compare(
    path: Path, told: Mapping[str, Any], evidence: Mapping[str, str], stated: StatedSpec
) -> None:
    """Raise :class:`UserError` where what is stated contradicts the tensors."""
    wrong = []
    for name, option in stated.said.items():
        value = stated.values[name]
        if name == "mamba" and (value == "none") != (told.get("mamba") == "none"):
            is_there = "there is no Mamba" if value != "none" else "there is one"
            wrong.append(f"mamba={value!r} by {option}, {is_there} in the file (stages.0.mamba.*)")
        elif name == "expand" and told.get("mamba") == "none":
            continue
        elif name in _TOLD and name in told and _plain(value) != told[name]:
            wrong.append(f"{name} {_plain(value)} by {option}, {told[name]} by {evidence[name]}")
    if wrong:
        raise UserError(
            f"{path} contradicts what is stated of it: {'; '.join(wrong)}; leave the option out, "
            "or give the file that it describes"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _rest(
    shapes: _Shapes, told: Mapping[str, Any], stated: StatedSpec
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields that shapes do not tell, and in words those that were assumed."""
    like = next((s for s in SPECS.values() if _same_shapes(s, told, shapes)), None)
    defaults = like or NetSpec("custom", (1, 1, 1, 1, 1))
    rest: dict[str, Any] = {"name": (stated.base or defaults).name}
    names = ["strides", "input_size"]
    if told.get("mamba") != "none":
        names.append("mamba")
    else:
        # no tensor depends on them
        names += [name for name in ("states", "expand") if name in stated.values]
    if told["pyramid"] == "bins":
        names.append("pyramid_bins")
    assumed = []
    for name in names:
        if name in stated.values:
            rest[name] = _plain(stated.values[name])
        else:
            rest[name] = _plain(getattr(stated.base or defaults, name))
            assumed.append(_in_words(name, rest[name]))
    bins = shapes.count("pyramid.bin.{}.weight")
    if told["pyramid"] == "bins" and len(rest["pyramid_bins"]) != bins:
        whose = stated.said.get("pyramid_bins", "the default")
        raise UserError(
            f"{shapes.path} has a pyramid of {bins} bins, {whose} has {len(rest['pyramid_bins'])}; "
            "give their sizes as pyramid_bins in a --spec FILE.json"
        )
    return rest, tuple(assumed)


def _in_words(name: str, value: Any) -> str:
    if name == "input_size":
        return f"input {value[0]}x{value[1]}"
    return (
        f"{name} ({', '.join(map(str, value))})" if isinstance(value, list) else f"{name} {value}"
    )


def _same_shapes(spec: NetSpec, told: Mapping[str, Any], shapes: _Shapes) -> bool:
    """Whether a named spec has these shapes, but for what depends on the data."""
    left_out = {"classes", "in_channels"}
    if told.get("mamba") == "none":
        left_out |= {"states", "expand"}
    return all(
        _plain(getattr(spec, name)) == told.get(name) for name in _TOLD if name not in left_out
    ) and spec.mamba == told.get("mamba", "causal")


def differences(own: NetSpec, stated: StatedSpec) -> str:
    """Return in words where what is stated differs from a file's own spec, size of input apart."""
    pairs = [
        (f.name, getattr(own, f.name), stated.values[f.name])
        for f in fields(NetSpec)
        if f.name in stated.values and f.name != "input_size"
    ]
    return ", ".join(
        f"{name} ({mine!r}, given {given!r} by {stated.said[name]})"
        for name, mine, given in pairs
        if mine != given
    )
