"""The training loop, of the float network and of the quantized one alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lmaunet.data.augment import batches
from lmaunet.data.dataset import SliceSet
from lmaunet.errors import UserError
from lmaunet.net.dropout import ChannelDropout
from lmaunet.net.norm_statistics import LOST, named, without_variance
from lmaunet.train.elastic import Draw
from lmaunet.train.metrics import divergence
from lmaunet.train.optimization import Optimization
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress, Schedule

RAREST = 1e5
SMOOTHING = 0.9


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Return a cross-entropy weight for each class: the inverse root of its share of the pixels.

    Without it a class of a few dozen pixels is never predicted. The mean weight is 1; a class
    that does not occur is weighted like one pixel in :data:`RAREST`.
    """
    share = np.bincount(labels.ravel(), minlength=classes)[:classes] / labels.size
    weights = 1 / np.sqrt(np.maximum(share, 1 / RAREST))
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


@dataclass(frozen=True)
class Teacher:
    """A trained network whose classes the one in training should keep to (distillation).

    Args:
        network: maps images to logits; it is not trained.
        weight: of KL(teacher || student), the mean over pixels in nats, in the loss.
    """

    network: nn.Module
    weight: float

    def loss(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return the weighted divergence (Hinton et al., arXiv 1503.02531, temperature 1)."""
        self.network.eval()
        with torch.no_grad():
            wanted = self.network(images)
        return self.weight * divergence(logits, wanted)


class DiceCrossEntropy(nn.Module):
    """Dice over the foreground classes plus weighted cross-entropy over all."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        from monai.losses import DiceLoss

        self.dice = DiceLoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True,
            smooth_nr=1.0, smooth_dr=1.0,
        )  # fmt: skip
        self.cross_entropy = nn.CrossEntropyLoss(weight=weights)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits ``(B, classes, H, W)`` against labels ``(B, H, W)``."""
        return self.dice(logits, labels[:, None]) + self.cross_entropy(logits, labels)


def batch_dice(logits: Tensor, labels: Tensor) -> float:
    """Return the foreground Dice of one batch, over the classes in it; 1 where there is none."""
    predicted = logits.argmax(1)
    values = []
    for c in range(1, logits.shape[1]):
        size = int((predicted == c).sum() + (labels == c).sum())
        if size:
            values.append(2 * int(((predicted == c) & (labels == c)).sum()) / size)
    return sum(values) / len(values) if values else 1.0


def fit(
    model: nn.Module,
    data: SliceSet,
    schedule: Schedule,
    *,
    classes: int,
    seed: int,
    folder: Path | None,
    processes: Processes,
    progress: Progress,
    name: str = "training",
    teacher: Teacher | None = None,
    draw: Draw | None = None,
) -> list[dict[str, float]]:
    """Train a model in place; return each epoch's mean loss and training Dice.

    After each epoch the first process writes ``NAME.last.pt`` into ``folder``; where it is there
    at the start, training goes on from it. The result depends on the seed, not on interruptions.

    Args:
        model: maps images to logits.
        data: the training slices.
        schedule: epochs, rate and batch.
        classes: how many the network tells apart, background included.
        seed: of order, augmentation and dropout.
        folder: for checkpoints; None keeps none.
        processes: this process among those that train together.
        progress: told the fraction done, with loss and Dice.
        name: of the checkpoint file and in the progress line.
        teacher: adds its divergence to the loss.
        draw: gives an epoch's batches, where they are not those of ``data`` in one drawn order.

    Raises:
        UserError: when the loss is not finite, there are fewer slices than processes, or the
            checkpoint to go on from is damaged.
    """
    work = Optimization(model, schedule, processes, folder, name, axes=data.images.ndim - 2)
    loss_of = DiceCrossEntropy(class_weights(data.labels, classes)).to(processes.device)
    total = math.ceil(len(data) // processes.world / schedule.batch_size)
    smooth: dict[str, float] = {}
    still = without_variance(model)
    for epoch in range(len(work.history), schedule.epochs):
        work.wrapped.train()
        losses, dices = [], []
        for module in model.modules():
            if isinstance(module, ChannelDropout):
                module.reseed(seed, epoch, processes.rank)
        drawn = draw(epoch) if draw is not None else batches(
            data, schedule.batch_size, seed, schedule.augment, epoch=epoch, rank=processes.rank,
            world=processes.world, drop_modality=schedule.drop_modality or 0.0,
        )  # fmt: skip
        for index, (images, labels) in enumerate(drawn):
            fraction = (epoch + index / total) / schedule.epochs
            work.set_rate(fraction)
            images = images.to(processes.device, memory_format=work.layout)
            labels = labels.to(processes.device)
            logits = work.wrapped(images)
            loss = loss_of(logits, labels)
            if teacher is not None:
                loss = loss + teacher.loss(images, logits)
            if not torch.isfinite(loss):
                raise UserError(
                    f"{name}: the loss is {loss.item()} in epoch {epoch + 1}; "
                    + (
                        f"running variances were 0 in {named(still)}. {LOST}"
                        if still
                        else "lower the learning rate or check the images' normalization"
                    )
                )
            work.step(loss)
            losses.append(loss.item())
            dices.append(batch_dice(logits.detach(), labels))
            for key, value in (("loss", losses[-1]), ("dice", dices[-1])):
                smooth[key] = SMOOTHING * smooth.get(key, value) + (1 - SMOOTHING) * value
            progress(
                fraction,
                f"{name}: epoch {epoch + 1}/{schedule.epochs}, "
                f"loss {smooth['loss']:.3f}, Dice {smooth['dice']:.3f}",
            )
        work.keep({"loss": sum(losses) / len(losses), "dice": sum(dices) / len(dices)})
    history = work.finish()
    progress(1.0, f"{name}: done, loss {history[-1]['loss']:.3f}, Dice {history[-1]['dice']:.3f}")
    return history
