"""A folder with one DICOM series, read as a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmaunet.errors import UserError

GEOMETRY_TOLERANCE_MM = 0.05
STEP_TOLERANCE = 0.01
POSITION = "0020|0032"  # ImagePositionPatient


def is_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_series(folder: Path) -> Any:
    """Return the one DICOM series of a folder as a SimpleITK image, rescaled (HU for CT).

    Raises:
        UserError: where there is none, or several, or it is no box of voxels.
        RuntimeError: where the reader cannot read it.
    """
    import SimpleITK

    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise UserError(f"{folder} holds no DICOM series; give a folder with one series")
    if len(series) > 1:
        raise UserError(
            f"{folder} holds {len(series)} DICOM series ({', '.join(series)}); expected one; "
            "move each into a folder of its own"
        )
    reader = SimpleITK.ImageSeriesReader()
    # The names come sorted along the slice normal, from ImagePositionPatient.
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    # a damaged file belongs to no series, and the reader leaves it out in silence
    known = {Path(name).name for name in names} | {"DICOMDIR"}
    lost = [p.name for p in sorted(folder.iterdir()) if p.name not in known and _holds_dicom(p)]
    if lost:
        raise UserError(
            f"{folder} holds {len(lost)} DICOM file(s) that are not in its series, such as "
            f"{lost[0]}: damaged, or no image; get them again, or move them away"
        )
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    if len(names) > 1 and all(reader.HasMetaDataKey(i, POSITION) for i in range(len(names))):
        positions = [reader.GetMetaData(i, POSITION).split("\\") for i in range(len(names))]
        _check_steps(positions, image.GetDirection(), folder)
    return image


def _holds_dicom(path: Path) -> bool:
    return path.is_file() and is_dicom(path)


def _check_steps(positions: list[list[str]], direction: tuple[float, ...], folder: Path) -> None:
    """Raise UserError where slices do not lie one above the other at equal distances.

    The reader takes them for a box in any case: a mask would lie beside the organ.
    """
    import numpy as np

    try:
        steps = np.diff(np.array(positions, np.float64), axis=0)
    except ValueError as error:
        raise UserError(
            f"{folder}: a slice's position is no three numbers ({error}); get the series again"
        ) from error
    normal = np.reshape(direction, (3, 3))[:, 2]
    along = steps @ normal
    allowed = max(GEOMETRY_TOLERANCE_MM, STEP_TOLERANCE * float(np.median(along)))
    if np.ptp(along) > allowed or along.min() <= 0:
        raise UserError(
            f"{folder}: slices are {along.min():.3g} to {along.max():.3g} mm apart; expected equal "
            "steps, because the volume is a box of voxels; complete the series, or resample it"
        )
    aside = float(np.abs(steps - along[:, None] * normal).max())
    if aside > allowed:
        raise UserError(
            f"{folder}: each slice is shifted by {aside:.3g} mm within its plane (a tilted "
            "gantry); expected slices one above the other; resample the series to a volume first"
        )
