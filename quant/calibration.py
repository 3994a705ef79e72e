"""Calibration: set every activation scale from what flows through the network on real images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from brevitas import nn as qnn
from brevitas.graph.calibrate import calibration_mode
from torch import Tensor, nn

from lmaunet.data.dataset import Dataset
from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph, Weights
from lmaunet.graph.operators import Norm
from lmaunet.graph.rewrites import norm_of
from lmaunet.quant.float_layers import float_layer
from lmaunet.sampling import evenly_spread

CALIBRATION_IMAGES = 32
MINIMUM_IMAGES, FEW_IMAGES = 4, 16
BATCHES = {1: 8, 2: 8, 3: 2}
"""Images that calibrate at a time, by their spatial axes."""

# How far the first layer's outputs may lie from what its normalization recorded in training, in
# deviations, and how many times wider or narrower they may be. Held-out slices of two networks
# (heart MRI, abdominal CT) stayed within 0.2 and 1.2.
LARGEST_SHIFT, LARGEST_SPREAD = 1.0, 3.0


def choose_slices(data: Dataset, count: int = CALIBRATION_IMAGES) -> np.ndarray:
    """Return the indices of the training slices that calibrate, in order.

    They are spread evenly; a class that none of them shows brings the slice with most of it.
    """
    labels = data.train.labels
    chosen = {int(index) for index in evenly_spread(len(labels), count)}
    for index in range(1, len(data.classes)):
        pixels = (labels == index).reshape(len(labels), -1).sum(1)
        if pixels.any() and not pixels[sorted(chosen)].any():
            chosen.add(int(pixels.argmax()))
    return np.array(sorted(chosen))


def spread(images: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` of the images, evenly spread; all where there are no more."""
    return images[evenly_spread(len(images), count)]


def check_images(images: np.ndarray) -> None:
    """Raise :class:`UserError` for images that nothing can be calibrated with."""
    if len(images) < MINIMUM_IMAGES:
        raise UserError(
            f"{len(images)} calibration images; give at least {MINIMUM_IMAGES}, from the data that "
            "the network will see"
        )
    if not np.isfinite(images).all():
        raise UserError("calibration images hold NaN or infinity; mend or leave out those files")
    if float(images.max()) == float(images.min()):
        raise UserError(
            f"every calibration pixel is {float(images.max()):g}; give images with content"
        )


def notices(graph: Graph, weights: Weights, data: Dataset, chosen: np.ndarray) -> list[str]:
    """Return what a user should know of the calibration slices, one sentence each.

    Noticed are few slices, classes that no training slice shows, and images in another range of
    intensities than the network was trained on.
    """
    found = []
    if len(chosen) < FEW_IMAGES:
        found.append(
            f"only {len(chosen)} calibration slices; {CALIBRATION_IMAGES} or more give steadier "
            "scales"
        )
    missing = [
        name
        for index, name in enumerate(data.classes)
        if index and not (data.train.labels == index).any()
    ]
    if missing:
        found.append(
            f"no training slice shows {', '.join(missing)}: neither calibration nor QAT sees it, "
            "and its accuracy can only be known from held-out slices that show it"
        )
    found.extend(_intensity(graph, weights, data.train.images[chosen]))
    return found


@torch.no_grad()
def _intensity(graph: Graph, weights: Weights, images: np.ndarray) -> list[str]:
    """Compare the first layer's outputs with what its normalization recorded in training."""
    first = graph.nodes[0]
    norm = norm_of(graph, first)
    if norm is None or first.inputs != tuple(graph.inputs):
        return []
    known = {role: torch.from_numpy(weights[name]) for role, name in norm.weights.items()}
    if not known["mean"].any() and (known["variance"] == 1).all():
        return []  # as it is before any training
    assert isinstance(norm.operator, Norm)
    conv, recording = float_layer(graph, weights, first.name)
    assert recording is not None and recording.running_mean is not None
    seen = conv(torch.from_numpy(images))  # without the bias that the recorded mean lacks too
    variance, mean = torch.var_mean(seen, (0, *range(2, seen.dim())))
    recorded = known["variance"].clamp_min(norm.operator.epsilon)
    shift = float(((mean - recording.running_mean).abs() / recorded.sqrt()).median())
    spread = float((variance.clamp_min(1e-12) / recorded).sqrt().median())
    if shift <= LARGEST_SHIFT and 1 / LARGEST_SPREAD <= spread <= LARGEST_SPREAD:
        return []
    return [
        "the calibration images lie in another range of intensities than those that the network "
        f"was trained on (the first layer's outputs are {spread:.2g} times as wide, shifted by "
        f"{shift:.2g} deviations); bring them into the range of the training, or train on them"
    ]


@torch.no_grad()
def calibrate(model: nn.Module, images: np.ndarray, batch: int | None = None) -> None:
    """Set the activation scales of a quantized model from images ``(n, channels, *spatial)``.

    A scale starts at the 99.999th percentile of the magnitude (Brevitas), the mean over the
    batches, and is learned afterwards. Of the tensors that share a quantizer the largest counts:
    their mean, which Brevitas takes, would clip it.

    Raises:
        UserError: too few images, or images that hold one value only.
    """
    check_images(images)
    model.eval()
    batch = BATCHES[images.ndim - 2] if batch is None else batch
    device = next(model.parameters()).device
    starts = range(0, len(images), batch)
    with calibration_mode(model):
        with _thresholds(model) as heard:
            for start in starts:
                model(torch.from_numpy(images[start : start + batch]).to(device))
        for scaling, thresholds in heard.items():
            by_tensor = torch.stack(thresholds).reshape(len(starts), -1)
            scaling.buffer.fill_(by_tensor.mean(0).max())
    model.eval()


@contextmanager
def _thresholds(model: nn.Module) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """Yield a dictionary that fills with each activation quantizer's thresholds, call by call."""
    heard: dict[nn.Module, list[Tensor]] = {}

    def hear(scaling: nn.Module, given: tuple[Tensor, Tensor], scale: Tensor) -> None:
        _, codes = given
        heard.setdefault(scaling, []).append(scale * codes)

    proxies = [
        module.act_quant.fused_activation_quant_proxy
        for module in model.modules()
        if isinstance(module, qnn.QuantIdentity)
    ]
    handles = [p.tensor_quant.scaling_impl.register_forward_hook(hear) for p in proxies]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def fix_scales(model: nn.Module) -> None:
    """Make every activation scale a parameter now, instead of a statistic still to be collected.

    A network that is to be loaded needs it: Brevitas keeps the scale out of its state until then.
    """
    for module in model.modules():
        if hasattr(module, "init_scale"):
            module.init_scale()
