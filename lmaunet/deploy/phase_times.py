"""Where the time of a segmentation goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

PHASES = ("open", "read", "prepare", "first_call", "infer", "blend", "restore", "write")
"""What is timed: opening the build; reading the image; normalising and resampling slices; the
first call of the target, which loads its file; its other calls; cutting and blending windows;
classes on the image's grid; writing."""


@dataclass
class Timer:
    """Milliseconds of each phase; a phase within a phase counts for the inner one."""

    times_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    _open: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block, less that of blocks inside it, to a phase."""
        started = time.perf_counter()
        self._open.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.times_ms[name] += 1e3 * (elapsed - self._open.pop())
            if self._open:
                self._open[-1] += elapsed
