"""A build's network called in batches, and a volume covered with it."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.artifacts import Build
from lmaunet.data.nnunet_windows import mirrored
from lmaunet.data.preparation import ReadyVolume, Run
from lmaunet.data.windows import check_overlap
from lmaunet.deploy.confident import Samples
from lmaunet.deploy.defaults import INFER_BATCH
from lmaunet.deploy.phase_times import Timer
from lmaunet.deploy.targets import Target
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Say = Callable[[float, str], None]


@dataclass
class Network:
    """A build's network, called in batches; counts and times its calls.

    ``images`` have gone through it in all, ``first_images`` of them in the first call, which is
    timed apart because it loads the file. ``run`` computes in place of the target where given.
    """

    target: Target
    build: Build
    classes: int
    timer: Timer
    images: int = 0
    first_images: int = 0
    run: Run | None = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the logits ``(n, classes, H, W)`` of images; raises UserError for NaN in them."""
        import numpy as np

        with self.timer.phase("infer" if self.images else "first_call"):
            logits = self.run(images) if self.run else self.target.run(self.build, images)
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
    samples: Samples | None = None,
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
        samples: gathers those with dropout, where given; ``network.run`` computes them.
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
    # the first slice goes alone: what the first call costs beside the network is seen best so;
    # samples take memory for each window: one slice at a time; a network of volumes takes all
    # slices at once
    together = batch if samples is None else 1
    starts = [0, *range(1, len(volume), together)] if volume.depth is None else [0]
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
            if samples is not None:
                samples.add(
                    volume, images, start, overlap=overlap, batch=batch, mirror_axes=mirror_axes
                )
    return mask


def check_options(overlap: float, batch: int) -> None:
    """Raise UserError for an overlap or a batch that cannot be."""
    check_overlap(overlap)
    if not isinstance(batch, numbers.Integral) or batch < 1:
        raise UserError(f"batch {batch}; expected 1 slice or more; {INFER_BATCH} is usual")
