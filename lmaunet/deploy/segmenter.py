"""A build that segments: :func:`load` opens one, and the command ``infer`` is a thin layer over it.

A volume is read whole; everything else is done for a few slices at a time, so that memory does not
grow with the number of slices by more than the image and its labels.
"""

from __future__ import annotations

import contextlib
import numbers
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from lmaunet.artifacts import Build
from lmaunet.data.fusion import Fusion
from lmaunet.data.inference import prepare_volume
from lmaunet.data.nnunet_windows import mirrored
from lmaunet.data.preparation import ReadyVolume
from lmaunet.data.windows import check_overlap
from lmaunet.deploy.defaults import INFER_BATCH, OVERLAP
from lmaunet.deploy.deployment import Deployment, open_build
from lmaunet.deploy.targets import Target, get_target
from lmaunet.errors import UserError
from lmaunet.packages import missing_packages_named

if TYPE_CHECKING:
    import numpy as np
    import SimpleITK

    OnePath: TypeAlias = str | os.PathLike[str]
    OnGrid: TypeAlias = SimpleITK.Image | OnePath | Sequence[SimpleITK.Image] | Sequence[OnePath]

Say = Callable[[float, str], None]

PHASES = ("open", "read", "prepare", "first_call", "infer", "blend", "restore", "write")
"""What is timed: opening the build; reading the image; normalising and resampling slices; the
first call of the target, which loads its file; its other calls; cutting and blending windows;
classes on the image's grid; writing."""


@dataclass
class Timer:
    """Milliseconds of each phase; a phase within a phase counts for the inner one."""

    times_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    _open: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block, less that of blocks inside it, to a phase."""
        started = time.perf_counter()
        self._open.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.times_ms[name] += 1e3 * (elapsed - self._open.pop())
            if self._open:
                self._open[-1] += elapsed


@dataclass
class Network:
    """A build's network, called in batches; counts and times its calls.

    ``images`` have gone through it in all, ``first_images`` of them in the first call, which is
    timed apart because it loads the file.
    """

    target: Target
    build: Build
    classes: int
    timer: Timer
    images: int = 0
    first_images: int = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the logits ``(n, classes, H, W)`` of images; raises UserError for NaN in them."""
        import numpy as np

        with self.timer.phase("infer" if self.images else "first_call"):
            logits = self.target.run(self.build, images)
        if logits.shape != (len(images), self.classes, *images.shape[2:]):
            raise UserError(
                f"{self.build.shipped} gives logits of shape {logits.shape}; expected "
                f"{(len(images), self.classes, *images.shape[2:])}; build it again"
            )
        if not np.isfinite(logits).all():
            raise UserError(
                f"{self.build.shipped} computes NaN or infinity for this image; build it again, "
                "and see the agreements that the build prints"
            )
        self.first_images = self.first_images or len(images)
        self.images += len(images)
        return logits


