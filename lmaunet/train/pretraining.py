"""Self-supervised pretraining: a network restores blocks of an image that it does not see.

After SimMIM (Xie et al., arXiv 2111.09886): random blocks of the input are masked, a head of one
1x1 convolution predicts the pixels, and the loss is the mean absolute error over masked pixels
alone. Theirs masks tokens of a transformer by a learned vector; a network of convolutions sees a
masked pixel as 0, the mean of standardized images (He et al., arXiv 2111.06377, leave them out).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lmaunet.data.augment import batches
from lmaunet.data.dataset import SliceSet
from lmaunet.errors import UserError
from lmaunet.train.loop import SMOOTHING
from lmaunet.train.masking import Masking
from lmaunet.train.optimization import Optimization
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress, Schedule

NAME = "pretraining"


def reconstruction_head(model: nn.Module, channels: int) -> nn.Module:
    """Give a network a head that predicts pixels, in place; return the one that it had.

    Raises:
        UserError: for a network without a last 1x1 convolution named ``head``.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Conv2d):
        raise UserError(
            "this network has no head of one 2-D convolution to exchange; pretrain a 2-D spec, "
            "such as base or edge"
        )
    model.head = nn.Conv2d(head.in_channels, channels, 1)
    return head


def draw_mask(
    count: int, size: tuple[int, int], masking: Masking, generator: torch.Generator
) -> Tensor:
    """Return masks ``(count, 1, H, W)``, true where a pixel is hidden.

    Of each image the same number of blocks is drawn, without repetition; those at the right and
    lower border may be cut.
    """
    _, masked = masking.count(size)
    rows, columns = (-(-side // masking.block) for side in size)
    order = torch.rand(count, rows * columns, generator=generator).argsort(1)
    hidden = torch.zeros(count, rows * columns, dtype=torch.bool)
    hidden.scatter_(1, order[:, :masked], True)
    blocks = hidden.view(count, 1, rows, columns)
    whole = blocks.repeat_interleave(masking.block, 2).repeat_interleave(masking.block, 3)
    return whole[:, :, : size[0], : size[1]]


def reconstruction_loss(restored: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute error over the masked pixels of all channels.

    Args:
        restored, images: ``(B, channels, H, W)``.
        mask: ``(B, 1, H, W)``, true where a pixel was hidden.
    """
    hidden = mask.expand_as(images)
    return ((restored - images).abs() * hidden).sum() / hidden.sum()


def restore_masked(
    model: nn.Module,
    data: SliceSet,
    schedule: Schedule,
    masking: Masking,
    *,
    seed: int,
    folder: Path | None,
    processes: Processes,
    progress: Progress,
) -> list[dict[str, float]]:
    """Train a network in place to restore masked images; return each epoch's mean loss.

    It goes on from ``pretraining.last.pt`` in ``folder``, as :func:`lmaunet.train.loop.fit` does.

    Args:
        model: maps images to images.
        data: the slices; their labels are not looked at.
        schedule: epochs, rate and batch.
        masking: what is hidden.
        seed: of order, augmentation and masks.
        folder: for checkpoints; None keeps none.
        processes: this process among those that train together.
        progress: told the fraction done, with the loss.

    Raises:
        UserError: when the loss is not finite, there are fewer slices than processes, the mask
            does not fit the image, or the checkpoint to go on from is damaged.
    """
    size = data.images.shape[2], data.images.shape[3]
    masking.count(size)
    work = Optimization(model, schedule, processes, folder, NAME)
    total = math.ceil(len(data) // processes.world / schedule.batch_size)
    smooth: float | None = None
    for epoch in range(len(work.history), schedule.epochs):
        work.wrapped.train()
        losses = []
        generator = torch.Generator().manual_seed(
            int(np.random.default_rng([seed, epoch, processes.rank, 2]).integers(2**62))
        )
        drawn = batches(
            data, schedule.batch_size, seed, schedule.augment, epoch=epoch, rank=processes.rank,
            world=processes.world,
        )  # fmt: skip
        for index, (images, _) in enumerate(drawn):
            fraction = (epoch + index / total) / schedule.epochs
            work.set_rate(fraction)
            mask = draw_mask(len(images), size, masking, generator).to(processes.device)
            images = images.to(processes.device, memory_format=work.layout)
            restored = work.wrapped(images.masked_fill(mask, 0.0))
            loss = reconstruction_loss(restored, images, mask)
            if not torch.isfinite(loss):
                raise UserError(
                    f"{NAME}: the loss is {loss.item()} in epoch {epoch + 1}; lower the learning "
                    "rate or check the images' normalization"
                )
            work.step(loss)
            losses.append(loss.item())
            smooth = losses[-1] if smooth is None else (
                SMOOTHING * smooth + (1 - SMOOTHING) * losses[-1]
            )  # fmt: skip
            progress(fraction, f"{NAME}: epoch {epoch + 1}/{schedule.epochs}, error {smooth:.3f}")
        work.keep({"loss": sum(losses) / len(losses)})
    history = work.finish()
    progress(1.0, f"{NAME}: done, error {history[-1]['loss']:.3f}")
    return history
