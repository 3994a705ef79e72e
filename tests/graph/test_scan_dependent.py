"""Which layers scans depend on."""

import pytest
import torch
from graph_networks import MambaUNet, PlainUNet
from torch import nn

from lmaunet.graph.capture import capture
from lmaunet.graph.layers import weight_layers
from lmaunet.graph.rewrites import as_maps, fold_norms, rewritten, split_by_slices
from lmaunet.graph.scan_dependent import scan_dependent_layers
from lmaunet.net.mamba import Mamba
from lmaunet.net.network import LMaUNet
from lmaunet.spec import SPECS

OF_A_STAGE = ("proj", "local", *(
    f"mamba.{name}" for name in ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
))  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_they_are_the_layers_of_the_stages(name):
    spec = SPECS[name]
    sides = (2 * m if name == "demo" else m for m in spec.size_multiples)
    network = capture(LMaUNet(spec), (1, spec.in_channels, *sides))
    found = scan_dependent_layers(network[0])
    layers = () if spec.mamba == "none" else OF_A_STAGE
    if spec.kernels[0] == 1:  # one convolution is both
        layers = layers[1:]
    assert found == {f"stages.{i}.{layer}" for i in range(4) for layer in layers}
    others = {layer.name.split(".")[0] for layer in weight_layers(network[0])
              if layer.name not in found}  # fmt: skip
    assert others - {"stages"} == {"shallow", "pyramid", "decoder", "head"}
    assert ("stages" in others) == (not layers)
    # and of the graph that is quantized they are the same
    graph, _ = rewritten(*network, [split_by_slices, as_maps, fold_norms])
    assert scan_dependent_layers(graph) == found


def test_a_network_without_scans_has_none():
    graph, _ = capture(PlainUNet(2), (1, 1, 8, 12))
    assert scan_dependent_layers(graph) == frozenset()


def test_they_end_where_the_resolution_changes_and_where_a_value_is_joined():
    graph, _ = capture(MambaUNet(), (1, 2, 8, 12))
    found = scan_dependent_layers(graph)
    assert "deep" in found and "first" not in found, "a pool is between them"
    assert not found & {"gate", "head"}, "what a scan gave is added to what it was made of"
    assert {"mamba.forwards.in_proj", "mamba.backwards.out_proj"} <= found


class Strided(nn.Module):
    """A scan between convolutions, one of which halves the resolution."""

    def __init__(self):
        super().__init__()
        self.before, self.halve = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 2, 2)
        self.near, self.mamba = nn.Conv2d(4, 4, 1), Mamba(4, 4, 2)
        self.after, self.wide, self.last = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.joined = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        near = self.near(self.halve(self.before(x)))
        n, c, h, w = near.shape
        y = self.mamba(near.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, c, h, w)
        y = self.after(y)
        joined = self.joined(torch.cat([y, near], 1))
        return self.last(nn.functional.interpolate(self.wide(y), scale_factor=2)), joined


def test_a_strided_convolution_changes_the_resolution():
    graph, _ = capture(Strided(), (1, 1, 4, 4))
    assert scan_dependent_layers(graph) == {
        "near", "after", "wide", *(f"mamba.{layer.removeprefix('mamba.')}" for layer in
                                   OF_A_STAGE if layer.startswith("mamba")),
    }  # fmt: skip
