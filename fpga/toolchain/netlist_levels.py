"""How deep the logic of a netlist is, and how many loads its nets have: a bound, not a timing.

The netlist is the JSON that yosys writes for an AMD family (``synth_xilinx``, ``write_json``).
Nothing is placed, so that a delay is not known; what can be counted is the levels of LUTs between
two registers, the carry cells on the way, and the loads of a net. A design that exceeds
:class:`Limits` would need luck to keep its clock; one within them may still miss it.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, Literal

from lmaunet.errors import UserError

UNITS = 8
"""Of a level of LUTs. Costs are whole units, so that sums are exact."""
CARRY_UNITS = {"CARRY4": 1, "CARRY8": 2}
"""A level is 32 bits of a carry chain: *assumed*.

UG574, "Carry Logic": a chain is eight bits high in a CLB's slice, and dedicated connections cascade
it to the slice above.
"""
BLOCK_RAM_UNITS = 2 * UNITS
"""Of a block RAM whose output has no register: *assumed*, its read takes longer than a LUT's."""
FREE = ("INV", "BUF", "MUXF7", "MUXF8", "MUXF9")
"""Cells that take no level: an inversion goes into a LUT, a wide multiplexer is beside its LUTs."""

Role = Literal["enable", "reset", "data"]
ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("enable", re.compile(r"(FD|SRL|DSP|RAM|URAM|FIFO)\w*\.(CE\w*|WE\w*|EN\w*|REGCE\w*)")),
    ("reset", re.compile(r"(FD|DSP|RAM|URAM|FIFO)\w*\.(R|S|CLR|PRE|RST\w*)")),
)
CLOCK = re.compile(r"C|CLK|WCLK|CLK\w*|RDCLK|WRCLK")
READ_ADDRESS = re.compile(r"ADDR([A-H])|(DPRA?|A|RADR)\d*")


@dataclass(frozen=True)
class Limits:
    """What a design of a clock may have.

    ``clock_ns``: the period; 4 ns for 250 MHz. ``overhead_ns``: of a flip-flop's output and setup,
    the clock's skew and jitter. ``level_ns``: of a LUT with the net before it. Both are *assumed*:
    the delays of a LUT and a flip-flop are in AMD's data sheets (DS925 for Zynq UltraScale+), those
    of a net depend on the placement and are in none. ``enable_loads``, ``loads``: of a clock enable
    and of any other net but clocks and resets, *assumed*.
    """

    clock_ns: float = 4.0
    overhead_ns: float = 0.6
    level_ns: float = 0.55
    enable_loads: int = 256
    loads: int = 1024

    @property
    def levels(self) -> int:
        """Levels of logic between two registers; 6 at 250 MHz."""
        return math.floor((self.clock_ns - self.overhead_ns) / self.level_ns + 1e-9)

    def clock_mhz(self, levels: int) -> float:
        """Return the clock that so many levels suggest; 256 MHz for 6."""
        return 1000 / (self.overhead_ns + levels * self.level_ns)


@dataclass(frozen=True)
class Path:
    """The longest way to an end: ``luts`` and ``carries`` are cells on it.

    ``start`` and ``end``: a kind of cell with its port and net, as in ``FDRE.Q count[3]``; of a
    port of the module, ``port``. ``units``: :data:`UNITS` a level.
    """

    luts: int
    carries: int
    start: str
    end: str
    units: int

    @property
    def levels(self) -> int:
        """Levels of LUTs, carry chains and memories counted as such, rounded up."""
        return math.ceil(self.units / UNITS)


@dataclass(frozen=True)
class Net:
    """A net by the role that it has for its loads, and what drives it, a kind of cell."""

    name: str
    role: Role
    loads: int
    driver: str
    loaded: tuple[str, ...] = field(repr=False, default=())
    """The names of what its loads put out."""


@dataclass(frozen=True)
class _Arrival:
    units: int
    luts: int
    carries: int
    start: str


