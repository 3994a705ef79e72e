"""A small network of nnU-Net's kind, and the files that an export makes of it."""

import numpy as np
import torch
from torch import nn

from lmaunet.export.lower import lower
from lmaunet.export.network import export_float32, export_qcdq
from lmaunet.export.reference import read_model
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.trt import float_forms, policy

NORMS, CONVOLUTIONS, SIZE = 5, 7, 16


def block(channels, out, stride=1):
    conv = nn.Conv2d(channels, out, 3, stride, 1)
    return nn.Sequential(conv, nn.InstanceNorm2d(out, affine=True), nn.LeakyReLU(0.01))


class NnUNetLike(nn.Module):
    """Two levels: InstanceNorm and LeakyReLU behind each convolution, a transposed one upwards."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(block(1, 8), block(8, 8))
        self.deep = nn.Sequential(block(8, 12, 2), block(12, 12))
        self.up, self.join = nn.ConvTranspose2d(12, 8, 2, 2), block(16, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, image):
        first = self.first(image)
        return self.head(self.join(torch.cat([self.up(self.deep(first)), first], 1)))


def captured(larger=1.0):
    """The graph and weights of a network whose convolutions before a norm give larger values.

    The norms take the factor out again, so that the logits are the same.
    """
    torch.manual_seed(0)
    module = NnUNetLike().eval()
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, nn.Conv2d) and one.kernel_size == (3, 3):
                one.weight.mul_(larger)
                one.bias.mul_(larger)
    return capture(module, (1, 1, SIZE, SIZE))


def float_form(network, folder):
    """The float graph as the TensorRT target takes it, with its nodes named."""
    graph, weights = network
    path = folder / "float32.onnx"
    export_float32(GraphModule(graph, weights), torch.zeros(1, 1, SIZE, SIZE), path)
    return float_forms.copy_named(lower(read_model(path), "two_level"))


def int8_form(network, images, folder):
    """The quantized graph in the policy's form, and its planned convolutions."""
    quantized = QuantNetwork(*network)
    calibrate(quantized, np.repeat(images, 4, 0)[:4])
    export_qcdq(quantized.eval(), torch.from_numpy(images[:1]), folder / "qcdq.onnx")
    return policy.apply(read_model(folder / "qcdq.onnx"))
