"""A quantized LMa-UNet for images of another size than it was quantized for."""

from __future__ import annotations

import torch

from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import fix_scales
from lmaunet.quant.network import QuantNetwork, graph_of
from lmaunet.spec import NetSpec


def resized(quantized: QuantNetwork, spec: NetSpec) -> QuantNetwork:
    """Return the network with the same weights and scales for the input size of a spec.

    Args:
        quantized: without kept norms, in evaluation mode.
        spec: its own but for the input size.
    """
    with torch.random.fork_rng(devices=[]):
        graph, weights = graph_of(LMaUNet(spec), (1, spec.in_channels, *spec.input_size))
    made = QuantNetwork(graph, weights, quantized.bits, scales=quantized.scales)
    fix_scales(made)
    made.load_state_dict(quantized.state_dict())
    return made.eval()
