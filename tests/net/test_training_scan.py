import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lmaunet.net
from lmaunet.errors import UserError
from lmaunet.net import scan, scan_kernels, scan_lanes
from lmaunet.net.scan import SelectiveScan, selective_scan
from lmaunet.scan import real

NAMES = ("x", "dt", "A", "B", "C", "D")


def make_inputs(batch, length, channels, states, dtype=torch.float32, seed=0):
    """Return x, dt, A, B, C, D; the slowest state remembers some hundred tokens."""
    g = torch.Generator().manual_seed(seed)
    x, dt = torch.randn(2, batch, length, channels, generator=g, dtype=torch.float64)
    B, C = torch.randn(2, batch, length, states, generator=g, dtype=torch.float64)
    spread = 1 + 0.2 * torch.rand(channels, states, generator=g, dtype=torch.float64)
    A = -torch.arange(1, states + 1, dtype=torch.float64) / 4 * spread
    D = torch.randn(channels, generator=g, dtype=torch.float64)
    return [v.to(dtype) for v in (x, dt - 3, A, B, C, D)]


def plain_scan(x, dt, A, B, C, D):
    """The formula, token by token, differentiated by autograd. unbind keeps it linear in L."""
    delta = F.softplus(dt)
    decays = torch.exp(delta.unsqueeze(-1) * A).unbind(1)
    inflows = ((delta * x).unsqueeze(-1) * B.unsqueeze(2)).unbind(1)
    h = torch.zeros_like(inflows[0])
    states = []
    for decay, inflow in zip(decays, inflows, strict=True):
        h = decay * h + inflow
        states.append(h)
    return torch.einsum("bldn,bln->bld", torch.stack(states, 1), C) + D * x


def value_and_gradients(function, inputs, seed=1):
    """Return y and the gradients of a random projection of y."""
    leaves = [v.clone().requires_grad_() for v in inputs]
    y = function(*leaves)
    g = torch.Generator().manual_seed(seed)
    # Rounded to bfloat16, so that it is the same in every type.
    y.backward(torch.randn(y.shape, generator=g).bfloat16().to(y.dtype))
    return y.detach(), [v.grad for v in leaves]


def assert_close(got, expected, tolerance):
    """Compare relative to the largest element, which is what float32 sums can promise."""
    for name, a, b in zip(
        ("y", *NAMES), (got[0], *got[1]), (expected[0], *expected[1]), strict=True
    ):
        scale = b.abs().max()
        assert a.shape == b.shape, name
        assert (a.double() - b.double()).abs().max() <= tolerance * scale, name


@pytest.fixture
def short_chunks(monkeypatch):
    """Many chunks at small sizes, so that few tokens exercise what many do."""
    monkeypatch.setattr(scan_lanes, "CPU_STEP_ELEMENTS", 300)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 3, 16, 37, 100])
def test_float64_equals_autograd(short_chunks, length, batch):
    inputs = make_inputs(batch, length, 5, 3, torch.float64)
    got, expected = (value_and_gradients(f, inputs) for f in (selective_scan, plain_scan))
    assert_close(got, expected, 1e-12)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [(2, 256, 12, 8), (1, 1023, 6, 4), (2, 4096, 3, 4), (1, 16384, 2, 2)],
)
def test_float32_is_close_to_float64(batch, length, channels, states):
    inputs = make_inputs(batch, length, channels, states)
    doubles = [v.double() for v in inputs]
    got = value_and_gradients(selective_scan, inputs)
    assert got[0].dtype == torch.float32
    assert_close(got, value_and_gradients(plain_scan, doubles), 1e-5)
    golden = real.selective_scan(*(v.numpy() for v in doubles))
    assert np.abs(got[0].numpy() - golden).max() <= 1e-5 * np.abs(golden).max()


def test_gradcheck(short_chunks):
    inputs = [v.requires_grad_() for v in make_inputs(2, 7, 3, 2, torch.float64)]
    assert torch.autograd.gradcheck(SelectiveScan.apply, inputs)


