"""A network of nnU-Net's structure whose norms are batch normalizations, for ``fpga_design.py``.

The stages are those of nnU-Net's PlainConvUNet (two convolutions each, LeakyReLU of 0.01, strided
convolutions down, transposed ones up, concatenated skips), built by dynamic-network-architectures
as nnU-Net builds it, with random weights or those of one that was trained with instance norms.
``qat --norm batch`` gives such a network trained further with its new norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.graph_spec import GraphSpec
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.sources.checkpoint import restore, spec_of

FIELDS = {"widths", "strides", "input_size", "classes", "channels"}
# Images that the norms' statistics are of, of a batch each, and how often.
NORM_IMAGES, BATCH, PASSES = 12, 4, 4


def is_nnunet(content: Mapping[str, Any]) -> bool:
    """Return whether a JSON file's content describes such a network."""
    return set(content) == FIELDS


def nnunet(content: Mapping[str, Any]) -> tuple[GraphSpec, nn.Module]:
    """Return the network and what the program needs to know of it.

    Args:
        content: ``widths`` of the stages, ``strides`` of all but the first (a number, or rows and
            columns), ``input_size``, ``classes`` with the background, ``channels`` of the image.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    widths, strides = content["widths"], [1, *content["strides"]]
    if len(widths) != len(strides):
        raise UserError(f"{len(widths)} widths and {len(strides) - 1} strides; expected one less")
    stages = len(widths)
    torch.manual_seed(0)
    network = PlainConvUNet(
        content["channels"], stages, widths, nn.Conv2d, [3] * stages, strides, 2,
        content["classes"], 2 if stages == 2 else [2] * (stages - 1), conv_bias=True,
        norm_op=nn.BatchNorm2d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"negative_slope": 0.01, "inplace": True},
    )  # fmt: skip
    network.apply(network.initialize)
    shape = (1, content["channels"], *content["input_size"])
    graph, _ = capture(network.eval(), shape)
    return spec_of(graph, f"nnunet-{'-'.join(map(str, widths))}"), network


def with_weights(network: nn.Module, spec: GraphSpec, path: Path) -> GraphModule:
    """Return a network with the weights of a float checkpoint of the same stages and any norms.

    Raises:
        UserError: where the checkpoint is of another network.
    """
    trained = restore(load_checkpoint(path), path)
    assert isinstance(trained, GraphModule)
    graph, weights = capture(network.eval(), (1, spec.in_channels, *spec.input_size))
    given = trained.weights()
    for name, array in given.items():
        if name not in weights or weights[name].shape != array.shape:
            raise UserError(f"{path}: {name} {array.shape} is none of the --spec's network")
    missing = [n for n, weight in graph.weights.items() if weight.learned and n not in given]
    if missing:
        raise UserError(f"{path}: {missing[0]} of the --spec's network is not in it")
    return GraphModule(graph, weights | given)


def settle(network: nn.Module, images: np.ndarray) -> nn.Module:
    """Give the norms the statistics of images ``(n, C, H, W)``, so that values stay moderate."""
    network.train()
    with torch.no_grad():
        for _ in range(PASSES):
            for start in range(0, NORM_IMAGES, BATCH):
                network(torch.from_numpy(images[start : start + BATCH]))
    return network.eval()
