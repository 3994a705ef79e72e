"""Bytes of a checkpoint changed: members of its archive, opcodes of its pickle, or any.

Members that are changed get checksums that fit again.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from typing import Any

from robustness_images import Rng, pick


def change_bytes(rng: Rng, content: bytes, said: list[str]) -> bytes:
    """Change members of the archive, or bytes of the file."""
    how = pick(rng, ("pickle", "pickle", "pickle", "pickle", "pickle", "storage", "member", "zip",
                     "flip", "cut", "other"))  # fmt: skip
    if how in ("pickle", "storage", "member", "zip"):
        try:
            return _rezipped(rng, content, how, said)
        except zipfile.BadZipFile:
            how = "flip"
    changed = bytearray(content)
    if how == "flip":
        for at in rng.integers(0, len(changed), int(pick(rng, (1, 3, 20)))):
            changed[at] ^= 1 << int(rng.integers(8))
        said.append("bits flipped")
    elif how == "cut":
        del changed[int(rng.integers(0, len(changed))) :]
        said.append(f"cut to {len(changed)}")
    else:
        name, changed = pick(rng, OTHER_FILES)
        said.append(name)
    return bytes(changed)


OTHER_FILES: tuple[tuple[str, Any], ...] = (
    ("text", b"no network\n" * 9),
    ("nothing", b""),
    ("html", b"<!DOCTYPE html><html></html>"),
    ("a pointer to large files", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    ("code in a pickle", b"cos\nsystem\n(S'echo run > ran'\ntR."),
    ("zip of nothing", b"PK\5\6" + b"\0" * 18),
    ("a pickle", pickle.dumps({"a": [1, 2]})),
    ("hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 90),
    ("safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
    ("a pickle's start", b"\x80\x02"),
)


def _rezipped(rng: Rng, content: bytes, how: str, said: list[str]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (program,) = [name for name in members if name.endswith("data.pkl")]
    storages = [name for name in members if "/data/" in name]
    if how == "pickle":
        members[program] = change_pickle(rng, members[program], said)
    elif how == "storage" and storages:
        name = pick(rng, storages)
        data = members[name]
        kind = pick(rng, ("cut", "grown", "empty", "noise"))
        members[name] = {
            "cut": data[: int(rng.integers(0, len(data) + 1))],
            "grown": data + b"\0" * 64,
            "empty": b"",
            "noise": rng.bytes(len(data)),
        }[kind]
        said.append(f"{name} {kind}")
    elif how == "member":
        name = pick(rng, list(members))
        kind = pick(rng, ("gone", "renamed", "changed"))
        data = members.pop(name)
        if kind == "renamed":
            members[name.replace("/", "_") if rng.random() < 0.5 else "other/" + name] = data
        elif kind == "changed" and name not in storages:
            members[name] = pick(rng, (b"", b"2\n", b"999\n", b"big", b"little", rng.bytes(9)))
        said.append(f"{name} {kind}")
    stream = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if how == "zip" and rng.random() < 0.5 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, packing)
        if how == "zip" and rng.random() < 0.5:
            archive.comment = rng.bytes(20)
            archive.writestr("archive/more.txt", b"more")
    said.append("packed anew" + (", deflated" if packing else ""))
    prefix = rng.bytes(13) if how == "zip" and rng.random() < 0.2 else b""
    return prefix + stream.getvalue()


OPCODES = b"(.0123]})a^bcdeghijlopqrstuBCFGIJKLMNPQRSTUVX" + bytes(range(0x80, 0x96))


def change_pickle(rng: Rng, program: bytes, said: list[str]) -> bytes:
    """Change opcodes, arguments or bytes of a pickle, or leave some out, or repeat some."""
    changed = bytearray(program)
    places = [at for _, _, at in pickletools.genops(program) if at is not None]
    count = int(pick(rng, (1, 1, 1, 2, 5)))
    kinds = []
    for _ in range(count):
        at = min(int(pick(rng, places)), len(changed) - 1)
        kind = pick(rng, ("opcode", "opcode", "argument", "byte", "left out", "repeated", "number"))
        if kind == "opcode":
            changed[at] = OPCODES[int(rng.integers(len(OPCODES)))]
        elif kind == "argument":
            changed[min(at + 1, len(changed) - 1)] = int(rng.integers(256))
        elif kind == "byte":
            changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
        elif kind == "left out":
            del changed[at : at + int(pick(rng, (1, 2, 5, 30)))]
        elif kind == "repeated":
            changed[at:at] = changed[at : at + int(pick(rng, (1, 2, 5, 30)))]
        else:
            big = pick(
                rng,
                (
                    b"M\xff\xff",
                    b"J\xff\xff\xff\x7f",
                    b"K\0",
                    b"J\xff\xff\xff\xff",
                    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
                    b"G\x7f\xf8\0\0\0\0\0\0",
                ),
            )
            changed[at : at + len(big)] = big
        kinds.append(f"{kind} at {at}")
        if not changed:
            break
    said.append("pickle: " + ", ".join(kinds))
    return bytes(changed)
