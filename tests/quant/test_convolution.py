import copy

import numpy as np
import pytest
import torch
from brevitas.graph.calibrate import calibration_mode
from torch import nn

from lmaunet.errors import UserError
from lmaunet.quant.convolution import QuantConv, best_thresholds, quantizer, round_weight
from lmaunet.quant.settings import SCALES, WEIGHT_BITS


def conv_and_norm():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(6, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
    for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
        tensor.normal_()  # negative gammas too
    norm.running_var.uniform_(0.5, 3.0)
    return conv, norm


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_folding_after_training_changes_nothing(bits, scales):
    conv, norm = conv_and_norm()
    kept = QuantConv(conv, bits, norm=norm, scales=scales)
    x = torch.randn(4, 6, 9, 9)
    for _ in range(3):
        kept.train()(x).square().mean().backward()
    kept.eval()
    before = kept(x)
    kept.fold()
    assert kept.norm is None
    torch.testing.assert_close(kept(x), before, rtol=0, atol=2e-5)


def test_at_8_bits_a_kept_norm_trains_as_the_float_one_does():
    conv, norm = conv_and_norm()
    quantized = QuantConv(conv, 8, norm=copy.deepcopy(norm)).train()
    x = torch.randn(16, 6, 9, 9)
    got, want = quantized(x), norm.train()(conv(x))
    assert (got - want).abs().mean() < 0.005 * want.abs().mean()
    assert quantized.norm is not None
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(quantized.norm, name), getattr(norm, name), rtol=1e-3, atol=1e-3
        )


def test_a_kept_norm_normalizes_by_the_batch_and_a_folded_one_does_not():
    conv, norm = conv_and_norm()
    kept = QuantConv(conv, 8, norm=copy.deepcopy(norm)).train()
    folded = QuantConv(conv, 8, norm=copy.deepcopy(norm))
    folded.fold()
    x = 40 * torch.randn(16, 6, 9, 9)
    # a batch far wider than the running statistics is brought back, but not by those statistics
    assert folded(x).std() > 2 * kept(x).std()


def test_dead_channels_do_not_break_training():
    conv, norm = conv_and_norm()
    norm.weight.data[:3] = 0
    quantized = QuantConv(conv, 4, norm=norm).train()
    y = quantized(torch.randn(4, 6, 9, 9))
    y.square().mean().backward()
    assert torch.isfinite(y).all() and torch.isfinite(quantized.norm.running_var).all()


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_the_best_scale_beats_that_of_the_largest_weight(bits):
    torch.manual_seed(1)
    weight = torch.randn(32, 200)
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True) / top
    plain = (weight / scale).round().clamp(-top, top) * scale
    best = round_weight(weight, bits)
    assert (best - weight).square().sum() <= (plain - weight).square().sum()
    if bits < 8:
        assert (best - weight).square().sum() < 0.8 * (plain - weight).square().sum()


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_powers_of_two_are_powers_of_two(bits):
    conv, norm = conv_and_norm()
    exponent = torch.log2(best_thresholds(conv.weight, bits, "pow2"))
    assert torch.equal(exponent, exponent.round())
    quantized = QuantConv(conv, bits, norm=norm, scales="pow2").eval()
    quantized.fold()
    exponent = torch.log2(quantized.conv.weight_quant.scale())
    assert torch.equal(exponent, exponent.round())
    assert quantized.conv.quant_weight().value.unique().numel() > 2


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("bits", WEIGHT_BITS)
@pytest.mark.parametrize("normalized", [False, True])
def test_training_starts_at_the_best_scales(bits, scales, normalized):
    """What Brevitas makes of the parameter is the scale that was searched, with a norm or none."""
    conv, norm = conv_and_norm()
    deployed = conv.weight
    if normalized:
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        deployed = conv.weight * factor[:, None, None, None]
    quantized = QuantConv(conv, bits, norm=norm if normalized else None, scales=scales).eval()
    quantized.fold()
    got = quantized.conv.quant_weight()
    best = best_thresholds(deployed, bits, scales)
    torch.testing.assert_close(got.scale.flatten(), best, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.value, round_weight(deployed, bits, scales))
    assert torch.equal(got.int().unique(), got.int().unique().clamp(*code_range(bits)))


