"""The scans inside the quantized network: what they are given, and computing them in integers.

The quantized network computes its scans in float. Here the codes that reach each scan are read off
its quantizers, and the codes of an integer scan can be put in the place of the float result. All
else stays as it is, so that a difference of the logits is the scan's.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.quant.network import QuantLMaUNet, QuantMamba
from lmaunet.scan.choice import ScanCodes
from lmaunet.scan.compiled import run_compiled
from lmaunet.scan.formats import ScanScales
from lmaunet.scan.integer import IntegerScan, to_codes
from lmaunet.scan.real import Real
from lmaunet.spec import ScanSpec

# The quantizers whose outputs a scan takes, by the name that ScanScales has.
_INPUTS = {"x": "quant_silu_x", "dt": "quant_dt", "b": "quant_b", "c": "quant_c"}


@dataclass(frozen=True)
class ScanSite:
    """One scan of a quantized network.

    Args:
        name: ``part.scan`` as :meth:`lmaunet.spec.NetSpec.layers` has it.
        scales: of its INT8 tensors.
        A, D: ``(channels, states)`` and ``(channels,)``.
        mamba: the module it is part of.
    """

    name: str
    scales: ScanScales
    A: Real
    D: Real
    mamba: QuantMamba

    def integer(self, spec: ScanSpec) -> IntegerScan:
        """Return the site's scan in integers."""
        return IntegerScan.from_real(spec, self.scales, self.A, self.D)


@torch.no_grad()
def scan_sites(model: QuantLMaUNet) -> list[ScanSite]:
    """Return the scans of a network in evaluation mode, in the order in which it computes them."""
    names = [f"{layer.part}.{layer.name}" for layer in model.spec.layers() if layer.kind == "scan"]
    mambas = [module for module in model.modules() if isinstance(module, QuantMamba)]
    sites = []
    for name, mamba in zip(names, mambas, strict=True):
        quantizers = [getattr(mamba, q) for q in (*_INPUTS.values(), "quant_y")]
        scales = ScanScales(*(float(q.act_quant.scale()) for q in quantizers))
        rates = (-torch.exp(mamba.A_log)).double().cpu().numpy()
        sites.append(ScanSite(name, scales, rates, mamba.D.double().cpu().numpy(), mamba))
    return sites


def record_scans(model: QuantLMaUNet, images: np.ndarray, batch: int = 8) -> list[ScanCodes]:
    """Return what each scan is given when the network sees images ``(n, channels, H, W)``."""
    sites = scan_sites(model)
    seen: list[list[ScanCodes]] = [[] for _ in sites]

    def keep(index: int, codes: ScanCodes) -> None:
        seen[index].append(codes)

    with replaced_scans(sites, keep):
        _run(model, images, batch)
    return [
        ScanCodes(*(np.concatenate(part) for part in zip(*(c.stimuli for c in parts), strict=True)))
        for parts in seen
    ]


@contextlib.contextmanager
def integer_scans(model: QuantLMaUNet, specs: Sequence[ScanSpec]) -> Iterator[list[Counter[str]]]:
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

    with replaced_scans(sites, compute):
        yield saturations


@contextlib.contextmanager
def replaced_scans(
    sites: Sequence[ScanSite], see: Callable[[int, ScanCodes], Real | None]
) -> Iterator[None]:
    """Call ``see`` with the index and the codes of each scan that a network computes.

    What ``see`` returns, y ``(n, L, channels)``, takes the place of the float scan's result; where
    it returns None, that stays.
    """
    with contextlib.ExitStack() as stack:
        for index, site in enumerate(sites):
            inputs: dict[str, np.ndarray] = {}
            for name, attribute in _INPUTS.items():
                scale = getattr(site.scales, name)
                hook = _keeper(inputs, name, scale)
                handle = getattr(site.mamba, attribute).register_forward_hook(hook)
                stack.callback(handle.remove)
            before_y = _replacer(index, inputs, see)
            stack.callback(site.mamba.quant_y.register_forward_pre_hook(before_y).remove)
        yield


def _keeper(
    inputs: dict[str, np.ndarray], name: str, scale: float
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def keep(module: nn.Module, arguments: tuple[Tensor, ...], value: Tensor) -> None:
        # (n, features, 1, L) to (n, L, features)
        tokens = value.detach().flatten(2).transpose(1, 2)
        inputs[name] = to_codes(tokens.cpu().numpy(), scale).astype(np.int8)

    return keep


def _replacer(
    index: int, inputs: dict[str, np.ndarray], see: Callable[[int, ScanCodes], Real | None]
) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor | None]:
    def replace(module: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor | None:
        y = see(index, ScanCodes(*(inputs.pop(name) for name in _INPUTS)))
        if y is None:
            return None
        given = arguments[0]
        return torch.from_numpy(y).to(given).transpose(1, 2).reshape(given.shape)

    return replace


@torch.no_grad()
def _run(model: QuantLMaUNet, images: np.ndarray, batch: int) -> None:
    device = next(model.parameters()).device
    for start in range(0, len(images), batch):
        model(torch.from_numpy(images[start : start + batch]).to(device))
