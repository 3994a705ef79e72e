import pytest
import torch

from lmaunet.graph.capture import capture
from lmaunet.graph.layers import layers
from lmaunet.net.mamba import Mamba
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec

VARIANTS = {
    "local-add": {},
    "bins-concat": {"pyramid": "bins", "pyramid_bins": (1, 2), "skip": "concat"},
    "wide": {
        "expand": 2, "decoder_convs": 2, "decoder_widths": (4, 4, 8, 8), "kernels": (9, 7, 5, 3),
    },
    "strides": {"strides": (1, 2, 2, 2), "in_channels": 3, "classes": 4},
    "both ways": {"mamba": "both"},
    "no mamba": {"mamba": "none"},
    "no large kernel": {"kernels": (1, 1, 7, 1)},
    "convolutions": {"block": "convs", "mamba": "none", "kernels": (3, 3, 5, 7)},
    "separable": {"block": "separable", "mamba": "none", "kernels": (9, 7, 5, 3)},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_choice_runs_and_counts_as_its_graph_says(variant):
    base = {"widths": (4, 8, 8, 12, 16), "states": 2, "input_size": (32, 32)}
    spec = NetSpec(variant, **{**base, **VARIANTS[variant]})
    model = LMaUNet(spec)
    y = model(torch.randn(2, spec.in_channels, 32, 32))
    assert y.shape == (2, spec.classes, 32, 32)
    found = layers(capture(model, (1, spec.in_channels, 32, 32))[0])
    assert sum(p.numel() for p in model.parameters()) == sum(x.params for x in found)
    assert counted_macs(model, spec) == sum(x.macs for x in found if x.operator != "scan")


def counted_macs(model, spec):
    """Multiply-accumulates of one image, counted from what the modules really compute."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, torch.nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, torch.nn.Conv1d):
            # the causal convolution's surplus outputs are cut off, so they are not counted
            length = output.shape[-1] - module.kernel_size[0] + 1
            total += output.shape[0] * output.shape[1] * length * module.weight[0].numel()
        else:
            total += output.numel() * module.weight[0].numel()

    kinds = (torch.nn.Conv2d, torch.nn.Conv1d, torch.nn.Linear)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    model(torch.zeros(1, spec.in_channels, *spec.input_size))
    for handle in handles:
        handle.remove()
    return total


def test_mamba_has_the_names_and_shapes_of_mamba_ssm():
    """d_model 32, d_inner 64, d_state 16, dt_rank 2, d_conv 4: mamba_ssm.modules.Mamba(32)."""
    shapes = {name: tuple(p.shape) for name, p in Mamba(32, 64, 16).named_parameters()}
    assert shapes == {
        "A_log": (64, 16), "D": (64,), "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4), "conv1d.bias": (64,), "x_proj.weight": (2 + 32, 64),
        "dt_proj.weight": (64, 2), "dt_proj.bias": (64,), "out_proj.weight": (32, 64),
    }  # fmt: skip


def test_mamba_is_causal():
    torch.manual_seed(0)
    mamba = Mamba(8, 8, 4).eval()
    tokens = torch.randn(1, 20, 8)
    changed = tokens.clone()
    changed[:, 12:] += 1
    before, after = mamba(tokens), mamba(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(dim=-1).all()


def test_mamba_by_hand():
    """Mamba written out token by token from the article's equations."""
    torch.manual_seed(1)
    m = Mamba(4, 6, 3).double()
    tokens = torch.randn(1, 5, 4, dtype=torch.float64)
    x_all, z_all = (tokens[0] @ m.in_proj.weight.T).split(6, dim=1)
    h, expected = torch.zeros(6, 3, dtype=torch.float64), []
    for t in range(5):
        taps = [x_all[t - 3 + k] if t - 3 + k >= 0 else torch.zeros(6).double() for k in range(4)]
        x = sum(tap * m.conv1d.weight[:, 0, k] for k, tap in enumerate(taps)) + m.conv1d.bias
        x = x * torch.sigmoid(x)
        dt, B, C = (m.x_proj.weight @ x).split([m.rank, 3, 3])
        delta = torch.log1p(torch.exp(m.dt_proj.weight @ dt + m.dt_proj.bias))
        h = torch.exp(-delta[:, None] * torch.exp(m.A_log)) * h + (delta * x)[:, None] * B
        y = h @ C + m.D * x
        expected.append(m.out_proj.weight @ (y * z_all[t] * torch.sigmoid(z_all[t])))
    torch.testing.assert_close(m(tokens)[0], torch.stack(expected), rtol=1e-9, atol=1e-9)
