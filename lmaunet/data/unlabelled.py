"""Images without labels, for pretraining: of any layout, and no label's content is ever read.

Of a set that has labels the split is kept: what validates there is left out here. That a label is
there is told by its file's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmaunet.data import normalization as norm
from lmaunet.data.chosen import check_memory
from lmaunet.data.dataset import SliceSet
from lmaunet.data.framing import Framing, zoom_to
from lmaunet.data.layouts.unlabelled import find_images
from lmaunet.errors import UserError

if TYPE_CHECKING:
    from lmaunet.data.source import Source

FLAT = 1e-6
"""Slices whose deviation is below this say nothing."""


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Slices without labels, as a network takes them.

    Args:
        name: of the data set.
        slices: the images; their labels are all 0 and mean nothing.
        normalization: how intensities were mapped.
        channels: how many an image has.
        digests: the digest of each channel of each case as read, see :func:`digest_of`.
        kept_out: the cases that validate in a set that has labels.
        notes: what a reader should know.
    """

    name: str
    slices: SliceSet
    normalization: Mapping[str, Any]
    channels: int
    digests: Mapping[str, Sequence[str]]
    kept_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The SHA-256 of all that a pretraining depends on."""
        digest = hashlib.sha256(repr(self.slices.images.shape).encode())
        digest.update(self.slices.images.tobytes())
        return digest.hexdigest()


def load_unlabelled(path: Path, *, size: tuple[int, int], channels: int) -> Unlabelled:
    """Load images without their labels from a folder or file.

    Understood is what training takes (then its cases that train are taken), with labels or with
    some or all missing, and any folder of NIfTI, NRRD, MetaImage files and DICOM series. Slices
    that are larger than the network's input are shrunk: nobody says what a crop would lose.
    In-plane spacing is brought to that of the first case. Slices of one value are left out.

    Args:
        path: the folder, an image, or one of ``NAME_train.npz`` and ``NAME_val.npz``.
        size: height and width that the network takes.
        channels: how many the network takes.

    Raises:
        UserError: for an empty or unknown folder, a damaged or unfitting file, another number of
            channels, or where nothing is left.
    """
    found = find_images(path, channels)
    kind = found.normalization
    target: tuple[float, float] | None = None
    framed: list[np.ndarray] = []
    cases: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    digests: dict[str, list[str]] = {}
    told = kind is None
    notes = list(found.notes)
    for case in found.cases:
        arrays, spacing = case.read()
        if kind is None:
            kind = norm.of_channels([by_values(array) for array in arrays])
        if target is None and np.isfinite(spacing).all():
            target = spacing
        digests[case.name] = [digest_of(array) for array in arrays]
        framing = Framing.of(arrays[0].shape[1:], size, zoom=zoom_to(spacing, target), fit=True)
        units, varied = [], np.zeros(len(arrays[0]), bool)
        for index, array in enumerate(arrays):
            bound = norm.bind(norm.channel(kind, index), array)
            unit = norm.to_unit(array, bound)
            varied |= unit.std((1, 2)) > FLAT
            units.append(framing.images(unit, norm.fill(unit, bound)))
        images = np.stack(units, 1)
        kept = np.flatnonzero(varied)
        framed.append(images[kept])
        cases.append(np.full(len(kept), case.name, dtype=object))
        numbers.append(kept)
        check_memory(2 * sum(map(len, framed)), channels, size, found.name)
    images = np.concatenate(framed)
    assert kind is not None
    if len(images) == 0:
        raise UserError(f"{path}: every slice is of one value; give images that show something")
    if told:
        notes.append(
            "the normalization is told from the first image's values: "
            + "; ".join(norm.describe(kind, [f"channel {i}" for i in range(channels)]))
        )
    kind = norm.with_statistics(kind, images)
    for index in range(channels):
        images[:, index] = norm.standardize(images[:, index], norm.channel(kind, index))
    slices = SliceSet(
        images.astype(np.float32, copy=False),
        np.zeros((len(images), *size), np.uint8),
        np.concatenate(cases).astype(str),
        np.concatenate(numbers),
    )
    return Unlabelled(found.name, slices, kind, channels, digests, found.kept_out, tuple(notes))


def by_values(image: np.ndarray) -> dict[str, Any]:
    """Return a normalization told from an image's values: of CT the abdomen's window."""
    from lmaunet.data.layouts.cases import CT_BELOW

    return norm.window(*norm.ABDOMEN_WINDOW_HU) if image.min() < CT_BELOW else norm.zscore()


def digest_of(image: np.ndarray) -> str:
    """Return the SHA-256 of a channel ``(n, H, W)`` as read, the same whatever file it was in."""
    digest = hashlib.sha256(repr(tuple(image.shape)).encode())
    digest.update(np.ascontiguousarray(image, np.float32).tobytes())
    return digest.hexdigest()


def held_out_digests(source: Source) -> dict[str, str]:
    """Return the case of each channel that validates in a labelled set, by :func:`digest_of`."""
    readers: list[tuple[str, Callable[[], np.ndarray]]] = [
        (volume.case, read)
        for volume in source.volumes
        if volume.role != "train"
        for read in volume.channels
    ]
    return {digest_of(read()): case for case, read in readers}
