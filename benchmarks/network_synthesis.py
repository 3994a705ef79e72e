"""Counts of every module of a design by yosys, beside our estimate and FINN+'s own.

A design holds many nodes of the same module with the same parameters; each is synthesised once,
whatever its memories hold, and what was synthesised is kept in a folder, so that an interrupted run
goes on where it was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthesis import Synthesised, synthesize_all

from lmaunet.errors import UserError
from lmaunet.fpga.build import HARDWARE
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.onnx_file import load
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.toolchain import design_parts
from lmaunet.fpga.toolchain.design_parts import digest
from lmaunet.fpga.toolchain.registration import load_operators
from lmaunet.fpga.toolchain.yosys import for_dsp48e1
from lmaunet.stage import read_json, write_json

COUNTS = ("lut", "lut_memory", "ff", "dsp", "bram18", "uram")
NO_ESTIMATE: dict[str, int | None] = dict.fromkeys(("lut", "dsp", "bram18", "uram"))


@dataclass(frozen=True)
class Part(design_parts.Part):
    """A part of a design with what FINN+ estimates of it.

    ``finn`` has the names of :data:`COUNTS`, None for what FINN+ has no estimate of.
    """

    finn: Mapping[str, int | None] = field(default_factory=NO_ESTIMATE.copy)


def load_network(folder: Path) -> tuple[Any, Network]:
    """Return the hardware graph of a build, a qonnx ModelWrapper, and its RTL.

    Raises:
        UserError: where the folder holds no build for the FPGA target.
        ToolNotFound: without FINN+.
    """
    load_operators()
    from qonnx.core.modelwrapper import ModelWrapper

    executor = Executor(load(folder / HARDWARE))
    model = ModelWrapper(str(folder / HARDWARE))
    streamed = {t for step in executor.steps for t in (*step.inputs, *step.outputs)}
    shapes = {t: tuple(model.get_tensor_shape(t)) for t in streamed - set(executor.constants)}
    return model, Network(executor, shapes)


def parts_of(
    network: Network, model: Any, part: str, fifos: Mapping[str, fifo.Layout] | None
) -> list[Part]:
    """Return every part of a network with FINN+'s estimate; see :func:`design_parts.parts_of`.

    Args:
        network: of the folded graph.
        model: the same graph, a qonnx ModelWrapper.
        part: the device that FINN+ estimates for.
        fifos: how they are built, by their tensor, a register where absent. If None, those of joins
            are unknown and left out.
    """
    own = {node.output[0]: node for node in model.graph.node}
    found = []
    for number, each in enumerate(design_parts.parts_of(network, fifos)):
        # the nodes come first, in their order
        finn = (
            finn_estimate(own[network.nodes[number].outputs[0]], part)
            if number < len(network.nodes)
            else NO_ESTIMATE
        )
        found.append(Part(each.name, each.operator, each.module, each.estimated, finn))
    return found


def finn_estimate(node: Any, part: str) -> dict[str, int | None]:
    """Return what FINN+ itself estimates of a node; None where it has none (it calls that 0).

    An operator of our own has none, and neither does one that inherits HWCustomOp's zeros.
    """
    from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
    from qonnx.custom_op.registry import getCustomOp

    operator = getCustomOp(node)
    found = dict(NO_ESTIMATE)
    for count, method in (("lut", "lut_estimation"), ("dsp", "dsp_estimation"),
                          ("bram18", "bram_estimation"), ("uram", "uram_estimation")):  # fmt: skip
        function = getattr(type(operator), method)
        if function is not getattr(HWCustomOp, method) and function.__module__.startswith("finn."):
            found[count] = int(getattr(operator, method)(part))
    return found


Synthesis = Callable[[Sequence[RtlModule], str], list[Synthesised]]


class Synthesiser:
    """Synthesises modules and keeps the counts in a folder, by :func:`digest`.

    Args:
        folder: where they are kept.
        synthesis: returns the counts of some modules on a family.
        progress: called with a line for every run of yosys.
    """

    def __init__(
        self,
        folder: Path,
        synthesis: Synthesis = synthesize_all,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.synthesis, self.progress = folder, synthesis, progress
        folder.mkdir(parents=True, exist_ok=True)

    def known(self, module: RtlModule, family: str) -> Synthesised | None:
        """Return a module's counts if they are in the folder.

        Raises:
            UserError: where their file is damaged.
        """
        path = self._path(module, family)
        if not path.exists():
            return None
        try:
            return Synthesised.of(read_json(path)["cells"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); delete it") from error

    def knows(self, module: RtlModule) -> bool:
        """Tell whether all that :meth:`filled` needs is in the folder."""
        found = self.known(module, "xcup")
        if found is None or not found.dsp:
            return found is not None
        return self.known(for_dsp48e1(module), "xc7") is not None

    def run(self, modules: Sequence[RtlModule], family: str) -> None:
        """Synthesise those of some modules that are not in the folder, in one run of yosys."""
        left = [module for module in modules if self.known(module, family) is None]
        if not left:
            return
        start = time.monotonic()
        for module, found in zip(left, self.synthesis(left, family), strict=True):
            write_json(
                self._path(module, family),
                {"module": module.name, "family": family, "parameters": dict(module.parameters),
                 "cells": dict(found.cells)},
            )  # fmt: skip
        names = ", ".join(f"{n} {name}" for name, n in Counter(m.name for m in left).items())
        self.progress(f"{family}: {names}, {time.monotonic() - start:.0f} s")

    def filled(self, module: RtlModule) -> tuple[Synthesised, Synthesised]:
        """Return what a module takes on UltraScale+ with filled DSPs, and as yosys leaves them.

        The first has the DSPs and memories of UltraScale+, and the LUTs and flip-flops of the 7
        series; see :mod:`synthesis`.
        """
        left = self.counts(module, "xcup")
        if not left.dsp:
            return left, left
        other = self.counts(for_dsp48e1(module), "xc7")
        return replace(left, lut=other.lut, lut_memory=other.lut_memory, ff=other.ff), left

    def counts(self, module: RtlModule, family: str) -> Synthesised:
        """Return a module's counts, from the folder if they are there."""
        self.run([module], family)
        found = self.known(module, family)
        assert found is not None
        return found

    def _path(self, module: RtlModule, family: str) -> Path:
        return self.folder / f"{digest(module, family)}.json"


