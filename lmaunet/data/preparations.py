"""Which of the two ways an image is prepared: by what a build says, or a data set was made by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmaunet.data import normalization as norm
from lmaunet.data.images.intensity import check_record
from lmaunet.data.inference import Preparation
from lmaunet.data.nnunet_inference import KIND, NnunetPreparation
from lmaunet.data.preparation import ImagePreparation
from lmaunet.data.user_json import shown

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset


def preparation_of(data: Dataset) -> ImagePreparation:
    """Return how the slices of a data set were made, enough to do it to another image."""
    if data.recipe is not None:
        return NnunetPreparation(data.recipe, data.intensity, data.axes)
    *depth, height, width = data.train.images.shape[2:]
    apart = data.spacing_mm[0]
    return Preparation(
        (height, width), dict(data.normalization), data.resampled_mm, data.fit, data.intensity,
        depth[0] if depth else None, float(apart) if depth and math.isfinite(apart) else None,
    )  # fmt: skip


def read_preparation(
    content: Mapping[str, Any], where: str, size: tuple[int, ...], channels: int
) -> ImagePreparation:
    """Return the preparation that a build's ``deployment.json`` says; see ``to_json`` of each.

    Args:
        content: the file's; builds of before have no ``recipe`` and no ``intensity``.
        where: the file, for messages.
        size, channels: what the network takes.

    Raises:
        UserError: for content that is of neither; so do KeyError, TypeError and ValueError.
    """
    recipe, kind = content.get("recipe"), dict(content["normalization"])
    intensity = check_record(content.get("intensity", []))
    fit, resampled = content["shrunk_to_fit"], content["resampled_mm"]
    if not isinstance(fit, bool):
        raise TypeError(f"shrunk_to_fit {fit!r}")
    target = None if resampled is None else _pair(resampled)
    *depth, height, width = size
    volume = content.get("volume")
    if ([] if volume is None else [volume["depth"]]) != depth:
        raise ValueError(f"volume {shown(volume)} for a network of {shown(list(size))}")
    if recipe is None:
        apart = None if volume is None else volume["slice_mm"]
        return Preparation(
            (height, width), norm.check_trained(kind, where, channels), target, fit, intensity,
            depth[0] if depth else None, None if apart is None else _length(apart),
        )  # fmt: skip
    if recipe["kind"] != KIND or kind != {"kind": KIND}:
        raise ValueError(
            f"a recipe of kind {shown(recipe['kind'])} and a normalization {shown(kind)}: expected "
            f"both of {KIND}"
        )
    found = NnunetPreparation.from_json(recipe, intensity)
    said = found.size, len(found.recipe.channels), found.resampled_mm, False
    if said != (size, channels, target, fit):
        raise ValueError(
            f"a recipe for slices of {said[0]}, {said[1]} channel(s), {said[2]} mm: expected "
            f"{size}, {channels}, {target}, not shrunk"
        )
    return found


def _pair(values: Any) -> tuple[float, float]:
    height, width = values
    return _length(height), _length(width)


def _length(value: Any) -> float:
    found = float(value)
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f"{value!r}: expected a positive length")
    return found
