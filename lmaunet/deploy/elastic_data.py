"""The images of an elastic network: those of each kernel in its own size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmaunet.errors import UserError
from lmaunet.kernel_profiles import profile_spec, reference_kernel
from lmaunet.spec import NetSpec
from lmaunet.stage import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from lmaunet.data.dataset import Dataset, SliceSet
    from lmaunet.deploy.run_data import RunData
    from lmaunet.deploy.runs import DataSource


def profile_data(source: DataSource, spec: NetSpec, reference: Dataset) -> dict[int, Dataset]:
    """Return by kernel the data set of an elastic network's profiles, each in its input size.

    All show the same slices and the same field of view: where slices are resampled, a profile's
    spacing is the reference's over the ratio of their sizes; where they are shrunk to fit, so are a
    profile's; elsewhere the reference's slices are resampled to the profile's size.

    Args:
        source: where the images come from.
        spec: the elastic network.
        reference: the data set in the spec's size, which is that of the reference kernel.

    Raises:
        UserError: where slices are resampled to pixels that are not square.
    """
    found = {}
    for kernel in spec.elastic:
        if kernel == reference_kernel(spec.elastic):
            found[kernel] = reference
            continue
        profile = profile_spec(spec, kernel)
        if reference.resampled_mm is None and not reference.fit:
            found[kernel] = resized(reference, profile.input_size)
            continue
        found[kernel] = source.load(
            profile, spacing_mm=_spacing(spec, profile, reference), fit=reference.fit
        )
    return found


def resized(data: Dataset, size: Sequence[int]) -> Dataset:
    """Return a data set whose slices are resampled to another size, in the same field of view."""
    from lmaunet.data.framing import resample_in_plane

    height, width = size

    def side(part: SliceSet) -> SliceSet:
        n, channels = part.images.shape[:2]
        flat = part.images.reshape(n * channels, *part.images.shape[2:])
        images = resample_in_plane(flat, (height, width), labels=False)
        labels = resample_in_plane(part.labels, (height, width), labels=True)
        return dataclasses.replace(
            part, images=images.reshape(n, channels, height, width), labels=labels
        )

    return dataclasses.replace(data, train=side(data.train), val=side(data.val))


def _spacing(spec: NetSpec, profile: NetSpec, reference: Dataset) -> float | None:
    """Return the spacing in mm that a profile's slices are resampled to, None where none are."""
    if reference.resampled_mm is None:
        return None
    rows, columns = reference.resampled_mm
    if not math.isclose(rows, columns, rel_tol=1e-3):
        raise UserError(
            f"{reference.name} has pixels of {rows:g}x{columns:g} mm; an elastic network takes "
            "square ones: resample the images first, or train one kernel"
        )
    return rows * max(spec.input_size) / max(profile.input_size)


def data_of_build(images: RunData, build: Path) -> Dataset:
    """Return a run's data in the size that a build takes: another for a design of another kernel.

    Args:
        images: the run's.
        build: the build's folder, whose manifest says which kernel was asked for.
    """
    data, spec = images.load(), images.spec
    if not isinstance(spec, NetSpec) or not spec.elastic:
        return data
    kernel = read_manifest(build)["options"].get("kernel")
    if kernel in (None, reference_kernel(spec.elastic)):
        return data
    return profile_data(images.source, spec, data)[kernel]


def at_size(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return labels ``(n, H, W)`` at another size, by the nearest pixel."""
    from lmaunet.data.framing import resample_in_plane

    height, width = size
    return resample_in_plane(labels, (height, width), labels=True)
