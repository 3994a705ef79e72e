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

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmaunet.errors import UserError
from lmaunet.spec import NetSpec

AUTO = "auto"


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
    return dataclasses.replace(
        spec, elastic=(), kernels=(kernel,) * len(spec.kernels),
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
        folders: by kernel the folder of each other profile's deployment, in the build's.
        up_to: by kernel the most pixels that it serves; the largest kernel serves all above.
    """

    reference: int
    size: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    folders: Mapping[int, str]
    up_to: Mapping[int, float]

    @staticmethod
    def of(
        reference: int,
        size: tuple[int, int],
        spacing_mm: tuple[float, float] | None,
        folders: Mapping[int, str],
    ) -> KernelProfiles:
        """Return the profiles with the thresholds halfway between neighbouring kernels."""
        kernels = sorted([reference, *folders])
        side = max(size)
        up_to = {
            low: side * (low + high) / 2 / reference for low, high in itertools.pairwise(kernels)
        }
        return KernelProfiles(reference, size, spacing_mm, dict(folders), up_to)

    @property
    def kernels(self) -> tuple[int, ...]:
        """All kernels, the smallest first."""
        return tuple(sorted([self.reference, *self.folders]))

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
        fitting = [kernel for kernel in self.kernels if pixels <= self.up_to.get(kernel, math.inf)]
        kernel = fitting[0]
        what = f"slices of {shape[0]}x{shape[1]}"
        if self.spacing_mm is not None:
            what = (
                f"{spacing_mm[0]:.3g}x{spacing_mm[1]:.3g} mm are {pixels:.0f} pixels across the "
                "field of view"
            )
        rules = ", ".join(f"{k} up to {self.up_to[k]:.0f}" for k in self.kernels[:-1])
        return KernelChoice(kernel, f"{what}; by pixels {rules}, {self.kernels[-1]} above")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON for ``deployment.json``; thresholds in pixels."""
        return {
            "reference": self.reference,
            "profiles": [
                {
                    "kernel": kernel,
                    "folder": self.folders.get(kernel, "."),
                    "up_to_pixels": self.up_to.get(kernel),
                }
                for kernel in self.kernels
            ],
        }

    @staticmethod
    def from_json(
        content: Any, size: tuple[int, int], spacing_mm: tuple[float, float] | None
    ) -> KernelProfiles:
        """Return the profiles that :meth:`to_json` wrote.

        ``size`` and ``spacing_mm`` are those of the deployment that they are of. For anything else
        KeyError, TypeError or ValueError is raised.
        """
        reference = content["reference"]
        rows = {row["kernel"]: row for row in content["profiles"]}
        kernels = sorted(rows)
        limits = [rows[kernel]["up_to_pixels"] for kernel in kernels]
        right = (
            all(type(kernel) is int and 1 <= kernel <= 99 for kernel in kernels)
            and len(kernels) == len(content["profiles"]) >= 2
            and reference in rows
            and all(isinstance(row["folder"], str) for row in rows.values())
            and limits[-1] is None
            and all(type(v) in (int, float) and 0 < v < math.inf for v in limits[:-1])
            and limits[:-1] == sorted(set(limits[:-1]))
        )
        if not right:
            raise ValueError(f"kernels {content!r:.200}")
        folders = {k: row["folder"] for k, row in rows.items() if k != reference}
        if any(not _is_inside(folder) for folder in folders.values()):
            raise ValueError(f"folders {sorted(folders.values())!r:.200}: expected ones inside")
        up_to = dict(zip(kernels[:-1], map(float, limits[:-1]), strict=True))
        return KernelProfiles(reference, size, spacing_mm, folders, up_to)


def _is_inside(folder: str) -> bool:
    parts = folder.split("/")
    return not folder.startswith("/") and all(part not in ("", ".", "..") for part in parts)
