"""The pixels of DICOM files: stored numbers, and what they stand for."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.dicom.codestream import check_frames
from lmaunet.data.dicom.files import PIXELS, listing
from lmaunet.data.dicom.frames import Frame
from lmaunet.data.dicom.header import Header, damaged, quiet
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LONGEST_PADDING = 3
"""Bytes after the pixels that are taken for padding; more says that their size is another."""
STRICT = frozenset({"1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
"""RLE and JPEG-LS, for which pydicom has decoders that refuse what is damaged: GDCM refuses small
frames of RLE, and takes damaged ones of JPEG-LS."""
WORDS = "1.2.840.10008.5.1.4.1.1.7.3"  # Multi-frame Grayscale Word Secondary Capture
BYTES = "1.2.840.10008.5.1.4.1.1.7.2"  # Multi-frame Grayscale Byte Secondary Capture


def read_pixels(
    frames: Sequence[Frame], headers: Sequence[Header]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the values of frames, float32 ``(z, y, x)`` in their order, and notes on them.

    Each is rescaled by its own slope and intercept, or table. The headers lose their pixels, which
    are read once.

    Raises:
        UserError: where pixels are missing, cut short, in colour, or cannot be decoded.
    """
    import numpy as np

    traits = frames[0].traits
    _check_kind(frames)
    array = np.empty((0, 0, 0), np.float32)
    places: dict[int, list[int]] = {}
    for z, frame in enumerate(frames):
        places.setdefault(frame.source, []).append(z)
    padding = _Padding()
    for source, of_file in places.items():
        header = headers[source]
        stored = _stored(header, traits)
        if not array.size:  # not before: damaged tags may say any size
            array = _room((len(frames), traits["Rows"], traits["Columns"]), header)
        for z in of_file:
            plane = stored[frames[z].number or 0]
            array[z] = _values(plane, frames[z], header)
            padding.look(z, plane, array[z], header)
    return array, (*padding.fill(array), *_notes(frames, headers))


def _room(shape: tuple[int, int, int], header: Header) -> np.ndarray:
    import numpy as np

    try:
        return np.empty(shape, np.float32)
    except MemoryError as error:
        raise UserError(
            f"{header.path}: {' x '.join(map(str, shape))} voxels do not fit in memory; use a "
            "machine with more, or a part of the series"
        ) from error


def _check_kind(frames: Sequence[Frame]) -> None:
    traits, name = frames[0].traits, frames[0].name
    if traits["SamplesPerPixel"] != 1:
        raise UserError(
            f"{name} is in colour ({traits['SamplesPerPixel']} samples per pixel); expected one; "
            "give the images that it was made from"
        )
    if traits["PhotometricInterpretation"] not in ("MONOCHROME2", None):
        raise UserError(
            f"{name}: PhotometricInterpretation is {traits['PhotometricInterpretation']}; expected "
            "MONOCHROME2, in which larger numbers are brighter; convert the images"
        )
    if traits["BitsAllocated"] not in (8, 16, 32, 64):
        raise UserError(
            f"{name}: BitsAllocated is {traits['BitsAllocated']}; expected 8, 16, 32 or 64; "
            "convert the images"
        )
    with_slope = [frame for frame in frames if frame.slope is not None]
    without = [frame for frame in frames if frame.slope is None]
    if with_slope and without:
        raise UserError(
            f"{without[0].name} has no RescaleSlope and RescaleIntercept, and {with_slope[0].name} "
            "has; expected both in each, which give the pixels their unit; get the series again"
        )


