"""Batches for training: shuffled, sharded over processes, deformed and recoloured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lmaunet.data.dataset import SliceSet
from lmaunet.data.modalities import ABSENT, dropped
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import torch

ROTATION_DEG = 15.0
SCALE = (0.85, 1.18)
SHIFT = 0.08  # of the image's extent
GAMMA = (0.7, 1.45)
CONTRAST = (0.85, 1.18)
BRIGHTNESS = 0.15  # of the slice's deviation, as NOISE is
NOISE = 0.15


def batches(
    slice_set: SliceSet,
    batch_size: int,
    seed: int,
    augment: bool,
    *,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    shuffle: bool = True,
    drop_modality: float = 0.0,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch of ``(images, labels)``, float32 ``(B, C, H, W)`` and int64 ``(B, H, W)``.

    Patches of several slices have their axis before H: one draw changes all slices of a patch, in
    their plane.

    The same (seed, epoch, rank, world) gives the same batches. The shards of ``world`` processes
    are disjoint and equally long: up to ``world - 1`` slices of the shuffled epoch are left out,
    others each time. The last batch may be shorter.

    Args:
        slice_set: the slices.
        batch_size: slices in a batch of one process.
        seed: with ``epoch``, draws the order and the augmentation.
        augment: whether to change the images. They are never mirrored, because left and right
            organs have classes of their own.
        epoch: the number of the epoch.
        rank, world: which process this is, of how many.
        shuffle: whether to draw the order; False keeps that of the set.
        drop_modality: the probability with which each channel of an image is left out, after it
            was changed; see :func:`lmaunet.data.modalities.dropped`. The other draws are the same.

    Raises:
        UserError: for a batch size below 1, a rank outside the world, or fewer slices than
            processes.
    """
    import numpy as np
    import torch

    shards = len(slice_set) // max(world, 1)
    if batch_size < 1 or not 0 <= rank < world:
        raise UserError(
            f"batch_size={batch_size}, rank={rank} of {world}; give a batch size of 1 or more and "
            "a rank below the number of processes"
        )
    if shards < 1:
        raise UserError(f"{len(slice_set)} slices for {world} processes; use fewer processes")
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(slice_set)) if shuffle else np.arange(len(slice_set))
    mine = order[rank : shards * world : world]
    generator = torch.Generator().manual_seed(
        int(np.random.default_rng([seed, epoch, rank, 1]).integers(2**62))
    )
    drops = np.random.default_rng([seed, epoch, rank, 2])
    for start in range(0, shards, batch_size):
        picked = mine[start : start + batch_size]
        images = torch.from_numpy(slice_set.images[picked])
        labels = torch.from_numpy(slice_set.labels[picked].astype(np.int64))
        if augment:
            images, labels = deform(images, labels, generator)
            images = recolour(images, generator)
        if drop_modality:
            out = dropped(len(images), images.shape[1], drop_modality, drops)
            images = images.masked_fill(torch.from_numpy(out)[:, :, None, None], ABSENT)
        yield images, labels


def deform(
    images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate, scale and shift each slice by its own draw; labels take the nearest pixel.

    Beyond the border both repeat the border, so that image and label stay together.
    """
    import torch
    from torch.nn import functional as F

    shapes = images.shape, labels.shape
    # the slices of a patch are moved alike, as channels are
    images, labels = images.flatten(1, -3), labels.reshape(len(labels), -1, *labels.shape[-2:])
    n, _, height, width = images.shape
    angle = _uniform(n, -math.radians(ROTATION_DEG), math.radians(ROTATION_DEG), generator)
    scale = torch.exp(_uniform(n, math.log(SCALE[0]), math.log(SCALE[1]), generator))
    shift = _uniform(2 * n, -2 * SHIFT, 2 * SHIFT, generator).view(n, 2)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # affine_grid works in units of half the width and half the height, so a rotation of a map
    # that is not square needs their ratio.
    aspect = height / width
    rows = (
        torch.stack([cos, -sin * aspect, shift[:, 0]], 1),
        torch.stack([sin / aspect, cos, shift[:, 1]], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), [n, 1, height, width], align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    nearest = F.grid_sample(
        labels.float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    return moved.reshape(shapes[0]), nearest.round().long().reshape(shapes[1])


def recolour(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change gamma, contrast and brightness of each slice by its own draw, and add noise.

    Gamma acts between the slice's own minimum and maximum; brightness and noise are in units of
    its deviation.
    """
    import torch

    n, shape = len(images), images.shape
    images = images.flatten(1, -3)
    gamma = torch.exp(_uniform(n, math.log(GAMMA[0]), math.log(GAMMA[1]), generator))
    contrast = _uniform(n, *CONTRAST, generator).view(n, 1, 1, 1)
    brightness = _uniform(n, -BRIGHTNESS, BRIGHTNESS, generator).view(n, 1, 1, 1)
    strength = _uniform(n, 0.0, NOISE, generator).view(n, 1, 1, 1)
    low = images.amin((1, 2, 3), keepdim=True)
    span = (images.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
    deviation = images.std((1, 2, 3), keepdim=True)
    mean = images.mean((1, 2, 3), keepdim=True)
    curved = ((images - low) / span).clamp(0, 1) ** gamma.view(n, 1, 1, 1) * span + low
    noise = torch.randn(images.shape, generator=generator)
    recoloured = (curved - mean) * contrast + mean + deviation * (brightness + strength * noise)
    return recoloured.reshape(shape)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.rand(n, generator=generator) * (high - low) + low
