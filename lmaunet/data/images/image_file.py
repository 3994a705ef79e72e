"""The bytes of an image file: what kind of file they are, whatever its name, and how to get them.

Everything that reads a file of an image goes through here, so that what is checked is what is
read: one regular file, opened once, never one beside it whose name is similar.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lmaunet.data.dicom.files import begins_as_dicom
from lmaunet.errors import UserError

NIFTI_1 = (b"n+1\0", b"ni1\0")
NIFTI_2 = (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
GZIP = b"\x1f\x8b"
HEAD_BYTES = 1024
HEAD_STEP = 16  # the fewer, the more is had of a stream before its damage
CHUNK_BYTES = 1 << 20
MOST_SHRINKING = 1100  # deflate packs at most 1032 bytes into one
PADDING_BYTES = 4096  # zeros that tapes and block devices leave behind a file
FORMATS = "NIfTI, NRRD, MetaImage or DICOM"

_MAGIC = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000 picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"II+\x00", "a TIFF picture"),
    (b"BM", "a BMP picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x89HDF\r\n", "an HDF5 file (MINC 2, .h5 and .mat files are such)"),
    (b"CDF\x01", "a netCDF file (MINC 1 files are such)"),
    (b"CDF\x02", "a netCDF file"),
    (b"\x93NUMPY", "a numpy array, which has no spacing"),
    (b"PK\x03\x04", "a zip archive (.npz files are such)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF"),
    (b"# vtk", "a VTK file"),
    (b"MATLAB 5.0", "a MATLAB file"),
)


@dataclass(frozen=True)
class FileHead:
    """What a file is, from its first bytes.

    ``kind`` is ``NIfTI``, ``NRRD``, ``MetaImage`` or ``DICOM``; ``start`` its first bytes, after
    decompression where it is ``gzipped``; ``size`` that of the file on the disk.
    """

    kind: str
    start: bytes
    gzipped: bool
    size: int


def shown(path: Path) -> str:
    """Return a path as a message can print it, undecodable bytes as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_name(path: Path) -> None:
    """Raise UserError for a path that is not UTF-8: the image libraries end the program on it."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(path)}: the name holds a byte that is not UTF-8; rename the file or its folder"
        ) from error


def identify(path: Path) -> FileHead:
    """Return what a file is.

    Raises:
        UserError: where it cannot be read, or is no image that this program reads; the message
            says what it is instead.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(len(GZIP))
        gzipped = start == GZIP
        stream.seek(0)
        start = _inflated_start(stream) if gzipped else stream.read(HEAD_BYTES)
    kind = _kind(start)
    if kind is None:
        what = _other(path, start, gzipped)
        raise UserError(
            f"{path} cannot be read as an image: it is {what}; give a file in {FORMATS} form, as "
            "the program that wrote it can save one"
        )
    return FileHead(kind, start, gzipped, size)


def _inflated_start(stream: IO[bytes]) -> bytes:
    """Return the first bytes in a gzip file, as many as can be had of a damaged one.

    What is damaged in it is said where all of it is read.
    """
    start, member = b"", _member()
    with contextlib.suppress(zlib.error):
        while len(start) < HEAD_BYTES:
            pending = member.unused_data or stream.read(HEAD_STEP)
            if not pending:
                break
            if member.eof:
                member = _member()
            start += member.decompress(pending)
    return start[:HEAD_BYTES]


