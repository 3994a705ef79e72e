"""What a network is: every width, stride and kernel of an LMa-UNet, and the formats of a scan.

:class:`NetSpec` names a network's choices; its layers, parameters and multiply-accumulates are
those of its graph (:mod:`lmaunet.graph.layers`). :class:`ScanSpec` holds the number formats of one
selective scan in integers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lmaunet.errors import UserError

CONV1D_TAPS = 4

Sides = int | tuple[int, ...]
"""A stride or a kernel: one number for all axes, or one for each."""


@dataclass(frozen=True)
class NetSpec:
    """The choices that make an LMa-UNet.

    Args:
        name: the spec's name.
        in_channels, classes: image channels; classes with the background.
        widths: channels of the shallow stage, three large-kernel Mamba (LKM) stages, the deep LKM.
        strides: the max pooling before each of the four LKMs; for volumes each may be three, for
            depth, height and width, such as (1, 2, 2) where slices are thick.
        block: what an encoder stage is: ``lkm``, or as in a U-Net two convolutions with norm and
            ReLU, ``convs`` dense and ``separable`` depthwise with a 1x1 behind, of ``kernels``.
        kernels: the depthwise kernel of each LKM: 3, 5, 7 or 9; 1 is a dense 1x1 convolution in
            place of the large kernel. For volumes each may be three, of which some may be 1.
        states: N, states of the selective scan per channel.
        expand: d_inner / d_model of Mamba.
        mamba: ``causal``, over the tokens in raster order; ``both``, the same weights over the
            tokens in both orders, averaged; ``none``, local features only, as in a block that is
            no LKM. Of the LKMs only ``causal`` is meant to be deployed; the others are there to
            be compared with.
        skip: how the decoder joins a skip: ``add`` or ``concat``.
        decoder_widths: channels of the decoder's levels, shallowest first.
        decoder_convs: 3x3 convolutions in a decoder level.
        pyramid: ``local`` (a 1x1 reduction, stride-1 max pools of 3 and 5, a 1x1) needs no view of
            the whole map, which streaming hardware likes; ``bins`` is adaptive average pooling
            into ``pyramid_bins``, then a 3x3 as in the article.
        pyramid_width: channels that the pyramid puts out.
        input_size: height and width that the network is exported for; depth, height and width
            make it a network of volumes, whose operators have three spatial axes.
        elastic: the kernels that one depthwise weight of each LKM serves, each with norms of its
            own (:mod:`lmaunet.kernel_profiles`); the largest is that of ``kernels``. Empty: each
            LKM has one kernel.
    """

    name: str
    widths: tuple[int, int, int, int, int]
    in_channels: int = 1
    classes: int = 9
    strides: tuple[Sides, Sides, Sides, Sides] = (2, 2, 2, 2)
    kernels: tuple[Sides, Sides, Sides, Sides] = (7, 7, 7, 7)
    states: int = 16
    expand: int = 1
    mamba: Literal["causal", "both", "none"] = "causal"
    skip: Literal["add", "concat"] = "add"
    decoder_widths: tuple[int, int, int, int] | None = None
    decoder_convs: int = 1
    pyramid: Literal["local", "bins"] = "local"
    pyramid_bins: tuple[int, ...] = (1, 2, 4, 8)
    pyramid_width: int | None = None
    input_size: tuple[int, ...] = (256, 256)
    block: Literal["lkm", "convs", "separable"] = "lkm"
    elastic: tuple[int, ...] = ()

    LARGEST: ClassVar[Mapping[str, int]] = {
        "widths": 2**14, "decoder_widths": 2**14, "pyramid_width": 2**14, "strides": 64,
        "kernels": 9, "pyramid_bins": 64, "input_size": 2**14, "in_channels": 1024, "states": 1024,
        "expand": 64, "decoder_convs": 64, "classes": 4096,
    }  # fmt: skip
    """The largest number that a field may hold: far above what anyone trains."""

    def __post_init__(self) -> None:
        for key in ("widths", "strides", "kernels", "decoder_widths", "pyramid_bins", "input_size",
                    "elastic"):  # fmt: skip
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, tuple(map(_plain, value)))
        if len(self.widths) != 5:
            raise UserError(f"spec {self.name}: widths={self.widths}; give 5 positive numbers")
        if self.decoder_widths is None:
            object.__setattr__(self, "decoder_widths", self.widths[:4])
        if self.pyramid_width is None:
            object.__setattr__(self, "pyramid_width", self.widths[4])
        self._check()

    def _check(self) -> None:
        if len(self.input_size) not in (2, 3):
            raise UserError(
                f"spec {self.name}: input_size={self.input_size}; give 2 positive numbers, height "
                "and width, or 3 with the depth of volumes before them"
            )
        lengths = {"widths": 5, "strides": 4, "kernels": 4, "decoder_widths": 4}
        for key, length in {**lengths, "input_size": self.dims}.items():
            value = getattr(self, key)
            if len(value) != length or min(flat(value)) < 1:
                raise UserError(f"spec {self.name}: {key}={value}; give {length} positive numbers")
            for sides in value:
                if isinstance(sides, tuple) and (len(sides) != self.dims or self.dims == 2):
                    raise UserError(
                        f"spec {self.name}: {key}={value}; give a number each, or for volumes "
                        "three: depth, height and width"
                    )
        counts = ("in_channels", "states", "expand", "decoder_convs", "pyramid_width", "classes")
        for key in counts:
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"spec {self.name}: {key}={value!r}; give 1 or more, whole")
        if not self.pyramid_bins or min(self.pyramid_bins) < 1:
            raise UserError(
                f"spec {self.name}: pyramid_bins={self.pyramid_bins}; give positive numbers"
            )
        if self.classes < 2:
            raise UserError(f"spec {self.name}: classes={self.classes}; give 2 or more")
        if self.block not in ("lkm", "convs", "separable"):
            raise UserError(
                f"spec {self.name}: block={self.block!r}; use 'lkm', 'convs' or 'separable'"
            )
        for k in self.kernels:
            ones = (1,) if self.block == "lkm" or (isinstance(k, tuple) and max(k) > 1) else ()
            if any(side not in (*ones, 3, 5, 7, 9) for side in flat((k,))):
                raise UserError(
                    f"spec {self.name}: kernels={self.kernels}; each is 3, 5, 7 or 9, in an LKM "
                    "also 1"
                )
        self._check_elastic()
        if self.skip not in ("add", "concat") or self.pyramid not in ("local", "bins"):
            raise UserError(
                f"spec {self.name}: skip={self.skip!r}, pyramid={self.pyramid!r}; "
                "skip is 'add' or 'concat', pyramid is 'local' or 'bins'"
            )
        if self.mamba not in ("causal", "both", "none"):
            raise UserError(
                f"spec {self.name}: mamba={self.mamba!r}; use 'causal', 'both' or 'none'"
            )
        if self.block != "lkm" and self.mamba != "none":
            raise UserError(
                f"spec {self.name}: block={self.block!r} with mamba={self.mamba!r}; a block of "
                "convolutions has no Mamba: give mamba 'none', or block 'lkm'"
            )
        for key, largest in self.LARGEST.items():
            value = getattr(self, key)
            if max(flat(value)) > largest if isinstance(value, tuple) else value > largest:
                raise UserError(f"spec {self.name}: {key}={value}; give at most {largest:,}")
        self.check_size(*self.input_size)

    def _check_elastic(self) -> None:
        if not self.elastic:
            return
        kernels = sorted(set(self.elastic))
        if tuple(kernels) != self.elastic or len(kernels) < 2 or not set(kernels) <= {3, 5, 7, 9}:
            raise UserError(
                f"spec {self.name}: elastic={self.elastic}; give two or more kernels in order, "
                "such as 5, 7, 9"
            )
        if self.dims != 2:
            raise UserError(
                f"spec {self.name}: elastic={self.elastic} with input_size={self.input_size}; "
                "kernels of choice are those of networks of slices: give height and width"
            )
        if self.block != "lkm":
            raise UserError(
                f"spec {self.name}: elastic={self.elastic} with block={self.block!r}; kernels of "
                "choice are those of an LKM: give block 'lkm'"
            )
        if set(self.kernels) != {kernels[-1]}:
            raise UserError(
                f"spec {self.name}: elastic={self.elastic} with kernels={self.kernels}; each LKM's "
                f"kernel is then the largest, {kernels[-1]}"
            )

    def check_size(self, *size: int) -> None:
        """Raise :class:`UserError` where an image of this size does not fit the network.

        Args:
            size: height and width; of a volume depth, height and width.
        """
        steps = self.size_multiples
        if len(size) == len(steps) and not any(
            side < step or side % step for side, step in zip(size, steps, strict=True)
        ):
            return
        alike = steps[0] if self.dims == 2 else "x".join(map(str, steps))
        axes = "height and width" if self.dims == 2 else "depth, height and width"
        raise UserError(
            f"spec {self.name}: input {'x'.join(map(str, size))}; {axes} must be multiples "
            f"of {alike} (the strides' product times the finest pyramid bin)"
        )

    @property
    def dims(self) -> int:
        """Spatial axes: 2 of slices, 3 of volumes."""
        return len(self.input_size)

    @property
    def size_multiples(self) -> tuple[int, ...]:
        """What each of the input's sides must be a multiple of."""
        bins = math.lcm(*self.pyramid_bins) if self.pyramid == "bins" else 1
        strides = [self.sides(stride) for stride in self.strides]
        return tuple(math.prod(axis) * bins for axis in zip(*strides, strict=True))

    @property
    def size_multiple(self) -> int:
        """What each of the input's sides may be a multiple of, one number for all."""
        return math.lcm(*self.size_multiples)

    def sides(self, given: Sides) -> tuple[int, ...]:
        """Return a stride or a kernel with a number for each axis."""
        return given if isinstance(given, tuple) else (given,) * self.dims

    def inner(self, width: int) -> int:
        """Return d_inner, the channels of the scan in an LKM of ``width`` channels."""
        return width * self.expand

    @staticmethod
    def dt_rank(width: int) -> int:
        """Return the rank of Mamba's time-step projection, ceil(d_model / 16)."""
        return math.ceil(width / 16)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON, for checkpoints and manifests.

        What a field was before there was a choice is left out, so that older files stay equal:
        a causal Mamba, in an LKM, of one kernel.
        """
        before = {"mamba": "causal", "block": "lkm", "elastic": ()}
        return {k: _listed(v)
                for k, v in dataclasses.asdict(self).items()
                if k not in before or v != before[k]}  # fmt: skip

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> NetSpec:
        """Return the spec that :meth:`to_json` wrote; raises UserError for anything else."""
        if not isinstance(content, Mapping):
            raise UserError(f"not a network specification: it is a {type(content).__name__}")
        known = [f.name for f in dataclasses.fields(NetSpec)]
        unknown = [str(key)[:40] for key in content if key not in known]
        if unknown:
            raise UserError(
                f"not a network specification: unknown {', '.join(map(repr, unknown[:3]))}; its "
                f"fields are {', '.join(known)}"
            )
        for key in ("name", "widths"):
            if key not in content:
                raise UserError(f"not a network specification: it has no {key!r}")
        for key, value in content.items():
            if key in ("name", "skip", "mamba", "pyramid", "block"):
                right, kind = isinstance(value, str) and value.isprintable(), "text"
            elif key in ("strides", "kernels"):
                right = isinstance(value, (list, tuple)) and all(
                    type(v) is int or (_whole_numbers(v) and 0 < len(v) <= 3) for v in value
                )
                kind = "a list of whole numbers"
            elif key in ("widths", "pyramid_bins", "input_size", "elastic"):
                right, kind = _whole_numbers(value), "a list of whole numbers"
            elif key == "decoder_widths":
                right, kind = value is None or _whole_numbers(value), "a list of whole numbers"
            else:
                continue
            if not right or len(value or ()) > 64:
                raise UserError(
                    f"not a network specification: {key}={str(value)[:40]!r}, expected {kind}"
                )
        return NetSpec(**content)

    def replace(self, **changes: Any) -> NetSpec:
        """Return a copy with other values; ``None`` leaves a value as it is."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})


