"""The training loop, of the float network and of the quantized one alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmaunet.data.augment import batches
from lmaunet.data.dataset import SliceSet
from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph
from lmaunet.graph.operators import Conv
from lmaunet.net.checkpoint import read_file, save_atomically
from lmaunet.net.dropout import ChannelDropout
from lmaunet.net.norm_statistics import LOST, named, without_variance
from lmaunet.train.elastic import Draw
from lmaunet.train.metrics import divergence
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress, Schedule

CLIP_NORM = 2.0
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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: weights decay; biases, norms, scales, A_log and D do not.

    Decay would drive a scale or a rate towards a value that means something.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_weight = name.endswith("weight") and parameter.dim() > 1
        (decayed if is_weight else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0}]


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


def memory_format(model: nn.Module, axes: int = 2) -> torch.memory_format:
    """Return how a network's maps are kept while it is trained: the channels last, if that works.

    Args:
        model: the network.
        axes: spatial axes of its images.

    It is a quarter faster on a CPU. The backward pass of a convolution of 1x1 with a stride writes
    beyond its memory then: with torch 2.12.1 on a CPU with AVX512-VNNI, 8 or 4 channels of 64x64
    ended in a crash.
    """
    graph = getattr(model, "graph", None)
    strided = isinstance(graph, Graph) and any(
        isinstance(node.operator, Conv)
        and max(node.operator.stride) > 1
        and max(graph.weights[node.weights["weight"]].shape[2:]) == 1
        for node in graph.nodes
    )
    if strided:
        return torch.contiguous_format
    return torch.channels_last if axes == 2 else torch.channels_last_3d


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Bring a network's weights into a memory format.

    That of three spatial axes is for those weights alone: the quantized network of volumes has some
    of two, over its tokens.
    """
    if layout is not torch.channels_last_3d:
        model.to(memory_format=layout)
        return
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 5:
            tensor.data = tensor.data.contiguous(memory_format=layout)


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
    processes.wait()
    saved = folder / f"{name}.last.pt" if folder else None
    state = None
    if saved and saved.exists():
        try:
            state = read_file(saved)
        except UserError as error:
            raise UserError(f"{error}; or delete it, to train from the start") from error
        # before anything holds the parameters: Brevitas replaces those of its quantizers here
        model.load_state_dict(state["model"])
    layout = memory_format(model, data.images.ndim - 2)
    _lay_out(model, layout)
    wrapped = processes.wrap(model)
    loss_of = DiceCrossEntropy(class_weights(data.labels, classes)).to(processes.device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, schedule.weight_decay), lr=schedule.learning_rate
    )
    history: list[dict[str, float]] = []
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
    total = math.ceil(len(data) // processes.world / schedule.batch_size)
    smooth: dict[str, float] = {}
    still = without_variance(model)
    for epoch in range(len(history), schedule.epochs):
        wrapped.train()
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
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(fraction)
            images = images.to(processes.device, memory_format=layout)
            labels = labels.to(processes.device)
            logits = wrapped(images)
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
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            losses.append(loss.item())
            dices.append(batch_dice(logits.detach(), labels))
            for key, value in (("loss", losses[-1]), ("dice", dices[-1])):
                smooth[key] = SMOOTHING * smooth.get(key, value) + (1 - SMOOTHING) * value
            progress(
                fraction,
                f"{name}: epoch {epoch + 1}/{schedule.epochs}, "
                f"loss {smooth['loss']:.3f}, Dice {smooth['dice']:.3f}",
            )
        history.append({"loss": sum(losses) / len(losses), "dice": sum(dices) / len(dices)})
        if saved and processes.first:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
            }
            save_atomically(saved, state)
    model.to(memory_format=torch.contiguous_format)
    progress(1.0, f"{name}: done, loss {history[-1]['loss']:.3f}, Dice {history[-1]['dice']:.3f}")
    return history
