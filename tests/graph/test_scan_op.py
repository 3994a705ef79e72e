"""The selective scan as one operator of torch, and what stands in for mamba_ssm around it."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.module import execute
from lmaunet.graph.stand_ins import selective_scan_fn, stand_ins
from lmaunet.net import scan, scan_lanes
from lmaunet.net.mamba import Mamba
from lmaunet.net.scan import scan_op, selective_scan
from lmaunet.scan import real


@pytest.fixture(autouse=True)
def scan_without_compiling(monkeypatch):
    monkeypatch.setattr(scan, "_form", lambda x: scan_lanes)


def inputs(dtype=torch.float32, grad=False):
    generator = torch.Generator().manual_seed(2)
    shapes = {
        "x": (2, 9, 4),
        "dt": (2, 9, 4),
        "A": (4, 3),
        "B": (2, 9, 3),
        "C": (2, 9, 3),
        "D": (4,),
    }
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes.values()]
    tensors[2] = -torch.exp(tensors[2])
    return [v.requires_grad_(grad) for v in tensors]


def golden(tensors):
    return real.selective_scan(*(v.detach().numpy() for v in tensors))


def test_the_operator_is_the_golden_scan():
    tensors = inputs()
    x, dt, A, B, C, D = tensors
    expected = golden(tensors)
    assert np.abs(scan_op(*tensors).numpy() - expected).max() < 1e-5
    assert torch.equal(scan_op(*tensors), selective_scan(*tensors))
    exchanged = scan_op(x, dt, A, C, B, D).numpy()  # the mutant
    assert np.abs(exchanged - expected).max() > 0.1


def test_training_through_the_operator():
    tensors = inputs(torch.float64, grad=True)
    assert torch.autograd.gradcheck(scan_op, tensors, atol=1e-6)
    mine, theirs = inputs(grad=True), inputs(grad=True)
    scan_op(*mine).square().sum().backward()
    selective_scan(*theirs).square().sum().backward()
    for left, right in zip(mine, theirs, strict=True):
        assert torch.equal(left.grad, right.grad)


def test_a_wrong_gradient_is_seen(monkeypatch):
    backward = scan.SelectiveScan.backward

    def without_skip(ctx, grad):
        grad_x, *rest = backward(ctx, grad)
        return grad_x - grad * ctx.saved_tensors[5], *rest

    monkeypatch.setattr(scan.SelectiveScan, "backward", staticmethod(without_skip))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(scan_op, inputs(torch.float64, grad=True), atol=1e-6)


def test_torch_finds_the_operator_well_made():
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(scan_op, inputs(grad=True), test_utils=checks)


class Foreign(nn.Module):
    """Written for mamba_ssm: a Mamba without autocast, and a scan in two groups of channels."""

    def __init__(self):
        super().__init__()
        from mamba_ssm import Mamba as Theirs
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        self.mamba = Theirs(d_model=4, d_state=3, d_conv=3, expand=2, bias=True)
        self.scan = selective_scan_fn
        self.proj = nn.Conv1d(4, 2 * 2 * 3 + 4, 1)
        self.A_logs, self.D = nn.Parameter(torch.rand(4, 3)), nn.Parameter(torch.rand(4))
        self.bias = nn.Parameter(torch.rand(4))

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, image):
        tokens = image.flatten(2)
        mixed = self.mamba(tokens.transpose(1, 2)).transpose(1, 2)
        dt, B, C = self.proj(mixed).split([4, 6, 6], 1)
        B, C = (v.reshape(v.shape[0], 2, 3, -1) for v in (B, C))
        A = -torch.exp(self.A_logs)
        y = self.scan(mixed, dt, A, B, C, self.D, mixed, self.bias, True)
        return y.reshape(image.shape)


def test_a_network_for_mamba_ssm_is_captured_without_it():
    torch.manual_seed(0)
    with stand_ins():
        net = Foreign().eval()
    assert "mamba_ssm" not in sys.modules
    graph, weights = capture(net, (1, 4, 4, 6))
    assert [node.operator.name for node in graph.nodes].count("scan") == 3
    image = torch.randn(2, 4, 4, 6)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        expected = Foreign.forward.__wrapped__(net, image)
    assert (execute(graph, weights, image) - expected).abs().max() < 1e-5


def test_what_stands_in_is_the_projects_mamba():
    with stand_ins():
        from mamba_ssm.modules.mamba_simple import Mamba as Theirs
    theirs, ours = Theirs(4, 3, expand=1), Mamba(4, 4, 3)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(1, 5, 4)
    assert torch.equal(theirs(tokens), ours(tokens))
    with pytest.raises(UserError, match="bimamba_type='v3'"):
        Theirs(4, bimamba_type="v3")
    with pytest.raises(UserError, match="dt_rank=7"):
        Theirs(4, dt_rank=7)
    with pytest.raises(UserError, match="inference_params"):
        theirs(tokens, inference_params=1)


def test_other_forms_of_the_scan_are_refused():
    x, dt, A, B, C, D = inputs()
    swapped = [v.transpose(1, 2) for v in (x, dt, B, C)]
    with pytest.raises(UserError, match="delta_softplus=False"):
        selective_scan_fn(*swapped[:2], A, *swapped[2:], D)
    with pytest.raises(UserError, match=r"B \(4, 3\)"):
        selective_scan_fn(*swapped[:2], A, A, A, D, delta_softplus=True)
    y = selective_scan_fn(*swapped[:2], A, *swapped[2:], delta_softplus=True)
    assert torch.allclose(y.transpose(1, 2), selective_scan(x, dt, A, B, C, D * 0))
