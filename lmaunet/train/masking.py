"""How images are masked for pretraining. It loads no torch: a command checks its options here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lmaunet.errors import UserError

BLOCK, SHARE = 16, 0.6


@dataclass(frozen=True)
class Masking:
    """Blocks of ``block`` x ``block`` pixels, of which ``share`` are masked in each image."""

    block: int = BLOCK
    share: float = SHARE

    def __post_init__(self) -> None:
        if self.block < 1 or not 0 < self.share < 1:
            raise UserError(
                f"blocks of {self.block} pixels, a share of {self.share} masked; give 1 pixel or "
                "more, and a share between 0 and 1"
            )

    def count(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return how many blocks an image of a height and width has, and how many are masked.

        Raises:
            UserError: where there are less than two, or none or all would be masked.
        """
        blocks = -(-size[0] // self.block) * -(-size[1] // self.block)
        masked = round(self.share * blocks)
        if not 0 < masked < blocks:
            raise UserError(
                f"an image of {size[0]}x{size[1]} has {blocks} block(s) of {self.block} pixels, of "
                f"which {masked} would be masked; give smaller blocks, or another share"
            )
        return blocks, masked

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)