def distinct(parts: Iterable[Part]) -> dict[str, list[Part]]:
    """Return the parts of each module that is to be synthesised once, by its digest."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(digest(part.module, "xcup"), []).append(part)
    return found


def divide(
    parts: Iterable[Part], synthesiser: Synthesiser
) -> tuple[list[Part], list[Part]]:  # fmt: skip
    """Return the parts whose counts are in the synthesiser's folder, and the others."""
    known: list[Part] = []
    other: list[Part] = []
    for part in parts:
        (known if synthesiser.knows(part.module) else other).append(part)
    return known, other


def left_out(parts: Sequence[Part]) -> dict[str, Any]:
    """Return what is said of parts that were not synthesised: how many, and our estimate."""
    placed = [part.placed for part in parts]
    return {
        "rows": dict(sorted(Counter(part.operator for part in parts).items())),
        "estimated": {
            "lut": sum(p.lut for p in placed), "ff": sum(p.ff for p in placed),
            "dsp": sum(p.dsp for p in placed), "bram18": round(sum(2 * p.bram36 for p in placed)),
            "uram": sum(p.uram for p in placed),
        },
    }  # fmt: skip


def synthesize_parts(
    parts: Iterable[Part], synthesiser: Synthesiser, batch: int = 20, batch_lut: int = 5000
) -> None:
    """Synthesise every module of a design that is not in the folder yet, small ones first.

    Args:
        parts: of the design.
        synthesiser: for UltraScale+; and for the 7 series what has DSPs.
        batch, batch_lut: how many modules, of how many estimated LUTs in all, go into a run of
            yosys at most; a larger module has one of its own.
    """
    modules = [same[0] for same in distinct(parts).values()]
    waiting: list[RtlModule] = []
    luts = 0
    for part in sorted(modules, key=_estimated_lut):
        if waiting and (len(waiting) == batch or luts + _estimated_lut(part) > batch_lut):
            _run(waiting, synthesiser)
            waiting, luts = [], 0
        waiting.append(part.module)
        luts += _estimated_lut(part)
    _run(waiting, synthesiser)


