"""Masks, the loss on masked pixels alone, and a pretraining that learns and resumes."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.train import pretraining
from lmaunet.train.masking import Masking
from lmaunet.train.pretraining import (
    draw_mask,
    reconstruction_head,
    reconstruction_loss,
    restore_masked,
)
from lmaunet.train.processes import join_processes
from lmaunet.train.schedule import Schedule

SCHEDULE = Schedule(2, 1e-2, augment=False)
MASKING = Masking(8, 0.5)


def restore(spec, data, schedule=SCHEDULE, masking=MASKING, folder=None, stop_after=None, seed=0):
    torch.manual_seed(0)
    model = LMaUNet(spec)
    reconstruction_head(model, spec.in_channels)

    def progress(fraction, line):
        if stop_after is not None and fraction >= stop_after:
            raise KeyboardInterrupt

    history = restore_masked(
        model, data, schedule, masking, seed=seed, folder=folder, processes=join_processes(),
        progress=progress,
    )  # fmt: skip
    return model, history


def test_masks_hide_whole_blocks_the_same_number_in_each_image():
    generator = torch.Generator().manual_seed(3)
    mask = draw_mask(5, (32, 48), Masking(16, 0.6), generator)
    assert mask.shape == (5, 1, 32, 48) and mask.dtype == torch.bool
    blocks = mask.view(5, 2, 16, 3, 16).float().mean((2, 4))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    assert blocks.sum((1, 2)).tolist() == [4.0] * 5  # 0.6 of 6
    assert len({tuple(b.ravel().tolist()) for b in blocks}) > 1
    again = draw_mask(5, (32, 48), Masking(16, 0.6), torch.Generator().manual_seed(3))
    assert torch.equal(mask, again)


def test_blocks_at_the_border_may_be_cut():
    mask = draw_mask(4, (20, 20), Masking(16, 0.5), torch.Generator().manual_seed(0))
    assert mask.shape == (4, 1, 20, 20) and Masking(16, 0.5).count((20, 20)) == (4, 2)


@pytest.mark.parametrize(
    ("block", "share"), [(0, 0.5), (8, 0.0), (8, 1.0), (8, float("nan")), (-1, 0.5)]
)
def test_masks_that_are_none(block, share):
    with pytest.raises(UserError, match="give 1 pixel or more, and a share between 0 and 1"):
        Masking(block, share)


def test_a_mask_must_hide_some_and_leave_some():
    with pytest.raises(UserError, match=r"32x32 has 1 block\(s\) of 32 pixels, of which 1"):
        Masking(32).count((32, 32))
    with pytest.raises(UserError, match="0 would be masked"):
        Masking(16, 0.1).count((32, 32))


def test_the_loss_is_of_masked_pixels_alone(mutant_of):
    images = torch.zeros(1, 2, 2, 2)
    restored = torch.tensor([[[[1.0, 9.0], [9.0, 3.0]], [[5.0, 9.0], [9.0, 7.0]]]])
    mask = torch.tensor([[[[True, False], [False, True]]]])
    assert float(reconstruction_loss(restored, images, mask)) == 4.0  # of 1, 3, 5, 7
    mutant = mutant_of(pretraining, "abs() * hidden).sum() / hidden.sum()", "abs()).mean()")
    assert float(mutant.reconstruction_loss(restored, images, mask)) != 4.0


def test_the_network_never_sees_what_it_restores(tiny_spec, tiny_data):
    """What is behind the mask reaches the loss as its target, not the network as its input."""
    seen = []
    torch.manual_seed(0)
    model = LMaUNet(tiny_spec)
    reconstruction_head(model, 1)
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))
    restore_masked(
        model, tiny_data.train.take(np.arange(8)), dataclasses.replace(SCHEDULE, epochs=1),
        MASKING, seed=4, folder=None, processes=join_processes(), progress=lambda *line: None,
    )  # fmt: skip
    (given,) = seen
    assert float((given == 0).float().mean()) >= 0.5
    blocks = (given == 0).view(8, 4, 8, 4, 8).float().amin((2, 4))
    assert (blocks.sum((1, 2)) >= 8).all()


def test_pretraining_learns_and_labels_change_nothing(tiny_spec, tiny_data):
    data = tiny_data.train.take(np.arange(0, len(tiny_data.train), 3))
    model, history = restore(tiny_spec, data, dataclasses.replace(SCHEDULE, epochs=5))
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert history[-1]["loss"] < 0.6 * float(np.abs(data.images).mean())
    other = dataclasses.replace(data, labels=(data.labels + 1) % 9)
    again, same = restore(tiny_spec, other, dataclasses.replace(SCHEDULE, epochs=5))
    assert same == history
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_an_interrupted_pretraining_ends_as_if_it_was_not(tiny_spec, tiny_data, tmp_path):
    data = tiny_data.train.take(np.arange(12))
    whole, history = restore(tiny_spec, data)
    with pytest.raises(KeyboardInterrupt):
        restore(tiny_spec, data, folder=tmp_path, stop_after=0.6)
    last = tmp_path / "pretraining.last.pt"
    kept = last.read_bytes()
    last.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(UserError, match=r"damaged or truncated.* or delete it, to train from"):
        restore(tiny_spec, data, folder=tmp_path)
    last.write_bytes(kept)
    resumed, again = restore(tiny_spec, data, folder=tmp_path)
    assert again == history
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_another_seed_draws_other_masks(tiny_spec, tiny_data):
    data = tiny_data.train.take(np.arange(8))
    one = dataclasses.replace(SCHEDULE, epochs=1)
    assert restore(tiny_spec, data, one)[1] != restore(tiny_spec, data, one, seed=1)[1]


def test_a_loss_that_diverges_is_said(tiny_spec, tiny_data):
    broken = dataclasses.replace(tiny_data.train, images=tiny_data.train.images * np.float32("nan"))
    with pytest.raises(UserError, match="pretraining: the loss is nan in epoch 1"):
        restore(tiny_spec, broken)


def test_the_head_is_exchanged(tiny_spec):
    model = LMaUNet(tiny_spec)
    before = copy.deepcopy(model.state_dict())
    head = reconstruction_head(model, 3)
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 3, 32, 32)
    model.head = head
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "norm" not in k)
    with pytest.raises(UserError, match="no head of one 2-D convolution"):
        reconstruction_head(torch.nn.Linear(1, 1), 1)
