"""DICOM in: one series, in a folder or in one file, as a volume on the grid that its tags give.

pydicom reads headers and uncompressed pixels, GDCM (through SimpleITK) the compressed ones.
highdicom's volumes are not used for reading: they answer that there is no volume, and not which
slice is twice, missing or of another kind, and their JPEG 2000 needs a decoder that GDCM has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.data.dicom.files import holds_dicom, is_dicom, read_headers
from lmaunet.data.dicom.frames import Frame, frames_of
from lmaunet.data.dicom.geometry import GEOMETRY_TOLERANCE_MM, stack
from lmaunet.data.dicom.header import Header, damaged
from lmaunet.data.dicom.pixels import read_pixels
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GEOMETRY_TOLERANCE_MM", "DicomImage", "holds_dicom", "is_dicom", "read_dicom"]


@dataclass(frozen=True, eq=False)
class DicomImage:
    """A DICOM series as a volume.

    Args:
        array: float32 ``(z, y, x)``, rescaled (HU for CT); z runs along the slices' normal.
        spacing_mm: x, y, z.
        origin: position of the first voxel's centre in mm, LPS.
        direction: the matrix in rows, as SimpleITK has it.
        notes: what the user should know.
        modality: for example ``CT``.
        files: the file of each slice, in the order of ``array``.
        frames: what each slice is, in the order of ``array``.
        headers: all tags but the pixels of each file; ``Frame.source`` counts them.
    """

    array: np.ndarray = field(repr=False)
    spacing_mm: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    notes: tuple[str, ...]
    modality: str
    files: tuple[Path, ...] = field(repr=False)
    frames: tuple[Frame, ...] = field(repr=False)
    headers: tuple[Header, ...] = field(repr=False)


def read_dicom(path: Path) -> DicomImage:
    """Return the DICOM series of a folder, or of one file, as a volume.

    Args:
        path: a folder with the files of one series, or one file: a multi-frame image, or a single
            slice. Names, instance numbers and the order of frames play no part.

    Raises:
        UserError: where it is not exactly one series, or no box of voxels, or damaged; the message
            names the file or frame.
    """
    try:
        return _read(path)
    except (UserError, NameError, ImportError):
        raise
    except Exception as error:  # damaged bytes make pydicom raise anything, anywhere
        raise UserError(damaged(path, error)) from error


def _read(path: Path) -> DicomImage:
    headers, notes = read_headers(path)
    frames = frames_of(headers)
    box = stack(frames, path)
    frames = [frames[index] for index in box.order]
    array, of_values = read_pixels(frames, headers)
    return DicomImage(
        array,
        box.spacing_mm,
        box.origin,
        box.direction,
        (*notes, *box.notes, *of_values),
        headers[0].text("Modality") or "unknown",
        tuple(headers[frame.source].path for frame in frames),
        tuple(frames),
        tuple(headers),
    )
