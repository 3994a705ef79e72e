"""What an operator's RTL is: a module, its sources, parameters, memories and streams.

An operator's ``hardware(attributes, constants)`` returns an :class:`RtlModule`. The simulation and
the generated IP instantiate it through the same :func:`wrapper`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmaunet.errors import UserError

RTL_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Port:
    """A stream of a module: ``name`` as in ``in0_V``, and the bits that a beat carries."""

    name: str
    bits: int

    @property
    def bytes(self) -> int:
        """Bytes of a beat: its bits rounded up."""
        return -(-self.bits // 8)


@dataclass(frozen=True)
class Wire:
    """A port of a module that belongs to no stream; ``output``: seen from the module."""

    name: str
    bits: int
    output: bool = False

    @property
    def declaration(self) -> str:
        """The port in Verilog."""
        wide = f" [{self.bits - 1}:0]" if self.bits > 1 else ""
        return f"{'output' if self.output else 'input '} wire{wide} {self.name}"


@dataclass(frozen=True)
class RtlModule:
    """A SystemVerilog module with everything that it needs.

    ``sources`` are file names in this folder, what they depend on included; ``generated`` maps
    the name of a file that is not there to its text, in the order in which tools must read them,
    after the sources. ``memories`` maps the name of a file that a parameter names to its words in
    hexadecimal, entry 0 first. A module whose
    number of streams is a parameter has vectors instead of numbered ports: ``bundled`` is ``in``
    or ``out`` where all inputs or outputs are bits and words of ``in_V`` or ``out_V``. ``wires``:
    its other ports, but for clock and reset.
    """

    name: str
    sources: tuple[str, ...]
    parameters: Mapping[str, int | str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    memories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bundled: str = ""
    generated: Mapping[str, str] = field(default_factory=dict)
    wires: tuple[Wire, ...] = ()

    @property
    def ports(self) -> tuple[Port, ...]:
        """All streams, inputs first."""
        return self.inputs + self.outputs


def verilog_literal(value: int | str) -> str:
    """Return a parameter's value in Verilog; integers above 32 bits get their size."""
    if isinstance(value, str):
        return f'"{value}"'
    value = int(value)
    if -(1 << 31) <= value < 1 << 31:
        return str(value)
    return f"{'-' if value < 0 else ''}{value.bit_length() + 1}'sd{abs(value)}"


def instance(
    module: RtlModule,
    name: str,
    signals: Mapping[str, str] | None = None,
    memory_folder: str = "",
) -> str:
    """Return the Verilog text that instantiates a module.

    Args:
        module: the module.
        name: the instance's name.
        signals: for each stream the prefix of the signals that it is connected to, and for each
            other port the signal; its own name where absent.
        memory_folder: where the memories' files will be, absolute, or empty for the folder that
            the tool runs in.
    """
    prefix = f"{memory_folder.rstrip('/')}/" if memory_folder else ""
    parameters = [
        f"    .{key}({verilog_literal(prefix + str(v) if v in module.memories else v)})"
        for key, v in module.parameters.items()
    ]
    connections = ["    .ap_clk(ap_clk)", "    .ap_rst_n(ap_rst_n)"]
    bundles = {"in": module.inputs, "out": module.outputs}
    bundle = bundles[module.bundled] if module.bundled else ()
    wires = ("tdata", "tvalid", "tready")

    def signal(port: Port, wire: str) -> str:
        return f"{(signals or {}).get(port.name, port.name)}_{wire}"

    for port in module.ports:
        if port not in bundle:
            connections += [f"    .{port.name}_{wire}({signal(port, wire)})" for wire in wires]
    if bundle:
        for wire in wires:
            parts = ", ".join(signal(port, wire) for port in reversed(bundle))
            connections.append(f"    .{module.bundled}_V_{wire}({{{parts}}})")
    connections += [
        f"    .{wire.name}({(signals or {}).get(wire.name, wire.name)})" for wire in module.wires
    ]
    head = f"{module.name} #(\n" + ",\n".join(parameters) + "\n) " if parameters else module.name
    return f"{head.rstrip()} {name} (\n" + ",\n".join(connections) + "\n);\n"


