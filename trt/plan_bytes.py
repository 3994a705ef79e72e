"""What the bytes of a plan are: constants, the source of generated kernels, and the rest.

TensorRT for RTX writes each generated kernel as CUDA source, to be compiled on the GPU at the first
run, and every one begins with the same library of functions. So a plan is mostly equal text, and
the file that ships is the plan in the xz format.
"""

from __future__ import annotations

import lzma
import re
from dataclasses import asdict, dataclass
from typing import Any

SOURCE = re.compile(rb"[\t\n\r\x20-\x7e]{4096,}")
ENTRY = b"__global__"
# ends at a decompressed size that no engine of ours comes near: a damaged file must not fill memory
UNPACKED_LIMIT = 4 << 30
XZ_MAGIC = b"\xfd7zXZ\x00"


@dataclass(frozen=True)
class PlanBytes:
    """The bytes of a plan, which add up to ``plan``.

    ``constants``: weights and padding, as the library reports them. ``kernels``: the source of
    ``kernel_count`` generated kernels, of which ``shared`` bytes a kernel are lines that all have.
    ``rest``: layers, names, launch settings. ``packed`` is the size of the plan in the xz format.
    """

    plan: int
    constants: int
    kernels: int
    kernel_count: int
    shared: int
    rest: int
    packed: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def kernel_sources(plan: bytes) -> list[bytes]:
    """Return the text of each generated kernel in a plan; none where they are compiled already."""
    return [text for text in SOURCE.findall(plan) if ENTRY in text]


def shared_bytes(sources: list[bytes]) -> int:
    """Return the bytes of the lines in a text that each of some texts has."""
    if len(sources) < 2:
        return 0
    first, *others = (source.split(b"\n") for source in sources)
    common = set(first).intersection(*others)
    return sum(len(line) + 1 for line in first if line in common)


def plan_bytes(plan: bytes, constants: int, packed: int) -> PlanBytes:
    """Return what a plan's bytes are.

    Args:
        plan: the plan's content.
        constants: the bytes of the constants in it, from the library.
        packed: the size of the packed plan.
    """
    sources = kernel_sources(plan)
    kernels = sum(map(len, sources))
    rest = len(plan) - constants - kernels
    return PlanBytes(
        len(plan), constants, kernels, len(sources), shared_bytes(sources), rest, packed
    )


def pack(plan: bytes) -> bytes:
    """Return a plan in the xz format with a checksum; equal plans give equal bytes."""
    return lzma.compress(plan, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=6)


def unpack(data: bytes) -> bytes:
    """Return the plan in a packed or an unpacked file.

    Raises:
        ValueError: where a packed file is cut short or damaged.
    """
    if not data.startswith(XZ_MAGIC):
        return data
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    try:
        plan = decompressor.decompress(data, max_length=UNPACKED_LIMIT)
    except lzma.LZMAError as error:
        raise ValueError(f"it is damaged ({error})") from error
    if not decompressor.eof:
        raise ValueError(f"it ends after {len(data)} bytes, in the middle of the plan")
    return plan