def without_carry(self, ends, decays, order):
    return torch.zeros_like(ends)


def carry_without_decay(self, ends, decays, order):
    return ORIGINAL_STARTS(self, ends, torch.ones_like(decays), order)


ORIGINAL_STARTS = scan_lanes.Lanes.starts


@pytest.mark.parametrize("mutant", [without_carry, carry_without_decay])
def test_a_mutant_of_the_carry_is_caught(short_chunks, monkeypatch, mutant):
    inputs = make_inputs(2, 37, 5, 3, torch.float64)
    monkeypatch.setattr(scan_lanes.Lanes, "starts", mutant)
    got, expected = (value_and_gradients(f, inputs) for f in (selective_scan, plain_scan))
    with pytest.raises(AssertionError, match="y"):
        assert_close(got, expected, 1e-12)


def test_a_delta_that_underflows_leaves_the_skip():
    x, dt, A, B, C, D = make_inputs(1, 12, 2, 2)
    y, gradients = value_and_gradients(selective_scan, (x, torch.full_like(dt, -200), A, B, C, D))
    torch.testing.assert_close(y, D * x, rtol=0, atol=0)
    assert all(torch.isfinite(v).all() for v in gradients)


def test_a_delta_beyond_the_exponentials_range():
    x, dt, A, B, C, D = make_inputs(1, 12, 2, 2)
    y, gradients = value_and_gradients(selective_scan, (x, torch.full_like(dt, 900), A, B, C, D))
    without_memory = 900 * x * (B * C).sum(-1, keepdim=True) + D * x
    torch.testing.assert_close(y, without_memory)
    assert all(torch.isfinite(v).all() for v in gradients)


def test_strided_inputs():
    inputs = make_inputs(2, 21, 4, 3, torch.float64)
    strided = [
        v.transpose(1, 2).contiguous().transpose(1, 2) if v.dim() == 3 else v for v in inputs
    ]
    got, expected = (value_and_gradients(selective_scan, v) for v in (strided, inputs))
    assert_close(got, expected, 1e-14)


def test_half_precision_is_computed_in_float32():
    inputs = make_inputs(1, 64, 3, 4, torch.bfloat16)
    got = value_and_gradients(selective_scan, inputs)
    expected = value_and_gradients(plain_scan, [v.double() for v in inputs])
    assert {v.dtype for v in (got[0], *got[1])} == {torch.bfloat16}
    assert_close(got, expected, 2**-8)


def test_forward_saves_no_tensor_of_all_states():
    inputs = make_inputs(1, 4096, 8, 16)
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan(*[v.clone().requires_grad_() for v in inputs])
    assert sum(saved) < 4096 * 8 * 16 / 2


def test_there_is_no_second_derivative():
    inputs = [v.requires_grad_() for v in make_inputs(1, 5, 2, 2, torch.float64)]
    (gradient,) = torch.autograd.grad(
        selective_scan(*inputs).square().sum(), inputs[:1], create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (2, 5), "x is (2, 5) and A is (3, 4); give x as (batch, L, channels)"),
        ("x", (2, 0, 3), "with at least one token and A as (channels, states)"),
        ("B", (2, 4, 5), "B is (2, 4, 5), expected (2, 5, 4) beside x (2, 5, 3) and A (3, 4)"),
        ("D", (1,), "D is (1,), expected (3,)"),
    ],
)
def test_shapes_that_do_not_fit(name, shape, message):
    inputs = dict(zip(NAMES, make_inputs(2, 5, 3, 4), strict=True)) | {name: torch.zeros(shape)}
    with pytest.raises(UserError) as raised:
        selective_scan(**inputs)
    assert message in str(raised.value)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.A_log, self.D = (
            torch.nn.Parameter(torch.zeros(3, 4)),
            torch.nn.Parameter(torch.ones(3)),
        )

    def forward(self, x, dt, B, C):
        return selective_scan(x * 2, dt, -torch.exp(self.A_log), B, C, self.D) + x


