import brevitas.nn as qnn
import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import MINIMUM_IMAGES, calibrate
from lmaunet.quant.convolution import QuantConv
from lmaunet.quant.explain import quantizers_of
from lmaunet.quant.network import QuantLMaUNet, _of_part, count_weight_bits, weight_bits
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


@pytest.mark.parametrize("name", ["quant_image", "quant_shallow.1", "stages.0.quant_out"])
def test_activations_are_int8_codes_with_zero_point_0(tiny_quantized, tiny_data, name):
    module = tiny_quantized.get_submodule(name)
    seen = []
    handle = module.register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    tiny_quantized(torch.from_numpy(tiny_data.val.images[:2]))
    handle.remove()
    found = codes(seen[0], module.act_quant.scale())
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
    stage = tiny_quantized.stages[1]
    seen = []
    handle = stage.quant_local.register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    tiny_quantized(torch.from_numpy(tiny_data.val.images[:2]))
    handle.remove()
    scale = stage.quant_local.act_quant.scale()
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
    quantized = QuantLMaUNet(model)
    images = np.random.default_rng(0).standard_normal((4, 1, 32, 32)).astype(np.float32)
    calibrate(quantized, images)
    with torch.no_grad():
        want, got = model(torch.from_numpy(images)), quantized(torch.from_numpy(images))
    assert (got - want).square().mean() < 0.01 * want.square().mean()


def test_weight_bits_are_chosen_by_layer():
    spec = SPECS["demo"]
    bits = weight_bits(spec, {"shallow.1": 4})
    assert bits["shallow.1"] == 4 and bits["head.head"] == 8
    counted = count_weight_bits(spec, bits)
    assert counted[4] == 12 * 12 * 9
    weights = sum(
        x.in_channels // x.groups * x.out_channels * x.taps
        for x in spec.layers()
        if x.kind != "scan"
    )
    assert sum(counted.values()) == weights
    with pytest.raises(UserError, match=r"no layer \['decoder9.conv0'\] in spec demo"):
        weight_bits(spec, {"decoder9.conv0": 4})
    with pytest.raises(UserError, match=r"weights of 5 bits; use one of \(2, 3, 4, 8\)"):
        QuantLMaUNet(LMaUNet(spec), {"shallow.1": 5})


def test_calibration_refuses_what_it_cannot_use(tiny_model):
    quantized = QuantLMaUNet(tiny_model)
    with pytest.raises(UserError, match=f"3 calibration images; give at least {MINIMUM_IMAGES}"):
        calibrate(quantized, np.zeros((3, 1, 32, 32), np.float32))
    with pytest.raises(UserError, match="every calibration pixel is 1"):
        calibrate(quantized, np.ones((8, 1, 32, 32), np.float32))


def test_only_the_causal_scan_is_quantized(tiny_spec):
    spec = tiny_spec.replace(mamba="both")
    with pytest.raises(UserError, match="mamba='both'; only 'causal' can be quantized"):
        QuantLMaUNet(LMaUNet(spec))


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


def lively(name):
    """A network whose norms have seen something, no two of whose sizes are equal."""
    torch.manual_seed(3)
    spec = NetSpec(name, states=3, mamba=word("causal"), **SHAPES[name])
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
@pytest.mark.parametrize("name", SHAPES)
def test_with_every_quantizer_off_it_is_the_float_network(name, keep_norms):
    """Each pool, pad, split and join; a mutant is a hundred times farther off than rounding."""
    model, images = lively(name)
    quantized = QuantLMaUNet(model, keep_norms=keep_norms)
    calibrate(quantized, images.numpy())
    kept = [m for m in quantized.modules() if isinstance(m, QuantConv) and m.norm is not None]
    assert bool(kept) is keep_norms
    for _, proxy in quantizers_of(quantized).values():
        proxy.disable_quant = True
    with torch.no_grad():
        want = model(images)
        torch.testing.assert_close(quantized(images), want, rtol=0, atol=1e-4 * float(want.std()))
        quantized.fold_norms()
        torch.testing.assert_close(quantized(images), want, rtol=0, atol=1e-4 * float(want.std()))


def test_each_layer_has_the_bits_and_each_quantizer_the_scales_that_were_asked_for():
    model, _ = lively("local")
    names = [layer.path for layer in model.spec.layers() if layer.kind != "scan"]
    bits = {name: (2, 3, 4, 8)[i % 4] for i, name in enumerate(names)}
    quantized = QuantLMaUNet(model, bits, scales="pow2")
    assert quantized.bits == bits and quantized.scales == "pow2" and quantized.spec == model.spec
    found = {
        "shallow.0": quantized.shallow[0], "shallow.1": quantized.shallow[1],
        "lkm1.in_proj": quantized.stages[0].mamba.in_z, "lkm2.local": quantized.stages[1].local,
        "lkm3.x_proj": quantized.stages[2].mamba.x_c,
        "deep.dt_proj": quantized.stages[3].mamba.dt_proj,
        "pyramid.reduce": quantized.pyramid.reduce, "pyramid.out": quantized.pyramid.out,
        "decoder3.up": quantized.decoder[0].up, "decoder0.up": quantized.decoder[3].up,
        "decoder0.conv1": quantized.decoder[3].convs[1], "head.head": quantized.head,
    }  # fmt: skip
    assert {name: conv.bits for name, conv in found.items()} == {name: bits[name] for name in found}
    relus = {name for name, conv in found.items() if conv.relu}
    assert relus == {"shallow.0", "shallow.1", "pyramid.out", "decoder0.conv1"}
    assert {conv.scales for conv in found.values()} == {"pow2"}
    plain = QuantLMaUNet(model)
    assert set(plain.bits.values()) == {8} and list(plain.bits) == names and plain.scales == "free"
    assert not any(m.norm for m in plain.modules() if isinstance(m, QuantConv))


def test_a_network_is_quantized_without_changing_the_one_that_came():
    model, images = lively("plain")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = QuantLMaUNet(model, keep_norms=True).train()
    kept(images).square().mean().backward()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())


def test_three_unknown_layers_and_three_known_ones_are_named():
    spec = SPECS["demo"]
    names = [layer.path for layer in spec.layers()]
    assert list(weight_bits(spec, {})) == [n for n in names if not n.endswith(".scan")]
    counted = count_weight_bits(spec, weight_bits(spec, {names[0]: 2, names[1]: 2, names[2]: 4}))
    of = {layer.path: layer.weights for layer in spec.layers()}
    assert counted[2] == of[names[0]] + of[names[1]] and counted[4] == of[names[2]]


def test_a_part_gets_its_own_bits_by_names_below_it():
    bits = {"decoder3.convs.0": 3, "decoder3.up": 4, "decoder30.up": 8, "head.head": 2}
    assert _of_part(bits, "decoder3") == {"convs.0": 3, "up": 4}
    assert _of_part(bits, "deep") == {}
