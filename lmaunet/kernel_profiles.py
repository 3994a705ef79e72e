"""Kernels by resolution: which kernel of an elastic network serves an image, and at what size.

An elastic network (:class:`~lmaunet.spec.NetSpec`, ``elastic``) has one depthwise weight in each
LKM whose centre serves smaller kernels. Each kernel is a *profile*: a network of a fixed kernel
with an input size of its own. The middle kernel is the reference, whose size is the spec's.

A kernel covers the same share of the image at twice the pixels where it is twice as wide. So the
profile of kernel ``k`` sees the reference's field of view in ``k / reference`` times its pixels,
rounded to what the network takes, and an image is served by the kernel that is nearest to
``reference * pixels / reference size``: its own pixels across that field of view, before anything
is resampled. Images are neither enlarged for a network nor shrunk more than they need to be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmaunet.errors import UserError
from lmaunet.spec import NetSpec

AUTO = "auto"
PROFILES = "profiles"
"""The folder, in that of a stage, with what the stage made of each kernel but the reference."""


KERNELS = (5, 7, 9)
"""Those that ``train --elastic`` trains."""


def elastic_spec(spec: NetSpec, kernels: Sequence[int] = KERNELS) -> NetSpec:
    """Return a spec with these kernels in each LKM; one that has such already stays as it is.

    Raises:
        UserError: where the network has no LKM.
    """
    if spec.elastic:
        return spec
    largest = (max(kernels),) * len(spec.kernels)
    return spec.replace(elastic=tuple(sorted(kernels)), kernels=largest)


def reference_kernel(kernels: Sequence[int]) -> int:
    """Return the kernel whose input size is the spec's: the middle one, the lower of two."""
    return sorted(kernels)[(len(kernels) - 1) // 2]


def profile_size(spec: NetSpec, kernel: int) -> tuple[int, int]:
    """Return height and width that the profile of a kernel takes.

    They are the reference's times ``kernel / reference``, rounded to the nearest multiple that the
    network takes (:attr:`~lmaunet.spec.NetSpec.size_multiple`), at least one.
    """
    factor, step = kernel / reference_kernel(spec.elastic), spec.size_multiple
    height, width = (max(1, math.floor(side * factor / step + 0.5)) * step
                     for side in spec.input_size)  # fmt: skip
    return height, width


def profile_spec(spec: NetSpec, kernel: int) -> NetSpec:
    """Return the network of fixed kernels that an elastic spec is at one kernel."""
    check_kernel(kernel, spec.elastic, f"spec {spec.name}")
    return spec.replace(
        elastic=(), kernels=(kernel,) * len(spec.kernels),
        input_size=profile_size(spec, kernel),
    )  # fmt: skip


def check_kernel(kernel: int, kernels: Sequence[int], where: str) -> None:
    """Raise :class:`UserError` where a kernel is none of an elastic network's."""
    if kernel not in kernels:
        raise UserError(f"{where}: no kernel {kernel}; use one of {', '.join(map(str, kernels))}")


def read_kernel(text: str) -> int | None:
    """Return the kernel that ``--kernel`` names, None for ``auto``; raises UserError for others."""
    if text == AUTO:
        return None
    if text not in ("3", "5", "7", "9"):
        raise UserError(f"--kernel {text}; give {AUTO}, or a kernel such as 5, 7 or 9")
    return int(text)


def one_kernel(text: str) -> int:
    """Return the kernel that ``build --kernel`` names; raises UserError where it names none."""
    kernel = read_kernel(text)
    if kernel is None:
        raise UserError(
            f"--kernel {AUTO}: a design has one kernel, which no image can choose; give one, such "
            "as 7, or leave the option out for the middle one"
        )
    return kernel


@dataclass(frozen=True)
class KernelChoice:
    """A profile that was chosen for an image: its kernel, and why, in words."""

    kernel: int
    why: str


@dataclass(frozen=True)
class KernelProfiles:
    """The profiles of a build, and up to how many pixels each serves an image.

    Args:
        reference: the kernel that the build's own network has.
        size: height and width that it takes.
        spacing_mm: spacing of rows and columns that its slices are resampled to; None where pixels
            are taken as they are.
        kernels: all of them, the smallest first.
        up_to: by kernel the most pixels that it serves; the largest kernel serves all above.
    """

    reference: int
    size: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    kernels: tuple[int, ...]
    up_to: Mapping[int, float]

    @staticmethod
    def of(
        kernels: Sequence[int],
        reference: int,
        size: tuple[int, int],
        spacing_mm: tuple[float, float] | None,
    ) -> KernelProfiles:
        """Return the profiles with the thresholds halfway between neighbouring kernels."""
        up_to = {
            low: max(size) * (low + high) / 2 / reference
            for low, high in itertools.pairwise(sorted(kernels))
        }
        return KernelProfiles(reference, size, spacing_mm, tuple(sorted(kernels)), up_to)

    def pixels(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
        """Return an image's own pixels across the reference's field of view.

        Where slices are resampled that is the reference's side times its spacing over the image's,
        by the geometric mean of rows and columns; else the longer side of the image's slices.

        Args:
            shape: rows and columns of the image's slices.
            spacing_mm: of rows and columns.
        """
        if self.spacing_mm is None:
            return float(max(shape))
        ratio = math.prod(self.spacing_mm) / math.prod(spacing_mm)
        return max(self.size) * math.sqrt(ratio)

    def choose(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> KernelChoice:
        """Return the kernel for an image, by its pixels and the thresholds."""
        pixels = self.pixels(shape, spacing_mm)
        kernel = next(k for k in self.kernels if pixels <= self.up_to.get(k, math.inf))
        what = f"slices of {shape[0]}x{shape[1]}"
        if self.spacing_mm is not None:
            what = (
                f"at {spacing_mm[0]:.3g}x{spacing_mm[1]:.3g} mm {pixels:.0f} pixels span the "
                "field of view"
            )
        rules = ", ".join(f"{k} up to {self.up_to[k]:.0f} pixels" for k in self.kernels[:-1])
        return KernelChoice(kernel, f"{what}; {rules}, {self.kernels[-1]} above")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON for ``deployment.json``; thresholds in pixels."""
        return {
            "reference": self.reference,
            "up_to_pixels": {str(k): self.up_to.get(k) for k in self.kernels},
        }

    @staticmethod
    def from_json(
        content: Any, size: tuple[int, int], spacing_mm: tuple[float, float] | None
    ) -> KernelProfiles:
        """Return the profiles that :meth:`to_json` wrote.

        ``size`` and ``spacing_mm`` are those of the deployment that they are of. For anything else
        KeyError, TypeError, AttributeError or ValueError is raised.
        """
        reference = content["reference"]
        limits = {int(k): limit for k, limit in content["up_to_pixels"].items()}
        kernels = sorted(limits)
        below = [limits[k] for k in kernels[:-1]]
        right = (
            len(kernels) >= 2
            and type(reference) is int
            and reference in kernels
            and limits[kernels[-1]] is None
            and all(type(v) in (int, float) and 0 < v < math.inf for v in below)
            and below == sorted(set(below))
        )
        if not right:
            raise ValueError(f"kernels {content!r:.200}")
        up_to = {k: float(limits[k]) for k in kernels[:-1]}
        return KernelProfiles(reference, size, spacing_mm, tuple(kernels), up_to)
