import re

import brevitas.nn as qnn
import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.graph.layers import weight_layers
from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import MINIMUM_IMAGES, calibrate
from lmaunet.quant.convolution import QuantConv
from lmaunet.quant.explain import quantizers_of
from lmaunet.quant.network import QuantNetwork, count_weight_bits, graph_of, weight_bits
from lmaunet.spec import SPECS, NetSpec


def test_int8_stays_close_to_float(tiny_model, tiny_quantized, tiny_data):
    images = torch.from_numpy(tiny_data.val.images)
    with torch.no_grad():
        want, got = tiny_model(images), tiny_quantized(images)
        assert not torch.equal(got, want)
        error = (got - want).square().mean() / want.square().mean()
    assert error < 0.01


def codes(tensor, scale):
    return tensor / scale


@pytest.mark.parametrize("name", ["image", "shallow.1.relu", "stages.0.add"])
def test_activations_are_int8_codes_with_zero_point_0(tiny_quantized, tiny_data, name):
    module = tiny_quantized.quantizer(name)
    seen = []
    handle = module.register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    tiny_quantized(torch.from_numpy(tiny_data.val.images[:2]))
    handle.remove()
    found = codes(seen[0], tiny_quantized.scale(name))
    assert torch.allclose(found, found.round(), atol=1e-3)
    assert found.min() >= -128 and found.max() <= 127 and found.unique().numel() > 10
    assert float(module.act_quant.zero_point()) == 0


def test_weights_are_int8_per_output_channel(tiny_quantized):
    for module in tiny_quantized.modules():
        if isinstance(module, qnn.QuantConv2d):
            quantized = module.quant_weight()
            scale = quantized.scale
            assert scale.numel() == module.out_channels
            found = quantized.value / scale
            assert torch.allclose(found, found.round(), atol=1e-3)
            assert found.round().abs().max() <= 127


def test_what_is_joined_shares_its_scale(tiny_quantized, tiny_data):
    """Each tensor that enters an addition lies on the grid of one quantizer."""
    quantizer = tiny_quantized.quantizer("stages.1.local")
    assert quantizer is tiny_quantized.quantizer("stages.1.mamba.out_proj")
    seen = []
    handle = quantizer.register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    tiny_quantized(torch.from_numpy(tiny_data.val.images[:2]))
    handle.remove()
    scale = tiny_quantized.scale("stages.1.local")
    assert len(seen) == 2  # the local features, and Mamba's output
    for tensor in seen:
        assert torch.allclose(tensor / scale, (tensor / scale).round(), atol=1e-3)
    assert max(tensor.unique().numel() for tensor in seen) > 10
    # the narrower one has few codes, because the step is what the wider one's range asks for
    widest = max(float(tensor.abs().max()) for tensor in seen)
    assert widest > 100 * scale


def test_every_parameter_learns(tiny_quantized, tiny_data):
    import copy

    model = copy.deepcopy(tiny_quantized).train()
    model(torch.from_numpy(tiny_data.train.images[:4])).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_bins_and_concat_quantize_too():
    spec = NetSpec(
        "bins", (4, 4, 8, 8, 8), states=2, kernels=(3,) * 4, expand=2, skip="concat",
        decoder_convs=2, pyramid="bins", pyramid_bins=(1, 2), input_size=(32, 32),
    )  # fmt: skip
    torch.manual_seed(0)
    model = LMaUNet(spec).eval()
    quantized = QuantNetwork.from_module(model, (4, 1, 32, 32))
    images = np.random.default_rng(0).standard_normal((4, 1, 32, 32)).astype(np.float32)
    calibrate(quantized, images)
    with torch.no_grad():
        want, got = model(torch.from_numpy(images)), quantized(torch.from_numpy(images))
    assert (got - want).square().mean() < 0.01 * want.square().mean()


def test_weight_bits_are_chosen_by_layer():
    model = LMaUNet(SPECS["demo"])
    graph, weights = graph_of(model, (1, 1, 128, 128))
    bits = weight_bits(graph, {"shallow.1.conv": 4})
    assert bits["shallow.1.conv"] == 4 and bits["head"] == 8
    counted = count_weight_bits(graph, bits)
    assert counted[4] == 12 * 12 * 9
    assert sum(counted.values()) == sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear)
    )
    with pytest.raises(UserError, match=r"no layer \['decoder.9.up'\] in the network"):
        weight_bits(graph, {"decoder.9.up": 4})
    with pytest.raises(UserError, match=r"weights of 5 bits; use one of \(2, 3, 4, 8\)"):
        QuantNetwork(graph, weights, {"shallow.1.conv": 5})


def test_calibration_refuses_what_it_cannot_use(tiny_model):
    quantized = QuantNetwork.from_module(tiny_model, (1, 1, 32, 32))
    with pytest.raises(UserError, match=f"3 calibration images; give at least {MINIMUM_IMAGES}"):
        calibrate(quantized, np.zeros((3, 1, 32, 32), np.float32))
    with pytest.raises(UserError, match="every calibration pixel is 1"):
        calibrate(quantized, np.ones((8, 1, 32, 32), np.float32))


def word(text):
    """Return a text that is equal and another object, as one that was read is."""
    return "".join(list(text))


SHAPES = {
    "local": dict(
        widths=(4, 6, 7, 9, 10), strides=(1, 2, 2, 2), kernels=(3, 5, 7, 3), skip=word("add"),
        decoder_widths=(5, 6, 8, 9), pyramid_width=11, decoder_convs=2, input_size=(40, 24),
    ),
    "bins": dict(
        widths=(5, 4, 8, 6, 9), strides=(2, 1, 2, 2), kernels=(5, 3, 3, 5), skip=word("concat"),
        pyramid=word("bins"), pyramid_bins=(1, 2, 3), expand=2, input_size=(48, 96), in_channels=3,
    ),
    "plain": dict(widths=(3, 4, 4, 4, 4), strides=(4, 2, 1, 2), input_size=(32, 16), classes=2),
}  # fmt: skip


