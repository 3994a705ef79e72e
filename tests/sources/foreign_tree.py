"""A small tree of nnunetv2 with a trainer of its own, as published Mamba networks come."""

from __future__ import annotations

import json
from pathlib import Path

import nnunet_folder

TRAINER = "nnUNetTrainerTwoWay"
NAME = f"{TRAINER}__nnUNetPlans__2d"
HANDLER = """
from batchgenerators.utilities.file_and_folder_operations import *

import nnunetv2
from nnunetv2.utilities.resampling import choose


class ConfigurationManager:
    def __init__(self, said):
        self.said = said

    def __getattr__(self, name):
        return self.said[name]


class PlansManager:
    def __init__(self, plans):
        self.plans = plans if isinstance(plans, dict) else load_json(plans)
        assert isdir(join(nnunetv2.__path__[0], "utilities"))

    def get_configuration(self, name: str) -> Union[ConfigurationManager, None]:
        return ConfigurationManager(self.plans["configurations"][name])

    def get_label_manager(self, dataset):
        return [name for name in dataset["labels"] if name != "ignore"]
"""
RESAMPLING = """
from acvl_utils.array.resampling import fast_resize, Method
from sklearn_of_nobody.split import KFold
from pathlib import Path

DEFAULT = Method.CUBIC


@fast_resize(order=3)
def choose(image: Method | None = DEFAULT):
    return KFold(image)
"""
BASE = """
from batchgenerators.transforms.base import Compose, Transform
from mamba_ssm.ops.triton.norms import RMSNorm
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

try:
    import wandb_of_nobody as log
except ImportError:
    log = None

PIPELINE = Compose([Transform(1), Transform(2)])


class Noise(Transform):
    def __init__(self, sigma):
        super().__init__()


class nnUNetTrainer:
    network_is_built_by = "the plan"

    @staticmethod
    def build_network_architecture(plans_manager, dataset_json, configuration_manager,
                                   num_input_channels, enable_deep_supervision=True):
        raise NotImplementedError("the stock one")
"""
OWN = """
import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as base
from nnunetv2.nets.two_way import TwoWayNet


class nnUNetTrainerTwoWay(base.nnUNetTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, dataset_json, configuration_manager,
                                   num_input_channels, enable_deep_supervision: bool = True):
        classes = len(plans_manager.get_label_manager(dataset_json))
        print("building", base.log)
        assert base.log is None
        return TwoWayNet(num_input_channels, classes, configuration_manager.patch_size,
                         enable_deep_supervision)


class nnUNetTrainerNewer(base.nnUNetTrainer):
    def build_network_architecture(self, architecture_class_name, arch_init_kwargs,
                                   arch_init_kwargs_req_import, num_input_channels,
                                   num_output_channels, enable_deep_supervision=True):
        assert architecture_class_name == "a.b.C" and arch_init_kwargs == {"n": 1}
        assert arch_init_kwargs_req_import == ["x"]
        return TwoWayNet(num_input_channels, num_output_channels,
                         self.configuration_manager.patch_size, enable_deep_supervision)


class nnUNetTrainerOdd(base.nnUNetTrainer):
    @staticmethod
    def build_network_architecture(number_of_moons, num_input_channels):
        return None
"""
NETWORK = '''
import torch
from mamba_ssm import Mamba
from torch import nn
from torch.cuda.amp import autocast


def block(channels, out, stride=1):
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1),
                         nn.InstanceNorm2d(out, affine=True), nn.LeakyReLU(0.01, inplace=True))


class TwoWay(nn.Module):
    """Both directions over pixels in windows, then over the channels as tokens."""

    def __init__(self, channels, pixels, window):
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(channels)
        self.there = Mamba(d_model=channels, d_state=4, expand=1)
        self.back = Mamba(d_model=channels, d_state=4, expand=1)
        # its size follows from the patch
        self.across = Mamba(d_model=pixels, d_state=4, expand=1)

    @autocast(enabled=False)
    def forward(self, x):
        n, c, h, w = x.shape
        p = self.window
        parts = x.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
        tokens = self.norm(parts.reshape(-1, c, p * p).transpose(1, 2))
        both = self.there(tokens) + self.back(tokens.flip(1)).flip(1)
        both = both.transpose(1, 2).reshape(n, h // p, w // p, c, p, p)
        x = x + both.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)
        return x + self.across(x.flatten(2)).reshape(n, c, h, w)


class Encoder(nn.Module):
    def __init__(self, channels, patch):
        super().__init__()
        self.first, self.second = block(channels, 4), block(4, 6, 2)
        self.bottom = TwoWay(6, patch[0] * patch[1] // 4, 4)

    def forward(self, x):
        first = self.first(x)
        return first, self.bottom(self.second(first))


class Decoder(nn.Module):
    def __init__(self, encoder, classes, deep_supervision):
        super().__init__()
        self.encoder = encoder
        self.deep_supervision = deep_supervision
        self.up, self.join = nn.ConvTranspose2d(6, 4, 2, 2), block(8, 4)
        self.seg_layers = nn.ModuleList([nn.Conv2d(6, classes, 1), nn.Conv2d(4, classes, 1)])

    def forward(self, skips):
        joined = self.join(torch.cat([self.up(skips[1]), skips[0]], 1))
        heads = [self.seg_layers[1](joined), self.seg_layers[0](skips[1])]
        return heads if self.deep_supervision else heads[0]


class TwoWayNet(nn.Module):
    def __init__(self, channels, classes, patch, deep_supervision):
        super().__init__()
        self.encoder = Encoder(channels, patch)
        self.decoder = Decoder(self.encoder, classes, deep_supervision)

    def forward(self, x):
        return self.decoder(self.encoder(x))
'''
FILES = {
    "nnunetv2/__init__.py": "",
    "nnunetv2/utilities/resampling.py": RESAMPLING,
    "nnunetv2/utilities/plans_handling/plans_handler.py": HANDLER,
    "nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py": BASE,
    "nnunetv2/training/nnUNetTrainer/variants/two_way.py": OWN,
    "nnunetv2/training/nnUNetTrainer/variants/broken.py": "class nnUNetTrainerBroken(:\n",
    "nnunetv2/nets/two_way.py": NETWORK,
}


def write_tree(place: Path, **changed: str) -> Path:
    """Write the tree; ``changed`` are other contents, by the file's stem."""
    for name, text in FILES.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(changed.get(file.stem, text))
    return place


def write_results(folder: Path, code: Path, **trained) -> Path:
    """Write a results folder with random weights of the tree's network; return it."""
    import torch

    from lmaunet.graph.stand_ins import stand_ins

    content = nnunet_folder.plans(older=True)
    space: dict = {}
    with stand_ins():
        exec(compile((code / "nnunetv2/nets/two_way.py").read_text(), "two_way", "exec"), space)
    torch.manual_seed(3)
    network = space["TwoWayNet"](2, 3, content["configurations"]["2d"]["patch_size"], True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    given = {"trainer": TRAINER, **trained}
    return nnunet_folder.write(folder, content, nnunet_folder.trained(network, **given))


def plans_of(folder: Path) -> dict:
    return json.loads((folder / "plans.json").read_text())