def _stored(header: Header, traits: dict[str, Any]) -> np.ndarray:
    """Return the stored numbers of a file, ``(frames, y, x)``, and drop its pixels."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    dataset = header.dataset
    count = header.integer("NumberOfFrames") or 1
    shape = (count, traits["Rows"], traits["Columns"])
    try:
        with quiet():
            keyword = next(keyword for keyword in PIXELS if keyword in dataset)
            syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
            if syntax.is_valid and syntax.is_encapsulated:
                check_frames(dataset.PixelData, *shape)
                if syntax in STRICT and get_decoder(syntax).is_available:
                    # RLE tells no size: what is more than the tags say is a warning only
                    warnings.filterwarnings("error", ".*RLE segment contains")
                    stored, _ = get_decoder(syntax).as_array(dataset, raw=True)
                    stored = stored.reshape(shape)
                else:
                    stored = _compressed(header, syntax, count)
            else:
                stored = _native(header, keyword, syntax, shape, traits)
            del dataset[keyword]
    except UserError:
        raise
    except Exception as error:  # decoders raise anything for damaged pixels
        raise UserError(damaged(header.path, error)) from error
    if stored.shape != shape:
        raise UserError(
            damaged(
                header.path,
                f"pixels of {' x '.join(map(str, stored.shape))}, and tags that say "
                f"{' x '.join(map(str, shape))}",
            )
        )
    return stored if stored.dtype.kind == "f" else _used_bits(stored, header)


def _native(
    header: Header, keyword: str, syntax: Any, shape: tuple[int, ...], traits: dict[str, Any]
) -> np.ndarray:
    import numpy as np
    from pydicom.pixels import get_decoder
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

    dataset = header.dataset
    content = dataset[keyword].value
    expected = int(np.prod(shape)) * traits["BitsAllocated"] // 8
    if not expected <= len(content) <= expected + LONGEST_PADDING:
        raise UserError(
            damaged(
                header.path,
                f"{len(content)} bytes of pixels, expected {expected} for "
                f"{' x '.join(map(str, shape))} of {traits['BitsAllocated']} bits",
            )
        )
    big = syntax == ExplicitVRBigEndian or not dataset.original_encoding[1]
    decoder = get_decoder(ExplicitVRBigEndian if big else ExplicitVRLittleEndian)
    options = {
        "rows": shape[1],
        "columns": shape[2],
        "number_of_frames": shape[0],
        "samples_per_pixel": 1,
        "bits_allocated": traits["BitsAllocated"],
        "bits_stored": traits["BitsAllocated"],
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": keyword,
        "pixel_vr": dataset[keyword].VR,
    }
    if keyword == "PixelData":
        options["pixel_representation"] = 0
    stored, _ = decoder.as_array(content, raw=True, **options)
    return stored.reshape(shape)


def _compressed(header: Header, syntax: Any, count: int) -> np.ndarray:
    """Return pixels that GDCM decompresses, as stored.

    It gets the pixels alone, without what they stand for, because it would rescale all frames by
    one slope.
    """
    import pydicom
    import SimpleITK
    from pydicom.dataset import FileMetaDataset

    dataset = header.dataset
    alone = pydicom.Dataset()
    for keyword in (
        "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
        "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "PixelData",
    ):  # fmt: skip
        if keyword in dataset:
            alone[keyword] = dataset[keyword]
    alone.NumberOfFrames = count
    alone.PhotometricInterpretation = "MONOCHROME2"
    alone.SOPClassUID = BYTES if int(dataset.BitsAllocated) == 8 else WORDS
    alone.SOPInstanceUID = "2.25.1"
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = syntax
    alone.file_meta.MediaStorageSOPClassUID = alone.SOPClassUID
    alone.file_meta.MediaStorageSOPInstanceUID = alone.SOPInstanceUID
    warn = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with tempfile.TemporaryDirectory(prefix="lmaunet-") as folder:
            file = Path(folder) / "pixels.dcm"
            alone.save_as(file, enforce_file_format=True)
            with _mute():
                image = SimpleITK.ReadImage(str(file), imageIO="GDCMImageIO")
    except OSError as error:
        raise UserError(
            f"{header.path}: its compressed pixels need a temporary file: {error.strerror}; set "
            "TMPDIR to a folder with room"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"{header.path}: its pixels ({syntax.name}) cannot be decompressed; the file is "
            "damaged, or its compression unknown to GDCM; get it again, or uncompressed"
        ) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(warn)
    stored = SimpleITK.GetArrayFromImage(image)
    return stored[None] if stored.ndim == 2 else stored


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Keep what decoders print of damaged pixels off the terminal: the refusal says it."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no terminal
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _used_bits(stored: np.ndarray, header: Header) -> np.ndarray:
    """Return integers of the bits that are stored; others may hold an overlay, or anything."""
    import numpy as np

    allocated = stored.dtype.itemsize * 8
    bits, sign = header.integer("BitsStored"), header.integer("PixelRepresentation")
    if bits is None or sign not in (0, 1):
        raise UserError(
            f"{header.path} has no BitsStored, or no PixelRepresentation of 0 or 1; expected both, "
            "which say what number a pixel is; get the file again"
        )
    high = header.integer("HighBit")
    high = bits - 1 if high is None else high
    if not 0 < bits <= high + 1 <= allocated:
        raise UserError(
            f"{header.path}: {bits} bits stored up to bit {high} of {allocated}; expected them to "
            "fit; correct the tags"
        )
    kind = np.dtype(f"{'i' if sign else 'u'}{stored.dtype.itemsize}")
    numbers = stored.view(stored.dtype.newbyteorder("=")) if stored.dtype.isnative else (
        stored.astype(stored.dtype.newbyteorder("="))
    )  # fmt: skip
    numbers = numbers.view(kind)
    if bits == allocated:
        return numbers
    # the shift to the left drops what is above, the one to the right brings the sign down
    return (numbers << (allocated - high - 1)) >> (allocated - bits)


def _values(plane: np.ndarray, frame: Frame, header: Header) -> np.ndarray:
    """Return what stored numbers stand for, by the frame's slope and intercept, or table."""
    import numpy as np

    if "ModalityLUTSequence" in header.dataset:
        from pydicom.pixels import apply_modality_lut

        try:
            with quiet():
                return np.asarray(apply_modality_lut(plane, header.dataset))
        except Exception as error:
            raise UserError(damaged(header.path, f"Modality LUT: {error}")) from error
    if frame.slope is None or frame.intercept is None:
        return plane
    return plane.astype(np.float64) * frame.slope + frame.intercept


