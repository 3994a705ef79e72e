"""Whether the compressed frames of a DICOM file are whole, by the marks of JPEG and JPEG 2000.

Decoders fill what is missing of a frame with something, or take its size from the frame and not
from the file's tags, in silence.
"""

from __future__ import annotations

from typing import Any

JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
END = b"\xff\xd9"
# starts of frame, of all processes of JPEG and of JPEG-LS; C4, C8 and CC are other marks
SIZES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


def check_frames(pixels: bytes, count: int, rows: int, columns: int) -> None:
    """Check that encapsulated pixels hold whole frames of a size; others than JPEG are let pass.

    Raises:
        ValueError: saying what is missing or differs.
    """
    from pydicom.encaps import generate_frames

    frames = list(generate_frames(pixels, number_of_frames=count))
    if len(frames) != count:
        raise ValueError(f"{len(frames)} compressed frame(s), expected {count}")
    for number, frame in enumerate(frames, 1):
        if not frame.startswith((JPEG, JPEG_2000)):
            continue
        if not frame.rstrip(b"\0").endswith(END):
            raise ValueError(f"compressed frame {number} has no end")
        size = _size(frame)
        if size != (rows, columns):
            raise ValueError(f"compressed frame {number} is of {size}, expected {rows, columns}")


def _size(frame: bytes) -> Any:
    """Return rows and columns of a JPEG or JPEG 2000 frame; None where no mark tells them."""
    if frame.startswith(JPEG_2000):
        # after the marks: length 2, capabilities 2, then width, height and their offsets, 4 each
        width, height, left, top = (int.from_bytes(frame[8 + i : 12 + i]) for i in (0, 4, 8, 12))
        return height - top, width - left
    place = len(JPEG)
    while place + 9 <= len(frame):
        if frame[place] != 0xFF:
            return None
        mark = frame[place + 1]
        if mark in SIZES:
            # length 2, precision 1, then height and width, 2 each
            sizes = frame[place + 5 : place + 9]
            return int.from_bytes(sizes[:2]), int.from_bytes(sizes[2:])
        # fill bytes stand alone, all other marks before the frame have a length
        step = 1 if mark == 0xFF else 2 + int.from_bytes(frame[place + 2 : place + 4])
        place += step
    return None