class Netlist:
    """A flat module of a netlist.

    Args:
        module: one of ``modules`` in yosys's JSON.
        name: for messages.

    Raises:
        UserError: where the netlist has a loop without a register.
    """

    def __init__(self, module: Mapping[str, Any], name: str = "netlist") -> None:
        self.name = name
        self.cells: Mapping[str, Mapping[str, Any]] = module["cells"]
        self._names = _net_names(module["netnames"])
        self._driver: dict[int, tuple[str, str, int]] = {}
        self._inputs: dict[int, str] = {}
        self._outputs: list[tuple[int, str]] = []
        for cell, found in self.cells.items():
            for port, bits in found["connections"].items():
                if found["port_directions"].get(port) == "output":
                    self._driver |= {b: (cell, port, i) for i, b in enumerate(bits) if _net(b)}
        for port, found in module.get("ports", {}).items():
            nets = [b for b in found["bits"] if _net(b)]
            if found["direction"] == "input":
                self._inputs |= dict.fromkeys(nets, port)
            else:
                self._outputs += [(b, port) for b in nets]
        self._arrivals: dict[int, _Arrival] = {}

    def paths(self, count: int = 10) -> list[Path]:
        """Return the longest path to each end, the longest of all first, of ``count`` ends."""
        found = []
        for net, end in self._ends():
            a = self._arrival(net)
            found.append(Path(a.luts, a.carries, a.start, end, a.units))
        return sorted(found, key=lambda p: (-p.units, -p.luts, p.end, p.start))[:count]

    def nets(self, role: Role | None = None) -> list[Net]:
        """Return the nets with their loads, those with most first; clocks are left out.

        A net with loads of several roles is there once for each.
        """
        loads: defaultdict[tuple[int, Role], list[str]] = defaultdict(list)
        for cell, found in self.cells.items():
            out = self._output_name(cell)
            for port, bits in self._input_ports(cell):
                if _is_register(found["type"]) and CLOCK.fullmatch(port):
                    continue
                for bit in bits:
                    if _net(bit):
                        loads[bit, _role(found["type"], port)].append(out)
        every = [
            Net(self._names.get(bit, str(bit)), kind, len(to), self._kind_of(bit), tuple(to))
            for (bit, kind), to in loads.items()
            if role in (None, kind)
        ]
        return sorted(every, key=lambda n: (-n.loads, n.name, n.role))

    def unregistered_dsps(self) -> list[str]:
        """Return the DSPs whose result has no register, which :meth:`paths` takes for one."""
        return [
            cell for cell, found in self.cells.items()
            if found["type"].startswith("DSP") and _parameter(found, "PREG", 1) == 0
        ]  # fmt: skip

    def _ends(self) -> Iterator[tuple[int, str]]:
        for cell, found in self.cells.items():
            if not _is_register(found["type"]):
                continue
            for port, bits in self._input_ports(cell):
                if CLOCK.fullmatch(port) or _reads(found["type"], port):
                    continue
                for bit in bits:
                    if _net(bit):
                        yield bit, f"{found['type']}.{port} {self._output_name(cell)}"
        yield from ((net, f"port {port}") for net, port in self._outputs)

    def _arrival(self, net: int) -> _Arrival:
        """Return the arrival at a net; each net once, without recursion."""
        known = self._arrivals
        waiting, entered = [net], set()
        while waiting:
            at = waiting[-1]
            if at in known:
                waiting.pop()
                continue
            before = list(self._before(at))
            missing = [source for source, _, _ in before if source not in known]
            if missing:
                if at in entered:
                    raise UserError(
                        f"{self.name}: a loop without a register at {self._names.get(at, at)}"
                    )
                entered.add(at)
                waiting += missing
                continue
            known[at] = self._combined(at, before)
            waiting.pop()
        return known[net]

    def _combined(self, net: int, before: list[tuple[int, int, str]]) -> _Arrival:
        best = self._start(net)
        for source, units, kind in before:
            a = self._arrivals[source]
            new = _Arrival(
                a.units + units, a.luts + (kind == "lut"), a.carries + (kind == "carry"), a.start
            )
            if best is None or (new.units, new.luts) > (best.units, best.luts):
                best = new
        return best or _Arrival(0, 0, 0, "constant")

    def _start(self, net: int) -> _Arrival | None:
        """Return the arrival at a register's or port's net, None behind logic."""
        if net not in self._driver:
            return _Arrival(0, 0, 0, f"port {self._inputs.get(net, self._names.get(net, net))}")
        cell, port, _ = self._driver[net]
        found = self.cells[cell]
        if not _is_register(found["type"]):
            return None
        units = BLOCK_RAM_UNITS if _unregistered_ram(found, port) else 0
        return _Arrival(units, 0, 0, f"{found['type']}.{port} {self._names.get(net, net)}")

    def _before(self, net: int) -> Iterator[tuple[int, int, str]]:
        """Yield the nets that a net follows without a register: with units and kind of the cell."""
        if net not in self._driver:
            return
        cell, out, place = self._driver[net]
        kind = self.cells[cell]["type"]
        for port, bits in self._input_ports(cell):
            for index, bit in enumerate(bits):
                if not _net(bit):
                    continue
                if kind in CARRY_UNITS:
                    # S and DI of a place reach its sum and what is above; DI not its own sum
                    indexed = port in ("S", "DI")
                    if indexed and index + ((port, out) == ("DI", "O")) > place:
                        continue
                    yield bit, CARRY_UNITS[kind], "carry"
                elif kind in FREE:
                    yield bit, 0, "free"
                elif kind.startswith("LUT") or (_is_register(kind) and _reads(kind, port, out)):
                    yield bit, UNITS, "lut"
                elif not _is_register(kind):
                    raise UserError(f"{self.name}: cells {kind}: it is not known what they are")

    def _input_ports(self, cell: str) -> Iterator[tuple[str, list[Any]]]:
        found = self.cells[cell]
        for port, bits in found["connections"].items():
            if found["port_directions"].get(port) == "input":
                yield port, bits

    def _output_name(self, cell: str) -> str:
        found = self.cells[cell]
        for port, bits in found["connections"].items():
            if found["port_directions"].get(port) == "output":
                for bit in bits:
                    if _net(bit):
                        return self._names.get(bit, str(bit))
        return cell

    def _kind_of(self, net: int) -> str:
        return self.cells[self._driver[net][0]]["type"] if net in self._driver else "port"