def wrapper(module: RtlModule, name: str, memory_folder: str = "") -> str:
    """Return a Verilog module without parameters around ``module``, its streams as the ports.

    The attributes tell Vivado's block designs which ports are one stream and what clocks them.
    """
    buses = ":".join(port.name for port in module.ports)
    ports = [
        f'    (* X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF {buses}, ASSOCIATED_RESET ap_rst_n" *)\n'
        '    (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 ap_clk CLK" *)\n'
        "    input  wire ap_clk",
        '    (* X_INTERFACE_PARAMETER = "POLARITY ACTIVE_LOW" *)\n    input  wire ap_rst_n',
    ]
    for port in module.ports:
        there, back = ("input ", "output") if port in module.inputs else ("output", "input ")
        ports += [
            f"    {there} wire [{8 * port.bytes - 1}:0] {port.name}_tdata",
            f"    {there} wire {port.name}_tvalid",
            f"    {back} wire {port.name}_tready",
        ]
    ports += [f"    {wire.declaration}" for wire in module.wires]
    body = instance(module, "core", memory_folder=memory_folder)
    return f"module {name} (\n" + ",\n".join(ports) + f"\n);\n{body}endmodule\n"


def write_memories(module: RtlModule, folder: Path) -> list[Path]:
    """Write the files that the module's ``$readmemh`` reads and return their paths."""
    paths = []
    for name, words in module.memories.items():
        path = folder / name
        path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
        paths.append(path)
    return paths


def write_sources(module: RtlModule, folder: Path, rtl: Path = RTL_FOLDER) -> list[Path]:
    """Write the module's sources into a folder and return their paths, in the order to read."""
    paths = [Path(shutil.copy(rtl / source, folder / source)) for source in module.sources]
    for name, text in module.generated.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def hex_words(values: np.ndarray | Sequence[int], bits: int) -> list[str]:
    """Return two's complement words of ``bits`` bits, each as hexadecimal digits.

    Raises:
        UserError: where a value does not fit; both signed and unsigned values may use all bits.
    """
    words = [int(v) for v in np.asarray(values, dtype=object).ravel()]
    for word in words:
        if not -(1 << (bits - 1)) <= word < 1 << bits:
            raise UserError(f"a memory's value {word} does not fit its {bits} bits")
    return [f"{word & ((1 << bits) - 1):0{-(-bits // 4)}x}" for word in words]


def lane_words(values: np.ndarray, bits: int) -> list[str]:
    """Return one word for each row of ``values`` ``(words, lanes)``, lane 0 in the low bits."""
    lanes = values.shape[1]
    single = [[int(w, 16) for w in hex_words(row, bits)] for row in values]
    joined = [sum(w << (bits * lane) for lane, w in enumerate(row)) for row in single]
    return hex_words(joined, bits * lanes)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return the beats of a stream, uint8 ``(beats, bytes)``, lane 0 in the low bits.

    Args:
        codes: integers ``(beats, lanes)``, two's complement in ``bits`` bits each.
        bits: of a lane.
    """
    beats, lanes = codes.shape
    words = np.ascontiguousarray(codes.astype("<i8")).view(np.uint8).reshape(beats, lanes, 8)
    if bits % 8 == 0:  # the common case, much faster
        return np.ascontiguousarray(words[:, :, : bits // 8]).reshape(beats, -1)
    single = np.unpackbits(words, axis=2, bitorder="little", count=bits)
    return np.packbits(single.reshape(beats, lanes * bits), axis=1, bitorder="little")


def unpack(beats: np.ndarray, bits: int, lanes: int, *, signed: bool = True) -> np.ndarray:
    """Return the int64 codes ``(beats, lanes)`` of a stream's beats; the reverse of :func:`pack`.

    Raises:
        UserError: where the beats are not as wide as the lanes.
    """
    if beats.ndim != 2 or beats.shape[1] != -(-bits * lanes // 8):
        raise UserError(
            f"beats of shape {beats.shape}; {lanes} lanes of {bits} bits are "
            f"{-(-bits * lanes // 8)} bytes a beat"
        )
    single = np.unpackbits(beats, axis=1, bitorder="little", count=bits * lanes)
    single = single.reshape(len(beats), lanes, bits)
    words = np.zeros((len(beats), lanes, 64), np.uint8)
    words[:, :, :bits] = single
    if signed:
        words[:, :, bits:] = single[:, :, -1:]
    packed = np.packbits(words.reshape(len(beats), -1), axis=1, bitorder="little")
    return packed.view("<i8").astype(np.int64)