def lively(name, mamba="causal"):
    """A network whose norms have seen something, no two of whose sizes are equal."""
    torch.manual_seed(3)
    spec = NetSpec(name, states=3, mamba=word(mamba), **SHAPES[name])
    model = LMaUNet(spec)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    images = torch.randn(4, spec.in_channels, *spec.input_size)
    return model.eval(), images


@pytest.mark.parametrize("keep_norms", [False, True])
@pytest.mark.parametrize("mamba", ["causal", "both", "none"])
@pytest.mark.parametrize("name", SHAPES)
def test_with_every_quantizer_off_it_is_the_float_network(name, mamba, keep_norms):
    """Each pool, pad, split and join; a mutant is a hundred times farther off than rounding."""
    model, images = lively(name, mamba)
    quantized = QuantNetwork.from_module(model, images.shape, keep_norms=keep_norms)
    calibrate(quantized, images.numpy())
    kept = [m for m in quantized.modules() if isinstance(m, QuantConv) and m.norm is not None]
    assert bool(kept) is keep_norms
    for _, _, proxy in quantizers_of(quantized):
        proxy.disable_quant = True
    with torch.no_grad():
        want = model(images)
        torch.testing.assert_close(quantized(images), want, rtol=0, atol=1e-4 * float(want.std()))
        quantized.fold_norms()
        torch.testing.assert_close(quantized(images), want, rtol=0, atol=1e-4 * float(want.std()))


@pytest.mark.parametrize("keep_norms", [False, True])
def test_of_two_norms_in_a_row_the_second_is_computed_once(keep_norms):
    """The first one is the convolution's; what is behind it stays in float."""
    torch.manual_seed(0)
    norms = [torch.nn.BatchNorm2d(3) for _ in range(2)]
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(2, 3)
        norm.bias.data.normal_()
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), *norms, torch.nn.Conv2d(3, 2, 1)).eval()
    images = torch.randn(4, 1, 8, 8)
    quantized = QuantNetwork.from_module(model, images.shape, keep_norms=keep_norms)
    calibrate(quantized, images.numpy())
    for _, _, proxy in quantizers_of(quantized):
        proxy.disable_quant = True
    with torch.no_grad():
        want = model(images)
        for _ in range(2):
            torch.testing.assert_close(quantized(images), want, rtol=1e-4, atol=1e-4)
            quantized.fold_norms()


def test_each_layer_has_the_bits_and_each_quantizer_the_scales_that_were_asked_for():
    model, images = lively("local")
    graph, weights = graph_of(model, images.shape)
    names = [layer.name for layer in weight_layers(graph)]
    bits = {name: (2, 3, 4, 8)[i % 4] for i, name in enumerate(names)}
    quantized = QuantNetwork(graph, weights, bits, scales="pow2")
    assert quantized.bits == bits and quantized.scales == "pow2" and quantized.source == graph
    convolutions = quantized.convolutions()
    of = {name: re.sub(r"(?<=_proj)\.\d$", "", name) for name in convolutions}
    assert list(dict.fromkeys(of.values())) == names
    assert len(of) == len(names) + 4 * (1 + 2)  # in_proj is divided in two, x_proj in three
    for name, conv in convolutions.items():
        assert (conv.bits, conv.scales) == (bits[of[name]], "pow2"), name
        assert conv.conv.weight_quant.bit_width() == bits[of[name]], name
    steps = {name: quantized.quantizer(name) for name in quantized.rounding.names()}
    assert len({id(step) for step in steps.values()}) == len(steps)
    for other in ("free", "pow2"):
        kinds = {type(m) for m in QuantNetwork(graph, weights, scales=other).quantizers.values()}
        same = {type(step) for step in steps.values()}
        assert kinds == same  # a QuantIdentity each, and their scales by what was asked for:
        network = QuantNetwork(graph, weights, bits, scales=other)
        calibrate(network, images.numpy())
        exponents = [np.log2(network.scale(name)) for name in network.rounding.names()]
        assert all(float(e).is_integer() for e in exponents) is (other == "pow2")
    plain = QuantNetwork(graph, weights)
    assert set(plain.bits.values()) == {8} and list(plain.bits) == names and plain.scales == "free"
    assert not any(m.norm for m in plain.modules() if isinstance(m, QuantConv))


def test_a_network_is_quantized_without_changing_the_one_that_came():
    model, images = lively("plain")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = QuantNetwork.from_module(model, images.shape, keep_norms=True).train()
    kept(images).square().mean().backward()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())


def test_three_unknown_layers_and_three_known_ones_are_named():
    graph, _ = graph_of(LMaUNet(SPECS["demo"]), (1, 1, 128, 128))
    names = [layer.name for layer in weight_layers(graph)]
    assert list(weight_bits(graph, {})) == names
    assert not any(name.endswith((".scan", ".norm")) for name in names)
    with pytest.raises(UserError) as refused:
        weight_bits(graph, {"z": 4, "y": 4, "x": 2, "w": 8})
    assert str(refused.value) == (
        "no layer ['w', 'x', 'y'] in the network; names are such as ['shallow.0.conv', "
        "'shallow.1.conv', 'stages.0.proj']"
    )
    counted = count_weight_bits(graph, weight_bits(graph, {names[0]: 2, names[1]: 2, names[2]: 4}))
    of = {layer.name: layer.weights for layer in weight_layers(graph)}
    assert counted[2] == of[names[0]] + of[names[1]] and counted[4] == of[names[2]]