def read_netlist(path: File, top: str | None = None) -> Netlist:
    """Return a module of a file that yosys wrote.

    Args:
        path: the file.
        top: the module's name; the only one that is not a cell of the library if None.

    Raises:
        UserError: where there is no such module, or several.
    """
    modules = json.loads(path.read_text(encoding="utf-8"))["modules"]
    own = [
        name for name, module in modules.items()
        if not {"blackbox", "whitebox"} & set(module.get("attributes", {}))
        and top in (None, name)
    ]  # fmt: skip
    if len(own) != 1:
        raise UserError(f"{path}: {len(own)} modules {', '.join(own)}, expected one")
    return Netlist(modules[own[0]], own[0])


@dataclass(frozen=True)
class Measured:
    """What of a netlist bounds its clock: its longest path, and its largest enable and net.

    Net names are empty where there is none; ``unregistered_dsps``: how many.
    """

    levels: int
    luts: int
    carries: int
    start: str
    end: str
    enable: str
    enable_loads: int
    net: str
    loads: int
    unregistered_dsps: int

    def exceeded(self, limits: Limits) -> list[str]:
        """Return a line for each limit that is exceeded, with the worst that does."""
        found = []
        if self.levels > limits.levels:
            found.append(
                f"{self.levels} levels ({self.luts} LUTs, {self.carries} carry cells) from "
                f"{self.start} to {self.end}, at most {limits.levels}"
            )
        for role, name, loads, most in (
            ("enable", self.enable, self.enable_loads, limits.enable_loads),
            ("data", self.net, self.loads, limits.loads),
        ):
            if loads > most:
                found.append(f"{name} ({role}) has {loads} loads, at most {most}")
        if self.unregistered_dsps:
            found.append(f"{self.unregistered_dsps} DSPs without a register of their result")
        return found


def measure(netlist: Netlist) -> Measured:
    """Return what of a netlist bounds its clock."""
    path = next(iter(netlist.paths(1)), Path(0, 0, "", "", 0))
    enable, data = (
        next(iter(netlist.nets(role)), Net("", role, 0, "")) for role in ("enable", "data")
    )
    return Measured(
        path.levels, path.luts, path.carries, path.start, path.end,
        enable.name, enable.loads, data.name, data.loads, len(netlist.unregistered_dsps()),
    )  # fmt: skip


def exceeded(netlist: Netlist, limits: Limits) -> list[str]:
    """Return a line with the module's name for each limit that a netlist exceeds."""
    return [f"{netlist.name}: {line}" for line in measure(netlist).exceeded(limits)]


def _net(bit: Any) -> bool:
    return isinstance(bit, int)


def _net_names(netnames: Mapping[str, Any]) -> dict[int, str]:
    """Return each net's name: one that the source gave if there is one, the shortest."""
    found: dict[int, tuple[bool, int, str]] = {}
    for name, net in netnames.items():
        for i, bit in enumerate(net["bits"]):
            full = f"{name}[{i}]" if len(net["bits"]) > 1 else name
            key = (bool(net.get("hide_name")), len(full), full)
            if _net(bit) and (bit not in found or key < found[bit]):
                found[bit] = key
    return {bit: name for bit, (_, _, name) in found.items()}


def _is_register(kind: str) -> bool:
    """Tell whether a cell holds something: flip-flops, DSPs and memories."""
    return kind.startswith(("FD", "LD", "SRL", "DSP", "RAM", "URAM", "FIFO"))


def _reads(kind: str, port: str, out: str | None = None) -> bool:
    """Tell whether a port of a memory of LUTs is an address whose word an output shows at once."""
    if not re.match(r"RAM\d", kind):
        return False
    matched = READ_ADDRESS.fullmatch(port)
    if not matched:
        return False
    return out is None or matched[1] is None or out == f"DO{matched[1]}"


def _role(kind: str, port: str) -> Role:
    return next((role for role, form in ROLES if form.fullmatch(f"{kind}.{port}")), "data")


def _parameter(cell: Mapping[str, Any], name: str, default: int) -> int:
    value = cell.get("parameters", {}).get(name, default)
    return int(value, 2) if isinstance(value, str) else int(value)


def _unregistered_ram(cell: Mapping[str, Any], port: str) -> bool:
    if not cell["type"].startswith("RAMB"):
        return False
    name = "DOB_REG" if "B" in port.removeprefix("DO") else "DOA_REG"
    return _parameter(cell, name, 0) == 0
