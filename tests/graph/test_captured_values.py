"""What a capture refuses, each by its operator and line, and values that it rounds or learns."""

import pytest
import torch
from torch import nn

from lmaunet.errors import Disagreement, UserError
from lmaunet.graph.agreement import BOUND, check_capture
from lmaunet.graph.capture import capture
from lmaunet.graph.module import execute


def images(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outputs(net, image):
    with torch.no_grad():
        return net(image)


class Refused(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner = nn.Conv2d(1, 4, 1)
        self.part = Applied(function)

    def forward(self, image):
        return self.part(self.inner(image))


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)  # the line that an error names


REFUSALS = {
    "operator": (lambda x: x.cumsum(1), r"aten\.cumsum.*no operator for it"),
    "branch": (lambda x: x if x.sum() > 0 else -x, "branch on shapes, not on values"),
    "shape": (lambda x: x[x > 0], r"aten\.(gt|index)|branch on shapes"),
    "number": (lambda x: x * float(x.mean()), r"branch on shapes|aten\.|item"),
    "half": (lambda x: x.half().float(), "float32"),
    "batch": (lambda x: x.flip(0), r"aten\.flip.*images of a batch"),
    "images": (lambda x: x + x.mean(0, keepdim=True), "images of a batch"),
    "split": (lambda x: x.transpose(0, 1).reshape(8, 64)[:4], "images of a batch"),
    "window": (lambda x: nn.functional.avg_pool2d(x.transpose(0, 3), 3, 1, 1), "images of a"),
    "random": (lambda x: x + torch.rand(4, 1, 1), "random"),
    "ceil": (lambda x: nn.functional.max_pool2d(x, 3, 2, ceil_mode=True), "ceil_mode"),
    "adaptive": (lambda x: nn.functional.adaptive_avg_pool2d(x, 3), "sizes that divide"),
    "product": (lambda x: x @ x.transpose(2, 3), "two values"),
    "pad": (lambda x: nn.functional.pad(x, (1, 1)), r"padding \[1, 1\]"),
    "places": (lambda x: x * x.max(1, keepdim=True)[1], r"aten\.mul.*the place of a maximum"),
    "input": (lambda x: torch.zeros(2, 1), "no result of operators"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_graph_cannot_say_is_refused(name):
    function, message = REFUSALS[name]
    with pytest.raises(UserError, match=message) as error:
        capture(Refused(function), (1, 1, 8, 8))
    text = str(error.value)
    assert text.startswith("capture: ") and "\n" not in text
    if name != "input":
        assert "'part'" in text and "test_captured_values.py:" in text


def test_a_weight_in_half_precision_keeps_its_rounding():
    half = torch.tensor([[[0.1]], [[0.3]], [[0.7]], [[1.1]]])
    net = Refused(lambda x: x * half.half()).eval()
    graph, weights = capture(net, (1, 1, 8, 8))
    image = images((1, 1, 8, 8))
    assert torch.equal(execute(graph, weights, image), outputs(net, image))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, image):
        self.count.add_(1)
        return image * 2 + self.count


def test_a_module_with_a_memory_is_refused():
    with pytest.raises(UserError, match="changes one of its buffers"):
        capture(Counting(), (1, 1, 8, 8))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("slopes", "operators"),
    [
        ([0.3], ["conv", "activation"]),
        ([-0.2] * 3, ["conv", "activation"]),
        ([0.1, 0.5, -0.3], ["conv", "activation", "affine", "activation", "affine", "add"]),
    ],
)
def test_learned_slopes_of_negative_numbers(slopes, operators, in_place):
    """What changes in place is captured by another operator of torch."""
    net = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.PReLU(len(slopes)), *[nn.LeakyReLU(1.0, True)] * in_place
    ).eval()
    net[1].weight.data.copy_(torch.tensor(slopes))
    graph, weights = capture(net, (1, 1, 4, 6))
    assert [node.operator.name for node in graph.nodes][: len(operators)] == operators
    image = images((2, 1, 4, 6))
    right = outputs(net, image)
    far = (execute(graph, weights, image) - right).abs().max() / right.abs().max()
    assert far <= BOUND


def test_what_is_for_a_captures_number_of_images_is_a_disagreement(tmp_path):
    torch.manual_seed(0)  # weights near 0 would be within the tolerance
    net = Refused(lambda x: x / x.shape[0]).eval()
    graph, weights = capture(net, (1, 1, 8, 8))
    with pytest.raises(Disagreement, match="graph and module: 768 of 768"):
        check_capture(net, graph, weights, evidence=tmp_path)
