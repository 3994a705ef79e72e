"""The bytes of a checkpoint: what kind of file it is, and its content, read without running code.

A file is only ever read with ``weights_only=True``: a pickle that holds code is refused, not run.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from lmaunet.errors import UserError
from lmaunet.net.plain_pickle import ALLOWED

PLAIN = "save it again as torch.save(model.state_dict(), path)"

_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and MATLAB write",
     "give the file that torch.save wrote"),
    (0, b"\x93NUMPY", "a numpy array (.npy)", "give the file that torch.save wrote"),
    (0, b"version https://git-lfs", "a pointer of git-lfs, not the file itself",
     "get the file with: git lfs pull"),
    (4, b"TFL3", "a TensorFlow Lite model", "give the file that torch.save wrote"),
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip"),
    (0, b"BZh", "compressed with bzip2", "unpack it first: bunzip2"),
    (0, b"\xfd7zXZ\x00", "compressed with xz", "unpack it first: unxz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: unzstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a RAR archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it and give the file that torch.save wrote; a "
     "checkpoint of torch 0.1 has to be loaded and saved again with a later torch"),
    (0, b"<", "a page of HTML or XML", "download the file itself, not the page about it"),
)  # fmt: skip


def require_file(path: Path) -> None:
    """Raise :class:`UserError` where there is no such file."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist or is not a file; give a .pt file")


def save_atomically(path: Path, content: Any) -> None:
    """Write tensors and plain data: the old file stays until the new one is complete.

    Raises:
        OSError: where the file cannot be written. torch's own writer hides a full disk behind a
            fault of its format.
    """
    partial = path.with_name(f".{path.name}.partial")
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        partial.write_bytes(buffer.getbuffer())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_file(path: Path) -> Any:
    """Return what ``torch.load`` finds in a file, without ever running code from it.

    Numpy's scalars come as Python's numbers, its arrays as
    :class:`~lmaunet.net.plain_pickle.PlainArray`.

    Raises:
        UserError: no such file, not a checkpoint, truncated, or a pickle with code in it.
    """
    require_file(path)
    try:
        _check_kind(path)
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from error
    except MemoryError as error:
        raise UserError(
            f"checkpoint {path} declares more than memory holds; it is damaged, or of a network "
            "that is too large for this machine; copy or save it again"
        ) from error
    # a damaged pickle raises anything: struct.error, AssertionError, LookupError, zlib.error, ...
    except Exception as error:
        # torch explains at length; the first sentence names the fault
        reason = str(error).split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"checkpoint {path} is damaged or truncated, or none ({type(error).__name__}: "
            f"{reason}); give a file that torch.save wrote, or copy or save it again"
        ) from error


def _refusal(path: Path, said: str) -> str:
    """Return what to say of a pickle that torch refused, from its words."""
    wanted = re.search(
        r"GLOBAL (\S+) (?:was not|whose module)|unrecognized function (\S.{0,80}?)(?:\.|$)"
        r"|allowlisted via `add_safe_globals`,? but got (\S.{0,80})"
        r"|must be imported to load (\S+)", said)  # fmt: skip
    if wanted is not None:
        name = next(group for group in wanted.groups() if group)
        return (
            f"checkpoint {path} is a pickle that holds more than tensors and plain data: it asks "
            f"for {name}; it was not executed. Where the network was trained, {PLAIN}"
        )
    if "Unsupported operand" in said and b"\x80" < _protocol(path) <= b"\x80\x05":
        return (
            f"checkpoint {path} is a pickle of protocol {_protocol(path)[1]}, expected 2; load it "
            "where it was written and save it with torch.save and its own pickle_protocol"
        )
    return f"{path} is not a torch checkpoint; give a file that torch.save wrote"


def _protocol(path: Path) -> bytes:
    """Return the first two bytes of a file's pickle: ``0x80`` and the protocol, if above 2."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            with archive.open(name) as stream:
                start = stream.read(2)
    except (zipfile.BadZipFile, StopIteration, OSError, RuntimeError, NotImplementedError):
        with path.open("rb") as stream:
            start = stream.read(2)
    return start if start[:1] == b"\x80" and start[1:] > b"\x02" else b""


def _check_kind(path: Path) -> None:
    """Raise :class:`UserError` for a file that is empty, altered, or of another program."""
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise UserError(f"checkpoint {path} is damaged: it is empty; copy or save it again")
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return
    what = next(
        ((kind, remedy) for at, magic, kind, remedy in _MAGIC if start[at:].startswith(magic)),
        None,
    )
    if what is None and start[8:9] == b"{":
        length = int.from_bytes(start[:8], "little")
        if length < path.stat().st_size:
            what = ("a safetensors file", "load it with safetensors.torch.load_file and save the "
                    "dictionary with torch.save(tensors, path)")  # fmt: skip
    # a protocol buffer whose first field is a small version: ir_version of ONNX
    if what is None and (
        start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] in (b"\x12", b":")
    ):
        what = ("an ONNX model", "give the checkpoint that it was exported from")
    if what is None and start.lstrip()[:1] in (b"{", b"["):
        what = ("a text file, JSON perhaps", "give the file that torch.save wrote")
    if what is not None:
        raise UserError(f"checkpoint {path} is {what[0]}; {what[1]}")


def _check_archive(path: Path) -> None:
    """Raise :class:`UserError` for an archive cut short or altered, or of another program.

    torch.load itself does not look at the checksums: a flipped bit would be a weight.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            altered = archive.testzip()
    # the rest of them: encrypted archives, unknown compression, members that are cut short
    except Exception as error:
        raise UserError(
            f"checkpoint {path} is damaged or truncated ({error}); copy or save it again"
        ) from error
    if altered is not None:
        raise UserError(
            f"checkpoint {path} is damaged: {altered} in it does not match its checksum; copy or "
            "save it again"
        )
    other = _other_archive(names)
    if other is not None:
        raise UserError(f"checkpoint {path} is {other[0]}; {other[1]}")


def _other_archive(names: list[str]) -> tuple[str, str] | None:
    """Return what a zip archive is that torch.save did not write, and the remedy."""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends and any("/code/" in name for name in names):
        return (
            "a TorchScript module, which is code",
            "save its weights: torch.save(torch.jit.load(path).state_dict(), other_path)",
        )
    if any("exported_program" in name or "archive_format" in name for name in names):
        return (
            "an exported program (.pt2), which is code",
            "save its weights: torch.save(torch.export.load(path).state_dict, other_path)",
        )
    if "data.pkl" in ends:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return ("an archive of numpy arrays (.npz)", "give the file that torch.save wrote")
    if "model.weights.h5" in ends:
        return ("a Keras model", "give the file that torch.save wrote")
    inside = [name for name in names if name.endswith((".pt", ".pth", ".ckpt"))]
    if inside:
        return (f"an archive with {inside[0]!r} in it", "unpack it and give that file")
    return ("a zip archive that torch.save did not write", "give the file that torch.save wrote")
