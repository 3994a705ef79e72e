"""Training an elastic network: a kernel is drawn for each step, and the step's images in its size.

After Once-for-all (arXiv 1908.09791), without its progressive shrinking: all kernels are trained
from the first step on, each as often as the others. A step costs what one of a fixed network of
that kernel and size does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lmaunet.data.augment import batches
from lmaunet.data.dataset import SliceSet
from lmaunet.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from lmaunet.train.processes import Processes
    from lmaunet.train.schedule import Schedule

Draw = Callable[[int], Iterator[tuple["Tensor", "Tensor"]]]
"""Yields the images ``(B, C, H, W)`` and labels ``(B, H, W)`` of an epoch, by its number."""


def drawn_kernels(kernels: tuple[int, ...], steps: int, seed: int, epoch: int) -> list[int]:
    """Return the kernel of each step of an epoch: each as often as the others, in a drawn order."""
    rng = np.random.default_rng([seed, epoch, 2])
    rounds = [rng.permutation(kernels) for _ in range(-(-steps // len(kernels)))]
    return [int(k) for k in np.concatenate(rounds)[:steps]]


def sampled(
    sets: Mapping[int, SliceSet],
    use: Callable[[int], None],
    schedule: Schedule,
    seed: int,
    processes: Processes,
) -> Draw:
    """Return what draws a training's batches, and sets the network's kernel before each.

    The same seed and epoch give the same batches, so that a training resumes as it would have gone
    on.

    Args:
        sets: by kernel the training slices in that kernel's size; the same slices, in one order.
        use: sets the kernel that the network computes with.
        schedule: its batch size and whether images are augmented.
        seed: draws order, kernels and augmentation.
        processes: this process, which must be alone.

    Raises:
        UserError: for several processes.
    """
    if processes.world > 1:
        raise UserError(
            f"{processes.world} processes for an elastic network, whose steps leave out the "
            "weights of other kernels; train it in one process, without torchrun"
        )
    first = next(iter(sets.values()))
    for other in sets.values():
        if not (np.array_equal(first.cases, other.cases) and np.array_equal(first.z, other.z)):
            raise ValueError("the slices of the kernels are not the same ones")
    size = schedule.batch_size

    def draw(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(first))
        starts = range(0, len(first), size)
        kernels = drawn_kernels(tuple(sets), len(starts), seed, epoch)
        for step, (start, kernel) in enumerate(zip(starts, kernels, strict=True)):
            part = sets[kernel].take(order[start : start + size])
            use(kernel)
            yield from batches(
                part, size, seed, schedule.augment, epoch=epoch * len(starts) + step, shuffle=False
            )

    return draw
