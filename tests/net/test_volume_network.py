"""Networks of volumes: their sizes, and that their tokens are voxels in raster order."""

from __future__ import annotations

import itertools

import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.network import LargeKernelMamba, LMaUNet
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stated_spec import state_spec

FLAT = (1, 2, 2)
SPEC = NetSpec(
    "tiny3d", (4, 4, 4, 8, 8), classes=3, states=2, strides=(FLAT, 2, FLAT, 1),
    kernels=(3, (1, 3, 5), 3, 3), input_size=(4, 16, 24),
)  # fmt: skip


def test_a_spec_of_volumes_comes_back_from_json_and_one_of_slices_is_written_as_before():
    assert NetSpec.from_json(SPEC.to_json()) == SPEC
    assert SPEC.to_json()["strides"] == [[1, 2, 2], 2, [1, 2, 2], 1]
    assert (SPEC.dims, SPEC.size_multiples, SPEC.size_multiple) == (3, (2, 8, 8), 8)
    edge = named_spec("edge")
    assert (edge.dims, edge.size_multiples, edge.size_multiple) == (2, (16, 16), 16)
    assert edge.to_json()["strides"] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_size": (3, 16, 24)}, "input 3x16x24; depth, height and width must be multiples "
                                      "of 2x8x8"),
        ({"input_size": (4, 16)}, r"strides=.*; give a number each, or for volumes three"),
        ({"input_size": (4, 4, 16, 16)}, "give 2 positive numbers, height and width, or 3"),
        ({"strides": ((2, 2), 2, 2, 2)}, "give a number each, or for volumes three"),
        ({"strides": ((0, 2, 2), 2, 2, 2)}, "give 4 positive numbers"),
        ({"kernels": ((3, 4, 3), 3, 3, 3)}, "each is 3, 5, 7 or 9"),
        ({"kernels": ((3, 11, 3), 3, 3, 3)}, "each is 3, 5, 7 or 9"),
    ],
)  # fmt: skip
def test_sizes_that_no_network_of_volumes_has_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        NetSpec.from_json({**SPEC.to_json(), **changes})


def test_the_options_size_is_that_of_the_plane():
    depth = named_spec("edge3d").input_size[0]
    assert state_spec("edge3d", input_size=96).for_training().input_size == (depth, 96, 96)


class Transposed(LargeKernelMamba):
    """A mutant: the depth is the fastest axis of the tokens."""

    def forward(self, x):
        local = self.norm(self.local(self.proj(x)))
        turned = local.permute(0, 1, 4, 3, 2)
        found = self.mamba(turned.flatten(2).transpose(1, 2)).transpose(1, 2)
        return local + found.reshape(turned.shape).permute(0, 1, 4, 3, 2)


def tokens_are_in_raster_order(block) -> bool:
    """Compare with Mamba over the voxels one after the other, the width the fastest."""
    x = torch.randn(1, 4, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        local = block.norm(block.local(block.proj(x)))
        places = list(itertools.product(range(2), range(3), range(5)))
        found = block.mamba(torch.stack([local[:, :, d, h, w] for d, h, w in places], 1))
        want = local.clone()
        for index, (d, h, w) in enumerate(places):
            want[:, :, d, h, w] += found[:, index]
        return torch.allclose(block(x), want, atol=1e-5)


@pytest.mark.parametrize(("kind", "right"), [(LargeKernelMamba, True), (Transposed, False)])
def test_the_tokens_of_a_volume_are_its_voxels_in_raster_order(kind, right):
    torch.manual_seed(0)
    assert tokens_are_in_raster_order(kind(4, 4, (1, 3, 5), SPEC).eval()) == right


@pytest.mark.parametrize("pyramid", ["local", "bins"])
def test_a_network_of_volumes_takes_any_of_their_sizes(pyramid):
    spec = SPEC.replace(pyramid=pyramid, pyramid_bins=(1, 2), input_size=(8, 16, 32))
    image = torch.zeros(2, 1, *spec.input_size)
    assert LMaUNet(spec).eval()(image).shape == (2, 3, 8, 16, 32)
