"""A small network with every pattern of our own networks, lowered once for all tests of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qonnx_nets

from lmaunet.fpga.agreement.nodes import host_codes
from lmaunet.fpga.agreement.reference import Reference
from lmaunet.fpga.board.boards import named_board
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import Lowered, lower
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.sizing.search import Sizing


@dataclass(frozen=True)
class Case:
    """A lowered network and all that its checks need."""

    path: Path
    images: np.ndarray
    reference: Reference
    seen: dict[str, np.ndarray]
    lowered: Lowered
    model: Any
    executor: Executor


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Case:
    """A network with every pattern of our own, lowered and assembled once."""
    from lmaunet.fpga.toolchain.assemble import assemble

    path, images = qonnx_nets.whole(tmp_path_factory.mktemp("qonnx") / "whole.onnx")
    reference = Reference(path)
    seen = reference.run(images, reference.activations())
    lowered = lower(path, seen)
    model = assemble(lowered)
    return Case(path, images, reference, seen, lowered, model, Executor(model.model))


TARGET_CYCLES = 2000


@pytest.fixture(scope="session")
def network(whole) -> Network:
    """The RTL of that network, folded for 2000 cycles."""
    from lmaunet.fpga.toolchain.assemble import apply_folding, specialize

    board = named_board("ZCU104")
    model = copy.deepcopy(whole.model)
    shapes = whole.lowered.graph.shapes
    design = Sizing(Executor(model.model), shapes).design(TARGET_CYCLES, board, 250.0)
    mapped = specialize(model, board)
    apply_folding(design, mapped)
    return Network(Executor(mapped.model), shapes)


@pytest.fixture(scope="session")
def codes(whole) -> np.ndarray:
    """What the host streams of its three images."""
    return host_codes(whole.lowered.host, whole.images)


@pytest.fixture(scope="session")
def simulations(request, tmp_path_factory):
    """Where compiled simulations are kept: from one run to the next, where pytest has a cache."""
    cache = getattr(request.config, "cache", None)
    return cache.mkdir("simulations") if cache else tmp_path_factory.mktemp("simulations")