def flat(values: tuple[Sides, ...]) -> list[int]:
    """Return all numbers of a tuple, those of the tuples in it too."""
    return [v for value in values for v in (value if isinstance(value, tuple) else (value,))]


def _plain(value: Any) -> Sides:
    return tuple(map(int, value)) if isinstance(value, (list, tuple)) else int(value)


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(v) is int for v in value)


SPECS = {
    spec.name: spec
    for spec in (
        NetSpec("base", (56, 112, 144, 288, 512), expand=2, skip="concat", decoder_convs=2,
                pyramid="bins"),
        NetSpec("edge", (24, 48, 96, 192, 256), pyramid_width=192, states=8),
        NetSpec("demo", (12, 24, 32, 48, 64), states=8, kernels=(7, 7, 7, 5),
                input_size=(128, 128)),
        # the article's ablation: base with other encoder blocks, in widths that give its sizes
        NetSpec("unet", (48, 96, 136, 216, 368), block="convs", kernels=(3, 3, 3, 3),
                mamba="none", skip="concat", decoder_convs=2, pyramid="bins"),
        NetSpec("unet-large-kernel", (64, 128, 168, 336, 600), block="separable", mamba="none",
                skip="concat", decoder_convs=2, pyramid="bins"),
        NetSpec("unet-mamba", (56, 112, 128, 264, 456), kernels=(1, 1, 1, 1), expand=2,
                skip="concat", decoder_convs=2, pyramid="bins"),
        NetSpec("edge3d", (16, 32, 64, 128, 192), pyramid_width=128, states=8,
                strides=((1, 2, 2), 2, 2, (1, 2, 2)), kernels=(5, 5, 5, 5),
                input_size=(16, 128, 128)),
    )
}  # fmt: skip


