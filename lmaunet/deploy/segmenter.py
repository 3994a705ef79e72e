"""A build that segments: :func:`load` opens one, and the command ``infer`` is a thin layer over it.

A volume is read whole; everything else is done for a few slices at a time, so that memory does not
grow with the number of slices by more than the image and its labels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from lmaunet.artifacts import Build
from lmaunet.data.confidence import SAMPLES
from lmaunet.data.fusion import Fusion
from lmaunet.data.inference import KEPT, prepare_volume
from lmaunet.data.preparation import ReadyVolume
from lmaunet.deploy.confident import Samples, begin_samples
from lmaunet.deploy.defaults import INFER_BATCH, OVERLAP
from lmaunet.deploy.deployment import Deployment, open_build
from lmaunet.deploy.kernel_choice import Chooser
from lmaunet.deploy.network_calls import Network, Say, check_options, segment
from lmaunet.deploy.phase_times import PHASES, Timer
from lmaunet.deploy.targets import Target, get_target
from lmaunet.errors import UserError
from lmaunet.kernel_profiles import check_kernel
from lmaunet.packages import missing_packages_named

if TYPE_CHECKING:
    import numpy as np
    import SimpleITK

    OnePath: TypeAlias = str | os.PathLike[str]
    OnGrid: TypeAlias = SimpleITK.Image | OnePath | Sequence[SimpleITK.Image] | Sequence[OnePath]

__all__ = ["PHASES", "Network", "Say", "Segmenter", "Timer", "check_options", "load", "segment"]


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
        depth = "" if self.depth is None else f"{self.depth}x"
        at = "pixels as they are" if mm is None else f"{mm[0]:.4g}x{mm[1]:.4g} mm"
        return (
            f"<Segmenter: {self.network} on {self.target}, {self.channels} channel(s), "
            f"{depth}{height}x{width} at {at}, {len(self.classes)} classes>"
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
    def depth(self) -> int | None:
        """Slices that a network of volumes takes at a time; None of a network of slices."""
        return self.deployment.interface.preparation.depth

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
        tta: bool = ..., confidence: Literal[False] = ..., kernel: int | None = ...,
        fuse: str = ..., missing: Sequence[int] = ...,
    ) -> np.ndarray: ...  # fmt: skip
    @overload
    def __call__(
        self, image: np.ndarray, *, spacing: Sequence[float] | None = ...,
        probabilities: Literal[True], overlap: float = ..., batch: int = ..., tta: bool = ...,
        confidence: Literal[False] = ..., kernel: int | None = ...,
        fuse: str = ..., missing: Sequence[int] = ...,
    ) -> tuple[np.ndarray, np.ndarray]: ...  # fmt: skip
    @overload
    def __call__(
        self, image: OnGrid, *, spacing: None = ...,
        probabilities: Literal[False] = ..., overlap: float = ..., batch: int = ...,
        tta: bool = ..., confidence: Literal[False] = ..., kernel: int | None = ...,
        fuse: str = ..., missing: Sequence[int] = ...,
    ) -> SimpleITK.Image: ...  # fmt: skip
    @overload
    def __call__(
        self, image: OnGrid, *, spacing: None = ...,
        probabilities: Literal[True], overlap: float = ..., batch: int = ..., tta: bool = ...,
        confidence: Literal[False] = ..., kernel: int | None = ...,
        fuse: str = ..., missing: Sequence[int] = ...,
    ) -> tuple[SimpleITK.Image, SimpleITK.Image]: ...  # fmt: skip
    @overload
    def __call__(
        self, image: Any, *, spacing: Sequence[float] | None = ..., probabilities: bool = ...,
        overlap: float = ..., batch: int = ..., tta: bool = ..., confidence: Literal[True],
        samples: int = ..., seed: int = ..., kernel: int | None = ..., fuse: str = ...,
        missing: Sequence[int] = ...,
    ) -> tuple[Any, ...]: ...  # fmt: skip
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
        confidence: bool = False,
        samples: int = SAMPLES,
        seed: int = 0,
        kernel: int | None = None,
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
            confidence: return a :class:`~lmaunet.deploy.confident.Confidence` too, for a network
                that was trained with dropout; the mask stays the same.
            samples, seed: how many masks of dropout for it, 2 to 64, and of what seed.
            kernel: for a build of an elastic network, which of :attr:`kernels` computes; by the
                image's resolution where None.
            fuse: what may be done to images, or files, on another grid than the first: ``resample``
                or ``register``; such images are refused where it is empty.
            missing: numbers of the images that are missing, the first is 1, for a network that was
                trained so; in a list None may stand in their places instead.

        Returns:
            For an array an array ``(D, H, W)``; for an image or a path a SimpleITK image. With
            ``probabilities`` a pair: the mask, and the softmax of the logits, which are brought to
            the image's grid first: for an array float32 ``(classes, D, H, W)``, else a SimpleITK
            image of float32 with a component for each class. The largest of them is the mask's
            class but for ties to rounding. With ``confidence`` that comes last.

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
        chooser = Chooser.of(self, kernel)
        volume, first = prepare(image, spacing, chooser.interface, fuse, missing)
        for doubt in volume.doubts:
            warnings.warn(doubt, stacklevel=3)
        opened = chooser.segmenter()
        drawn = begin_samples(opened, volume, samples, seed) if confidence else None
        labels, shares, _ = opened.compute(
            volume, overlap=overlap, batch=batch, probabilities=probabilities, mirror_axes=axes,
            samples=drawn,
        )  # fmt: skip
        found = [mask_like(labels, volume, first)]
        found += [] if shares is None else [mask_like(shares, volume, first)]
        if drawn is not None:
            found.append(drawn.result(volume, lambda values: mask_like(values, volume, first)))
        return found[0] if len(found) == 1 else tuple(found)

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

    @property
    def kernels(self) -> tuple[int, ...]:
        """The kernels that images can be segmented with; empty where the build holds one."""
        profiles = self.deployment.kernels
        return () if profiles is None else profiles.kernels

    def at_kernel(self, kernel: int) -> Segmenter:
        """Return the same build with one of its :attr:`kernels` computing whatever the image is.

        Raises:
            UserError: where it has no such kernel.
        """
        check_kernel(kernel, self.kernels, str(self.folder))
        build = self.build.profiles.get(kernel, self.build)
        deployment = self.deployment.profiles.get(kernel)
        if deployment is None:
            deployment = replace(self.deployment, kernels=None, profiles={})
        return replace(self, build=build, deployment=deployment)

    def read(self, images: Sequence[Path], fusion: Fusion = KEPT) -> ReadyVolume:
        """Return a file, or a DICOM folder, for each channel as one volume to segment.

        A build of several kernels gives it in the reference's size: see :attr:`kernels`.
        """
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
        samples: Samples | None = None,
        timer: Timer | None = None,
        say: Say = lambda share, line: None,
    ) -> tuple[np.ndarray, np.ndarray | None, Network]:
        """Return a volume's classes ``(z, y, x)``, their probabilities, and what was run.

        Both are in LPS; probabilities are float32 ``(classes, z, y, x)``, None where not asked for.
        """
        import numpy as np

        count, shape = len(self.classes), volume.geometry.shape
        network = Network(self.backend, self.build, count, timer or Timer(), run=samples)
        shares = np.empty((count, *shape), np.float32) if probabilities else None
        labels = segment(
            volume, network, overlap=overlap, batch=batch, say=say, mirror_axes=mirror_axes,
            shares=shares, samples=samples,
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
