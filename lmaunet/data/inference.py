"""An image made ready for a trained network slice by slice, and its segmentation brought back."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data import modalities
from lmaunet.data import normalization as norm
from lmaunet.data.framing import AxisOperator, Framing, zoom_to
from lmaunet.data.fusion import KEPT, Fusion, absent_of, described, fuse, placed
from lmaunet.data.images.geometry import Geometry
from lmaunet.data.images.intensity import compare
from lmaunet.data.images.volumes import Image, read_pixels
from lmaunet.data.modalities import without
from lmaunet.data.preparation import ImagePreparation, ReadyVolume, Run
from lmaunet.data.windows import cover, cover_volume
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

UNLIKE_SPACING = 1.5
"""How many times as far apart slices may be as in training, or as near, without a doubt."""
LARGEST_SIDE = 4096
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Preparation:
    """How images became the slices that a network was trained on, enough to do it to another.

    Args:
        size: height and width that the network takes.
        normalization: the data set's, with the mean and deviation of its training slices.
        resampled_mm: y, x spacing that slices were resampled to; None where the set had none.
        fit: whether slices that were then larger than ``size`` were shrunk to it.
        intensity: what values the training images had, for each channel; empty where the build
            does not say.
        depth: slices that a network of volumes takes; None of one that takes slices.
        slice_mm: of a network of volumes, how far slices were apart in training; None where it is
            unknown or cases differ. Slices are never resampled along this axis.
    """

    size: tuple[int, int]
    normalization: Mapping[str, Any]
    resampled_mm: tuple[float, float] | None
    fit: bool
    intensity: tuple[Mapping[str, Any], ...] = ()
    depth: int | None = None
    slice_mm: float | None = None

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """None: training here never mirrors, because left and right organs have their classes."""
        return ()

    def ready(self, images: Sequence[Image], names: Sequence[str]) -> PreparedVolume:
        """Return an image, one for each channel on one grid, as the slices of training were made.

        Raises:
            UserError: where its spacing makes slices that are too large or too small.
        """
        first = images[0].geometry
        framing, of_framing = _framing(first, self, names[0])
        arrays = tuple(image.array for image in images)
        absent = absent_of(images)
        intensity, of_values = compare(
            arrays, self.intensity, self.normalization, [i.modality for i in images], absent
        )
        doubts = (*notes_of(names, images), *of_values, *self._apart(first.spacing_mm[0]))
        return PreparedVolume(
            arrays, first, framing, self, (*doubts, *of_framing), images[0].kind, images[0].source,
            intensity, doubts, absent=absent,
        )  # fmt: skip

    def _apart(self, mm: float) -> tuple[str, ...]:
        """Return a doubt where slices are further apart, or nearer, than those of training."""
        if self.depth is None or self.slice_mm is None:
            return ()
        if 1 / UNLIKE_SPACING <= mm / self.slice_mm <= UNLIKE_SPACING:
            return ()
        return (
            f"slices are {mm:g} mm apart, those of training were {self.slice_mm:g} mm: the network "
            "takes them as they are, and sees organs of another depth than it learned; resample "
            f"the image to slices of {self.slice_mm:g} mm",
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a build's ``deployment.json`` says of it."""
        of_volumes = {"depth": self.depth, "slice_mm": self.slice_mm}
        return {
            **({} if self.depth is None else {"volume": of_volumes}),
            "normalization": dict(self.normalization),
            "resampled_mm": None if self.resampled_mm is None else list(self.resampled_mm),
            "shrunk_to_fit": self.fit,
            "intensity": [dict(channel) for channel in self.intensity],
            "recipe": None,
        }


@dataclass(frozen=True, eq=False)
class PreparedVolume(ReadyVolume):
    """A volume that gives its slices as a network of this program's takes them.

    Args:
        channels: one float32 ``(z, y, x)`` for each channel, as read.
        geometry: where they lie.
        framing: how slices are brought to the network's spacing. Its ``size`` is the network's, or
            larger where the slice is: windows then cover it.
        preparation: the network's.
        notes: what the user should know.
        kind: the first channel's format, such as ``DICOM``.
        source: its DICOM series, where it is one.
        intensity: for each channel, what values were seen, what training had, and in what they
            are unlike.
        doubts: those of the notes that tell of a repair, or of values unlike those of training.
        absent: the channels that are missing; their values play no part.
        modalities: what was done to each channel's image.
    """

    channels: tuple[np.ndarray, ...]
    geometry: Geometry
    framing: Framing
    preparation: Preparation
    notes: tuple[str, ...] = ()
    kind: str = ""
    source: Any = None
    intensity: Sequence[Mapping[str, Any]] = ()
    doubts: tuple[str, ...] = ()
    absent: tuple[int, ...] = ()
    modalities: Sequence[Mapping[str, Any]] = ()

    def __len__(self) -> int:
        return self.geometry.shape[0]

    @functools.cached_property
    def _kinds(self) -> list[Mapping[str, Any]]:
        """The channels' normalizations, with the statistics of this volume where they need them."""
        kind = self.preparation.normalization
        return [norm.bind(norm.channel(kind, i), c) for i, c in enumerate(self.channels)]

    @functools.cached_property
    def _operators(self) -> tuple[AxisOperator, AxisOperator] | None:
        return self.framing.operators()

    def images(self, start: int, stop: int) -> np.ndarray:
        """Return slices ``start`` to ``stop``, normalised: float32 ``(n, channels, H, W)``."""
        import numpy as np

        framed = []
        for channel, kind in zip(self.channels, self._kinds, strict=True):
            unit = norm.to_unit(channel[start:stop], kind)
            images = self.framing.images(unit, norm.fill(unit, kind), self._operators)
            framed.append(norm.standardize(images, kind))
        return without(np.stack(framed, 1), self.absent)

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of the slices at the network's spacing."""
        return self.framing.scaled

    @property
    def windowed(self) -> bool:
        """Whether windows cover the slices."""
        deep = self.depth is not None and len(self) > self.depth
        return deep or self.framing.size != self.preparation.size

    @property
    def depth(self) -> int | None:
        """Slices that a network of volumes takes at a time."""
        return self.preparation.depth

    def cover(self, images: np.ndarray, run: Run, *, overlap: float, batch: int) -> np.ndarray:
        """Return the logits of slices, those of windows averaged by a Gaussian weight."""
        if self.depth is not None:
            size = self.depth, *self.preparation.size
            return cover_volume(images, size, run, overlap=overlap, batch=batch)
        return cover(images, self.preparation.size, run, overlap=overlap, batch=batch)

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Return the classes ``(n, y, x)`` of logits ``(n, classes, H, W)`` on the image's grid."""
        return self.framing.classes(logits)

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return logits ``(n, classes, y, x)`` on the image's grid."""
        return self.framing.logits(logits)


