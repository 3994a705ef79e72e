"""``build --target fpga``, in named steps: from a QONNX file to a sized hardware graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.reference import evidence_folder
from fpga.agreement import (
    NodeCheck,
    check_against_nodes,
    check_network,
    host_codes,
    host_logits,
    summarize,
)
from fpga.assemble import assemble, specialize
from fpga.boards import DEFAULT_BOARD, Board, named_board
from fpga.design import DEFAULT_CLOCK_MHZ, NAMES, Design, Sizing, apply_folding, size
from fpga.executor import Executor
from fpga.hardware_ops import registry
from fpga.lowering.walk import Host, Lowered, lower
from fpga.network_rtl import Network
from fpga.placement import SHELL_FF, SHELL_LUT, Placed
from fpga.proof import Proof, prove
from fpga.reference import Reference
from fpga.simulation import compiler_place, verilator_place
from fpga.weights import write_image
from lmaunet.artifacts import Agreement
from lmaunet.errors import UserError
from lmaunet.stage import read_json, write_json

MAX_CHECK_IMAGES = 4
NO_RTL, OWN_RTL = "no RTL yet", "RTL of our own"
OWN_OPERATORS = ("Requantize", "TableActivation", "SelectiveScan", "PadWithCode")
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
            ``simulate``: whether the whole design's RTL is simulated too.
        progress: called with a line on what is being done.

    Raises:
        UserError: for a network that cannot be mapped or does not fit, or bad options.
        Disagreement: where the hardware graph differs from the QONNX model, or its RTL from it.
        ToolNotFound: without FINN+; to simulate, without Verilator or a C++ compiler.
    """
    simulated = bool(options.get("simulate"))
    if simulated:
        # before the minutes of work that come first
        verilator_place()
        compiler_place()
    board, clock_mhz, target_ms = check_options(options)
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
    network, figures = check_network(lowered, logits, expected, evidence)
    progress(f"folding for {board.name} at {clock_mhz:g} MHz")
    design = size(Sizing(executor, lowered.graph.shapes), board, clock_mhz, target_ms)
    mapped = specialize(model, board)
    apply_folding(design, mapped)
    proof = None
    if simulated:
        rtl = Network(Executor(mapped.model), lowered.graph.shapes)
        proof = prove(rtl, codes, folder, evidence, progress)
        design = design.with_fifos(proof.fifos)
        apply_folding(design, mapped)
    progress("writing the hardware graph, its weights and its figures")
    mapped.save(str(folder / HARDWARE))
    write_host(lowered.host, folder / HOST)
    written = write_image(executor, lowered.graph.constant_types, folder)
    layers = _layers(design, lowered, mapped)
    write_json(folder / LAYERS, layers)
    write_json(folder / RESOURCES, _resources(design))
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
    detail = _detail(design, layers, written, figures, scans, mapped)
    return Built(agreements, detail | (_simulated(proof, clock_mhz) if proof else {}))


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


def _layers(design: Design, lowered: Lowered, mapped: Any) -> list[dict[str, Any]]:
    """Return a row for each node: what it is, where it comes from, its folding and figures."""
    names = {node.output[0]: node for node in mapped.graph.node}
    rows = []
    for folded in design.nodes:
        node, placed = names[folded.name], design.placed[folded.name]
        folding = {
            key: folded.attributes[key]
            for key in ("PE", "SIMD", "PD", "PN", "parallel_window")
            if key in folded.attributes
        }
        rows.append(
            {
                "name": node.name,
                "op": folded.op_type,
                "backend": node.domain.rsplit(".", 1)[1],
                "hardware": _hardware(folded.op_type, node.domain),
                "origin": lowered.graph.origins[folded.name],
                "shape": list(lowered.graph.shapes[folded.name]),
                "folding": folding,
                "cycles": folded.cycles(),
                **dataclasses.asdict(placed),
                "provenance": "estimated",
            }
        )
    return rows


def _hardware(op_type: str, domain: str) -> str:
    """Return what the node can be built from."""
    if op_type in OWN_OPERATORS:
        return OWN_RTL if op_type in registry.HARDWARE else NO_RTL
    if domain.endswith(".rtl"):
        return "RTL of FINN+"
    if op_type in registry.HARDWARE:
        return f"{OWN_RTL}, in place of HLS"
    return "HLS of FINN+, needs Vitis"


def _resources(design: Design) -> dict[str, Any]:
    def of(placed: Placed) -> dict[str, float]:
        return dataclasses.asdict(placed)

    board, inside = design.board, {node.name for node in design.nodes}
    return {
        "provenance": "estimated",
        "board": dataclasses.asdict(board),
        "usable": board.limits,
        "total": of(design.total),
        "share_of_board": {
            name: getattr(design.total, name) / getattr(board, name)
            if getattr(board, name)
            else 0.0
            for name in NAMES
        },
        "shell_lut": SHELL_LUT,
        "shell_ff": SHELL_FF,
        "between_nodes": {n: of(p) for n, p in design.placed.items() if n not in inside},
    }


def _simulated(proof: Proof, clock_mhz: float) -> dict[str, Any]:
    """Return what a simulation puts in the place of the estimates."""
    latency, interval = proof.tight.latency, max(proof.tight.intervals)
    return {
        "latency_cycles": latency,
        "interval_cycles": interval,
        "latency_ms": latency / clock_mhz / 1000,
        "interval_ms": interval / clock_mhz / 1000,
        "latency_ms_provenance": "simulated",
        "interval_ms_provenance": "simulated",
        "simulation": {k: v for k, v in proof.to_json().items() if k != "fifos"},
    }


def _detail(
    design: Design,
    layers: list[dict[str, Any]],
    image: Mapping[str, int],
    figures: Mapping[str, float],
    scans: list[dict[str, Any]],
    mapped: Any,
) -> dict[str, Any]:
    """Return what the report shows of a build, in plain JSON."""
    slowest = sorted(layers, key=lambda row: -row["cycles"])[:10]
    own = sorted({row["op"] for row in layers if row["hardware"] == NO_RTL})
    backends = {b: sum(row["backend"] == b for row in layers) for b in ("rtl", "hls")}
    return {
        "board": design.board.name,
        "part": design.board.part,
        "clock_mhz": design.clock_mhz,
        "clock_status": "the clock is an assumption; nothing was placed or timed",
        "interval_cycles": design.schedule.interval,
        "latency_cycles": round(design.schedule.latency),
        "interval_ms": design.interval_ms,
        "latency_ms": design.latency_ms,
        "resources": {
            name: {"used": used, "available": getattr(design.board, name)}
            for name, used in dataclasses.asdict(design.total).items()
        },
        "resources_provenance": "estimated",
        "fits": not design.total.excess(design.board),
        "usable": design.board.limits,
        "nodes": len(layers),
        "unmapped_nodes": sum(
            node.domain.rsplit(".", 1)[-1] not in ("rtl", "hls") for node in mapped.graph.node
        ),
        "backends": backends,
        "without_rtl": own,
        "without_rtl_note": (
            f"operators of our own whose RTL is not written: {', '.join(own) or 'none'}"
        ),
        "slowest": slowest,
        "slowest_provenance": "estimated",
        "scans": scans,
        "network": dict(figures),
        "image_bytes": image["image"],
        "weights_bytes": image["weights"],
        "size_note": (
            "size_mb is weights.bin: all weights, multipliers, tables and scan constants at their "
            "bit-widths, which is what the on-chip memories hold; a bitstream needs Vivado"
        ),
    }