def test_export_is_one_node(recwarn):
    import onnx

    x, dt, _, B, C, _ = make_inputs(1, 5, 3, 4)
    file = io.BytesIO()
    torch.onnx.export(
        Block(), (x, dt, B, C), file, dynamo=False, opset_version=18,
        custom_opsets={"ai.lmaunet": 1}, input_names=["x", "dt", "B", "C"], output_names=["y"],
    )  # fmt: skip
    assert not [w for w in recwarn if issubclass(w.category, torch.jit.TracerWarning)]
    model = onnx.load_from_string(file.getvalue())
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "ai.lmaunet": 1}
    nodes = {node.op_type: node for node in model.graph.node}
    assert sorted(nodes) == ["Add", "Constant", "Exp", "Mul", "Neg", "SelectiveScan"]
    node = nodes["SelectiveScan"]
    assert node.domain == "ai.lmaunet" and len(node.output) == 1 and not node.attribute
    doubled, rates = nodes["Mul"].output[0], nodes["Neg"].output[0]
    assert list(node.input)[:5] == [doubled, "dt", rates, "B", "C"]
    assert node.input[5] in [i.name for i in model.graph.initializer]
    types = {v.name: v.type.tensor_type for v in model.graph.value_info}
    assert [d.dim_value for d in types[node.output[0]].shape.dim] == [1, 5, 3]


@pytest.mark.parametrize("wanted", [False, True])
def test_mamba_gets_its_own_layout(monkeypatch, wanted):
    """Its sequences are (batch, features, L). There is no GPU here, so only the call is seen."""
    seen = {}

    def kernel(u, delta, A, B, C, D, delta_softplus):
        seen.update(u=u, delta=delta, B=B, C=C)
        assert delta_softplus
        # contiguous again: with other strides a processor may add in another order
        u, delta, B, C = (x.mT.contiguous() for x in (u, delta, B, C))
        return SelectiveScan.apply(u, delta, A, B, C, D).mT

    inputs = make_inputs(2, 9, 3, 4)
    if wanted:
        y = scan._with_mamba(kernel, *inputs)
        assert {k: tuple(v.shape) for k, v in seen.items()} == {
            "u": (2, 3, 9), "delta": (2, 3, 9), "B": (2, 4, 9), "C": (2, 4, 9),
        }  # fmt: skip
        assert all(v.is_contiguous() for v in seen.values())
    else:
        monkeypatch.setattr(scan, "_mamba_kernel", lambda: kernel)
        y = selective_scan(*inputs)
        assert not seen
    torch.testing.assert_close(y, SelectiveScan.apply(*inputs), rtol=0, atol=0)


@pytest.mark.gpu
def test_cuda_equals_the_reference():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU: the scan on CUDA is not tested here")
    inputs = make_inputs(2, 1000, 24, 8)
    got = value_and_gradients(SelectiveScan.apply, [v.cuda() for v in inputs])
    got = got[0].cpu(), [v.cpu() for v in got[1]]
    assert_close(got, value_and_gradients(plain_scan, [v.double() for v in inputs]), 1e-5)


@pytest.mark.gpu
def test_mamba_ssm_equals_this_scan():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU: mamba-ssm's kernel runs on CUDA only")
    pytest.importorskip(
        "mamba_ssm", reason="mamba-ssm is not installed; python -m pip install 'mamba-ssm>=2.2'"
    )
    inputs = [v.cuda() for v in make_inputs(2, 1000, 24, 8)]
    assert scan._mamba_kernel() is not None
    got, expected = (value_and_gradients(f, inputs) for f in (selective_scan, SelectiveScan.apply))
    assert_close(got, expected, 1e-4)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [(1, 1, 1, 1), (2, 63, 7, 3), (1, 64, 64, 16), (3, 65, 65, 2), (2, 200, 130, 5)],
)
def test_compiled_equals_torch_operations(batch, length, channels, states):
    """At lengths and widths on either side of a chunk and a block."""
    assert {scan_kernels.CHUNK, scan_kernels.BLOCK} == {64}
    inputs = make_inputs(batch, length, channels, states)
    got = value_and_gradients(SelectiveScan.apply, inputs)
    doubles = [v.double() for v in inputs]
    assert_close(got, value_and_gradients(SelectiveScan.apply, doubles), 2e-6)


