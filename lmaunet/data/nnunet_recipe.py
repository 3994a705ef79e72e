"""How nnU-Net prepares images for one of its networks, as data: what its plan says of that.

:mod:`lmaunet.data.nnunet_preparation` does what is said here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmaunet.data.nnunet_resampling import ORDERS
from lmaunet.data.user_json import is_whole, shown
from lmaunet.errors import UserError

SCHEMES = ("ZScoreNormalization", "CTNormalization", "NoNormalization",
           "RescaleTo01Normalization", "RGBTo01Normalization")  # fmt: skip
"""nnU-Net's normalizations, by the names of its classes."""
CT = "CTNormalization"
FINGERPRINT = ("mean", "std", "percentile_00_5", "percentile_99_5")
"""What a channel's intensities were in the labelled voxels of training; CT's scheme reads these."""
READERS: Mapping[str, str | None] = {
    "SimpleITKIO": None, "NibabelIO": None, "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}  # fmt: skip
"""nnU-Net's classes that read files, and to which axes each turns them: where they run to, the
fastest one's first; None for those of the file. Others read pictures (PNG, TIFF)."""


@dataclass(frozen=True)
class ChannelRecipe:
    """What is done to the values of one channel.

    Args:
        scheme: one of SCHEMES.
        masked: whether a z-score is of the filled non-zero voxels alone, the others staying 0.
        fingerprint: the four numbers of FINGERPRINT; empty where the plan has none.
    """

    scheme: str
    masked: bool
    fingerprint: Mapping[str, float]

    def __post_init__(self) -> None:
        known = self.scheme in SCHEMES and isinstance(self.masked, bool)
        if not known or not all(_is_number(v) for v in self.fingerprint.values()):
            raise UserError(
                f"normalization {shown(self.scheme)}, masked {shown(self.masked)}, of "
                f"{shown(dict(self.fingerprint))}; expected one of {', '.join(SCHEMES)}, true or "
                "false, and numbers"
            )
        lacking = [name for name in FINGERPRINT if name not in self.fingerprint]
        if self.scheme == CT and lacking:
            raise UserError(
                f"{CT} needs the intensities of training, {', '.join(lacking)} lack; give the plan "
                "that the network was trained with, with foreground_intensity_properties"
            )
        known_ct = dict(self.fingerprint) if self.scheme == CT else {}
        low, high = known_ct.get("percentile_00_5", 0.0), known_ct.get("percentile_99_5", 0.0)
        if low > high or known_ct.get("std", 0.0) < 0:
            raise UserError(
                f"{CT} by {shown(known_ct)}; expected percentiles in their order and a deviation "
                "of 0 or more; give the plan that the network was trained with"
            )


@dataclass(frozen=True)
class Resampling:
    """The orders of the splines, 0, 1 or 3, by which an image or its logits are resampled.

    Args:
        order: within slices.
        order_apart: along an axis that is resampled apart.
        force: the plan's ``force_separate_z``; None lets the spacings say.
    """

    order: int
    order_apart: int = 0
    force: bool | None = None

    def __post_init__(self) -> None:
        right = self.order in ORDERS and self.order_apart in ORDERS
        if not right or not (self.force is None or isinstance(self.force, bool)):
            raise UserError(
                f"resampling of order {shown(self.order)}, {shown(self.order_apart)} apart, "
                f"force_separate_z {shown(self.force)}; expected orders 0, 1 or 3, as nnU-Net's "
                "own plans have, and true, false or null"
            )


@dataclass(frozen=True)
class NnunetRecipe:
    """What nnU-Net's plan says of images for a 2-D network.

    Args:
        patch_size: height and width that the network takes, in pixels.
        spacing_mm: of rows and columns, after transposition, that slices are resampled to.
        transpose: the axis of the file that each axis of the network's volume is.
        channels: what is done to the values of each.
        mirror_axes: of a slice, 0 its rows and 1 its columns, along which a prediction may be
            averaged over mirrored images; those that training mirrored along.
        images, logits: how each is resampled.
        reader: nnU-Net's class that read the files: it says the order of a file's axes.
    """

    patch_size: tuple[int, int]
    spacing_mm: tuple[float, float]
    transpose: tuple[int, int, int]
    channels: tuple[ChannelRecipe, ...]
    mirror_axes: tuple[int, ...] = ()
    images: Resampling = Resampling(3)
    logits: Resampling = Resampling(1)
    reader: str = "SimpleITKIO"

    def __post_init__(self) -> None:
        sides = len(self.patch_size) == 2 and all(is_whole(n) and n > 0 for n in self.patch_size)
        spacing = len(self.spacing_mm) == 2 and all(
            _is_number(mm) and mm > 0 for mm in self.spacing_mm
        )
        order = all(map(is_whole, self.transpose)) and sorted(self.transpose) == [0, 1, 2]
        mirror = all(map(is_whole, self.mirror_axes)) and set(self.mirror_axes) <= {0, 1}
        mirror &= len(set(self.mirror_axes)) == len(self.mirror_axes)
        for right, name, value, expected in (
            (sides, "patch size", self.patch_size, "a height and a width in pixels"),
            (spacing, "spacing", self.spacing_mm, "millimetres of rows and columns"),
            (order, "transposition", self.transpose, "an order of the axes 0, 1 and 2"),
            (mirror, "mirroring axes", self.mirror_axes, "0 for rows, 1 for columns, or none"),
            (bool(self.channels), "channels", self.channels, "at least one"),
            (
                isinstance(self.reader, str) and self.reader in READERS,
                "reader",
                self.reader,
                f"one of {', '.join(READERS)}, which read volumes; convert the images to .nii.gz, "
                "plan and train again",
            ),
        ):
            if not right:
                raise UserError(f"{name} {shown(value)}; expected {expected}")

    def read_in(self, orientation: str) -> str:
        """Return the axes in which nnU-Net reads a file whose own axes are given."""
        return READERS[self.reader] or orientation

    @property
    def transpose_back(self) -> tuple[int, ...]:
        """The axis of the network's volume that each axis of the file is."""
        return tuple(self.transpose.index(axis) for axis in range(3))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; lengths in mm."""
        return {
            "patch_size": list(self.patch_size),
            "spacing_mm": list(self.spacing_mm),
            "transpose": list(self.transpose),
            "channels": [
                {**asdict(channel), "fingerprint": dict(channel.fingerprint)}
                for channel in self.channels
            ],
            "mirror_axes": list(self.mirror_axes),
            "images": asdict(self.images),
            "logits": asdict(self.logits),
            "reader": self.reader,
        }

    @staticmethod
    def from_json(content: Any) -> NnunetRecipe:
        """Return the recipe that :meth:`to_json` wrote; raises UserError for anything else."""
        try:
            height, width = content["patch_size"]
            row, column = content["spacing_mm"]
            first, second, third = content["transpose"]
            return NnunetRecipe(
                (height, width),
                (row, column),
                (first, second, third),
                tuple(ChannelRecipe(**channel) for channel in content["channels"]),
                tuple(content["mirror_axes"]),
                Resampling(**content["images"]),
                Resampling(**content["logits"]),
                content["reader"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"no recipe of nnU-Net's ({error!r}); import its folder again"
            ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
