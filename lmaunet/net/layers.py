"""The weights of a network by the names of :meth:`lmaunet.spec.NetSpec.layers`."""

from __future__ import annotations

from torch import nn

from lmaunet.net.network import LMaUNet


def weights_of(model: LMaUNet) -> dict[str, nn.Parameter]:
    """Return the weight ``(out, ...)`` of every convolution and linear map, by ``part.layer``."""
    paths: dict[str, str] = {}
    for path, _ in model.named_parameters():
        head, *rest = path.removesuffix(".weight").split(".")
        if not path.endswith(".weight") or "norm" in rest:
            continue
        if head == "stages":
            part = "deep" if rest[0] == "3" else f"lkm{int(rest[0]) + 1}"
            name = rest[-1]
        elif head == "decoder":
            part, name = f"decoder{3 - int(rest[0])}", rest[1]
            if name == "convs":
                name = f"conv{rest[2]}"
        elif head == "pyramid":
            part, name = head, rest[0] if rest[0] != "bin" else f"bin{rest[1]}"
        elif head == "shallow":
            part, name = head, rest[0]
        else:
            part, name = head, head
        paths[f"{part}.{name}"] = path
    parameters = dict(model.named_parameters())
    return {
        layer.path: parameters[paths[layer.path]] for layer in model.spec.layers() if layer.weights
    }
