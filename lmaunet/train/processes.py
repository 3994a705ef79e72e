"""One process or several: what ``torchrun`` sets up, in one place."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

LONGEST_WAIT = datetime.timedelta(hours=6)
"""The others wait this long while the first process scores, allocates bits and chooses formats."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, made to average its gradients over the processes."""
        model.to(self.device)
        if self.world == 1:
            return model
        from torch import nn

        return nn.parallel.DistributedDataParallel(model)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()


def process_count() -> int:
    """Return how many processes ``torchrun`` started; 1 without it. It loads no torch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def join_processes() -> Processes:
    """Join the group that ``torchrun`` started (nccl with CUDA, gloo without), or stand alone."""
    import torch
    import torch.distributed as dist

    world, rank = process_count(), process_rank()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=LONGEST_WAIT)
    return Processes(rank, world, device)
