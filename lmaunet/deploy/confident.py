"""How sure a build is of an image: samples with dropout, their entropy, and volumes of organs.

All samples of an image have one set of masks: sample t is the same network in every slice, window
and mirrored image, so that its mask is one that the network could have given, and its volumes are
volumes. A sample goes the way of the mask: windows blended, logits brought to the image's grid.
There its probabilities are averaged with those of the others and the entropy taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lmaunet.data.confidence import (
    Dropout,
    covered_share,
    draw_masks,
    interval,
    predictive_entropy,
    softmax,
)
from lmaunet.data.nnunet_windows import mirrored
from lmaunet.deploy.masked_builds import DETAIL, MADE_WITHOUT
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.artifacts import Build
    from lmaunet.data.preparation import ReadyVolume, Run
    from lmaunet.deploy.deployment import Interface
    from lmaunet.deploy.segmenter import Segmenter
    from lmaunet.deploy.targets import Target


@dataclass(frozen=True)
class Confidence:
    """How sure a network is of one image.

    Args:
        entropy: of the mean of the samples' probabilities, in nats, 0 to ``log(classes)``: a
            SimpleITK image of float32 on the image's grid, or for an array an array ``(D, H, W)``.
        volumes_ml: of each class and sample, ``(classes, samples)``, the background first.
        temperature: that the logits were divided by.
        seed: of the masks.
    """

    entropy: Any
    volumes_ml: np.ndarray
    temperature: float
    seed: int

    def interval_ml(self, index: int) -> tuple[float, float]:
        """Return the least and the largest volume of a class over the samples, in ml.

        A further sample lies between them with probability (T - 1) / (T + 1). It says how far
        dropout moves the volume, not where the true one is.
        """
        return interval(self.volumes_ml[index])

    def to_json(self) -> dict[str, Any]:
        """Return what the command says beside the classes, without the map."""
        samples = self.volumes_ml.shape[1]
        return {
            "samples": samples, "seed": self.seed, "temperature": self.temperature,
            "entropy": "nats, of the mean of the samples' probabilities on the image's grid",
            "interval": "least and largest of the samples",
            "further_sample_within": covered_share(samples),
        }  # fmt: skip


def check_confident(target: Target, build: Build, interface: Interface) -> Dropout:
    """Return a build's dropout.

    Raises:
        UserError: where the target takes no masks, or the network was trained without dropout.
    """
    if target.sampled is None:
        raise UserError(
            f"{build.folder}: a build for {target.name} says no confidence: it takes no dropout "
            "masks; use one for ort, openvino or trt"
        )
    if interface.dropout is None:
        raise UserError(f"{build.folder}: {MADE_WITHOUT}")
    if DETAIL not in build.detail:
        raise UserError(
            f"{build.folder} says no confidence: an engine of another precision, and a file of "
            "another kernel than the network's own, have no head over masks; build with "
            "--precision int8, or give infer the network's own --kernel"
        )
    return interface.dropout


@dataclass
class Samples:
    """The samples of one image, gathered while it is segmented.

    Args:
        compute: images to logits, and those with each mask ``(n, samples, classes, H, W)``.
        masks: float32 ``(samples, features)``.
        temperature: of the probabilities.
        seed: of the masks.
        classes: how many.
        shape: of the image, z, y, x in LPS.
    """

    compute: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    masks: np.ndarray
    temperature: float
    seed: int
    classes: int
    shape: Sequence[int]
    _kept: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        import numpy as np

        self.entropy = np.zeros(tuple(self.shape), np.float32)
        self.voxels = np.zeros((self.classes, len(self.masks)), np.int64)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the logits without dropout, and keep those of the samples for :meth:`add`."""
        import numpy as np

        logits, sampled = self.compute(images, self.masks)
        want = (len(images), len(self.masks), self.classes, *images.shape[2:])
        if sampled.shape != want or not np.isfinite(sampled).all():
            raise UserError(
                f"the samples have the shape {sampled.shape}, expected {want}, or hold NaN or "
                "infinity; build it again"
            )
        self._kept.append(sampled)
        return logits

    def _replayed(self, sample: int) -> Run:
        """Return a network that gives one sample's logits of the images that were computed."""
        calls = 0

        def run(images: np.ndarray) -> np.ndarray:
            nonlocal calls
            # a cover that begins anew asks for the same images in the same order
            kept = self._kept[calls % len(self._kept)][:, sample]
            calls += 1
            return kept

        return run

    def add(
        self, volume: ReadyVolume, images: np.ndarray, start: int, *, overlap: float, batch: int,
        mirror_axes: Sequence[int],
    ) -> None:  # fmt: skip
        """Add slices, just after the network has covered them, from ``start`` on.

        Arguments are those of :meth:`lmaunet.data.preparation.ReadyVolume.cover`.
        """
        import numpy as np

        mean: Any = 0.0
        for sample in range(len(self.masks)):
            run = mirrored(self._replayed(sample), mirror_axes)
            covered = volume.cover(images, run, overlap=overlap, batch=batch)
            logits = volume.logits(covered)
            self.voxels[:, sample] += np.bincount(logits.argmax(1).ravel(), minlength=self.classes)[
                : self.classes
            ]
            mean = mean + softmax(logits, self.temperature)
        self._kept.clear()
        mean /= np.float32(len(self.masks))
        stop = start + len(images)
        volume.within(self.entropy)[start:stop] = predictive_entropy(mean)

    def result(self, volume: ReadyVolume, like: Callable[[np.ndarray], Any]) -> Confidence:
        """Return what was gathered of a volume; what no slice covers is background for sure.

        Args:
            volume: the image.
            like: brings a map ``(z, y, x)`` in LPS to the kind of the image.
        """
        import numpy as np

        voxels = self.voxels.copy()
        voxels[0] += int(np.prod(self.shape)) - voxels.sum(0)
        volumes = voxels * volume.geometry.voxel_ml
        return Confidence(like(self.entropy), volumes, self.temperature, self.seed)


def begin_samples(opened: Segmenter, volume: ReadyVolume, samples: int, seed: int) -> Samples:
    """Return the samples of a volume that is about to be segmented.

    Raises:
        UserError: as :func:`check_confident`, or for a number of samples or a seed.
    """
    target, build, interface = opened.backend, opened.build, opened.deployment.interface
    dropout = check_confident(target, build, interface)
    masks = draw_masks(samples, dropout.channels, dropout.rate, seed)
    assert target.sampled is not None
    compute = functools.partial(target.sampled, build)
    classes, shape = len(interface.classes), volume.geometry.shape
    return Samples(compute, masks, dropout.temperature, seed, classes, shape)
