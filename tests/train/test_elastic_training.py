import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from lmaunet.data.dataset import SliceSet
from lmaunet.errors import UserError
from lmaunet.net.elastic import use_kernel
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec
from lmaunet.train.elastic import drawn_kernels, sampled
from lmaunet.train.loop import fit
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Schedule

ALONE = Processes(0, 1, torch.device("cpu"))
SPEC = NetSpec(
    "elastic", (2, 2, 4, 4, 4), classes=2, states=2, kernels=(5, 5, 5, 5), elastic=(3, 5),
    input_size=(32, 32),
)  # fmt: skip


def slices(side):
    n = np.arange(7)
    images = np.zeros((7, 1, side, side), np.float32) + n[:, None, None, None].astype(np.float32)
    images[:, :, : side // 2] += 1
    labels = (images[:, 0] > n[:, None, None]).astype(np.uint8)
    return SliceSet(images, labels, np.array(["a"] * 7), n)


SETS = {3: slices(32), 5: slices(48)}


def test_each_kernel_is_drawn_as_often_as_the_others():
    drawn = drawn_kernels((5, 7, 9), 72, seed=1, epoch=0)
    assert Counter(drawn) == {5: 24, 7: 24, 9: 24}
    assert drawn == drawn_kernels((5, 7, 9), 72, seed=1, epoch=0)
    assert drawn != drawn_kernels((5, 7, 9), 72, seed=1, epoch=1)
    assert drawn != drawn_kernels((5, 7, 9), 72, seed=2, epoch=0)
    assert len(drawn_kernels((5, 7, 9), 4, 0, 0)) == 4


def test_an_epoch_has_every_slice_once_each_step_in_its_kernels_size():
    used = []
    draw = sampled(SETS, used.append, Schedule(1, 1e-3, 2, augment=False), 0, ALONE)
    seen, sizes = [], []
    for images, labels in draw(0):
        assert images.shape[2:] == labels.shape[1:] and len(images) <= 2
        seen += images[:, 0, -1, 0].tolist()
        sizes.append(images.shape[2])
    assert sorted(seen) == list(range(7))
    assert sizes == [{3: 32, 5: 48}[kernel] for kernel in used] and set(sizes) == {32, 48}
    again = [images for images, _ in draw(0)]
    assert [i[:, 0, -1, 0].tolist() for i in again] != [i[:, 0, -1, 0].tolist() for i, _ in draw(1)]


def test_slices_that_are_not_the_same_and_several_processes_are_refused():
    other = dataclasses.replace(SETS[5], z=SETS[5].z + 1)
    with pytest.raises(ValueError, match="not the same ones"):
        sampled({3: SETS[3], 5: other}, lambda k: None, Schedule(1, 1e-3), 0, ALONE)
    two = Processes(0, 2, torch.device("cpu"))
    with pytest.raises(UserError, match="train it in one process, without torchrun"):
        sampled(SETS, lambda k: None, Schedule(1, 1e-3), 0, two)


def trained(folder, epochs_first):
    """Train for two epochs, stopped after ``epochs_first`` and gone on in a new process."""
    schedule = Schedule(2, 1e-2, 2)
    for stop in sorted({epochs_first, 2}):
        torch.manual_seed(0)
        model = LMaUNet(SPEC)
        draw = sampled(SETS, lambda k, model=model: use_kernel(model, k), schedule, 3, ALONE)

        def until(epoch, draw=draw, stop=stop):
            if epoch >= stop:
                raise KeyboardInterrupt
            return draw(epoch)

        try:
            fit(
                model, SETS[3], schedule, classes=2, seed=3, folder=folder, processes=ALONE,
                progress=lambda *line: None, draw=until,
            )  # fmt: skip
        except KeyboardInterrupt:
            continue
    return model


def test_a_training_that_was_interrupted_comes_to_the_same_network(tmp_path):
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    once, twice = trained(tmp_path / "once", 2), trained(tmp_path / "twice", 1)
    for name, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name]), name
    start = LMaUNet(SPEC).state_dict()
    moved = [n for n, v in once.state_dict().items() if not torch.equal(v, start[n])]
    assert "stages.0.local.deltas.3" in moved and "stages.3.norm.of.3.running_mean" in moved
