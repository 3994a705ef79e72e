"""The scans inside the quantized network: what they are given, and computing them in integers.

The quantized network computes its scans in float. Here the integers that reach each scan are
recorded, and the result of a scan in integers can be put in the place of the float one. All else
stays as it is, so that a difference of the logits is the scan's.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmaunet.errors import UserError
from lmaunet.graph.module import to_tokens
from lmaunet.graph.operators import Scan
from lmaunet.quant.network import QuantNetwork
from lmaunet.scan.choice import ScanCodes
from lmaunet.scan.compiled import run_compiled
from lmaunet.scan.formats import ScanScales
from lmaunet.scan.integer import IntegerScan, to_codes
from lmaunet.scan.real import Real
from lmaunet.spec import ScanSpec


@dataclass(frozen=True)
class ScanSite:
    """One scan of a quantized network.

    Args:
        name: of its node in the graph.
        scales: of its INT8 tensors.
        A, D: ``(channels, states)`` and ``(channels,)``.
    """

    name: str
    scales: ScanScales
    A: Real
    D: Real

    def integer(self, spec: ScanSpec) -> IntegerScan:
        """Return the site's scan in integers."""
        return IntegerScan.from_real(spec, self.scales, self.A, self.D)


@torch.no_grad()
def scan_sites(model: QuantNetwork) -> list[ScanSite]:
    """Return the scans of a network in evaluation mode, in the order in which it computes them."""
    sites = []
    for node in model.graph.nodes:
        if isinstance(node.operator, Scan):
            scales = ScanScales(*(model.scale(value) for value in (*node.inputs, node.name)))
            rates, skip = model.scan_weights(node)
            sites.append(ScanSite(node.name, scales, rates.double().cpu().numpy(),
                                  skip.double().cpu().numpy()))  # fmt: skip
    return sites


def record_scans(model: QuantNetwork, images: np.ndarray, batch: int = 8) -> list[ScanCodes]:
    """Return what each scan is given when the network sees images ``(n, channels, H, W)``."""
    seen: list[list[ScanCodes]] = [[] for _ in scan_sites(model)]

    def keep(index: int, codes: ScanCodes) -> None:
        seen[index].append(codes)

    with replaced_scans(model, keep):
        _run(model, images, batch)
    return [
        ScanCodes(*(np.concatenate(part) for part in zip(*(c.stimuli for c in parts), strict=True)))
        for parts in seen
    ]


@contextlib.contextmanager
def integer_scans(model: QuantNetwork, specs: Sequence[ScanSpec]) -> Iterator[list[Counter[str]]]:
    """Make a network compute its scans in integers while the context lasts.

    Args:
        model: in evaluation mode.
        specs: the number formats of each scan, in network order.

    Yields:
        for each scan, how many numbers each cut has saturated so far.

    Raises:
        UserError: where the specs are not those of this network.
    """
    sites = scan_sites(model)
    if len(specs) != len(sites):
        raise UserError(
            f"number formats of {len(specs)} scans, the network has {len(sites)}; "
            "choose them for this network"
        )
    scans = [site.integer(spec) for site, spec in zip(sites, specs, strict=True)]
    saturations: list[Counter[str]] = [Counter() for _ in sites]

    def compute(index: int, codes: ScanCodes) -> Real:
        result = run_compiled(scans[index], *codes.stimuli, threads=torch.get_num_threads())
        saturations[index].update(result.saturations)
        return result.y * sites[index].scales.y

    with replaced_scans(model, compute):
        yield saturations


@contextlib.contextmanager
def replaced_scans(
    model: QuantNetwork, see: Callable[[int, ScanCodes], Real | None]
) -> Iterator[None]:
    """Call ``see`` with the index and the integers of each scan that a network computes.

    What ``see`` returns, y ``(n, L, channels)``, takes the place of the float scan's result; where
    it returns None, that stays.
    """
    sites = scan_sites(model)
    places = {site.name: place for place, site in enumerate(sites)}

    def watch(name: str, inputs: Sequence[Tensor]) -> Tensor | None:
        scales = sites[places[name]].scales
        codes = [
            to_codes(to_tokens(value.detach()).cpu().numpy(), scale).astype(np.int8)
            for value, scale in zip(inputs, (scales.x, scales.dt, scales.b, scales.c), strict=True)
        ]
        y = see(places[name], ScanCodes(*codes))
        if y is None:
            return None
        given = inputs[0]
        return torch.from_numpy(y).to(given).transpose(1, 2).reshape(given.shape)

    before = model.watch_scan
    model.watch_scan = watch
    try:
        yield
    finally:
        model.watch_scan = before


@torch.no_grad()
def _run(model: QuantNetwork, images: np.ndarray, batch: int) -> None:
    device = next(model.parameters()).device
    for start in range(0, len(images), batch):
        model(torch.from_numpy(images[start : start + batch]).to(device))
