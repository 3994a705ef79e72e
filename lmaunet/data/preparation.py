"""What a network's images are made into, and its logits back into a mask: two ways, one interface.

A build says how its images are prepared: as this program does for its own networks
(:mod:`lmaunet.data.inference`), or as nnU-Net does for one that it trained
(:mod:`lmaunet.data.nnunet_inference`). What segments an image knows only what is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lmaunet.data.images.masks import (
    SEGMENTATION_SUFFIX,
    check_format,
    suffix_of,
    write_labels,
    write_segmentation,
)

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.data.images.geometry import Geometry
    from lmaunet.data.images.volumes import Image

Run = Callable[["np.ndarray"], "np.ndarray"]
"""A network: float32 ``(n, channels, H, W)`` to float32 ``(n, classes, H, W)``."""


class ReadyVolume(ABC):
    """An image that gives the slices that a network takes, some at a time, and takes logits back.

    ``geometry`` says where the image lies, ``kind`` its format, ``source`` its DICOM series where
    it is one; ``notes`` are what the user should know, ``doubts`` those of them that tell of a
    repair or of an image unlike those of training; ``intensity`` what values were seen and expected
    of each channel; ``modalities`` what was done to each channel's image.

    The network's slices may be others than the image's in LPS: :meth:`within` says where they lie.
    """

    geometry: Geometry
    notes: tuple[str, ...]
    kind: str
    source: Any
    intensity: Sequence[Mapping[str, Any]]
    doubts: tuple[str, ...]
    modalities: Sequence[Mapping[str, Any]]

    @abstractmethod
    def __len__(self) -> int:
        """Return how many slices go through the network."""

    @property
    @abstractmethod
    def scaled(self) -> tuple[int, int]:
        """Height and width of the slices at the network's spacing."""

    @property
    @abstractmethod
    def windowed(self) -> bool:
        """Whether they are larger than the network's input, so that windows cover them."""

    @property
    def depth(self) -> int | None:
        """Slices that a network of volumes takes at a time: all go through it at once; or None."""
        return None

    @abstractmethod
    def images(self, start: int, stop: int) -> np.ndarray:
        """Return slices ``start`` to ``stop``, normalised: float32 ``(n, channels, H, W)``."""

    @abstractmethod
    def cover(self, images: np.ndarray, run: Run, *, overlap: float, batch: int) -> np.ndarray:
        """Return the logits ``(n, classes, H, W)`` of what :meth:`images` returned.

        Args:
            images: slices of any size.
            run: the network, which takes ``batch`` images of its own size at most.
            overlap: the share of a window's side that its neighbour covers too.
            batch: see ``run``.
        """

    @abstractmethod
    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Return the classes ``(n, y, x)`` of logits, on the grid of the image's slices."""

    @abstractmethod
    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return logits ``(n, classes, y, x)`` on the grid of the image's slices, float32."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the softmax of logits ``(n, classes, H, W)`` on the grid of the image's slices.

        Logits are interpolated first, as for :meth:`labels`: float32 ``(n, classes, y, x)``.
        """
        import numpy as np

        found = self.logits(logits)
        found = np.exp(found - found.max(1, keepdims=True))
        shares: np.ndarray = found / found.sum(1, keepdims=True)
        return shares

    def within(self, output: np.ndarray) -> np.ndarray:
        """Return a view of ``(..., z, y, x)`` in LPS, on the image's grid, as the network's slices.

        The axis before the last two counts them; what no slice covers is not in the view.
        """
        return output

    def check_output(self, path: Path) -> tuple[str, ...]:
        """Return notes on a mask's format; raise UserError where it cannot hold the grid."""
        return check_format(path, self.geometry, self.source)

    def write(self, path: Path, labels: np.ndarray, classes: Sequence[str], network: str) -> Path:
        """Write labels ``(z, y, x)`` to a file that lies on the image.

        Args:
            path: the file; its suffix chooses the format.
            labels: indices of ``classes``.
            classes: names by index, the background first.
            network: the name of what computed them; both are kept where the format has a place.
        """
        if suffix_of(path) == SEGMENTATION_SUFFIX:
            return write_segmentation(path, labels, self.geometry, self.source, classes, network)
        return write_labels(path, labels, self.geometry)


class ImagePreparation(Protocol):
    """How a network's images are prepared."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the network takes."""

    @property
    def depth(self) -> int | None:
        """Slices that a network of volumes takes; None of one that takes slices."""

    @property
    def resampled_mm(self) -> tuple[float, float] | None:
        """Spacing of rows and columns that slices are resampled to; None: as they are."""

    @property
    def intensity(self) -> tuple[Mapping[str, Any], ...]:
        """What values training images had, for each channel."""

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """The axes of a slice, 0 rows and 1 columns, along which training mirrored."""

    def ready(self, images: Sequence[Image], names: Sequence[str]) -> ReadyVolume:
        """Return an image, one for each channel on one grid, made ready; raises UserError."""

    def to_json(self) -> dict[str, Any]:
        """Return what a build's ``deployment.json`` says of it."""
