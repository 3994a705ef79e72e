"""Where in an image a network looks for a class: gradient-weighted activation of its blocks.

Seg-Grad-CAM (Vinogradova et al., arXiv 2002.11434), which is Grad-CAM (Selvaraju et al., arXiv
1610.02391) with the class's logit summed over the pixels M that are to be explained:

    y = sum over M of logit_c;  a[k] = mean over pixels of dy / dA[k];  map = relu(sum_k a[k] A[k])

for the maps A[k] that a block puts out. Of a quantized network the gradient goes straight through
its roundings, as in QAT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.graph import operators as op
from lmaunet.graph.graph import Graph
from lmaunet.graph.module import GraphModule
from lmaunet.net.network import LMaUNet
from lmaunet.quant.network import QuantNetwork

Pixels = Literal["mask", "all"]
"""Which pixels a map explains: those that the network gives the class, or all of the image."""

SHOWN = 6
_STAGE = re.compile(r"stages\.(\d+)\.")


def blocks_of(network: nn.Module) -> dict[str, str]:
    """Return the blocks whose maps are made unless others are asked for: value by name.

    Of an LMa-UNet they are its large-kernel Mamba modules, ``lkm1`` to ``lkm4``. Of another graph
    each scan's: the first sum of maps behind it, which joins it to what went around it.

    Raises:
        UserError: for a graph without such.
    """
    if isinstance(network, LMaUNet):
        return {f"lkm{i + 1}": f"stages.{i}" for i in range(len(network.stages))}
    graph = _graph(network)
    last: dict[int, str] = {}
    for node in graph.nodes:
        if match := _STAGE.match(node.name):
            last[int(match[1])] = node.name
    if last and all(_is_map(graph, name) for name in last.values()):
        return {f"lkm{i + 1}": last[i] for i in sorted(last)}
    found: dict[str, str] = {}
    scans = [node.name for node in graph.nodes if isinstance(node.operator, op.Scan)]
    for scan in scans:
        joined = _first_sum(graph, scan)
        if joined is not None:
            found.setdefault(joined, joined)
    if not found:
        raise UserError(
            "the network has no scan that joins a map; name a value of it with --stage, such as "
            f"{_some(_maps(graph))}"
        )
    return found


def value_of(network: nn.Module, name: str) -> str:
    """Return the value that a block's name means: one of :func:`blocks_of`, or any map.

    Raises:
        UserError: where the network has none of that name that is a map.
    """
    if isinstance(network, LMaUNet):
        blocks = blocks_of(network)
        if name not in blocks:
            raise UserError(f"no block {name!r}; the network's are {', '.join(blocks)}")
        return blocks[name]
    graph, blocks = _graph(network), {}
    if name not in (maps := _maps(graph)):
        blocks = blocks_of(network)
        if name not in blocks:
            known = _some([*blocks, *maps])
            raise UserError(f"no block or map {name!r} in the network; there are {known}")
    return blocks.get(name, name)


def class_activation(
    network: nn.Module,
    images: Tensor,
    index: int,
    values: Sequence[str],
    pixels: Pixels = "mask",
) -> Tensor:
    """Return the maps of a class, float32 ``(n, values, H, W)``, 0 and above, not scaled.

    Args:
        network: in evaluation mode: images do not depend on each other.
        images: ``(n, channels, H, W)``.
        index: the class.
        values: of the network, as :func:`value_of` names them.
        pixels: which pixels of the logits are summed. Where the network gives none the class, the
            map of ``mask`` is 0.

    Raises:
        UserError: where the class does not depend on a value.
    """
    network.eval()
    kept: dict[str, Tensor] = {}
    with torch.enable_grad():
        logits = _watched(network, images.detach().requires_grad_(True), values, kept)
        score = logits[:, index]
        if pixels == "mask":
            score = score * (logits.argmax(1) == index)
        slopes = torch.autograd.grad(
            score.sum(), [kept[value] for value in values], allow_unused=True
        )
    maps = []
    for value, slope in zip(values, slopes, strict=True):
        if slope is None:
            raise UserError(f"class {index} does not depend on {value}; name another value")
        weighted = slope.mean((2, 3), keepdim=True) * kept[value].detach()
        map_of = F.relu(weighted.sum(1, keepdim=True))
        size = [int(n) for n in images.shape[2:]]
        maps.append(F.interpolate(map_of, size=size, mode="bilinear", align_corners=False))
    return torch.cat(maps, 1)


def _watched(
    network: nn.Module, images: Tensor, values: Sequence[str], kept: dict[str, Tensor]
) -> Tensor:
    """Return the logits of images; ``kept`` receives the values."""
    if isinstance(network, (GraphModule, QuantNetwork)):
        wanted = set(values)

        def watch(name: str, value: Tensor) -> None:
            if name in wanted:
                kept[name] = value

        network.watch_value = watch
        try:
            return network(images)
        finally:
            network.watch_value = None
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda module, given, result, name=name: kept.__setitem__(name, result)
        )
        for name in values
    ]
    try:
        return network(images)
    finally:
        for hook in hooks:
            hook.remove()


def _graph(network: nn.Module) -> Graph:
    assert isinstance(network, (GraphModule, QuantNetwork))
    return network.graph


def _is_map(graph: Graph, name: str) -> bool:
    shape = graph.shape(name)
    return len(shape) == 4 and min(shape[2:]) > 1


def _maps(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if _is_map(graph, node.name)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _first_sum(graph: Graph, scan: str) -> str | None:
    """Return the first sum of maps that a scan's result comes to, in the order of the nodes."""
    reached = {scan}
    for node in graph.nodes:
        if reached & set(node.inputs):
            reached.add(node.name)
            if isinstance(node.operator, op.Add) and _is_map(graph, node.name):
                return node.name
    return None


def randomized(network: nn.Module, seed: int) -> None:
    """Give a network's weights other values in place: each tensor's own numbers, shuffled.

    A map that stays the same shows the image and not the network (Adebayo et al., Sanity checks for
    saliency maps, arXiv 1810.03292).
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            flat = parameter.view(-1)
            flat.copy_(flat[torch.randperm(flat.numel(), generator=generator)])