def code_range(bits):
    return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1


def test_the_best_power_of_two_is_the_best_of_all():
    weight = conv_and_norm()[0].weight.detach().reshape(12, -1)
    for bits in WEIGHT_BITS:
        best = best_thresholds(weight, bits, "pow2")
        low, high = code_range(bits)
        lost = []
        for exponent in range(-20, 4):
            scale = 2.0**exponent
            codes = (weight / scale).round().clamp(low, high)
            lost.append((codes * scale - weight).square().sum(1))
        chosen = best[:, None]
        got = ((weight / chosen).round().clamp(low, high) * chosen - weight).square().sum(1)
        torch.testing.assert_close(got, torch.stack(lost).amin(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_the_best_scale_is_the_first_of_those_that_lose_least(bits):
    """Of fortieths of the largest weight, from a fifth of it to all of it, row by row."""
    torch.manual_seed(2)
    weight = torch.randn(5, 3, 7) * torch.tensor([1e-3, 1.0, 9.0, 1.0, 0.0])[:, None, None]
    low, high = code_range(bits)
    best = best_thresholds(weight, bits)
    assert best.shape == (5,)
    for row, got in zip(weight.reshape(5, -1)[:4].double(), best, strict=False):
        scales = [row.abs().max() * k / 40 / high for k in range(8, 41)]
        lost = [((row / s).round().clamp(low, high) * s - row).square().sum() for s in scales]
        wanted = ((row / got).round().clamp(low, high) * got - row).square().sum()
        assert float(wanted) == pytest.approx(float(min(lost)), rel=1e-5)
        assert min(abs(float(got / s) - 1) for s in scales) < 1e-5
    rounded = round_weight(weight, bits)
    assert rounded.shape == weight.shape and not rounded[4].any(), "and nothing stays nothing"


@pytest.mark.parametrize("bits", [1, 5, 7, 16])
def test_other_widths_are_refused(bits):
    with pytest.raises(UserError, match=rf"^weights of {bits} bits; use one of \(2, 3, 4, 8\)$"):
        QuantConv(nn.Conv2d(2, 3, 1), bits)


def test_a_convolution_before_a_norm_has_no_bias():
    with pytest.raises(ValueError, match="has no bias of its own"):
        QuantConv(nn.Conv2d(2, 3, 1), norm=nn.BatchNorm2d(3))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("rank", [2, 3])
def test_a_quantized_convolution_is_that_of_its_rounded_weights(rank, normalized):
    """Stride, padding, dilation, groups and bias are the float convolution's."""
    torch.manual_seed(3)
    kind, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[rank - 2]
    sizes = {"stride": (1, 2, 1), "padding": (2, 1, 1), "dilation": (2, 1, 1)}
    own = {key: value[:rank] for key, value in sizes.items()} | {"groups": 3}
    conv = kind(6, 9, (3, 5, 2)[:rank], **own, bias=not normalized)
    norm = norm(9).eval() if normalized else None
    quantized = QuantConv(conv, 4, norm).eval()
    x = torch.randn(2, 6, 7, 11, *[4][: rank - 2])
    if normalized:
        before = quantized(x)
        quantized.fold()
        torch.testing.assert_close(quantized(x), before)
        conv.weight.data /= (1 + norm.eps) ** 0.5
    weight = quantized.conv.quant_weight().value
    convolve = (nn.functional.conv2d, nn.functional.conv3d)[rank - 2]
    torch.testing.assert_close(quantized(x), convolve(x, weight, conv.bias, **own))
    torch.testing.assert_close(weight, round_weight(conv.weight, 4))
    assert quantized.bits == 4 and quantized.scales == "free" and quantized.norm is None


def test_running_statistics_follow_the_batch_by_their_momentum():
    conv, norm = conv_and_norm()
    for momentum, wanted in ((0.25, 0.25), (None, 0.1)):
        norm.momentum = momentum
        kept = QuantConv(conv, 8, norm=copy.deepcopy(norm)).train()
        x = torch.randn(16, 6, 9, 9)
        y = conv(x)
        kept(x)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        for name, seen in (("running_mean", mean), ("running_var", variance)):
            before = getattr(norm, name)
            want = before + wanted * (seen - before)
            torch.testing.assert_close(getattr(kept.norm, name), want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("small", "count", "scale"),
    [
        (0.9, 100, 1.0), (0.4, 100, 0.5), (0.2, 100, 0.25), (0.1, 100, 0.125),
        (0.0625, 1000, 1.0),  # a sixteenth would lose less, but is not tried
    ],
)  # fmt: skip
def test_powers_of_two_are_tried_down_to_an_eighth_of_the_largest_weight(small, count, scale):
    weight = torch.tensor([[1.0] + [small] * count, [64.0] + [64 * small] * count])
    assert best_thresholds(weight, 2, "pow2").tolist() == [scale, 64 * scale]


@pytest.mark.parametrize("scales", SCALES)
def test_scales_are_told_by_what_they_say(scales):
    """A word that was read is another object than the program's own."""
    read = "".join(list(scales))
    assert read is not scales
    conv, norm = conv_and_norm()
    weight = conv.weight
    for bits in (2, 8):
        assert torch.equal(
            best_thresholds(weight, bits, read), best_thresholds(weight, bits, scales)
        )
        got, want = (QuantConv(conv, bits, norm=norm, scales=s) for s in (read, scales))
        for each in (got, want):
            each.eval().fold()
        assert torch.equal(got.conv.quant_weight().value, want.conv.quant_weight().value)
        assert torch.equal(got.conv.quant_weight().scale, want.conv.quant_weight().scale)
    assert type(quantizer(read).act_quant) is type(quantizer(scales).act_quant)
    steps = []
    for kind in (read, scales):
        act = quantizer(kind)
        with calibration_mode(act):
            act(torch.linspace(-3, 3, 100))
        steps.append(float(act.eval().act_quant.scale()))
    assert steps[0] == steps[1] and (np.log2(steps[0]) % 1 == 0) == (scales == "pow2")


def test_what_is_not_said_is_8_bits_with_free_scales():
    conv, _ = conv_and_norm()
    plain = QuantConv(conv)
    assert (plain.bits, plain.scales, plain.norm) == (8, "free", None)
    assert plain.conv.bias is None
    assert torch.equal(best_thresholds(conv.weight, 3), best_thresholds(conv.weight, 3, "free"))
    assert torch.equal(round_weight(conv.weight, 3), round_weight(conv.weight, 3, "free"))


def test_a_bias_that_the_norm_brings_is_learned_once_it_is_folded():
    conv, norm = conv_and_norm()
    kept = QuantConv(conv, 8, norm=norm)
    assert not kept.conv.bias.requires_grad and not kept.conv.bias.any()
    kept.fold()
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(kept.conv.bias, norm.bias - norm.running_mean * factor)
    torch.testing.assert_close(kept.conv.weight, conv.weight * factor[:, None, None, None])
    assert kept.conv.bias.requires_grad
    kept.fold()  # once more is nothing
    torch.testing.assert_close(kept.conv.weight, conv.weight * factor[:, None, None, None])


def test_a_channel_of_almost_no_weight_keeps_its_statistics():
    conv, norm = conv_and_norm()
    norm.weight.data[:2] = torch.tensor([1e-9, 1e-6])
    before = norm.running_mean.clone(), norm.running_var.clone()
    kept = QuantConv(conv, 8, norm=norm).train()
    kept(3 + 2 * torch.randn(8, 6, 9, 9))
    assert kept.norm.running_mean[0] == before[0][0] and kept.norm.running_var[0] == before[1][0]
    assert (kept.norm.running_mean[1:] != before[0][1:]).all()
    assert (kept.norm.running_var[1:] != before[1][1:]).all()