def segment(
    volume: ReadyVolume, network: Network, *, overlap: float, batch: int, say: Say,
    mirror_axes: Sequence[int] = (), shares: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the classes of a volume's voxels, ``(z, y, x)`` in LPS.

    Args:
        volume: the image.
        network: what computes logits.
        overlap: the share of a window's side that its neighbour covers too.
        batch: slices, and windows of them, at a time.
        say: called with the share that is done and a line.
        mirror_axes: of a slice, along which logits are averaged over mirrored images.
        shares: receives the classes' probabilities, float32 ``(classes, z, y, x)``, where given.
    """
    import numpy as np

    timer, run = network.timer, mirrored(network, mirror_axes)
    # what no slice of the network's covers is background
    kind = np.uint8 if network.classes <= 256 else np.uint16
    mask = np.zeros(volume.geometry.shape, kind)
    labels = volume.within(mask)
    if shares is not None:
        shares[:] = 0
        shares[0] = 1
        inside = volume.within(shares)
    # the first slice goes alone: what the first call costs beside the network is seen best so
    starts = [0, *range(1, len(volume), batch)]
    for start, stop in zip(starts, [*starts[1:], len(volume)], strict=True):
        say(start / len(volume), f"slice {start + 1} of {len(volume)}")
        with timer.phase("prepare"):
            images = volume.images(start, stop)
        with timer.phase("blend"):
            logits = volume.cover(images, run, overlap=overlap, batch=batch)
        with timer.phase("restore"):
            labels[start:stop] = volume.labels(logits)
            if shares is not None:
                inside[:, start:stop] = volume.probabilities(logits).swapaxes(0, 1)
    return mask


def check_options(overlap: float, batch: int) -> None:
    """Raise UserError for an overlap or a batch that cannot be."""
    check_overlap(overlap)
    if not isinstance(batch, numbers.Integral) or batch < 1:
        raise UserError(f"batch {batch}; expected 1 slice or more; {INFER_BATCH} is usual")


@dataclass(frozen=True, repr=False)
class Segmenter:
    """A build that segments images; :func:`load` returns one.

    Called with an image it returns the mask: the classes' indices, ``uint8`` (``uint16`` beyond 256
    classes), on the grid of the image.

    Args:
        build: the build.
        deployment: what its ``deployment.json`` says.
        backend: the target that computes.
        arithmetic: what computes the logits on this machine, in words.
    """

    build: Build
    deployment: Deployment
    backend: Target
    arithmetic: str

    def __repr__(self) -> str:
        (height, width), mm = self.input_size, self.spacing_mm
        at = "pixels as they are" if mm is None else f"{mm[0]:.4g}x{mm[1]:.4g} mm"
        return (
            f"<Segmenter: {self.network} on {self.target}, {self.channels} channel(s), "
            f"{height}x{width} at {at}, {len(self.classes)} classes>"
        )

    @property
    def folder(self) -> Path:
        """The build's folder."""
        return self.build.folder

    @property
    def target(self) -> str:
        """What it was built for, such as ``ort``."""
        return self.build.target

    @property
    def network(self) -> str:
        """The network's name."""
        return self.deployment.interface.network.name

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 by name of the ``shipped`` file and of what it came from, as ``checkpoint``."""
        return dict(self.deployment.digests)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names by index, the background first."""
        return self.deployment.interface.classes

    @property
    def channels(self) -> int:
        """How many images, or channels of an array, it takes."""
        return self.deployment.interface.network.in_channels

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what the network takes, in pixels; larger slices go by windows."""
        return self.deployment.interface.preparation.size

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """Spacing of rows and columns that slices are resampled to, in mm; None: as they are."""
        return self.deployment.interface.preparation.resampled_mm

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """The axes of a slice that ``tta`` mirrors along, 0 rows and 1 columns; empty: none."""
        return self.deployment.interface.preparation.mirror_axes

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on synthetic images, so that its labels mean nothing."""
        return bool(self.deployment.interface.data["synthetic"])

    # an array is told from the rest first: to a checker without SimpleITK's types its image is Any
    @overload
    def __call__(
        self, image: np.ndarray, *, spacing: Sequence[float] | None = ...,
        probabilities: Literal[False] = ..., overlap: float = ..., batch: int = ...,
        tta: bool = ..., fuse: str = ..., missing: Sequence[int] = ...,
    ) -> np.ndarray: ...  # fmt: skip
    @overload
    def __call__(
        self, image: np.ndarray, *, spacing: Sequence[float] | None = ...,
        probabilities: Literal[True], overlap: float = ..., batch: int = ..., tta: bool = ...,
        fuse: str = ..., missing: Sequence[int] = ...,
    ) -> tuple[np.ndarray, np.ndarray]: ...  # fmt: skip
    @overload
    def __call__(
        self, image: OnGrid, *, spacing: None = ...,
        probabilities: Literal[False] = ..., overlap: float = ..., batch: int = ...,
        tta: bool = ..., fuse: str = ..., missing: Sequence[int] = ...,
    ) -> SimpleITK.Image: ...  # fmt: skip
    @overload
    def __call__(
        self, image: OnGrid, *, spacing: None = ...,
        probabilities: Literal[True], overlap: float = ..., batch: int = ..., tta: bool = ...,
        fuse: str = ..., missing: Sequence[int] = ...,
    ) -> tuple[SimpleITK.Image, SimpleITK.Image]: ...  # fmt: skip
    @missing_packages_named()
    def __call__(
        self,
        image: Any,
        *,
        spacing: Sequence[float] | None = None,
        probabilities: bool = False,
        overlap: float = OVERLAP,
        batch: int = INFER_BATCH,
        tta: bool = False,
        fuse: str = "",
        missing: Sequence[int] = (),
    ) -> Any:
        """Segment an image; the mask has the image's kind and lies on its grid.

        It is the mask that ``lmaunet-deploy infer`` writes for the same image, voxel for voxel. A
        repair of the image, or values unlike those of training, are told by a ``UserWarning``.

        Args:
            image: an array ``(D, H, W)``, or ``(C, D, H, W)`` with a volume for each channel, whose
                slices run towards the head, rows towards the back and columns towards the patient's
                left (LPS); or a SimpleITK image; or the path of a NIfTI, NRRD, MetaImage or DICOM
                file or of a folder with a DICOM series. For a network of several channels a list of
                images, or of paths, one for each.
            spacing: of an array, in mm, in the order of its axes: D, H, W. Not needed where the
                network takes pixels as they are; never given with an image or a path.
            probabilities: return them too.
            overlap: the share of a window's side that its neighbour covers too, 0 to 0.9, where
                slices are larger than the network's input.
            batch: slices, and windows of them, at a time.
            tta: average the logits over mirrored images too, for a network that nnU-Net trained so
                (:attr:`mirror_axes`); two or four times the work.
            fuse: what may be done to images, or files, on another grid than the first: ``resample``
                or ``register``; such images are refused where it is empty.
            missing: numbers of the images that are missing, the first is 1, for a network that was
                trained so; in a list None may stand in their places instead.

        Returns:
            For an array an array ``(D, H, W)``; for an image or a path a SimpleITK image. With
            ``probabilities`` a pair: the mask, and the softmax of the logits, which are brought to
            the image's grid first: for an array float32 ``(classes, D, H, W)``, else a SimpleITK
            image of float32 with a component for each class. The largest of them is the mask's
            class but for ties to rounding.

        Raises:
            UserError: where the image or an option cannot be used.
            ToolNotFound: where a package is missing, such as pydicom for DICOM.

        >>> import numpy as np
        >>> seg = lmaunet.load("build/ort")
        >>> volume = np.full((2, 32, 40), 40.0)
        >>> mask = seg(volume, spacing=(5, 0.98, 0.98))
        >>> mask.shape, mask.dtype
        ((2, 32, 40), dtype('uint8'))
        >>> mask, shares = seg(volume, spacing=(5, 0.98, 0.98), probabilities=True)
        >>> shares.shape, bool(np.allclose(shares.sum(0), 1))
        ((3, 2, 32, 40), True)
        """
        from lmaunet.deploy.given import mask_like, prepare

        check_options(overlap, batch)
        axes = self.mirrored_along(tta)
        volume, first = prepare(image, spacing, self.deployment.interface, fuse, missing)
        for doubt in volume.doubts:
            warnings.warn(doubt, stacklevel=3)
        labels, shares, _ = self.compute(
            volume, overlap=overlap, batch=batch, probabilities=probabilities, mirror_axes=axes
        )
        mask = mask_like(labels, volume, first)
        return mask if shares is None else (mask, mask_like(shares, volume, first))

    def mirrored_along(self, tta: bool) -> tuple[int, ...]:
        """Return the axes to mirror along, none without ``tta``.

        Raises:
            UserError: where it is asked for and training did not mirror.
        """
        if tta and not self.mirror_axes:
            raise UserError(
                f"tta asks for mirrored images, and {self.network} was not trained on such: left "
                "and right are not the same for it; leave it out"
            )
        return self.mirror_axes if tta else ()

    def read(self, images: Sequence[Path], fusion: Fusion) -> ReadyVolume:
        """Return a file, or a DICOM folder, for each channel as one volume to segment."""
        interface = self.deployment.interface
        return prepare_volume(images, interface.preparation, self.channels, fusion)

    def compute(
        self,
        volume: ReadyVolume,
        *,
        overlap: float,
        batch: int,
        mirror_axes: Sequence[int] = (),
        probabilities: bool = False,
        timer: Timer | None = None,
        say: Say = lambda share, line: None,
    ) -> tuple[np.ndarray, np.ndarray | None, Network]:
        """Return a volume's classes ``(z, y, x)``, their probabilities, and what was run.

        Both are in LPS; probabilities are float32 ``(classes, z, y, x)``, None where not asked for.
        """
        import numpy as np

        network = Network(self.backend, self.build, len(self.classes), timer or Timer())
        shape = (len(self.classes), *volume.geometry.shape)
        shares = np.empty(shape, np.float32) if probabilities else None
        labels = segment(
            volume, network, overlap=overlap, batch=batch, say=say, mirror_axes=mirror_axes,
            shares=shares,
        )  # fmt: skip
        return labels, shares, network


@missing_packages_named()
def load(folder: str | os.PathLike[str]) -> Segmenter:
    """Open a build to segment with.

    Args:
        folder: the build's, such as ``runs/demo/build/ort``; it may have been copied from its run
            to anywhere. For an ort build the base installation is enough.

    Raises:
        UserError: where there is no build, another version made it, or a file is missing, damaged
            or edited.
        ToolNotFound: where what runs it is not installed.

    >>> seg = lmaunet.load("build/ort")
    >>> seg.target, seg.classes
    ('ort', ('background', 'one', 'other'))
    >>> seg.input_size, seg.spacing_mm, seg.channels
    ((32, 32), (3.0, 3.0), 1)
    >>> lmaunet.load("nowhere")
    Traceback (most recent call last):
    lmaunet.errors.UserError: nowhere is no folder; give that of a build, such as ...
    """
    build, deployment = open_build(Path(folder))
    target = get_target(build.target)
    return Segmenter(build, deployment, target, target.arithmetic(build))
