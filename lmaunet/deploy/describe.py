"""Describe a network specification: parameters, MACs and bytes, part by part."""

from __future__ import annotations

from typing import Any

from lmaunet.deploy.console import table
from lmaunet.graph.layers import GraphLayer, layers
from lmaunet.spec import NetSpec
from lmaunet.stated_spec import state_spec

ARTICLE = {
    "unet": (7.8e6, 145.2),
    "unet-large-kernel": (12.4e6, 210.7),
    "unet-mamba": (9.1e6, 168.5),
    "base": (11.2e6, 182.3),
}
"""Parameters and giga-operations of each network in the article's ablation."""
SIZES = (512, 256)


def describe(name: str) -> tuple[dict[str, Any], list[str]]:
    """Return a spec, by its name or its JSON file, as JSON, and as lines for a person.

    MACs are multiply-accumulates of one image; a scan counts three for each channel, state and
    token. Bytes are those of the parameters, at 4 and at 1 byte each.
    """
    spec = state_spec(name).for_training()
    parts: dict[str, dict[str, int]] = {}
    for layer in layers_of(spec):
        part = parts.setdefault(_part_of(layer.name), {"params": 0, "macs": 0})
        part["params"] += layer.params
        part["macs"] += layer.macs
    params = sum(part["params"] for part in parts.values())
    at_input = sum(part["macs"] for part in parts.values())
    known = {spec.input_size: at_input}
    macs = {}
    for size in SIZES if spec.dims == 2 else ():
        if (size, size) not in known:
            known[size, size] = count_macs(spec, size, size)
        macs[str(size)] = known[size, size]
    at = "x".join(map(str, spec.input_size))
    content: dict[str, Any] = {
        "spec": spec.to_json(),
        "params": params,
        "bytes_fp32": 4 * params,
        "bytes_int8": params,
        "macs": macs,
        "macs_at_input": at_input,
        "input": [1, spec.in_channels, *spec.input_size],
        "parts": parts,
    }
    rows = [
        [part, f"{v['params']:,}", f"{100 * v['params'] / params:.1f}", f"{v['macs'] / 1e6:,.1f}"]
        for part, v in parts.items()
    ]
    lines = [
        f"{spec.name}: widths {spec.widths}, strides {spec.strides}, kernels {spec.kernels}, "
        f"{_block_of(spec)}, skip={spec.skip}, pyramid={spec.pyramid}",
        "",
        *table(["part", "params", "%", f"MMAC at {at}"], rows),
        "",
        f"parameters  {params:,}  ({4 * params / 1e6:.2f} MB in FP32, "
        f"{params / 1e6:.2f} MB in INT8)",
        *(f"MACs at {size}  {count / 1e9:.2f} G" for size, count in macs.items()),
    ]
    if spec.dims == 3:
        lines.append(f"MACs at {at}  {at_input / 1e9:.2f} G")
    if spec.name in ARTICLE:
        content["article"] = compare_with_article(params, macs, spec.name)
        lines += ["", *content["article"]["lines"]]
    return content, lines


def layers_of(spec: NetSpec) -> list[GraphLayer]:
    """Return the layers of a spec's network, from its graph."""
    from lmaunet.graph.capture import capture
    from lmaunet.net.network import LMaUNet

    graph, _ = capture(LMaUNet(spec), (1, spec.in_channels, *spec.input_size))
    return layers(graph)


def count_macs(spec: NetSpec, height: int, width: int) -> int:
    """Return the MACs of one image of the given size."""
    spec.check_size(height, width)
    return sum(layer.macs for layer in layers_of(spec.replace(input_size=(height, width))))


def _block_of(spec: NetSpec) -> str:
    """Return what the encoder's blocks are besides their kernels."""
    if spec.mamba == "none":
        return "no Mamba" if spec.block == "lkm" else f"block={spec.block}"
    return f"N={spec.states}, expand={spec.expand}"


def _part_of(layer: str) -> str:
    """Return the part of the network that a layer is in, such as ``stages.0``."""
    first, _, rest = layer.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdecimal() else first


def compare_with_article(params: int, macs: dict[str, int], name: str = "base") -> dict[str, Any]:
    """Compare a network with the article's parameters and operations of it.

    The article names no convention; the reading that is nearest to its operations is said.
    """
    article_params, article_gflop = ARTICLE[name]
    readings = {
        f"{factor} x MAC at {size}": factor * count / 1e9
        for size, count in macs.items()
        for factor in (1, 2)
    }
    nearest = min(readings, key=lambda key: abs(readings[key] / article_gflop - 1))
    off = readings[nearest] / article_gflop - 1
    lines = [
        f"The article says {article_params / 1e6:.1f} M parameters (here "
        f"{100 * (params / article_params - 1):+.2f}%) and {article_gflop} G operations, without "
        "saying how they are counted.",
        f"Nearest is {nearest}: {readings[nearest]:.1f} G ({100 * off:+.1f}%), that is, a multiply "
        "and an add as two operations.",
    ]
    return {"readings_g": readings, "nearest": nearest, "relative": off, "lines": lines}
