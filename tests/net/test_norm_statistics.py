import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, restore, save_checkpoint
from lmaunet.net.norm_statistics import check_statistics


@pytest.fixture
def net(other_net, tmp_path):
    import copy

    return copy.deepcopy(other_net)


def test_a_network_with_its_statistics_has_no_note(net, tmp_path):
    assert check_statistics(net, tmp_path) == ()


def test_dead_channels_are_named_in_a_note(net, tmp_path):
    with torch.no_grad():
        net.shallow[1].conv.weight[[1, 3]] = 0
        net.shallow[1].norm.running_mean[[1, 3]] = 0
        net.shallow[1].norm.running_var[[1, 3]] = 0
    (note,) = check_statistics(net, tmp_path)
    assert "running variances of 0: shallow.1.norm (channels 1, 3)" in note


@pytest.mark.parametrize("value", [0.0, 1e-20])
def test_channels_that_are_alive_are_refused_by_name(value, net, tmp_path):
    path = tmp_path / "model.pt"
    with torch.no_grad():
        net.shallow[0].norm.running_var[2] = value
        net.shallow[0].conv.weight[2] = 1.0
    save_checkpoint(path, net.spec, net)
    with pytest.raises(
        UserError, match=r"running variances of 0 in shallow\.0\.norm \(channel 2\)"
    ):
        restore(load_checkpoint(path), path)


@pytest.mark.parametrize("channels", [slice(None), slice(0, 1)], ids=["all", "one"])
def test_a_norm_that_lost_its_variances_is_named_wherever_it_is(net, tmp_path, channels):
    """Also a single one, whose outputs do not overflow: training would, some layers later."""
    norms = [n.removesuffix(".running_var") for n in net.state_dict() if n.endswith("running_var")]
    assert len(norms) > 8
    for name in norms:
        norm = net.get_submodule(name)
        kept, weight = norm.running_var.clone(), norm.weight.data.clone()
        norm.running_var[channels] = 0
        norm.weight.data.fill_(1)
        with pytest.raises(UserError, match=rf"running variances of 0 in {name} \(channel"):
            check_statistics(net, tmp_path)
        norm.running_var.copy_(kept)
        norm.weight.data.copy_(weight)
    assert check_statistics(net, tmp_path) == ()


def test_all_variances_of_zero(net, tmp_path):
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.zero_()
    text = r"shallow\.1\.norm \(channels 0, 1, 2, 3\).* norms more.*update_bn"
    with pytest.raises(UserError, match=text):
        check_statistics(net, tmp_path)


def test_variances_that_are_small_but_recorded(net, tmp_path):
    net.shallow[0].norm.running_var.fill_(1e-7)
    assert check_statistics(net, tmp_path) == ()


def test_norms_that_never_saw_data(tiny_spec, tmp_path):
    from lmaunet.net.network import LMaUNet

    (note,) = check_statistics(LMaUNet(tiny_spec).eval(), tmp_path)
    assert "either the network was not trained, or its statistics were not recorded" in note
