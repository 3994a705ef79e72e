"""An image made ready as nnU-Net makes it, from the axes in which it was read to its mask.

nnU-Net knows no left and right: it takes an image in the axes of its file, as its reader gives
them. Images here are read into LPS, so they are turned back, exactly, before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmaunet.data import normalization as norm
from lmaunet.data.fusion import absent_of
from lmaunet.data.images.geometry import AxisTurn, Geometry, is_orientation, turn_to
from lmaunet.data.images.intensity import compare
from lmaunet.data.inference import notes_of
from lmaunet.data.modalities import KIND as ABSENT_KIND
from lmaunet.data.modalities import without
from lmaunet.data.nnunet_preparation import NnunetVolume, prepare
from lmaunet.data.nnunet_recipe import CT, ChannelRecipe, NnunetRecipe
from lmaunet.data.nnunet_windows import predict
from lmaunet.data.preparation import ReadyVolume, Run
from lmaunet.data.user_json import shown

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.data.images.volumes import Image

KIND = "nnunet"
FLAT_SPACING = 999
"""Times its largest spacing is what nnU-Net takes a 2-D image to be thick."""
DECIMALS, ROUNDING = 8, 1e-12
"""Digits of a spacing that a person wrote, and what a matrix's norm is off by, of the spacing."""
TAKEN_IN_AXES_OF_TRAINING = ("DICOM", "array")
"""What nnU-Net does not read: its users convert it, to the axes of their other files."""