def _estimated_lut(part: Part) -> int:
    distributed = sum(m.lutram for m in part.estimated.memories if m.distributed)
    return part.estimated.lut + distributed


def _run(modules: Sequence[RtlModule], synthesiser: Synthesiser) -> None:
    synthesiser.run(modules, "xcup")
    with_dsps = [m for m in modules if synthesiser.counts(m, "xcup").dsp]
    synthesiser.run([for_dsp48e1(m) for m in with_dsps], "xc7")


def rows_of(parts: Sequence[Part], synthesiser: Synthesiser) -> list[dict[str, Any]]:
    """Return a row for each part: what yosys counts, what we estimate, what FINN+ estimates.

    ``yosys`` has its LUTs and flip-flops with filled DSPs, ``yosys_unfilled`` as they are counted
    for UltraScale+; ``module`` is equal in parts that were synthesised once.
    """
    rows = []
    for part in parts:
        filled, left = synthesiser.filled(part.module)
        own = part.placed
        rows.append(
            {
                "name": part.name,
                "operator": part.operator,
                "module": digest(part.module, "xcup")[:12],
                "yosys": {count: getattr(filled, count) for count in COUNTS},
                "yosys_unfilled": {"lut": left.lut, "ff": left.ff},
                "estimated": {
                    "lut": own.lut, "ff": own.ff, "dsp": own.dsp, "bram18": round(2 * own.bram36),
                    "uram": own.uram,
                },
                "finn": dict(part.finn),
            }
        )  # fmt: skip
    return rows


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of rows; of FINN+ ``None`` where it has no estimate of any of them.

    ``finn_rows`` counts the rows that FINN+ has an estimate of, by resource.
    """
    finn, covered = {}, {}
    for count in NO_ESTIMATE:
        known = [row["finn"][count] for row in rows if row["finn"][count] is not None]
        finn[count], covered[count] = (sum(known) if known else None), len(known)
    return {
        "rows": len(rows),
        "modules": len({row["module"] for row in rows}),
        **{
            kind: {count: sum(row[kind][count] for row in rows) for count in rows[0][kind]}
            for kind in ("yosys", "yosys_unfilled", "estimated")
        },
        "finn": finn,
        "finn_rows": covered,
    }


def by_operator(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sums of each operator, by its name."""
    names = sorted({row["operator"] for row in rows})
    return {name: summarize([row for row in rows if row["operator"] == name]) for name in names}


def markdown(operators: Mapping[str, Mapping[str, Any]], total: Mapping[str, Any]) -> str:
    """Return the operators and their sum as a table: yosys / our estimate / FINN+'s."""
    head = ("Operator", "Rows, modules", "LUT", "FF", "DSP", "BRAM18", "URAM")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, sums in [*operators.items(), ("sum", total)]:
        cells = [name, f"{sums['rows']}, {sums['modules']}"]
        for count in ("lut", "ff", "dsp", "bram18", "uram"):
            found = [sums["yosys"][count], sums["estimated"][count]]
            if count in sums["finn"]:
                finn = sums["finn"][count]
                found.append("none" if finn is None else finn)
            cells.append(" / ".join(map(str, found)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
