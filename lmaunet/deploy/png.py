"""PNG files as data URIs, without a library: colour, gray, and indices into a palette."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

GRAY, COLOUR, INDEXED = 0, 2, 3
"""PNG's colour types (W3C, PNG specification, 11.2.2)."""


def png_data_uri(pixels: np.ndarray) -> str:
    """Return ``(H, W, 3)`` or gray ``(H, W)``, uint8, as a ``data:image/png`` URI."""
    import numpy as np

    # filter 1 (difference to the pixel on the left) packs smooth images well
    difference = pixels.copy()
    difference[:, 1:] -= pixels[:, :-1]
    lines = np.concatenate(
        [np.full((len(pixels), 1), 1, np.uint8), difference.reshape(len(pixels), -1)], axis=1
    )
    return _uri(pixels.shape, COLOUR if pixels.ndim == 3 else GRAY, lines, [])


def indexed_data_uri(
    indices: np.ndarray, palette: Sequence[tuple[int, int, int, int]]
) -> str:  # fmt: skip
    """Return indices ``(H, W)`` uint8 into a palette of RGBA, each 0 to 255, as such a URI."""
    import numpy as np

    lines = np.concatenate([np.zeros((len(indices), 1), np.uint8), indices], axis=1)
    colours = bytes(value for entry in palette for value in entry[:3])
    chunks = [(b"PLTE", colours), (b"tRNS", bytes(entry[3] for entry in palette))]
    return _uri(indices.shape, INDEXED, lines, chunks)


def _uri(
    shape: Sequence[int], kind: int, lines: np.ndarray, before: Sequence[tuple[bytes, bytes]]
) -> str:  # fmt: skip
    header = struct.pack(">IIBBBBB", shape[1], shape[0], 8, kind, 0, 0, 0)
    packed = zlib.compress(lines.tobytes(), 9)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *before, (b"IDAT", packed), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    return "data:image/png;base64," + base64.b64encode(content).decode()
