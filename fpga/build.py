"""``build --target fpga``, in named steps: from a QONNX file to a sized hardware graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.artifacts import Agreement
from lmaunet.errors import UserError
from lmaunet.export.reference import evidence_folder
from lmaunet.fpga.agreement.nodes import (
    NodeCheck,
    check_against_nodes,
    check_network,
    host_codes,
    host_logits,
    summarize,
    with_flips,
)
from lmaunet.fpga.agreement.reference import Reference
from lmaunet.fpga.board.boards import DEFAULT_BOARD, Board, named_board
from lmaunet.fpga.build_detail import BuildDetail
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import Host, lower
from lmaunet.fpga.graph.memory_image import write_image
from lmaunet.fpga.simulation.compilation import compiler_place, verilator_place
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.proof import RTL, prove, write_design
from lmaunet.fpga.sizing.design import DEFAULT_CLOCK_MHZ
from lmaunet.fpga.sizing.search import Sizing, size
from lmaunet.fpga.toolchain.assemble import apply_folding, assemble, specialize
from lmaunet.fpga.toolchain.flow import LEVELS, NO_FLOW, check_flow, run_flow, run_levels, sized_for
from lmaunet.stage import read_json, write_json

MAX_CHECK_IMAGES = 4
HARDWARE, HOST, LAYERS, RESOURCES = "hardware.onnx", "host.json", "layers.json", "resources.json"
AGREEMENTS = "agreements.json"


@dataclass(frozen=True)
class Built:
    """What was built: the agreements, and the figures for the report."""

    agreements: tuple[Agreement, ...]
    detail: dict[str, Any]


def build(
    qonnx: Path,
    samples: np.ndarray,
    folder: Path,
    options: Mapping[str, Any],
    progress: Callable[[str], None],
) -> Built:
    """Build the hardware graph of a QONNX network into a folder.

    Args:
        qonnx: the QONNX file; batch 1, the scan opaque.
        samples: float32 ``(n, channels, H, W)`` images; the scans' states are calibrated on all of
            them, the agreements checked on the first 4.
        folder: an empty folder.
        options: ``board``, ``clock_mhz``, ``target_ms``; what is absent or None is the default.
            ``simulate``: whether the whole design's RTL is simulated too. ``flow``: what yosys or
            Vivado do with it, see :mod:`lmaunet.fpga.toolchain.flow`; any implies ``simulate``.
        progress: called with a line on what is being done.

    Raises:
        UserError: for a network that cannot be mapped or does not fit, or bad options.
        Disagreement: where the hardware graph differs from the QONNX model, or its RTL from it.
        ToolNotFound: without FINN+; to simulate, without Verilator or a C++ compiler; for a flow,
            without yosys or Vivado and Vitis.
    """
    board, clock_mhz, target_ms = check_options(options)
    # before the minutes of work that come first
    flow = check_flow(options, board, clock_mhz)
    simulated = bool(options.get("simulate")) or flow != NO_FLOW
    if simulated:
        verilator_place()
        compiler_place()
    if samples.ndim == 5:
        raise UserError(
            f"the network takes volumes of {'x'.join(map(str, samples.shape[2:]))}; a design "
            "streams the pixels of an image row by row, and has no operators of three axes; build "
            "it for ort, openvino or trt"
        )
    if samples.ndim != 4 or not len(samples) or not np.isfinite(samples).all():
        raise UserError(
            f"samples of shape {samples.shape}; expected finite images (n, channels, H, W), n >= 1"
        )
    evidence = evidence_folder(folder)
    progress("running the QONNX model on the sample images")
    reference = Reference(qonnx)
    calibration = reference.run(samples, reference.scan_inputs())
    progress("lowering QONNX to integer hardware operators")
    lowered = lower(qonnx, calibration)
    model = assemble(lowered)
    executor = Executor(model.model)
    checked = samples[:MAX_CHECK_IMAGES]
    codes = host_codes(lowered.host, checked)
    progress("comparing the batch executor with each operator's own execution")
    own = check_against_nodes(model, executor, codes[:1], evidence)
    check = NodeCheck(lowered, executor, evidence)
    for i in range(len(checked)):
        progress(f"comparing every node with the QONNX model: image {i + 1} of {len(checked)}")
        image = checked[i : i + 1]
        check.add(image, reference.run(image, reference.activations()))
    nodes = check.results()
    progress("comparing the whole network with the QONNX model")
    logits = host_logits(lowered.host, executor.run(codes))
    expected = calibration[reference.output][:MAX_CHECK_IMAGES]
    network, figures = check_network(
        lowered, logits, expected, evidence,
        lambda: reference.run(with_flips(lowered.host, checked))[reference.output],
    )  # fmt: skip
    progress(f"folding for {board.name} at {clock_mhz:g} MHz")
    design = size(
        Sizing(executor, lowered.graph.shapes), sized_for(flow, board), clock_mhz, target_ms
    )
    mapped = specialize(model, board)
    apply_folding(design, mapped)
    proof = module = None
    if simulated:
        shapes, estimated = lowered.graph.shapes, design
        rtl = Network(Executor(mapped.model), shapes, estimated=design.fifos)
        proof = prove(
            rtl, codes, folder, evidence, progress,
            place=lambda fifos: estimated.with_fifos(fifos).fifo_styles(),
        )  # fmt: skip
        design = design.with_fifos(proof.fifos)
        apply_folding(design, mapped)
        # the same RTL, told where its memories are
        rtl = Network(Executor(mapped.model), shapes, estimated=design.fifos)
        rtl = rtl.placed(design.fifo_styles())
        module = rtl.module({tensor: found.depth for tensor, found in proof.fifos.items()})
        write_design(module, folder / RTL)
    progress("writing the hardware graph, its weights and its figures")
    mapped.save(str(folder / HARDWARE))
    write_host(lowered.host, folder / HOST)
    written = write_image(executor, lowered.graph.constant_types, folder)
    found = BuildDetail(design, lowered, mapped, proof)
    write_json(folder / LAYERS, found.layers)
    write_json(folder / RESOURCES, found.resources())
    agreements = (own, *summarize(nodes), *network, *(proof.agreements if proof else ()))
    write_json(
        folder / AGREEMENTS,
        {
            "summary": [a.to_json() for a in agreements],
            "network": figures,
            "nodes": [n.to_json() for n in nodes],
        },
    )
    scans = [n.to_json() for n in nodes if n.kind == "scan"]
    detail = found.to_json(written, figures, scans)
    if proof and flow == LEVELS:
        layouts = {tensor: rtl.layout(tensor, f.depth) for tensor, f in proof.fifos.items()}
        detail |= run_levels(
            rtl, layouts, lowered.graph.origins, design.clock_mhz, folder, progress
        )
    elif module is not None and flow != NO_FLOW:
        detail |= run_flow(flow, module, mapped, board, folder, evidence, detail, progress)
    return Built(agreements, detail)


def check_options(options: Mapping[str, Any]) -> tuple[Board, float, float | None]:
    """Return board, clock and latency target; raises :class:`UserError` for bad values."""
    # 0 and an empty name are given values, not absent ones
    board, clock = options.get("board"), options.get("clock_mhz")
    board = named_board(DEFAULT_BOARD if board is None else str(board))
    clock_mhz = _positive(DEFAULT_CLOCK_MHZ if clock is None else clock, "clock_mhz")
    if clock_mhz > 800:
        raise UserError(
            f"clock_mhz={clock_mhz:g}; these devices' DSPs end below 800, use 150 to 400"
        )
    target = options.get("target_ms")
    return board, clock_mhz, None if target is None else _positive(target, "target_ms")


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}={value!r}; give a positive number") from error
    if not np.isfinite(number) or number <= 0:
        raise UserError(f"{name}={value}; give a positive number")
    return number


def write_host(host: Host, path: Path) -> None:
    """Write what the host computes before and after the hardware as JSON."""
    content = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in dataclasses.asdict(host).items()
    }
    note = (
        "input: codes = clip(round half to even(image / input_scale), input_low, input_high), "
        "streamed (1, H, W, channels); output: logits = accumulators * output_scale[class] + "
        "output_bias[class]"
    )
    write_json(path, {"note": note, **content})


def read_host(path: Path) -> Host:
    """Return what :func:`write_host` wrote; raises :class:`UserError` where it is damaged."""

    try:
        content = read_json(path)
        del content["note"]
        for name in ("output_scale", "output_bias"):
            content[name] = np.array(content[name])
        for name in ("input_shape", "output_shape"):
            content[name] = tuple(content[name])
        return Host(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}); build the target again"
        ) from error