def prepare_volume(
    paths: Sequence[Path], preparation: ImagePreparation, channels: int = 1,
    fusion: Fusion = KEPT,
) -> ReadyVolume:  # fmt: skip
    """Read an image and make it like the slices that a network was trained on.

    Args:
        paths: a NIfTI, NRRD or MetaImage file or a DICOM folder for each channel that is not
            missing.
        preparation: the network's.
        channels: how many the network takes.
        fusion: what may be done where they lie on unlike grids, and which are missing.

    Raises:
        UserError: where the image cannot be used.
    """
    require_channels(len(paths), channels, len(fusion.absent))
    images = [read_pixels(path) for path in paths]
    return prepare_images(images, list(map(str, paths)), preparation, fusion)


def require_channels(count: int, channels: int, absent: int = 0) -> None:
    """Raise UserError where there are more or fewer images than channels of the network."""
    if count + absent != channels:
        but, wanted = f", {absent} of them missing" if absent else "", channels - absent
        raise UserError(
            f"{count} image(s); the network takes {channels} channel(s){but}: give "
            f"{'one image' if wanted == 1 else f'{wanted} images on one grid, in its order'}"
        )


def prepare_images(
    images: Sequence[Image], names: Sequence[str], preparation: ImagePreparation,
    fusion: Fusion = KEPT,
) -> ReadyVolume:  # fmt: skip
    """Make an image that was read like the slices that a network was trained on.

    Args:
        images: one for each channel of the network that is not missing, of finite float32 pixels.
        names: what each is called in messages, such as its path.
        preparation: the network's.
        fusion: what may be done where they lie on unlike grids, and which are missing.

    Raises:
        UserError: where the image cannot be used.
    """
    called = [name or fusion.name(i) for i, name in enumerate(placed(names, fusion.absent))]
    fused, records = fuse(placed(images, fusion.absent), called, fusion)
    # the first that is there says format and DICOM series
    made = preparation.ready(fused, called)
    there = next(image for image in fused if image.kind != modalities.KIND)
    return dataclasses.replace(  # type: ignore[type-var]
        made, kind=there.kind, source=there.source, modalities=described(records, fusion)
    )


def notes_of(names: Sequence[str], images: Sequence[Image]) -> list[str]:
    """Return the notes on how images were read, with the file's name where there are several."""
    return [
        note if len(names) == 1 else f"{Path(name).name}: {note}"
        for name, image in zip(names, images, strict=True)
        for note in image.notes
    ]


def _framing(
    geometry: Geometry, preparation: Preparation, path: Path | str
) -> tuple[Framing, tuple[str, ...]]:
    """Return how slices are brought to the network's spacing, and notes on it."""
    size, target = preparation.size, preparation.resampled_mm
    spacing = geometry.spacing_mm[1:]
    zoom = zoom_to(spacing, target)
    exact = [side * factor for side, factor in zip(geometry.shape[1:], zoom, strict=True)]
    if not all(math.isfinite(side) for side in exact) or max(exact) > LARGEST_SIDE:
        raise UserError(
            f"{path}: spacing {spacing[0]:g}x{spacing[1]:g} mm makes slices of "
            f"{exact[0]:.0f}x{exact[1]:.0f} at the network's spacing; expected at most "
            f"{LARGEST_SIDE}; correct the spacing in the file"
        )
    framing = Framing.of(geometry.shape[1:], size, zoom=zoom, fit=preparation.fit)
    if min(framing.scaled) < SMALLEST_SIDE:
        raise UserError(
            f"{path}: slices of {geometry.shape[1]}x{geometry.shape[2]} are "
            f"{framing.scaled[0]}x{framing.scaled[1]} for the network; expected "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE} or more; give a larger image, or correct the spacing "
            "in the file"
        )
    notes = []
    if target is None:
        notes.append(
            "the network's training images had no spacing: pixels are taken as they are, whatever "
            f"their size ({spacing[0]:g}x{spacing[1]:g} mm here)"
        )
    elif zoom != (1.0, 1.0):
        notes.append(
            f"slices are resampled from {spacing[0]:.4g}x{spacing[1]:.4g} mm to the network's "
            f"{target[0]:.4g}x{target[1]:.4g} mm"
        )
    if preparation.fit and any(have > want for have, want in zip(exact, size, strict=True)):
        notes.append(
            f"slices are shrunk to {framing.scaled[0]}x{framing.scaled[1]} to fit the network, as "
            "those of its training were"
        )
    height, width = (max(pair) for pair in zip(framing.scaled, size, strict=True))
    return Framing(framing.shape, (height, width), framing.scaled), tuple(notes)
