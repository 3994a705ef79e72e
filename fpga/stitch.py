"""One module of a whole design: its nodes, and between them finite FIFOs and width converters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fpga.hardware import Port, RtlModule, instance
from fpga.hardware_ops import fifo, width_converter
from lmaunet.errors import UserError

SHALLOW = 2
"""Words of a FIFO whose depth nobody asked for: a register stage."""


@dataclass(frozen=True)
class NodeRtl:
    """A node's module, and the tensors at its streams in the order of its ports."""

    name: str
    module: RtlModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """A tensor from its producer's port to its one consumer's.

    ``producer`` and ``consumer`` are None at the borders of the design.
    """

    tensor: str
    producer: tuple[NodeRtl, Port] | None
    consumer: tuple[NodeRtl, Port] | None


def streams_of(nodes: Sequence[NodeRtl], source: str, sink: str) -> list[Stream]:
    """Return every stream of a design, its input and output among them.

    Raises:
        UserError: where a tensor has no producer, none or several consumers.
    """
    made = {t: (n, p) for n in nodes for t, p in zip(n.outputs, n.module.outputs, strict=True)}
    used: dict[str, list[tuple[NodeRtl, Port]]] = {}
    for node in nodes:
        for tensor, port in zip(node.inputs, node.module.inputs, strict=True):
            used.setdefault(tensor, []).append((node, port))
    for tensor, consumers in used.items():
        if tensor != source and tensor not in made:
            raise UserError(f"{consumers[0][0].name}: nothing makes its input {tensor}")
    found = []
    for tensor in dict.fromkeys([source, *made, *used]):
        consumers = used.get(tensor, [])
        if len(consumers) != (0 if tensor == sink else 1):
            raise UserError(
                f"stream {tensor} has {len(consumers)} consumers, expected "
                f"{0 if tensor == sink else 1}; DuplicateStreams divides one"
            )
        found.append(Stream(tensor, made.get(tensor), consumers[0] if consumers else None))
    return found


def stitch(
    name: str,
    nodes: Sequence[NodeRtl],
    source: str,
    sink: str,
    depths: Mapping[str, int],
) -> RtlModule:
    """Return a design as one module with the ports ``in0_V`` and ``out0_V``.

    Args:
        name: of the module.
        nodes: every node with its module.
        source, sink: the design's input and output tensor.
        depths: of the FIFO of each tensor, in beats of its producer; :data:`SHALLOW` where absent.

    Raises:
        UserError: where the streams do not fit together.
    """
    streams = streams_of(nodes, source, sink)
    signals: dict[tuple[str, str], str] = {}  # of each node's port
    wires: list[str] = []
    body: list[str] = []
    used: list[RtlModule] = []
    ports: dict[str, Port] = {}

    def declare(signal: str, port: Port) -> str:
        wires.append(
            f"    wire [{8 * port.bytes - 1}:0] {signal}_tdata;\n"
            f"    wire {signal}_tvalid, {signal}_tready;\n"
        )
        return signal

    def place(module: RtlModule, label: str, signal: Mapping[str, str]) -> None:
        used.append(module)
        body.append(instance(module, label, signal))

    for i, stream in enumerate(streams):
        front = stream.producer[1] if stream.producer else None
        back = stream.consumer[1] if stream.consumer else None
        first, last = front or back, back or front
        assert first is not None and last is not None
        if stream.producer is None:
            start = "in0_V"
            ports[start] = replace(first, name=start)
        else:
            start = declare(f"s{i}_from", first)
            signals[stream.producer[0].name, stream.producer[1].name] = start
        if stream.consumer is None:
            end = "out0_V"
            ports[end] = replace(last, name=end)
        else:
            end = declare(f"s{i}_to", last)
            signals[stream.consumer[0].name, stream.consumer[1].name] = end
        queue = fifo.hardware(first.bits, depths.get(stream.tensor, SHALLOW))
        if first.bits == last.bits:
            place(queue, f"fifo_{i}", {"in0_V": start, "out0_V": end})
        else:
            middle = declare(f"s{i}_held", first)
            place(queue, f"fifo_{i}", {"in0_V": start, "out0_V": middle})
            converter = width_converter.hardware(first.bits, last.bits)
            place(converter, f"convert_{i}", {"in0_V": middle, "out0_V": end})
    memories: dict[str, Sequence[str]] = {}
    for i, node in enumerate(nodes):
        own = _with_own_memories(node.module, f"n{i}")
        memories |= own.memories
        body.append(f"    // {node.name}\n")
        place(own, f"n{i}", {p.name: signals[node.name, p.name] for p in own.ports})
    sources = dict.fromkeys(source for module in used for source in module.sources)
    generated: dict[str, str] = {}
    for module in used:
        generated |= module.generated
    generated[f"{name}.sv"] = _text(name, ports, wires, body)
    return RtlModule(
        name, tuple(sources), {}, (ports["in0_V"],), (ports["out0_V"],), memories,
        generated=generated,
    )  # fmt: skip


def fifo_names(nodes: Sequence[NodeRtl], source: str, sink: str) -> dict[str, str]:
    """Return the instance name of each tensor's FIFO."""
    return {s.tensor: f"fifo_{i}" for i, s in enumerate(streams_of(nodes, source, sink))}


def _with_own_memories(module: RtlModule, prefix: str) -> RtlModule:
    """Return a module whose memory files are told apart from those of other nodes."""
    names = {name: f"{prefix}_{name}" for name in module.memories}
    return replace(
        module,
        parameters={
            k: names.get(v, v) if isinstance(v, str) else v for k, v in module.parameters.items()
        },
        memories={names[name]: words for name, words in module.memories.items()},
    )


def _text(name: str, ports: Mapping[str, Port], wires: list[str], body: list[str]) -> str:
    declared = []
    for port, (there, back) in (("in0_V", ("input ", "output")), ("out0_V", ("output", "input "))):
        declared += [
            f"    {there} wire [{8 * ports[port].bytes - 1}:0] {port}_tdata",
            f"    {there} wire {port}_tvalid",
            f"    {back} wire {port}_tready",
        ]
    head = ",\n".join(["    input  wire ap_clk", "    input  wire ap_rst_n", *declared])
    return (
        f"`default_nettype none\nmodule {name} (\n{head}\n);\n"
        + "".join(wires)
        + "".join(body)
        + "endmodule\n`default_nettype wire\n"
    )