@dataclass(frozen=True)
class NnunetPreparation:
    """How nnU-Net prepares images for a network that it trained.

    Args:
        recipe: what its plan says.
        intensity: what values the training images had, for each channel.
        axes: those of the training images as nnU-Net reads them, such as ``("RAS",)``; empty where
            they are not known.
    """

    recipe: NnunetRecipe
    intensity: tuple[Mapping[str, Any], ...] = ()
    axes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the network takes."""
        return self.recipe.patch_size

    @property
    def resampled_mm(self) -> tuple[float, float] | None:
        """Spacing of rows and columns that slices are resampled to."""
        return self.recipe.spacing_mm

    @property
    def depth(self) -> None:
        """None: it takes slices."""
        return None

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of a slice along which training mirrored."""
        return self.recipe.mirror_axes

    def ready(self, images: Sequence[Image], names: Sequence[str]) -> NnunetImage:
        """Return an image, one for each channel on one grid, as nnU-Net makes it.

        Raises:
            UserError: where its spacing makes slices too large or too small, or its values do not
                fit the recipe.
        """
        # axes are those of a file, which what stands in for a missing image has none of
        first = next(image for image in images if image.kind != ABSENT_KIND)
        geometry = first.geometry
        axes, of_axes = self._axes(first)
        turn = turn_to(axes)
        arrays = [image.array for image in images]
        spacing = reader_spacing(geometry.spacing_mm, len(geometry.grid.size), turn)
        volume = prepare([turn.view(array) for array in arrays], spacing, self.recipe)
        absent = absent_of(images)
        intensity, of_values = compare(
            arrays, self.intensity, norm.of_channels(kinds_of(self.recipe)),
            [image.modality for image in images], absent,
        )  # fmt: skip
        doubts = (*notes_of(names, images), *of_axes, *of_values)
        notes = []
        if volume.forth.shape != volume.forth.wanted:
            _, row, column = (spacing[axis] for axis in self.recipe.transpose)
            height, width = self.recipe.spacing_mm
            notes.append(
                f"slices are resampled from {row:.4g}x{column:.4g} mm to the network's "
                f"{height:.4g}x{width:.4g} mm"
            )
        return NnunetImage(
            volume,
            turn,
            geometry,
            (*doubts, *notes),
            first.kind,
            first.source,
            intensity,
            doubts,
            absent,
        )

    def _axes(self, image: Image) -> tuple[str, tuple[str, ...]]:
        """Return the axes in which an image is taken, and what is doubtful of them."""
        own = self.recipe.read_in(image.geometry.orientation)
        if not self.axes or own in self.axes:
            return own, ()
        if image.kind in TAKEN_IN_AXES_OF_TRAINING and len(self.axes) == 1:
            return self.axes[0], ()
        return own, (
            f"the image's axes run towards {own}, those of the training images towards "
            f"{' or '.join(self.axes)}; nnU-Net takes images in the axes of their files, so that "
            "the network sees this one turned or mirrored: turn the file to these axes first",
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a build's ``deployment.json`` says of it."""
        return {
            # no kind that a version without recipes knows: it refuses the build
            "normalization": {"kind": KIND},
            "resampled_mm": list(self.recipe.spacing_mm),
            "shrunk_to_fit": False,
            "intensity": [dict(channel) for channel in self.intensity],
            "recipe": {"kind": KIND, "axes": list(self.axes), **self.recipe.to_json()},
        }

    @staticmethod
    def from_json(content: Any, intensity: tuple[Mapping[str, Any], ...]) -> NnunetPreparation:
        """Return the preparation whose ``recipe`` is given.

        Raises:
            UserError: for no recipe; so do KeyError, TypeError and ValueError for other content.
        """
        axes = content["axes"]
        if not isinstance(axes, list) or not all(map(is_orientation, axes)):
            raise ValueError(f"axes {shown(axes)}: expected such as ['RAS']")
        return NnunetPreparation(NnunetRecipe.from_json(content), intensity, tuple(axes))


@dataclass(frozen=True, eq=False)
class NnunetImage(ReadyVolume):
    """An image as nnU-Net makes it ready.

    Args:
        volume: in the axes in which nnU-Net reads it.
        turn: from LPS to these.
        geometry, notes, kind, source, intensity, doubts, modalities: as :class:`ReadyVolume` has
            them.
        absent: the channels that are missing; their values play no part.
    """

    volume: NnunetVolume
    turn: AxisTurn
    geometry: Geometry
    notes: tuple[str, ...] = ()
    kind: str = ""
    source: Any = None
    intensity: Sequence[Mapping[str, Any]] = ()
    doubts: tuple[str, ...] = ()
    absent: tuple[int, ...] = ()
    modalities: Sequence[Mapping[str, Any]] = ()

    def __len__(self) -> int:
        return len(self.volume)

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of the cropped slices at the network's spacing."""
        return self.volume.forth.wanted

    @property
    def windowed(self) -> bool:
        """Whether windows cover the slices."""
        patch = self.volume.recipe.patch_size
        return any(have > want for have, want in zip(self.scaled, patch, strict=True))

    def images(self, start: int, stop: int) -> np.ndarray:
        """Return slices ``start`` to ``stop`` of the crop: float32 ``(n, channels, H, W)``."""
        return without(self.volume.images(start, stop), self.absent)

    def cover(self, images: np.ndarray, run: Run, *, overlap: float, batch: int) -> np.ndarray:
        """Return the logits of slices; nnU-Net's step is what windows do not overlap."""
        step = round(1 - overlap, DECIMALS)
        return predict(images, self.volume.recipe.patch_size, run, batch=batch, step=step)

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Return the classes ``(n, y, x)`` in the crop of logits ``(n, classes, H, W)``."""
        return self.volume.labels(logits)

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return logits on the crop's grid, float32 ``(n, classes, y, x)``."""
        import numpy as np

        return self.volume.logits(logits).astype(np.float32)

    def within(self, output: np.ndarray) -> np.ndarray:
        """Return a view of ``(..., z, y, x)`` in LPS as the crop's slices."""
        return self.volume.within(self.turn.view(output))


def reader_spacing(
    spacing_mm: Sequence[float], dimensions: int, turn: AxisTurn
) -> tuple[float, ...]:
    """Return the spacing that nnU-Net's reader gives, in mm, in the axes that it reads.

    Args:
        spacing_mm: z, y, x in LPS.
        dimensions: of the file; nnU-Net takes a 2-D image for a very thick slice.
        turn: from LPS to these axes.
    """
    found = [exact_mm(spacing_mm[axis]) for axis in turn.order]
    if dimensions == 2:
        found[0] = FLAT_SPACING * max(found[1:])
    return tuple(found)


def exact_mm(mm: float) -> float:
    """Return a spacing without the rounding of the matrix that it was read from.

    NIfTI's are float32, those of other formats mostly decimals of a few digits: half a pixel more
    or less decides how large a slice becomes.
    """
    import numpy as np

    for simple in (float(np.float32(mm)), float(f"{mm:.{DECIMALS}g}")):
        if abs(simple - mm) <= ROUNDING * mm:
            return simple
    return mm


def kinds_of(recipe: NnunetRecipe) -> list[dict[str, Any]]:
    """Return the normalization of each channel in this program's kinds, as near as they come.

    Images are compared with those of training by it, and never normalised.
    """
    return [_kind_of(channel) for channel in recipe.channels]


def _kind_of(channel: ChannelRecipe) -> dict[str, Any]:
    if channel.scheme == CT:
        low, high = (channel.fingerprint[f"percentile_{name}"] for name in ("00_5", "99_5"))
        if high - low > norm.SMALLEST_WINDOW:
            return norm.window(low, high)
        return {"kind": "none"}
    return {
        "ZScoreNormalization": norm.zscore("nonzero" if channel.masked else "volume"),
        "RescaleTo01Normalization": {"kind": "rescale"},
        "RGBTo01Normalization": norm.window(0, 255),
    }.get(channel.scheme, {"kind": "none"})
