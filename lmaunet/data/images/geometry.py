"""Where the voxels of an image lie: grids, the turn to LPS and back, and small repairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ORIENTATION = "LPS"
GRID_TOLERANCE_MM = 0.05
SKEW_TOLERANCE_DEG = 0.1
SKEW_TOLERANCE_MM = 0.05
SKEW_ROUNDING = 1e-4  # what is left of orthogonal axes in float32, and of decimals in a text
NO_STEP = 1e-12  # of a direction


@dataclass(frozen=True)
class FileGrid:
    """The grid of an image in the axes of its file, as SimpleITK has grids: mm, in LPS.

    All have 2 or 3 dimensions, as the file has; ``direction`` is the matrix in rows. ``stated`` is
    the affine ``(4, 4)`` in rows, index to mm in LPS, that the file states, where its axes were
    turned to right angles; empty where they were not.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    stated: tuple[float, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies in the patient; lengths in mm.

    ``shape`` is ``(z, y, x)`` in LPS, ``spacing_mm`` in the same order; ``origin`` and
    ``direction`` are SimpleITK's, in x, y, z; ``orientation`` and ``grid`` are those of the file.
    ``placement`` is all that a NIfTI file says of where it lies; None for another format.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    orientation: str
    grid: FileGrid
    placement: Any = field(default=None, compare=False, repr=False)

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in millilitres; a 2-D image counts as 1 mm thick."""
        return math.prod(self.spacing_mm) / 1000

    def same_grid(self, other: Geometry) -> bool:
        """Tell whether two volumes have the same voxels, to a twentieth of a millimetre."""
        import numpy as np

        def corner(g: Geometry) -> np.ndarray:
            steps = np.array(g.spacing_mm[::-1]) * (np.array(g.shape[::-1]) - 1)
            return np.array(g.origin) + np.array(g.direction).reshape(3, 3) @ steps

        first = np.abs(np.array(self.origin) - np.array(other.origin)).max()
        last = np.abs(corner(self) - corner(other)).max()
        return self.shape == other.shape and max(first, last) <= GRID_TOLERANCE_MM


def to_lps(array: np.ndarray, grid: FileGrid, placement: Any = None) -> tuple[np.ndarray, Geometry]:
    """Return an array in the axes of its file, slowest first, as ``(z, y, x)`` in LPS.

    x runs towards the patient's left, y towards the back, z towards the head; a 2-D image is a
    volume of one slice.
    """
    import SimpleITK

    image: Any = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    if len(grid.size) == 2:
        image = SimpleITK.JoinSeries([image])
    orientation = orientation_of(grid)
    image = SimpleITK.DICOMOrient(image, ORIENTATION)
    turned = SimpleITK.GetArrayFromImage(image)
    z, y, x = turned.shape
    sx, sy, sz = image.GetSpacing()
    return turned, Geometry(
        (z, y, x), (sz, sy, sx), image.GetOrigin(), image.GetDirection(), orientation, grid,
        placement,
    )  # fmt: skip


def orientation_of(grid: FileGrid) -> str:
    """Return the directions that the axes of a file are nearest to, such as ``RAS``."""
    import SimpleITK

    direction = grid.direction
    if len(grid.size) == 2:
        a, b, c, d = direction
        direction = (a, b, 0.0, c, d, 0.0, 0.0, 0.0, 1.0)
    found: str = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    return found


@dataclass(frozen=True)
class AxisTurn:
    """How a volume ``(z, y, x)`` in LPS is turned to other axes, slowest first.

    Args:
        order: the axis of the volume that each new axis is.
        backwards: the new axes that run against it.
    """

    order: tuple[int, int, int]
    backwards: tuple[int, ...]

    def view(self, volume: np.ndarray) -> np.ndarray:
        """Return a view of ``(..., z, y, x)`` in the other axes; what is written to it is in both.

        Axes before the last three stay as they are.
        """
        import numpy as np

        lead = volume.ndim - 3
        turned = volume.transpose([*range(lead), *(lead + axis for axis in self.order)])
        return np.flip(turned, tuple(lead + axis for axis in self.backwards))


_AXES = {"S": (0, False), "I": (0, True), "P": (1, False), "A": (1, True), "L": (2, False),
         "R": (2, True)}  # fmt: skip


def turn_to(orientation: str) -> AxisTurn:
    """Return the turn from LPS to an orientation such as ``RAS``.

    Its letters say where the axes run to, the fastest one's first, as SimpleITK has them.
    """
    axes = [_AXES[letter] for letter in reversed(orientation)]
    first, second, third = (axis for axis, _ in axes)
    return AxisTurn((first, second, third), tuple(i for i in range(3) if axes[i][1]))


def is_orientation(text: Any) -> bool:
    """Tell whether a value names the directions of three axes, such as ``RAS``."""
    known = isinstance(text, str) and all(letter in _AXES for letter in text)
    return known and sorted(_AXES[letter][0] for letter in text) == [0, 1, 2]


def in_file_axes(labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return labels ``(z, y, x)`` in LPS along the axes of the file, slowest first."""
    import numpy as np

    found = np.ascontiguousarray(turn_to(geometry.orientation).view(labels))
    return found[0] if len(geometry.grid.size) == 2 else found


def corners(size: tuple[int, ...]) -> np.ndarray:
    """Return the indices of the outermost voxels, ``(2 ** n, n)``."""
    import numpy as np

    ends = np.meshgrid(*[(0, n - 1) for n in size], indexing="ij")
    return np.stack([axis.ravel() for axis in ends], 1)


def farthest_mm(first: np.ndarray, second: np.ndarray, size: tuple[int, ...]) -> float:
    """Return how far two affines ``(4, 4)``, index to mm, lay a voxel apart at most."""
    import numpy as np

    index = corners(size)
    apart = index @ (first - second)[:3, : len(size)].T + (first - second)[:3, 3]
    return float(np.linalg.norm(apart, axis=1).max())


def is_orthogonal(matrix: np.ndarray, rounding: float = SKEW_ROUNDING) -> bool:
    """Tell whether the columns of a matrix are at right angles, to rounding."""
    import numpy as np

    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(matrix).all() or not (lengths > 0).all():
        return False
    axes = matrix / lengths
    return bool(np.abs(axes.T @ axes - np.eye(len(axes))).max() <= rounding)


def orthogonal_grid(
    matrix: np.ndarray, origin: np.ndarray, size: tuple[int, ...], where: str, remedy: str
) -> tuple[FileGrid, tuple[str, ...]]:
    """Return the grid of an index-to-LPS matrix whose axes are at right angles, or nearly.

    Axes that are off by at most 0.1 degree, or that lie 0.05 mm from right angles at most anywhere
    in the volume, are turned to the nearest right angles about the volume's centre, and a note
    says so.

    Args:
        matrix: ``(n, n)``, its columns are the steps from voxel to voxel in mm.
        origin: ``(n,)``, the first voxel's centre.
        size: voxels along each axis.
        where: the file, for messages.
        remedy: what to do, for messages.

    Raises:
        UserError: where a step is 0 or not finite, two axes are one, or more is to be turned.
    """
    import numpy as np

    if not (np.isfinite(matrix).all() and np.isfinite(origin).all()):
        raise UserError(f"{where}: its axes or its origin are NaN or infinite; {remedy}")
    spacing = np.linalg.norm(matrix, axis=0)
    if not (spacing > 0).all():
        raise UserError(
            f"{where}: voxels of {' x '.join(f'{step:g}' for step in spacing)} mm; expected a "
            f"size; {remedy}"
        )
    axes = matrix / spacing
    notes: tuple[str, ...] = ()
    stated: tuple[float, ...] = ()
    if is_orthogonal(matrix):
        direction = axes
    else:
        u, values, vt = np.linalg.svd(axes)
        cosines = np.abs(axes.T @ axes - np.eye(len(axes)))
        degrees = math.degrees(math.asin(min(1.0, float(cosines.max()))))
        direction = u @ vt
        center = matrix @ ((np.array(size) - 1) / 2) + origin
        turned = center - direction * spacing @ ((np.array(size) - 1) / 2)
        apart = corners(size) @ (matrix - direction * spacing).T + (origin - turned)
        off_mm = float(np.linalg.norm(apart, axis=1).max())
        if values.min() < 0.1 or (degrees > SKEW_TOLERANCE_DEG and off_mm > SKEW_TOLERANCE_MM):
            raise UserError(
                f"{where}: its axes are {degrees:.3g} degrees off right angles (a sheared grid, as "
                f"of a tilted gantry), which moves voxels by up to {off_mm:.3g} mm; expected at "
                f"most {SKEW_TOLERANCE_DEG} degree or {SKEW_TOLERANCE_MM} mm; {remedy}"
            )
        affine = np.eye(4)
        affine[: len(size), : len(size)], affine[: len(size), 3] = matrix, origin
        stated = tuple(affine.ravel().tolist())
        origin = turned
        notes = (
            f"the image's axes are {degrees:.2g} degrees off right angles: the nearest right "
            f"angles are used, which moves voxels by up to {off_mm:.2g} mm",
        )
    return FileGrid(
        tuple(int(n) for n in size),
        tuple(float(s) for s in spacing),
        tuple(float(o) for o in origin),
        # ITK's inverse complains on the terminal of steps that are all but 0
        tuple(float(d) if abs(d) > NO_STEP else 0.0 for d in direction.ravel()),
        stated,
    ), notes


def flat(grid: FileGrid) -> FileGrid:
    """Return the grid of one slice in 2 dimensions, or as it is where only 3 can say it."""
    d = grid.direction
    aside = max(abs(d[2]), abs(d[5]), abs(d[6]), abs(d[7]), abs(d[8] - 1))
    if aside > 1e-6 or abs(grid.origin[2]) > 1e-6:
        return grid
    return FileGrid(grid.size[:2], grid.spacing_mm[:2], grid.origin[:2], (d[0], d[1], d[3], d[4]))
