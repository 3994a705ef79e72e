"""Quantized networks of several kernels: what they share, and what is each one's own."""

import pytest
import torch

from lmaunet.data.loaders import load_phantom
from lmaunet.kernel_profiles import profile_spec
from lmaunet.net.network import LMaUNet
from lmaunet.quant import elastic
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.elastic import ElasticQuant, extract
from lmaunet.quant.network import QuantNetwork, graph_of
from lmaunet.spec import NetSpec
from lmaunet.train.elastic import sampled
from lmaunet.train.loop import fit
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Schedule

SPEC = NetSpec(
    "elastic", (4, 4, 8, 8, 8), classes=9, states=2, kernels=(5, 5, 5, 5), elastic=(3, 5),
    input_size=(16, 16),
)  # fmt: skip
ALONE = Processes(0, 1, torch.device("cpu"))


def quantized(model):
    networks = {}
    for kernel in SPEC.elastic:
        size = profile_spec(SPEC, kernel).input_size
        graph, weights = graph_of(extract(model, SPEC, kernel), (1, 1, *size))
        networks[kernel] = QuantNetwork(graph, weights, keep_norms=True)
    return ElasticQuant(networks, 3)


@pytest.fixture(scope="module")
def trained():
    """A quantized network of kernels 3 and 5, trained for a few steps by drawing them."""
    torch.manual_seed(0)
    data = {
        k: load_phantom(size=profile_spec(SPEC, k).input_size, spacing_mm=3.0 * 16 / s)
        for k, s in ((3, 16), (5, 32))
    }
    model = quantized(LMaUNet(SPEC))
    for kernel, of_kernel in data.items():
        calibrate(model.network(kernel), of_kernel.train.images[:8])
    sets = {kernel: of_kernel.train for kernel, of_kernel in data.items()}
    used = []

    def use(kernel):
        used.append(kernel)
        model.kernel = kernel

    schedule = Schedule(1, 1e-2, 16)
    fit(
        model, sets[3], schedule, classes=9, seed=0, folder=None, processes=ALONE,
        progress=lambda *line: None, draw=sampled(sets, use, schedule, 0, ALONE),
    )  # fmt: skip
    assert set(used) == {3, 5}
    model.fold_norms()
    return model.eval()


def codes(layer):
    """The integers of a layer's weights, and their scales."""
    value = layer.conv.quant_weight()
    return value.int().clone(), value.scale.detach().clone()


def test_all_but_the_depthwise_weights_are_the_same_integers_at_every_kernel(trained):
    three, five = trained.network(3), trained.network(5)
    assert len(trained.own) == 4 and all("local" in key for key in trained.own)
    assert len(three.layers) > 20
    for key in three.layers:
        if key in trained.own:
            assert three.layers[key].conv.kernel_size != five.layers[key].conv.kernel_size
            continue
        for one, other in zip(codes(three.layers[key]), codes(five.layers[key]), strict=True):
            assert torch.equal(one, other)
    assert three.kept is five.kept


def test_activation_scales_are_each_kernels_own(trained):
    three, five = trained.network(3), trained.network(5)
    names = [name for name in three.rounding.groups if name in five.rounding.groups]
    assert len([n for n in names if three.scale(n) != five.scale(n)]) > len(names) / 2


def test_scales_of_another_kernel_change_what_is_computed(trained):
    """A profile that took the other's activation scales would not go unseen."""
    image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    network = trained.network(3)
    with torch.no_grad():
        own = network(image)
        kept, network.quantizers = network.quantizers, trained.network(5).quantizers
        mixed = network(image)
        network.quantizers = kept
        assert torch.equal(network(image), own) and not torch.equal(mixed, own)


def test_the_kernel_in_use_computes(trained):
    with torch.no_grad():
        for kernel, side in ((3, 16), (5, 32)):
            image = torch.randn(1, 1, side, side)
            trained.kernel = kernel
            assert torch.equal(trained(image), trained.network(kernel)(image))


def test_another_layer_that_differs_is_no_elastic_network(monkeypatch):
    model = LMaUNet(SPEC)
    whole = elastic.extract

    def other_head(network, spec, kernel):
        found = whole(network, spec, kernel)
        if kernel == 5:
            with torch.no_grad():
                found.head.weight.add_(1)
        return found

    monkeypatch.setitem(globals(), "extract", other_head)
    with pytest.raises(ValueError, match=r"head.*is no depthwise convolution"):
        quantized(model)
