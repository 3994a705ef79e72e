"""A network that starts from a checkpoint: all but the head, or one line that names the layer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net import initialization
from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.net.initialization import initialize
from lmaunet.net.network import LMaUNet


@pytest.fixture
def saved(tiny_spec, tmp_path):
    torch.manual_seed(1)
    model = LMaUNet(tiny_spec)
    path = tmp_path / "model.pt"
    save_checkpoint(path, tiny_spec, model, note="kept")
    return path, model


def test_all_but_the_head_is_taken_whatever_its_classes(tiny_spec, saved, mutant_of):
    path, model = saved
    spec = dataclasses.replace(tiny_spec, classes=3)
    own = LMaUNet(spec)
    head = own.head.weight.detach().clone()
    assert initialize(own, spec, path) == {"note": "kept"}
    assert torch.equal(own.head.weight, head)
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(own.state_dict()[name], value), name
    same = LMaUNet(tiny_spec)
    head = same.head.weight.detach().clone()
    initialize(same, tiny_spec, path)
    assert torch.equal(same.head.weight, head) and not torch.equal(head, model.head.weight)
    mutant = mutant_of(initialization, 'HEAD = "head."', 'HEAD = "heads."')
    mutant.initialize(same, tiny_spec, path)
    assert torch.equal(same.head.weight, model.head.weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernels": (3, 3, 5, 3)}, r"stages\.2\.local\.weight is 8x1x3x3, spec tiny has 8x1x5x5"),
        ({"in_channels": 2}, r"shallow\.0\.conv\.weight is 4x1x3x3, spec tiny has 4x2x3x3"),
        ({"decoder_convs": 2}, r"has no decoder\.0\.convs\.1\.conv\.weight, which spec tiny has"),
        ({"mamba": "none"}, r"and has stages\.0\.mamba\.\w+.* which spec tiny has not"),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_the_layers_name(tiny_spec, saved, change, said):
    spec = dataclasses.replace(tiny_spec, **change)
    own = LMaUNet(spec)
    before = {k: v.clone() for k, v in own.state_dict().items()}
    with pytest.raises(UserError, match=said):
        initialize(own, spec, saved[0])
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())


def test_files_that_are_no_float_checkpoint_are_refused(tiny_spec, saved, tmp_path):
    path, model = saved
    own = LMaUNet(tiny_spec)
    save_checkpoint(path, tiny_spec, model, "quantized")
    with pytest.raises(UserError, match="is of a quantized; expected FP32 weights"):
        initialize(own, tiny_spec, path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError):
        initialize(own, tiny_spec, path)
    broken = {k: v * float("nan") if v.is_floating_point() else v
              for k, v in model.state_dict().items()}  # fmt: skip
    torch.save(broken, path)
    with pytest.raises(UserError, match="not finite"):
        initialize(own, tiny_spec, path)
