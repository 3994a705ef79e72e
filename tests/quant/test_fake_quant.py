import pytest
import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
from brevitas.core.quant import IntQuant

from lmaunet.quant import fake_quant
from lmaunet.quant.fake_quant import FakeQuantize, FusedIntQuant

CASES = [(8, False), (8, True), (4, True), (2, True)]


def quantizers(narrow):
    parts = {
        "narrow_range": narrow, "signed": True, "input_view_impl": Identity(),
        "float_to_int_impl": RoundSte(), "tensor_clamp_impl": TensorClamp(),
    }  # fmt: skip
    return FusedIntQuant(**parts), IntQuant(**parts)


def outcome(quantizer, x, scale, bits):
    """Return the value and the gradients of a random projection, and of a second draw."""
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    y = quantizer(scale, torch.zeros(()), torch.tensor(float(bits)), x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    return y.detach(), x.grad, scale.grad


def inputs(bits):
    """Return values at and between every half code, beyond both ends, for four rows."""
    reach = 2 ** (bits - 1) + 3
    x = torch.arange(-reach, reach + 0.125, 0.125).repeat(4, 1)
    return x * torch.tensor([[0.25], [0.5], [0.125], [1.0]])


@pytest.mark.parametrize(("bits", "narrow"), CASES)
@pytest.mark.parametrize(
    "scale", [torch.tensor(0.25), torch.tensor([[0.25], [0.5], [0.125], [1.0]])]
)
def test_equals_brevitas(bits, narrow, scale):
    """Ties at both ends included: they decide whether a gradient passes."""
    x = inputs(bits)
    (y, by_x, by_scale), (wanted, wanted_x, wanted_scale) = (
        outcome(q, x, scale, bits) for q in quantizers(narrow)
    )
    torch.testing.assert_close(y, wanted, rtol=0, atol=0)
    torch.testing.assert_close(by_x, wanted_x, rtol=0, atol=0)
    assert by_scale.shape == wanted_scale.shape == scale.shape
    torch.testing.assert_close(by_scale, wanted_scale, rtol=1e-5, atol=1e-3)


def test_without_gradients_it_is_brevitas(monkeypatch):
    x = torch.randn(3, 50)
    fused, plain = quantizers(False)
    monkeypatch.setattr(FakeQuantize, "apply", None)
    with torch.no_grad():
        arguments = torch.tensor(0.01), torch.zeros(()), torch.tensor(8.0), x
        torch.testing.assert_close(fused(*arguments), plain(*arguments), rtol=0, atol=0)


def test_a_mutant_of_the_ties_is_caught(monkeypatch):
    monkeypatch.setattr(fake_quant, "_rounding_inwards", lambda low, high: (low - 0.5, high + 0.5))
    _, by_x, _ = outcome(quantizers(False)[0], inputs(8), torch.tensor(0.25), 8)
    _, wanted, _ = outcome(quantizers(False)[1], inputs(8), torch.tensor(0.25), 8)
    assert (by_x != wanted).sum() > 0


def test_a_gradient_of_its_gradient_is_refused_not_wrong():
    x, scale = torch.randn(5, requires_grad=True), torch.tensor(0.25, requires_grad=True)
    (by_x,) = torch.autograd.grad(
        FakeQuantize.apply(x, scale, -8.0, 7.0).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_x.sum().backward()