def test_threads_change_no_bit():
    inputs = make_inputs(3, 130, 130, 4)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(value_and_gradients(SelectiveScan.apply, inputs))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert_close(other, found[0], 0)


@pytest.mark.parametrize("name", ["x", "dt", "B", "C"])
def test_not_a_number_is_not_hidden(name):
    inputs = dict(zip(NAMES, make_inputs(1, 9, 2, 2), strict=True))
    inputs[name][0, 4] = math.nan
    y = selective_scan(**inputs)
    assert torch.isfinite(y[0, :4]).all() and y[0, 4].isnan().all()
    assert y[0, 5:].isnan().all() == (name != "C")


def test_a_rate_that_is_not_a_number_is_not_hidden():
    inputs = make_inputs(1, 9, 2, 2)
    inputs[2][0, 1] = math.nan
    y, gradients = value_and_gradients(selective_scan, inputs)
    assert y[0, 1:, 0].isnan().all() and torch.isfinite(y[0, :, 1]).all()
    assert gradients[2][0, 1].isnan()


def test_growing_rates_overflow_to_infinity():
    x, dt, A, B, C, D = make_inputs(1, 40, 2, 2)
    y = selective_scan(x, torch.full_like(dt, 50), -A, B, C, D)
    assert not torch.isfinite(y[0, -1]).any()


def error_of_exp2(kernels):
    """Return the largest relative error of 2**v in the range of normal numbers."""
    v = np.linspace(-126, 127.4, 5001, dtype=np.float32)
    got = np.array([kernels._exp2(value) for value in v])
    return np.abs(got / np.exp2(v.astype(np.float64)) - 1).max()


def test_the_exponential_of_the_kernels(mutant_of):
    assert error_of_exp2(scan_kernels) <= 2**-22.5
    assert [scan_kernels._exp2(np.float32(v)) for v in (-math.inf, -200, 0, 128, math.inf)] == [
        2**-126, 2**-126, 1, math.inf, math.inf,
    ]  # fmt: skip
    assert error_of_exp2(mutant_of(scan_kernels, "0.001339888188", "0.0013")) > 2**-22.5


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("w = v * before[d]", "w = v * after[d]"),
        ("h[0] = starts[b, k, :, low:high]", "h[0] = 0"),
    ],
)
def test_a_mutant_of_the_kernels_is_caught(monkeypatch, mutant_of, right, wrong):
    monkeypatch.setattr(lmaunet.net, "scan_kernels", mutant_of(scan_kernels, right, wrong))
    inputs = make_inputs(2, 256, 6, 4)
    got = value_and_gradients(SelectiveScan.apply, inputs)
    expected = value_and_gradients(SelectiveScan.apply, [v.double() for v in inputs])
    with pytest.raises(AssertionError):
        assert_close(got, expected, 2e-6)


def test_worked_by_hand():
    # softplus(dt) = 1, decays 1/2 and 1/4: h = (2, 6), then (1 + 4, 1.5 + 12); D = 1/2.
    dt = torch.full((1, 2, 1), math.log(math.e - 1))
    A = -torch.log(torch.tensor([[2.0, 4.0]]))
    B = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]])
    C = torch.tensor([[[1.0, 1.0], [1.0, 2.0]]])
    y = selective_scan(torch.tensor([[[2.0], [4.0]]]), dt, A, B, C, torch.tensor([0.5]))
    torch.testing.assert_close(y.flatten(), torch.tensor([9.0, 34.0]))
