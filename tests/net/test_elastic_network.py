import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.kernel_profiles import profile_spec
from lmaunet.net import elastic
from lmaunet.net.elastic import ElasticDepthwise, profile_state, use_kernel
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec

SPEC = NetSpec(
    "elastic", (4, 4, 8, 8, 8), classes=3, states=2, kernels=(9, 9, 9, 9), elastic=(5, 7, 9),
    input_size=(64, 64),
)  # fmt: skip


def network():
    """An elastic network whose transforms and norms are those of some training."""
    torch.manual_seed(0)
    model = LMaUNet(SPEC)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if ".deltas." in name or name.endswith(("norm.weight", "running_mean")):
                value.add_(0.05 * torch.randn(value.shape))
        for name, value in model.state_dict().items():
            if ".norm.of." in name and name.endswith(("weight", "bias", "running_mean")):
                value.add_(0.3 * torch.randn(value.shape))
    return model.eval()


def same_at(module, model, kernel):
    """Whether the extracted network computes what the elastic one does at this kernel."""
    fixed = LMaUNet(profile_spec(SPEC, kernel))
    fixed.load_state_dict(module.profile_state(model, kernel))
    use_kernel(model, kernel)
    image = torch.randn(1, 1, *fixed.spec.input_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.equal(model(image), fixed.eval()(image))


@pytest.mark.parametrize("kernel", [5, 7, 9])
def test_the_extracted_network_computes_what_the_elastic_one_does_bit_for_bit(kernel):
    assert same_at(elastic, network(), kernel)


def test_another_kernels_norm_is_noticed(mutant_of):
    mutant = mutant_of(elastic, "norm.of[str(kernel)].state_dict()", 'norm.of["9"].state_dict()')
    model = network()
    for _, module in model.named_modules():  # the mutant has classes of its own
        if type(module).__name__ in ("ElasticNorm", "ElasticDepthwise"):
            module.__class__ = getattr(mutant, type(module).__name__)
    fixed = LMaUNet(profile_spec(SPEC, 5))
    fixed.load_state_dict(mutant.profile_state(model, 5))
    wanted = LMaUNet(profile_spec(SPEC, 5))
    wanted.load_state_dict(profile_state(network(), 5))
    image = torch.ones(1, 1, *fixed.spec.input_size)
    with torch.no_grad():
        assert not torch.equal(fixed.eval()(image), wanted.eval()(image))


def golden(layer, kernel):
    """The weight of a kernel, by the formula in plain loops over channels."""
    weight = layer.weight.detach().numpy().astype(np.float64)[:, 0]
    for k in (7, 5):
        if k < kernel:
            break
        matrix = np.eye(k * k) + layer.deltas[str(k)].detach().numpy()
        weight = np.stack([(c[1:-1, 1:-1].reshape(-1) @ matrix).reshape(k, k) for c in weight])
    return weight


@pytest.mark.parametrize("kernel", [5, 7, 9])
def test_a_smaller_kernel_is_the_centre_of_the_next_larger_one_times_its_matrix(kernel):
    layer = network().stages[0].local
    found = layer.weight_of(kernel).detach().numpy()[:, 0]
    assert found.shape == (4, kernel, kernel)
    assert np.abs(found - golden(layer, kernel)).max() < 1e-6


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("centre + centre @ self.deltas[str(k)]", "centre"),
        ("weight = moved.reshape", "weight = self.weight if k > kernel else moved.reshape"),
        ("centre @ self.deltas[str(k)]", "centre @ self.deltas[str(k)].T"),
    ],
)
def test_a_transform_that_is_left_out_or_turned_is_noticed(mutant_of, right, wrong):
    mutant = mutant_of(elastic, right, wrong)
    layer = network().stages[0].local
    layer.__class__ = mutant.ElasticDepthwise
    found = layer.weight_of(5).detach().numpy()
    assert found.shape[2:] != (5, 5) or np.abs(found[:, 0] - golden(layer, 5)).max() > 1e-3


def test_untrained_transforms_leave_the_plain_centre():
    layer = ElasticDepthwise(3, (5, 7, 9))
    assert torch.equal(layer.weight_of(5), layer.weight[:, :, 2:7, 2:7])
    assert torch.equal(layer.weight_of(9), layer.weight)


def test_a_step_at_one_kernel_leaves_the_norms_of_the_others():
    model = network().train()
    use_kernel(model, 5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(2, 1, 48, 48)).square().sum().backward()
    norm = model.stages[0].norm
    assert not torch.equal(norm.of["5"].running_mean, before["stages.0.norm.of.5.running_mean"])
    for kernel in ("7", "9"):
        name = f"stages.0.norm.of.{kernel}.running_mean"
        assert torch.equal(norm.of[kernel].running_mean, before[name])
        assert norm.of[kernel].weight.grad is None
    # the one weight learns from every kernel, by way of both transforms
    local = model.stages[0].local
    assert local.weight.grad.abs().sum() > 0
    assert all(delta.grad.abs().sum() > 0 for delta in local.deltas.values())


def test_a_spec_goes_through_json_and_says_what_is_wrong_with_it():
    assert NetSpec.from_json(SPEC.to_json()) == SPEC
    assert "elastic" not in profile_spec(SPEC, 5).to_json()
    for elastic_kernels, kernels, words in (
        ((7, 5, 9), (9,) * 4, "two or more kernels in order"),
        ((7,), (7,) * 4, "two or more kernels in order"),
        ((5, 11), (9,) * 4, "two or more kernels in order"),
        ((5, 7), (9,) * 4, "each LKM's kernel is then the largest, 7"),
    ):
        with pytest.raises(UserError, match=words):
            SPEC.replace(elastic=elastic_kernels, kernels=kernels)
    with pytest.raises(UserError, match=r"spec elastic: no kernel 3; use one of 5, 7, 9"):
        profile_spec(SPEC, 3)
