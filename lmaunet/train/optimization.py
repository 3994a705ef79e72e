"""What trainings share: weights in a fast layout, AdamW, and a checkpoint of each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.graph.graph import Graph
from lmaunet.graph.operators import Conv
from lmaunet.net.checkpoint import read_file, save_atomically
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Schedule

CLIP_NORM = 2.0


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: weights decay; biases, norms, scales, A_log and D do not.

    Decay would drive a scale or a rate towards a value that means something.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_weight = name.endswith("weight") and parameter.dim() > 1
        (decayed if is_weight else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0}]


def memory_format(model: nn.Module, axes: int = 2) -> torch.memory_format:
    """Return how a network's maps are kept while it is trained: the channels last, if that works.

    Args:
        model: the network.
        axes: spatial axes of its images.

    It is a quarter faster on a CPU. The backward pass of a convolution of 1x1 with a stride writes
    beyond its memory then: with torch 2.12.1 on a CPU with AVX512-VNNI, 8 or 4 channels of 64x64
    ended in a crash.
    """
    graph = getattr(model, "graph", None)
    strided = isinstance(graph, Graph) and any(
        isinstance(node.operator, Conv)
        and max(node.operator.stride) > 1
        and max(graph.weights[node.weights["weight"]].shape[2:]) == 1
        for node in graph.nodes
    )
    if strided:
        return torch.contiguous_format
    return torch.channels_last if axes == 2 else torch.channels_last_3d


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Bring a network's weights into a memory format.

    That of three spatial axes is for those weights alone: the quantized network of volumes has some
    of two, over its tokens.
    """
    if layout is not torch.channels_last_3d:
        model.to(memory_format=layout)
        return
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 5:
            tensor.data = tensor.data.contiguous(memory_format=layout)


class Optimization:
    """A network under training; it goes on from ``NAME.last.pt`` in a folder where that is there.

    ``history`` has a row for each epoch that is done, ``wrapped`` is the network to call, and
    ``layout`` the memory format that its images are wanted in.

    Args:
        model: is trained in place.
        schedule: of the rate.
        processes: this process among those that train together; the first one writes.
        folder: for the checkpoint; None keeps none.
        name: of the checkpoint's file.
        axes: spatial axes of the images.

    Raises:
        UserError: where the checkpoint to go on from is damaged.
    """

    def __init__(
        self, model: nn.Module, schedule: Schedule, processes: Processes, folder: Path | None,
        name: str, axes: int = 2,
    ) -> None:  # fmt: skip
        processes.wait()
        self.model, self.schedule, self.first = model, schedule, processes.first
        self.saved = folder / f"{name}.last.pt" if folder else None
        state = None
        if self.saved and self.saved.exists():
            try:
                state = read_file(self.saved)
            except UserError as error:
                raise UserError(f"{error}; or delete it, to train from the start") from error
            # before anything holds the parameters: Brevitas replaces those of its quantizers here
            model.load_state_dict(state["model"])
        self.layout = memory_format(model, axes)
        _lay_out(model, self.layout)
        self.wrapped = processes.wrap(model)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, schedule.weight_decay), lr=schedule.learning_rate
        )
        self.history: list[dict[str, float]] = []
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = state["history"]

    def set_rate(self, fraction: float) -> None:
        """Set the learning rate of a fraction 0..1 of the training."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(fraction)

    def step(self, loss: Tensor) -> None:
        """Change the weights against a loss, whose gradient's norm is limited."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()

    def keep(self, row: dict[str, float]) -> None:
        """Note an epoch that is done, and write the checkpoint to go on from."""
        self.history.append(row)
        if self.saved and self.first:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "history": self.history,
            }
            save_atomically(self.saved, state)

    def finish(self) -> list[dict[str, float]]:
        """Bring the weights back into the usual layout; return the history."""
        self.model.to(memory_format=torch.contiguous_format)
        return self.history