@dataclass
class _Padding:
    """Pixels outside the field of view, which a file marks by a stored value.

    Darker than all others they are air to a network, and stay as they are. Brighter than all
    others (a negative number stored without a sign) they would be taken for metal: they get the
    darkest value of the rest. In between the mark is no mark, because pixels of the body have it.
    """

    masks: dict[int, np.ndarray] = field(default_factory=dict)
    count: int = 0
    dark: float = math.inf
    bright: float = -math.inf
    rest_dark: float = math.inf
    rest_bright: float = -math.inf

    def look(self, z: int, stored: np.ndarray, values: np.ndarray, header: Header) -> None:
        """Take in which pixels of a slice are marked."""
        import numpy as np

        mask = _padded(stored, header)
        if mask is None or not mask.any():
            marked, rest = values[:0], values
        else:
            marked, rest = values[mask], values[~mask]
            self.masks[z] = np.packbits(mask)
            self.count += int(mask.sum())
        if marked.size:
            self.dark = min(self.dark, float(marked.min()))
            self.bright = max(self.bright, float(marked.max()))
        if rest.size:
            self.rest_dark = min(self.rest_dark, float(rest.min()))
            self.rest_bright = max(self.rest_bright, float(rest.max()))

    def fill(self, array: np.ndarray) -> tuple[str, ...]:
        """Darken marked pixels that are brighter than all others; return notes."""
        import numpy as np

        if not self.count or not math.isfinite(self.rest_dark):
            return ()
        share = f"{self.count} pixel(s) outside the field of view (PixelPaddingValue)"
        if self.bright < self.rest_dark:
            return (f"{share} hold {self.dark:g}, darker than all others: left as they are",)
        if self.dark <= self.rest_bright:
            return ()
        for z, packed in self.masks.items():
            mask = np.unpackbits(packed, count=array[z].size).astype(bool).reshape(array[z].shape)
            array[z][mask] = self.rest_dark
        return (
            f"{share} held {self.bright:g}, brighter than all others: set to the darkest of the "
            f"rest, {self.rest_dark:g}",
        )


def _padded(stored: np.ndarray, header: Header) -> np.ndarray | None:
    """Return which stored numbers mark pixels outside the field of view; None where no tag does."""
    value = header.integer("PixelPaddingValue")
    if value is None or stored.dtype.kind == "f":
        return None
    limit = header.integer("PixelPaddingRangeLimit")
    if limit not in (None, value):
        return (stored >= min(value, limit)) & (stored <= max(value, limit))
    # compared by bits: some files write the mark with a sign and pixels without, or reversed
    bits = header.integer("BitsStored") or stored.dtype.itemsize * 8
    number = value & ((1 << bits) - 1)
    return stored == (_signed(number, bits) if stored.dtype.kind == "i" else number)


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> (bits - 1) else number


def _notes(frames: Sequence[Frame], headers: Sequence[Header]) -> list[str]:
    """Return what a user should know of the unit of the values."""
    notes = []
    traits = frames[0].traits
    first = headers[frames[0].source]
    if traits["Modality"] == "CT" and "ModalityLUTSequence" not in first.dataset:
        kind = traits["RescaleType"]
        if frames[0].slope is None:
            notes.append(
                "no RescaleSlope and RescaleIntercept: values are as stored, which may not be HU"
            )
        elif kind not in (None, "HU"):
            notes.append(f"values are in {kind} (RescaleType), expected HU for CT")
    if traits["Modality"] == "PT":
        notes.append(
            f"values are in {first.text('Units') or 'an unknown unit'}, as the scanner gives them, "
            "not turned into SUV"
        )
    lossy = [h.path.name for h in headers if h.text("LossyImageCompression") == "01"]
    if lossy:
        notes.append(f"compressed with loss: {listing(lossy, 1)}")
    return notes