def named_spec(name: str) -> NetSpec:
    """Return a named spec; raises :class:`UserError` for an unknown name."""
    if name not in SPECS:
        raise UserError(f"unknown spec {name!r}; use one of: {', '.join(SPECS)}")
    return SPECS[name]


@dataclass(frozen=True)
class Format:
    """A fixed-point format: ``bits`` in all, ``frac`` of them fractional.

    ``frac`` may be negative or exceed ``bits``. A cut to it rounds half up (towards plus infinity,
    ``floor(v + 1/2)``) and saturates. A signed format spans the full two's complement range.
    """

    bits: int
    frac: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 62:
            raise UserError(f"a format of {self.bits} bits; give 1 to 62")

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class ScanSpec:
    """One selective scan in integers.

    Args:
        channels, states: D and N.
        formats: the format of each cut and of each constant, by the name that
            ``lmaunet/scan/recurrence.py`` uses.
        exp_segments: segments of the piecewise-linear 2^-f over [0, 1); a power of two.
        state_shift: for each channel how many more fractional bits its drive and its state have
            than their formats say; empty for none.
    """

    channels: int
    states: int
    formats: Mapping[str, Format] = field(default_factory=dict)
    exp_segments: int = 32
    state_shift: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ScanSpec:
        """Return the spec that :meth:`to_json` wrote; raises UserError for anything else."""
        try:
            formats = {name: Format(**value) for name, value in content["formats"].items()}
            sizes = int(content["channels"]), int(content["states"])
            shift = tuple(int(s) for s in content.get("state_shift", ()))
            return ScanSpec(*sizes, formats, int(content["exp_segments"]), shift)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"not the number formats of a scan: {error!r}") from error