def _member() -> Any:
    """Return what decompresses one member of a gzip file."""
    return zlib.decompressobj(wbits=31)


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; raises UserError for anything else."""
    check_name(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = next(
                name
                for test, name in (
                    (stat.S_ISDIR, "a folder"),
                    (stat.S_ISFIFO, "a named pipe"),
                    (stat.S_ISSOCK, "a socket"),
                    (lambda mode: True, "a device"),
                )
                if test(mode)
            )
            raise UserError(f"{path} is {what}; give a file in {FORMATS} form, or a DICOM folder")
        return path.open("rb")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; give a file in {FORMATS} form, or a DICOM folder"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path} cannot be read: {reason}") from error


def read_content(path: Path, head: FileHead, expected: int) -> bytes:
    """Return all bytes of a file, decompressed.

    Args:
        path: the file.
        head: what :func:`identify` said of it.
        expected: how many there should be; no more than these and padding are ever held.

    Raises:
        UserError: where there are fewer, or more than padding of zeros, or the gzip stream is
            damaged (its checksum is compared), or memory does not suffice.
    """
    check_memory(expected, path)
    most = head.size * MOST_SHRINKING
    if head.gzipped and most < expected:
        raise UserError(_cut_short(path, f"at most {most}", expected))
    with open_regular(path) as stream:
        content = inflate(stream, path, expected) if head.gzipped else stream.read()
    if len(content) < expected:
        raise UserError(_cut_short(path, len(content), expected))
    if len(content) - expected > PADDING_BYTES or content[expected:].strip(b"\0"):
        raise UserError(
            f"{path} holds more than its header says: over {expected} bytes, expected {expected}; "
            "the header is damaged or of another image; get the file again"
        )
    return content


def inflate(stream: IO[bytes], path: Path, most: int) -> bytes:
    """Return what a gzip file of one or several members holds, up to ``most`` and some padding.

    Raises:
        UserError: where it is cut short, a checksum differs, or something else follows it.
    """
    limit = most + PADDING_BYTES + 1
    parts, total = [], 0
    pending = stream.read(CHUNK_BYTES)
    while pending:
        member = _member()
        while not member.eof:
            if not pending:
                raise UserError(
                    f"{path} is damaged: its gzip stream is cut short after {total} bytes; get the "
                    "file again"
                )
            try:
                part = member.decompress(pending, max(1, limit - total))
            except zlib.error as error:
                raise UserError(f"{path} is damaged ({error}); get the file again") from error
            parts.append(part)
            total += len(part)
            if total >= limit:
                return b"".join(parts)
            pending = member.unconsumed_tail or (b"" if member.eof else stream.read(CHUNK_BYTES))
        pending = member.unused_data
        while not pending.strip(b"\0"):
            pending = stream.read(CHUNK_BYTES)
            if not pending:
                return b"".join(parts)
        pending = pending.lstrip(b"\0")
        if not pending.startswith(GZIP[: len(pending)]):
            raise UserError(
                f"{path} is damaged: its gzip stream is followed by other bytes; get the file again"
            )
    return b"".join(parts)


def header_line(line: bytes, path: Path) -> str:
    """Return a line of a text header; raise UserError where it holds other than printable text."""
    if not all(byte > 31 or byte == 9 for byte in line) or 127 in line:
        raise UserError(
            f"{path}: its header holds a control character in {line[:40]!r}; get the file again"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: {line[:40]!r} in its header is no UTF-8 text; get the file again"
        ) from error


def check_memory(size: int, path: Path) -> None:
    """Raise UserError where an image of so many bytes and its labels do not fit in memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not on every system
        return
    if size > memory:
        raise UserError(
            f"{path}: its header asks for {size / 1e9:.3g} GB; this machine has "
            f"{memory / 1e9:.3g} GB of memory; correct the header, or cut the image into parts"
        )


def _cut_short(path: Path, held: int | str, expected: int) -> str:
    return f"{path} is cut short: {held} bytes, expected {expected}; get the file again"


def _kind(start: bytes) -> str | None:
    if start[128:132] == b"DICM":
        return "DICOM"
    if re.match(rb"NRRD000[1-5]\r?\n", start):
        return "NRRD"
    if start.startswith((b"ObjectType", b"NDims", b"Comment")) and b"=" in start:
        return "MetaImage"
    for order in "<>":
        if len(start) < 4 or struct.unpack_from(f"{order}i", start)[0] not in (348, 540):
            continue
        # Analyze has the same length and no magic
        if start[344:348] in NIFTI_1 or start[4:12] in NIFTI_2:
            return "NIfTI"
    # last, because it also takes what has no mark and only begins as a header does
    return "DICOM" if begins_as_dicom(start) else None


def _other(path: Path, start: bytes, gzipped: bool) -> str:
    """Return what a file is that is none of the kinds that are read."""
    if not start:
        return "empty"
    for order in "<>":
        if len(start) >= 4 and struct.unpack_from(f"{order}i", start)[0] == 348:
            if len(start) < 348:
                return "a NIfTI or Analyze header, cut short"
            return (
                "an Analyze 7.5 header, which does not say which side is left (or a damaged NIfTI "
                "header)"
            )
    for magic, name in _MAGIC:
        if start.startswith(magic):
            return name
    if path.suffix.lower() == ".img":
        return "the data of a pair of files; give the .hdr beside it"
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start[:4] in (b"\x00\x00\x00\x01", b"\x01\x00\x00\x00") and ".mg" in path.name.lower():
        return "an MGH file"
    text = start.strip(b"\0")
    if text and all(31 < byte < 127 or byte in b"\t\r\n" for byte in text):
        return "text"
    if gzipped:
        return "compressed by gzip, and what is inside is not known"
    return "of an unknown kind"
