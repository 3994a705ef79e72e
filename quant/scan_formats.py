"""The number formats of a trained network's scans: chosen from calibration images, kept as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.quant.integer_network import record_scans, scan_sites
from lmaunet.quant.network import QuantNetwork
from lmaunet.scan.choice import ChosenFormats, choose_formats
from lmaunet.stage import read_json, write_json

# 8 bits of x, B and C alone leave a scan 28 to 35 dB (docs/scan.md). Integers at this ratio add a
# tenth or less to that noise.
TARGET_DB = 46.0


@dataclass(frozen=True)
class SiteFormats:
    """The formats of one scan of a network, by the name of its node."""

    site: str
    chosen: ChosenFormats

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"site": self.site, **self.chosen.to_json()}


def choose_for_network(
    model: QuantNetwork,
    images: np.ndarray,
    target_db: float = TARGET_DB,
    progress: Callable[[str], None] = lambda line: None,
) -> list[SiteFormats]:
    """Choose the formats of every scan of a quantized network, in network order.

    Args:
        model: in evaluation mode, its scales final.
        images: calibration images ``(n, channels, H, W)`` of the size that is deployed.
        target_db: the least signal-to-noise ratio of each scan's integers.
        progress: called with a line on what is being done.

    Raises:
        UserError: where a scan cannot meet the target.
    """
    if not len(images):
        raise UserError("no images to choose the scans' number formats from; give one or more")
    sites = scan_sites(model)
    recorded = record_scans(model, images)
    found = []
    for site, codes in zip(sites, recorded, strict=True):
        progress(f"choosing the number formats of {site.name}")
        chosen = choose_formats(site.scales, site.A, site.D, codes, target_db)
        found.append(SiteFormats(site.name, chosen))
    return found


def write_formats(path: Path, formats: Sequence[SiteFormats]) -> None:
    """Write the formats as a JSON list, atomically."""
    write_json(path, [entry.to_json() for entry in formats])


def read_formats(path: Path) -> list[SiteFormats]:
    """Read what :func:`write_formats` wrote; raises UserError for anything else."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no scan formats ({error}); run qat again") from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{path} holds no list of scan formats; run qat again")
    try:
        return [SiteFormats(str(e["site"]), ChosenFormats.from_json(e)) for e in content]
    except (KeyError, UserError) as error:
        raise UserError(f"{path}: {error}; run qat again") from error
