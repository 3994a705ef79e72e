"""Files of a series that are damaged, and files beside them that are none of it."""

from __future__ import annotations

from pathlib import Path

from robustness_images import Rng, pick


def damage(rng: Rng, files: list[bytes]) -> str:
    """Cut a file, flip bits in it, take its preamble, or leave it empty."""
    at = int(rng.integers(len(files)))
    how, content = (
        pick(
            rng,
            (
                "cut",
                "cut",
                "cut by a few",
                "flipped",
                "flipped",
                "no preamble",
                "empty",
                "noise after it",
            ),
        ),
        bytearray(files[at]),
    )
    if how == "cut":
        del content[int(rng.integers(0, len(content) + 1)) :]
    elif how == "cut by a few":
        del content[-int(rng.integers(1, 40)) :]
    elif how == "flipped":
        end = min(len(content), 1800) if rng.random() < 0.8 else len(content)
        for place in rng.integers(0, max(1, end), int(pick(rng, (1, 2, 6)))):
            if content:
                content[place] ^= 1 << int(rng.integers(8))
    elif how == "no preamble":
        for i, other in enumerate(files):
            files[i] = other[132:]
        content = bytearray(files[at])
    elif how == "empty":
        content = bytearray()
    else:
        content += rng.bytes(64)
    files[at] = bytes(content)
    return f"a file {how}"


def add_strays(rng: Rng, place: Path) -> str:
    """Put something beside the slices that is none."""
    name, content = pick(
        rng,
        (
            ("notes.txt", b"seen"),
            ("DICOMDIR", b"\0" * 128 + b"DICM" + b"\0" * 20),
            ("._IM0000.dcm", b"\0\5\26\7"),
            (".DS_Store", b"\0\0\0\1Bud1"),
            ("Thumbs.db", b"\xd0\xcf"),
            ("empty.dcm", b""),
            ("IM9999.dcm", b"\0" * 128 + b"DICM"),
            ("a.dcm", b"\0" * 128 + b"DICM" + b"\xff" * 99),
        ),
    )
    if rng.random() < 0.2:
        (place / "sub").mkdir()
        (place / "sub" / name).write_bytes(content)
        return f"a folder with {name}"
    (place / name).write_bytes(content)
    return f"also {name}"
